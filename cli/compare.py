"""``ldct-denoise compare``: several models over all low/normal pairs, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from ldct_denoise.io.photos import NoiseLaw


@click.command()
@click.option("--dicom-root", type=options.EXISTING, help="Tree with low- and normal-dose series.")
@click.option("--images", type=options.EXISTING, help="Instead: a folder of grey images, to which noise is added.")
@click.option(
    "--sigma", type=float, default=25.0, show_default=True, help="With --images: its level, grey values."
)
@click.option("--law", type=click.Choice(["gaussian", "poisson"]), default="gaussian", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="With --images: of the noise.")
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    help="Shipped model, .safetensors file, run folder, or untrained method (bm3d:strength=0.8). Repeatable.",
)
@options.output
@options.windows
@options.protocol
@options.rois
@options.contrasts
@options.extended
@click.option("--include-training-patients", is_flag=True, help="Also patients that a model was trained on.")
@click.option("--repeat", type=click.IntRange(min=1), default=1, help="Seeds for methods that are random.")
@click.option("--include-patient-ids", is_flag=True, help="Name the patients in the report.")
@options.tta
@options.device
@options.precision
@options.overwrite
def command(
    dicom_root: Path | None,
    images: Path | None,
    sigma: float,
    law: NoiseLaw,
    seed: int,
    models: tuple[str, ...],
    output: Path,
    windows: tuple[str, ...],
    protocol: str | None,
    rois: tuple[str, ...],
    contrasts: tuple[tuple[str, str], ...],
    extended: bool,
    include_training_patients: bool,
    repeat: int,
    include_patient_ids: bool,
    tta: bool,
    device: str,
    precision: str,
    overwrite: bool,
) -> None:
    """Set several models and methods side by side on all low/normal pairs of a tree.

    All see the same slices. Patients of a model's training pools are left out unless asked for. Writes
    metrics.csv, summary.json (with paired statistics) and report.html.
    """
    from ldct_denoise.evaluation.compare import compare, compare_on_images
    from ldct_denoise.inference.slices import ApplySettings
    from ldct_denoise.models.trained import load_model
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.write import write_comparison

    if (dicom_root is None) == (images is None):
        raise click.UsageError("give either --dicom-root or --images")
    if images and (windows or protocol or rois or contrasts or extended):
        raise click.UsageError("--images are measured whole, over 0…255; windows and regions are for --dicom-root")
    what = options.measurement_options(windows, protocol, rois, contrasts, extended)
    make_output_folder(output, overwrite)
    settings = ApplySettings(device=device, precision=precision, tta=tta)  # type: ignore[arg-type]
    with options.progress_bar("comparing") as bar:
        loaded = [load_model(name) for name in models]
        if dicom_root is None:
            assert images is not None
            result = compare_on_images(
                images, loaded, sigma=sigma, law=law, seed=seed, repeat=repeat, settings=settings, progress=bar
            )
        else:
            result = compare(
                dicom_root,
                loaded,
                include_training_patients=include_training_patients,
                repeat=repeat,
                settings=settings,
                progress=bar,
                **what,
            )
    write_comparison(result, output, overwrite=True, include_patient_ids=include_patient_ids)
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    click.echo("\n".join(result.lines()))
    click.echo(f"{output / 'report.html'}")
