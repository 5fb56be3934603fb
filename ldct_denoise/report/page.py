"""Fills the page: one HTML file that opens without a server and without a network."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ldct_denoise import __version__
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.output import atomic_write

#: Pictures in a report together, in bytes: mail servers commonly take 10 MB and base64 adds a third again.
PICTURE_BUDGET = 6_500_000

DEFINITIONS = (
    ("window", "level ± width/2 in HU; both images are clipped to it, and data_range is its width. none: all HU."),
    ("psnr", "20·log10(window width / rmse), dB."),
    ("ssim", "Wang et al. 2004: Gaussian weights, σ = 1.5 pixels, population covariance, K1 = 0.01, K2 = 0.03, on "
     "clipped HU; in a region by normalised convolution over the region's own pixels. Windows of a named protocol "
     "use that protocol's variant."),
    ("rmse, mae", "root mean square and mean absolute difference from the reference, HU."),
    ("hu_bias", "mean of image − reference, HU."),
    ("noise_std", "standard deviation of image − reference, HU; the reference's own noise is part of it."),
    ("hu_mean, hu_std, hu_p05, hu_p50, hu_p95", "statistics of the image's own HU in the region."),
    ("body", "the patient without the air around and without the table; found on the reference."),
    ("mean, std, n", "over all slices; patient mean gives every patient the same weight, with a 95 % bootstrap "
     "interval over slices within patients."),
)  # fmt: skip


@dataclass(frozen=True)
class TrafficLight:
    """A line of the summary with a colour: ``green``, ``amber`` or ``red``."""

    item: str
    colour: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: ``uri`` holds its data; ``width`` in pixels of the page."""

    uri: str
    caption: str
    width: int = 200


@dataclass(frozen=True)
class Table:
    """A table that sorts."""

    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class ChartSection:
    """Charts under one heading."""

    title: str
    text: str
    charts: Sequence[str]
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Page:
    """Everything that a report shows, in its order."""

    title: str
    sentences: Sequence[str]
    lights: Sequence[TrafficLight] = ()
    notes: Sequence[str] = ()
    first_tables: Sequence[Table] = ()
    slides: Sequence[Mapping[str, object]] = ()
    picture_note: str = ""
    charts: Sequence[ChartSection] = ()
    tables: Sequence[Table] = ()
    definitions: Sequence[tuple[str, str]] = field(default=DEFINITIONS)
    rating: bool = False  # with buttons for a blinded reading of panels A and B


def render(page: Page) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(loader=FunctionLoader(_text), autoescape=True, undefined=StrictUndefined)
    environment.filters["cell"] = _cell
    environment.tests["picture"] = lambda value: isinstance(value, Picture)
    return environment.get_template("page.html").render(
        **{name: getattr(page, name) for name in page.__dataclass_fields__},
        viewer_windows=list(WINDOWS.values()),
        # "</" cannot end the script element early
        slides_json=json.dumps(page.slides).replace("</", "<\\/"),
        css=_text("page.css"),
        js=_text("viewer.js"),
        versions=versions(),
    )


def write_page(page: Page, path: Path) -> None:
    """Write the page, whole or not at all."""
    text = render(page)
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))


def versions() -> str:
    """The software behind the numbers."""
    import numpy
    import scipy

    return (
        f"ldct-denoise {__version__}, Python {sys.version.split()[0]}, NumPy {numpy.__version__}, "
        f"SciPy {scipy.__version__}"
    )


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
