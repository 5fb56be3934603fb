"""``ldct-denoise image-quality``: image quality of a model on a phantom, simulated or scanned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completion, options, terminal

if TYPE_CHECKING:
    from ldct_denoise.inference.settings import ApplySettings
    from ldct_denoise.models.trained import TrainedModel
    from ldct_denoise.report.identity import Signature
    from ldct_denoise.volume import SliceSource


@click.command(
    "image-quality",
    short_help="Measure image quality on phantoms, and lesion contrast in your images.",
)
@click.argument("scans", nargs=-1, type=options.EXISTING, metavar="[SCAN]...")
@click.option(
    "--phantom",
    type=click.Choice(("auto", "uniform", "acr", "catphan503", "catphan504", "catphan600", "catphan604")),
    help="With SCAN: kind of the phantom; auto recognises it.  [default: auto]",
)
@click.option(
    "--model",
    shell_complete=completion.models,
    help="Shipped model, .safetensors file, run folder, or untrained method (bm3d:sigma_factor=0.8).  "
    "[default: lir-ct; with SCAN: none]",
)
@options.output
@click.option(
    "--dose",
    type=click.FloatRange(0.01, 1),
    default=0.25,
    show_default=True,
    help="Simulated dose of the images that are denoised, as a fraction of normal dose.",
)
@click.option(
    "--lesion",
    "lesions",
    multiple=True,
    metavar="BACKGROUND,MM,HU",
    help="Lesion to detect: background (liver or lung), diameter and contrast, such as liver,7,-10. Repeatable.  "
    "[default: three in each background]",
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
    help="Your own CT images. Lesions and thin discs are inserted into slices of every series in PATH, to measure "
    "their remaining contrast and the resolution along z. Repeatable.",
)
@click.option(
    "--slices",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="With --series: slices of each series into which lesions are inserted.",
)
@click.option(
    "--sr",
    is_flag=True,
    help="With SCAN: also write mean HU, standard deviation and area of every ROI as DICOM SR (TID 1500).",
)
@options.strength
@options.device
@options.method_files
@options.signature
@options.open_report
@options.overwrite
def command(
    scans: tuple[Path, ...],
    phantom: str | None,
    model: str | None,
    output: Path,
    dose: float,
    lesions: tuple[str, ...],
    realisations: int,
    seed: int,
    paths: tuple[Path, ...],
    slices: int,
    sr: bool,
    strength: float | None,
    device: str,
    author: str,
    site: str,
    open_report: bool,
    overwrite: bool,
) -> None:
    """Measure the image quality of a phantom, simulated or scanned, before and after denoising.

    With SCAN...: scans of your own phantom at one or more doses. The command finds the phantom in each scan. It
    measures noise, uniformity, HU and resolution of the inserts, low contrast, detectability, and the dose at
    which unprocessed scans reach the same detectability. Without --model it measures only the scans. Writes
    report.html, summary.pdf, metrics.csv and summary.json; with --sr also DICOM SR.

    Without SCAN: a simulated phantom. Measures the noise power spectrum, resolution by contrast, HU linearity,
    detectability of lesions in liver and lung by three model observers, and the dose at which unprocessed images
    reach the same detectability. With --series it also measures the remaining contrast of lesions in your own
    images, by size, contrast, kernel and dose, and noise and resolution along z in contiguous slices. Writes
    summary.json and report.html.
    """
    from ldct_denoise.errors import ConfigError
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
    from ldct_denoise.report.phantom_checks import study_checks
    from ldct_denoise.report.verdict import answer

    if sr and not scans:
        raise ConfigError("--sr belongs to scans of your own phantom: image-quality --sr SCAN...")
    if scans or phantom:
        if paths or lesions:
            raise ConfigError("--series and --lesion belong to the simulated phantom; leave them out with SCAN")
        settings = ApplySettings(strength=strength, device=device, seed=seed)
        signature = Signature(author, site)
        _measure_scans(scans, phantom or "auto", model, settings, output, signature, sr=sr, overwrite=overwrite)
        if open_report:
            options.open_in_browser(output / "report.html")
        return
    simulation = ImageQualitySettings(
        dose=dose,
        lesions=tuple(map(Lesion.parse, lesions)) or DEFAULT_LESIONS,
        realisations=realisations,
        seed=seed,
    )
    make_output_folder(output, overwrite)
    recovery: list[SeriesRecovery] = []
    along_z: list[AlongZ] = []
    with terminal.progress_bar("loading the model") as bar:
        loaded = load_model(model or DEFAULT_MODEL)
        restore = slice_restorer(loaded, ApplySettings(strength=strength, device=device, seed=seed))
        bar.stage("measuring the phantom")
        found = measure_image_quality(restore, simulation, progress=bar)
        if paths:
            bar.stage("lesions in your images")
            control = slice_restorer(load_model(DEFAULT_MODEL), ApplySettings(strength=1.0, device=device))
            recovery, skipped = find_and_measure(paths, restore, control, slices=slices, seed=seed, progress=bar)
            bar.stage("noise and resolution along z")
            along_z, not_contiguous = find_and_measure_along_z(paths, restore, progress=bar)
            for reason in [*skipped, *not_contiguous]:
                terminal.say(f"skipped: {reason}")
    about = _about(loaded, strength)
    signature = Signature(author, site)
    write_image_quality_report(found, output, about, recovery, along_z, signature=signature, overwrite=True)
    ours = [*recovery_sentences(recovery), *along_z_sentences(along_z)]
    terminal.print_paragraph(answer(study_checks(found)))
    click.echo()
    click.echo("\n".join([*sentences(found), *map(terminal.plain, ours)]))
    click.echo(f"{output / 'report.html'}")
    if open_report:
        options.open_in_browser(output / "report.html")


def _about(model: TrainedModel, strength: float | None) -> dict[str, str]:
    """What the report says of the model."""
    about = {"model": model.name, "method": model.method_name, "checksum": model.checksum}
    return about if strength is None else about | {"strength": f"strength {100 * strength:g} %"}


def _measure_scans(
    scans: tuple[Path, ...],
    phantom: str,
    model: str | None,
    settings: ApplySettings,
    output: Path,
    signature: Signature,
    *,
    sr: bool,
    overwrite: bool,
) -> None:
    """Measure scans of a real phantom."""
    from ldct_denoise.errors import ConfigError, InputError
    from ldct_denoise.evaluation.image_quality import slice_restorer
    from ldct_denoise.evaluation.phantom_scan import measure_phantom_scans
    from ldct_denoise.io.derived.measurement_report import import_sr
    from ldct_denoise.io.find import find_images
    from ldct_denoise.models.trained import load_model
    from ldct_denoise.output import make_output_folder
    from ldct_denoise.report.phantom_scan import phantom_sentences, scan_checks, write_phantom_report
    from ldct_denoise.report.structured_report import write_phantom_structured_reports
    from ldct_denoise.report.verdict import answer

    if not scans:
        raise ConfigError("--phantom: give the scans of your phantom: image-quality --phantom auto SCAN...")
    if sr:
        import_sr()
    make_output_folder(output, overwrite)
    sources: list[SliceSource] = []
    for path in scans:
        found = find_images(path)
        if not found.series:
            reason = f": {found.skipped[0].reason}" if found.skipped else ""
            raise InputError(f"{path}: no CT series{reason}; give the folder of a scan")
        sources += found.series
    loaded = load_model(model) if model else None
    restore = slice_restorer(loaded, settings) if loaded else None
    with terminal.progress_bar("phantom") as bar:
        study = measure_phantom_scans(
            sources, phantom, restore, seed=settings.seed, progress=lambda done, total: bar(done, total, "")
        )
    about = _about(loaded, settings.strength) if loaded else {}
    write_phantom_report(study, output, about, signature=signature, overwrite=True)
    structured = write_phantom_structured_reports(study, output / "sr") if sr else []
    if loaded:
        terminal.print_paragraph(answer(scan_checks(study)))
        click.echo()
    click.echo("\n".join(map(terminal.plain, phantom_sentences(study))))
    for path in structured:
        click.echo(f"{path}")
    click.echo(f"{output / 'report.html'}")
