"""Normal-dose slices made smaller: the same anatomy finer, with less noise of its own (a slighter patient)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ldct_denoise.data.slices import PoolSlice
from ldct_denoise.volume import Geometry, SeriesView


@dataclass(frozen=True)
class ShrunkSeries(SeriesView):
    """A series with every slice shrunk in its plane; the pixel spacing stays, the body becomes smaller.

    Parameters
    ----------
    source : SliceSource
    factor : float
        Of both sides of a slice, between 0 and 1.
    """

    factor: float

    @property
    def uid(self) -> str:
        """The source's, and the factor."""
        return f"{self.source.uid}/shrunk/{self.factor:g}"

    @property
    def name(self) -> str:
        """The source's, and the factor."""
        return f"{self.source.name}, shrunk to {self.factor:g}"

    @property
    def geometry(self) -> Geometry:
        """Fewer pixels of the same spacing."""
        whole = self.source.geometry
        return replace(whole, rows=round(whole.rows * self.factor), columns=round(whole.columns * self.factor))

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One slice in HU, shape (rows, columns); cubic, with what the coarser grid cannot hold filtered out."""
        hu = torch.from_numpy(np.array(self.source.read_hu(index)))[None, None]
        _, rows, columns = self.geometry.shape
        small = torch.nn.functional.interpolate(hu, size=(rows, columns), mode="bicubic", antialias=True)
        return small[0, 0].numpy()


def whole(item: PoolSlice) -> PoolSlice:
    """The slice that this one is a copy of, or itself."""
    return PoolSlice(item.source.source, item.index) if isinstance(item.source, ShrunkSeries) else item


def with_shrunk(slices: Sequence[PoolSlice], factors: Sequence[float]) -> tuple[PoolSlice, ...]:
    """The slices, then each of them again at every factor."""
    again = [PoolSlice(ShrunkSeries(item.source, factor), item.index) for factor in factors for item in slices]
    return (*slices, *again)
