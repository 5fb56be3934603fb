"""``ldct-denoise image-quality``: image quality of a model on a simulated phantom."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command(
    "image-quality",
    short_help="Noise, resolution, detectability and dose equivalence of a model on a simulated phantom.",
)
@click.option(
    "--model", help="Shipped model, .safetensors file, run folder, or untrained method (bm3d:sigma_factor=0.8)."
)
@options.output
@click.option(
    "--dose",
    type=click.FloatRange(0.01, 1),
    default=0.25,
    show_default=True,
    help="Dose of the images that are denoised, as a fraction of the normal dose.",
)
@click.option(
    "--lesion",
    "lesions",
    multiple=True,
    metavar="BACKGROUND,MM,HU",
    help="A lesion to be detected: background (liver or lung), diameter and contrast, such as liver,7,-10. "
    "Repeatable; default: three in each background.",
)
@click.option(
    "--realisations",
    type=click.IntRange(3, 200),
    default=16,
    show_default=True,
    help="Noise realisations (slices) of each kind of image.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the noise.")
@options.strength
@options.device
@options.method_files
@options.overwrite
def command(
    model: str | None,
    output: Path,
    dose: float,
    lesions: tuple[str, ...],
    realisations: int,
    seed: int,
    strength: float | None,
    device: str,
    overwrite: bool,
) -> None:
    """Denoise a simulated phantom and measure image quality before and after.

    Measures the noise power spectrum, resolution by contrast, HU linearity, detectability of lesions in liver and
    lung by three model observers, and the dose at which unprocessed images reach the same detectability. Writes
    summary.json and report.html.
    """
    from ldct_denoise.evaluation.image_quality import ImageQualitySettings, measure_image_quality, slice_restorer
    from ldct_denoise.inference.settings import ApplySettings
    from ldct_denoise.models.trained import DEFAULT_MODEL, load_model
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.phantoms.tasks import DEFAULT_LESIONS, Lesion
    from ldct_denoise.report.image_quality import sentences, write_image_quality_report

    settings = ImageQualitySettings(
        dose=dose,
        lesions=tuple(map(Lesion.parse, lesions)) or DEFAULT_LESIONS,
        realisations=realisations,
        seed=seed,
    )
    make_output_folder(output, overwrite)
    loaded = load_model(model or DEFAULT_MODEL)
    with options.progress_bar("measuring") as bar:
        found = measure_image_quality(
            slice_restorer(loaded, ApplySettings(strength=strength, device=device, seed=seed)),
            settings,
            progress=lambda done, total: bar(done, total, ""),
        )
    about = {"model": loaded.name, "method": loaded.method_name, "checksum": loaded.checksum}
    write_image_quality_report(found, output, about, overwrite=True)
    click.echo("\n".join(sentences(found)))
    click.echo(f"{output / 'report.html'}")
