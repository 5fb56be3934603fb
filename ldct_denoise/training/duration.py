"""How long a run will take: on this machine from one timed step, on any from its counted operations."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from ldct_denoise.config import Config
from ldct_denoise.distributed import World
from ldct_denoise.training.state import create_run
from ldct_denoise.training.step import TrainingStep

#: Runs of at least this many steps say how long they will take; shorter ones show it soon enough.
LONG_RUN_STEPS = 20_000
#: Patches with which operations are counted: the adversarial part of a step may take a quarter of them.
COUNTED_PATCHES = 4
#: Patches of the timed step on a CPU, where the time is proportional to their number.
TIMED_PATCHES = 2


def estimated_hours(config: Config, world: World, has_noise: bool) -> float:
    """Estimate the duration of a run from a step on blank patches; its networks are made for this alone.

    Parameters
    ----------
    config : Config
        Settings of the run.
    world : World
        Device and processes.
    has_noise : bool
        Whether noise is added to normal-dose patches.

    Returns
    -------
    float
        Hours, without reading images and validation.
    """
    settings, side = config.training, config.data.patch_size
    run, step = create_run(config, world), TrainingStep(config, world)
    whole = settings.batch_size // world.size
    parts = settings.gradient_accumulation_steps
    count = whole if world.device.type == "cuda" else min(whole, TIMED_PATCHES * parts)
    names = ("low", "normal", "noise") if has_noise else ("low", "normal")
    sample = {name: torch.zeros(count, run.method.in_channels, side, side) for name in names}
    step(run, sample, 0.0)  # the first step allocates
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    start = time.monotonic()
    step(run, sample, 0.0)
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return (time.monotonic() - start) * whole / count * settings.iterations / 3600


def counted_operations(config: Config, has_noise: bool) -> float:
    """Count the operations of a training step, without timing anything.

    Parameters
    ----------
    config : Config
        Settings of one stage.
    has_noise : bool
        Whether noise is added to normal-dose patches.

    Returns
    -------
    float
        Floating-point operations of convolutions and matrix products, forward and backward, of a step of the whole
        batch; the mean of as many steps as lie between two that compute all losses (``adversarial_interval``).
    """
    settings, side = config.training, config.data.patch_size
    fewer = settings.model_copy(update={"batch_size": COUNTED_PATCHES, "gradient_accumulation_steps": 1})
    small = config.model_copy(update={"training": fewer.model_copy(update={"precision": "fp32"})})
    world = World(0, 1, torch.device("cpu"))
    run, step = create_run(small, world), TrainingStep(small, world)
    names = ("low", "normal", "noise") if has_noise and run.method.uses_noise else ("low", "normal")
    sample = {
        name: torch.zeros(COUNTED_PATCHES, 2 * run.method.training_context_slices + 1, side, side)
        for name in names
    }
    steps = getattr(run.method.settings, "adversarial_interval", 1)
    with FlopCounterMode(display=False) as counter:
        for _ in range(steps):
            step(run, sample, 0.5)
            run.step += 1
    return counter.get_total_flops() / steps * settings.batch_size / COUNTED_PATCHES


def duration_notes(config: Config, world: World, has_noise: bool) -> list[str]:
    """Note for the start of a long run; empty for a short one.

    Parameters
    ----------
    config : Config
        Settings of the run.
    world : World
        Device and processes.
    has_noise : bool
        Whether noise is added to normal-dose patches.
    """
    if config.training.iterations < LONG_RUN_STEPS:
        return []
    hours, steps = estimated_hours(config, world, has_noise), config.training.iterations
    time_text = (
        f"{hours / 24:.0f} days"
        if hours >= 72
        else f"{hours:.0f} hours"
        if hours >= 2
        else f"{60 * hours:.0f} min"
    )
    return [f"{steps} steps take about {time_text} on this machine, by one timed step ({world.device})"]
