"""Means, intervals and paired tests with equal weight of patients.

Slices of one patient are not independent: the mean is the mean of the patients' means, and the bootstrap resamples
slices within each patient.

References
----------
Efron & Tibshirani, "An introduction to the bootstrap", 1993, ch. 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOOTSTRAP_REPEATS = 2000
#: With fewer patients a two-sided signed-rank test cannot reach p < 0.05.
MIN_PATIENTS_FOR_TEST = 6


@dataclass(frozen=True)
class Interval:
    """Mean with equal weight of patients, and its 95 % percentile bootstrap interval.

    Parameters
    ----------
    mean : float
    low, high : float
        Limits of the interval.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedResult:
    """Paired mean difference with its interval, and Wilcoxon's signed-rank test.

    Parameters
    ----------
    difference : Interval
        First − second.
    p_value : float or None
        Two-sided; 1 if all differences are 0, None if no difference is finite.
    unit : str
        Observations of the test: ``patient`` with six patients or more, otherwise ``slice``. Slice-level p-values
        are over-optimistic, because slices of a patient are correlated.
    n_slices, n_patients : int
        Number of slices and patients with a finite difference.
    n_infinite : int
        Number of slices left out because a value is infinite, such as the PSNR of equal images.
    """

    difference: Interval
    p_value: float | None
    unit: str
    n_slices: int
    n_patients: int
    n_infinite: int = 0


class Bootstrap:
    """Bootstrap of slices within patients; the weights are drawn once and used for every metric.

    Parameters
    ----------
    patients : sequence of str, length n
        The patient of each slice.
    seed : int
    repeats : int
        Number of bootstrap samples.
    """

    def __init__(self, patients: Sequence[str], seed: int = 0, repeats: int = BOOTSTRAP_REPEATS) -> None:
        rng = np.random.default_rng(seed)
        self._patients, self._seed = np.asarray(patients, dtype=str), seed
        names, group = np.unique(self._patients, return_inverse=True)
        self.n_patients, self._group = len(names), group
        self._weights = np.empty((repeats, len(group)))
        self._mean_weights = np.empty(len(group))
        for number in range(len(names)):
            members = np.flatnonzero(group == number)
            count = len(members)
            draws = rng.multinomial(count, np.full(count, 1 / count), size=repeats)
            self._weights[:, members] = draws / (count * len(names))
            self._mean_weights[members] = 1 / (count * len(names))

    def patient_means(self, values: ArrayLike) -> NDArray[np.float64]:
        """Mean over each patient's slices, shape (patients,); ``values`` has shape (n,)."""
        values = np.asarray(values, dtype=np.float64)
        return np.array([values[self._group == number].mean() for number in range(self.n_patients)])

    def interval(self, values: ArrayLike) -> Interval:
        """Mean of the patients' means, and its 95 % percentile interval; ``values`` has shape (n,)."""
        values = np.asarray(values, dtype=np.float64)
        if not np.isfinite(values).all():  # the PSNR of equal images is infinite
            mean = float(values.mean())
            return Interval(mean, mean, mean)
        low, high = np.quantile(self._weights @ values, [0.025, 0.975])
        return Interval(float(self._mean_weights @ values), float(low), float(high))

    def paired(self, first: ArrayLike, second: ArrayLike) -> PairedResult:
        """Paired difference ``first − second`` of two metrics of shape (n,), on slices where it is finite."""
        from scipy.stats import wilcoxon

        with np.errstate(invalid="ignore"):
            difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
        known = np.isfinite(difference)
        if not known.all():
            return self._paired_where(known, difference)
        by_patient = self.n_patients >= MIN_PATIENTS_FOR_TEST
        observed = self.patient_means(difference) if by_patient else difference
        p_value = float(wilcoxon(observed).pvalue) if np.any(observed != 0) else 1.0
        unit = "patient" if by_patient else "slice"
        return PairedResult(self.interval(difference), p_value, unit, len(difference), self.n_patients)

    def _paired_where(self, known: NDArray[np.bool_], difference: NDArray[np.float64]) -> PairedResult:
        """Leave out infinite slices, so that one of them does not spoil the result of the others."""
        left_out = int(np.sum(~known))
        if not known.any():
            return PairedResult(Interval(np.nan, np.nan, np.nan), None, "slice", 0, 0, left_out)
        part = Bootstrap(list(self._patients[known]), self._seed, len(self._weights))
        return replace(part.paired(difference[known], np.zeros(known.sum())), n_infinite=left_out)
