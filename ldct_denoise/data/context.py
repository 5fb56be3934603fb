"""Stacks of context slices of a pool, on which a 2.5-D method is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.context_slices import context_indices, overlap_correlation
from ldct_denoise.data.slices import PoolSlice
from ldct_denoise.volume import POSITION_TOLERANCE_MM, slice_thickness_mm

#: Positions in a pool of the slices of a stack, in spatial order.
Stack = tuple[int, ...]

#: The distance between two slices of a stack is drawn uniformly from this range, mm.
CONTEXT_SPACING_MM = (0.8, 5.0)
#: Probability that a stack holds copies of its center slice, as it does for a single slice at inference.
SINGLE_SLICE_PROB = 0.1


class ContextSampler:
    """Draw the stack around a slice, from slices of the same pool only.

    Slices that are held back for validation are not in the pool, so they never appear as context.

    Parameters
    ----------
    slices : sequence of PoolSlice
        The pool.
    reach : int
        Context slices on each side; 0 for a method that sees a single slice.
    """

    def __init__(self, slices: Sequence[PoolSlice], reach: int) -> None:
        self._slices, self._reach = slices, reach
        self._position_of = {item.key: position for position, item in enumerate(slices)} if reach else {}
        self._thickness_mm: dict[str, float] = {}

    def sample(self, position: int, rng: np.random.Generator) -> Stack:
        """Draw the stack around a slice of the pool.

        Parameters
        ----------
        position : int
            Position of the center slice in the pool.
        rng : numpy.random.Generator
            Decides on the slice distance, on the direction, and on stacks of copies.

        Returns
        -------
        tuple of int
            2·reach + 1 positions.
        """
        if not self._reach:
            return (position,)
        if rng.random() < SINGLE_SLICE_PROB:
            return (position,) * (2 * self._reach + 1)
        item = self._slices[position]
        spacing_mm = max(item.source.geometry.slice_spacing_mm, POSITION_TOLERANCE_MM)
        stride = max(1, round(rng.uniform(*CONTEXT_SPACING_MM) / spacing_mm))
        stack = self._stack(item, stride)
        return stack[::-1] if rng.random() < 0.5 else stack

    def noise_correlation(self, positions: Sequence[int]) -> NDArray[np.float64]:
        """Noise correlation of slices of one series, shape (n, n); thick slices overlap."""
        items = [self._slices[position] for position in positions]
        source = items[0].source
        if source.uid not in self._thickness_mm:  # reading the thickness opens a file
            self._thickness_mm[source.uid] = slice_thickness_mm(source)
        offsets_mm = source.geometry.offsets_mm[[item.index for item in items]]
        return overlap_correlation(offsets_mm, self._thickness_mm[source.uid])

    def _stack(self, item: PoolSlice, stride: int) -> Stack:
        indices = context_indices(item.source.geometry, item.index, self._reach, stride)
        before, after = indices[self._reach :: -1], indices[self._reach :]
        return (*self._in_pool(item, before)[:0:-1], *self._in_pool(item, after))

    def _in_pool(self, item: PoolSlice, indices: Sequence[int]) -> list[int]:
        """Positions from the center outwards; a slice that is not in the pool is replaced by the one before it."""
        positions: list[int] = []
        for index in indices:
            position = self._position_of.get(PoolSlice(item.source, index).key)
            positions.append(positions[-1] if position is None else position)
        return positions
