"""Building blocks: convolutions with normalisation, residual blocks, fused up-sampling, padding, blurs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["none", "batch", "layer", "group"]
Padding = Literal["zeros", "reflect"]


def relu() -> nn.Module:
    """ReLU in place: the backward pass of a convolution or normalisation does not need its output."""
    return nn.ReLU(inplace=True)


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """Return the normalisation layer called ``kind``."""
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":  # over all channels and pixels of an image, with a scale and shift for each channel
            return nn.GroupNorm(1, channels)
        case "group":
            return nn.GroupNorm(min(8, channels), channels)
        case "none":
            return nn.Identity()


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    norm: Norm = "none",
    padding_mode: Padding = "zeros",
    activation: Callable[[], nn.Module] | None = relu,
    padding: int | None = None,
) -> nn.Sequential:
    """Return a convolution, its normalisation and its activation.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and the output.
    kernel_size : int
        Side of the square kernel, pixels.
    stride : int
        Step of the convolution, pixels.
    norm : Norm
        Normalisation after the convolution.
    padding_mode : {"zeros", "reflect"}
        How the image is continued beyond its border.
    activation : callable or None
        Makes the activation module; None: no activation.
    padding : int, optional
        Pixels of padding; by default half the kernel.

    Returns
    -------
    nn.Sequential
        The layers in this order.
    """
    padding = (kernel_size - 1) // 2 if padding is None else padding
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, padding_mode=padding_mode)
    return _normalized(layer, norm, activation)


def upsample_conv(in_channels: int, out_channels: int, norm: Norm, padding_mode: Padding) -> nn.Sequential:
    """Return nearest-neighbour up-sampling by 2, a 5×5 convolution, normalisation and ReLU.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and the output.
    norm : Norm
        Normalisation after the convolution.
    padding_mode : {"zeros", "reflect"}
        How the up-sampled image is continued beyond its border.

    Returns
    -------
    nn.Sequential
        The layers in this order.
    """
    layers = conv(in_channels, out_channels, 5, norm=norm, padding_mode=padding_mode)
    return nn.Sequential(nn.Upsample(scale_factor=2.0), *layers)


def upsample_concat_conv(fine_channels: int, coarse_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """Return :class:`UpsampleConcatConv2d`, normalisation and ReLU.

    Parameters
    ----------
    fine_channels, coarse_channels, out_channels : int
        Channels of the two inputs and of the output.
    norm : Norm
        Normalisation after the convolution.

    Returns
    -------
    nn.Sequential
        The layers in this order.
    """
    return _normalized(UpsampleConcatConv2d(fine_channels, coarse_channels, out_channels), norm, relu)


def _normalized(layer: nn.Conv2d, norm: Norm, activation: Callable[[], nn.Module] | None) -> nn.Sequential:
    layers: list[nn.Module] = [layer]
    if norm != "none":
        layers.append(norm_layer(norm, layer.out_channels))
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class UpsampleConcatConv2d(nn.Conv2d):
    """Up-sample a coarse map by 2 (nearest), concatenate it to a fine map, and convolve 3×3, fused.

    Up-sampling followed by a 3×3 convolution is a transposed 4×4 convolution of stride 2. It takes 4 products for
    each output value instead of 9, and neither the up-sampled nor the concatenated map is stored. The result is
    the same up to rounding. The parameters are those of the plain convolution.

    Parameters
    ----------
    fine_channels, coarse_channels, out_channels : int
        Channels of the two inputs and of the output.
    """

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__(fine_channels + coarse_channels, out_channels, 3, padding=1)

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Convolve a fine map and a coarse map of half its sides; the output has the size of the fine map."""
        fine, coarse = maps
        if is_tracing():
            upsampled = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
            return super().forward(torch.cat([fine, upsampled], dim=1))
        fine_weight, coarse_weight = self.weight.split([fine.shape[1], coarse.shape[1]], dim=1)
        kernel = _box_filtered(_box_filtered(coarse_weight.flip(2, 3).transpose(0, 1), 2), 3)
        output = F.conv2d(fine, fine_weight, self.bias, padding=1)
        return output.add_(F.conv_transpose2d(coarse, kernel, stride=2, padding=1))


def _box_filtered(weight: Tensor, dim: int) -> Tensor:
    """Convolve the 3 taps of a kernel with the 2 equal taps of nearest-neighbour up-sampling: 4 taps."""
    zero = torch.zeros_like(weight.narrow(dim, 0, 1))
    return torch.cat([weight, zero], dim) + torch.cat([zero, weight], dim)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a skip connection (He et al. 2016), without activation after the sum.

    Parameters
    ----------
    channels : int
        Channels of input and output.
    norm : Norm
        Normalisation after each convolution.
    padding_mode : {"zeros", "reflect"}
        How the image is continued beyond its border.
    """

    def __init__(self, channels: int, norm: Norm = "none", padding_mode: Padding = "zeros") -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, 3, norm=norm, padding_mode=padding_mode),
            conv(channels, channels, 3, norm=norm, padding_mode=padding_mode, activation=None),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return a map of the same shape."""
        output: Tensor = image + self.body(image)
        return output


def run_padded(network: Callable[[Tensor], Tensor], image: Tensor, multiple: int, min_side: int = 1) -> Tensor:
    """Pad an image by reflection so that a network accepts its size, run the network, and crop the result.

    Parameters
    ----------
    network : callable
        Keeps height and width, which must be multiples of ``multiple``.
    image : Tensor, shape (n, c, height, width)
        Images of any size.
    multiple : int
        Divisor of the sides that the network accepts, pixels.
    min_side : int
        Smallest side that the network accepts, pixels; a multiple of ``multiple``. Not checked while tracing.

    Returns
    -------
    Tensor, shape (n, c, height, width)
        Output of the network for the image without its padding.
    """
    height, width = image.shape[-2:]
    bottom, right = (_missing(side, multiple, min_side) for side in (height, width))
    if is_tracing() or bottom or right:
        image = reflect_pad(image, 0, right, 0, bottom)
    output = network(image)
    if torch.compiler.is_exporting():  # a view would fix whether it is the whole
        rows, columns = (torch.arange(side, device=image.device) for side in (height, width))
        return output.index_select(-2, rows).index_select(-1, columns)
    return output[..., :height, :width]


def _missing(side: int, multiple: int, min_side: int) -> int:
    """Pixels that a side lacks."""
    if not is_tracing() and side < min_side:
        return min_side - side
    return (multiple - side % multiple) % multiple


def is_tracing() -> bool:
    """Whether the network is being traced for export; control flow must not depend on sizes then."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def reflect_pad(image: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Pad by reflection, or by repeating the border where the image is too small to reflect.

    Parameters
    ----------
    image : Tensor, shape (n, c, height, width)
        Images.
    left, right, top, bottom : int
        Pixels to add on each side.

    Returns
    -------
    Tensor, shape (n, c, top + height + bottom, left + width + right)
        Padded images.
    """
    height, width = image.shape[-2:]
    fits = is_tracing() or (max(left, right) < width and max(top, bottom) < height)
    return F.pad(image, (left, right, top, bottom), mode="reflect" if fits else "replicate")


def gaussian_kernel(sigma_px: float, radius: int) -> Tensor:
    """Return a sampled Gaussian, shape (2·radius + 1,), whose sum is 1."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    return weights / weights.sum()


def blur(image: Tensor, kernel: Tensor, along_rows: Tensor | None = None) -> Tensor:
    """Convolve each channel with a separable kernel, reflecting at the borders.

    Parameters
    ----------
    image : Tensor, shape (n, c, height, width)
    kernel : Tensor, shape (odd,)
        Along columns, and along rows unless there is another.
    along_rows : Tensor, shape (odd,), optional
        Along rows.

    Returns
    -------
    Tensor, shape (n, c, height, width)
    """
    down, along = kernel, kernel if along_rows is None else along_rows
    if not is_tracing():  # a traced conversion would fix the device
        down, along = down.to(image), along.to(image)
    channels, high, wide = image.shape[1], len(down) // 2, len(along) // 2
    padded = reflect_pad(image, wide, wide, high, high)
    blurred = F.conv2d(padded, along.expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(blurred, down[:, None].expand(channels, 1, -1, 1), groups=channels)
