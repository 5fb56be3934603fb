"""DnCNN: residual learning with batch normalisation.

Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising",
IEEE TIP 26(7), 2017. It is blind where its training images have many noise levels, as those of a CT pool have;
with ``blind_levels`` the noise of each pair is scaled at random, too.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses, Supervision
from ldct_denoise.networks.residual import DnCnn


class DnCnnSettings(RegressionSettings):
    """17 layers of 64 channels as published."""

    layers: int = Field(17, ge=3, le=50, description="20 for the published blind model")
    channels: int = Field(64, ge=4, le=512)
    batch_norm: bool = Field(True, description="as published")
    blind_levels: tuple[float, float] | None = Field(
        None, description="blind option: low − normal is scaled by a number drawn from this range, patch by patch"
    )


class DnCnnMethod(Regression[DnCnnSettings]):
    """Predicts the noise; trained on pairs."""

    Settings = DnCnnSettings
    supervision = Supervision.SUPERVISED
    title = "residual CNN with batch normalisation, supervised"
    reference = "Zhang et al.: Beyond a Gaussian denoiser: residual learning of deep CNN, IEEE TIP 2017"

    def _network(self) -> nn.Module:
        return DnCnn(self.settings.layers, self.settings.channels, self.settings.batch_norm)

    def losses(self, batch: Batch) -> Losses:
        """As usual, at the pair's own or at random noise levels."""
        if self.settings.blind_levels is None:
            return super().losses(batch)
        assert batch.normal is not None
        lowest, highest = self.settings.blind_levels
        draw = torch.rand(len(batch.low), 1, 1, 1, generator=batch.generator).to(batch.low)
        low = batch.normal + (lowest + (highest - lowest) * draw) * (batch.low - batch.normal)
        return {self.settings.loss: self._distance(self._estimate(low), batch.normal)}


METHOD = DnCnnMethod
