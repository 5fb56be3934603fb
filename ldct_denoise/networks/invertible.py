"""Networks with an exact inverse: Haar down-sampling and affine couplings, as in InvDN (Liu et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HaarDownsampling(nn.Module):
    """Haar wavelet transform: half the height and width, four times the channels, the low-pass band first."""

    def forward(self, image: Tensor) -> Tensor:
        """Map (n, c, 2h, 2w) to (n, 4c, h, w)."""
        a, b = image[..., 0::2, 0::2], image[..., 0::2, 1::2]
        c, d = image[..., 1::2, 0::2], image[..., 1::2, 1::2]
        return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 4

    def inverse(self, bands: Tensor) -> Tensor:
        """Map (n, 4c, h, w) to (n, c, 2h, 2w)."""
        mean, right, down, both = bands.chunk(4, dim=1)
        n, channels, height, width = mean.shape
        image = bands.new_empty(n, channels, 2 * height, 2 * width)
        image[..., 0::2, 0::2] = mean + right + down + both
        image[..., 0::2, 1::2] = mean - right + down - both
        image[..., 1::2, 0::2] = mean + right - down - both
        image[..., 1::2, 1::2] = mean - right - down + both
        return image


class DenseBlock(nn.Module):
    """Five densely connected 3×3 convolutions; initially the output is 0, so that a coupling is the identity.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and the output.
    growth_channels : int
        Channels that each hidden convolution adds.
    """

    def __init__(self, in_channels: int, out_channels: int, growth_channels: int) -> None:
        super().__init__()
        inputs = [in_channels + number * growth_channels for number in range(5)]
        self.layers = nn.ModuleList(nn.Conv2d(count, growth_channels, 3, padding=1) for count in inputs[:4])
        self.last = nn.Conv2d(inputs[4], out_channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, out_channels, h, w)."""
        for layer in self.layers:
            features = torch.cat([features, F.leaky_relu(layer(features), 0.2)], dim=1)
        result: Tensor = self.last(features)
        return result


class AffineCoupling(nn.Module):
    """Invertible block: low + φ(high), then high · exp(ρ(low)) + η(low), with dense blocks φ, ρ and η.

    Parameters
    ----------
    low_channels, high_channels : int
        Channels of the low-frequency part and of all others.
    growth_channels : int
        Channels that each convolution of a dense block adds.
    max_log_scale : float
        Largest logarithm of the scale.
    """

    def __init__(
        self, low_channels: int, high_channels: int, growth_channels: int, max_log_scale: float = 0.8
    ) -> None:
        super().__init__()
        self.low_channels, self.max_log_scale = low_channels, max_log_scale
        self.shift_low = DenseBlock(high_channels, low_channels, growth_channels)
        self.scale_high = DenseBlock(low_channels, high_channels, growth_channels)
        self.shift_high = DenseBlock(low_channels, high_channels, growth_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        low, high = self._split(features)
        low = low + self.shift_low(high)
        return torch.cat([low, high * self._log_scale(low).exp() + self.shift_high(low)], dim=1)

    def inverse(self, features: Tensor) -> Tensor:
        """Undo :meth:`forward`."""
        low, high = self._split(features)
        high = (high - self.shift_high(low)) * (-self._log_scale(low)).exp()
        return torch.cat([low - self.shift_low(high), high], dim=1)

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features[:, : self.low_channels], features[:, self.low_channels :]

    def _log_scale(self, low: Tensor) -> Tensor:
        return self.max_log_scale * torch.tanh(self.scale_high(low) / 2)


class InvertibleNetwork(nn.Module):
    """Haar down-sampling and couplings at each level: an invertible map to a small image and a latent.

    Parameters
    ----------
    num_levels : int
        Number of down-samplings by 2.
    blocks_per_level : int
        Couplings after each down-sampling.
    growth_channels : int
        Channels that each convolution of a dense block adds.
    """

    def __init__(self, num_levels: int, blocks_per_level: int, growth_channels: int) -> None:
        super().__init__()
        layers: list[HaarDownsampling | AffineCoupling] = []
        for level in range(1, num_levels + 1):
            layers.append(HaarDownsampling())
            layers += [AffineCoupling(1, 4**level - 1, growth_channels) for _ in range(blocks_per_level)]
        self.layers = nn.ModuleList(layers)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the small image (n, 1, h, w) and the latent (n, 4**num_levels − 1, h, w)."""
        features = image
        for layer in self.layers:
            features = layer(features)
        return features[:, :1], features[:, 1:]

    def inverse(self, small: Tensor, latent: Tensor) -> Tensor:
        """Return the image that :meth:`forward` maps to this small image and latent."""
        features = torch.cat([small, latent], dim=1)
        for layer in reversed(self.layers):
            assert isinstance(layer, (HaarDownsampling, AffineCoupling))
            features = layer.inverse(features)
        return features
