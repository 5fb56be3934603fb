"""Pages of a PDF report, filled from the top: texts, checks, identity, curves, and pages of numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldct_denoise.output import atomic_write
from ldct_denoise.report.charts import Curve
from ldct_denoise.report.curve_styles import CurveStyle
from ldct_denoise.report.identity import Identity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ldct_denoise.metrics.checks import Check

A4_INCHES, A4_HEIGHT_POINTS = (8.27, 11.69), 841.9
#: Positions and heights are fractions of the page.
LEFT, WIDTH, TOP, BOTTOM = 0.07, 0.86, 0.965, 0.055
WIDTH_POINTS = 512.0
#: Mean width of a character of the font, and of the monospaced one, in font sizes.
CHARACTER, MONOSPACED = 0.58, 0.61
TABLE_POINTS = 6.5
GAP = 0.012
#: Height of a chart, and with its title and the label of its axis.
CHART_HEIGHT, CHART_SPACE = 0.155, 0.205
MAX_PAGES = 12
#: Most curves of a legend in the larger font.
MAX_LARGE_LEGEND = 4
STATUS_COLOURS = {"green": "#27704a", "amber": "#8f5d00", "red": "#b3261e"}


class PdfPage:
    """An A4 figure that is filled from the top."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure: Figure = Figure(figsize=A4_INCHES)
        self.top = TOP

    def skip(self, height: float) -> None:
        """Leave a gap."""
        self.top -= height

    def write(self, text: str, points: float, x: float = LEFT, width: float = WIDTH, **style: Any) -> None:
        """Write wrapped text at the top of what is free.

        Parameters
        ----------
        text : str
        points : float
            Font size.
        x, width : float
            Left edge and width, fractions of the page.
        **style
            For :meth:`matplotlib.figure.Figure.text`.
        """
        lines = _wrapped(text, points, width)
        self.figure.text(x, self.top, "\n".join(lines), fontsize=points, va="top", linespacing=1.3, **style)
        self.skip(_height(lines, points))


@dataclass(frozen=True)
class PdfChart:
    """A chart of named curves.

    Parameters
    ----------
    title, x_label : str
    curves : mapping from name to (x, y)
    log_y : bool
        Logarithmic vertical axis.
    """

    title: str
    x_label: str
    curves: Mapping[str, Curve]
    log_y: bool = True


def first_page(identity: Identity, answer: str, checks: Sequence[Check]) -> PdfPage:
    """A page that begins with title, disclaimer, answer, checks and identity.

    Parameters
    ----------
    identity : Identity
    answer : str
        First paragraph.
    checks : sequence of Check

    Returns
    -------
    PdfPage
    """
    page = PdfPage()
    page.write(identity.title, 13, weight="bold")
    page.write("Research use only: not a medical device, not for diagnosis.", 8.5, color="#9a2c1c")
    page.write(answer, 10.5)
    _draw_checks(page, checks)
    _draw_identity(page, identity.rows)
    page.skip(GAP)
    return page


def draw_charts(page: PdfPage, charts: Sequence[PdfChart], styles: Mapping[str, CurveStyle]) -> None:
    """Draw up to two charts side by side; the second has a legend if its curves have other names.

    Parameters
    ----------
    page : PdfPage
    charts : sequence of PdfChart
    styles : mapping from name to CurveStyle
    """
    for index, chart in enumerate(charts):
        place = (LEFT + 0.045 + index * WIDTH / 2, page.top - CHART_HEIGHT - 0.02, WIDTH / 2 - 0.06, CHART_HEIGHT)
        axis = page.figure.add_axes(place)
        _draw_curves(axis, chart, styles)
        axis.set_title(chart.title, fontsize=8, pad=3)
        axis.set_xlabel(chart.x_label, fontsize=7, labelpad=1)
        if index == 0 or set(chart.curves) - set(charts[0].curves):
            size = 6.5 if len(chart.curves) <= MAX_LARGE_LEGEND else 5
            axis.legend(fontsize=size, frameon=False, loc="best", handlelength=3.5)
    page.skip(CHART_SPACE)


def number_pages(texts: Sequence[str], table: Sequence[str], first: PdfPage | None = None) -> list[PdfPage]:
    """Pages of sentences and a table, as many as they need.

    Parameters
    ----------
    texts : sequence of str
    table : sequence of str
        Lines of columns of equal width.
    first : PdfPage, optional
        Page that has room left; by default an empty one.

    Returns
    -------
    list of PdfPage
    """
    pages = [first or PdfPage()]
    pages[0].write("Numbers", 12, weight="bold")
    for text in texts:
        if pages[-1].top - _height(_wrapped(text, 8), 8) < BOTTOM:
            pages.append(PdfPage())
        pages[-1].write(text, 8)
    lines = list(table)
    # A character of the monospaced font is 0.6 times as wide as the font size.
    points = min(TABLE_POINTS, WIDTH_POINTS / (MONOSPACED * max(len(line) for line in lines)))
    step = points * 1.25 * 1.17 / A4_HEIGHT_POINTS
    pages[-1].skip(GAP)
    while lines:
        fitting = int((pages[-1].top - BOTTOM) / step) - 1
        if fitting < min(len(lines), 3):
            pages.append(PdfPage())
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


def finished_figures(pages: Sequence[PdfPage], identity: Identity) -> list[Figure]:
    """The pages as A4 figures with a footer: kind of the report, time, page number."""
    for number, one in enumerate(pages, start=1):
        one.figure.text(LEFT, 0.025, f"{identity.kind}, {identity.created:%Y-%m-%d %H:%M:%S}", fontsize=7)
        one.figure.text(LEFT + WIDTH, 0.025, f"page {number} of {len(pages)}", fontsize=7, ha="right")
    return [one.figure for one in pages]


def write_pdf(figures: Sequence[Figure], path: Path, identity: Identity) -> None:
    """Write figures as pages of a PDF.

    Parameters
    ----------
    figures : sequence of matplotlib.figure.Figure
    path : Path
        Replaced atomically.
    identity : Identity
        Title and author of the file.
    """
    from matplotlib.backends.backend_pdf import PdfPages

    def write(part: Path) -> None:
        with PdfPages(
            part, metadata={"Title": identity.title, "Author": identity.signature.author or None}
        ) as pdf:
            for figure in figures:
                pdf.savefig(figure)

    atomic_write(path, write)


def _wrapped(text: str, points: float, width: float = WIDTH) -> list[str]:
    return textwrap.wrap(text, int(width / WIDTH * WIDTH_POINTS / (CHARACTER * points)))


def _height(lines: Sequence[str], points: float) -> float:
    """Height of lines on the page, with the gap below them."""
    return len(lines) * points * 1.3 * 1.17 / A4_HEIGHT_POINTS + 0.004


def _draw_checks(page: PdfPage, checks: Sequence[Check]) -> None:
    """A line for each check: status, name, reason."""
    for check in checks:
        top = page.top
        colour = STATUS_COLOURS[check.status]
        page.figure.text(LEFT, top, check.status, fontsize=8, va="top", weight="bold", color=colour)
        page.figure.text(LEFT + 0.07, top, check.name, fontsize=8, va="top", weight="bold")
        page.write(check.reason, 8, LEFT + 0.2, WIDTH - 0.2)


def _draw_identity(page: PdfPage, rows: Sequence[tuple[str, str]]) -> None:
    """The rows in two columns."""
    page.skip(GAP / 2)
    half, width = -(-len(rows) // 2), WIDTH / 2 - 0.015
    start, lowest = page.top, page.top
    for column, part in enumerate((rows[:half], rows[half:])):
        page.top, x = start, LEFT + column * WIDTH / 2
        for name, value in part:
            page.figure.text(x, page.top, name, fontsize=7, va="top", color="#52606d")
            page.write(value, 7, x + 0.1, width - 0.11)
        lowest = min(lowest, page.top)
    page.top = lowest


def _draw_curves(axis: Axes, chart: PdfChart, styles: Mapping[str, CurveStyle]) -> None:
    for name, (x, y) in chart.curves.items():
        dash = tuple(float(length) for length in styles[name].dash.split())
        axis.plot(x, y, color=styles[name].colour, linestyle=(0, dash) if dash else "-", linewidth=1.3, label=name)
    if chart.log_y:
        _set_log_axis(axis, chart.curves)
    axis.tick_params(labelsize=6.5, length=2)
    axis.grid(color="#d3dae2", linewidth=0.5)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _set_log_axis(axis: Axes, curves: Mapping[str, Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_yscale("log")
    highest = max(float(np.nanmax(y)) for _, y in curves.values())
    lowest = min(float(np.nanmin(np.where(np.asarray(y) > 0, y, np.inf))) for _, y in curves.values())
    axis.set_ylim(max(lowest, highest / 1e4) / 1.3, highest * 1.3)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
