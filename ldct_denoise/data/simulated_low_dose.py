"""A low-dose pool simulated from the normal-dose pool: once, kept on disk, equal in every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from ldct_denoise.config import Config
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.methods import Supervision
from ldct_denoise.physics.simulated_cache import SimulatedSeries, simulated_pool
from ldct_denoise.volume import SliceSource


def with_simulated_low(
    pools: Pools, config: Config, supervision: Supervision, cache_dir: Path, report: Callable[[str], None]
) -> Pools:
    """Replace the low-dose pool by scans simulated from the normal-dose pool.

    Each of the ``data.noise_realisations`` scans of a series has its own dose, drawn from ``data.simulated_dose``,
    and its own noise. It is paired with the series: supervised methods are trained on such pairs, unpaired methods
    never draw them together, and Noise2Noise is trained on pairs of two scans. Validation patients keep their
    low-dose series; where they have none, one is simulated.

    Parameters
    ----------
    pools : Pools
        Pools of the run.
    config : Config
        ``data.simulated_dose``, ``data.noise_realisations`` and the seed.
    supervision : Supervision
        Kind of images that the method is trained on.
    cache_dir : Path
        Folder that keeps the scans.
    report : callable
        Receives a line about what is simulated, and each warning about a series once.

    Raises
    ------
    ConfigError
        If Noise2Noise has a single scan of each series.
    InputError
        If a series has no soft tissue in which its noise can be measured.
    """
    low, high = config.data.simulated_dose or (1.0, 1.0)
    scans = config.data.noise_realisations
    if supervision is Supervision.NOISE2NOISE and scans < 2:
        raise ConfigError("data.noise_realisations: noise2noise pairs two scans of each series; give 2 or more")

    warned: set[str] = set()

    def warn(warning: str) -> None:
        if warning not in warned:
            warned.add(warning)
            report(warning)

    def simulate(sources: Sequence[SliceSource], number: int) -> list[SimulatedSeries]:
        return simulated_pool(sources, (low, high), config.training.seed * 1000 + number, cache_dir, notify=warn)

    report(
        f"simulating {scans} x {len(pools.normal)} series at {low:g}-{high:g} of their dose; kept in {cache_dir}"
    )
    simulated = [simulate(pools.normal, number) for number in range(scans)]
    found = replace(pools, low=tuple(chain.from_iterable(simulated)), pairs=_pairs(simulated, pools, supervision))
    if pools.validation_low or not pools.validation_normal:
        return found
    validation = simulate(pools.validation_normal, scans)
    pairs = tuple(_pair(a, b) for a, b in zip(validation, pools.validation_normal, strict=True))
    return replace(found, validation_low=tuple(validation), validation_pairs=pairs)


def _pairs(
    simulated: Sequence[Sequence[SimulatedSeries]], pools: Pools, supervision: Supervision
) -> tuple[Pair, ...]:
    """Pair each scan with its normal-dose series, or for Noise2Noise with the next scan of that series."""
    if supervision is Supervision.NOISE2NOISE:
        following: Sequence[Sequence[SliceSource]] = [*simulated[1:], simulated[0]]
    else:
        following = [pools.normal] * len(simulated)
    return tuple(
        _pair(scan, target)
        for scans, targets in zip(simulated, following, strict=True)
        for scan, target in zip(scans, targets, strict=True)
    )


def _pair(low: SimulatedSeries, normal: SliceSource) -> Pair:
    indices = tuple((index, index) for index in range(len(low)))
    return Pair(low.patient, low.metadata.kernel, low, normal, indices)
