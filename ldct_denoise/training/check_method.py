"""Trials that every method must pass, for ``ldct-denoise check-method`` and for the tests of one's own method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ldct_denoise import methods
from ldct_denoise.errors import ConfigError, LdctDenoiseError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import Batch, Method

#: Height and width of trial images that no power of two divides, pixels.
ODD_SIZES = ((37, 50), (24, 19))
#: Height and width of the smallest trial images, pixels.
FEW_PIXELS = ((1, 1), (1, 7), (4, 3), (10, 10))


@dataclass(frozen=True)
class Trial:
    """Outcome of a trial.

    Parameters
    ----------
    name : str
        What must hold.
    problem : str
        Why it does not; empty where it does.
    """

    name: str
    problem: str = ""


def check_method(name: str, settings: Mapping[str, Any] | None = None, scale: Scale | None = None) -> list[Trial]:
    """Put a method through the trials that every method of this package passes.

    Parameters
    ----------
    name : str
        A method's name; see :func:`ldct_denoise.methods.register` for one's own file.
    settings : mapping, optional
        Settings that make it small and quick.
    scale : Scale, optional
        HU range of network units.

    Returns
    -------
    list of Trial
        Trials of training only where the method is trained.

    Raises
    ------
    ModelError
        If there is no such method.
    ConfigError
        If a setting is unknown or has an impossible value.
    """
    given, info = dict(settings or {}), methods.describe(name)
    subject = _Subject(name, given, scale or Scale(), info.supervision)
    subject.build(for_training=True)
    trials: dict[str, Callable[[], str]] = {
        "an unknown setting is refused": subject.refuses_unknown_settings,
        "restore keeps the shape and the type of images of any size, and is finite": subject.restores_any_size,
        "restore keeps the shape of images of few pixels, and is finite": subject.restores_few_pixels,
        "restore gives the same image for the same seed, and leaves its input unchanged": subject.repeats_itself,
        "restore of several slices at once equals restore of each": subject.treats_slices_alone,
        "only a method with is_random heeds the seed": subject.heeds_seed,
        "PyTorch's global random numbers are left alone": subject.leaves_global_generator,
    }
    if info.supervision is not Supervision.NONE:
        trials |= {
            "training changes the weights, and losses and weights stay finite": subject.trains,
            "a phase trains its own parameters and no others": subject.trains_its_own,
            "training repeats itself to the bit": subject.training_repeats_itself,
            "restoration_parameters are all that restore needs": subject.keeps_what_it_needs,
            "summary_images are single slices of the batch's size": subject.summarises,
        }
    return [Trial(text, _outcome(trial)) for text, trial in trials.items()]


def _outcome(trial: Callable[[], str]) -> str:
    try:
        return trial()
    except LdctDenoiseError as error:
        return str(error)
    except Exception as error:  # the method is the user's own code
        return f"{type(error).__name__}: {error}"


@dataclass
class _Subject:
    """A method on trial."""

    name: str
    settings: dict[str, Any]
    scale: Scale
    supervision: Supervision

    def build(self, for_training: bool = False) -> Method[Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return methods.build(self.name, self.settings, self.scale, for_training=for_training)

    def image(self, channels: int, height: int, width: int, seed: int = 0, count: int = 1) -> Tensor:
        """Smooth anatomy around 0 HU with noise of 40 HU, network units."""
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        clean = 40 * torch.sin(x / 9.0) * torch.cos(y / 7.0)
        noise = torch.randn((count, channels, height, width), generator=torch.Generator().manual_seed(seed))
        return (clean + 40 * noise - self.scale.low_hu) / (self.scale.high_hu - self.scale.low_hu)

    def batch(self, method: Method[Any], step: int) -> Batch:
        channels = 2 * method.training_context_slices + 1
        low = self.image(channels, 64, 64, seed=2 * step, count=2)
        normal = None if self.supervision is Supervision.SELF else self.image(channels, 64, 64, 2 * step + 1, 2)
        noise = (
            0.01 * torch.randn(low.shape, generator=torch.Generator().manual_seed(step))
            if method.uses_noise
            else None
        )
        return Batch(low, normal, noise, torch.Generator().manual_seed(100 + step))

    def refuses_unknown_settings(self) -> str:
        try:
            methods.build(self.name, self.settings | {"no_such_setting": 1}, self.scale)
        except ConfigError as error:
            return "" if "no_such_setting" in str(error) else f"the error does not name it: {error}"
        return "no_such_setting=1 was accepted; derive Settings from methods.base.Settings"

    def restores_any_size(self) -> str:
        return self._restores_sizes(self.build().eval(), ODD_SIZES)

    def restores_few_pixels(self) -> str:
        fields = methods.find(self.name).Settings.model_fields
        known = {"sigma_hu": 60} if "sigma_hu" in fields else {}  # too few pixels to estimate it
        return self._restores_sizes(replace(self, settings=self.settings | known).build().eval(), FEW_PIXELS)

    def _restores_sizes(self, method: Method[Any], sizes: Sequence[tuple[int, int]]) -> str:
        for size in sizes:
            noisy = self.image(method.in_channels, *size, count=2)
            restored = _restore(method, noisy)
            if restored.shape != (2, 1, *size) or restored.dtype != noisy.dtype:
                return f"{tuple(noisy.shape)} of {noisy.dtype} became {tuple(restored.shape)} of {restored.dtype}"
            if not bool(torch.isfinite(restored).all()):
                return f"values are not finite for {size[0]}x{size[1]} pixels"
        return ""

    def repeats_itself(self) -> str:
        method = self.build().eval()
        noisy = self.image(method.in_channels, *ODD_SIZES[0])
        before = noisy.clone()
        first, second = _restore(method, noisy, 3), _restore(method, noisy, 3)
        if not torch.equal(noisy, before):
            return "its input was changed"
        return (
            "" if torch.equal(first, second) else f"two results differ by up to {_difference(first, second):.2g}"
        )

    def treats_slices_alone(self) -> str:
        method = self.build().eval()
        if method.is_random:
            return ""
        noisy = self.image(method.in_channels, 32, 32, count=2)
        together = _restore(method, noisy)
        alone = torch.cat([_restore(method, noisy[:1]), _restore(method, noisy[1:])])
        difference = _difference(together, alone)
        return "" if difference < 1e-4 else f"they differ by up to {difference:.2g} network units"

    def heeds_seed(self) -> str:
        method = self.build().eval()
        noisy = self.image(method.in_channels, 24, 24)
        same = torch.equal(_restore(method, noisy, 1), _restore(method, noisy, 2))
        return "" if same or method.is_random else "the seed changes the result; set is_random = True"

    def leaves_global_generator(self) -> str:
        method, before = self.build(for_training=True).eval(), torch.random.get_rng_state()
        _restore(method, self.image(method.in_channels, 24, 24))
        if self.supervision is not Supervision.NONE:
            self._train(method, 1)
        same = torch.equal(torch.random.get_rng_state(), before)
        return "" if same else "they were drawn from; use batch.generator, or a generator of the seed"

    def trains(self) -> str:
        method = self.build(for_training=True)
        before = {key: value.detach().clone() for key, value in method.named_parameters()}
        losses = self._train(method, 3)
        if not losses or not all(map(math.isfinite, losses.values())):
            return f"losses are {losses or 'absent'}"
        broken = [key for key, value in method.named_parameters() if not bool(torch.isfinite(value).all())]
        if broken:
            return f"{broken[0]} is not finite after three steps"
        trained = {id(p) for phase in method.phases(1e-3) for p in phase.parameters}
        forgotten = [key for key, p in method.named_parameters() if p.requires_grad and id(p) not in trained]
        if forgotten:
            return f"no phase trains {forgotten[0]}"
        changed = sum(not torch.equal(value, before[key]) for key, value in method.named_parameters())
        return "" if changed >= 0.9 * len(before) else f"only {changed} of {len(before)} tensors changed"

    def trains_its_own(self) -> str:
        method = self.build(for_training=True)
        method.train()
        phases = method.phases(1e-3)
        for step in range(2):
            batch = self.batch(method, step)
            for phase in phases:
                others = [p for p in method.parameters() if all(p is not q for q in phase.parameters)]
                before = [p.detach().clone() for p in others]
                _update(phase, batch)
                if not all(torch.equal(p, q) for p, q in zip(others, before, strict=True)):
                    return f"phase {phase.name!r} changed parameters of another"
        return ""

    def training_repeats_itself(self) -> str:
        first, second = (self._train(self.build(for_training=True), 2) for _ in range(2))
        return "" if first == second else f"losses are {first} and then {second}"

    def keeps_what_it_needs(self) -> str:
        trained, fresh = self.build(for_training=True), self.build()
        self._train(trained, 2)
        kept = dict(trained.restoration_parameters())
        if len({value.data_ptr() for value in kept.values()}) < len(kept):
            return "two of them share memory, which a model file cannot hold"
        fresh.load_state_dict(kept)
        noisy = self.image(trained.in_channels, 24, 24)
        same = torch.equal(_restore(trained.eval(), noisy), _restore(fresh.eval(), noisy))
        return "" if same else "a model that is saved and loaded restores otherwise"

    def summarises(self) -> str:
        method = self.build(for_training=True).eval()
        batch = self.batch(method, 0)
        with torch.no_grad():
            pictures = method.summary_images(batch)
        wanted = (len(batch.low), 1, *batch.low.shape[-2:])
        wrong = [f"{name} {tuple(one.shape)}" for name, one in pictures.items() if one.shape != wanted]
        return f"{wrong[0]} should have the shape {wanted}" if wrong else ""

    def _train(self, method: Method[Any], steps: int) -> dict[str, float]:
        method.train()
        losses: dict[str, float] = {}
        phases = method.phases(1e-3)
        for step in range(steps):
            batch = self.batch(method, step)
            for phase in phases:
                losses |= _update(phase, batch)
        return losses


def _update(phase: Any, batch: Batch) -> dict[str, float]:
    """One update of a phase, as in the training loop."""
    losses = phase.loss(batch)
    if not losses:
        return {}
    bad = [name for name, loss in losses.items() if loss.ndim]
    if bad:
        raise ConfigError(f"loss {bad[0]!r} of phase {phase.name!r} is no scalar")
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), phase.parameters, allow_unused=True)
    for parameter, gradient in zip(phase.parameters, gradients, strict=True):
        parameter.grad = gradient
    phase.optimizer.step()
    return {name: float(loss.detach()) for name, loss in losses.items()}


def _restore(method: Method[Any], image: Tensor, seed: int = 0) -> Tensor:
    with torch.inference_mode():
        return method.restore(image, seed=seed)


def _difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())
