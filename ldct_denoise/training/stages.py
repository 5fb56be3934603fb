"""Stages of a run, and what is checked and noted before one starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ldct_denoise.config import Config
from ldct_denoise.data.pools import Pools
from ldct_denoise.distributed import emulates_bf16
from ldct_denoise.errors import ConfigError
from ldct_denoise.training.fine_tuning import may_have_seen_validation
from ldct_denoise.training.run_folder import FIRST_STAGE, SCRATCH
from ldct_denoise.training.state import RunState
from ldct_denoise.training_config import TrainingConfig


@dataclass(frozen=True)
class Stage:
    """One training of a run; a run with ``pretraining`` has two.

    Parameters
    ----------
    config : Config
        Settings of the stage.
    output : Path
        Folder of the stage.
    title : str
        Name for messages; empty where there is only one stage.
    pretrained : str or Path, optional
        Model whose weights the stage starts from.
    replaces : tuple of Path
        Folders whose earlier results are removed when the stage starts anew.
    scratch : Path
        Folder for simulated scans.
    """

    config: Config
    output: Path
    title: str
    pretrained: str | Path | None
    replaces: tuple[Path, ...]
    scratch: Path


def stages(config: Config, output: Path) -> list[Stage]:
    """Stages of a run: the pretraining, if there is one, and the training that starts from its weights."""
    first, folder, scratch = config.pretraining_config(), output / FIRST_STAGE, output / SCRATCH
    if first is None:
        weights = config.training.pretrained_weights
        return [Stage(config, output, "", weights, (output, folder), scratch)]
    return [
        Stage(first, folder, "stage 1 of 2", first.training.pretrained_weights, (output, folder), scratch),
        Stage(config, output, "stage 2 of 2", folder, (output,), scratch),
    ]


def check_batch_size(settings: TrainingConfig, processes: int) -> None:
    """Check that a batch can be split over processes and gradient accumulation steps.

    Raises
    ------
    ConfigError
        If it cannot.
    """
    parts = processes * settings.gradient_accumulation_steps
    if settings.batch_size % parts:
        raise ConfigError(
            f"training.batch_size: {settings.batch_size} cannot be split over {processes} processes "
            f"with {settings.gradient_accumulation_steps} parts each (gradient_accumulation_steps); "
            f"give a multiple of {parts}"
        )


def notes(stage: Stage, run: RunState, pools: Pools, has_noise: bool, device: torch.device) -> list[str]:
    """Notes at the start of a stage: images that are not used, losses that are off, slow arithmetic.

    Parameters
    ----------
    stage : Stage
        The stage.
    run : RunState
        Its networks, and the model that it started from.
    pools : Pools
        Images of the run.
    has_noise : bool
        Whether noise is added to normal-dose patches.
    device : torch.device
        Device of the run.
    """
    settings, found = stage.config.training, []
    # The first stage of this run holds back the same slices; a model that the user names may not have.
    is_named = stage.pretrained is not None and stage.pretrained == settings.pretrained_weights
    if is_named and may_have_seen_validation(run, pools):
        found.append("the pretrained model may have been trained on slices that are held back for validation")
    if settings.precision == "bf16" and emulates_bf16(device):
        found.append("this CPU has no instructions for bf16, which is slow here: training.precision=fp32")
    return [*found, *pools.notes, *run.method.notes(has_noise)]
