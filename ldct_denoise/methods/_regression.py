"""Shared by the methods that regress one image on another with one network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch, Losses, Method, Phase, TrainableSettings
from ldct_denoise.networks.blocks import run_padded


class RegressionSettings(TrainableSettings):
    """Input scaling and loss."""

    input_scale: float = Field(16.0, gt=0, description="the network sees (image − input_shift) · input_scale")
    input_shift: float = Field(0.25, description="the image value that the network sees as 0 (0.25: 0 HU)")
    loss: Literal["l1", "l2"] = Field("l2", description="absolute or squared error")


S = TypeVar("S", bound=RegressionSettings)


class Regression(Method[S]):
    """Base of the regression methods; subclasses give the network, and may give another loss."""

    #: Divisor of the image sides that the network accepts.
    size_multiple = 1

    def __init__(self, settings: S, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.network = self._network()

    @abstractmethod
    def _network(self) -> nn.Module:
        """Build the network."""

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Run the network."""
        return run_padded(self._estimate, image, self.size_multiple)

    def _estimate(self, image: Tensor) -> Tensor:
        s = self.settings
        estimate: Tensor = self.network((image - s.input_shift) * s.input_scale)
        return estimate / s.input_scale + s.input_shift

    def losses(self, batch: Batch) -> Losses:
        """Distance of the estimate from ``low`` to ``normal``."""
        assert batch.normal is not None
        return {self.settings.loss: self._distance(self._estimate(batch.low), batch.normal)}

    def _distance(self, estimate: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean distance in units of 1 / input_scale, over the pixels of ``mask`` if it is given."""
        error = (estimate - target) * self.settings.input_scale
        error = error.square() if self.settings.loss == "l2" else error.abs()
        return error.mean() if mask is None else (error * mask).sum() / mask.sum()

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Update the network."""
        optimizer = self.settings.make_optimizer([self.network], learning_rate)
        return (Phase("network", self.losses, optimizer),)
