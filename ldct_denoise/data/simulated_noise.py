"""Noise in its own place: what simulated scans add to the very slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.config import DataConfig
from ldct_denoise.data.slices import PoolSlice, SliceStore, cut


class ScannedNoise:
    """Draws noise for patches of normal-dose slices that were scanned again by the dose simulator.

    Parameters
    ----------
    normal : SliceStore
        The normal-dose pool.
    scans : dict
        For positions in it, simulated scans of that very slice.
    config : DataConfig
        ``patch_size`` and ``cache_num``.
    cache : Path, optional
        Where decoded scans are kept.
    """

    def __init__(
        self,
        normal: SliceStore,
        scans: Mapping[int, Sequence[PoolSlice]],
        config: DataConfig,
        cache: Path | None = None,
    ) -> None:
        place = count()
        self._normal, self._config = normal, config
        self.scans = {normal_at: [next(place) for _ in found] for normal_at, found in scans.items()}
        self._made = SliceStore(list(chain.from_iterable(scans.values())), config.cache_num, cache)

    def __contains__(self, normal_at: int) -> bool:
        return normal_at in self.scans

    def fields(
        self, places: Sequence[int], corner: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """What one scan of these slices adds to their patches, HU, shape (len(places), side, side)."""
        number, side = int(rng.integers(len(self.scans[places[0]]))), self._config.patch_size
        scans = [self._made[self.scans[place][number]] for place in places]
        added = [
            cut(scan.hu, corner, side) - cut(self._normal[place].hu, corner, side)
            for place, scan in zip(places, scans, strict=True)
        ]
        return np.stack(added)
