"""Thick slices: averages of adjacent normal-dose slices, which contain less noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ldct_denoise.data.pools import Pools
from ldct_denoise.data.slices import PoolSlice
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.physics.exposure import tube_current_ma
from ldct_denoise.volume import (
    POSITION_TOLERANCE_MM,
    Geometry,
    SeriesMetadata,
    SeriesView,
    SliceSource,
    slice_thickness_mm,
)


@dataclass(frozen=True)
class ThickSliceSeries(SeriesView):
    """A series whose slices are moving averages along z of the slices of another series.

    Parameters
    ----------
    source : SliceSource
        An evenly spaced series.
    slices : int
        Number of slices that are averaged, from 1 to the length of the source. Slice ``i`` is the mean of the
        slices ``i`` to ``i + slices − 1`` of the source.
    """

    slices: int

    @property
    def uid(self) -> str:
        """UID of the source with the number of averaged slices appended."""
        return f"{self.source.uid}/slab/{self.slices}"

    @property
    def name(self) -> str:
        """Name of the source with the number of averaged slices appended."""
        return f"{self.source.name}, mean of {self.slices} slices"

    @property
    def metadata(self) -> SeriesMetadata:
        """Metadata of the source with the increased slice thickness and the averaged tube current."""
        source = self.source
        current_ma = tube_current_ma(source)
        return replace(
            source.metadata,
            slice_thickness_mm=slice_thickness_mm(source) + (self.slices - 1) * source.geometry.slice_spacing_mm,
            tube_current_ma=()
            if current_ma is None
            else tuple(sliding_window_view(current_ma, self.slices).mean(axis=1).tolist()),
        )

    @property
    def geometry(self) -> Geometry:
        """Geometry with every slice at the center of the slices that it averages."""
        original = self.source.geometry
        first, last = original.positions_mm[: len(self)], original.positions_mm[self.slices - 1 :]
        return replace(original, positions_mm=(first + last) / 2)

    def __len__(self) -> int:
        return len(self.source) - self.slices + 1

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one thick slice in HU, shape (rows, columns)."""
        adjacent = [self.source.read_hu(index + offset) for offset in range(self.slices)]
        return np.mean(adjacent, axis=0, dtype=np.float32)


def with_thick_slices(pools: Pools, thicknesses_mm: Sequence[float]) -> Pools:
    """Replace the normal-dose series by averages of each thickness.

    The number of averaged slices is the largest that fits into the thickness. A series with uneven or too widely
    spaced slices stays unchanged. A low-dose slice is paired with the thick slice whose center is its partner.

    Thick slices overlap; :func:`split_center_block` separates those for training from those for validation.

    Parameters
    ----------
    pools : Pools
        Pools of the run.
    thicknesses_mm : sequence of float
        Slice thicknesses; empty: the pools are returned unchanged.
    """
    if not thicknesses_mm:
        return pools
    normal = tuple(thick for source in pools.normal for thick in _thick_series(source, thicknesses_mm))
    pairs = tuple(found for pair in pools.pairs for found in _thick_pairs(pair, thicknesses_mm))
    return replace(pools, normal=normal, pairs=pairs)


def has_thick_slices(slices: Iterable[PoolSlice]) -> bool:
    """Whether any slice is an average of several."""
    return any(isinstance(item.source, ThickSliceSeries) for item in slices)


def split_center_block(
    slices: Sequence[PoolSlice], divisor: int
) -> tuple[tuple[PoolSlice, ...], tuple[PoolSlice, ...]]:
    """Split slices into training (outside) and validation (the center block of each series).

    No source slice contributes to both parts; thick slices that cross the border of the block are in neither.

    Parameters
    ----------
    slices : sequence of PoolSlice
        Slices, or averages of slices, of any number of series.
    divisor : int
        The block has ``1 / divisor`` of the slices of a series, and at least as many as its thickest average
        needs. A series of which this would be more than half has no block.

    Returns
    -------
    training, validation : tuple of PoolSlice
    """
    read = [(item, *_source_slices(item)) for item in slices]
    thickest: dict[int, int] = {}  # keyed by object: arrays may have no UID
    for _, series, indices in read:
        thickest[id(series)] = max(thickest.get(id(series), 1), len(indices))
    outside, inside = [], []
    for item, series, indices in read:
        block = _center_block(len(series), max(len(series) // divisor, thickest[id(series)]))
        common = sum(index in block for index in indices)
        if common == 0:
            outside.append(item)
        elif common == len(indices):
            inside.append(item)
    return tuple(outside), tuple(inside)


def _source_slices(item: PoolSlice) -> tuple[SliceSource, range]:
    """The series before averaging, and the indices of its slices that are read for this one."""
    if isinstance(item.source, ThickSliceSeries):
        return item.source.source, range(item.index, item.index + item.source.slices)
    return item.source, range(item.index, item.index + 1)


def _center_block(length: int, count: int) -> range:
    first = (length - count) // 2
    return range(first, first + count) if 2 * count <= length else range(0)


def _thick_series(source: SliceSource, thicknesses_mm: Iterable[float]) -> list[SliceSource]:
    """One series for each distinct number of averaged slices."""
    counts = sorted({_slice_count(source, thickness_mm) for thickness_mm in thicknesses_mm})
    return [ThickSliceSeries(source, slices) if slices > 1 else source for slices in counts]


def _slice_count(source: SliceSource, thickness_mm: float) -> int:
    """How many adjacent slices fit into a thickness."""
    spacing_mm = source.geometry.slice_spacing_mm
    if not source.geometry.is_even or spacing_mm < POSITION_TOLERANCE_MM:
        return 1
    return min(max(int((thickness_mm + POSITION_TOLERANCE_MM) / spacing_mm), 1), len(source))


def _thick_pairs(pair: Pair, thicknesses_mm: Iterable[float]) -> Iterator[Pair]:
    for thick in _thick_series(pair.normal, thicknesses_mm):
        half = (len(pair.normal) - len(thick) + 1) // 2  # half of the averaged slices
        indices = tuple((low, min(max(normal - half, 0), len(thick) - 1)) for low, normal in pair.indices)
        yield replace(pair, normal=thick, indices=indices)
