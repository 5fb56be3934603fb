"""The low-dose pool made from the normal-dose one: simulated once, kept on disk, the same in every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
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
    """Pools whose low-dose series are simulated from the normal-dose ones, ``data.noise_realisations`` of each.

    Every scan has a dose of its own, drawn from ``data.simulated_dose``, and is the partner of the series that it
    was made from: trained on by paired methods, kept out of one draw by unpaired ones. Noise2Noise gets pairs of
    two scans. Real low-dose series of training patients are left out; held-out patients keep theirs, and get
    simulated ones where they have none.

    Parameters
    ----------
    pools : Pools
    config : Config
        With ``data.simulated_dose``.
    supervision : Supervision
        Of the method.
    cache_dir : Path
        Where the scans are kept.
    report : callable
        Told in a line what is made.

    Raises
    ------
    ConfigError
        If Noise2Noise has but one scan of each series.
    InputError
        If a series has no soft tissue to measure its noise in.
    """
    low, high = config.data.simulated_dose or (1.0, 1.0)
    scans = config.data.noise_realisations
    if supervision is Supervision.NOISE2NOISE and scans < 2:
        raise ConfigError("data.noise_realisations: noise2noise pairs two scans of each series; give 2 or more")

    def simulate(sources: Sequence[SliceSource], scan: int) -> list[SimulatedSeries]:
        return simulated_pool(sources, (low, high), config.training.seed * 1000 + scan, cache_dir)

    report(
        f"simulating {scans} x {len(pools.normal)} series at {low:g}-{high:g} of their dose; kept in {cache_dir}"
    )
    made = [simulate(pools.normal, scan) for scan in range(scans)]
    found = replace(
        pools, low=tuple(scan for scans_ in made for scan in scans_), pairs=_pairs(made, pools, supervision)
    )
    if pools.validation_low or not pools.validation_normal:
        return found
    held_out = simulate(pools.validation_normal, scans)
    pairs = tuple(_pair(a, b) for a, b in zip(held_out, pools.validation_normal, strict=True))
    return replace(found, validation_low=tuple(held_out), validation_pairs=pairs)


def _pairs(made: Sequence[Sequence[SimulatedSeries]], pools: Pools, supervision: Supervision) -> tuple[Pair, ...]:
    """Each scan with the series that it was made from, or for Noise2Noise with the next scan of it."""
    if supervision is Supervision.NOISE2NOISE:
        following = [*made[1:], made[0]]
        return tuple(
            _pair(a, b)
            for first, second in zip(made, following, strict=True)
            for a, b in zip(first, second, strict=True)
        )
    return tuple(_pair(a, b) for scan in made for a, b in zip(scan, pools.normal, strict=True))


def _pair(low: SimulatedSeries, normal: SliceSource) -> Pair:
    indices = tuple((index, index) for index in range(len(low)))
    return Pair(low.patient, low.metadata.kernel, low, normal, indices)
