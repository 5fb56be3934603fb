"""``ldct-denoise physics``: a model on a simulated phantom."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command(
    short_help="A model's noise, resolution, detectability and dose equivalence on a simulated phantom."
)
@click.option(
    "--model", help="Shipped model, .safetensors file, run folder, or method without training (bm3d:strength=0.8)."
)
@options.output
@click.option(
    "--dose",
    type=click.FloatRange(0.01, 1),
    default=0.25,
    show_default=True,
    help="Of the denoised images, as a fraction of the normal.",
)
@click.option(
    "--lesion",
    type=float,
    default=-6.0,
    show_default=True,
    metavar="HU",
    help="Contrast of the lesion to be seen.",
)
@click.option(
    "--realisations", type=click.IntRange(2, 200), default=16, show_default=True, help="Slices of each kind."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@options.device
@options.overwrite
def command(
    model: str | None,
    output: Path,
    dose: float,
    lesion: float,
    realisations: int,
    seed: int,
    device: str,
    overwrite: bool,
) -> None:
    """Denoise a simulated phantom and say what is gained and lost.

    Noise power spectrum, resolution by contrast, HU linearity, detectability of a lesion by two observers, and the
    dose at which unprocessed images are as good. Writes summary.json and report.html.
    """
    from ldct_denoise.evaluation.phantom_study import StudySettings, restore_with, study_phantom
    from ldct_denoise.inference.slices import ApplySettings
    from ldct_denoise.models.trained import DEFAULT_MODEL, load_model
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.phantom import sentences, write_phantom_report

    settings = StudySettings(dose=dose, lesion_hu=lesion, realisations=realisations, seed=seed)
    make_output_folder(output, overwrite)
    loaded = load_model(model or DEFAULT_MODEL)
    with options.progress_bar("measuring") as bar:
        found = study_phantom(
            restore_with(loaded, ApplySettings(device=device, seed=seed)),
            settings,
            progress=lambda done, total: bar(done, total, ""),
        )
    about = {"model": loaded.name, "method": loaded.method_name, "checksum": loaded.checksum}
    write_phantom_report(found, output, about, overwrite=True)
    click.echo("\n".join(sentences(found)))
    click.echo(f"{output / 'report.html'}")
