"""The summary as one PDF page, for the file."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldct_denoise.output import write_whole
from ldct_denoise.report.evaluation import sentences
from ldct_denoise.report.page import versions

if TYPE_CHECKING:
    from ldct_denoise.evaluate import Evaluation

A4_INCHES = (8.27, 11.69)
MAX_LINES = 44


def write_summary_pdf(evaluation: Evaluation, path: Path, title: str = "Image quality report") -> None:
    """Write one A4 page: the summary in words, a slice of each image, the table of means.

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        Replaced, whole or not at all.
    title : str
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=A4_INCHES)
    figure.text(0.07, 0.955, title, fontsize=16, weight="bold")
    figure.text(
        0.07, 0.935, "Research use only: not a medical device, not for diagnosis.", fontsize=9, color="darkred"
    )
    said = [*sentences(evaluation), *evaluation.notes]
    words = "\n".join(line for text in said for line in textwrap.wrap(text, 108, subsequent_indent="   "))
    figure.text(0.07, 0.92, words, fontsize=8.5, va="top", linespacing=1.4)
    _pictures(figure, evaluation)
    lines = evaluation.lines()
    shown = lines[:MAX_LINES]
    if len(lines) > len(shown):
        shown.append(f"… {len(lines) - len(shown)} more lines in summary.json")
    figure.text(0.07, 0.55, "\n".join(shown), fontsize=6.5, va="top", family="monospace", linespacing=1.25)
    figure.text(0.07, 0.03, versions(), fontsize=7)
    write_whole(path, lambda part: figure.savefig(part, format="pdf"))


def _pictures(figure: object, evaluation: Evaluation) -> None:
    """The middle slice of the first series, at most five images, in the last window."""
    if not evaluation.cases or not evaluation.cases[0].indices:
        return
    case = evaluation.cases[0]
    place = case.place(case.indices[len(case.indices) // 2])
    images = {**dict(list(place.images.items())[:4]), "reference": place.reference}
    window = evaluation.windows[-1]
    width = 0.86 / len(images)
    for number, (name, hu) in enumerate(images.items()):
        axis = figure.add_axes((0.07 + number * width, 0.57, width * 0.97, 0.2))  # type: ignore[attr-defined]
        axis.imshow(np.asarray(hu), cmap="gray", vmin=window.low_hu, vmax=window.high_hu)
        axis.set_title(name, fontsize=8)
        axis.set_axis_off()
