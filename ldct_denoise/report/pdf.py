"""Summary of an evaluation as a PDF: one page to look at, then the numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldct_denoise.evaluation.measure import REFERENCE
from ldct_denoise.output import atomic_write
from ldct_denoise.report.charts import Curve
from ldct_denoise.report.curve_styles import CurveStyle, curve_styles
from ldct_denoise.report.evaluation import series_names
from ldct_denoise.report.identity import NO_SIGNATURE, Identity, Signature, evaluation_identity
from ldct_denoise.report.key_slices import attention_slice
from ldct_denoise.report.noise_resolution import noise_spectra, spectrum_ratios
from ldct_denoise.report.pictures import crop_box, display_window, soft_tissue_square
from ldct_denoise.report.sentences import sentences
from ldct_denoise.report.verdict import evaluation_answer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ldct_denoise.evaluation.results import Evaluation
    from ldct_denoise.metrics.checks import Check

A4_INCHES, A4_HEIGHT_POINTS = (8.27, 11.69), 841.9
#: Positions and heights are fractions of the page.
LEFT, WIDTH, TOP, BOTTOM = 0.07, 0.86, 0.965, 0.055
WIDTH_POINTS = 512.0
#: Mean width of a character of the font, and of the monospaced one, in font sizes.
CHARACTER, MONOSPACED = 0.58, 0.61
TABLE_POINTS = 6.5
GAP, MAX_ROW_HEIGHT, TITLE_HEIGHT, ROW_GAP = 0.012, 0.2, 0.014, 0.02
#: Height of a chart, and with its title and the label of its axis.
CHART_HEIGHT, CHART_SPACE = 0.155, 0.205
#: Smallest share of the enlarged square that is shown where the page is full.
MIN_SHARE = 0.4
MAX_IMAGES, ZOOM_PX, MAX_PAGES = 4, 110, 12
STATUS_COLOURS = {"green": "#27704a", "amber": "#8f5d00", "red": "#b3261e"}


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
    from matplotlib.backends.backend_pdf import PdfPages

    names = series_names(evaluation, include_patient_ids)
    identity = evaluation_identity(evaluation, "Image quality report", names, signature)
    figures = summary_figures(evaluation, identity)

    def write(part: Path) -> None:
        with PdfPages(part, metadata={"Title": identity.title, "Author": signature.author or None}) as pdf:
            for figure in figures:
                pdf.savefig(figure)

    atomic_write(path, write)


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
    answer, checks = evaluation_answer(evaluation)
    page = _PdfPage()
    page.write(identity.title, 13, weight="bold")
    page.write("Research use only: not a medical device, not for diagnosis.", 8.5, color="#9a2c1c")
    page.write(answer, 10.5)
    _draw_checks(page, checks)
    _draw_identity(page, identity.rows)
    page.skip(GAP)
    spectra = noise_spectra(evaluation, next(iter(evaluation.patients), ""))
    _draw_pictures(page, evaluation, CHART_SPACE if spectra else 0)
    pages = [page]
    if spectra and page.top - CHART_SPACE < BOTTOM:
        pages.append(_PdfPage())
    _draw_spectra(pages[-1], spectra, curve_styles(evaluation.models))
    pages += _number_pages(evaluation)
    for number, one in enumerate(pages, start=1):
        one.figure.text(LEFT, 0.025, f"{identity.kind}, {identity.created:%Y-%m-%d %H:%M:%S}", fontsize=7)
        one.figure.text(LEFT + WIDTH, 0.025, f"page {number} of {len(pages)}", fontsize=7, ha="right")
    return [one.figure for one in pages]


class _PdfPage:
    """An A4 figure that is filled from the top."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=A4_INCHES)
        self.top = TOP

    def skip(self, height: float) -> None:
        self.top -= height

    def write(self, text: str, points: float, x: float = LEFT, width: float = WIDTH, **style: Any) -> None:
        """Write wrapped text at the top."""
        lines = _wrapped(text, points, width)
        self.figure.text(x, self.top, "\n".join(lines), fontsize=points, va="top", linespacing=1.3, **style)
        self.skip(_height(lines, points))


def _wrapped(text: str, points: float, width: float = WIDTH) -> list[str]:
    return textwrap.wrap(text, int(width / WIDTH * WIDTH_POINTS / (CHARACTER * points)))


def _height(lines: Sequence[str], points: float) -> float:
    """Height of lines on the page, with the gap below them."""
    return len(lines) * points * 1.3 * 1.17 / A4_HEIGHT_POINTS + 0.004


def _draw_checks(page: _PdfPage, checks: Sequence[Check]) -> None:
    """A line for each check: status, name, reason."""
    for check in checks:
        top = page.top
        colour = STATUS_COLOURS[check.status]
        page.figure.text(LEFT, top, check.status, fontsize=8, va="top", weight="bold", color=colour)
        page.figure.text(LEFT + 0.07, top, check.name, fontsize=8, va="top", weight="bold")
        page.write(check.reason, 8, LEFT + 0.2, WIDTH - 0.2)


def _draw_identity(page: _PdfPage, rows: Sequence[tuple[str, str]]) -> None:
    """The rows in two columns."""
    page.skip(GAP / 2)
    half, width = -(-len(rows) // 2), WIDTH / 2 - 0.015
    start, lowest = page.top, page.top
    for column, part in enumerate((rows[:half], rows[half:])):
        page.top, x = start, LEFT + column * WIDTH / 2
        for name, value in part:
            page.figure.text(x, page.top, name, fontsize=7, va="top", color="#52606d")
            page.write(value, 7, x + 0.1, width - 0.1)
        lowest = min(lowest, page.top)
    page.top = lowest


def _draw_pictures(page: _PdfPage, evaluation: Evaluation, reserved: float) -> None:
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
    room = page.top - height_of(box) - 2 * (TITLE_HEIGHT + ROW_GAP) - reserved - BOTTOM
    square = (_middle(square[0], room / height_of(square)), square[1])
    for part in (box, square):
        height = height_of(part)
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


def _draw_spectra(page: _PdfPage, spectra: Mapping[str, Curve], styles: Mapping[str, CurveStyle]) -> None:
    """Noise power spectra of a series, and their ratio to the reference."""
    ratios = spectrum_ratios(spectra, REFERENCE)
    charts = [("noise power spectrum, HU²·mm²", spectra), ("noise power relative to the reference", ratios)]
    drawn = [(title, curves) for title, curves in charts if curves]
    for index, (title, curves) in enumerate(drawn):
        place = (LEFT + 0.045 + index * WIDTH / 2, page.top - CHART_HEIGHT - 0.02, WIDTH / 2 - 0.06, CHART_HEIGHT)
        axis = page.figure.add_axes(place)
        _draw_curves(axis, curves, styles)
        axis.set_title(title, fontsize=8, pad=3)
        axis.set_xlabel("frequency, 1/mm", fontsize=7, labelpad=1)
        if index == 0:
            axis.legend(fontsize=6.5, frameon=False, loc="best", handlelength=3.5)


def _draw_curves(axis: Axes, curves: Mapping[str, Curve], styles: Mapping[str, CurveStyle]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for name, (x, y) in curves.items():
        dash = tuple(float(length) for length in styles[name].dash.split())
        axis.plot(x, y, color=styles[name].colour, linestyle=(0, dash) if dash else "-", linewidth=1.3, label=name)
    axis.set_yscale("log")
    highest = max(float(np.nanmax(y)) for _, y in curves.values())
    lowest = min(float(np.nanmin(np.where(np.asarray(y) > 0, y, np.inf))) for _, y in curves.values())
    axis.set_ylim(max(lowest, highest / 1e4) / 1.3, highest * 1.3)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.tick_params(labelsize=6.5, length=2)
    axis.grid(color="#d3dae2", linewidth=0.5)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _number_pages(evaluation: Evaluation) -> list[_PdfPage]:
    """The summary in sentences, the notes and the table of means, on as many pages as they need."""
    pages = [_PdfPage()]
    pages[0].write("Numbers", 12, weight="bold")

    for text in (*sentences(evaluation), *evaluation.notes):
        if pages[-1].top - _height(_wrapped(text, 8), 8) < BOTTOM:
            pages.append(_PdfPage())
        pages[-1].write(text, 8)
    lines = evaluation.lines()
    # A character of the monospaced font is 0.6 times as wide as the font size.
    points = min(TABLE_POINTS, WIDTH_POINTS / (MONOSPACED * max(len(line) for line in lines)))
    step = points * 1.25 * 1.17 / A4_HEIGHT_POINTS
    pages[-1].skip(GAP)
    while lines:
        fitting = int((pages[-1].top - BOTTOM) / step) - 1
        if fitting < min(len(lines), 3):
            pages.append(_PdfPage())
            continue
        page, shown, lines = pages[-1], lines[:fitting], lines[fitting:]
        style: dict[str, Any] = {"fontsize": points, "va": "top", "family": "monospace", "linespacing": 1.25}
        page.figure.text(LEFT, page.top, "\n".join(shown), **style)
        page.skip(step * (len(shown) + 1))
    if len(pages) > MAX_PAGES:
        left_out = len(pages) - MAX_PAGES
        pages = pages[:MAX_PAGES]
        pages[-1].figure.text(LEFT, 0.04, f"{left_out} more pages of numbers are in summary.json.", fontsize=7)
    return pages
