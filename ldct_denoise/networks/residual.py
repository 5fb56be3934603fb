"""Regression networks of the denoising literature: one image in, its estimate out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldct_denoise.networks.blocks import Norm, conv, reflect_pad
from ldct_denoise.networks.translation import MultiscaleEncoder, MultiscaleGenerator


class RedCnn(nn.Module):
    """Five 5×5 convolutions and five transposed ones, without padding, with three shortcuts (Chen et al. 2017).

    Parameters
    ----------
    channels : int
        96 as published.
    final_relu : bool
        As published; off, values below 0 can be restored too.
    """

    SHRINKS = 20  # pixels that five 5×5 convolutions take off each side length

    def __init__(self, channels: int, final_relu: bool) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Conv2d(1 if n == 0 else channels, channels, 5) for n in range(5))
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(channels, 1 if n == 4 else channels, 5) for n in range(5))
        self.final_relu = final_relu
        shrink_last_layer(self.decoder[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        height, width = image.shape[-2:]
        margin = max(0, self.SHRINKS + 1 - min(height, width))
        features = reflect_pad(image, 0, margin, 0, margin) if margin else image
        shortcuts = []
        for depth, layer in enumerate(self.encoder):
            if depth in (0, 2, 4):
                shortcuts.append(features)
            features = F.relu(layer(features), inplace=True)
        for depth, layer in enumerate(self.decoder):
            features = layer(features)
            if depth in (0, 2, 4):
                features = features + shortcuts.pop()
            if depth < 4 or self.final_relu:
                features = F.relu(features, inplace=True)
        return features[..., :height, :width]


class RedNet(nn.Module):
    """3×3 convolutions and as many transposed ones, a shortcut every other layer (Mao et al. 2016).

    Parameters
    ----------
    layers : int
        In all: 30 for RED-30, 15 of each kind.
    channels : int
    """

    def __init__(self, layers: int, channels: int) -> None:
        super().__init__()
        half = layers // 2
        self.encoder = nn.ModuleList(
            nn.Conv2d(1 if n == 0 else channels, channels, 3, padding=1) for n in range(half)
        )
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(channels, 1 if n == half - 1 else channels, 3, padding=1) for n in range(half)
        )
        shrink_last_layer(self.decoder[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        features, shortcuts = image, []
        for depth, layer in enumerate(self.encoder):
            features = F.relu(layer(features), inplace=True)
            if depth % 2 == 1 and depth < len(self.encoder) - 1:
                shortcuts.append(features)
        for depth, layer in enumerate(self.decoder[:-1]):
            features = layer(features)
            mirror = len(self.encoder) - 2 - depth  # the encoder layer whose output this one's mirrors
            if mirror % 2 == 1:
                features = features + shortcuts.pop()
            features = F.relu(features, inplace=True)
        estimate: Tensor = image + self.decoder[-1](features)
        return estimate


class DnCnn(nn.Module):
    """A plain stack of 3×3 convolutions with batch normalisation that predicts the noise (Zhang et al. 2017).

    Parameters
    ----------
    layers, channels : int
        17 and 64 as published (20 for the blind model).
    batch_norm : bool
        As published.
    """

    def __init__(self, layers: int, channels: int, batch_norm: bool) -> None:
        super().__init__()
        norm: Norm = "batch" if batch_norm else "none"
        last = nn.Conv2d(channels, 1, 3, padding=1)
        shrink_last_layer(last)
        self.layers = nn.Sequential(
            conv(1, channels, 3), *(conv(channels, channels, 3, norm=norm) for _ in range(layers - 2)), last
        )

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        estimate: Tensor = image - self.layers(image)
        return estimate


class UNet(nn.Module):
    """The multiscale encoder and generator as one network; sides must be multiples of ``2 ** (scales − 1)``.

    Parameters
    ----------
    width, scales, blocks : int
        Channels at full resolution (doubled at each next), resolutions, convolutions at each.
    residual : bool
        Predict the correction to the image, or the image.
    """

    def __init__(self, width: int, scales: int, blocks: int, residual: bool) -> None:
        super().__init__()
        widths = tuple(width * 2**depth for depth in range(scales))
        self.encoder = MultiscaleEncoder(widths, blocks, "none", 1.0, 0.0)
        self.generator = MultiscaleGenerator(widths, (0,) * scales, blocks, "none", 1.0)
        self.residual = residual

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        base = image if self.residual else torch.zeros_like(image)
        estimate: Tensor = self.generator(self.encoder(image), base)
        return estimate


@torch.no_grad()
def shrink_last_layer(layer: nn.Module, factor: float = 0.01) -> None:
    """Let a network begin near what its shortcut gives: scale down its last convolution, no bias."""
    assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.zero_()
