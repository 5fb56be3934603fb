"""Images that a training run trains and validates on: from pools to patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldct_denoise.config import Config
from ldct_denoise.data.downscaled import add_downscaled
from ldct_denoise.data.noise import NoiseSampler, PhotographNoise, noise_of_pool
from ldct_denoise.data.patches import PatchDataset, PatchSources
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.simulated_low_dose import with_simulated_low
from ldct_denoise.data.slices import PoolSlice, pool_slices
from ldct_denoise.data.thick_slices import has_thick_slices, split_center_block, with_thick_slices
from ldct_denoise.data.validation_set import (
    ValidationSet,
    make_validation_set,
    noise_for_validation,
    photograph_noise,
)
from ldct_denoise.errors import ConfigError
from ldct_denoise.io.photos import GreyImage
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import Batch
from ldct_denoise.models.envelope import measure_envelope

#: Without validation patients one slice, or pair of slices, in this many is held back for validation.
VALIDATION_STRIDE = 8


@dataclass(frozen=True)
class TrainingSet:
    """Patches to train on, images to validate on, and where they come from.

    Parameters
    ----------
    patches : PatchDataset
        Endless training patches.
    validation : ValidationSet
        Images for validation.
    pools : Pools
        The pools after averaging and simulation.
    noise_summary : list of dict
        For each kernel: mean frequency and range of the measured noise, for the model's card.
    envelope : dict
        Range of the training images (:mod:`ldct_denoise.models.envelope`), for the model's card.
    """

    patches: PatchDataset
    validation: ValidationSet
    pools: Pools
    noise_summary: list[dict[str, Any]] = field(default_factory=list)
    envelope: dict[str, Any] = field(default_factory=dict)


def make_training_set(
    config: Config,
    pools: Pools,
    supervision: Supervision,
    *,
    context_slices: int = 0,
    training_context_slices: int | None = None,
    uses_noise: bool = True,
    scratch: Path = Path("simulated"),
    report: Callable[[str], None] = lambda message: None,
) -> TrainingSet:
    """Prepare the images of a run for a method.

    Simulated scans (``data.simulated_dose``) replace the low-dose pool. With ``noise_model: dose_simulation`` and
    a real low-dose pool they only provide noise.

    Parameters
    ----------
    config : Config
        Settings of the run.
    pools : Pools
        Series of the run.
    supervision : Supervision
        Kind of images that the method is trained on.
    context_slices : int
        Context slices on each side of a slice that the method denoises.
    training_context_slices : int, optional
        Context slices of training patches; by default as many.
    uses_noise : bool
        Whether the method is trained on normal-dose patches with noise added.
    scratch : Path
        Folder for simulated scans, where ``data.cache_dir`` names none.
    report : callable
        Receives a line for each thing that is simulated or measured.

    Raises
    ------
    ConfigError
        If photographs are given without a noise model for them.
    InputError
        If a supervised method has no pair, or noise cannot be measured in a series.
    """
    photographs = any(isinstance(source, GreyImage) for source in (*pools.low, *pools.normal))
    if photographs and photograph_noise(config.data) is None:
        raise ConfigError("photographs have no noise to learn from: set data.noise_model, gaussian or poisson")
    paired = supervision in (Supervision.SUPERVISED, Supervision.NOISE2NOISE)
    if not paired:
        pools = with_thick_slices(pools, config.data.slice_thickness_mm)
    simulated: Pools | None = None
    if config.data.simulated_dose is not None:
        cache = Path(config.data.cache_dir) if config.data.cache_dir else scratch
        simulated = with_simulated_low(pools, config, supervision, cache, report)
        if config.data.noise_model != "dose_simulation" or not pools.low:
            pools = simulated
    reach = context_slices if training_context_slices is None else training_context_slices
    # Context slices of training patches may be among those held back, so 2.5-D needs validation patients.
    if supervision is Supervision.SUPERVISED and not (pools.validation_pairs or photographs or reach):
        pools = _hold_back_pairs(pools)
    normal, held_back = _split(pools, reach, paired)
    training = normal if paired else add_downscaled(normal, config.data.downscale_factors)
    noise = _training_noise(config, pools, training, paired, report) if uses_noise else None
    sources = _patch_sources(pools, training, supervision, paired)
    sources = replace(sources, noise=noise, low_noise=photograph_noise(config.data) if photographs else None)
    if simulated and uses_noise and config.data.noise_model == "dose_simulation":
        sources = replace(sources, scans=_scans_by_position(simulated, normal))
    patches = PatchDataset(sources, config, reach)
    # A supervised method is not validated on targets that it was trained on.
    candidates = held_back if paired else held_back or normal
    validation = make_validation_set(
        config,
        pools,
        held_back or normal,
        noise or noise_for_validation(config, pools, candidates, report),
        context_slices,
    )
    validation = replace(
        validation,
        sample_batch=_sample_batch(patches),
        guard_range=not photographs,
        targets_noise_texture=supervision is Supervision.UNPAIRED and noise is None,
    )
    envelope = {} if photographs else measure_envelope((*pools.low, *pools.normal))
    return TrainingSet(patches, validation, pools, _noise_summary(noise), envelope)


def _split(pools: Pools, context_slices: int, paired: bool) -> tuple[Sequence[PoolSlice], Sequence[PoolSlice]]:
    """Split normal-dose slices into those for training and those for validation.

    For validation: the slices of the held-out pairs; where there are none, every eighth slice of the
    pool, or the center eighth of every series where neighbouring slices share their data.
    """
    normal = pool_slices(pools.normal)
    held_out = tuple(PoolSlice(pair.normal, index) for pair in pools.validation_pairs for _, index in pair.indices)
    if paired or held_out or len(normal) < VALIDATION_STRIDE:
        return normal, held_out
    if context_slices or has_thick_slices(normal):
        return split_center_block(normal, VALIDATION_STRIDE)
    every_eighth = slice(VALIDATION_STRIDE // 2, None, VALIDATION_STRIDE)
    training = list(normal)
    del training[every_eighth]
    return training, normal[every_eighth]


def _hold_back_pairs(pools: Pools) -> Pools:
    """Hold back the center eighth of the slices of every pair, where no patient is held out."""
    training, held_back = [], []
    for pair in pools.pairs:
        count = len(pair.indices) // VALIDATION_STRIDE
        first = (len(pair.indices) - count) // 2
        training.append(replace(pair, indices=pair.indices[:first] + pair.indices[first + count :]))
        if count:
            held_back.append(replace(pair, indices=pair.indices[first : first + count]))
    return replace(pools, pairs=tuple(training), validation_pairs=tuple(held_back))


def _training_noise(
    config: Config,
    pools: Pools,
    training: Sequence[PoolSlice],
    paired: bool,
    report: Callable[[str], None],
) -> NoiseSampler | PhotographNoise | None:
    """Noise that is added to normal-dose patches, as the settings say."""
    if (law := photograph_noise(config.data)) is not None:
        return law
    if config.data.noise_model == "none" or paired:
        return None
    series = {source.uid: source for source in (*pools.normal, *(item.source for item in training))}
    return noise_of_pool(pools.low, list(series.values()), config.data, report)


def _patch_sources(
    pools: Pools, training: Sequence[PoolSlice], supervision: Supervision, paired: bool
) -> PatchSources:
    """Slices that the method is trained on, and their partners."""
    low = pool_slices(pools.low)
    if supervision is Supervision.NOISE2NOISE:  # the targets are second scans
        training = pool_slices(list({pair.normal.uid: pair.normal for pair in pools.pairs}.values()))
    partners = partner_positions(pools, low, training)
    return PatchSources(
        low=low if supervision is not Supervision.NONE else (),
        normal=training if supervision is not Supervision.SELF else (),
        targets=partners if paired else None,
        exclusions={} if paired else partners,
        noisy_targets=supervision is Supervision.NOISE2NOISE,
    )


def partner_positions(pools: Pools, low: Sequence[PoolSlice], normal: Sequence[PoolSlice]) -> dict[int, int]:
    """Map positions in ``low`` to the positions in ``normal`` that show the same anatomy.

    Parameters
    ----------
    pools : Pools
        Its pairs say which slices belong together.
    low, normal : sequence of PoolSlice
        Slices of the two pools; partners that are not in both are left out.
    """
    low_position = {item.key: position for position, item in enumerate(low)}
    normal_position = {item.key: position for position, item in enumerate(normal)}
    partners = {}
    for pair in pools.pairs:
        for low_index, normal_index in pair.indices:
            position = low_position.get(PoolSlice(pair.low, low_index).key)
            partner = normal_position.get(PoolSlice(pair.normal, normal_index).key)
            if position is not None and partner is not None:
                partners[position] = partner
    return partners


def _scans_by_position(simulated: Pools, normal: Sequence[PoolSlice]) -> dict[int, list[PoolSlice]]:
    """Simulated scans of each slice, by its position in the normal-dose pool."""
    scanned = pool_slices(simulated.low)
    scans: dict[int, list[PoolSlice]] = {}
    for scan, position in partner_positions(simulated, scanned, normal).items():
        scans.setdefault(position, []).append(scanned[scan])
    return scans


def _sample_batch(patches: PatchDataset) -> Batch | None:
    """The first four samples, for the images in the log."""
    samples = [patches[number] for number in range(4)]
    images = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    if "low" not in images:
        return None
    return Batch(images["low"], images.get("normal"), None, torch.Generator().manual_seed(0))


def _noise_summary(noise: NoiseSampler | PhotographNoise | None) -> list[dict[str, Any]]:
    if noise is None:
        return []
    return [
        {
            "kernel": model.kernel,
            "mean_frequency_per_mm": round(float(model.mean_frequency_per_mm), 4),
            "sigma_hu": [round(float(np.min(model.sigma_hu)), 2), round(float(np.max(model.sigma_hu)), 2)],
        }
        for model in noise.models
    ]
