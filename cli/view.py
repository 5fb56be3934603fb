"""``ldct-denoise view``: whole series side by side in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options, terminal

if TYPE_CHECKING:
    from ldct_denoise.volume import SliceSource


@click.command(short_help="Show one to three series side by side in the browser.")
@click.argument("input_path", metavar="INPUT", type=options.EXISTING)
@click.argument("output_path", metavar="[OUTPUT]", required=False, type=options.EXISTING)
@click.argument("reference_path", metavar="[REFERENCE]", required=False, type=options.EXISTING)
@click.option("--input-series", type=click.IntRange(1), help="Number of the series, if INPUT has several: 1, 2, …")
@click.option("--output-series", type=click.IntRange(1), help="The same for OUTPUT.")
@click.option("--reference-series", type=click.IntRange(1), help="The same for REFERENCE.")
@click.option(
    "--open/--no-open",
    "open_browser",
    default=True,
    help="Open the browser, or only print the address.  [default: open]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Port on 127.0.0.1, for example to use it through ssh -L N:127.0.0.1:N.  [default: a free port]",
)
@options.assume_hu
@click.option("--include-patient-ids", is_flag=True, help="Show patient IDs and folder names on the page.")
def command(
    input_path: Path,
    output_path: Path | None,
    reference_path: Path | None,
    input_series: int | None,
    output_series: int | None,
    reference_series: int | None,
    open_browser: bool,
    port: int,
    assume_hu: bool,
    include_patient_ids: bool,
) -> None:
    """Show one to three CT series in the browser: linked planes, side by side, swipe, flicker, difference, HU.

    INPUT, OUTPUT and REFERENCE are each a DICOM series (folder, file, zip) or a NIfTI, NRRD or MHA volume. Only
    this machine can open the page (127.0.0.1, with a random part in the address). Ctrl-C stops the viewer.
    """
    from ldct_denoise.view import serve_view

    asked = [
        ("INPUT", input_path, input_series),
        ("OUTPUT", output_path, output_series),
        ("REFERENCE", reference_path, reference_series),
    ]
    for name, path, number in asked:
        if path is None and number is not None:
            raise click.UsageError(f"--{name.lower()}-series {number}: {name} is not given")
    given = [(name, path, number) for name, path, number in asked if path is not None]
    serve_view(
        [_one_series(name, path, number, assume_hu) for name, path, number in given],
        [name for name, _, _ in given],
        port=port,
        open_browser=open_browser,
        include_patient_ids=include_patient_ids,
        announce=options.announce_view,
    )


def _one_series(name: str, path: Path, number: int | None, assume_hu: bool) -> SliceSource:
    """The only series under ``path``, or the one with this number (from 1)."""
    from ldct_denoise.errors import InputError
    from ldct_denoise.io.find import find_images

    with terminal.progress_bar(f"looking for {name}") as bar:
        found = find_images(path, bar, include_derived=True, assume_hu=assume_hu)
    option = f"--{name.lower()}-series"
    if not found.series:
        raise InputError(f"{path}: no CT series; `ldct-denoise inspect {path}` says why")
    if number is not None and number > len(found.series):
        raise InputError(f"{path}: {option} {number}, but there are only {len(found.series)} series")
    if number is None and len(found.series) > 1:
        described = [
            f"{len(one)} slices every {one.geometry.slice_spacing_mm:g} mm, {one.metadata.kernel or one.name}"
            for one in found.series
        ]
        listed = "; ".join(f"{index}: {text}" for index, text in enumerate(described, 1))
        raise InputError(f"{path}: {len(found.series)} series; give {option} with one of: {listed}")
    return found.series[(number or 1) - 1]
