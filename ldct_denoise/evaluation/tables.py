"""Measurements as tables: means with intervals, paired differences, and their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ldct_denoise.metrics.statistics import Bootstrap

if TYPE_CHECKING:
    pass


PAIRED_METRICS = ("psnr", "ssim", "rmse")

Entry = dict[str, object]


class Measurement(NamedTuple):
    """One row of ``metrics.csv``."""

    series: str
    position_mm: float
    model: str
    window: str
    region: str
    metric: str
    value: float


class Key(NamedTuple):
    """What a mean is taken over: all slices of one model, window, region and metric."""

    model: str
    window: str
    region: str
    metric: str


def finite(value: float) -> float | None:
    """JSON has no infinity: PSNR of equal images becomes null."""
    return float(value) if np.isfinite(value) else None


def summarise(rows: Iterable[Measurement], patients: Mapping[str, str]) -> list[Entry]:
    """One entry for every model × window × region × metric.

    ``mean``, ``std`` (population) and ``n`` are over all slices (pooled), with the 95 % bootstrap interval
    ``pooled_ci95_low``…``pooled_ci95_high``; ``patient_mean`` gives every patient the same weight and has the 95 %
    bootstrap interval ``ci95_low``…``ci95_high`` over slices within patients.
    """
    bootstraps: dict[tuple[str, ...], Bootstrap] = {}
    entries: list[Entry] = []
    for key, measured in _by_key(rows).items():
        who = tuple(patients.get(series, series) for series, _ in measured)
        values = np.array([value for _, value in measured])
        by_patient, pooled = (_bootstrap(bootstraps, group) for group in (who, ("all",) * len(who)))
        interval, over_all = by_patient.interval(values), pooled.interval(values)
        with np.errstate(invalid="ignore"):
            spread = float(np.std(values))
        entries.append(
            {
                **key._asdict(),
                "mean": finite(over_all.mean),
                "std": finite(spread),
                "n": len(values),
                "pooled_ci95_low": finite(over_all.low),
                "pooled_ci95_high": finite(over_all.high),
                "patients": by_patient.n_patients,
                "patient_mean": finite(interval.mean),
                "ci95_low": finite(interval.low),
                "ci95_high": finite(interval.high),
            }
        )
    return entries


def summarise_patients(rows: Iterable[Measurement], patients: Mapping[str, str]) -> list[Entry]:
    """One entry for every patient × model × window × region × metric: mean, 95 % interval over slices, n."""
    bootstraps: dict[tuple[str, ...], Bootstrap] = {}
    entries: list[Entry] = []
    for key, measured in _by_key(rows).items():
        groups: dict[str, list[float]] = {}
        for series, value in measured:
            groups.setdefault(patients.get(series, series), []).append(value)
        for patient, values in groups.items():
            interval = _bootstrap(bootstraps, ("all",) * len(values)).interval(values)
            numbers = {"mean": interval.mean, "ci95_low": interval.low, "ci95_high": interval.high}
            entries.append(
                {
                    "patient": patient,
                    **key._asdict(),
                    "n": len(values),
                    **{k: finite(v) for k, v in numbers.items()},
                }
            )
    return entries


def paired_statistics(
    rows: Iterable[Measurement],
    patients: Mapping[str, str],
    models: Sequence[str],
    metrics: Sequence[str] = PAIRED_METRICS,
) -> list[Entry]:
    """Every model against every earlier one, on the slices that both have.

    Mean difference (patients weigh alike), its 95 % bootstrap interval over slices within patients, and Wilcoxon's
    two-sided p, for some metrics in every window and region. ``n`` slices have a finite difference; the others,
    ``infinite``, were left out.
    """
    table: dict[Key, dict[tuple[str, float], float]] = {}
    for row in rows:
        if row.metric in metrics:
            table.setdefault(Key(*row[2:6]), {})[row.series, row.position_mm] = row.value
    places = dict.fromkeys(key[1:] for key in table)
    entries: list[Entry] = []
    for second, first in combinations(models, 2):
        for place in places:
            ours, theirs = table.get(Key(first, *place), {}), table.get(Key(second, *place), {})
            shared = sorted(ours.keys() & theirs.keys())
            if not shared:
                continue
            bootstrap = Bootstrap([patients[series] for series, _ in shared])
            result = bootstrap.paired([ours[key] for key in shared], [theirs[key] for key in shared])
            window, region, metric = place
            entries.append(
                {
                    "model": first,
                    "against": second,
                    "window": window,
                    "region": region,
                    "metric": metric,
                    **{f"difference_{k}": finite(v) for k, v in asdict(result.difference).items()},
                    "wilcoxon_p": result.p_value,
                    "unit": result.unit,
                    "n": result.n_slices,
                    "infinite": result.n_infinite,
                    "patients": result.n_patients,
                }
            )
    return entries


def numbered(patients: Mapping[str, str], include_patient_ids: bool) -> dict[str, str]:
    """What each patient is called in files that go elsewhere: ``patient 1``, ``patient 2``, …, or the name."""
    names = dict.fromkeys(patients.values())
    return {
        name: name if include_patient_ids else f"patient {number}" for number, name in enumerate(names, start=1)
    }


def _by_key(rows: Iterable[Measurement]) -> dict[Key, list[tuple[str, float]]]:
    table: dict[Key, list[tuple[str, float]]] = {}
    for row in rows:
        table.setdefault(Key(*row[2:6]), []).append((row.series, row.value))
    return table


def _bootstrap(made: dict[tuple[str, ...], Bootstrap], groups: tuple[str, ...]) -> Bootstrap:
    """The weights for these groups, drawn once."""
    if groups not in made:
        made[groups] = Bootstrap(groups)
    return made[groups]
