"""``ldct-denoise export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from . import options


@click.command(short_help="Export a trained model to ONNX, torch.export, TorchScript or a MONAI bundle.")
@click.argument("model")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", "pt2", "torchscript", "monai-bundle"]),
    required=True,
    help="pt2 is the format of torch.export. monai-bundle writes a folder, the others a file.",
)
@click.option(
    "--pixel-spacing-mm",
    type=click.FloatRange(min=0.05, max=10),
    default=0.8,
    show_default=True,
    help="Pixel spacing of the slices. It sets the width of the low-frequency passthrough in pixels.",
)
@options.output
@options.method_files
@options.overwrite
def command(
    model: str,
    format_: Literal["onnx", "pt2", "torchscript", "monai-bundle"],
    pixel_spacing_mm: float,
    output: Path,
    overwrite: bool,
) -> None:
    """Export MODEL (a shipped model, a model file or a run folder) for use in other programs.

    The exported network takes and returns HU, for slices of 32×32 pixels or more. Before it is written, its output
    is compared with that of MODEL. ONNX needs: pip install 'ldct-denoise[onnx]'.
    """
    from ldct_denoise.export.export import export
    from ldct_denoise.export.verify import CHECKED
    from ldct_denoise.models.trained import load_model

    spacing_mm = (pixel_spacing_mm, pixel_spacing_mm)
    done = export(load_model(model), format_, output, spacing_mm=spacing_mm, overwrite=overwrite)
    click.echo(done.path)
    click.echo(f"largest difference on {len(CHECKED)} sizes: {done.difference_hu:.2g} HU", err=True)
