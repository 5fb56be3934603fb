"""Regression networks of the denoising literature: from a noisy image to its estimate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldct_denoise.networks.blocks import Norm, conv, reflect_pad
from ldct_denoise.networks.encoder_decoder import UNetEncoder, UNetGenerator, initialize_near_zero


class RedCnn(nn.Module):
    """RED-CNN: five 5×5 convolutions and five transposed ones, unpadded, with three skips (Chen et al. 2017).

    Parameters
    ----------
    channels : int
        Channels of every hidden layer; 96 as published.
    final_relu : bool
        Whether the output passes through ReLU, as published; without it, output values may be negative.
    """

    SHRINKAGE = 20  # pixels that five unpadded 5×5 convolutions remove from each side

    def __init__(self, channels: int, final_relu: bool) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Conv2d(1 if n == 0 else channels, channels, 5) for n in range(5))
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(channels, 1 if n == 4 else channels, 5) for n in range(5))
        self.final_relu = final_relu
        initialize_near_zero(self.decoder[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate, of the same shape."""
        height, width = image.shape[-2:]
        margin = max(0, self.SHRINKAGE + 1 - min(height, width))
        features = reflect_pad(image, 0, margin, 0, margin) if margin else image
        skips = []
        for depth, layer in enumerate(self.encoder):
            if depth in (0, 2, 4):
                skips.append(features)
            features = F.relu(layer(features), inplace=True)
        for depth, layer in enumerate(self.decoder):
            features = layer(features)
            if depth in (0, 2, 4):
                features = features + skips.pop()
            if depth < 4 or self.final_relu:
                features = F.relu(features, inplace=True)
        return features[..., :height, :width]


class RedNet(nn.Module):
    """RedNet: 3×3 convolutions, as many transposed ones, and a skip every second layer (Mao et al. 2016).

    Parameters
    ----------
    num_layers : int
        Number of all layers: 30 for RED-30, 15 of each kind.
    channels : int
        Channels of every hidden layer.
    """

    def __init__(self, num_layers: int, channels: int) -> None:
        super().__init__()
        half = num_layers // 2
        self.encoder = nn.ModuleList(
            nn.Conv2d(1 if n == 0 else channels, channels, 3, padding=1) for n in range(half)
        )
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(channels, 1 if n == half - 1 else channels, 3, padding=1) for n in range(half)
        )
        initialize_near_zero(self.decoder[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate, of the same shape."""
        features, skips = image, []
        for depth, layer in enumerate(self.encoder):
            features = F.relu(layer(features), inplace=True)
            if depth % 2 == 1 and depth < len(self.encoder) - 1:
                skips.append(features)
        for depth, layer in enumerate(self.decoder[:-1]):
            features = layer(features)
            mirror = len(self.encoder) - 2 - depth  # encoder layer that this layer mirrors
            if mirror % 2 == 1:
                features = features + skips.pop()
            features = F.relu(features, inplace=True)
        estimate: Tensor = image + self.decoder[-1](features)
        return estimate


class DnCnn(nn.Module):
    """DnCNN: 3×3 convolutions with batch normalisation that predict the noise (Zhang et al. 2017).

    Parameters
    ----------
    num_layers : int
        Number of convolutions; 17 as published, 20 for the blind model.
    channels : int
        Channels of every hidden layer; 64 as published.
    batch_norm : bool
        Whether hidden layers have batch normalisation, as published.
    """

    def __init__(self, num_layers: int, channels: int, batch_norm: bool) -> None:
        super().__init__()
        norm: Norm = "batch" if batch_norm else "none"
        last = nn.Conv2d(channels, 1, 3, padding=1)
        initialize_near_zero(last)
        self.layers = nn.Sequential(
            conv(1, channels, 3), *(conv(channels, channels, 3, norm=norm) for _ in range(num_layers - 2)), last
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate, of the same shape."""
        estimate: Tensor = image - self.layers(image)
        return estimate


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015); height and width must be multiples of ``2 ** (num_levels − 1)``.

    Parameters
    ----------
    base_channels : int
        Channels at full resolution; each next level has twice as many.
    num_levels : int
        Number of resolutions.
    blocks_per_level : int
        3×3 convolutions in each level, of the contracting and of the expanding path.
    residual : bool
        Whether the network predicts the correction to the image; otherwise the image itself.
    """

    def __init__(self, base_channels: int, num_levels: int, blocks_per_level: int, residual: bool) -> None:
        super().__init__()
        channels = tuple(base_channels * 2**depth for depth in range(num_levels))
        self.encoder = UNetEncoder(channels, blocks_per_level, "none", 1.0, 0.0)
        self.generator = UNetGenerator(channels, (0,) * num_levels, blocks_per_level, "none", 1.0)
        self.residual = residual

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate, of the same shape."""
        base = image if self.residual else torch.zeros_like(image)
        estimate: Tensor = self.generator(self.encoder(image), base)
        return estimate
