"""Small pieces: convolutions with padding and normalisation by name, residual blocks, size handling, blurs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["none", "batch", "layer", "group"]
Padding = Literal["zeros", "reflect"]


class LayerNorm2d(nn.Module):
    """Normalise each image over all its channels and pixels, then scale and shift each channel."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        variance, mean = torch.var_mean(image, dim=(1, 2, 3), keepdim=True, correction=0)
        normal = (image - mean) * torch.rsqrt(variance + self.eps)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """The normalisation called ``kind``."""
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":
            return LayerNorm2d(channels)
        case "group":
            return nn.GroupNorm(min(8, channels), channels)
        case "none":
            return nn.Identity()


def conv(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    norm: Norm = "none",
    padding: Padding = "zeros",
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    edge: int | None = None,
) -> nn.Sequential:
    """Convolution, normalisation, activation; ``edge`` pixels of padding (half the kernel by default)."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs, outputs, size, stride, padding=(size - 1) // 2 if edge is None else edge, padding_mode=padding
        )
    ]
    if norm != "none":
        layers.append(norm_layer(norm, outputs))
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a skip (He et al. 2016); no activation after the sum."""

    def __init__(self, channels: int, norm: Norm = "none", padding: Padding = "zeros") -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, 3, norm=norm, padding=padding),
            conv(channels, channels, 3, norm=norm, padding=padding, activation=None),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        sum_: Tensor = image + self.body(image)
        return sum_


def on_multiple(network: Callable[[Tensor], Tensor], image: Tensor, multiple: int) -> Tensor:
    """Run a network whose sides must be multiples of ``multiple`` on any size: pad by reflection, crop back.

    Parameters
    ----------
    network : callable
        Keeps height and width.
    image : Tensor, shape (n, c, height, width)
    multiple : int
    """
    height, width = image.shape[-2:]
    down, right = ((multiple - side % multiple) % multiple for side in (height, width))
    if is_exported() or down or right:
        image = reflect_pad(image, 0, right, 0, down)
    return network(image)[..., :height, :width]


def is_exported() -> bool:
    """Whether the network is being recorded for use elsewhere, on images of any size: no branch may look at it."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def reflect_pad(image: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Pad by reflection; by repeating the edge where the image is too small to reflect."""
    height, width = image.shape[-2:]
    fits = is_exported() or (max(left, right) < width and max(top, bottom) < height)
    return F.pad(image, (left, right, top, bottom), mode="reflect" if fits else "replicate")


def gaussian_kernel(sigma: float, radius: int) -> Tensor:
    """Weights of a sampled Gaussian, shape (2·radius + 1,), sum 1."""
    place = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (place / sigma) ** 2)
    return weights / weights.sum()


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Blur each channel by the separable kernel, reflecting at the edges; same shape.

    Parameters
    ----------
    image : Tensor, shape (n, c, height, width)
    kernel : Tensor, shape (odd,)
    """
    channels, radius = image.shape[1], len(kernel) // 2
    kernel = kernel if is_exported() else kernel.to(image)  # recorded, the device would be fixed
    padded = reflect_pad(image, radius, radius, radius, radius)
    along = F.conv2d(padded, kernel.expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(along, kernel[:, None].expand(channels, 1, -1, 1), groups=channels)
