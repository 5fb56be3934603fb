"""``ldct-denoise adapt``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command(short_help="Adapt a trained model to your own scanner in a minute.")
@click.argument("model")
@click.option("--low", type=options.EXISTING, multiple=True, required=True, help="Low-dose series; repeatable.")
@click.option(
    "--normal", type=options.EXISTING, multiple=True, required=True, help="Normal-dose series; repeatable."
)
@click.option("--output", "-o", type=options.PATH, required=True, help="Run folder; apply --model takes it.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the recipe lir-adapt; repeatable.",
)
@options.device
@options.overwrite
def command(
    model: str,
    low: tuple[Path, ...],
    normal: tuple[Path, ...],
    output: Path,
    changes: tuple[str, ...],
    device: str,
    overwrite: bool,
) -> None:
    """Train MODEL (such as lir-ct) on for 250 steps on your own pools; about a minute on two CPU cores.

    The pools need not be paired, but must have a kernel in common, with at least three slices of each dose. RUN
    holds the adapted model if the error on your low-dose images falls, by an estimate without pairs, and noise
    of other kernels is still removed as well. Otherwise RUN holds MODEL as it was.
    """
    from ldct_denoise import methods
    from ldct_denoise.data.pools import pools_from_paths
    from ldct_denoise.models.trained import load_model
    from ldct_denoise.training.adapt import adapt, adaptation_config

    config = adaptation_config(load_model(model), model, changes)
    supervision = methods.describe(config.method).supervision
    pools = pools_from_paths(low, normal, config.data, config.training.seed, supervision)
    with options.progress_bar("adapting") as bar:
        result = adapt(
            model,
            pools,
            output,
            changes=changes,
            device=device,
            overwrite=overwrite,
            report=lambda progress: options.show_training(progress, bar),
        )
    click.echo(result.summary())
    click.echo(result.model)
