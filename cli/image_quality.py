"""``ldct-denoise image-quality``: image quality of a model on a simulated phantom."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command(
    "image-quality",
    short_help="Noise, resolution, lesions and dose equivalence of a model, on a phantom and on your images.",
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
@click.option(
    "--series",
    "paths",
    type=options.EXISTING,
    multiple=True,
    metavar="PATH",
    help="Your own CT images: lesions and thin discs are inserted into slices of every series below PATH, to "
    "measure how much of their contrast the model leaves, and the resolution along z. Repeatable.",
)
@click.option(
    "--slices",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Slices of each series that lesions are inserted into.",
)
@options.strength
@options.device
@options.method_files
@options.signature
@options.overwrite
def command(
    model: str | None,
    output: Path,
    dose: float,
    lesions: tuple[str, ...],
    realisations: int,
    seed: int,
    paths: tuple[Path, ...],
    slices: int,
    strength: float | None,
    device: str,
    author: str,
    site: str,
    overwrite: bool,
) -> None:
    """Denoise a simulated phantom and measure image quality before and after.

    Measures the noise power spectrum, resolution by contrast, HU linearity, detectability of lesions in liver and
    lung by three model observers, and the dose at which unprocessed images reach the same detectability. With
    --series also the contrast that lesions keep in your own images, by size, contrast, kernel and dose, and the
    noise and resolution along z where slices are contiguous. Writes summary.json and report.html.
    """
    from ldct_denoise.evaluation.along_z import AlongZ, find_and_measure_along_z
    from ldct_denoise.evaluation.contrast_recovery import SeriesRecovery, find_and_measure
    from ldct_denoise.evaluation.image_quality import ImageQualitySettings, measure_image_quality, slice_restorer
    from ldct_denoise.inference.settings import ApplySettings
    from ldct_denoise.models.trained import DEFAULT_MODEL, load_model
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.phantoms.tasks import DEFAULT_LESIONS, Lesion
    from ldct_denoise.report.along_z import along_z_sentences
    from ldct_denoise.report.contrast_recovery import recovery_sentences
    from ldct_denoise.report.identity import Signature
    from ldct_denoise.report.image_quality import sentences, write_image_quality_report
    from ldct_denoise.report.verdict import answer, study_checks

    settings = ImageQualitySettings(
        dose=dose,
        lesions=tuple(map(Lesion.parse, lesions)) or DEFAULT_LESIONS,
        realisations=realisations,
        seed=seed,
    )
    make_output_folder(output, overwrite)
    loaded = load_model(model or DEFAULT_MODEL)
    restore = slice_restorer(loaded, ApplySettings(strength=strength, device=device, seed=seed))
    with options.progress_bar("phantom") as bar:
        found = measure_image_quality(restore, settings, progress=lambda done, total: bar(done, total, ""))
    recovery: list[SeriesRecovery] = []
    along_z: list[AlongZ] = []
    if paths:
        control = slice_restorer(load_model(DEFAULT_MODEL), ApplySettings(strength=1.0, device=device))
        with options.progress_bar("your images") as bar:
            recovery, skipped = find_and_measure(paths, restore, control, slices=slices, seed=seed, progress=bar)
        with options.progress_bar("along z") as bar:
            along_z, not_contiguous = find_and_measure_along_z(paths, restore, progress=bar)
        for reason in [*skipped, *not_contiguous]:
            click.echo(f"skipped: {options.plain(reason)}", err=True)
    about = {"model": loaded.name, "method": loaded.method_name, "checksum": loaded.checksum}
    if strength is not None:
        about["strength"] = f"strength {100 * strength:g} %"
    signature = Signature(author, site)
    write_image_quality_report(found, output, about, recovery, along_z, signature=signature, overwrite=True)
    ours = [*recovery_sentences(recovery), *along_z_sentences(along_z)]
    click.echo(f"{answer(study_checks(found))}\n")
    click.echo("\n".join([*sentences(found), *map(options.plain, ours)]))
    click.echo(f"{output / 'report.html'}")
