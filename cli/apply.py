"""``ldct-denoise apply``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from ldct_denoise.io.write_settings import Compression, PrivateTags

from . import options


@click.command(short_help="Denoise a patient series; write a derived series.")
@click.argument("series", type=options.EXISTING)
@options.output
@click.option(
    "--model",
    help="A shipped model, a model file, a run folder, or a method without training (see `models`).  "
    "[default: the model that ships]",
)
@options.strength
@click.option(
    "--noise-reduction",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Reduce the noise in uniform tissue by this much, instead of --strength; 50 leaves half of it.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse series with problems, or outside the images that the model was trained on.",
)
@options.device
@options.precision
@click.option("--seed", type=int, default=0, show_default=True, help="For methods that draw random numbers.")
@options.tta
@click.option("--report", is_flag=True, help="Also compare input and output: OUTPUT-report.html.")
@options.output_format
@click.option("--compress", type=click.Choice(get_args(Compression)), help="Lossless compression (DICOM).")
@click.option(
    "--private-tags",
    type=click.Choice(get_args(PrivateTags)),
    default="keep",
    show_default=True,
    help="Private attributes (DICOM).",
)
@click.option("--keep-manufacturer", is_flag=True, help="Keep the scanner's Manufacturer attribute (DICOM).")
@click.option("--convert-enhanced", is_flag=True, help="Write Enhanced CT as classic CT images.")
@click.option("--deidentify", is_flag=True, help="Remove the patient's identity (DICOM PS3.15 basic profile).")
@options.assume_hu
@options.method_files
@options.overwrite
def command(
    series: Path,
    output: Path,
    model: str | None,
    strength: float | None,
    noise_reduction: float | None,
    strict: bool,
    device: str,
    precision: str,
    seed: int,
    tta: bool,
    report: bool,
    assume_hu: bool,
    **writing: Any,
) -> None:
    """Denoise SERIES: a DICOM folder, file or tree with several series, or a NIfTI/NRRD/MHA volume.

    Writes a derived DICOM series (or the volume's format) to --output, whole or not at all. The input is never
    changed. The same command resumes an interrupted tree (OUTPUT-ledger.jsonl lists the finished series), and
    processes started by torchrun or Slurm share the series. Research use only.
    """
    from ldct_denoise.inference.batch import apply
    from ldct_denoise.inference.settings import ApplySettings
    from ldct_denoise.io.write_settings import WriteSettings
    from ldct_denoise.models.trained import DEFAULT_MODEL, load_model

    settings = ApplySettings(
        strength,
        device,
        precision,  # type: ignore[arg-type]
        seed,
        tta=tta,
        noise_reduction=noise_reduction,
        strict=strict,
        assume_hu=assume_hu,
    )
    loaded = load_model(model or DEFAULT_MODEL)
    write_report = None
    if report:
        from ldct_denoise.report.apply import apply_report_writer

        write_report = apply_report_writer(loaded, settings)
    with options.progress_bar("denoising") as progress:
        written = apply(
            series, loaded, output, settings, WriteSettings(**writing),
            write_report=write_report, progress=progress, notify=partial(click.echo, err=True),
        )  # fmt: skip
    for path in written:
        click.echo(path)
