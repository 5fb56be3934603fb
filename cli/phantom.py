"""``ldct-denoise phantom``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command(short_help="Make synthetic patients at normal and low dose, with their truth.")
@options.output
@click.option("--patients", type=click.IntRange(1, 999), default=3, show_default=True)
@click.option(
    "--slices", type=click.IntRange(1, 2000), default=24, show_default=True, help="Of each patient, 3 mm apart."
)
@click.option("--size", type=click.IntRange(64, 1024), default=512, show_default=True, help="Pixels along a side.")
@click.option(
    "--dose",
    type=click.FloatRange(0.01, 1),
    default=0.25,
    show_default=True,
    help="Low dose, as a fraction of the normal.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@options.overwrite
def command(output: Path, patients: int, slices: int, size: int, dose: float, seed: int, overwrite: bool) -> None:
    """Write synthetic patients as DICOM in the TCIA layout, with noise-free truth and lesion labels as NIfTI."""
    from ldct_denoise.output import prepare_folder
    from ldct_denoise.physics.phantom import make_pool

    prepare_folder(output, overwrite)
    names = make_pool(
        output, patients=patients, slices=slices, size=size, seed=seed, dose=dose, overwrite=overwrite
    )
    for name in names:
        click.echo(output / name)
