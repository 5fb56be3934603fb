"""Training patches: squares of the body from both pools, as a pure function of the seed and the sample number.

The randomness of sample ``i`` derives from (seed, i) alone, so it does not depend on the number of worker
processes or training processes, nor on whether the run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ldct_denoise.config import Config
from ldct_denoise.context_slices import sample_correlated_noise
from ldct_denoise.data.context import ContextSampler, Stack
from ldct_denoise.data.downscaled import original_slice
from ldct_denoise.data.noise import NoiseSample, NoiseSampler, PhotographNoise
from ldct_denoise.data.simulated_noise import SimulatedNoise
from ldct_denoise.data.slices import GRID, DecodedSlice, PoolSlice, SliceStore, cut
from ldct_denoise.errors import InputError

Patches = dict[str, NDArray[np.float32]]
Sample = dict[str, Tensor]


@dataclass(frozen=True)
class PatchSources:
    """Slices that patches are cut from, and noise that is added to them.

    Parameters
    ----------
    low, normal : sequence of PoolSlice
        The pools; a pool that the method does not need is empty.
    targets : mapping of int to int, optional
        Supervised training: position in ``normal`` of the partner of each position in ``low``. Both are drawn
        together. None: the pools are drawn from independently.
    exclusions : mapping of int to int
        Unpaired training: position in ``normal`` with the same anatomy as a position in ``low``. Such slices are
        never drawn together.
    noise : NoiseSampler or PhotographNoise, optional
        Noise for normal-dose patches.
    scans : mapping of int to sequence of PoolSlice
        Simulated low-dose scans of a slice, by its position in ``normal``; what they add to the slice is noise for
        normal-dose patches.
    low_noise : PhotographNoise, optional
        Noise that turns photographs into the low-dose pool.
    noisy_targets : bool
        Add ``low_noise`` to the targets too, with a realisation of its own (Noise2Noise).
    """

    low: Sequence[PoolSlice] = ()
    normal: Sequence[PoolSlice] = ()
    targets: Mapping[int, int] | None = None
    exclusions: Mapping[int, int] = field(default_factory=dict)
    noise: NoiseSampler | PhotographNoise | None = None
    scans: Mapping[int, Sequence[PoolSlice]] = field(default_factory=dict)
    low_noise: PhotographNoise | None = None
    noisy_targets: bool = False


class PatchDataset(Dataset[Sample]):
    """Endless dataset of patches ``low`` and ``normal``, and ``noise`` where the sources provide it.

    Each patch is a tensor of shape (channels, side, side) in network units. The channels are the context slices of
    a 2.5-D method, otherwise a single slice.

    Parameters
    ----------
    sources : PatchSources
    config : Config
        Data settings, HU range and seed.
    context_slices : int
        Context slices on each side of a slice.

    Raises
    ------
    InputError
        If the training is supervised and there is no pair.
    """

    def __init__(self, sources: PatchSources, config: Config, context_slices: int = 0) -> None:
        if sources.targets is not None and not sources.targets:
            raise InputError("no low/normal pair to train on; `ldct-denoise inspect` lists the pairs it finds")
        data = config.data
        cache_dir = Path(data.cache_dir) if data.cache_dir else None
        self.sources, self._config = sources, data
        self._scale, self._random = config.scale, _CounterRandom(config.training.seed)
        # As in use: the range of photographs is not guarded, because their noise exceeds it.
        self._guard_range = not isinstance(sources.low_noise or sources.noise, PhotographNoise)
        self._low = SliceStore(sources.low, data.cache_num, cache_dir)
        self._normal = SliceStore(sources.normal, data.cache_num, cache_dir)
        self._low_context = ContextSampler(sources.low, context_slices)
        self._normal_context = ContextSampler(sources.normal, context_slices)
        self._simulated = SimulatedNoise(self._normal, sources.scans, data, cache_dir)
        self._anatomy = [original_slice(item).key for item in sources.normal]
        self._paired_low = sorted(sources.targets or ())

    def __len__(self) -> int:
        return 2**62  # endless: the sampler determines where a run starts and ends

    def __getitem__(self, sample: int) -> Sample:
        rng = self._random.at(sample)
        patches = self._unpaired(rng) if self.sources.targets is None else self._pair(self.sources.targets, rng)
        if self._config.augment:
            self._flip_and_rotate(patches, rng)
        return {name: torch.from_numpy(np.ascontiguousarray(patch)) for name, patch in patches.items()}

    def _pair(self, targets: Mapping[int, int], rng: np.random.Generator) -> Patches:
        low = self._paired_low[rng.integers(len(self._paired_low))]
        normal = targets[low]
        corner = self._corner(self._normal[normal], rng)
        stack = self._low_context.sample(low, rng)
        target = self._cut(self._normal, [targets.get(position, normal) for position in stack], corner)
        source = self._degraded(self._cut(self._low, stack, corner), rng)
        target = self._degraded(target, rng) if self.sources.noisy_targets else target
        return {"low": self._input(source), "normal": self._input(target)}

    def _unpaired(self, rng: np.random.Generator) -> Patches:
        patches: Patches = {}
        excluded = -1
        if len(self._low):
            low = int(rng.integers(len(self._low)))
            excluded = self.sources.exclusions.get(low, -1)
            corner = self._corner(self._low[low], rng)
            stack = self._low_context.sample(low, rng)
            patches["low"] = self._input(self._degraded(self._cut(self._low, stack, corner), rng))
        if len(self._normal):
            normal = int(rng.integers(len(self._normal)))
            if excluded >= 0 and self._anatomy[normal] == self._anatomy[excluded]:
                normal = self._other_anatomy(normal, rng)
            corner = self._corner(self._normal[normal], rng)
            stack = self._normal_context.sample(normal, rng)
            clean = self._cut(self._normal, stack, corner)
            noise = self._sample_noise(stack, corner, clean, rng)
            patches |= {"normal": self._input(clean)} if noise is None else self._with_noise(clean, noise)
        return patches

    def _other_anatomy(self, normal: int, rng: np.random.Generator) -> int:
        """Another position in the normal-dose pool that shows other anatomy, if there is one."""
        count = len(self._normal)
        others = [(normal + 1 + step) % count for step in range(count - 1)]
        others = [position for position in others if self._anatomy[position] != self._anatomy[normal]]
        return others[int(rng.integers(len(others)))] if others else normal

    def _sample_noise(
        self, stack: Stack, corner: tuple[int, int], clean: NDArray[np.float32], rng: np.random.Generator
    ) -> NoiseSample | None:
        """Noise for a normal-dose stack: of a simulated scan, of a spectrum, of a photograph's law, or none."""
        correlation, noise = self._normal_context.noise_correlation, self.sources.noise
        if all(position in self._simulated for position in stack) and rng.random() >= self._config.random_nps_prob:
            simulated = sample_correlated_noise(
                lambda positions: self._simulated.sample(positions, corner, rng), stack, correlation
            )
            return NoiseSample(simulated, 0.0)
        if noise is None:
            return None
        if isinstance(noise, PhotographNoise):
            return NoiseSample(noise.sample(self._scale.to_hu(clean), rng), 0.0)
        source = self._normal.slices[stack[0]].source
        clean_hu = self._scale.to_hu(clean[len(clean) // 2])
        fields = noise.sample(source, clean_hu, rng, len(set(stack)))
        return fields._replace(hu=sample_correlated_noise(lambda _: fields.hu, stack, correlation))

    def _with_noise(self, clean: NDArray[np.float32], noise: NoiseSample) -> Patches:
        """Target with its part of the noise, and the noise that low dose adds, both as a scanner stores them."""
        width_hu = np.float32(self._scale.width_hu)
        normal, noisy = clean + noise.target_hu / width_hu, clean + noise.hu / width_hu
        if self._config.clip_min_hu is not None:
            lowest = np.float32(self._scale.to_unit(self._config.clip_min_hu))
            normal, noisy = np.maximum(normal, lowest), np.maximum(noisy, lowest)
        normal, noisy = self._input(normal), self._input(noisy)
        return {"normal": normal, "noise": noisy - normal}

    def _corner(self, decoded: DecodedSlice, rng: np.random.Generator) -> tuple[int, int]:
        """First row and column of a patch whose centre lies in the body."""
        side = self._config.patch_size
        block_row, block_column = decoded.body_blocks[rng.integers(len(decoded.body_blocks))].tolist()
        row = GRID * block_row + int(rng.integers(GRID)) - side // 2
        column = GRID * block_column + int(rng.integers(GRID)) - side // 2
        rows, columns = decoded.hu.shape
        return max(0, min(row, rows - side)), max(0, min(column, columns - side))

    def _cut(self, store: SliceStore, stack: Sequence[int], corner: tuple[int, int]) -> NDArray[np.float32]:
        """The same square of each slice of a stack, (len(stack), side, side), network units before clipping."""
        side = self._config.patch_size
        hu = np.empty((len(stack), side, side), np.float32)
        for channel, position in zip(hu, stack, strict=True):
            channel[...] = cut(store[position].hu, corner, side)
        return self._scale.to_unit(hu)

    def _input(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """A patch in network units as the network sees it in use."""
        return self._scale.clip_units(patch) if self._guard_range else patch

    def _degraded(self, patch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """A patch of a photograph with the noise of the low-dose pool; any other patch is returned unchanged."""
        if self.sources.low_noise is None:
            return patch
        noise = self.sources.low_noise.sample(self._scale.to_hu(patch), rng)
        return patch + noise / np.float32(self._scale.width_hu)

    def _flip_and_rotate(self, patches: Patches, rng: np.random.Generator) -> None:
        """Turn partners alike, and a normal-dose patch like its noise; turn unpaired patches independently."""
        common = int(rng.integers(8))
        for name in patches:
            alike = self.sources.targets is not None or name != "low"
            patches[name] = flip_and_rotate(patches[name], common if alike else int(rng.integers(8)))


def flip_and_rotate(image: NDArray[np.float32], symmetry: int) -> NDArray[np.float32]:
    """One of the eight symmetries of a square, as a view.

    Parameters
    ----------
    image : ndarray, shape (..., side, side)
    symmetry : int
        0 to 7: rotation by ``symmetry % 4`` quarter turns, after a flip where it is 4 or more; 0 is the identity.

    Returns
    -------
    ndarray, shape (..., side, side)
    """
    flipped = image[..., ::-1] if symmetry >= 4 else image
    match symmetry % 4:
        case 1:
            return flipped.swapaxes(-1, -2)[..., ::-1, :]
        case 2:
            return flipped[..., ::-1, ::-1]
        case 3:
            return flipped.swapaxes(-1, -2)[..., ::-1]
    return flipped


class _CounterRandom:
    """Random generators that start at the number of a sample: twenty times as fast as seeding one for each.

    Parameters
    ----------
    seed : int
        Key of a Philox generator; the sample number is the second word of its counter.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.Philox(key=seed)
        self._start = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, sample: int) -> np.random.Generator:
        """The generator of one sample; valid until the next call."""
        self._start["state"]["counter"][1] = sample
        self._bits.state = self._start
        return self._generator


class _SampleNumbers(Sampler[int]):
    """Numbers of the samples that one process draws in some steps."""

    def __init__(self, steps: range, batch_size: int, rank: int, world_size: int) -> None:
        self._steps, self._batch_size, self._rank = steps, batch_size, rank
        self._share = batch_size // world_size

    def __len__(self) -> int:
        return len(self._steps) * self._share

    def __iter__(self) -> Iterator[int]:
        for step in self._steps:
            first = step * self._batch_size + self._rank * self._share
            yield from range(first, first + self._share)


def batches(
    dataset: PatchDataset,
    steps: range,
    batch_size: int,
    *,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[Sample]:
    """Batches of consecutive training steps, in order.

    Parameters
    ----------
    dataset : PatchDataset
    steps : range
        Training steps, one batch each.
    batch_size : int
        Samples per step over all training processes; a multiple of ``world_size``.
    num_workers : int
        Loader processes; 0: this process loads.
    rank : int
        Number of this training process.
    world_size : int
        Number of training processes.
    pin_memory : bool
        Use page-locked memory, for faster copies to a GPU.

    Yields
    ------
    dict of str to Tensor
        ``batch_size // world_size`` samples, stacked.
    """
    yield from DataLoader(
        dataset,
        batch_size=batch_size // world_size,
        sampler=_SampleNumbers(steps, batch_size, rank, world_size),
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
    )
