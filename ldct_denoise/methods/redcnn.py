"""RED-CNN: the residual encoder–decoder for low-dose CT.

Chen, Zhang, Kalra, Lin, Chen, Liao, Zhou, Wang, "Low-dose CT with a residual encoder-decoder convolutional neural
network", IEEE TMI 36(12), 2017.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Supervision
from ldct_denoise.networks.residual import RedCnn


class RedCnnSettings(RegressionSettings):
    """96 channels as published; values are 0 at the low end of the HU range because of the last ReLU."""

    channels: int = Field(96, ge=4, le=512, description="of every hidden layer")
    final_relu: bool = Field(True, description="as published: nothing below the low end of the HU range comes out")
    centre: float = Field(0.0, description="the image value that is 0 inside (0: the low end of the HU range)")


class RedCnnMethod(Regression[RedCnnSettings]):
    """Ten layers of 5×5 kernels, trained on pairs."""

    Settings = RedCnnSettings
    supervision = Supervision.SUPERVISED
    title = "residual encoder–decoder CNN, supervised"
    reference = (
        "Chen et al.: Low-dose CT with a residual encoder-decoder convolutional neural network, IEEE TMI 2017"
    )

    def _network(self) -> nn.Module:
        return RedCnn(self.settings.channels, self.settings.final_relu)


METHOD = RedCnnMethod
