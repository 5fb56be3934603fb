"""Images that a training run is validated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.config import Config, DataConfig
from ldct_denoise.context_slices import context_indices, overlap_correlation, sample_correlated_noise
from ldct_denoise.data.noise import NoiseSampler, PhotographNoise, estimate_noise_or_none, noise_from_models
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.slices import PoolSlice, decode, pool_slices
from ldct_denoise.intensity import WINDOWS, Scale, Window
from ldct_denoise.io.photos import GreyImage
from ldct_denoise.methods.base import Batch
from ldct_denoise.volume import slice_thickness_mm, spread_indices

Stack = NDArray[np.float32]

#: Largest number of slices of each kind that are measured at each validation.
VALIDATION_SLICES = 8
#: Side of a synthetic pair, pixels.
SYNTHETIC_PAIR_SIDE = 256
#: Largest number of low-dose series whose noise is measured for validation alone.
MEASURED_SERIES = 8


@dataclass(frozen=True)
class ValidationSlice:
    """A slice, with the context slices that a 2.5-D method needs.

    Parameters
    ----------
    hu : ndarray, shape (channels, rows, columns)
        HU; the slice itself is the center channel.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing.
    """

    hu: Stack
    pixel_spacing_mm: tuple[float, float]

    @property
    def center(self) -> NDArray[np.float32]:
        """The slice itself, shape (rows, columns)."""
        return self.hu[len(self.hu) // 2]


@dataclass(frozen=True)
class ValidationSet:
    """Images for validation; none is trained on, unless the pool is too small to hold any back.

    Parameters
    ----------
    low : tuple of ValidationSlice
        Low-dose slices, of validation patients where there are any.
    normal : tuple of ValidationSlice
        Normal-dose slices.
    synthetic_pairs : tuple of (ndarray, ndarray)
        Pairs that need no second scan: a crop of a normal-dose slice and a noise field to add to it, both of shape
        (channels, side, side), HU.
    pairs : tuple of (ValidationSlice, ValidationSlice)
        Low- and normal-dose slices of the same position, of validation patients or held back from training.
    scale : Scale
        HU range of the method.
    sample_batch : Batch, optional
        Patches for the images in the log.
    targets_noise_texture : bool
        The method learns the appearance of normal dose including its noise, and is trained on no added noise.
    guard_range : bool
        Clip what the network sees to the HU range, as in use; off for photographs.
    window : Window
        Window of PSNR and SSIM of ``pairs``.
    """

    low: tuple[ValidationSlice, ...]
    normal: tuple[ValidationSlice, ...]
    synthetic_pairs: tuple[tuple[Stack, Stack], ...]
    pairs: tuple[tuple[ValidationSlice, ValidationSlice], ...]
    scale: Scale
    sample_batch: Batch | None = None
    targets_noise_texture: bool = False
    guard_range: bool = True
    window: Window = WINDOWS["full"]


def make_validation_set(
    config: Config,
    pools: Pools,
    normal: Sequence[PoolSlice],
    noise: NoiseSampler | PhotographNoise | None,
    context_slices: int = 0,
) -> ValidationSet:
    """Read the validation images, evenly spread over the candidates.

    Parameters
    ----------
    config : Config
        HU range.
    pools : Pools
        Low-dose slices are taken from the validation patients, or from the pool where there are none.
    normal : sequence of PoolSlice
        Candidates for normal-dose slices and synthetic pairs.
    noise : NoiseSampler or PhotographNoise, optional
        Noise of the synthetic pairs; without it there are none.
    context_slices : int
        Context slices on each side of a slice.
    """
    low = [
        item for item in pool_slices(pools.validation_low or pools.low) if not isinstance(item.source, GreyImage)
    ]
    pairs = [
        (PoolSlice(pair.low, low_index), PoolSlice(pair.normal, normal_index))
        for pair in pools.validation_pairs
        for low_index, normal_index in pair.indices
    ]
    chosen = [normal[index] for index in spread_indices(len(normal), VALIDATION_SLICES)]
    return ValidationSet(
        low=tuple(_read(low[index], context_slices) for index in spread_indices(len(low), VALIDATION_SLICES)),
        normal=tuple(_read(item) for item in chosen),
        synthetic_pairs=tuple(
            _synthetic_pair(item, noise, number, context_slices) for number, item in enumerate(chosen)
        )
        if noise
        else (),
        pairs=tuple(
            (_read(pairs[index][0], context_slices), _read(pairs[index][1]))
            for index in spread_indices(len(pairs), VALIDATION_SLICES)
        ),
        scale=config.scale,
        window=Window.parse(config.training.validation_window),
    )


def noise_for_validation(
    config: Config, pools: Pools, normal: Sequence[PoolSlice], report: Callable[[str], None]
) -> NoiseSampler | PhotographNoise | None:
    """Noise of synthetic pairs for a method that is trained on no added noise.

    Parameters
    ----------
    config : Config
        Data settings.
    pools : Pools
        The noise is measured in its low-dose series.
    normal : sequence of PoolSlice
        Normal-dose slices that the noise will be added to.
    report : callable
        Receives a line for each measured kernel.

    Returns
    -------
    NoiseSampler or PhotographNoise or None
        None where no low-dose series has uniform tissue, or there is no normal-dose slice.
    """
    if (law := photograph_noise(config.data)) is not None:
        return law
    found = (model for source in pools.low if (model := estimate_noise_or_none(source)) is not None)
    measured = list(islice(found, MEASURED_SERIES)) if normal else []
    if not measured:
        return None
    chosen = [normal[index] for index in spread_indices(len(normal), VALIDATION_SLICES)]
    series = {item.source.uid: item.source for item in chosen}
    return noise_from_models(measured, list(series.values()), config.data, report)


def photograph_noise(config: DataConfig) -> PhotographNoise | None:
    """Noise of photographs, where ``noise_model`` is gaussian or poisson."""
    if config.noise_model in ("gaussian", "poisson"):
        return PhotographNoise(config.noise_model, config.sigma)
    return None


def _read(item: PoolSlice, context_slices: int = 0) -> ValidationSlice:
    geometry = item.source.geometry
    indices = context_indices(geometry, item.index, context_slices)
    hu = np.stack([decode(PoolSlice(item.source, index)).hu for index in indices])
    return ValidationSlice(hu, geometry.pixel_spacing_mm)


def _synthetic_pair(
    item: PoolSlice, noise: NoiseSampler | PhotographNoise, number: int, context_slices: int
) -> tuple[Stack, Stack]:
    """The center crop of a slice and noise of the reference level; ``number`` seeds the noise."""
    hu = _read(item, context_slices).hu
    rows, columns = hu.shape[1:]
    side = min(SYNTHETIC_PAIR_SIDE, rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    rng = np.random.default_rng(number)
    clean = hu[:, top : top + side, left : left + side]
    if isinstance(noise, PhotographNoise):
        return clean, noise.sample_reference_level(clean, rng)
    source, geometry = item.source, item.source.geometry
    indices = context_indices(geometry, item.index, context_slices)
    sample = noise.sample_reference_level(source, clean[len(clean) // 2], rng, len(set(indices)))

    def correlation(distinct: Sequence[int]) -> NDArray[np.float64]:
        return overlap_correlation(geometry.offsets_mm[distinct], slice_thickness_mm(source))

    sample = sample._replace(hu=sample_correlated_noise(lambda _: sample.hu, indices, correlation))
    return clean + sample.target_hu, sample.added_hu
