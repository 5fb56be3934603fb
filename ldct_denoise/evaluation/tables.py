"""Tables of measurements: means with intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ldct_denoise.metrics.statistics import PatientStatistics

PAIRED_METRICS = ("psnr", "ssim", "rmse")

#: A JSON object of ``summary.json``.
Entry = dict[str, object]


class Measurement(NamedTuple):
    """One row of ``metrics.csv``.

    Parameters
    ----------
    series : str
        UID of the measured series.
    position_mm : float
        Position of the slice along the slice normal.
    model : str
        ``input``, ``candidate``, ``reference`` or the name of a model.
    window, region, metric : str
        Names of the window, the region and the metric.
    value : float
    """

    series: str
    position_mm: float
    model: str
    window: str
    region: str
    metric: str
    value: float


class MetricKey(NamedTuple):
    """The columns that identify a mean over the slices.

    Parameters
    ----------
    model, window, region, metric : str
        As in :class:`Measurement`.
    """

    model: str
    window: str
    region: str
    metric: str


def finite_or_none(value: float) -> float | None:
    """The value, or None if it is infinite or NaN: JSON has no number for those."""
    return float(value) if np.isfinite(value) else None


def summarise(rows: Iterable[Measurement], patients: Mapping[str, str]) -> list[Entry]:
    """Mean, spread and interval of every model × window × region × metric.

    Parameters
    ----------
    rows : iterable of Measurement
    patients : mapping from series to patient

    Returns
    -------
    list of dict
        ``mean``, ``std`` (population) and ``n`` over all slices (pooled). ``patient_mean`` gives every patient the
        same weight and has the 95 % interval ``ci95_low``…``ci95_high``; ``ci95_describes`` says whether that
        describes patients in general or only the measured ones. Values that are not finite or not known are None.
    """
    statistics: dict[tuple[str, ...], PatientStatistics] = {}
    entries: list[Entry] = []
    for key, measured in _by_key(rows).items():
        groups = tuple(patients.get(series, series) for series, _ in measured)
        values = np.array([value for _, value in measured])
        by_patient = _statistics(statistics, groups)
        interval = by_patient.interval(values)
        with np.errstate(invalid="ignore"):
            mean, spread = float(np.mean(values)), float(np.std(values))
        entries.append(
            {
                **key._asdict(),
                "mean": finite_or_none(mean),
                "std": finite_or_none(spread),
                "n": len(values),
                "patients": by_patient.n_patients,
                "patient_mean": finite_or_none(interval.mean),
                "ci95_low": finite_or_none(interval.low),
                "ci95_high": finite_or_none(interval.high),
                "ci95_describes": interval.describes or None,
            }
        )
    return entries


def summarise_patients(rows: Iterable[Measurement], patients: Mapping[str, str]) -> list[Entry]:
    """Mean of every patient × model × window × region × metric.

    Parameters
    ----------
    rows : iterable of Measurement
    patients : mapping from series to patient

    Returns
    -------
    list of dict
        ``mean``, the 95 % interval ``ci95_low``…``ci95_high`` of this patient's mean (None if the slices are too
        few for their correlation), and ``n`` slices.
    """
    statistics: dict[tuple[str, ...], PatientStatistics] = {}
    entries: list[Entry] = []
    for key, measured in _by_key(rows).items():
        groups: dict[str, list[float]] = {}
        for series, value in measured:
            groups.setdefault(patients.get(series, series), []).append(value)
        for patient, values in groups.items():
            interval = _statistics(statistics, ("all",) * len(values)).interval(values)
            numbers = {"mean": interval.mean, "ci95_low": interval.low, "ci95_high": interval.high}
            entries.append(
                {
                    "patient": patient,
                    **key._asdict(),
                    "n": len(values),
                    **{name: finite_or_none(value) for name, value in numbers.items()},
                }
            )
    return entries


def paired_statistics(
    rows: Iterable[Measurement],
    patients: Mapping[str, str],
    models: Sequence[str],
    metrics: Sequence[str] = PAIRED_METRICS,
) -> list[Entry]:
    """Paired difference of every two models, on the slices that both have.

    Parameters
    ----------
    rows : iterable of Measurement
    patients : mapping from series to patient
    models : sequence of str
        Every model is compared with each earlier one.
    metrics : sequence of str

    Returns
    -------
    list of dict
        For each window, region and metric: mean difference ``model`` − ``against`` with equal weight of patients,
        its 95 % interval and whom that describes (None where the data do not carry one), and the two-sided p of
        Wilcoxon's signed-rank test of the patients' means (None below six patients). ``n`` slices have a finite
        difference; the other ``infinite`` slices are left out.
    """
    table: dict[MetricKey, dict[tuple[str, float], float]] = {}
    for row in rows:
        if row.metric in metrics:
            table.setdefault(MetricKey(*row[2:6]), {})[row.series, row.position_mm] = row.value
    measured = dict.fromkeys(key[1:] for key in table)
    entries: list[Entry] = []
    for second, first in combinations(models, 2):
        for window, region, metric in measured:
            ours, theirs = (table.get(MetricKey(model, window, region, metric), {}) for model in (first, second))
            shared = sorted(ours.keys() & theirs.keys())
            if not shared:
                continue
            statistics = PatientStatistics([patients[series] for series, _ in shared])
            result = statistics.paired([ours[key] for key in shared], [theirs[key] for key in shared])
            entries.append(
                {
                    "model": first,
                    "against": second,
                    "window": window,
                    "region": region,
                    "metric": metric,
                    "difference_mean": finite_or_none(result.difference.mean),
                    "difference_low": finite_or_none(result.difference.low),
                    "difference_high": finite_or_none(result.difference.high),
                    "interval_describes": result.difference.describes or None,
                    "wilcoxon_p": result.p_value,
                    "n": result.n_slices,
                    "infinite": result.n_infinite,
                    "patients": result.n_patients,
                }
            )
    return entries


def pseudonyms(patients: Mapping[str, str], include_patient_ids: bool) -> dict[str, str]:
    """Names of the patients in reports: ``patient 1``, ``patient 2``, …, or their IDs if asked for.

    Parameters
    ----------
    patients : mapping from series to patient
    include_patient_ids : bool

    Returns
    -------
    dict from patient to name
    """
    ids = dict.fromkeys(patients.values())
    return {name: name if include_patient_ids else f"patient {number}" for number, name in enumerate(ids, start=1)}


def _by_key(rows: Iterable[Measurement]) -> dict[MetricKey, list[tuple[str, float]]]:
    table: dict[MetricKey, list[tuple[str, float]]] = {}
    for row in rows:
        table.setdefault(MetricKey(*row[2:6]), []).append((row.series, row.value))
    return table


def _statistics(cache: dict[tuple[str, ...], PatientStatistics], groups: tuple[str, ...]) -> PatientStatistics:
    """Statistics of these groups, sorted out once and reused."""
    if groups not in cache:
        cache[groups] = PatientStatistics(groups)
    return cache[groups]
