"""``ldct-denoise phantom``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options, terminal


@click.command(short_help="Create synthetic patients or image-quality phantoms with ground truth.")
@options.output
@click.option(
    "--kind",
    type=click.Choice(["patient", "water", "inserts", "edge", "wire", "low-contrast"]),
    default="patient",
    show_default=True,
    help="Synthetic patients, or a water cylinder: plain, or with inserts, an edge, a wire, or low-contrast "
    "lesions.",
)
@click.option("--patients", type=click.IntRange(1, 999), default=3, show_default=True, help="Number of patients.")
@click.option(
    "--slices", type=click.IntRange(1, 2000), default=24, show_default=True,
    help="Slices of each patient, 3 mm apart, or noise realisations of a phantom.",
)  # fmt: skip
@click.option("--size", type=click.IntRange(64, 1024), default=512, show_default=True, help="Matrix size, pixels.")
@click.option(
    "--dose",
    type=click.FloatRange(0.01, 1),
    default=0.25,
    show_default=True,
    help="Low dose as a fraction of the normal dose.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of anatomy and noise.")
@options.overwrite
def command(
    output: Path, kind: str, patients: int, slices: int, size: int, dose: float, seed: int, overwrite: bool
) -> None:
    """Write synthetic patients or a phantom as DICOM in the TCIA layout, at normal and low dose.

    Also writes the noise-free images and the labels of lesions or inserts as NIfTI, and a CSV file that explains
    the labels. --overwrite removes all earlier phantoms from the folder.
    """
    from ldct_denoise.phantoms.patients import write_patients
    from ldct_denoise.phantoms.quality import QualityPhantom, write_quality_phantom

    with terminal.progress_bar("scanning") as progress:
        if kind == "patient":
            names = write_patients(
                output, patients=patients, slices=slices, size=size, seed=seed, dose=dose, overwrite=overwrite,
                progress=progress,
            )  # fmt: skip
            written = [output / name for name in names]
        else:
            phantom = QualityPhantom(kind, slices, size)
            written = [
                write_quality_phantom(
                    output, phantom, seed=seed, dose=dose, overwrite=overwrite, progress=progress
                )
            ]
    for path in written:
        click.echo(path)
