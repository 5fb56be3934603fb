"""Small pieces: convolutions with padding and normalisation by name, residual blocks, size handling, blurs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldct_denoise.networks import winograd

Norm = Literal["none", "batch", "layer", "group"]
Padding = Literal["zeros", "reflect"]


def relu() -> nn.Module:
    """In place: neither a convolution nor a normalisation needs its result for its gradient."""
    return nn.ReLU(inplace=True)


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """The normalisation called ``kind``."""
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":  # each image over all its channels and pixels, then a scale and a shift for each channel
            return nn.GroupNorm(1, channels)
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
    activation: Callable[[], nn.Module] | None = relu,
    edge: int | None = None,
) -> nn.Sequential:
    """Convolution, normalisation, activation; ``edge`` pixels of padding (half the kernel by default)."""
    edge = (size - 1) // 2 if edge is None else edge
    first = nn.Conv2d(inputs, outputs, size, stride, padding=edge, padding_mode=padding)
    return _normed(first, norm, activation)


def up_conv(inputs: int, outputs: int, *, norm: Norm, padding: Padding, literal: bool = False) -> nn.Sequential:
    """Up-sampling with its 5×5 convolution, normalisation, activation."""
    return _normed(UpConv2d(inputs, outputs, padding, literal), norm, relu)


def join_conv(fine: int, coarse: int, outputs: int, *, norm: Norm) -> nn.Sequential:
    """Convolution of a fine map and a coarse one beside it, normalisation, activation."""
    return _normed(JoinConv2d(fine, coarse, outputs), norm, relu)


def _normed(convolution: nn.Conv2d, norm: Norm, activation: Callable[[], nn.Module] | None) -> nn.Sequential:
    layers: list[nn.Module] = [convolution]
    if norm != "none":
        layers.append(norm_layer(norm, convolution.out_channels))
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class UpConv2d(nn.Conv2d):
    """Each pixel repeated to 2×2 (nearest up-sampling), then a 5×5 convolution; worked out before the repetition.

    Of one pixel come four; each sees the same 3×3 pixels, with sums of the 25 weights. So one 3×3 convolution to
    four times the channels, laid out as pixels, gives the same image with 9 products a pixel instead of 25.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    padding : Padding
        Of the repeated image.
    literal : bool
        Repeat, then convolve, as it is written down.
    """

    def __init__(self, inputs: int, outputs: int, padding: Padding = "zeros", literal: bool = False) -> None:
        super().__init__(inputs, outputs, 5, padding=2, padding_mode=padding)
        self.literal = literal

    def forward(self, image: Tensor) -> Tensor:
        """Twice the height and width."""
        if self.literal:
            return super().forward(_repeated(image))
        weight, bias = _fold(_fold(self.weight, 2, 1), 4, 2).flatten(0, 2), self.bias
        assert bias is not None
        reflects = self.padding_mode == "reflect"
        edge = F.pad(image, (1, 1, 1, 1), mode="replicate") if reflects else image
        made = F.conv2d(edge, weight, bias.repeat_interleave(4), padding=0 if reflects else 1)
        made = F.pixel_shuffle(made, 2)
        return self._with_reflected_rim(made, image) if reflects else made

    def _with_reflected_rim(self, made: Tensor, image: Tensor) -> Tensor:
        """Add what the outermost taps see at the rim: reflection is not the repeated edge two pixels outside."""
        above_below = _reflection_beyond(image)
        left_right = _reflection_beyond(image.transpose(2, 3))
        left_right[..., [0, -1]] = 0  # the corners are the rows'
        made.index_add_(2, _ends(made.shape[2], made.device), _rim(above_below, self.weight))
        columns = _rim(left_right, self.weight.transpose(2, 3)).transpose(2, 3)
        return made.index_add_(3, _ends(made.shape[3], made.device), columns)


def _reflection_beyond(image: Tensor) -> Tensor:
    """Reflected less edge repeated, two rows above the repeated image and two below: (n, c, 2, width + 4)."""
    rows = image[:, :, [1, -2, 0, -1]].repeat_interleave(2, dim=3)
    reflected = F.pad(rows[:, :, :2], (2, 2, 0, 0), mode="reflect")
    return reflected - F.pad(rows[:, :, 2:], (2, 2, 0, 0), mode="replicate")


def _rim(beyond: Tensor, weight: Tensor) -> Tensor:
    """What the first taps see above and the last below, (n, c, 2, width)."""
    sides = zip(beyond.unbind(2), (weight[:, :, 0], weight[:, :, -1]), strict=True)
    return torch.stack([F.conv1d(row, taps) for row, taps in sides], dim=2)


def _ends(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, device=device)[[0, -1]]


def _repeated(image: Tensor) -> Tensor:
    return F.interpolate(image, scale_factor=2.0, mode="nearest")


def _fold(weight: Tensor, dim: int, phase: int) -> Tensor:
    """Taps along ``dim`` that meet the same pixel, added up, for the left and the right of two equal ones.

    Of five taps come three, of three two; left and right are the new axis ``phase``.
    """
    taps, alone = weight.unbind(dim), weight.shape[dim] // 2 % 2
    return torch.stack([_in_pairs(taps, 2 - alone, dim), _in_pairs(taps, 1 + alone, dim)], phase)


def _in_pairs(taps: Sequence[Tensor], first: int, dim: int) -> Tensor:
    """The first one or two taps, then two by two."""
    pairs = [taps[:first], *(taps[start : start + 2] for start in range(first, len(taps), 2))]
    return torch.stack([sum(pair[1:], start=pair[0]) for pair in pairs], dim)


class JoinConv2d(nn.Conv2d):
    """A coarse map repeated to the size of a fine one (nearest) and put beside it, then a 3×3 convolution.

    Of nine repeated pixels four differ at the most: with sums of the weights the coarse map takes 4 products for
    each result instead of 9. The same to rounding, and nothing is repeated or put beside.

    Parameters
    ----------
    fine, coarse, outputs : int
        Channels.
    """

    def __init__(self, fine: int, coarse: int, outputs: int) -> None:
        super().__init__(fine + coarse, outputs, 3, padding=1)

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Of a fine and a coarse map, half its sides: the fine one's height and width."""
        fine, coarse = maps
        if is_exported():
            return super().forward(torch.cat([fine, _repeated(coarse)], dim=1))
        of_fine, of_coarse = self.weight.split([fine.shape[1], coarse.shape[1]], dim=1)
        made = F.conv2d(fine, of_fine, self.bias, padding=1)
        weight = _fold(_fold(of_coarse, 2, 0), 4, 1)  # (below, right, outputs, coarse, 2, 2)
        around = F.conv2d(coarse, weight.flatten(0, 2), padding=1).unflatten(1, weight.shape[:3])
        height, width = coarse.shape[-2:]
        for below, right in product((0, 1), repeat=2):
            seen = around[:, below, right, :, below : below + height, right : right + width]
            made[:, :, below::2, right::2] += seen
        return made


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution that keeps the size; with fewer products where that is faster.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    padding : Padding
    literal : bool
        As it is written down.
    """

    def __init__(self, inputs: int, outputs: int, padding: Padding = "zeros", literal: bool = False) -> None:
        super().__init__(inputs, outputs, 3, padding=1, padding_mode=padding)
        self.literal = literal

    def forward(self, image: Tensor) -> Tensor:
        """Same height and width."""
        if self.literal or is_exported() or not winograd.pays(image, self.weight):
            return super().forward(image)
        assert self.bias is not None
        edge = F.pad(image, (1, 1, 1, 1), mode="reflect" if self.padding_mode == "reflect" else "constant")
        return winograd.convolve(edge, self.weight, self.bias)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a skip (He et al. 2016); no activation after the sum."""

    def __init__(
        self, channels: int, norm: Norm = "none", padding: Padding = "zeros", literal: bool = False
    ) -> None:
        super().__init__()
        first, second = (Conv3x3(channels, channels, padding, literal) for _ in range(2))
        self.body = nn.Sequential(_normed(first, norm, relu), _normed(second, norm, None))

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        sum_: Tensor = image + self.body(image)
        return sum_


def on_multiple(network: Callable[[Tensor], Tensor], image: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Run a network whose sides must be multiples of ``multiple`` on any size: pad by reflection, crop back.

    Parameters
    ----------
    network : callable
        Keeps height and width.
    image : Tensor, shape (n, c, height, width)
    multiple : int
    least : int
        Pixels that a side must have, a multiple of ``multiple``; a recorded network takes it for granted.
    """
    height, width = image.shape[-2:]
    down, right = (_missing(side, multiple, least) for side in (height, width))
    if is_exported() or down or right:
        image = reflect_pad(image, 0, right, 0, down)
    return network(image)[..., :height, :width]


def _missing(side: int, multiple: int, least: int) -> int:
    """Pixels to add to a side."""
    if not is_exported() and side < least:
        return least - side
    return (multiple - side % multiple) % multiple


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
