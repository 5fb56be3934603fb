"""Normal-dose slices averaged with their neighbours: thicker, and with less noise of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ldct_denoise.data.pools import Pools
from ldct_denoise.data.slices import PoolSlice
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.physics.dose import tube_current_ma
from ldct_denoise.volume import (
    POSITION_TOLERANCE_MM,
    Geometry,
    SeriesMetadata,
    SeriesView,
    SliceSource,
    slice_thickness_mm,
)


@dataclass(frozen=True)
class SlabSeries(SeriesView):
    """A series whose every slice is the mean of some neighbours, as from thicker slices.

    Parameters
    ----------
    source : SliceSource
        Evenly spaced.
    slices : int
        How many are averaged, from 1 to the length of the source: slice ``i`` is the mean of ``i`` and those that
        follow it.
    """

    slices: int

    @property
    def uid(self) -> str:
        """The source's, and how many slices are averaged."""
        return f"{self.source.uid}/slab/{self.slices}"

    @property
    def name(self) -> str:
        """The source's, and how many slices are averaged."""
        return f"{self.source.name}, mean of {self.slices} slices"

    @property
    def metadata(self) -> SeriesMetadata:
        """The source's, with the thickness from the first edge to the last and the mean of the tube currents."""
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
        """Every slice in the middle of those that it is the mean of."""
        whole = self.source.geometry
        first, final = whole.positions_mm[: len(self)], whole.positions_mm[self.slices - 1 :]
        return replace(whole, positions_mm=(first + final) / 2)

    def __len__(self) -> int:
        return len(self.source) - self.slices + 1

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One slice in HU, shape (rows, columns)."""
        neighbours = [self.source.read_hu(index + further) for further in range(self.slices)]
        return np.mean(neighbours, axis=0, dtype=np.float32)


def with_slabs(pools: Pools, slabs_mm: Sequence[float]) -> Pools:
    """Pools whose normal-dose series are averaged to each of these thicknesses; as they are where there is none.

    As many slices are averaged as lie within the thickness. A series whose slices lie too far apart or unevenly
    stays as it is. The partner of a low-dose slice is the slab in whose middle its own partner lies.

    Slabs overlap: :func:`split_middles` keeps those to judge by apart from those to train on.
    """
    if not slabs_mm:
        return pools
    normal = tuple(slab for source in pools.normal for slab in _slabs(source, slabs_mm))
    pairs = tuple(found for pair in pools.pairs for found in _pairs(pair, slabs_mm))
    return replace(pools, normal=normal, pairs=pairs)


def has_slabs(slices: Iterable[PoolSlice]) -> bool:
    """Whether any of these is averaged from several."""
    return any(isinstance(item.source, SlabSeries) for item in slices)


def split_middles(slices: Sequence[PoolSlice], share: int) -> tuple[tuple[PoolSlice, ...], tuple[PoolSlice, ...]]:
    """What lies outside the middle of every series, and what lies in it: no slice that was read is in both.

    Slabs across a border are in neither.

    Parameters
    ----------
    slices : sequence of PoolSlice
    share : int
        The middle is one in so many of a series' slices, and at least its thickest slab; a series that this would
        take more than half of has none.
    """
    read = [(item, *_read_by(item)) for item in slices]
    thickest: dict[int, int] = {}  # by the object itself: arrays need no name
    for _, series, places in read:
        thickest[id(series)] = max(thickest.get(id(series), 1), len(places))
    outside, inside = [], []
    for item, series, places in read:
        middle = _middle(len(series), max(len(series) // share, thickest[id(series)]))
        common = sum(place in middle for place in places)
        if common == 0:
            outside.append(item)
        elif common == len(places):
            inside.append(item)
    return tuple(outside), tuple(inside)


def _read_by(item: PoolSlice) -> tuple[SliceSource, range]:
    """The series that a slice is from before averaging, and which of its slices are read for it."""
    if isinstance(item.source, SlabSeries):
        return item.source.source, range(item.index, item.index + item.source.slices)
    return item.source, range(item.index, item.index + 1)


def _middle(length: int, wanted: int) -> range:
    first = (length - wanted) // 2
    return range(first, first + wanted) if 2 * wanted <= length else range(0)


def _slabs(source: SliceSource, slabs_mm: Iterable[float]) -> list[SliceSource]:
    """Each number of slices once, whatever thicknesses ask for it."""
    counts = sorted({_count(source, thickness_mm) for thickness_mm in slabs_mm})
    return [SlabSeries(source, slices) if slices > 1 else source for slices in counts]


def _count(source: SliceSource, thickness_mm: float) -> int:
    """How many neighbouring slices lie within a thickness."""
    apart_mm = source.geometry.slice_spacing_mm
    if not source.geometry.is_even or apart_mm < POSITION_TOLERANCE_MM:
        return 1
    return min(max(int((thickness_mm + POSITION_TOLERANCE_MM) / apart_mm), 1), len(source))


def _pairs(pair: Pair, slabs_mm: Iterable[float]) -> Iterator[Pair]:
    for slab in _slabs(pair.normal, slabs_mm):
        before = (len(pair.normal) - len(slab) + 1) // 2  # half of the slices that are averaged
        indices = tuple((low, min(max(normal - before, 0), len(slab) - 1)) for low, normal in pair.indices)
        yield replace(pair, normal=slab, indices=indices)
