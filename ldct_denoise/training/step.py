"""One step of training: every phase of the method once, then the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldct_denoise import methods
from ldct_denoise.config import Config, TrainingConfig
from ldct_denoise.distributed import World
from ldct_denoise.errors import ConfigError
from ldct_denoise.methods.base import Batch, Method, Phase
from ldct_denoise.training.validation import CriticWatch, diverged


@dataclass
class Run:
    """The state of a run: all that a checkpoint holds."""

    method: Method[Any]
    phases: Sequence[Phase]
    step: int = 0
    seconds: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict)
    best_score: float = math.inf
    best_step: int = 0
    critics: CriticWatch = field(default_factory=CriticWatch)
    resumed: list[dict[str, Any]] = field(default_factory=list)
    started_from: dict[str, Any] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "method": self.method.state_dict(),
            "optimizers": [phase.optimizer.state_dict() for phase in self.phases],
            "average": self.average,
            "critics": self.critics.state(),
            "resumed": self.resumed,
            "started_from": self.started_from,
            **{name: getattr(self, name) for name in ("step", "seconds", "best_score", "best_step")},
        }

    def restore(self, state: Mapping[str, Any], changes: Sequence[str] = ()) -> None:
        """Go back to a checkpoint; ``changes`` of the settings since are kept, for the model's card."""
        self.method.load_state_dict(state["method"])
        for phase, saved in zip(self.phases, state["optimizers"], strict=True):
            phase.optimizer.load_state_dict(saved)
        device = next(self.method.parameters()).device
        self.average = {key: value.to(device) for key, value in state["average"].items()}
        for name in ("step", "seconds", "best_score", "best_step"):
            setattr(self, name, state[name])
        self.critics.restore(state.get("critics", {}), device)
        self.resumed = list(state.get("resumed", ()))
        self.started_from = dict(state.get("started_from", {}))
        if changes:
            self.resumed.append({"step": self.step, "changed": list(changes)})

    def is_finite(self) -> bool:
        """Whether all weights, and their average, are numbers."""
        tensors = (*self.method.state_dict().values(), *self.average.values())
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def begin_run(config: Config, world: World) -> Run:
    """A method with fresh weights, the same in every process, and its optimizers.

    Raises
    ------
    ConfigError
        If the method needs no training.
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
    critics = CriticWatch(getattr(method.settings, "adversarial_loss", "least_squares"))
    return Run(method, phases, critics=critics)


class Stepper:
    """Takes the steps of one process.

    Parameters
    ----------
    config : Config
    world : World
    """

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.world = config, world

    def step(self, run: Run, sample: Mapping[str, Tensor], done: float) -> dict[str, Tensor]:
        """All phases once, over this process's share of a batch, which may be worked through in parts."""
        settings = self.config.training
        parts = self._parts(sample, run.step, done)
        rate = settings.learning_rate * learning_rate_factor(settings, run.step, done)
        run.method.train()
        shown: dict[str, Tensor] = {}
        for phase in run.phases:
            base = phase.optimizer.defaults["lr"] / settings.learning_rate
            for group in phase.optimizer.param_groups:
                group["lr"] = rate * base
            for _ in range(phase.repeats):
                shown |= self._update(phase, parts)
        self._average_weights(run)
        return shown

    def _update(self, phase: Phase, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Step one phase's optimizer: exactly its own parameters learn."""
        parameters = phase.parameters
        phase.optimizer.zero_grad(set_to_none=True)
        shown: dict[str, Tensor] = {}
        for part in parts:
            with torch.autocast(
                self.world.device.type, torch.bfloat16, enabled=self.config.training.precision == "bf16"
            ):
                losses = phase.loss(part)
            if not losses:
                return {}
            total = torch.stack([loss.float() for loss in losses.values()]).sum() / len(parts)
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            _accumulate(parameters, gradients)
            for name, loss in losses.items():
                shown[name] = shown.get(name, 0) + loss.detach().float() / len(parts)
        self._check(phase, shown)
        self.world.average_gradients(parameters)
        if phase.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, phase.max_grad_norm)
        phase.optimizer.step()
        return shown

    def require_losses(self, run: Run, sample: Mapping[str, Tensor]) -> None:
        """Refuse settings with which no phase has a loss, neither at the beginning nor later.

        Raises
        ------
        ConfigError
            If so.
        """
        run.method.eval()  # what a pass changes in training, it leaves alone
        one = {name: self._to_device(tensor[None]) for name, tensor in sample.items()}
        with torch.no_grad():
            for done in (0.0, math.nextafter(1.0, 0.0)):
                batch = _batch(one, 0, done)
                if any(phase.loss(batch) for phase in run.phases):
                    return
        notes = "; ".join(run.method.notes("noise" in sample))
        raise ConfigError(f"method {self.config.method!r}: these settings leave nothing to train by ({notes})")

    def _parts(self, sample: Mapping[str, Tensor], step: int, done: float) -> list[Batch]:
        count = self.config.training.gradient_accumulation_steps
        split = {name: self._to_device(tensor).chunk(count) for name, tensor in sample.items()}
        parts = []
        for number in range(count):
            place = [self.config.training.seed, step, self.world.rank, number]
            seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))
            parts.append(_batch({name: tensors[number] for name, tensors in split.items()}, seed, done))
        return parts

    def _to_device(self, tensor: Tensor) -> Tensor:
        format_ = torch.channels_last if self.config.training.channels_last else torch.contiguous_format
        return tensor.to(self.world.device, non_blocking=True, memory_format=format_)

    def _check(self, phase: Phase, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            if not torch.isfinite(loss):
                raise diverged(f"the loss {name!r} of the {phase.name} is {float(loss)}")

    def _average_weights(self, run: Run) -> None:
        """Exponential moving average of what is kept for use."""
        decay = self.config.training.ema_decay
        if not decay:
            return
        decay = min(decay, (run.step + 1) / (run.step + 10))  # follow quickly while there is little to average
        for key, value in run.method.restoration_parameters().items():
            if key not in run.average:
                run.average[key] = value.detach().clone()
            elif value.is_floating_point():
                run.average[key].lerp_(value.detach(), 1 - decay)
            else:
                run.average[key].copy_(value)


def learning_rate_factor(settings: TrainingConfig, step: int, done: float) -> float:
    """What the learning rate is multiplied by at ``step``, ``done`` of the run being over."""
    match settings.lr_schedule:
        case "cosine":
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        case "step":
            return float(0.5 ** (step // settings.lr_step_size))
        case "exponential":
            return math.exp(-step / settings.lr_step_size)
    return 1.0


def _batch(images: Mapping[str, Tensor], seed: int, done: float) -> Batch:
    return Batch(
        low=images.get("low", images.get("normal", torch.empty(0))),
        normal=images.get("normal"),
        noise=images.get("noise"),
        generator=torch.Generator().manual_seed(seed),
        progress=done,
    )


def _accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
