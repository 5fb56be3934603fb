"""RedNet-30: very deep convolutional encoder–decoder with symmetric skip connections.

Mao, Shen, Yang, "Image restoration using very deep convolutional encoder-decoder networks with symmetric skip
connections", NIPS 2016.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Supervision
from ldct_denoise.networks.residual import RedNet


class RedNetSettings(RegressionSettings):
    """RED-30 as published."""

    layers: int = Field(30, ge=4, le=60, multiple_of=2, description="half of them transposed convolutions")
    channels: int = Field(64, ge=4, le=512)


class RedNetMethod(Regression[RedNetSettings]):
    """Thirty layers of 3×3 kernels, trained on pairs."""

    Settings = RedNetSettings
    supervision = Supervision.SUPERVISED
    title = "very deep encoder–decoder with symmetric skips, supervised"
    reference = (
        "Mao, Shen, Yang: Image restoration using very deep convolutional encoder-decoder networks, NIPS 2016"
    )

    def _network(self) -> nn.Module:
        return RedNet(self.settings.layers, self.settings.channels)


METHOD = RedNetMethod
