"""Summary of an evaluation as a PDF: one page to look at, then the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldct_denoise.evaluation.measure import REFERENCE
from ldct_denoise.report.charts import Curve
from ldct_denoise.report.curve_styles import CurveStyle, curve_styles
from ldct_denoise.report.evaluation import series_names
from ldct_denoise.report.identity import NO_SIGNATURE, Identity, Signature, evaluation_identity
from ldct_denoise.report.key_slices import attention_slice
from ldct_denoise.report.noise_resolution import noise_spectra, spectrum_ratios
from ldct_denoise.report.pdf_page import (
    A4_INCHES,
    BOTTOM,
    CHART_SPACE,
    LEFT,
    WIDTH,
    PdfChart,
    PdfPage,
    draw_charts,
    finished_figures,
    first_page,
    number_pages,
    write_pdf,
)
from ldct_denoise.report.pictures import crop_box, display_window, soft_tissue_square
from ldct_denoise.report.sentences import sentences
from ldct_denoise.report.verdict import evaluation_answer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ldct_denoise.evaluation.results import Evaluation

MIN_ROW_HEIGHT, MAX_ROW_HEIGHT, TITLE_HEIGHT, ROW_GAP = 0.12, 0.2, 0.014, 0.02
#: Smallest share of the enlarged square that is shown where the page is full, and share of the room of the slices.
MIN_SHARE, SLICE_SHARE = 0.4, 0.55
MAX_IMAGES, ZOOM_PX = 4, 110


def write_summary_pdf(
    evaluation: Evaluation,
    path: Path,
    *,
    include_patient_ids: bool = False,
    signature: Signature = NO_SIGNATURE,
) -> None:
    """Write a page with answer, checks, identity, pictures and spectra, then pages of numbers.

    Parameters
    ----------
    evaluation : Evaluation
    path : Path
        Replaced atomically.
    include_patient_ids : bool
        Show patient IDs; otherwise series are numbered.
    signature : Signature
        Author and site.
    """
    names = series_names(evaluation, include_patient_ids)
    identity = evaluation_identity(evaluation, "Image quality report", names, signature)
    write_pdf(summary_figures(evaluation, identity), path, identity)


def summary_figures(evaluation: Evaluation, identity: Identity) -> list[Figure]:
    """The pages of the PDF as A4 figures.

    Parameters
    ----------
    evaluation : Evaluation
    identity : Identity
        Of the report.

    Returns
    -------
    list of matplotlib.figure.Figure
    """
    page = first_page(identity, *evaluation_answer(evaluation))
    spectra = noise_spectra(evaluation, next(iter(evaluation.patients), ""))
    _draw_pictures(page, evaluation, CHART_SPACE if spectra else 0)
    pages = [page]
    if spectra and page.top - CHART_SPACE < BOTTOM:
        pages.append(PdfPage())
    _draw_spectra(pages[-1], spectra, curve_styles(evaluation.models))
    pages += number_pages([*sentences(evaluation), *evaluation.notes], evaluation.lines())
    return finished_figures(pages, identity)


def _draw_pictures(page: PdfPage, evaluation: Evaluation, reserved: float) -> None:
    """A slice of every image in a clinical window, and below it the same part of each, enlarged.

    The part has as many rows as leave the height ``reserved`` below it.
    """
    from matplotlib.patches import Rectangle

    if not any(case.indices for case in evaluation.cases):
        return
    attention = attention_slice(evaluation)
    case = next(case for case in evaluation.cases if case.indices)
    number = len(case.indices) // 2
    if attention:
        case, number = evaluation.cases[attention.case], attention.slice
    sample = case.sample(case.indices[number])
    images = {**dict(list(sample.images.items())[: MAX_IMAGES - 1]), REFERENCE: sample.reference}
    window, (dy, dx) = display_window(evaluation.windows), sample.geometry.pixel_spacing_mm
    box = crop_box(images.values())
    square = soft_tissue_square(sample.reference, ZOOM_PX)[1]
    width = WIDTH / len(images)

    def height_of(part: tuple[slice, slice]) -> float:
        rows, columns = (one.stop - one.start for one in part)
        full = 0.97 * width * A4_INCHES[0] / A4_INCHES[1] * rows * dy / (columns * dx)
        return min(MAX_ROW_HEIGHT, full)

    z_mm = sample.geometry.offsets_mm[sample.index]
    words = f"z = {z_mm:.1f} mm, window {window.name} ({window.level_hu:g} ± {window.width_hu / 2:g} HU)"
    page.write(f"{words}; below, the marked part enlarged.", 7.5)
    room = page.top - 2 * (TITLE_HEIGHT + ROW_GAP) - reserved - BOTTOM
    slice_height = min(height_of(box), max(MIN_ROW_HEIGHT, SLICE_SHARE * room))
    square = (_middle(square[0], (room - slice_height) / height_of(square)), square[1])
    for part, height in ((box, slice_height), (square, height_of(square))):
        for index, (name, hu) in enumerate(images.items()):
            place = (LEFT + index * width, page.top - height - TITLE_HEIGHT, width * 0.97, height)
            axis = page.figure.add_axes(place)
            axis.imshow(
                np.asarray(hu)[part], cmap="gray", vmin=window.low_hu, vmax=window.high_hu, aspect=dy / dx,
                interpolation="nearest",
            )  # fmt: skip
            axis.set_axis_off()
            if part is box:
                axis.set_title(name, fontsize=8, pad=2)
                corner = square[1].start - box[1].start, square[0].start - box[0].start
                sides = [one.stop - one.start for one in square[::-1]]
                axis.add_patch(Rectangle(corner, *sides, fill=False, edgecolor="#ffd400", linewidth=0.7))
        page.skip(height + (TITLE_HEIGHT if part is box else TITLE_HEIGHT + ROW_GAP))


def _middle(part: slice, share: float) -> slice:
    """The middle of a range; at least :data:`MIN_SHARE` of it, at most all."""
    length = part.stop - part.start
    cut = int(length * (1 - min(max(share, MIN_SHARE), 1)) / 2)
    return slice(part.start + cut, part.stop - cut)


def _draw_spectra(page: PdfPage, spectra: Mapping[str, Curve], styles: Mapping[str, CurveStyle]) -> None:
    """Noise power spectra of a series, and their ratio to the reference."""
    ratios = spectrum_ratios(spectra, REFERENCE)
    charts = [("noise power spectrum, HU²·mm²", spectra), ("noise power relative to the reference", ratios)]
    draw_charts(page, [PdfChart(title, "frequency, 1/mm", curves) for title, curves in charts if curves], styles)
