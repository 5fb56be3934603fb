"""What a denoising method is.

One file in this folder is one method: its settings, its networks, its losses, and how it restores an image.
The file is found by its name; nothing else has to be edited to add one. See ``docs/add-a-method.md``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.networks.optimizers import OptimizerName, optimizer


class Supervision(StrEnum):
    """Training data that a method requires."""

    NONE = "none"  # no training: each image is denoised on its own
    SELF = "self"  # low-dose images only
    NOISE2NOISE = "noise2noise"  # two noise realisations of the same anatomy
    UNPAIRED = "unpaired"  # a low-dose and a normal-dose pool, no pairs
    SUPERVISED = "supervised"  # low-dose images, each with its normal-dose image


class Settings(BaseModel):
    """Base of a method's settings: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LearnedSettings(Settings):
    """Base of the settings of a method that learns: by which optimizer."""

    optimizer: OptimizerName = Field("adam", description="of the networks that restore; critics have Adam")
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's, as the next")
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)

    def learner(
        self, networks: Iterable[nn.Module], learning_rate: float, name: OptimizerName | None = None
    ) -> torch.optim.Optimizer:
        """The optimizer of ``networks``, or another than these settings name."""
        betas = (self.beta1, self.beta2)
        return optimizer(name or self.optimizer, networks, learning_rate, betas, self.weight_decay)


@dataclass(frozen=True)
class Batch:
    """One step's training images in network units (see :class:`~ldct_denoise.intensity.Scale`).

    Parameters
    ----------
    low : Tensor, shape (n, channels, height, width)
        Low-dose patches. ``channels`` is 1, or 2·c + 1 for a method with c ``context_slices``; the same holds for
        ``normal`` and ``noise``.
    normal : Tensor, same shape, optional
        Normal-dose patches: of other patients or positions for ``UNPAIRED``, of the same position for
        ``SUPERVISED``, the second noise realisation for ``NOISE2NOISE``. None for ``SELF``.
    noise : Tensor, same shape, optional
        Zero-mean noise fields with the low-dose pool's own power spectrum (network units) that a method may
        add to ``normal``; present only where the pool's noise was measured (``data.noise_model`` setting).
    generator : torch.Generator
        This step's randomness, on the CPU; a function of (seed, step, rank).
    progress : float
        How much of the run is done, 0…1, for methods whose terms change over time.
    memo : dict
        What an earlier phase of the step leaves for a later one, so that nothing is computed twice.
    """

    low: Tensor
    normal: Tensor | None
    noise: Tensor | None
    generator: torch.Generator
    progress: float = 0.0
    memo: dict[str, Any] = field(default_factory=dict)

    def randn_like(self, like: Tensor) -> Tensor:
        """Unit Gaussian noise of ``like``'s shape, type and device from this step's randomness."""
        return torch.randn(like.shape, generator=self.generator).to(like)


def center_slice(stack: Tensor) -> Tensor:
    """Return the center slice of stacks (n, channels, height, width), shape (n, 1, height, width)."""
    center = stack.shape[1] // 2
    return stack[:, center : center + 1]


def repeat_slice(image: Tensor, context_slices: int) -> Tensor:
    """Return stacks that repeat one slice, shape (n, 2·context_slices + 1, height, width)."""
    return image.expand(-1, 2 * context_slices + 1, -1, -1)


Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One kind of update within a training step.

    The loop calls ``loss``, adds the named, already weighted scalars, and steps ``optimizer``; exactly the
    parameters in the optimizer learn from this phase. A phase that returns no loss is left out of the step.

    Parameters
    ----------
    name : str
        As it is logged.
    loss : callable
        From a batch to named scalar losses.
    optimizer : torch.optim.Optimizer
        Holds the parameters that this phase trains.
    repeats : int
        Updates of this phase in every step.
    clip_norm : float, optional
        Largest gradient norm.
    discarded : sequence of nn.Parameter
        Whose gradients are worked out too and thrown away, as a plain ``backward`` does with the networks of other
        phases: the published schedule of LIR, which ours is measured against, has some.
    """

    name: str
    loss: Callable[[Batch], Losses]
    optimizer: torch.optim.Optimizer
    repeats: int = 1
    clip_norm: float | None = None
    discarded: Sequence[nn.Parameter] = ()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What learns in this phase."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


S = TypeVar("S", bound=Settings)


class Method(nn.Module, ABC, Generic[S]):
    """A denoiser: trained with its ``supervision``, then used through :meth:`restore`.

    Class attributes say what the catalogue shows; see the conformance tests for what is asked of each.

    Parameters
    ----------
    settings : Settings
        This method's own settings, validated.
    scale : Scale
        The HU range of the values it sees; for methods whose settings are in HU.
    """

    Settings: ClassVar[type[Settings]]
    supervision: ClassVar[Supervision]
    title: ClassVar[str]
    reference: ClassVar[str]
    #: Whether restoring the same image twice needs the ``seed`` argument to give the same result.
    is_random: ClassVar[bool] = False

    def __init__(self, settings: S, scale: Scale) -> None:
        super().__init__()
        self.settings = settings
        self.scale = scale

    @property
    def context_slices(self) -> int:
        """Adjacent slices on each side that the method also takes as input (2.5-D)."""
        return 0

    @property
    def uses_noise(self) -> bool:
        """Whether training adds noise fields (:attr:`Batch.noise`) to normal-dose patches."""
        return False

    @property
    def channels(self) -> int:
        """Slices that the method sees at once."""
        return 2 * self.context_slices + 1

    @abstractmethod
    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Denoise a batch of slices.

        Parameters
        ----------
        image : Tensor, shape (n, channels, height, width)
            Network units, any height and width; channels are slices in the order of the series, that to restore
            in their middle (:mod:`ldct_denoise.context_slices`).
        seed : int
            For methods that draw random numbers; the same seed gives the same result.

        Returns
        -------
        Tensor, shape (n, 1, height, width)
            Same units.
        """

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """The updates of one training step, in order; empty for a method that needs no training.

        Called once, after the networks are on their device.
        """
        return ()

    def restoration_parameters(self) -> Mapping[str, Tensor]:
        """The tensors that :meth:`restore` needs: what a trained model keeps (by default, all)."""
        return self.state_dict()

    def notes(self, has_noise: bool = True) -> Sequence[str]:
        """What a user should know before a run begins, a line each: a term that is off, say.

        Parameters
        ----------
        has_noise : bool
            Whether batches hold noise (``data.noise_model``).
        """
        return ()

    def summary_images(self, batch: Batch) -> Mapping[str, Tensor]:
        """Pictures for the training log, each (n, 1, height, width) in network units."""
        return {"low": center_slice(batch.low), "restored": self.restore(batch.low)}
