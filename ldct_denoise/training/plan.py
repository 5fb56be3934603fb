"""The plan of a training run, which ``train --dry-run`` prints and which writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ldct_denoise import methods
from ldct_denoise.config import Config
from ldct_denoise.data.pools import Pools
from ldct_denoise.distributed import World, join_world
from ldct_denoise.training.duration import duration_notes
from ldct_denoise.training.fine_tuning import load_pretrained
from ldct_denoise.training.run_folder import check_run_folder
from ldct_denoise.training.stages import Stage, check_batch_size, notes, stages
from ldct_denoise.training.state import STATE_FILE, RunState, create_run
from ldct_denoise.training.step import TrainingStep
from ldct_denoise.volume import SliceSource


def plan_training(
    config: Config,
    pools: Pools,
    output: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Check a run and describe it, without writing or simulating anything.

    The parameters are those of :func:`~ldct_denoise.training.loop.train`.

    Parameters
    ----------
    config : Config
        Settings of the run.
    pools : Pools
        Images of the run.
    output : Path
        Run folder.
    device : str
        Where to compute.
    resume : bool
        Continue from a checkpoint.
    overwrite : bool
        Start again in a folder that holds a run.

    Returns
    -------
    list of str
        Lines: images, then for each stage networks, phases, steps, folder and notes.

    Raises
    ------
    ConfigError, OutputError, ModelError
        If the run would be refused.
    """
    lines = [
        *_pool_lines("low dose", pools.low),
        *_pool_lines("normal dose", pools.normal),
        *_pool_lines("validation, low dose", pools.validation_low),
        *_pool_lines("validation, normal dose", pools.validation_normal),
        f"pairs of slices: {sum(len(pair.indices) for pair in pools.pairs)} of training patients, "
        f"{sum(len(pair.indices) for pair in pools.validation_pairs)} of validation patients",
    ]
    with join_world(device) as world:
        check_run_folder(output, resume, overwrite)
        for stage in stages(config, output):
            check_batch_size(stage.config.training, world.size)
            lines += _stage_lines(stage, pools, world, resume)
    return lines


def _pool_lines(title: str, sources: tuple[SliceSource, ...]) -> Iterator[str]:
    if sources:
        patients = sorted({source.patient or "(no patient ID)" for source in sources})
        slices = sum(len(source) for source in sources)
        yield f"{title}: {len(sources)} series with {slices} slices; patients: {', '.join(patients)}"


def _stage_lines(stage: Stage, pools: Pools, world: World, resume: bool) -> Iterator[str]:
    config, settings = stage.config, stage.config.training
    run = create_run(config, world)
    has_noise = run.method.uses_noise and config.data.noise_model != "none"
    TrainingStep(config, world).check_losses(run, _blank_sample(run, config, has_noise))
    yield f"{stage.title or 'training'}: writes to {stage.output}"
    if resume and (stage.output / STATE_FILE).is_file():
        yield f"  resumes from {stage.output / STATE_FILE}"
    elif stage.pretrained is not None and stage.pretrained == settings.pretrained_weights:
        yield f"  {load_pretrained(run, stage.pretrained, config, pools)}"
    elif stage.pretrained is not None:
        yield f"  starting from the weights of {stage.pretrained}"
    kept = sum(weight.numel() for weight in run.method.restoration_parameters().values())
    yield f"  method: {config.method} ({methods.describe(config.method).title}); the model has {kept:,} weights"
    yield f"  phases of a step: {', '.join(_phase_texts(run))}"
    limit = "" if settings.max_minutes is None else f", at most {settings.max_minutes:g} minutes"
    side, images = config.data.patch_size, settings.batch_size
    yield f"  steps: {settings.iterations}{limit}; {images} patches of {side}×{side} pixels of each pool a step"
    yield (
        f"  validation every {settings.validate_every} steps, checkpoint every {settings.checkpoint_every}; "
        f"keeps the {settings.checkpoint} weights"
    )
    yield f"  device: {world.device}, {settings.precision}, {world.size} process{'es' if world.size > 1 else ''}"
    if config.data.simulated_dose is not None:
        low, high = config.data.simulated_dose
        scans, folder = config.data.noise_realisations, config.data.cache_dir or stage.scratch
        yield f"  simulates {scans} scans of each normal-dose series at {low:g} to {high:g} of its dose: {folder}"
    for note in (*notes(stage, run, pools, has_noise, world.device), *duration_notes(config, world, has_noise)):
        yield f"  note: {note}"


def _phase_texts(run: RunState) -> Iterator[str]:
    for phase in run.phases:
        weights = sum(parameter.numel() for parameter in phase.parameters)
        times = f"{phase.repeats} × " if phase.repeats > 1 else ""
        yield f"{times}{phase.name} ({weights:,} weights)"


def _blank_sample(run: RunState, config: Config, has_noise: bool) -> dict[str, torch.Tensor]:
    """A sample without content, to find out which losses there are."""
    side, channels = config.data.patch_size, 2 * run.method.training_context_slices + 1
    names = ("low", "normal", "noise") if has_noise else ("low", "normal")
    return {name: torch.zeros(channels, side, side) for name in names}
