"""Tell label maps, MR and normalised images from CT in HU by their values: volume files state no unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.io.dicom.unit import LEAST_SHARE, LOW_HU, REMEDY
from ldct_denoise.io.inventory import Exclusion, ExclusionKind
from ldct_denoise.volume import spread_indices

#: A single value in this range is air, though no other value is low, HU.
AIR_HU = (-1100.0, -900.0)
#: Slices that are read at most, unless all their values are equal.
SAMPLED_SLICES = 5
#: A label map has at most this many values in the sampled slices.
MAX_LABELS = 256
#: Least share of neighbours on a row that are equal inside the labels of a label map. Noise makes them differ.
EQUAL_NEIGHBOURS = 0.5
#: Soft tissue where HU are stored with an offset of 1024, and the least share of voxels in it.
OFFSET_SOFT_TISSUE, OFFSET_SHARE = (900.0, 1300.0), 0.02


def values_exclusion(read_hu: Callable[[int], NDArray[np.float32]], slices: int) -> Exclusion | None:
    """Reason in the values why a volume is not CT in HU, or None.

    A CT usually needs one slice: it has air or fat.

    Parameters
    ----------
    read_hu : callable
        Reads the slice of an index in HU, shape (rows, columns).
    slices : int
        Number of slices.

    Returns
    -------
    Exclusion or None
        :attr:`ExclusionKind.OTHER_OBJECT` for a label map, :attr:`ExclusionKind.NOT_HU` for other values.
    """
    sampled: list[NDArray[np.float32]] = []
    for index in _order(slices):
        if len(sampled) >= SAMPLED_SLICES and not _is_constant(sampled):
            break
        hu = read_hu(index)
        hu = np.where(np.isfinite(hu), hu, np.float32(0))  # NaN is padding
        if _has_air_or_fat(hu):
            return None
        if len(sampled) >= SAMPLED_SLICES:
            sampled.pop(0)
        sampled.append(hu)
    if _are_labels(sampled):
        return Exclusion(ExclusionKind.OTHER_OBJECT, f"a label map ({_range(sampled)}); not an image")
    return Exclusion(ExclusionKind.NOT_HU, _doubt(sampled))


def _order(slices: int) -> Iterator[int]:
    """Indices of all slices, beginning with some that are spread evenly."""
    spread = spread_indices(slices, SAMPLED_SLICES)
    yield from spread
    yield from (index for index in range(slices) if index not in spread)


def _has_air_or_fat(hu: NDArray[np.float32]) -> bool:
    low = hu[hu < LOW_HU]
    if low.size < LEAST_SHARE * hu.size or not low.size:
        return False
    return bool(low.min() < low.max() or AIR_HU[0] <= low[0] <= AIR_HU[1])


def _is_constant(sampled: list[NDArray[np.float32]]) -> bool:
    first = sampled[0].flat[0]
    return all((hu == first).all() for hu in sampled)


def _are_labels(sampled: list[NDArray[np.float32]]) -> bool:
    """Whether all values are a few whole numbers from 0 up that form areas without noise."""
    values = np.unique(np.concatenate([np.unique(hu) for hu in sampled]))
    if values[0] < 0 or len(values) > MAX_LABELS or not np.array_equal(values, np.rint(values)):
        return False
    if len(values) <= 2:
        return True
    equal = total = 0
    for hu in sampled:
        inside = (hu[:, :-1] > 0) & (hu[:, 1:] > 0)
        equal += int((inside & (hu[:, :-1] == hu[:, 1:])).sum())
        total += int(inside.sum())
    return equal >= EQUAL_NEIGHBOURS * total


def _doubt(sampled: list[NDArray[np.float32]]) -> str:
    low, high = _limits(sampled)
    shown = f"values are not HU: {_range(sampled)}, none of them air or fat"
    if low >= 0 and _share(sampled, *OFFSET_SOFT_TISSUE) > OFFSET_SHARE:
        return f"{shown}; they seem to be HU + 1024: subtract 1024 (an intercept of -1024){REMEDY}"
    perhaps = "perhaps normalised; give the original HU" if high - low <= 10 else "perhaps MR or a map"
    return f"{shown}; {perhaps}{REMEDY}"


def _share(sampled: list[NDArray[np.float32]], low: float, high: float) -> float:
    counts: list[Any] = [((hu >= low) & (hu <= high)).mean() for hu in sampled]
    return float(np.mean(counts))


def _limits(sampled: list[NDArray[np.float32]]) -> tuple[float, float]:
    return min(float(hu.min()) for hu in sampled), max(float(hu.max()) for hu in sampled)


def _range(sampled: list[NDArray[np.float32]]) -> str:
    low, high = _limits(sampled)
    return f"all {low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
