"""Very deep encoder–decoder with symmetric skips (RedNet).

Convolutions and as many transposed convolutions of 3×3 kernels with a skip every second layer; regression on
normal-dose images.

Supervision: supervised

Reference: Mao, Shen, Yang: Image restoration using very deep convolutional encoder-decoder networks with symmetric
skip connections, NIPS 2016
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.networks.residual import RedNet


class RedNetSettings(RegressionSettings):
    """The published RED-30."""

    num_layers: int = Field(30, ge=4, le=60, multiple_of=2, description="half of them transposed convolutions")
    channels: int = Field(64, ge=4, le=512, description="channels of every hidden layer")


class RedNetMethod(Regression[RedNetSettings]):
    """RedNet, trained on pairs."""

    Settings = RedNetSettings

    def _network(self) -> nn.Module:
        return RedNet(self.settings.num_layers, self.settings.channels)


METHOD = RedNetMethod
