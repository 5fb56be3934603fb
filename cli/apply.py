"""``ldct-denoise apply``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from . import options


@click.command(short_help="Denoise a patient series; write a derived series.")
@click.argument("series", type=options.EXISTING)
@options.output
@click.option("--model", default=None, help="A shipped model, a model file, a run folder, or a method without "
              "training (see `models`).  [default: the model that ships]")  # fmt: skip
@click.option(
    "--strength", type=float, default=1.0, show_default=True, help="0 gives the input back, 1 the model's output."
)
@options.device
@options.precision
@click.option("--seed", type=int, default=0, show_default=True, help="For methods that draw random numbers.")
@options.tta
@click.option("--report", is_flag=True, help="Also measure input against output: OUTPUT-report.html.")
@click.option(
    "--format",
    type=click.Choice(["dicom", "nifti"]),
    help="Of the output.  [default: by its name, else the input's]",
)
@click.option("--compress", type=click.Choice(["jpegls", "j2k", "rle"]), help="Lossless compression (DICOM).")
@click.option(
    "--private-tags",
    type=click.Choice(["keep", "remove"]),
    default="keep",
    show_default=True,
    help="Private attributes.",
)
@click.option(
    "--keep-manufacturer", is_flag=True, help="Manufacturer stays the scanner's, for sites that select by it."
)
@click.option("--convert-enhanced", is_flag=True, help="Write Enhanced CT as classic CT images.")
@click.option(
    "--deidentify", is_flag=True, help="Take the patient out (DICOM PS3.15 basic profile), for those who share."
)
@options.overwrite
def command(
    series: Path,
    output: Path,
    model: str | None,
    strength: float,
    device: str,
    precision: str,
    seed: int,
    tta: bool,
    **writing: Any,
) -> None:
    """Denoise SERIES: a DICOM folder, file or tree with several series, or a NIfTI/NRRD/MHA volume.

    Writes a derived DICOM series (or the volume's format) to --output, whole or not at all. The input is never
    changed. Of a tree, the same command goes on where it stopped (OUTPUT-ledger.jsonl lists what is done), and
    processes that torchrun or Slurm started share the series. Research use only.
    """
    from ldct_denoise.inference.batch import apply
    from ldct_denoise.inference.series import WriteSettings
    from ldct_denoise.inference.slices import ApplySettings
    from ldct_denoise.models.trained import DEFAULT_MODEL, load_model

    settings = ApplySettings(strength, device, precision, seed, tta=tta)  # type: ignore[arg-type]
    with options.progress_bar("denoising") as progress:
        loaded, writes = load_model(model or DEFAULT_MODEL), WriteSettings(**writing)
        written = apply(series, loaded, output, settings, writes, progress, partial(click.echo, err=True))
    for path in written:
        click.echo(path)
