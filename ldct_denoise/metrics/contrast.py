"""Contrast, HU linearity and jumps between slices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Side of the blocks whose means are compared between slices, pixels.
FLICKER_BLOCK_PX = 16
#: Spacings that differ from the median by at most this fraction count as equal.
REGULAR_TOLERANCE = 0.1
#: Slices further apart than this are not neighbours: they were selected from a series and show other anatomy, mm.
MAX_NEIGHBOUR_MM = 12.0


@dataclass(frozen=True)
class Linearity:
    """HU linearity: least-squares line ``measured = slope·nominal + intercept``.

    Parameters
    ----------
    slope : float
        Dimensionless.
    intercept_hu : float
    largest_deviation_hu : float
        Largest absolute deviation from the line, HU.
    """

    slope: float
    intercept_hu: float
    largest_deviation_hu: float


def cnr(hu: Image, first: Mask, second: Mask) -> float:
    """Contrast-to-noise ratio of two regions: ``|mean₁ − mean₂| / √((var₁ + var₂)/2)``.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    first, second : ndarray of bool, shape (rows, columns)
        Masks of the regions.

    Returns
    -------
    float
        Dimensionless; NaN without any noise.
    """
    inside, outside = hu[first].astype(np.float64), hu[second].astype(np.float64)
    noise = float(np.sqrt((inside.var() + outside.var()) / 2))
    return abs(float(inside.mean() - outside.mean())) / noise if noise > 0 else float("nan")


def hu_linearity(nominal_hu: ArrayLike, measured_hu: ArrayLike) -> Linearity:
    """Least-squares line of measured against nominal HU of inserts, in the order given."""
    nominal, measured = np.asarray(nominal_hu, dtype=np.float64), np.asarray(measured_hu, dtype=np.float64)
    slope, intercept = np.polyfit(nominal, measured, 1)
    deviation = np.max(np.abs(measured - slope * nominal - intercept))
    return Linearity(float(slope), float(intercept), float(deviation))


class Flicker:
    """Slice-to-slice inconsistency: rms change of block means between neighbouring slices, over √2, HU.

    Means over 16×16 pixels suppress the noise. What remains is anatomy, and the offsets that a 2-D denoiser adds
    to each slice independently: offsets of standard deviation s add s in quadrature. Compare output with input.

    Parameters
    ----------
    slice_spacing_mm : float
        Slices are neighbours at 0.5 to 1.5 times this distance, but not beyond 12 mm. Larger gaps are skipped,
        because anatomy changes more than the offsets. See :func:`regular_spacing_mm` and
        :func:`finest_spacing_mm`.
    """

    def __init__(self, slice_spacing_mm: float) -> None:
        self._spacing_mm = slice_spacing_mm
        self._last: tuple[float, NDArray[np.float64]] | None = None
        self._sum, self._count = 0.0, 0

    def add(self, hu: Image, mask: Mask, offset_mm: float) -> None:
        """Add the next slice.

        Parameters
        ----------
        hu : ndarray, shape (rows, columns)
            HU.
        mask : ndarray of bool, shape (rows, columns)
            Body mask.
        offset_mm : float
            Position of the slice along its normal, mm.
        """
        self.add_means(block_means(hu, mask), offset_mm)

    def add_means(self, means: NDArray[np.float64], offset_mm: float) -> None:
        """Add the :func:`block_means` of the next slice, at ``offset_mm`` along the normal."""
        if self._last is not None and self._are_neighbours(self._last[0], offset_mm):
            change = means - self._last[1]
            change = change[np.isfinite(change)]
            self._sum += float(np.sum(change**2))
            self._count += change.size
        self._last = offset_mm, means

    def _are_neighbours(self, first_mm: float, second_mm: float) -> bool:
        distance_mm = abs(second_mm - first_mm)
        return distance_mm <= MAX_NEIGHBOUR_MM and abs(distance_mm - self._spacing_mm) <= self._spacing_mm / 2

    @property
    def value_hu(self) -> float:
        """Flicker of the slices so far, HU; NaN before two neighbours were added."""
        return (self._sum / self._count / 2) ** 0.5 if self._count else float("nan")


def regular_spacing_mm(offsets_mm: NDArray[np.float64]) -> float:
    """Spacing of most slices; NaN if they are irregular or too far apart to be neighbours.

    Parameters
    ----------
    offsets_mm : ndarray, shape (slices,)
        Positions along the normal, mm.

    Returns
    -------
    float
        mm.
    """
    steps = np.diff(np.sort(offsets_mm))
    spacing = float(np.median(steps)) if len(steps) else float("nan")
    if not spacing <= MAX_NEIGHBOUR_MM:
        return float("nan")
    is_regular = np.mean(np.abs(steps - spacing) <= REGULAR_TOLERANCE * spacing) > 0.5
    return spacing if is_regular else float("nan")


def finest_spacing_mm(*offsets_mm: NDArray[np.float64]) -> float:
    """Median spacing of neighbouring slices in the finest of several series, gaps excluded.

    Parameters
    ----------
    *offsets_mm : ndarray, shape (slices,)
        Positions along the normal, mm, of each series.

    Returns
    -------
    float
        mm; NaN without neighbours.
    """
    steps = [np.diff(np.sort(offsets)) for offsets in offsets_mm]
    near = [step[step <= MAX_NEIGHBOUR_MM] for step in steps]
    return min((float(np.median(step)) for step in near if len(step)), default=float("nan"))


def flicker(slices: Iterable[Image], masks: Iterable[Mask]) -> float:
    """:class:`Flicker` of a whole series without gaps, HU."""
    measure = Flicker(slice_spacing_mm=1.0)
    for number, (hu, mask) in enumerate(zip(slices, masks, strict=True)):
        measure.add(hu, mask, float(number))
    return measure.value_hu


def block_means(hu: Image, mask: Mask) -> NDArray[np.float64]:
    """Means of 16×16-pixel blocks; NaN where a block is not completely in the mask."""
    return np.where(_blocks(mask) > 0.99, _blocks(hu), np.nan)


def _blocks(image: Image | Mask) -> NDArray[np.float64]:
    rows, columns = (side // FLICKER_BLOCK_PX for side in image.shape)
    cut = image[: rows * FLICKER_BLOCK_PX, : columns * FLICKER_BLOCK_PX]
    blocks = cut.reshape(rows, FLICKER_BLOCK_PX, columns, FLICKER_BLOCK_PX)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))
