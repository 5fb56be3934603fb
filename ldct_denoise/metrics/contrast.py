"""Contrast, HU linearity and jumps between slices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

FLICKER_BLOCK_PX = 16


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
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float64] | None = None
        self._sum, self._count = 0.0, 0

    def add(self, hu: Image, mask: Mask) -> None:
        """The next slice and where its body is."""
        self.add_means(block_means(hu, mask))

    def add_means(self, means: NDArray[np.float64]) -> None:
        """The next slice's :func:`block_means`."""
        if self._last is not None and self._last.shape == means.shape:
            change = (means - self._last)[np.isfinite(means - self._last)]
            self._sum += float(np.sum(change**2))
            self._count += change.size
        self._last = means

    @property
    def value_hu(self) -> float:
        """NaN before two slices were added."""
        return (self._sum / self._count / 2) ** 0.5 if self._count else float("nan")


def flicker(slices: Iterable[Image], masks: Iterable[Mask]) -> float:
    """:class:`Flicker` of a whole series, HU."""
    measure = Flicker()
    for hu, mask in zip(slices, masks, strict=True):
        measure.add(hu, mask)
    return measure.value_hu


def block_means(hu: Image, mask: Mask) -> NDArray[np.float64]:
    """Means of 16×16-pixel blocks; NaN where a block is not wholly in the mask."""
    return np.where(_blocks(mask) > 0.99, _blocks(hu), np.nan)


def _blocks(image: Image | Mask) -> NDArray[np.float64]:
    rows, columns = (side // FLICKER_BLOCK_PX for side in image.shape)
    cut = image[: rows * FLICKER_BLOCK_PX, : columns * FLICKER_BLOCK_PX]
    blocks = cut.reshape(rows, FLICKER_BLOCK_PX, columns, FLICKER_BLOCK_PX)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))
