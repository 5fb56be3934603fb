"""Contrast, HU linearity and jumps between slices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

FLICKER_BLOCK_PX = 16
REGULAR = 0.1  # steps that differ less from their median are alike
NEIGHBOURS_MM = 12.0  # CT slices further apart than this were picked from a series, and show other anatomy


@dataclass(frozen=True)
class Linearity:
    """The line ``measured = slope·nominal + intercept_hu`` and the largest distance from it, HU."""

    slope: float
    intercept_hu: float
    largest_deviation_hu: float


def cnr(hu: Image, first: Mask, second: Mask) -> float:
    """Contrast-to-noise ratio of two regions: ``|mean1 − mean2| / √((var1 + var2)/2)``; NaN without any noise."""
    inside, outside = hu[first].astype(np.float64), hu[second].astype(np.float64)
    noise = float(np.sqrt((inside.var() + outside.var()) / 2))
    return abs(float(inside.mean() - outside.mean())) / noise if noise > 0 else float("nan")


def hu_linearity(nominal_hu: ArrayLike, measured_hu: ArrayLike) -> Linearity:
    """How measured HU of inserts follow their nominal HU (least squares)."""
    nominal, measured = np.asarray(nominal_hu, dtype=np.float64), np.asarray(measured_hu, dtype=np.float64)
    slope, intercept = np.polyfit(nominal, measured, 1)
    deviation = np.max(np.abs(measured - slope * nominal - intercept))
    return Linearity(float(slope), float(intercept), float(deviation))


class Flicker:
    """How far neighbouring slices jump: rms of the slice-to-slice change of block means, over √2, in HU.

    Blocks of 16×16 pixels average the noise away; what is left is anatomy, and offsets that a 2-D denoiser gives
    each slice by itself. Independent offsets of standard deviation s add s in quadrature. Compare with the input.

    Parameters
    ----------
    slice_spacing_mm : float
        Slices are neighbours at this distance, give or take a half: across a gap, anatomy would drown the offsets.
        See :func:`regular_spacing_mm` and :func:`finest_spacing_mm`.
    """

    def __init__(self, slice_spacing_mm: float) -> None:
        self._spacing_mm = slice_spacing_mm
        self._last: tuple[float, NDArray[np.float64]] | None = None
        self._sum, self._count = 0.0, 0

    def add(self, hu: Image, mask: Mask, offset_mm: float) -> None:
        """The next slice, where its body is, and where it lies along the normal."""
        self.add_means(block_means(hu, mask), offset_mm)

    def add_means(self, means: NDArray[np.float64], offset_mm: float) -> None:
        """The next slice's :func:`block_means`, and where it lies along the normal."""
        if self._last is not None and self._are_neighbours(self._last[0], offset_mm):
            change = means - self._last[1]
            change = change[np.isfinite(change)]
            self._sum += float(np.sum(change**2))
            self._count += change.size
        self._last = offset_mm, means

    def _are_neighbours(self, first_mm: float, second_mm: float) -> bool:
        return abs(abs(second_mm - first_mm) - self._spacing_mm) <= self._spacing_mm / 2

    @property
    def value_hu(self) -> float:
        """NaN before two neighbours were added."""
        return (self._sum / self._count / 2) ** 0.5 if self._count else float("nan")


def regular_spacing_mm(offsets_mm: NDArray[np.float64]) -> float:
    """The step that most of the slices keep, mm; NaN where they keep none, or lie too far apart for neighbours.

    Parameters
    ----------
    offsets_mm : ndarray
        Where the slices lie along the normal.
    """
    steps = np.diff(np.sort(offsets_mm))
    step = float(np.median(steps)) if len(steps) else float("nan")
    is_kept = np.mean(np.abs(steps - step) <= REGULAR * step) > 0.5 if step <= NEIGHBOURS_MM else False
    return step if is_kept else float("nan")


def finest_spacing_mm(*offsets_mm: NDArray[np.float64]) -> float:
    """How far neighbouring slices are apart, mm: in the finest series, its gaps left out; NaN without neighbours.

    Parameters
    ----------
    offsets_mm : ndarray, one of each series
        Where the slices lie along the normal.
    """
    steps = [np.diff(np.sort(offsets)) for offsets in offsets_mm]
    near = [step[step <= NEIGHBOURS_MM] for step in steps]
    return min((float(np.median(step)) for step in near if len(step)), default=float("nan"))


def flicker(slices: Iterable[Image], masks: Iterable[Mask]) -> float:
    """:class:`Flicker` of a whole series without a gap, HU."""
    measure = Flicker(slice_spacing_mm=1.0)
    for number, (hu, mask) in enumerate(zip(slices, masks, strict=True)):
        measure.add(hu, mask, float(number))
    return measure.value_hu


def block_means(hu: Image, mask: Mask) -> NDArray[np.float64]:
    """Means of 16×16-pixel blocks; NaN where a block is not wholly in the mask."""
    return np.where(_blocks(mask) > 0.99, _blocks(hu), np.nan)


def _blocks(image: Image | Mask) -> NDArray[np.float64]:
    rows, columns = (side // FLICKER_BLOCK_PX for side in image.shape)
    cut = image[: rows * FLICKER_BLOCK_PX, : columns * FLICKER_BLOCK_PX]
    blocks = cut.reshape(rows, FLICKER_BLOCK_PX, columns, FLICKER_BLOCK_PX)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))
