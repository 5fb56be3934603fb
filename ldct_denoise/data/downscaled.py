"""Down-scaled copies of normal-dose slices: finer anatomy with less noise, as of a smaller patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ldct_denoise.data.slices import PoolSlice
from ldct_denoise.volume import Geometry, SeriesView


@dataclass(frozen=True)
class DownscaledSeries(SeriesView):
    """A series with every slice resampled to fewer pixels; the pixel spacing stays, so the body becomes smaller.

    Parameters
    ----------
    source : SliceSource
        The original series.
    factor : float
        Scale of both sides of a slice, between 0 and 1.
    """

    factor: float

    @property
    def uid(self) -> str:
        """UID of the source with the factor appended."""
        return f"{self.source.uid}/shrunk/{self.factor:g}"

    @property
    def name(self) -> str:
        """Name of the source with the factor appended."""
        return f"{self.source.name}, scaled to {self.factor:g}"

    @property
    def geometry(self) -> Geometry:
        """Geometry with fewer pixels of the same spacing."""
        original = self.source.geometry
        rows, columns = (round(side * self.factor) for side in (original.rows, original.columns))
        return replace(original, rows=rows, columns=columns)

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one slice in HU, shape (rows, columns); bicubic resampling with an anti-aliasing filter."""
        hu = torch.from_numpy(np.array(self.source.read_hu(index)))[None, None]
        _, rows, columns = self.geometry.shape
        small = torch.nn.functional.interpolate(hu, size=(rows, columns), mode="bicubic", antialias=True)
        return small[0, 0].numpy()


def original_slice(item: PoolSlice) -> PoolSlice:
    """Return the original slice of a down-scaled copy; any other slice is returned unchanged."""
    return PoolSlice(item.source.source, item.index) if isinstance(item.source, DownscaledSeries) else item


def add_downscaled(slices: Sequence[PoolSlice], factors: Sequence[float]) -> tuple[PoolSlice, ...]:
    """Append a copy of every slice for each scale factor."""
    copies = [
        PoolSlice(DownscaledSeries(item.source, factor), item.index) for factor in factors for item in slices
    ]
    return (*slices, *copies)
