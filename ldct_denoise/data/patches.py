"""Training batches: patches of the body from both pools, a pure function of (seed, place in the run).

Sample ``i`` of a run is the same whatever the number of workers or processes, and whether the run was
interrupted: its randomness derives from (seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ldct_denoise.config import DataConfig
from ldct_denoise.context_slices import sample_correlated_noise
from ldct_denoise.data.context import Beside, Places
from ldct_denoise.data.downscaled import whole
from ldct_denoise.data.noise import Drawn, PoolNoise, SyntheticNoise
from ldct_denoise.data.simulated_noise import ScannedNoise
from ldct_denoise.data.slices import GRID, DecodedSlice, PoolSlice, SliceStore, cut
from ldct_denoise.errors import InputError
from ldct_denoise.intensity import Scale

if TYPE_CHECKING:
    from monai.transforms import Compose

Sample = dict[str, Tensor]


class PatchDataset(Dataset[Sample]):
    """Pairs of patches ``low`` and ``normal`` (network units), and ``noise`` where the pool's was measured.

    Each has the shape (channels, side, side): a slice, for a 2.5-D method with those beside it.

    Parameters
    ----------
    low, normal : sequence of PoolSlice
        The pools. Either may be empty for a method that does not need it.
    partners : dict, optional
        For each position in ``low``, the position in ``normal`` of the same anatomy. With ``paired`` the
        partner's same patch is given; without, it is what must not be drawn together.
    paired : bool
        Whether the method is trained on pairs.
    twice_noisy : bool
        Synthetic noise is added to both of a pair, each its own (Noise2Noise).
    noise : PoolNoise, optional
        What draws noise fields.
    degrade_low : SyntheticNoise, optional
        Noise that makes the low-dose pool of photographs.
    scans : dict, optional
        For positions in ``normal``, simulated scans of that very slice: what they add to it is noise too.
    config : DataConfig
    scale : Scale
    seed : int
    neighbours : int
        Slices on each side of a patch's that the method sees.
    """

    def __init__(
        self,
        low: Sequence[PoolSlice],
        normal: Sequence[PoolSlice],
        *,
        partners: dict[int, int],
        paired: bool,
        twice_noisy: bool = False,
        noise: PoolNoise | SyntheticNoise | None,
        degrade_low: SyntheticNoise | None = None,
        scans: Mapping[int, Sequence[PoolSlice]] | None = None,
        config: DataConfig,
        scale: Scale,
        seed: int,
        neighbours: int = 0,
    ) -> None:
        if paired and not partners:
            raise InputError("no low/normal pair to train on; `ldct-denoise inspect` lists the pairs it finds")
        cache = Path(config.cache_dir) if config.cache_dir else None
        self._low = SliceStore(low, config.cache_num, cache)
        self._normal = SliceStore(normal, config.cache_num, cache)
        self._beside_low, self._beside_normal = (Beside(pool, neighbours) for pool in (low, normal))
        self._partners, self._paired, self._noise = partners, paired, noise
        self._anatomy = [whole(item).key for item in self._normal.slices]
        self._paired_low = sorted(partners)
        self._scanned = ScannedNoise(self._normal, scans or {}, config, cache)
        self._config, self._scale, self._seed = config, scale, seed
        self._degrade_low = degrade_low
        self._twice_noisy = twice_noisy
        self._augment: Compose | None = _augmentation() if config.augment else None

    def __len__(self) -> int:
        return 2**62  # endless: the sampler says where a run begins and ends

    def __getitem__(self, sample: int) -> Sample:
        rng = np.random.default_rng([self._seed, sample])
        patches = self._pair(rng) if self._paired else self._unpaired(rng)
        if self._augment is not None:
            self._turn(patches, rng)
        return {name: torch.from_numpy(np.ascontiguousarray(patch)) for name, patch in patches.items()}

    def _pair(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        low_at = self._paired_low[rng.integers(len(self._paired_low))]
        normal_at = self._partners[low_at]
        corner = self._corner(self._normal[normal_at], rng)
        places = self._beside_low.around(low_at, rng)
        clean = self._cut(self._normal, [self._partners.get(place, normal_at) for place in places], corner)
        return {
            "low": self._degraded(self._cut(self._low, places, corner), rng),
            "normal": self._degraded(clean, rng) if self._twice_noisy else clean,
        }

    def _unpaired(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        patches: dict[str, NDArray[np.float32]] = {}
        partner = -1
        if len(self._low):
            low_at = int(rng.integers(len(self._low)))
            partner = self._partners.get(low_at, -1)
            corner = self._corner(self._low[low_at], rng)
            places = self._beside_low.around(low_at, rng)
            patches["low"] = self._degraded(self._cut(self._low, places, corner), rng)
        if len(self._normal):
            normal_at = int(rng.integers(len(self._normal)))
            if partner >= 0 and self._anatomy[normal_at] == self._anatomy[partner]:
                normal_at = self._elsewhere(normal_at, rng)
            corner = self._corner(self._normal[normal_at], rng)
            places = self._beside_normal.around(normal_at, rng)
            patches["normal"] = self._cut(self._normal, places, corner)
            drawn = self._draw(places, corner, patches["normal"], rng)
            if drawn is not None:
                patches |= self._stored(patches["normal"], drawn)
        return patches

    def _elsewhere(self, normal_at: int, rng: np.random.Generator) -> int:
        """Another position in the normal pool, of other anatomy: the same is never shown together."""
        count = len(self._normal)
        others = [(normal_at + 1 + step) % count for step in range(count - 1)]
        others = [place for place in others if self._anatomy[place] != self._anatomy[normal_at]]
        return others[int(rng.integers(len(others)))] if others else normal_at

    def _draw(
        self, places: Places, corner: tuple[int, int], clean: NDArray[np.float32], rng: np.random.Generator
    ) -> Drawn | None:
        """Noise for normal-dose patches: what scans add to them, or of a spectrum, or none."""
        correlation = self._beside_normal.correlation
        if all(place in self._scanned for place in places) and rng.random() >= self._config.random_nps_prob:
            scanned = sample_correlated_noise(
                lambda once: self._scanned.fields(once, corner, rng), places, correlation
            )
            return Drawn(scanned, 0.0)
        if self._noise is None:
            return None
        if isinstance(self._noise, SyntheticNoise):
            return Drawn(self._noise.degrade(self._scale.to_hu(clean), rng), 0.0)
        source, side = self._normal.slices[places[0]].source, self._config.patch_size
        drawn = self._noise.draw(source, side, rng, len(set(places)))
        return Drawn(sample_correlated_noise(lambda _: drawn.hu, places, correlation), drawn.kept)

    def _stored(self, clean: NDArray[np.float32], drawn: Drawn) -> dict[str, NDArray[np.float32]]:
        """What a scanner stores of a normal-dose patch, and what noise changes in it."""
        width_hu = np.float32(self._scale.width_hu)
        normal, noisy = clean + drawn.in_target / width_hu, clean + drawn.hu / width_hu
        if self._config.clip_min_hu is not None:
            lowest = np.float32(self._scale.to_unit(self._config.clip_min_hu))
            normal, noisy = np.maximum(normal, lowest), np.maximum(noisy, lowest)
        return {"normal": normal, "noise": noisy - normal}

    def _corner(self, decoded: DecodedSlice, rng: np.random.Generator) -> tuple[int, int]:
        """Top left of a patch whose centre lies in the body."""
        centre = decoded.body_blocks[rng.integers(len(decoded.body_blocks))] * GRID + rng.integers(GRID, size=2)
        limit = np.maximum(np.asarray(decoded.hu.shape) - self._config.patch_size, 0)
        row, column = np.clip(centre - self._config.patch_size // 2, 0, limit)
        return int(row), int(column)

    def _cut(self, store: SliceStore, places: Sequence[int], corner: tuple[int, int]) -> NDArray[np.float32]:
        """The same square of some slices, (len(places), side, side)."""
        hu = np.stack([cut(store[place].hu, corner, self._config.patch_size) for place in places])
        return self._scale.to_unit(hu).astype(np.float32)

    def _degraded(self, patch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """The patch with synthetic noise, where the low pool is made by it."""
        if self._degrade_low is None:
            return patch
        return patch + self._degrade_low.degrade(self._scale.to_hu(patch), rng) / np.float32(self._scale.width_hu)

    def _turn(self, patches: dict[str, NDArray[np.float32]], rng: np.random.Generator) -> None:
        """Flip and turn: partners alike, and a patch as its noise, which may depend on it; others by chance."""
        assert self._augment is not None
        together = int(rng.integers(2**31))
        for name in patches:
            alike = self._paired or name != "low"
            self._augment.set_random_state(seed=together if alike else int(rng.integers(2**31)))
            patches[name] = np.asarray(self._augment(patches[name]))


def _augmentation() -> Compose:
    from monai.transforms import Compose, RandFlip, RandRotate90

    turns = [RandFlip(prob=0.5, spatial_axis=0), RandRotate90(prob=0.75, max_k=3)]
    return Compose(turns)


class _Places(Sampler[int]):
    """Which samples this process makes, from ``first_step`` on."""

    def __init__(self, first_step: int, last_step: int, batch: int, rank: int, world: int) -> None:
        self.first_step, self.last_step, self.batch, self.rank, self.world = (
            first_step,
            last_step,
            batch,
            rank,
            world,
        )

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.batch // self.world

    def __iter__(self) -> Iterator[int]:
        share = self.batch // self.world
        for step in range(self.first_step, self.last_step):
            start = step * self.batch + self.rank * share
            yield from range(start, start + share)


def batches(
    dataset: PatchDataset,
    *,
    first_step: int,
    last_step: int,
    batch: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> Iterator[Sample]:
    """This process's share of every step's batch, in order."""
    loader = DataLoader(
        dataset,
        batch_size=batch // world,
        sampler=_Places(first_step, last_step, batch, rank, world),
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )
    yield from loader
