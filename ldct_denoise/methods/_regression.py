"""What methods share that regress one image on another with one network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods import base
from ldct_denoise.methods.base import Batch, Losses, Method, Phase
from ldct_denoise.networks.blocks import on_multiple


class RegressionSettings(base.LearnedSettings):
    """How the network sees images, and how it learns."""

    gain: float = Field(16.0, gt=0, description="image values are multiplied by this inside (1 for [0, 1] images)")
    centre: float = Field(0.25, description="the image value that is 0 inside (0.25: 0 HU)")
    loss: Literal["l1", "l2"] = "l2"


S = TypeVar("S", bound=RegressionSettings)


class Regression(Method[S]):
    """One network from a noisy image to its estimate; subclasses give the network and say what is its target."""

    #: Sides that the network takes are multiples of this.
    multiple = 1

    def __init__(self, settings: S, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.network = self._network()

    @abstractmethod
    def _network(self) -> nn.Module:
        """The network, fresh."""

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """One pass."""
        return on_multiple(self._estimate, image, self.multiple)

    def _estimate(self, image: Tensor) -> Tensor:
        s = self.settings
        inside: Tensor = self.network((image - s.centre) * s.gain)
        return inside / s.gain + s.centre

    def losses(self, batch: Batch) -> Losses:
        """The estimate of ``low`` against ``normal``."""
        assert batch.normal is not None
        return {self.settings.loss: self._distance(self._estimate(batch.low), batch.normal)}

    def _distance(self, estimate: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
        """Mean distance in units of the gain, over the pixels of the mask ``where`` if there is one."""
        error = (estimate - target) * self.settings.gain
        error = error.square() if self.settings.loss == "l2" else error.abs()
        return error.mean() if where is None else (error * where).sum() / where.sum()

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """One update of the network."""
        return (Phase("network", self.losses, self.settings.learner([self.network], learning_rate)),)
