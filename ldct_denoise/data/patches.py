"""Training batches: patches of the body from both pools, a pure function of (seed, place in the run).

Sample ``i`` of a run is the same whatever the number of workers or processes, and whether the run was
interrupted: its randomness derives from (seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ldct_denoise.config import DataConfig
from ldct_denoise.data.noise import Drawn, PoolNoise, SyntheticNoise
from ldct_denoise.data.slices import GRID, DecodedSlice, PoolSlice, SliceStore
from ldct_denoise.errors import InputError
from ldct_denoise.intensity import Scale
from ldct_denoise.volume import SliceSource

if TYPE_CHECKING:
    from monai.transforms import Compose

Sample = dict[str, Tensor]


class PatchDataset(Dataset[Sample]):
    """Pairs of patches ``low`` and ``normal`` (network units), and ``noise`` where the pool's was measured.

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
    scans : dict, optional
        For positions in ``normal``, simulated scans of that very slice: what they add to it is noise too.
    config : DataConfig
    scale : Scale
    seed : int
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
        scans: Mapping[int, Sequence[PoolSlice]] | None = None,
        config: DataConfig,
        scale: Scale,
        seed: int,
    ) -> None:
        if paired and not partners:
            raise InputError("no low/normal pair to train on; `ldct-denoise inspect` lists the pairs it finds")
        cache = Path(config.cache_dir) if config.cache_dir else None
        self._low = SliceStore(low, config.memory_slices, cache)
        self._normal = SliceStore(normal, config.memory_slices, cache)
        self._partners, self._paired, self._noise = partners, paired, noise
        self._paired_low = sorted(partners)
        scans, place = scans or {}, count()
        self._simulated = SliceStore(list(chain.from_iterable(scans.values())), config.memory_slices, cache)
        self._scans = {normal_at: [next(place) for _ in found] for normal_at, found in scans.items()}
        self._config, self._scale, self._seed = config, scale, seed
        self._synthetic = SyntheticNoise(config.synthetic, config.synthetic_sigma) if config.synthetic else None
        self._twice_noisy = twice_noisy
        self._augment: Compose | None = _augmentation() if config.augment else None

    def __len__(self) -> int:
        return 2**62  # endless: the sampler says where a run begins and ends

    def __getitem__(self, sample: int) -> Sample:
        rng = np.random.default_rng([self._seed, sample])
        patches = self._pair(rng) if self._paired else self._unpaired(rng)
        if self._augment is not None:
            self._turn(patches, rng)
        return {name: torch.from_numpy(np.ascontiguousarray(patch))[None] for name, patch in patches.items()}

    def _pair(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        low_at = self._paired_low[rng.integers(len(self._paired_low))]
        low, normal = self._low[low_at], self._normal[self._partners[low_at]]
        corner = self._corner(normal, rng)
        clean = self._cut(normal, corner)
        return {
            "low": self._degraded(self._cut(low, corner), rng),
            "normal": self._degraded(clean, rng) if self._twice_noisy else clean,
        }

    def _unpaired(self, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
        patches: dict[str, NDArray[np.float32]] = {}
        partner = -1
        if len(self._low):
            low_at = int(rng.integers(len(self._low)))
            partner = self._partners.get(low_at, -1)
            low = self._low[low_at]
            patches["low"] = self._degraded(self._cut(low, self._corner(low, rng)), rng)
        if len(self._normal):
            normal_at = int(rng.integers(len(self._normal)))
            if normal_at == partner and len(self._normal) > 1:  # the same anatomy is never shown together
                normal_at = (normal_at + 1 + int(rng.integers(len(self._normal) - 1))) % len(self._normal)
            normal = self._normal[normal_at]
            corner = self._corner(normal, rng)
            clean = self._cut(normal, corner)
            patches["normal"] = self._sharpened(clean, rng)
            if normal_at in self._scans and rng.random() >= self._config.broad_share:
                patches["noise"] = self._cut(self._scan(normal_at, rng), corner) - clean
            elif self._noise is not None:
                drawn = self._draw(self._normal.slices[normal_at].source, patches["normal"], rng)
                width_hu = np.float32(self._scale.width_hu)
                patches["normal"] = patches["normal"] + drawn.in_target / width_hu
                patches["noise"] = drawn.added / width_hu
            self._raise_to_floor(patches)
        return patches

    def _raise_to_floor(self, patches: dict[str, NDArray[np.float32]]) -> None:
        """Let neither the normal-dose patch nor that with noise go below what a scanner stores."""
        if self._config.floor_hu is None or "noise" not in patches:
            return
        floor = np.float32(self._scale.to_unit(self._config.floor_hu))
        above = _folded if self._config.below_floor == "fold" else np.maximum
        noisy = above(patches["normal"] + patches["noise"], floor)
        patches["normal"] = above(patches["normal"], floor)
        patches["noise"] = noisy - patches["normal"]

    def _scan(self, normal_at: int, rng: np.random.Generator) -> DecodedSlice:
        """One of the simulated scans of a normal-dose slice."""
        scans = self._scans[normal_at]
        return self._simulated[scans[rng.integers(len(scans))]]

    def _corner(self, decoded: DecodedSlice, rng: np.random.Generator) -> tuple[int, int]:
        """Top left of a patch whose centre lies in the body."""
        centre = decoded.body_blocks[rng.integers(len(decoded.body_blocks))] * GRID + rng.integers(GRID, size=2)
        limit = np.maximum(np.asarray(decoded.hu.shape) - self._config.patch, 0)
        row, column = np.clip(centre - self._config.patch // 2, 0, limit)
        return int(row), int(column)

    def _cut(self, decoded: DecodedSlice, corner: tuple[int, int]) -> NDArray[np.float32]:
        side = self._config.patch
        patch = decoded.hu[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        if patch.shape != (side, side):
            patch = np.pad(patch, [(0, side - length) for length in patch.shape], mode="symmetric")
        return self._scale.to_unit(patch).astype(np.float32)

    def _draw(self, source: SliceSource, clean: NDArray[np.float32], rng: np.random.Generator) -> Drawn:
        """A field for this normal-dose patch."""
        if isinstance(self._noise, SyntheticNoise):
            return Drawn(self._noise.degrade(self._scale.to_hu(clean), rng), 0.0)
        assert self._noise is not None
        return self._noise.draw(source, self._config.patch, rng)

    def _degraded(self, patch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """The patch with synthetic noise, where the low pool is made by it."""
        if self._synthetic is None:
            return patch
        return patch + self._synthetic.degrade(self._scale.to_hu(patch), rng) / np.float32(self._scale.width_hu)

    def _sharpened(self, patch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """The patch as if reconstructed with a sharper kernel: unsharp masking of random strength and width."""
        if not self._config.sharpen:
            return patch
        detail = patch - ndimage.gaussian_filter(patch, rng.uniform(0.6, 1.5))
        sharper: NDArray[np.float32] = patch + np.float32(rng.uniform(0, self._config.sharpen)) * detail
        return sharper

    def _turn(self, patches: dict[str, NDArray[np.float32]], rng: np.random.Generator) -> None:
        """Flip and turn: partners alike, also a patch and noise that belongs to it; others each in its own way."""
        assert self._augment is not None
        together = int(rng.integers(2**31))
        for name in patches:
            alike = self._paired or (name != "low" and (self._scans or self._config.keep_noise))
            self._augment.set_random_state(seed=together if alike else int(rng.integers(2**31)))
            patches[name] = np.asarray(self._augment(patches[name][None]))[0]


def _folded(patch: NDArray[np.float32], floor: np.float32) -> NDArray[np.float32]:
    """What lies below the floor as far above it."""
    return floor + np.abs(patch - floor)


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
