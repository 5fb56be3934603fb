"""Residual CNN with batch normalisation (DnCNN).

3×3 convolutions that predict the noise; regression on normal-dose images. The network is blind to the noise level
if its training images have many levels, as those of a CT pool have. ``noise_level_factors`` also scales the noise
of each pair at random.

Supervision: supervised

Reference: Zhang, Zuo, Chen, Meng, Zhang: Beyond a Gaussian denoiser: residual learning of deep CNN for image
denoising, IEEE TIP 2017
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses
from ldct_denoise.networks.residual import DnCnn


class DnCnnSettings(RegressionSettings):
    """The published network."""

    num_layers: int = Field(17, ge=3, le=50, description="convolutions; 20 for the published blind model")
    channels: int = Field(64, ge=4, le=512, description="channels of every hidden layer")
    batch_norm: bool = Field(True, description="batch normalisation in hidden layers, as published")
    noise_level_factors: tuple[float, float] | None = Field(
        None, description="low − normal is multiplied by a factor drawn from this range for each patch"
    )


class DnCnnMethod(Regression[DnCnnSettings]):
    """DnCNN, trained on pairs."""

    Settings = DnCnnSettings

    def _network(self) -> nn.Module:
        return DnCnn(self.settings.num_layers, self.settings.channels, self.settings.batch_norm)

    def losses(self, batch: Batch) -> Losses:
        """Distance of the estimate to ``normal``, at the pair's own noise level or at random levels."""
        if self.settings.noise_level_factors is None:
            return super().losses(batch)
        assert batch.normal is not None
        lowest, highest = self.settings.noise_level_factors
        draw = torch.rand(len(batch.low), 1, 1, 1, generator=batch.generator).to(batch.low)
        low = batch.normal + (lowest + (highest - lowest) * draw) * (batch.low - batch.normal)
        return {self.settings.loss: self._distance(self._estimate(low), batch.normal)}


METHOD = DnCnnMethod
