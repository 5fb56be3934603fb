"""Networks with an exact inverse: Haar squeezes and affine couplings, as in InvDN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HaarSqueeze(nn.Module):
    """Half the sides, four times the channels: means of 2×2 squares first, then the three kinds of detail."""

    def forward(self, image: Tensor) -> Tensor:
        """(n, c, 2h, 2w) to (n, 4c, h, w)."""
        a, b = image[..., 0::2, 0::2], image[..., 0::2, 1::2]
        c, d = image[..., 1::2, 0::2], image[..., 1::2, 1::2]
        return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 4

    def inverse(self, squeezed: Tensor) -> Tensor:
        """(n, 4c, h, w) to (n, c, 2h, 2w)."""
        mean, right, down, both = squeezed.chunk(4, dim=1)
        n, channels, height, width = mean.shape
        image = squeezed.new_empty(n, channels, 2 * height, 2 * width)
        image[..., 0::2, 0::2] = mean + right + down + both
        image[..., 0::2, 1::2] = mean - right + down - both
        image[..., 1::2, 0::2] = mean + right - down - both
        image[..., 1::2, 1::2] = mean - right - down + both
        return image


class DenseBlock(nn.Module):
    """Five 3×3 convolutions, each seeing all before it; gives zero at the start, so a coupling does nothing."""

    def __init__(self, inputs: int, outputs: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(inputs + n * growth, growth, 3, padding=1) for n in range(4))
        self.last = nn.Conv2d(inputs + 4 * growth, outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h, w)."""
        for layer in self.layers:
            features = torch.cat([features, F.leaky_relu(layer(features), 0.2)], dim=1)
        result: Tensor = self.last(features)
        return result


class Coupling(nn.Module):
    """The low part moves by a function of the rest; the rest is scaled and moved by functions of the low part.

    Parameters
    ----------
    low, rest : int
        Channels of each.
    growth : int
        Channels that each convolution adds.
    clamp : float
        Largest logarithm of the scale.
    """

    def __init__(self, low: int, rest: int, growth: int, clamp: float = 0.8) -> None:
        super().__init__()
        self.low, self.clamp = low, clamp
        self.to_low = DenseBlock(rest, low, growth)
        self.to_scale, self.to_rest = DenseBlock(low, rest, growth), DenseBlock(low, rest, growth)

    def forward(self, features: Tensor) -> Tensor:
        """Same shape."""
        low, rest = features[:, : self.low], features[:, self.low :]
        low = low + self.to_low(rest)
        return torch.cat([low, rest * self._scale(low).exp() + self.to_rest(low)], dim=1)

    def inverse(self, features: Tensor) -> Tensor:
        """Undo :meth:`forward`."""
        low, rest = features[:, : self.low], features[:, self.low :]
        rest = (rest - self.to_rest(low)) * (-self._scale(low)).exp()
        return torch.cat([low - self.to_low(rest), rest], dim=1)

    def _scale(self, low: Tensor) -> Tensor:
        return self.clamp * torch.tanh(self.to_scale(low) / 2)


class InvertibleNetwork(nn.Module):
    """For each halving a Haar squeeze and couplings; the first channel is the small image, the others the latent.

    Parameters
    ----------
    halvings, couplings, growth : int
    """

    def __init__(self, halvings: int, couplings: int, growth: int) -> None:
        super().__init__()
        layers: list[HaarSqueeze | Coupling] = []
        for halving in range(1, halvings + 1):
            layers.append(HaarSqueeze())
            layers += [Coupling(1, 4**halving - 1, growth) for _ in range(couplings)]
        self.layers = nn.ModuleList(layers)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The small image (n, 1, h, w) and the latent (n, 4**halvings − 1, h, w)."""
        features = image
        for layer in self.layers:
            features = layer(features)
        return features[:, :1], features[:, 1:]

    def inverse(self, small: Tensor, latent: Tensor) -> Tensor:
        """The image that gives this small image and latent."""
        features = torch.cat([small, latent], dim=1)
        for layer in reversed(self.layers):
            assert isinstance(layer, (HaarSqueeze, Coupling))
            features = layer.inverse(features)
        return features
