"""Three-layer CNN (CNN-10).

Convolutions of 9×9, 3×3 and 5×5 pixels with 64, 32 and 1 filters, ReLU after the first two; regression on
normal-dose images with the squared error. The image itself is predicted, not the noise. The paper draws initial
weights from a Gaussian of standard deviation 0.001; here they are PyTorch's. Zero padding keeps the size.

Supervision: supervised

Reference: Chen et al.: Low-dose CT via convolutional neural network, Biomedical Optics Express 2017
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ldct_denoise.methods._regression import Regression, RegressionSettings


class Cnn10Settings(RegressionSettings):
    """The published network."""

    channels: int = Field(64, ge=4, le=512, multiple_of=2, description="filters of the first layer (second: half)")


class Cnn10(Regression[Cnn10Settings]):
    """CNN-10, trained on pairs."""

    Settings = Cnn10Settings

    def _network(self) -> nn.Module:
        first, second = self.settings.channels, self.settings.channels // 2
        return nn.Sequential(
            nn.Conv2d(1, first, 9, padding=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, 1, 5, padding=2),
        )


METHOD = Cnn10
