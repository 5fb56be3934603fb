"""What one run trains and validates on: pools to patches, with some slices held back to judge by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ldct_denoise.config import Config, DataConfig
from ldct_denoise.context_slices import context_indices, overlap_correlation, sample_correlated_noise
from ldct_denoise.data.downscaled import with_shrunk
from ldct_denoise.data.noise import PoolNoise, SyntheticNoise, measure_pool_noise, noise_if_any, pool_noise
from ldct_denoise.data.patches import PatchDataset
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.simulated_low_dose import with_simulated_low
from ldct_denoise.data.slices import PoolSlice, decode, pool_slices
from ldct_denoise.data.thick_slices import has_slabs, split_middles, with_slabs
from ldct_denoise.errors import ConfigError
from ldct_denoise.intensity import Scale
from ldct_denoise.io.photos import GreyImage
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import Batch
from ldct_denoise.volume import slice_thickness_mm

T = TypeVar("T")

#: Side of the squares in which a normal-dose slice with drawn noise is restored to judge by, pixels.
PROBE = 256
#: Low-dose series whose noise is measured to judge by, at the most.
JUDGED_SERIES = 8
#: Slices of each kind measured at each validation, at the most.
VALIDATION_SLICES = 8
#: One normal-dose slice in so many is held back where no patient is.
HOLD_BACK = 8


@dataclass(frozen=True)
class ValidationSet:
    """Images to judge by, none of which is trained on, unless the pool is too small to hold any back.

    Every image is a stack, shape (channels, rows, columns), HU: a slice, for a 2.5-D method with those beside it.

    Parameters
    ----------
    low : tuple of ndarray
        Low-dose slices (of held-out patients where there are any).
    normal : tuple of ndarray
        Normal-dose slices.
    probes : tuple of (ndarray, ndarray)
        Normal-dose squares and noise to add to them: what is known without pairs.
    pairs : tuple of (ndarray, ndarray)
        Low- and normal-dose slices of the same place; of held-out patients only.
    scale : Scale
    picture : Batch, optional
        Patches for the log's pictures.
    imitates : bool
        Whether the method learns what normal dose looks like, noise included, rather than what is nearest to it.
    """

    low: tuple[NDArray[np.float32], ...]
    normal: tuple[NDArray[np.float32], ...]
    probes: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    pairs: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    scale: Scale
    picture: Batch | None = None
    imitates: bool = False


@dataclass(frozen=True)
class TrainingSet:
    """Patches to train on, slices to judge by, the pools they are from, and what was measured of the noise."""

    patches: PatchDataset
    validation: ValidationSet
    pools: Pools
    noise_summary: list[dict[str, Any]] = field(default_factory=list)


def make_training_set(
    config: Config,
    pools: Pools,
    supervision: Supervision,
    report: Callable[[str], None] = lambda message: None,
    scratch: Path = Path("simulated"),
    neighbours: int = 0,
    uses_noise: bool = True,
) -> TrainingSet:
    """Cut the pools into patches for a method with these needs.

    Simulated scans (``data.simulated_dose``) are the low-dose pool; where noise is ``simulated`` and there is a
    real one, they are a source of noise alone.

    Parameters
    ----------
    report : callable
        Told in a line what was measured.
    scratch : Path
        Where simulated scans are kept, unless ``data.cache_dir`` says.
    neighbours : int
        Slices on each side that the method sees as well.
    uses_noise : bool
        Whether the method is trained on normal-dose patches with noise added.

    Raises
    ------
    ConfigError
        If photographs are given without a law of noise.
    """
    law = _noise_law(config.data)
    photographs = any(isinstance(source, GreyImage) for source in (*pools.low, *pools.normal))
    if photographs and law is None:
        raise ConfigError("photographs have no noise to learn from: set data.noise_model, gaussian or poisson")
    paired = supervision in (Supervision.SUPERVISED, Supervision.NOISE2NOISE)
    if not paired:
        pools = with_slabs(pools, config.data.slice_thickness_mm)
    simulated: Pools | None = None
    if config.data.simulated_dose is not None:
        cache = Path(config.data.cache_dir) if config.data.cache_dir else scratch
        simulated = with_simulated_low(pools, config, supervision, cache, report)
        if config.data.noise_model != "dose_simulation" or not pools.low:
            pools = simulated
    low, normal = pool_slices(pools.low), pool_slices(pools.normal)
    normal, held = (normal, _held_out(pools)) if paired else _hold_back(normal, pools, neighbours)
    trained = normal if paired else with_shrunk(normal, config.data.downscale_factors)
    draws_scans = simulated is not None and uses_noise and config.data.noise_model == "dose_simulation"
    noise: PoolNoise | SyntheticNoise | None = law if uses_noise else None
    if uses_noise and law is None and config.data.noise_model != "none" and not paired:
        series = {source.uid: source for source in (*pools.normal, *(item.source for item in trained))}
        noise = measure_pool_noise(pools.low, list(series.values()), config.data, report)
    targets = _second_scans(pools) if supervision is Supervision.NOISE2NOISE else trained
    partners = _partners(pools, low, targets)
    patches = PatchDataset(
        low if supervision is not Supervision.NONE else (),
        targets if supervision is not Supervision.SELF else (),
        partners=partners,
        paired=paired,
        twice_noisy=supervision is Supervision.NOISE2NOISE,
        noise=noise,
        degrade_low=law if photographs else None,
        scans=_scans(simulated, normal) if draws_scans and simulated else None,
        config=config.data,
        scale=config.scale,
        seed=config.training.seed,
        neighbours=neighbours,
    )
    # A method of pairs is not judged by the very slices that it was told to give.
    judging = noise or _noise_to_judge_by(config, pools, held if paired else held or normal, report)
    validation = replace(
        _validation(config, pools, held or normal, low, judging, patches, neighbours),
        imitates=supervision is Supervision.UNPAIRED and noise is None,
    )
    return TrainingSet(patches, validation, pools, _summary(noise))


def _noise_to_judge_by(
    config: Config, pools: Pools, normal: Sequence[PoolSlice], report: Callable[[str], None]
) -> PoolNoise | SyntheticNoise | None:
    """The low-dose pool's noise where a method draws none: a normal-dose slice with it is a pair to judge by."""
    if (law := _noise_law(config.data)) is not None:
        return law
    found = (model for source in pools.low if (model := noise_if_any(source)) is not None)
    measured = list(islice(found, JUDGED_SERIES)) if normal else []
    if not measured:
        return None
    series = {item.source.uid: item.source for item in _spread(normal, VALIDATION_SLICES)}
    return pool_noise(measured, list(series.values()), config.data, report)


def _noise_law(config: DataConfig) -> SyntheticNoise | None:
    """The noise of photographs, where these settings name its law."""
    if config.noise_model in ("gaussian", "poisson"):
        return SyntheticNoise(config.noise_model, config.sigma)
    return None


def _second_scans(pools: Pools) -> tuple[PoolSlice, ...]:
    """The second of every pair."""
    return pool_slices(list({pair.normal.uid: pair.normal for pair in pools.pairs}.values()))


def _hold_back(
    normal: Sequence[PoolSlice], pools: Pools, neighbours: int
) -> tuple[tuple[PoolSlice, ...], tuple[PoolSlice, ...]]:
    """Normal-dose slices to train on and to judge by: the held-out patients' own, or every eighth of the pool.

    Of slabs, which overlap, and where neighbours are seen, the middle eighth of every series.
    """
    held_out = _held_out(pools)
    if held_out or len(normal) < HOLD_BACK:
        return tuple(normal), held_out
    if neighbours or has_slabs(normal):
        return split_middles(normal, HOLD_BACK)
    every_eighth = slice(HOLD_BACK // 2, None, HOLD_BACK)
    kept = list(normal)
    del kept[every_eighth]
    return tuple(kept), tuple(normal[every_eighth])


def _held_out(pools: Pools) -> tuple[PoolSlice, ...]:
    """Normal-dose slices of the held-out patients' pairs."""
    return tuple(PoolSlice(pair.normal, index) for pair in pools.validation_pairs for _, index in pair.indices)


def _partners(pools: Pools, low: Sequence[PoolSlice], normal: Sequence[PoolSlice]) -> dict[int, int]:
    """Position in the low pool → position in the normal pool of the same anatomy."""
    low_at = {item.key: position for position, item in enumerate(low)}
    normal_at = {item.key: position for position, item in enumerate(normal)}
    partners = {}
    for pair in pools.pairs:
        for low_index, normal_index in pair.indices:
            at = low_at.get(PoolSlice(pair.low, low_index).key)
            partner = normal_at.get(PoolSlice(pair.normal, normal_index).key)
            if at is not None and partner is not None:
                partners[at] = partner
    return partners


def _scans(simulated: Pools, normal: Sequence[PoolSlice]) -> dict[int, list[PoolSlice]]:
    """Position in the normal pool → its simulated scans."""
    made = pool_slices(simulated.low)
    scans: dict[int, list[PoolSlice]] = {}
    for made_at, normal_at in _partners(simulated, made, normal).items():
        scans.setdefault(normal_at, []).append(made[made_at])
    return scans


def _validation(
    config: Config,
    pools: Pools,
    normal: Sequence[PoolSlice],
    low: Sequence[PoolSlice],
    noise: PoolNoise | SyntheticNoise | None,
    patches: PatchDataset,
    neighbours: int,
) -> ValidationSet:
    count = VALIDATION_SLICES
    low = pool_slices(pools.validation_low) or low
    pairs = [
        (PoolSlice(pair.low, i), PoolSlice(pair.normal, j))
        for pair in pools.validation_pairs
        for i, j in pair.indices
    ]
    chosen = _spread(normal, count)
    stack = partial(_stack, neighbours=neighbours)
    return ValidationSet(
        low=tuple(stack(item) for item in _spread(low, count) if not isinstance(item.source, GreyImage)),
        normal=tuple(_stack(item, 0) for item in chosen),
        probes=tuple(_probe(item, noise, n, neighbours) for n, item in enumerate(chosen)) if noise else (),
        pairs=tuple((stack(a), _stack(b, 0)) for a, b in _spread(pairs, count)),
        scale=config.scale,
        picture=_picture(patches),
    )


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the items, evenly spread over all."""
    if len(items) <= count:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _stack(item: PoolSlice, neighbours: int) -> NDArray[np.float32]:
    """A slice with those beside it, as in use."""
    places = context_indices(item.source.geometry, item.index, neighbours)
    return np.stack([decode(PoolSlice(item.source, place)).hu for place in places])


def _probe(
    item: PoolSlice, noise: PoolNoise | SyntheticNoise, number: int, neighbours: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The middle of a slice, and noise of the pool's middle level to add to it; the same in every run."""
    hu = _stack(item, neighbours)
    rows, columns = hu.shape[1:]
    side = min(PROBE, rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    rng = np.random.default_rng(number)
    clean = hu[:, top : top + side, left : left + side]
    if isinstance(noise, SyntheticNoise):
        return clean, noise.probe_for(clean, rng)
    source, geometry = item.source, item.source.geometry
    places = context_indices(geometry, item.index, neighbours)
    drawn = noise.probe(source, side, rng, len(set(places)))

    def correlation(once: Sequence[int]) -> NDArray[np.float64]:
        return overlap_correlation(geometry.offsets_mm[once], slice_thickness_mm(source))

    drawn = drawn._replace(hu=sample_correlated_noise(lambda _: drawn.hu, places, correlation))
    return clean + drawn.in_target, drawn.added


def _picture(patches: PatchDataset) -> Batch | None:
    samples = [patches[number] for number in range(4)]
    images = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    if "low" not in images:
        return None
    return Batch(images["low"], images.get("normal"), None, torch.Generator().manual_seed(0))


def _summary(noise: PoolNoise | SyntheticNoise | None) -> list[dict[str, Any]]:
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
