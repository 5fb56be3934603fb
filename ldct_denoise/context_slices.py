"""A slice with those beside it: what a 2.5-D model sees.

A stack holds, in the order of the series, as many slices before the one in its middle as after it. Where a series
ends, or the next slice is too far away to show the same anatomy, the last one that is near enough stands again: of
a lone slice all are copies of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.volume import POSITION_TOLERANCE_MM, Geometry, SliceSource

#: Slices farther apart than this are no neighbours, mm.
FARTHEST_MM = 5.0


def places_around(geometry: Geometry, index: int, reach: int, stride: int = 1) -> tuple[int, ...]:
    """Indices of the slices of a stack.

    Parameters
    ----------
    geometry : Geometry
    index : int
        Of the slice in the middle.
    reach : int
        Slices on each side.
    stride : int
        Every so many-th slice is taken.

    Returns
    -------
    tuple of int
        2·reach + 1 indices.
    """
    before, after = (_walk(geometry, index, step, reach) for step in (-stride, stride))
    return (*reversed(before), index, *after)


def sources_of(geometry: Geometry, index: int, reach: int) -> tuple[int, ...]:
    """What a restored slice comes of, each once: its own index first, then those beside it."""
    return tuple(dict.fromkeys((index, *places_around(geometry, index, reach))))


def _walk(geometry: Geometry, index: int, step: int, reach: int) -> list[int]:
    places, here = [], index
    for _ in range(reach):
        there = here + step
        if 0 <= there < len(geometry.positions_mm) and _is_near(geometry, here, there):
            here = there
        places.append(here)
    return places


def _is_near(geometry: Geometry, here: int, there: int) -> bool:
    apart_mm = abs(float(geometry.offsets_mm[there] - geometry.offsets_mm[here]))
    return POSITION_TOLERANCE_MM < apart_mm <= FARTHEST_MM + POSITION_TOLERANCE_MM


class StackReader:
    """Stacks of a series read in order, each slice from its file once.

    Parameters
    ----------
    source : SliceSource
    reach : int
        Slices on each side of the one in the middle.
    """

    def __init__(self, source: SliceSource, reach: int) -> None:
        self._source, self._reach = source, reach
        self._held: OrderedDict[int, NDArray[np.float32]] = OrderedDict()

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """HU of a stack, shape (2·reach + 1, rows, columns)."""
        places = places_around(self._source.geometry, index, self._reach)
        return np.stack([self._slice(place) for place in places])

    def _slice(self, index: int) -> NDArray[np.float32]:
        if index not in self._held:
            self._held[index] = self._source.read_hu(index)
            if len(self._held) > 2 * self._reach + 1:
                self._held.popitem(last=False)
        return self._held[index]


def overlap(offsets_mm: NDArray[np.float64], thickness_mm: float) -> NDArray[np.float64]:
    """How slices share their noise: the correlation of slices that overlap, shape (n, n).

    Slices of a thickness are averages over it; two that lie ``d`` apart have the share ``1 − d / thickness`` of
    what they are made of in common.

    Parameters
    ----------
    offsets_mm : ndarray, shape (n,)
        Where the slices lie.
    thickness_mm : float
    """
    apart_mm = np.abs(np.subtract.outer(offsets_mm, offsets_mm))
    return np.clip(1 - apart_mm / max(thickness_mm, POSITION_TOLERANCE_MM), 0, None)


def mixing(correlation: NDArray[np.float64]) -> NDArray[np.float32]:
    """The matrix that gives independent fields of unit variance this correlation (Cholesky's)."""
    lower = np.linalg.cholesky(correlation + 1e-6 * np.eye(len(correlation)))
    return (lower / np.linalg.norm(lower, axis=1, keepdims=True)).astype(np.float32)


def draw_stack(
    draw: Callable[[Sequence[int]], NDArray[np.float32]],
    places: Sequence[int],
    correlation: Callable[[Sequence[int]], NDArray[np.float64]],
) -> NDArray[np.float32]:
    """Noise of a stack: a field for each slice, the same where it stands again, alike where slices overlap.

    Parameters
    ----------
    draw : callable
        From some of ``places``, each once, to as many independent fields, shape (n, rows, columns).
    places : sequence of int
        The stack's slices.
    correlation : callable
        From the same of ``places`` to what their noise has in common (:func:`overlap`); not asked of one alone.
    """
    distinct, where = np.unique(places, return_inverse=True)
    once = distinct.tolist()
    fields = draw(once)
    if len(once) > 1:
        fields = np.tensordot(mixing(correlation(once)), fields, axes=1)
    return fields[where]
