"""3×3 convolutions with a quarter of the products, where a processor trains in float32.

Winograd's minimal filtering (Lavin & Gray, "Fast algorithms for convolutional neural networks", CVPR 2016): a tile
of 4×4 results comes of 6×6 values by 36 products a channel instead of 144, between three small linear maps. The
same image to rounding (at 256 channels the largest error is below 1e-4 of the image's standard deviation). GPUs
choose such algorithms by themselves; PyTorch's CPU convolutions do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Results along a side of a tile; a tile reads two values more.
TILE = 4
#: With fewer channels the maps cost more than the products they save.
LEAST_CHANNELS = 64

# F(4, 3) of the paper: y = A·[(G·w) ∘ (B·x)] along one axis, from the points 0, ±1, ±2 and infinity.
_VALUES = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_TAPS = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
_RESULTS = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def _both_axes(matrix: list[list[int]], over: int = 1) -> Tensor:
    """The map of rows and columns at once."""
    exact = np.array(matrix) / over
    return torch.from_numpy(np.kron(exact, exact))


_OF_VALUES, _OF_TAPS, _OF_RESULTS = _both_axes(_VALUES), _both_axes(_TAPS, 24), _both_axes(_RESULTS)


def pays(image: Tensor, weight: Tensor) -> bool:
    """Whether :func:`convolve` takes this image and is faster: float32 on a CPU, gradients, many channels."""
    return (
        image.device.type == "cpu"
        and image.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and not any(side % TILE for side in image.shape[-2:])
    )


def convolve(padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What ``torch.nn.functional.conv2d(padded, weight, bias)`` gives.

    Parameters
    ----------
    padded : Tensor, shape (n, inputs, height + 2, width + 2)
        Height and width must be multiples of ``TILE``.
    weight : Tensor, shape (outputs, inputs, 3, 3)
    bias : Tensor, shape (outputs,)

    Returns
    -------
    Tensor, shape (n, outputs, height, width)
        In channels-last order.
    """
    made: Tensor = _Convolution.apply(padded, weight)  # type: ignore[no-untyped-call]
    return made + bias[:, None, None]


class _Convolution(torch.autograd.Function):
    """Keeps the image for its gradients, not its tiles, which are 2¼ times as large."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(padded, weight)
        products = torch.bmm(_mapped_tiles(padded), _mapped_taps(weight))
        return _assemble(_mapped(_OF_RESULTS, products), padded)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        padded, weight = ctx.saved_tensors
        products = _mapped(_OF_RESULTS.T, _take_apart(gradient))
        of_image = of_weight = None
        if ctx.needs_input_grad[0]:
            values = torch.bmm(products, _mapped_taps(weight).transpose(1, 2))
            of_image = _add_up(_mapped(_OF_VALUES.T, values), padded)
        if ctx.needs_input_grad[1]:
            taps = torch.bmm(_mapped_tiles(padded).transpose(1, 2), products)
            outputs, inputs = weight.shape[:2]
            of_weight = _mapped(_OF_TAPS.T, taps).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
        return of_image, of_weight


def _mapped(matrix: Tensor, stack: Tensor) -> Tensor:
    """A linear map along the first axis."""
    return (matrix.to(stack.dtype) @ stack.flatten(1)).view(len(matrix), *stack.shape[1:])


def _mapped_tiles(padded: Tensor) -> Tensor:
    """Overlapping tiles of 6×6 values, mapped: (36, tiles, inputs)."""
    size = TILE + 2
    tiles = padded.unfold(2, size, TILE).unfold(3, size, TILE).permute(4, 5, 0, 2, 3, 1)
    return _mapped(_OF_VALUES, tiles.reshape(size**2, -1, padded.shape[1]))


def _mapped_taps(weight: Tensor) -> Tensor:
    """The filters, mapped: (36, inputs, outputs)."""
    return _mapped(_OF_TAPS, weight.permute(2, 3, 1, 0).reshape(9, *weight.shape[1::-1]))


def _counts(padded: Tensor) -> tuple[int, int]:
    """Tiles down and along."""
    return (padded.shape[2] - 2) // TILE, (padded.shape[3] - 2) // TILE


def _assemble(results: Tensor, padded: Tensor) -> Tensor:
    """Tiles of results, (16, tiles, outputs), as an image."""
    down, along = _counts(padded)
    tiles = results.view(TILE, TILE, len(padded), down, along, -1).permute(2, 3, 0, 4, 1, 5)
    return tiles.reshape(len(padded), down * TILE, along * TILE, -1).permute(0, 3, 1, 2)


def _take_apart(image: Tensor) -> Tensor:
    """The inverse of :func:`_assemble`."""
    count, channels, height, width = image.shape
    rows = image.permute(0, 2, 3, 1).reshape(count, height // TILE, TILE, width // TILE, TILE, channels)
    return rows.permute(2, 4, 0, 1, 3, 5).reshape(TILE**2, -1, channels)


def _add_up(values: Tensor, padded: Tensor) -> Tensor:
    """Overlapping tiles, (36, tiles, inputs), added up where they lie on the padded image."""
    count, channels, height, width = padded.shape
    down, along = _counts(padded)
    tiles = values.view(TILE + 2, TILE + 2, count, down, along, channels)
    image = values.new_zeros(count, down + 1, TILE, along + 1, TILE, channels)
    at = image.permute(2, 4, 0, 1, 3, 5)  # the part of each tile that no other has, and what reaches over
    at[:, :, :, :down, :along] = tiles[:TILE, :TILE]
    at[:2, :, :, 1:, :along] += tiles[TILE:, :TILE]
    at[:, :2, :, :down, 1:] += tiles[:TILE, TILE:]
    at[:2, :2, :, 1:, 1:] += tiles[TILE:, TILE:]
    whole = image.view(count, (down + 1) * TILE, (along + 1) * TILE, channels)
    return whole[:, :height, :width].permute(0, 3, 1, 2)
