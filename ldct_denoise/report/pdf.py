"""Summary of an evaluation as one PDF page."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldct_denoise.output import atomic_write
from ldct_denoise.report.evaluation import sentences
from ldct_denoise.report.page import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ldct_denoise.evaluation.results import Evaluation

A4_INCHES = (8.27, 11.69)
WORD_LINES = 20
#: Heights are fractions of the page.
PICTURE_HEIGHT = 0.2
TABLE_POINTS, TABLE_WIDTH_POINTS = 6.5, 512.0
TABLE_LINE_HEIGHT = 0.0098
TABLE_BOTTOM = 0.05


def write_summary_pdf(evaluation: Evaluation, path: Path, title: str = "Image quality report") -> None:
    """Write one A4 page: the summary in words, a slice of each image, and the table of means.

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        Replaced atomically.
    title : str
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=A4_INCHES)
    figure.text(0.07, 0.955, title, fontsize=16, weight="bold")
    figure.text(
        0.07, 0.935, "Research use only: not a medical device, not for diagnosis.", fontsize=9, color="darkred"
    )
    words = figure.text(0.07, 0.92, "\n".join(_words(evaluation)), fontsize=8.5, va="top", linespacing=1.4)
    bottom = words.get_window_extent().y0 / figure.bbox.height - 0.03 - PICTURE_HEIGHT
    _pictures(figure, evaluation, bottom)
    _table(figure, evaluation.lines(), bottom - 0.02)
    figure.text(0.07, 0.03, versions(), fontsize=7)
    atomic_write(path, lambda part: figure.savefig(part, format="pdf"))


def _words(evaluation: Evaluation) -> list[str]:
    """Lines of the summary and the notes; those that do not fit are counted."""
    texts = [*sentences(evaluation), *evaluation.notes]
    lines: list[str] = []
    for number, text in enumerate(texts):
        wrapped = textwrap.wrap(text, 108, subsequent_indent="   ")
        if len(lines) + len(wrapped) > WORD_LINES:
            return [*lines, f"… {len(texts) - number} more in summary.json"]
        lines += wrapped
    return lines


def _table(figure: Figure, lines: list[str], top: float) -> None:
    """As many lines as the page holds, in a font size that fits its width."""
    most = int((top - TABLE_BOTTOM) / TABLE_LINE_HEIGHT) - 1
    shown = lines[:most]
    if len(lines) > most:
        shown.append(f"… {len(lines) - most} more lines in summary.json")
    # A character of the monospaced font is 0.6 times as wide as the font size.
    size = min(TABLE_POINTS, TABLE_WIDTH_POINTS / (0.61 * max(len(line) for line in shown)))
    figure.text(0.07, top, "\n".join(shown), fontsize=size, va="top", family="monospace", linespacing=1.25)


def _pictures(figure: Figure, evaluation: Evaluation, bottom: float) -> None:
    """Middle slice of the first series in the last window, at most five images."""
    if not evaluation.cases or not evaluation.cases[0].indices:
        return
    case = evaluation.cases[0]
    sample = case.sample(case.indices[len(case.indices) // 2])
    images = {**dict(list(sample.images.items())[:4]), "reference": sample.reference}
    window = evaluation.windows[-1]
    width = 0.86 / len(images)
    for number, (name, hu) in enumerate(images.items()):
        axis = figure.add_axes((0.07 + number * width, bottom, width * 0.97, PICTURE_HEIGHT))
        axis.imshow(np.asarray(hu), cmap="gray", vmin=window.low_hu, vmax=window.high_hu)
        axis.set_title(name, fontsize=8)
        axis.set_axis_off()
