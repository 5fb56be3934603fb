"""Collaborative filtering: group similar blocks, filter each group jointly, aggregate the filtered blocks.

Dabov, Foi, Katkovnik, Egiazarian, "Image denoising by sparse 3-D transform-domain collaborative filtering", IEEE
TIP 16(8), 2007, with the symbols of that paper. All blocks of the image are transformed once. A group is then a
gather of rows, and its estimates are summed in the transform domain, so that each block position also needs only
one inverse transform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Transform = Literal["bior1.5", "dct"]
#: Maps coefficients of noisy and pilot groups (g, n, block²) to filtered coefficients and group weights (g,).
Shrink = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Stage:
    """Block matching and transform of one of the two stages; in brackets the symbols of Table I of the paper.

    Parameters
    ----------
    block_size : int
        Side of a block, pixels (N₁).
    stride : int
        Distance between reference blocks, pixels (N_step).
    search_window : int
        Side of the search window, pixels, odd (N_S).
    max_group : int
        Largest number of blocks in a group, a power of two (N₂).
    tau_match : float
        Largest mean squared difference from the reference block, in units of σ² (τ_match).
    transform : {"bior1.5", "dct"}
        2-D transform of a block.
    kaiser_beta : float
        β of the Kaiser window that weights the pixels of a block.
    """

    block_size: int = 8
    stride: int = 3
    search_window: int = 39
    max_group: int = 16
    tau_match: float = 4.0
    transform: Transform = "bior1.5"
    kaiser_beta: float = 2.0


def bm3d(noisy: Tensor, sigma: float, hard: Stage, wiener: Stage | None, lambda_3d: float = 2.7) -> Tensor:
    """Denoise one image with BM3D.

    Parameters
    ----------
    noisy : Tensor, shape (height, width)
        Image of any size, in any units.
    sigma : float
        Standard deviation of its white noise, same units.
    hard : Stage
        First stage, hard thresholding.
    wiener : Stage or None
        Second stage, Wiener filtering; None: the basic estimate is returned.
    lambda_3d : float
        Hard threshold in units of σ.

    Returns
    -------
    Tensor, shape (height, width)
        Denoised image.
    """
    if sigma <= 0:
        return noisy.clone()
    basic = _filter(noisy, noisy, sigma, hard, _HardThreshold(lambda_3d * sigma))
    return basic if wiener is None else _filter(noisy, basic, sigma, wiener, _Wiener(sigma))


class _HardThreshold:
    """Keep coefficients above the threshold; a group with fewer of them has more weight (eq. 10)."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def __call__(self, noisy: Tensor, pilot: Tensor) -> tuple[Tensor, Tensor]:
        kept = noisy.abs() > self.threshold
        return noisy * kept, 1 / kept.sum(dim=(1, 2)).clamp(min=1)


class _Wiener:
    """Empirical Wiener shrinkage by the energy of the pilot (eq. 8), with the weight of eq. 11."""

    def __init__(self, sigma: float) -> None:
        self.variance = sigma**2

    def __call__(self, noisy: Tensor, pilot: Tensor) -> tuple[Tensor, Tensor]:
        energy = pilot.square()
        gain = energy / (energy + self.variance)
        return noisy * gain, 1 / gain.square().sum(dim=(1, 2)).clamp(min=1e-12)


def _filter(noisy: Tensor, pilot: Tensor, sigma: float, stage: Stage, shrink: Shrink) -> Tensor:
    """Run one stage: match on the pilot, filter the noisy groups, aggregate (eq. 12)."""
    height, width = noisy.shape
    margin, block = stage.search_window // 2, stage.block_size
    rows = _reflected(height, margin, _beyond(height, stage), noisy.device)
    columns = _reflected(width, margin, _beyond(width, stage), noisy.device)
    padded, padded_pilot = noisy[rows][:, columns], pilot[rows][:, columns]
    forward, inverse = (part.to(noisy) for part in _block_transform(stage.transform, block))
    coefficients = _blocks(padded, block) @ forward.T
    pilot_coefficients = coefficients if pilot is noisy else _blocks(padded_pilot, block) @ forward.T
    total = torch.zeros_like(coefficients)
    weight = coefficients.new_zeros(len(coefficients))
    for members, counts in _matches(padded_pilot, sigma, stage):
        for size in (2**n for n in range(stage.max_group.bit_length())):
            chosen = members[counts == size, :size]
            if len(chosen):
                _filter_groups(chosen, coefficients, pilot_coefficients, shrink, total, weight)
    window = _kaiser(block, stage.kaiser_beta).to(noisy)
    summed = _unblocks((total @ inverse.T) * window, padded.shape, block)
    weights = _unblocks(weight[:, None] * window, padded.shape, block)
    inside = slice(margin, margin + height), slice(margin, margin + width)
    return summed[inside] / weights[inside]


def _filter_groups(
    chosen: Tensor, coefficients: Tensor, pilot: Tensor, shrink: Shrink, total: Tensor, weight: Tensor
) -> None:
    """Filter groups of one size; add their weighted blocks to ``total`` and their weights to ``weight``."""
    haar = _haar(chosen.shape[1]).to(coefficients)
    noisy = haar @ coefficients[chosen]
    filtered, group_weight = shrink(noisy, noisy if pilot is coefficients else haar @ pilot[chosen])
    blocks = (haar.T @ filtered) * group_weight[:, None, None]
    _add_rows(total, chosen.reshape(-1), blocks.reshape(-1, blocks.shape[-1]))
    weight.index_put_((chosen.reshape(-1),), group_weight.repeat_interleave(chosen.shape[1]), accumulate=True)


def _add_rows(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """Compute ``total[index] += rows`` with repeated indices, deterministically."""
    if total.is_cuda:  # sorts by index, so it is deterministic; index_add_ is not
        total.index_put_((index,), rows, accumulate=True)
    else:
        total.index_add_(0, index, rows)


def _matches(pilot: Tensor, sigma: float, stage: Stage) -> list[tuple[Tensor, Tensor]]:
    """Find the groups of each stripe of reference blocks: block indices (r, max_group), group sizes (r,)."""
    height, width = pilot.shape
    block, step, search, margin = stage.block_size, stage.stride, stage.search_window, stage.search_window // 2
    across = width - block + 1
    references = [range(margin, extent - margin - block + 1, step) for extent in (height, width)]
    shifts = torch.arange(search**2, device=pilot.device)
    offsets = (shifts // search - margin) * across + shifts % search - margin
    stripe = 8  # rows of reference blocks at once: limits the memory of the distance table
    found = []
    for first in range(0, len(references[0]), stripe):
        tops = references[0][first : first + stripe]
        distance = _distances(pilot, tops, references[1], stage)
        # A small search window has fewer candidates than a group may have members.
        nearest, order = distance.topk(min(stage.max_group, distance.shape[1]), dim=1, largest=False)
        near = (nearest <= stage.tau_match * sigma**2 * block**2).sum(dim=1).clamp(min=1)
        counts = 2 ** torch.floor(torch.log2(near.double())).long()
        top = torch.tensor(list(tops), device=pilot.device)
        left = torch.tensor(list(references[1]), device=pilot.device)
        reference = (top[:, None] * across + left).reshape(-1, 1)
        found.append((reference + offsets[order], counts))
    return found


def _distances(pilot: Tensor, tops: range, lefts: range, stage: Stage) -> Tensor:
    """Summed squared differences (references, search_window²) of a stripe, by shifted differences and box sums."""
    block, step, search, margin = stage.block_size, stage.stride, stage.search_window, stage.search_window // 2
    tall, wide = tops[-1] - tops[0] + block, lefts[-1] - lefts[0] + block
    reference = pilot[tops[0] : tops[0] + tall, margin : margin + wide]
    around = pilot[tops[0] - margin : tops[0] + tall + margin, : wide + 2 * margin]
    table = pilot.new_empty(search, search, len(tops), len(lefts))
    for down in range(search):
        shifted = around[down : down + tall].unfold(1, wide, 1).transpose(0, 1)  # (search, tall, wide)
        squares = (shifted - reference).square_()
        sums = F.avg_pool2d(squares, (block, 1), (step, 1), divisor_override=1)
        table[down] = F.avg_pool2d(sums, (1, block), (1, step), divisor_override=1)
    table[margin, margin] = -1.0  # the reference block itself comes first
    return table.reshape(search**2, -1).T.contiguous()


def _beyond(extent: int, stage: Stage) -> int:
    """Pixels to pad behind, so that the last reference block ends at the border and its search window fits."""
    size = stage.block_size
    gap = (size - extent) if extent < size else -(extent - size) % stage.stride
    return stage.search_window // 2 + gap


def _reflected(extent: int, before: int, after: int, device: torch.device) -> Tensor:
    """Indices that reflect at the borders (edge pixel repeated), for any amount of padding."""
    index = torch.arange(-before, extent + after, device=device) % (2 * extent)
    return torch.where(index < extent, index, 2 * extent - 1 - index)


def _blocks(image: Tensor, block: int) -> Tensor:
    """Return every block, shape (positions, block²)."""
    return image.unfold(0, block, 1).unfold(1, block, 1).reshape(-1, block * block)


def _unblocks(blocks: Tensor, shape: torch.Size, block: int) -> Tensor:
    """Sum overlapping blocks at their positions."""
    image: Tensor = F.fold(blocks.T[None].contiguous(), (shape[0], shape[1]), block)
    return image[0, 0]


@lru_cache
def _block_transform(kind: Transform, block: int) -> tuple[Tensor, Tensor]:
    """Return a separable 2-D transform and its inverse as matrices on flattened blocks; rows have unit norm."""
    if kind == "dct":
        from scipy.fft import dct

        line = dct(np.eye(block), axis=0, norm="ortho")
    else:
        import pywt

        line, low = np.empty((0, block)), np.eye(block)
        while len(low) > 1:
            low, high = pywt.dwt(low, kind, mode="periodization", axis=0)
            line = np.concatenate([high, line])
        line = np.concatenate([low, line])
        line /= np.linalg.norm(line, axis=1, keepdims=True)
    back = np.linalg.inv(line)
    return torch.from_numpy(np.kron(line, line)).float(), torch.from_numpy(np.kron(back, back)).float()


@lru_cache
def _haar(size: int) -> Tensor:
    """Return the orthonormal Haar matrix."""
    if size == 1:
        return torch.ones(1, 1)
    half = _haar(size // 2)
    low = torch.kron(half, torch.tensor([[1.0, 1.0]]))
    high = torch.kron(torch.eye(size // 2), torch.tensor([[1.0, -1.0]]))
    return torch.cat([low, high]) / 2**0.5


@lru_cache
def _kaiser(block: int, beta: float) -> Tensor:
    """Return the 2-D Kaiser window, flattened."""
    line = torch.from_numpy(np.kaiser(block, beta)).float()
    return torch.outer(line, line).reshape(-1)
