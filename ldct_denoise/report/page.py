"""Report page: one HTML file that opens without a server and without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ldct_denoise.intensity import WINDOWS
from ldct_denoise.metrics.checks import Check
from ldct_denoise.output import atomic_write
from ldct_denoise.report.curve_styles import colour_css
from ldct_denoise.report.numbers import significant
from ldct_denoise.report.versions import versions

#: Total size of the pictures in a report, bytes: mail servers commonly accept 10 MB, and base64 adds a third.
PICTURE_BUDGET = 6_500_000

#: Tables with more rows open on demand.
LONG_TABLE_ROWS = 30

STATUS = (
    "status",
    "green: within the limits of this project; amber: to be reviewed; red: do not rely on the output before the "
    "cause is known.",
)
DEFINITIONS = (
    STATUS,
    ("window", "level ± width/2 in HU; both images are clipped to it, and data_range is its width. none: no "
     "clipping."),
    ("psnr", "20·log10(window width / rmse), dB."),
    ("ssim", "Wang et al. 2004: Gaussian weights, σ = 1.5 pixels, population covariance, K1 = 0.01, K2 = 0.03, on "
     "clipped HU; in a region by normalised convolution over the pixels of the region. Windows of a named "
     "protocol use the SSIM variant of that protocol."),
    ("rmse, mae", "root mean square and mean absolute difference from the reference, HU."),
    ("hu_bias", "mean of image − reference, HU."),
    ("noise_std", "standard deviation of image − reference, HU; it includes the noise of the reference."),
    ("hu_mean, hu_std, hu_p05, hu_p50, hu_p95", "statistics of the image's HU in the region, without a window."),
    ("body", "the patient without surrounding air and table; found on the reference."),
    ("mean, std, n", "over all slices. The patient mean gives every patient the same weight. ci95: its 95 % "
     "confidence interval, from the spread of the patients' means with three patients or more, otherwise from "
     "blocks of contiguous slices of the measured patients; empty where the data do not carry one."),
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Parameters
    ----------
    uri : str
        The image as a ``data:`` address; see :func:`~ldct_denoise.report.pictures.png_uri`.
    caption : str
    width_px : int
        Width on the page.
    """

    uri: str
    caption: str
    width_px: int = 200


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by clicking a column heading.

    Parameters
    ----------
    title, text : str
        Heading, and an explanation below it.
    columns : sequence of str
    rows : sequence of sequences
        Cells: numbers, texts, pictures or None.
    """

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class ChartSection:
    """Charts and pictures under one heading.

    Parameters
    ----------
    title, text : str
        Heading, and an explanation below it.
    charts : sequence of str
        SVG; see :func:`~ldct_denoise.report.charts.line_chart`.
    pictures : sequence of Picture
    """

    title: str
    text: str
    charts: Sequence[str]
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Page:
    """Contents of a report, in the order in which they are shown.

    Parameters
    ----------
    title : str
    sentences : sequence of str
        Summary. The first is the answer, shown as the first paragraph.
    checks : sequence of Check
        Traffic lights of the summary.
    checks_caption : str
        Name of the checked model, where a report has several.
    identity : sequence of (str, str)
        Date, series, scanner, model, …; see :class:`~ldct_denoise.report.identity.Identity`.
    notes : sequence of str
        Remarks below the summary.
    first_tables : sequence of Table
        Tables between summary and images.
    slice_views : sequence of mapping
        Slices for the viewer; see :func:`~ldct_denoise.report.pictures.slice_view`.
    first_view : int, optional
        Number of the slice at which the viewer opens; by default the middle one.
    picture_note : str
        Remark below the viewer.
    view_command : str
        Command that shows the whole series.
    charts : sequence of ChartSection
    tables : sequence of Table
    definitions : sequence of (term, meaning)
    """

    title: str
    sentences: Sequence[str]
    checks: Sequence[Check] = ()
    checks_caption: str = ""
    identity: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    first_tables: Sequence[Table] = ()
    slice_views: Sequence[Mapping[str, object]] = ()
    first_view: int | None = None
    picture_note: str = ""
    view_command: str = ""
    charts: Sequence[ChartSection] = ()
    tables: Sequence[Table] = ()
    definitions: Sequence[tuple[str, str]] = field(default=DEFINITIONS)


def render(page: Page) -> str:
    """Render the page as HTML."""
    return render_template(
        "page.html",
        css=("page.css",),
        js=("viewer.js",),
        **{name: getattr(page, name) for name in page.__dataclass_fields__},
        viewer_windows=list(WINDOWS.values()),
        # "</" would end the script element
        slice_views_json=json.dumps(page.slice_views).replace("</", "<\\/"),
        opens_at=len(page.slice_views) // 2 if page.first_view is None else page.first_view,
        long_table=LONG_TABLE_ROWS,
        versions=versions(),
    )


def render_template(template: str, *, css: Sequence[str], js: Sequence[str], **values: object) -> str:
    """Render a template of this package.

    Parameters
    ----------
    template : str
        Name of the HTML file.
    css, js : sequence of str
        Names of the files that become its ``css`` and ``js``.
    **values
        Its other variables.

    Returns
    -------
    str
        HTML that needs no other file.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined)
    environment.filters["cell"] = _cell
    environment.tests["picture"] = lambda value: isinstance(value, Picture)
    style, script = colour_css() + "".join(map(_text, css)), "".join(map(_text, js))
    return environment.get_template(template).render(css=style, js=script, **values)


def write_page(page: Page, path: Path) -> None:
    """Write the page atomically."""
    text = render(page)
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return significant(value) if isinstance(value, float) else str(value)
