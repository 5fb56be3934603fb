"""Residual encoder–decoder CNN (RED-CNN).

Ten layers of unpadded 5×5 kernels, half of them transposed, with three skips; regression on normal-dose images.

Supervision: supervised

Reference: Chen et al.: Low-dose CT with a residual encoder-decoder convolutional neural network, IEEE TMI 2017
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.networks.residual import RedCnn


class RedCnnSettings(RegressionSettings):
    """The published network. Because of the last ReLU, 0 is the low end of the HU range."""

    channels: int = Field(96, ge=4, le=512, description="channels of every hidden layer")
    final_relu: bool = Field(True, description="as published: no output below the low end of the HU range")
    input_shift: float = Field(0.0, description="the image value that the network sees as 0 (0: low end of range)")


class RedCnnMethod(Regression[RedCnnSettings]):
    """RED-CNN, trained on pairs."""

    Settings = RedCnnSettings

    def _network(self) -> nn.Module:
        return RedCnn(self.settings.channels, self.settings.final_relu)


METHOD = RedCnnMethod
