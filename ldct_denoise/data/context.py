"""Which slices of a pool stand beside one another: what a 2.5-D model is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.context_slices import context_indices, overlap_correlation
from ldct_denoise.data.slices import PoolSlice
from ldct_denoise.volume import POSITION_TOLERANCE_MM, slice_thickness_mm

Places = tuple[int, ...]

#: Distances between the slices of a stack are drawn uniformly from this range, mm.
CONTEXT_SPACING_MM = (0.8, 5.0)
#: Probability that a stack holds copies of one slice, as for a lone slice in use.
SINGLE_SLICE_PROB = 0.1


class Beside:
    """Draws the stack around a slice, of slices of this pool alone: what is held back is not seen beside.

    Parameters
    ----------
    slices : sequence of PoolSlice
        The pool.
    reach : int
        Slices on each side; 0 for a method that sees one slice.
    """

    def __init__(self, slices: Sequence[PoolSlice], reach: int) -> None:
        self._slices, self._reach = slices, reach
        self._at = {item.key: position for position, item in enumerate(slices)} if reach else {}
        self._thickness_mm: dict[str, float] = {}

    def around(self, position: int, rng: np.random.Generator) -> Places:
        """Positions of a stack's slices, at a distance drawn anew, in the order of the series or against it.

        In a share of the stacks all are the slice itself, as of a lone slice in use.
        """
        if not self._reach:
            return (position,)
        if rng.random() < SINGLE_SLICE_PROB:
            return (position,) * (2 * self._reach + 1)
        item = self._slices[position]
        spacing_mm = max(item.source.geometry.slice_spacing_mm, POSITION_TOLERANCE_MM)
        stride = max(1, round(rng.uniform(*CONTEXT_SPACING_MM) / spacing_mm))
        places = self._stack(item, stride)
        return places[::-1] if rng.random() < 0.5 else places

    def correlation(self, positions: Sequence[int]) -> NDArray[np.float64]:
        """What the noise of slices of one series has in common, since they overlap."""
        items = [self._slices[position] for position in positions]
        source = items[0].source
        if source.uid not in self._thickness_mm:  # a header is read for it
            self._thickness_mm[source.uid] = slice_thickness_mm(source)
        offsets_mm = source.geometry.offsets_mm[[item.index for item in items]]
        return overlap_correlation(offsets_mm, self._thickness_mm[source.uid])

    def _stack(self, item: PoolSlice, stride: int) -> Places:
        indices = context_indices(item.source.geometry, item.index, self._reach, stride)
        before, after = indices[self._reach :: -1], indices[self._reach :]
        return (*self._known(item, before)[:0:-1], *self._known(item, after))

    def _known(self, item: PoolSlice, indices: Sequence[int]) -> list[int]:
        """Positions of slices from the middle outwards; of one that is not in the pool, that before it."""
        positions: list[int] = []
        for index in indices:
            at = self._at.get(PoolSlice(item.source, index).key)
            positions.append(positions[-1] if at is None else at)
        return positions
