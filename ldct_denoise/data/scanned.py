"""Noise in its own place: what simulated scans add to the very slice, and how strong it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.config import DataConfig
from ldct_denoise.data.slices import PoolSlice, SliceStore, cut
from ldct_denoise.regions import TISSUES

Patch = NDArray[np.float32]

#: Over so many pixels the strength of simulated noise is averaged.
STRENGTH_SIGMA_PX = 5.0


class ScannedNoise:
    """Draws noise for patches of normal-dose slices that were scanned again by the dose simulator.

    Parameters
    ----------
    normal : SliceStore
        The normal-dose pool.
    scans : dict
        For positions in it, simulated scans of that very slice.
    config : DataConfig
        ``patch``, ``thin_slices`` and ``mix_scans``.
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
        self._made = SliceStore(list(chain.from_iterable(scans.values())), config.memory_slices, cache)
        self._tissue_hu: dict[int, float] = {}

    def __contains__(self, normal_at: int) -> bool:
        return normal_at in self.scans

    def fields(self, normal_at: int, corner: tuple[int, int], rng: np.random.Generator) -> Patch:
        """What scans add to a patch, HU: one field for each thin slice, (thin slices, side, side).

        Mixed by weights whose squares sum to 1, the noise of a few scans makes any number of fields of its level.
        """
        scans, thin = self.scans[normal_at], self._config.thin_slices
        if not self._config.mix_scans:
            return self._added(normal_at, list(rng.choice(scans, thin, replace=False)), corner)
        weights, _ = np.linalg.qr(rng.standard_normal((len(scans), thin)))  # orthonormal: independent fields
        return np.tensordot(weights.T.astype(np.float32), self._added(normal_at, scans, corner), axes=1)

    def strength(self, normal_at: int, corner: tuple[int, int]) -> Patch:
        """How strong noise is at each place of a patch, relative to the soft tissue of its slice."""
        squares = np.square(self._added(normal_at, self.scans[normal_at], corner)).mean(axis=0)
        if normal_at not in self._tissue_hu:
            self._tissue_hu[normal_at] = self._of_tissue(normal_at)
        local_hu: Patch = np.sqrt(ndimage.gaussian_filter(squares, STRENGTH_SIGMA_PX))
        return local_hu / np.float32(self._tissue_hu[normal_at])

    def _added(self, normal_at: int, scans: Sequence[int], corner: tuple[int, int]) -> Patch:
        """What each of these scans adds to a patch, HU."""
        side = self._config.patch
        clean = cut(self._normal[normal_at].hu, corner, side)
        return np.stack([cut(self._made[scan].hu, corner, side) for scan in scans]) - clean

    def _of_tissue(self, normal_at: int) -> float:
        """Noise that a scan adds to a slice's soft tissue, HU; to the whole of it where there is none."""
        hu = self._normal[normal_at].hu
        smooth, added = ndimage.gaussian_filter(hu, 2.0), self._made[self.scans[normal_at][0]].hu - hu
        low_hu, high_hu, *_ = TISSUES["soft-tissue"]
        tissue = added[(smooth > low_hu) & (smooth < high_hu)]
        return float((tissue if tissue.size else added).std())
