"""Context slices of a 2.5-D model: a slice together with its neighbours.

A stack holds, in the order of the series, the same number of slices before and after the center slice. At the end
of a series, or where the next slice is too far away to show the same anatomy, the last slice in range is repeated;
a stack of a series of one slice holds copies of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.volume import POSITION_TOLERANCE_MM, Geometry, SliceSource

#: Slices farther apart than this are not used as context, mm.
MAX_CONTEXT_DISTANCE_MM = 5.0


def context_indices(geometry: Geometry, index: int, reach: int, stride: int = 1) -> tuple[int, ...]:
    """Indices of the slices of a stack.

    Parameters
    ----------
    geometry : Geometry
        Geometry of the series.
    index : int
        Index of the center slice.
    reach : int
        Number of context slices on each side.
    stride : int
        Distance between two slices of the stack, in slices.

    Returns
    -------
    tuple of int
        2·reach + 1 indices.
    """
    before, after = (_one_side(geometry, index, step, reach) for step in (-stride, stride))
    return (*reversed(before), index, *after)


def contributing_slices(geometry: Geometry, index: int, reach: int) -> tuple[int, ...]:
    """Distinct slices from which a restored slice is computed; the center slice comes first.

    Parameters
    ----------
    geometry : Geometry
        Geometry of the series.
    index : int
        Index of the center slice.
    reach : int
        Number of context slices on each side.
    """
    return tuple(dict.fromkeys((index, *context_indices(geometry, index, reach))))


def _one_side(geometry: Geometry, index: int, step: int, reach: int) -> list[int]:
    """Context on one side, from the center outwards."""
    indices, current = [], index
    for _ in range(reach):
        following = current + step
        if 0 <= following < len(geometry.positions_mm) and _is_near(geometry, current, following):
            current = following
        indices.append(current)
    return indices


def _is_near(geometry: Geometry, first: int, second: int) -> bool:
    distance_mm = abs(float(geometry.offsets_mm[second] - geometry.offsets_mm[first]))
    return POSITION_TOLERANCE_MM < distance_mm <= MAX_CONTEXT_DISTANCE_MM + POSITION_TOLERANCE_MM


class StackReader:
    """Read the stacks of a series in order; each slice is read from its file once.

    Parameters
    ----------
    source : SliceSource
    reach : int
        Number of context slices on each side.
    """

    def __init__(self, source: SliceSource, reach: int) -> None:
        self._source, self._reach = source, reach
        self._cache: OrderedDict[int, NDArray[np.float32]] = OrderedDict()

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one stack in HU, shape (2·reach + 1, rows, columns)."""
        indices = context_indices(self._source.geometry, index, self._reach)
        return np.stack([self._slice(one) for one in indices])

    def _slice(self, index: int) -> NDArray[np.float32]:
        if index not in self._cache:
            self._cache[index] = self._source.read_hu(index)
            if len(self._cache) > 2 * self._reach + 1:
                self._cache.popitem(last=False)
        return self._cache[index]


def overlap_correlation(offsets_mm: NDArray[np.float64], thickness_mm: float) -> NDArray[np.float64]:
    """Correlation of the noise of overlapping slices, shape (n, n).

    A slice averages over its thickness, so two slices at the distance ``d`` share the fraction
    ``1 − d / thickness`` of their data.

    Parameters
    ----------
    offsets_mm : ndarray, shape (n,)
        Positions of the slices along the normal.
    thickness_mm : float
        Slice thickness.
    """
    distance_mm = np.abs(np.subtract.outer(offsets_mm, offsets_mm))
    return np.clip(1 - distance_mm / max(thickness_mm, POSITION_TOLERANCE_MM), 0, None)


def cholesky_factor(correlation: NDArray[np.float64]) -> NDArray[np.float32]:
    """Matrix that gives independent fields of unit variance this correlation, shape (n, n)."""
    lower = np.linalg.cholesky(correlation + 1e-6 * np.eye(len(correlation)))
    return (lower / np.linalg.norm(lower, axis=1, keepdims=True)).astype(np.float32)


def sample_correlated_noise(
    draw: Callable[[Sequence[int]], NDArray[np.float32]],
    indices: Sequence[int],
    correlation: Callable[[Sequence[int]], NDArray[np.float64]],
) -> NDArray[np.float32]:
    """Noise of a stack: one field per slice, equal for a repeated slice and correlated where slices overlap.

    Parameters
    ----------
    draw : callable
        Maps n distinct indices to n independent fields, shape (n, rows, columns).
    indices : sequence of int
        Slices of the stack; an index may occur several times.
    correlation : callable
        Maps n distinct indices to the correlation of their noise, shape (n, n), as :func:`overlap_correlation`
        does. Not called for a single index.

    Returns
    -------
    ndarray, shape (len(indices), rows, columns)
    """
    distinct, inverse = np.unique(indices, return_inverse=True)
    unique = distinct.tolist()
    fields = draw(unique)
    if len(unique) > 1:
        fields = np.tensordot(cholesky_factor(correlation(unique)), fields, axes=1)
    return fields[inverse]
