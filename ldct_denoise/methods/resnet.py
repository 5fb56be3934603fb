"""Residual network that predicts the noise (ResNet).

A 9×9 convolution, ten residual blocks and a 3×3 convolution; the output is subtracted from the image. A block
has a 3×3 convolution, a 3×3 convolution in eight groups and a 1×1 convolution, with batch normalisation and
ReLU after the first two. Widths are those of ldct-benchmark (Eulig et al. 2024); the conference paper leaves
them open. Batch statistics are those of training patches, as for DnCNN.

Supervision: supervised

Reference: Missert, Leng, Yu, McCollough: Noise subtraction for low-dose CT images using a deep convolutional
neural network, International Conference on Image Formation in X-Ray CT 2018
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.networks.encoder_decoder import initialize_near_zero

GROUPS = 8


class ResNetSettings(RegressionSettings):
    """The network of ldct-benchmark."""

    channels: int = Field(128, ge=GROUPS, le=512, multiple_of=GROUPS, description="channels of hidden layers")
    num_blocks: int = Field(10, ge=1, le=50, description="residual blocks")


class Block(nn.Module):
    """Residual block with a grouped convolution.

    Parameters
    ----------
    channels : int
        Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, groups=GROUPS),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return a map of the same shape."""
        output: Tensor = features + self.body(features)
        return output


class NoisePredictor(nn.Module):
    """Predicts the noise of an image and subtracts it.

    Parameters
    ----------
    channels : int
        Channels of hidden layers.
    num_blocks : int
        Residual blocks.
    """

    def __init__(self, channels: int, num_blocks: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, 1, 3, padding=1)
        initialize_near_zero(last)
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 9, padding=4), *(Block(channels) for _ in range(num_blocks)), last
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate, of the same shape."""
        estimate: Tensor = image - self.layers(image)
        return estimate


class ResNet(Regression[ResNetSettings]):
    """Noise subtraction, trained on pairs."""

    Settings = ResNetSettings

    def _network(self) -> nn.Module:
        return NoisePredictor(self.settings.channels, self.settings.num_blocks)


METHOD = ResNet
