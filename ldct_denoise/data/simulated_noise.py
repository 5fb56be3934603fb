"""Noise of simulated scans: the difference between a simulated low-dose scan of a slice and the slice itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.config import DataConfig
from ldct_denoise.data.slices import PoolSlice, SliceStore, cut


class SimulatedNoise:
    """Draw the noise of simulated low-dose scans for patches of normal-dose slices.

    Parameters
    ----------
    normal : SliceStore
        The normal-dose pool.
    scans : mapping of int to sequence of PoolSlice
        Simulated scans of a slice, by its position in the normal-dose pool.
    config : DataConfig
        ``patch_size`` and ``cache_num``.
    cache_dir : Path, optional
        Folder that keeps decoded slices.
    """

    def __init__(
        self,
        normal: SliceStore,
        scans: Mapping[int, Sequence[PoolSlice]],
        config: DataConfig,
        cache_dir: Path | None = None,
    ) -> None:
        number = count()
        self._normal, self._side = normal, config.patch_size
        self.scans = {position: [next(number) for _ in found] for position, found in scans.items()}
        self._scanned = SliceStore(list(chain.from_iterable(scans.values())), config.cache_num, cache_dir)

    def __contains__(self, position: int) -> bool:
        return position in self.scans

    def sample(
        self, positions: Sequence[int], corner: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Draw one scan, and cut what it adds to the patches of some slices.

        Parameters
        ----------
        positions : sequence of int
            Slices of one series, as positions in the normal-dose pool.
        corner : tuple of 2 ints
            First row and column of the patch.
        rng : numpy.random.Generator
            Selects the scan.

        Returns
        -------
        ndarray, shape (len(positions), side, side)
            Noise in HU.
        """
        number = int(rng.integers(len(self.scans[positions[0]])))
        scans = [self._scanned[self.scans[position][number]] for position in positions]
        added = [
            cut(scan.hu, corner, self._side) - cut(self._normal[position].hu, corner, self._side)
            for position, scan in zip(positions, scans, strict=True)
        ]
        return np.stack(added)
