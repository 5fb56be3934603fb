"""Noise2Noise: learn from pairs of noisy images of the same anatomy.

Lehtinen, Munkberg, Hasselgren, Laine, Karras, Aittala, Aila, "Noise2Noise: Learning image restoration without
clean data", ICML 2018. With the squared error the best estimate is the mean of the noisy targets, which is the
clean image where noise has zero mean and is independent of the input's; with the absolute error their
median.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses, Supervision
from ldct_denoise.networks.residual import UNet


class Noise2NoiseSettings(RegressionSettings):
    """A U-Net, as in the paper; here a small one that predicts the correction."""

    width: int = Field(32, ge=4, le=256, description="channels at full resolution, doubled at each next")
    scales: int = Field(3, ge=1, le=6, description="resolutions")
    blocks: int = Field(2, ge=1, le=4, description="convolutions at each resolution")
    residual: bool = Field(True, description="predict the correction to the image, or the image")
    both_ways: bool = Field(True, description="each realisation is the other's target in turn")


class Noise2Noise(Regression[Noise2NoiseSettings]):
    """U-Net from one noisy realisation to another."""

    Settings = Noise2NoiseSettings
    supervision = Supervision.NOISE2NOISE
    title = "learning from pairs of noisy realisations"
    reference = "Lehtinen et al.: Noise2Noise: Learning image restoration without clean data, ICML 2018"

    def __init__(self, settings: Noise2NoiseSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.multiple = 2 ** (settings.scales - 1)

    def _network(self) -> nn.Module:
        s = self.settings
        return UNet(s.width, s.scales, s.blocks, s.residual)

    def losses(self, batch: Batch) -> Losses:
        """One realisation's estimate against the other."""
        assert batch.normal is not None
        first, second = batch.low, batch.normal
        if self.settings.both_ways:
            first, second = torch.cat([first, second]), torch.cat([second, first])
        return {self.settings.loss: self._distance(self._estimate(first), second)}


METHOD = Noise2Noise
