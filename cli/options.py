"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from ldct_denoise.inference.settings import Precision
from ldct_denoise.io.write_settings import Format

if TYPE_CHECKING:
    from ldct_denoise.evaluation.plan import MeasurementPlan

PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True)

device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:N|mps",
    help="Where to compute.",
)
precision = click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp32",
    show_default=True,
    help="bf16 is faster on hardware that supports it.",
)
strength = click.option(
    "--strength",
    type=float,
    help="Weight of the network's output: 0 returns the input, 1 the network alone.  [default: noise texture of "
    "normal dose for shipped models, 1 for others]",
)
tta = click.option(
    "--tta", is_flag=True, help="Test-time augmentation: average over 8 flips and rotations (8× slower)."
)
open_report = click.option("--open", "open_report", is_flag=True, help="Open the report in the browser.")
author = click.option("--author", default="", help="Your name, shown in the report.")
site = click.option("--site", default="", help="Your hospital or laboratory, shown in the report.")
output_format = click.option(
    "--format",
    type=click.Choice(get_args(Format)),
    help="Output format.  [default: by the output's name, else the input's]",
)
assume_hu = click.option(
    "--assume-hu",
    is_flag=True,
    help="Treat the values as HU even if the header or the values suggest another unit.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an existing output.")
output = click.option("--output", "-o", type=PATH, required=True, help="Output file or folder.")


def _register(context: click.Context, option: click.Parameter, files: tuple[Path, ...]) -> tuple[Path, ...]:
    from ldct_denoise import methods

    for file in files:
        methods.register(file)
    return files


method_files = click.option(
    "--method",
    "method_files",
    type=EXISTING,
    multiple=True,
    metavar="FILE.py",
    callback=_register,
    expose_value=False,
    is_eager=True,
    help="Python file with your own method (docs/tutorials/add-a-method.md). The method has the name of the file. "
    "Repeatable.",
)
low_pattern = click.option(
    "--low-pattern",
    "low_patterns",
    multiple=True,
    metavar="WORD|REGEX",
    help="Word or regular expression that marks low dose in file names, folder names and descriptions. Tried "
    "before the built-in words (docs/reference/input.md). Repeatable.",
)
normal_pattern = click.option(
    "--normal-pattern", "normal_patterns", multiple=True, metavar="WORD|REGEX", help="The same for normal dose."
)
split = click.option(
    "--split",
    metavar="NAME|FILE.json",
    help="Use the patients of a published split (mayo2016-l506, ldct-benchmark) or of a file in nnU-Net's format.",
)
windows = click.option(
    "--window",
    "windows",
    multiple=True,
    metavar="NAME|LEVEL,WIDTH",
    help="Window in HU: full, abdomen, mediastinum, lung, bone, brain, liver, or LEVEL,WIDTH. Repeatable.  "
    "[default: full and abdomen]",
)
protocol = click.option(
    "--protocol",
    help="Use the windows and the SSIM of a published protocol: ldct-benchmark, red-cnn, du-gan, corediff.",
)
rois = click.option(
    "--roi",
    "rois",
    multiple=True,
    metavar="FILE|X,Y,Z,RADIUS|TISSUE",
    help="Also measure in this region: a label volume, DICOM SEG or RTSTRUCT, a sphere (LPS mm), or lung, fat, "
    "soft-tissue, bone. Repeatable.",
)
contrasts = click.option(
    "--cnr",
    "contrasts",
    nargs=2,
    multiple=True,
    metavar="REGION REGION",
    help="Measure the contrast-to-noise ratio of two regions, each given as for --roi. Repeatable.",
)
metrics = click.option(
    "--metric",
    "metrics",
    multiple=True,
    type=click.Choice(["ms_ssim", "vif", "gmsd"]),
    help="Also measure this metric of the whole image (slower). Repeatable.",
)


def announce_view(url: str) -> None:
    """Print the address of the viewer."""
    click.echo(url)
    click.echo("only this machine can open the page; Ctrl-C stops the viewer", err=True)


def open_in_browser(path: Path) -> None:
    """Open a file in the user's browser; where there is none, nothing happens."""
    import webbrowser

    webbrowser.open(path.resolve().as_uri())


def signature(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--author`` and ``--site`` to a command."""
    return author(site(command))


def dose_patterns(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--low-pattern`` and ``--normal-pattern`` to a command."""
    return low_pattern(normal_pattern(command))


register = click.option(
    "--register",
    is_flag=True,
    help="Align the reference by interpolation if the two series of a pair are shifted by a fraction of a slice "
    "or pixel. Shifts above 0.03 are always reported.",
)


def measurements(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of :func:`measurement_plan` to a command."""
    for option in (register, metrics, contrasts, rois, protocol, windows):
        command = option(command)
    return command


def measurement_plan(
    windows: tuple[str, ...],
    protocol: str | None,
    rois: tuple[str, ...],
    contrasts: tuple[tuple[str, str], ...],
    metrics: tuple[str, ...],
    register: bool,
) -> MeasurementPlan:
    """Build the settings of ``evaluate`` and ``compare`` from the command line.

    Parameters
    ----------
    windows, protocol, rois, contrasts, metrics, register
        Values of the options of :func:`measurements`.

    Returns
    -------
    MeasurementPlan
    """
    from ldct_denoise.evaluation.plan import DEFAULT_REGIONS, DEFAULT_WINDOWS, MeasurementPlan
    from ldct_denoise.intensity import Window
    from ldct_denoise.metrics.protocols import find_protocol
    from ldct_denoise.regions.parse import parse_region, parse_regions

    published = find_protocol(protocol) if protocol else None
    named = (*map(Window.parse, windows), *(published.windows if published else ()))
    return MeasurementPlan(
        windows=named or DEFAULT_WINDOWS,
        regions=(*DEFAULT_REGIONS, *(region for text in rois for region in parse_regions(text))),
        contrasts=[(parse_region(first), parse_region(second)) for first, second in contrasts],
        metrics=metrics,
        register=register,
        notes=[published.note] if published else [],
    )
