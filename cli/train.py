"""``ldct-denoise train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from ldct_denoise.config import Config
    from ldct_denoise.data.pools import Pools


@click.command(short_help="Train a method on a low-dose and a normal-dose pool.")
@click.option(
    "--dicom-root", type=options.EXISTING, help="One tree whose series tell their dose (Mayo 2016, TCIA)."
)
@click.option("--low", type=options.EXISTING, multiple=True, help="Low-dose series, DICOM or NIfTI; repeatable.")
@click.option("--normal", type=options.EXISTING, multiple=True, help="Normal-dose series; repeatable.")
@click.option("--images", type=options.EXISTING, help="Instead: a folder of grey images (configs/natural-*.yaml).")
@options.output
@click.option("--config", default="lir-ct", show_default=True, help="A recipe's name, or a YAML file.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change any setting, as training.iterations=500; repeatable.",
)
@options.device
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with an interrupted run in --output: same images; same settings but for length and learning rate.",
)
@options.overwrite
def command(
    dicom_root: Path | None,
    low: tuple[Path, ...],
    normal: tuple[Path, ...],
    images: Path | None,
    output: Path,
    config: str,
    changes: tuple[str, ...],
    device: str,
    resume: bool,
    overwrite: bool,
) -> None:
    """Train a denoiser; RUN (--output) holds config.yaml, training.csv, TensorBoard events and model.safetensors.

    No pair is ever shown to an unpaired method. Use `ldct-denoise inspect` first to see how doses were told. To
    begin with a trained model's weights and go on with your own images: --set training.pretrained_weights=lir-ct.
    """
    from ldct_denoise.config import load_config

    settings = load_config(config, changes)
    pools = _pools(settings, dicom_root, low, normal, images)
    from ldct_denoise.training.loop import train

    with options.progress_bar("training") as bar:
        model = train(
            settings,
            pools,
            output,
            device=device,
            resume=resume,
            overwrite=overwrite,
            report=lambda p: options.show_training(p, bar),
        )
    click.echo(model)


def _pools(
    config: Config, root: Path | None, low: tuple[Path, ...], normal: tuple[Path, ...], images: Path | None
) -> Pools:
    from ldct_denoise import methods
    from ldct_denoise.data.pools import pools_from_images, pools_from_paths, pools_from_root

    if sum((root is not None, bool(low or normal), images is not None)) != 1:
        raise click.UsageError("give either --dicom-root, or --low and --normal, or --images")
    supervision, seed = methods.describe(config.method).supervision, config.training.seed
    if images is not None:
        return pools_from_images(images, supervision, seed)
    if root is not None:
        return pools_from_root(root, config.data, seed, supervision)
    return pools_from_paths(low, normal, config.data, seed, supervision)
