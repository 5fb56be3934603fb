"""Learning from pairs of noise realisations (Noise2Noise).

A U-Net is regressed from one noisy realisation on another of the same anatomy. With the squared error the optimum
is the mean of the noisy targets: the clean image, if the noise has zero mean and is independent of the input's
noise. With the absolute error it is their median.

Supervision: noise2noise

Reference: Lehtinen et al.: Noise2Noise: Learning image restoration without clean data, ICML 2018
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses
from ldct_denoise.networks.residual import UNet


class Noise2NoiseSettings(RegressionSettings):
    """A U-Net as in the paper, but smaller, that predicts the correction."""

    base_channels: int = Field(
        32, ge=4, le=256, description="channels at full resolution; doubled at each next level"
    )
    num_levels: int = Field(3, ge=1, le=6, description="number of resolutions")
    blocks_per_level: int = Field(2, ge=1, le=4, description="3×3 convolutions at each resolution, down and up")
    residual: bool = Field(True, description="predict the correction to the image, or the image")
    symmetric: bool = Field(True, description="use each realisation as the target of the other")


class Noise2Noise(Regression[Noise2NoiseSettings]):
    """U-Net from one noise realisation to another."""

    Settings = Noise2NoiseSettings

    def __init__(self, settings: Noise2NoiseSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.size_multiple = 2 ** (settings.num_levels - 1)

    def _network(self) -> nn.Module:
        s = self.settings
        return UNet(s.base_channels, s.num_levels, s.blocks_per_level, s.residual)

    def losses(self, batch: Batch) -> Losses:
        """Distance of the estimate from one realisation to the other."""
        assert batch.normal is not None
        first, second = batch.low, batch.normal
        if self.settings.symmetric:
            first, second = torch.cat([first, second]), torch.cat([second, first])
        return {self.settings.loss: self._distance(self._estimate(first), second)}


METHOD = Noise2Noise
