"""One training step: every phase of the method once, then the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ldct_denoise.config import Config
from ldct_denoise.distributed import World
from ldct_denoise.errors import ConfigError
from ldct_denoise.methods.base import Batch, Phase
from ldct_denoise.training.state import RunState
from ldct_denoise.training.validation import diverged
from ldct_denoise.training_config import TrainingConfig


class TrainingStep:
    """Perform training steps in one process.

    Parameters
    ----------
    config : Config
        Training settings.
    world : World
        Device and processes.
    """

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.world = config, world

    def __call__(self, run: RunState, sample: Mapping[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Update the networks once by every phase.

        Parameters
        ----------
        run : RunState
            Networks and optimizers; its step count is left to the caller.
        sample : mapping of str to Tensor
            This process's share of the batch, each (n, channels, side, side).
        progress : float
            Fraction of the run that is done (0 to 1).

        Returns
        -------
        dict of str to Tensor
            Losses by name.

        Raises
        ------
        TrainingError
            If a loss is not finite.
        """
        settings = self.config.training
        parts = self._split(sample, run.step, progress)
        rate = settings.learning_rate * learning_rate_factor(settings, run.step, progress)
        run.method.train()
        losses: dict[str, Tensor] = {}
        for phase in run.phases:
            relative = phase.optimizer.defaults["lr"] / settings.learning_rate
            for group in phase.optimizer.param_groups:
                group["lr"] = rate * relative
            for _ in range(phase.repeats):
                losses |= self._update(phase, parts)
        self._average_weights(run)
        return losses

    def check_losses(self, run: RunState, sample: Mapping[str, Tensor]) -> None:
        """Refuse settings with which no phase has a loss, neither at the start of the run nor at its end.

        Parameters
        ----------
        run : RunState
            Its networks are left in evaluation mode.
        sample : mapping of str to Tensor
            One sample, each (channels, side, side).

        Raises
        ------
        ConfigError
            If nothing would be trained.
        """
        run.method.eval()  # a pass in training mode would change running statistics
        one = {name: self._to_device(tensor[None]) for name, tensor in sample.items()}
        with torch.no_grad():
            for progress in (0.0, math.nextafter(1.0, 0.0)):
                batch = _batch(one, 0, progress)
                if any(phase.loss(batch) for phase in run.phases):
                    return
        notes = "; ".join(run.method.notes("noise" in sample))
        raise ConfigError(f"method {self.config.method!r}: these settings leave nothing to train by ({notes})")

    def _update(self, phase: Phase, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """One optimizer step of a phase: only its own parameters are trained."""
        parameters = phase.parameters
        phase.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        bf16 = self.config.training.precision == "bf16"
        for part in parts:
            with torch.autocast(self.world.device.type, torch.bfloat16, enabled=bf16):
                losses = phase.loss(part)
            if not losses:
                return {}
            total = torch.stack([loss.float() for loss in losses.values()]).sum() / len(parts)
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            _accumulate(parameters, gradients)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach().float() / len(parts)
        for name, loss in sums.items():
            if not torch.isfinite(loss):
                raise diverged(f"the loss {name!r} of the {phase.name} is {float(loss)}")
        self.world.average_gradients(parameters)
        if phase.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(parameters, phase.max_grad_norm)
        phase.optimizer.step()
        return sums

    def _split(self, sample: Mapping[str, Tensor], step: int, progress: float) -> list[Batch]:
        """Parts of a batch for gradient accumulation, each with its own random generator."""
        count = self.config.training.gradient_accumulation_steps
        chunks = {name: self._to_device(tensor).chunk(count) for name, tensor in sample.items()}
        parts = []
        for number in range(count):
            entropy = [self.config.training.seed, step, self.world.rank, number]
            seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
            images = {name: tensors[number] for name, tensors in chunks.items()}
            parts.append(_batch(images, seed, progress, step + 1))
        return parts

    def _to_device(self, tensor: Tensor) -> Tensor:
        format_ = torch.channels_last if self.config.training.channels_last else torch.contiguous_format
        return tensor.to(self.world.device, non_blocking=True, memory_format=format_)

    def _average_weights(self, run: RunState) -> None:
        """Exponential moving average of the weights that the trained model keeps."""
        decay = self.config.training.ema_decay
        if not decay:
            return
        decay = min(decay, (run.step + 1) / (run.step + 10))  # a shorter memory while few steps are done
        for key, value in run.method.restoration_parameters().items():
            if key not in run.average:
                run.average[key] = value.detach().clone()
            elif value.is_floating_point():
                run.average[key].lerp_(value.detach(), 1 - decay)
            else:
                run.average[key].copy_(value)


def learning_rate_factor(settings: TrainingConfig, step: int, progress: float) -> float:
    """Factor on the initial learning rate.

    Parameters
    ----------
    settings : TrainingConfig
        ``lr_schedule`` and ``lr_step_size``.
    step : int
        Steps done.
    progress : float
        Fraction of the run that is done (0 to 1).
    """
    match settings.lr_schedule:
        case "cosine":
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        case "step":
            return float(0.5 ** (step // settings.lr_step_size))
        case "exponential":
            return math.exp(-step / settings.lr_step_size)
    return 1.0


def _batch(images: Mapping[str, Tensor], seed: int, progress: float, step: int = 0) -> Batch:
    return Batch(
        low=images.get("low", images.get("normal", torch.empty(0))),
        normal=images.get("normal"),
        noise=images.get("noise"),
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
        step=step,
    )


def _accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
