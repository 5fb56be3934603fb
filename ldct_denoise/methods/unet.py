"""Residual U-Net.

The restoration network of ``lir`` with ``architecture: unet``, trained by regression on normal-dose images. It
shows the effect of pairs: ``docs/research/comparison.md`` compares it with ``lir`` on the same slices and budget.

Supervision: supervised

Reference: Ronneberger, Fischer, Brox: U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.networks.residual import UNet


class UNetSettings(RegressionSettings):
    """The size of ``configs/lir-restoration.yaml``."""

    base_channels: int = Field(32, ge=4, description="channels at full resolution; doubled at each next level")
    num_levels: int = Field(3, ge=1, le=5, description="number of resolutions")
    blocks_per_level: int = Field(2, ge=1, description="3×3 convolutions at each resolution, down and up")


class UNetMethod(Regression[UNetSettings]):
    """U-Net, trained on pairs."""

    Settings = UNetSettings

    def __init__(self, settings: UNetSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.size_multiple = 2 ** (settings.num_levels - 1)

    def _network(self) -> nn.Module:
        s = self.settings
        return UNet(s.base_channels, s.num_levels, s.blocks_per_level, residual=True)


METHOD = UNetMethod
