"""The state of a training run, and its checkpoint file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldct_denoise import methods
from ldct_denoise.config import Config
from ldct_denoise.distributed import World
from ldct_denoise.errors import ConfigError, ModelError
from ldct_denoise.methods.base import Method, Phase
from ldct_denoise.output import atomic_write
from ldct_denoise.training.discriminators import DiscriminatorMonitor

STATE_FILE = "checkpoint.pt"
#: Raised when the same settings and images no longer give the same run, as after a change of the random numbers.
RUN_FORMAT = 2
_NUMBERS = ("step", "seconds", "best_score", "best_step")


@dataclass
class RunState:
    """Everything that changes during a run, and that a checkpoint holds.

    Parameters
    ----------
    method : Method
        Networks.
    phases : sequence of Phase
        Updates of a step, with their optimizers.
    discriminators : DiscriminatorMonitor
        Running means of the discriminator losses.
    step : int
        Steps done.
    seconds : float
        Training time, over all parts of a resumed run.
    average : dict of str to Tensor
        Exponential moving average of the weights; empty without ``training.ema_decay``.
    best_score : float
        Value of the metric that selects weights, for those that are kept, lower is better; at first infinite.
    best_step : int
        Step of the weights that are kept.
    resumed : list of dict
        Step and changed settings of every resumption with other settings, for the model's card.
    started_from : dict
        Name, checksum and patients of the pretrained model, for the model's card.
    """

    method: Method[Any]
    phases: Sequence[Phase]
    discriminators: DiscriminatorMonitor = field(default_factory=DiscriminatorMonitor)
    step: int = 0
    seconds: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict)
    best_score: float = math.inf
    best_step: int = 0
    resumed: list[dict[str, Any]] = field(default_factory=list)
    started_from: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint."""
        return {
            "run_format": RUN_FORMAT,
            "method": self.method.state_dict(),
            "optimizers": [phase.optimizer.state_dict() for phase in self.phases],
            "average": self.average,
            "discriminators": self.discriminators.state_dict(),
            "resumed": self.resumed,
            "started_from": self.started_from,
            **{name: getattr(self, name) for name in _NUMBERS},
        }

    def load_state_dict(self, state: Mapping[str, Any], changes: Sequence[str] = ()) -> None:
        """Restore a checkpoint.

        Parameters
        ----------
        state : mapping
            From :func:`load_state`.
        changes : sequence of str
            Settings that differ from those of the checkpoint; recorded for the model's card.
        """
        self.method.load_state_dict(state["method"])
        for phase, saved in zip(self.phases, state["optimizers"], strict=True):
            phase.optimizer.load_state_dict(saved)
        device = next(self.method.parameters()).device
        self.average = {key: value.to(device) for key, value in state["average"].items()}
        for name in _NUMBERS:
            setattr(self, name, state[name])
        self.discriminators.load_state_dict(state.get("discriminators", {}), device)
        self.resumed = list(state.get("resumed", ()))
        self.started_from = dict(state.get("started_from", {}))
        if changes:
            self.resumed.append({"step": self.step, "changed": list(changes)})

    def is_finite(self) -> bool:
        """Whether all weights and their average are finite."""
        tensors = (*self.method.state_dict().values(), *self.average.values())
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def create_run(config: Config, world: World) -> RunState:
    """Build the method with fresh weights, equal in every process, and its optimizers.

    Parameters
    ----------
    config : Config
        Method, its settings and the seed.
    world : World
        Device and processes.

    Raises
    ------
    ConfigError
        If a setting of the method is wrong, or the method needs no training.
    """
    settings = config.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        method = methods.build(config.method, config.settings, config.scale, for_training=True)
    method.to(world.device)
    if settings.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if world.size > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method) if world.device.type == "cuda" else method
        world.broadcast_tensors([*method.parameters(), *method.buffers()])
    phases = method.phases(settings.learning_rate)
    if not phases:
        raise ConfigError(f"method {config.method!r} needs no training; use it with apply --model")
    monitor = DiscriminatorMonitor(getattr(method.settings, "adversarial_loss", "least_squares"))
    return RunState(method, phases, monitor)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint."""
    atomic_write(path, lambda part: torch.save(dict(state), part))


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only, no code is executed.

    Raises
    ------
    ModelError
        If it cannot be read, or another version of the program wrote it and would draw other random numbers.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch's own message advises to switch off the protection against code in the file
        raise ModelError(
            f"{path}: not a checkpoint, or damaged; put a copy of it back, or start again (--overwrite)"
        ) from None
    if (found := state.get("run_format", 1)) != RUN_FORMAT:
        raise ModelError(
            f"{path}: has run format {found}, this version resumes format {RUN_FORMAT}; resume with the version "
            "that began the run, start again (--overwrite), or take its weights (training.pretrained_weights)"
        )
    return state
