"""``ldct-denoise phantom``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command(short_help="Make synthetic patients or image-quality phantoms, with their truth.")
@options.output
@click.option(
    "--kind",
    type=click.Choice(["patient", "water", "inserts", "edge", "wire", "low-contrast"]),
    default="patient",
    show_default=True,
    help="Patients, or a water cylinder and what it holds.",
)
@click.option("--patients", type=click.IntRange(1, 999), default=3, show_default=True)
@click.option(
    "--slices", type=click.IntRange(1, 2000), default=24, show_default=True,
    help="Of each patient, 3 mm apart; of a phantom, realisations of the noise.",
)  # fmt: skip
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
def command(
    output: Path, kind: str, patients: int, slices: int, size: int, dose: float, seed: int, overwrite: bool
) -> None:
    """Write synthetic patients or a phantom as DICOM in the TCIA layout, at normal and low dose.

    Noise-free truth and labels (lesions, inserts) are written beside them as NIfTI, and what the labels stand for
    as CSV. --overwrite removes all that an earlier phantom left in the folder.
    """
    from ldct_denoise.phantoms.patients import make_pool
    from ldct_denoise.phantoms.quality import QualityPhantom, make_quality_phantom

    with options.progress_bar("scanning") as progress:
        if kind == "patient":
            names = make_pool(
                output, patients=patients, slices=slices, size=size, seed=seed, dose=dose, overwrite=overwrite,
                progress=progress,
            )  # fmt: skip
            made = [output / name for name in names]
        else:
            phantom = QualityPhantom(kind, slices, size)
            made = [
                make_quality_phantom(output, phantom, seed=seed, dose=dose, overwrite=overwrite, progress=progress)
            ]
    for path in made:
        click.echo(path)
