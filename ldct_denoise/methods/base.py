"""The interface of a denoising method: settings, networks, training phases, restoration.

How to write one: ``docs/tutorials/add-a-method.md``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.networks.optimizers import OptimizerName, create_optimizer

#: Row and column spacing for which a method is built, mm: typical of body CT. Training patches mix spacings.
NOMINAL_SPACING_MM = (0.8, 0.8)


class Settings(BaseModel):
    """Base of the settings of every method: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainableSettings(Settings):
    """Base of the settings of a method that is trained: its optimizer."""

    optimizer: OptimizerName = Field("adam", description="of all networks but discriminators, which use Adam")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay rate of Adam's mean of gradients")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay rate of Adam's mean of squared gradients")
    weight_decay: float = Field(0.0, ge=0, description="Adam: L2 penalty; Muon: decoupled")

    def make_optimizer(
        self, networks: Iterable[nn.Module], learning_rate: float, name: OptimizerName | None = None
    ) -> torch.optim.Optimizer:
        """Return an optimizer of all parameters of some networks.

        Parameters
        ----------
        networks : iterable of nn.Module
            Networks to train.
        learning_rate : float
            Step size.
        name : {"adam", "muon"}, optional
            Another optimizer than that of the settings.

        Returns
        -------
        torch.optim.Optimizer
            The optimizer.
        """
        betas = (self.beta1, self.beta2)
        return create_optimizer(name or self.optimizer, networks, learning_rate, betas, self.weight_decay)


@dataclass(frozen=True)
class Batch:
    """Training images of one step, in network units (see :class:`~ldct_denoise.intensity.Scale`).

    Parameters
    ----------
    low : Tensor, shape (n, channels, height, width)
        Low-dose patches. ``channels`` is 1, or 2·c + 1 for a method with c ``training_context_slices``; the same
        holds for ``normal`` and ``noise``.
    normal : Tensor, same shape, optional
        Normal-dose patches: of other patients or positions for ``UNPAIRED``, of the same position for
        ``SUPERVISED``, the second noise realisation for ``NOISE2NOISE``. None for ``SELF``.
    noise : Tensor, same shape, optional
        Zero-mean noise that a method may add to ``normal``, with the noise power spectrum of the low-dose pool.
        None if the configuration has no noise model.
    generator : torch.Generator
        Source of this step's random numbers, on the CPU; a function of (seed, step, rank).
    progress : float
        Completed fraction of the run, 0…1, for methods whose losses change over time.
    step : int
        Number of this step, from 1, for losses that are not computed in every step; 0 outside a run.
    memo : dict
        Results that one phase of the step stores for a later one, so that nothing is computed twice.
    """

    low: Tensor
    normal: Tensor | None
    noise: Tensor | None
    generator: torch.Generator
    progress: float = 0.0
    step: int = 0
    memo: dict[str, Any] = field(default_factory=dict)

    def randn_like(self, like: Tensor) -> Tensor:
        """Return unit Gaussian noise of the shape, type and device of ``like``, drawn from ``generator``."""
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

    The training loop calls ``loss``, adds the losses, and steps ``optimizer``. A phase trains exactly the
    parameters of its optimizer. A phase that returns no loss is skipped.

    Parameters
    ----------
    name : str
        Name in error messages.
    loss : callable
        Maps a batch to named scalar losses, already weighted.
    optimizer : torch.optim.Optimizer
        Optimizer of the parameters that this phase trains.
    repeats : int
        Number of updates in every step.
    max_grad_norm : float, optional
        Gradients are clipped to this norm.
    """

    name: str
    loss: Callable[[Batch], Losses]
    optimizer: torch.optim.Optimizer
    repeats: int = 1
    max_grad_norm: float | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that this phase trains."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


S = TypeVar("S", bound=Settings)


class Method(nn.Module, ABC, Generic[S]):
    """A denoiser, used through :meth:`restore`.

    The constructor builds the networks that :meth:`restore` uses, and no others.

    Parameters
    ----------
    settings : Settings
        Validated settings of this method.
    scale : Scale
        HU range of network units, for methods with settings in HU.
    """

    Settings: ClassVar[type[Settings]]
    #: Whether :meth:`restore` draws random numbers, so that its result depends on ``seed``.
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
    def training_context_slices(self) -> int:
        """Adjacent slices on each side in training batches; by default those that the method takes as input."""
        return self.context_slices

    @property
    def uses_noise(self) -> bool:
        """Whether training needs :attr:`Batch.noise`."""
        return False

    @property
    def in_channels(self) -> int:
        """Slices that the method takes as input."""
        return 2 * self.context_slices + 1

    @abstractmethod
    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Denoise a batch of slices.

        Parameters
        ----------
        image : Tensor, shape (n, in_channels, height, width)
            Slices of any height and width, network units. With several channels, these are adjacent slices in the
            order of the series, and the center one is denoised (:mod:`ldct_denoise.context_slices`).
        seed : int
            Seed of methods that draw random numbers.

        Returns
        -------
        Tensor, shape (n, 1, height, width)
            Denoised slices, network units.
        """

    def for_spacing(self, spacing_mm: tuple[float, float]) -> Method[S]:
        """Return this method for slices of a pixel spacing; by default itself.

        A method is built for :data:`NOMINAL_SPACING_MM`. One that has lengths in mm returns a copy that shares its
        networks.

        Parameters
        ----------
        spacing_mm : tuple of 2 floats
            Row and column spacing, mm.
        """
        return self

    def add_training_networks(self) -> None:
        """Build the networks that only training uses: discriminators, for example."""

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Return the updates of one training step, in order; empty for a method without training.

        Called once, after :meth:`add_training_networks`, when the networks are on their device.
        """
        return ()

    def restoration_parameters(self) -> Mapping[str, Tensor]:
        """Return the tensors that a trained model stores: those that :meth:`restore` uses (by default, all)."""
        return self.state_dict()

    def notes(self, has_noise: bool = True) -> Sequence[str]:
        """Return remarks that the user should see before training, for example that a loss is off.

        Parameters
        ----------
        has_noise : bool
            Whether batches have ``noise``.

        Returns
        -------
        sequence of str
            One line each.
        """
        return ()

    def summary_images(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return images for the training log, each of shape (n, 1, height, width), network units."""
        return {"low": center_slice(batch.low), "restored": self.restore(batch.low)}
