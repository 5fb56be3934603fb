"""Quadratic autoencoder (Q-AE).

Ten layers of 3×3 quadratic convolutions with 15 filters. A quadratic neuron computes ``(w_r·x + b_r)(w_g·x +
b_g) + w_b·x² + c`` (eq. 1). Layers 2, 4 and the input are added to layers 8, 6 and the output. Initially
``w_g`` and ``w_b`` are 0 and ``b_g`` is 1, so that the network begins as a conventional one, with ``w_r`` from
a truncated Gaussian of standard deviation 0.1. The paper also draws ``w_g``; its code does not, and with drawn
values training diverges. Chosen here: all layers are zero-padded (the paper's fifth is not, and the sixth
undoes that), transposed convolutions of stride 1 are written as convolutions, and the last layer begins near 0.

Supervision: supervised

Reference: Fan, Shan, Kalra, Singh, Qian, Getzin, Teng, Hahn, Wang: Quadratic autoencoder (Q-AE) for low-dose CT
denoising, IEEE TMI 2020
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.methods._regression import Regression, RegressionSettings

NUM_LAYERS = 10


class QaeSettings(RegressionSettings):
    """The published network. Its inputs are squared, so they are scaled to about −1…3."""

    channels: int = Field(15, ge=2, le=128, description="filters of every hidden layer")
    input_scale: float = Field(4.0, gt=0, description="the network sees (image − input_shift) · input_scale")


class QuadraticConv(nn.Module):
    """3×3 convolution of quadratic neurons.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    std : float
        Standard deviation of the initial weights ``w_r``.
    """

    def __init__(self, in_channels: int, out_channels: int, std: float) -> None:
        super().__init__()
        self.r, self.g, self.b = (nn.Conv2d(in_channels, out_channels, 3, padding=1) for _ in range(3))
        nn.init.trunc_normal_(self.r.weight, std=std, a=-2 * std, b=2 * std)
        for weight in (self.g.weight, self.b.weight, self.r.bias, self.b.bias):
            assert weight is not None
            nn.init.zeros_(weight)
        assert self.g.bias is not None
        nn.init.ones_(self.g.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same height and width."""
        output: Tensor = self.r(x) * self.g(x) + self.b(x.square())
        return output


class QuadraticAutoencoder(nn.Module):
    """Five layers of the encoder, five of the decoder.

    Parameters
    ----------
    channels : int
        Filters of every hidden layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [1, *[channels] * (NUM_LAYERS - 1), 1]
        self.layers = nn.ModuleList(
            QuadraticConv(widths[n], widths[n + 1], 0.1 if n < NUM_LAYERS - 1 else 0.001)
            for n in range(NUM_LAYERS)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate, of the same shape."""
        features = image
        skips: dict[int, Tensor] = {}
        for number, layer in enumerate(self.layers, 1):
            features = layer(features)
            if number in (6, 8):
                features = features + skips[10 - number]
            if number == NUM_LAYERS:
                break
            features = F.relu(features)
            if number in (2, 4):
                skips[number] = features
        return image + features


class Qae(Regression[QaeSettings]):
    """Q-AE, trained on pairs."""

    Settings = QaeSettings

    def _network(self) -> nn.Module:
        return QuadraticAutoencoder(self.settings.channels)


METHOD = Qae
