"""Evidence sheet of a scanned phantom as a PDF: one page to look at, then the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ldct_denoise.evaluation.phantom_scan import PhantomStudy
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.metrics.checks import Check
from ldct_denoise.report.identity import Identity
from ldct_denoise.report.pdf_page import (
    A4_INCHES,
    BOTTOM,
    CHART_SPACE,
    GAP,
    LEFT,
    WIDTH,
    PdfChart,
    PdfPage,
    draw_charts,
    finished_figures,
    first_page,
    number_pages,
)
from ldct_denoise.report.phantom_scan_tables import (
    d_prime_by_dose,
    dose_label,
    image_styles,
    noise_by_dose,
    noise_spectra,
    phantom_tables,
    table_lines,
    transfer_curves,
)
from ldct_denoise.report.pictures import crop_box

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Modules of which a slice is shown.
MODULES = ("uniform", "inserts", "low contrast")
MIN_HEIGHT, MAX_HEIGHT, TITLE_HEIGHT = 0.1, 0.22, 0.02


def sheet_figures(
    study: PhantomStudy, identity: Identity, answer: str, checks: Sequence[Check], sentences: Sequence[str]
) -> list[Figure]:
    """The pages of the PDF as A4 figures.

    Parameters
    ----------
    study : PhantomStudy
    identity : Identity
    answer : str
        First paragraph.
    checks : sequence of Check
    sentences : sequence of str
        Summary in words.

    Returns
    -------
    list of matplotlib.figure.Figure
    """
    page = first_page(identity, answer, checks)
    _draw_pictures(page, study)
    pages = [page]
    charts = [PdfChart("noise power spectrum, HU²·mm²", "frequency, 1/mm", noise_spectra(study))]
    if transfers := transfer_curves(study):
        title = f"task transfer function, {dose_label(study, 0)}"
        charts.append(PdfChart(title, "frequency, 1/mm", transfers, log_y=False))
    second = []
    if not study.no_equivalence:
        label = f"dose, {study.dose_unit}"
        second = [
            PdfChart("noise, HU", label, noise_by_dose(study), log_y=False),
            PdfChart("d′", label, d_prime_by_dose(study), log_y=False),
        ]
    for row in filter(None, (charts, second)):
        if pages[-1].top - CHART_SPACE < BOTTOM:
            pages.append(PdfPage())
        draw_charts(pages[-1], row, {name: s for one in row for name, s in image_styles(one.curves).items()})
    last = pages.pop() if len(pages) > 1 else None
    pages += number_pages(sentences, table_lines(phantom_tables(study)), last)
    return finished_figures(pages, identity)


def _draw_pictures(page: PdfPage, study: PhantomStudy) -> None:
    """A slice of up to two modules, before and after, in the abdomen window."""
    row_mm, column_mm = study.sections[0].source.geometry.pixel_spacing_mm
    window = WINDOWS["abdomen"]
    shown = [
        (f"{module}, {image}", hu[crop_box(example.values())])
        for module, example in zip(MODULES[:2], study.examples, strict=False)
        for image, hu in example.items()
    ]
    page.write(
        f"{dose_label(study, 0)}, window {window.name} ({window.level_hu:g} ± {window.width_hu / 2:g} HU).", 7.5
    )
    width = WIDTH / max(len(shown), 3)
    heights = [
        0.97 * width * A4_INCHES[0] / A4_INCHES[1] * hu.shape[0] * row_mm / (hu.shape[1] * column_mm)
        for _, hu in shown
    ]
    # Smaller pictures where the charts below would not fit on the page.
    room = page.top - TITLE_HEIGHT - GAP - CHART_SPACE - BOTTOM
    height = min(MAX_HEIGHT, max(heights), max(room, MIN_HEIGHT))
    for index, (title, hu) in enumerate(shown):
        place = (LEFT + index * width, page.top - height - TITLE_HEIGHT, width * 0.97, height)
        axis = page.figure.add_axes(place)
        axis.imshow(
            np.asarray(hu), cmap="gray", vmin=window.low_hu, vmax=window.high_hu, aspect=row_mm / column_mm,
            interpolation="nearest",
        )  # fmt: skip
        axis.set_axis_off()
        axis.set_title(title, fontsize=8, pad=2)
    page.skip(height + TITLE_HEIGHT + GAP)
