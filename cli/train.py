"""``ldct-denoise train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completion, options, terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ldct_denoise.config import Config
    from ldct_denoise.data.pools import Pools


@click.command(short_help="Train a method on a low-dose and a normal-dose pool.")
@click.option(
    "--dicom-root",
    type=options.EXISTING,
    help="Folder tree with series of both doses (Mayo 2016, TCIA layout, …).",
)
@click.option(
    "--low",
    type=options.EXISTING,
    multiple=True,
    help="Instead of --dicom-root: low-dose series, DICOM or volume files. Repeatable.",
)
@click.option("--normal", type=options.EXISTING, multiple=True, help="With --low: normal-dose series. Repeatable.")
@click.option(
    "--manifest",
    type=options.EXISTING,
    help="Instead of --dicom-root: CSV table of series (inspect --write-manifest).",
)
@click.option(
    "--images",
    type=options.EXISTING,
    help="Instead of --dicom-root: folder of grey photographs (--config natural-lir).",
)
@click.option("--output", "-o", type=options.PATH, help="Run folder. Required, except with --explain.")
@click.option(
    "--config",
    shell_complete=completion.recipes,
    default="lir-quick",
    show_default=True,
    help="Name of a recipe or method, or a YAML file.",
)
@click.option(
    "--set",
    "changes",
    shell_complete=completion.settings,
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, such as training.iterations=500. Repeatable. In a recipe with two stages (lir-ct) it "
    "applies to both, unless the first has its own value; change that as pretraining.training.iterations=500.",
)
@click.option("--folds", type=click.IntRange(min=2), help="Cross-validation: number of folds of patients.")
@click.option(
    "--fold",
    type=click.IntRange(min=0),
    help="With --folds or a file for --split: index of the fold that is held out, from 0.",
)
@options.split
@options.dose_patterns
@options.assume_hu
@options.device
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the interrupted run in --output. Images and settings must be the same, except length and "
    "learning rate.",
)
@options.method_files
@options.overwrite
@click.option(
    "--sweep",
    "sweep_file",
    type=options.EXISTING,
    metavar="FILE.yaml",
    help="Search settings with Optuna, one run for each trial (docs/how-to/sweep.md). --resume continues.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, and print the resolved configuration (YAML), with the plan of the run as comments. "
    "Writes nothing.",
)
@click.option(
    "--explain",
    is_flag=False,
    flag_value="",
    metavar="[KEY]",
    help="List the settings of the recipe and its method with type, default and meaning. KEY is a section (data) "
    "or a setting (patch_size).",
)
def command(
    dicom_root: Path | None,
    low: tuple[Path, ...],
    normal: tuple[Path, ...],
    manifest: Path | None,
    images: Path | None,
    folds: int | None,
    fold: int | None,
    split: str | None,
    output: Path | None,
    config: str,
    changes: tuple[str, ...],
    low_patterns: tuple[str, ...],
    normal_patterns: tuple[str, ...],
    assume_hu: bool,
    device: str,
    resume: bool,
    overwrite: bool,
    sweep_file: Path | None,
    dry_run: bool,
    explain: str | None,
) -> None:
    """Train a denoiser on low-dose and normal-dose series.

    Writes config.yaml, training.csv, TensorBoard events and model.safetensors to --output. First check with
    `ldct-denoise inspect` that every series has the right dose. Unpaired methods never see pairs. To fine-tune a
    trained model on your own images: --set training.pretrained_weights=lir-ct.
    """
    from ldct_denoise import methods
    from ldct_denoise.config import load_config

    patterns = {"low_patterns": low_patterns, "normal_patterns": normal_patterns}
    given = [f"data.{key}={json.dumps(words)}" for key, words in patterns.items() if words]
    if assume_hu:
        given.append("data.assume_hu=true")
    if split is not None:
        given += [f"data.split={json.dumps(split)}", f"data.fold={fold or 0}"]
    elif folds is not None or fold is not None:
        given += [f"data.folds={folds or 5}", f"data.fold={fold or 0}"]
    settings = load_config(config, (*changes, *given), methods.names(), methods.check_settings)
    if explain is not None:
        from ldct_denoise.training.explain import explain_settings

        click.echo("\n\n".join(setting.describe() for setting in explain_settings(settings, explain)))
        return
    if output is None:
        raise click.UsageError("Missing option '--output' / '-o'.")
    if sweep_file is not None:
        if overwrite or dry_run:
            raise click.UsageError("--sweep does not go with --overwrite and --dry-run")
        _sweep(
            sweep_file,
            output,
            lambda more: load_config(config, (*changes, *given, *more), methods.names()),
            lambda each: _pools(each, dicom_root, low, normal, manifest, images),
            device,
            resume,
        )
        return
    if dry_run:
        from ldct_denoise.training.plan import plan_training

        with terminal.progress_bar("reading headers") as bar:
            pools = _pools(settings, dicom_root, low, normal, manifest, images)
            bar.stage("planning")
            plan = plan_training(settings, pools, output, device=device, resume=resume, overwrite=overwrite)
        click.echo(settings.to_yaml() + "\n".join(f"# {terminal.plain(line)}" for line in plan))
        return
    with terminal.TrainingDisplay().shown() as display:
        from ldct_denoise.training.loop import train

        display.bar.stage("reading headers")
        pools = _pools(settings, dicom_root, low, normal, manifest, images)
        model = train(settings, pools, output, device=device, resume=resume, overwrite=overwrite, report=display)
    click.echo(model)


def _sweep(
    file: Path,
    output: Path,
    load: Callable[[list[str]], Config],
    pools: Callable[[Config], Pools],
    device: str,
    resume: bool,
) -> None:
    """Search settings, and print the best trials."""
    from ldct_denoise.training.sweep import TABLE, read_sweep, sweep

    search = read_sweep(file)
    with terminal.progress_bar("searching") as bar:
        results = sweep(
            search,
            output,
            load=load,
            pools=pools,
            device=device,
            resume=resume,
            report=lambda number, progress: bar(number, search.trials, f"trial {number}, step {progress.step}"),
        )
    for result in results[:5]:
        chosen = " ".join(f"--set {key}={value}" for key, value in result.settings.items())
        click.echo(f"{result.value:.4f}  {result.folder}  {chosen}")
    click.echo(output / TABLE)


def _pools(
    config: Config,
    root: Path | None,
    low: tuple[Path, ...],
    normal: tuple[Path, ...],
    manifest: Path | None,
    images: Path | None,
) -> Pools:
    from ldct_denoise import methods
    from ldct_denoise.data.pools import (
        pools_from_images,
        pools_from_manifest,
        pools_from_paths,
        pools_from_root,
    )

    if sum((root is not None, bool(low or normal), manifest is not None, images is not None)) != 1:
        raise click.UsageError("give one of --dicom-root, --low and --normal, --manifest, and --images")
    supervision, seed = methods.describe(config.method).supervision, config.training.seed
    if images is not None:
        return pools_from_images(images, supervision, seed)
    if manifest is not None:
        return pools_from_manifest(manifest, config.data, seed, supervision)
    if root is not None:
        return pools_from_root(root, config.data, seed, supervision)
    return pools_from_paths(low, normal, config.data, seed, supervision)
