"""Means, intervals and paired tests in which patients weigh alike.

Slices of one patient are not independent: the mean is the mean of the patients' means, and the bootstrap draws
slices within each patient (Efron & Tibshirani 1993, ch. 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOOTSTRAP_REPEATS = 2000
MIN_PATIENTS_FOR_TEST = 6  # fewer patients cannot reach p < 0.05 in a two-sided signed-rank test


@dataclass(frozen=True)
class Interval:
    """A mean with patients weighing alike, and its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedResult:
    """A paired mean difference with its interval and Wilcoxon's signed-rank test.

    Parameters
    ----------
    difference : Interval
        First − second.
    p_value : float or None
        Two-sided; 1 where all differences are 0, None where there is no difference to test.
    unit : str
        What the test counted as one observation: ``patient`` from six patients on, ``slice`` below, where p is
        too small because slices of a patient depend on each other.
    n_slices, n_patients : int
        That the numbers rest on.
    n_infinite : int
        Slices left out because a value is infinite, as the PSNR of equal images is.
    """

    difference: Interval
    p_value: float | None
    unit: str
    n_slices: int
    n_patients: int
    n_infinite: int = 0


class Bootstrap:
    """Bootstrap weights of slices within patients; made once, used for every metric of the same slices.

    Parameters
    ----------
    patients : sequence of str, length n
        The patient of each slice.
    seed : int
    repeats : int
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
        """Mean of each patient's slices, shape (patients,)."""
        values = np.asarray(values, dtype=np.float64)
        return np.array([values[self._group == number].mean() for number in range(self.n_patients)])

    def interval(self, values: ArrayLike) -> Interval:
        """The mean of the patients' means and where 95 % of the resampled ones lie."""
        values = np.asarray(values, dtype=np.float64)
        if not np.isfinite(values).all():  # an infinite PSNR of equal images
            mean = float(values.mean())
            return Interval(mean, mean, mean)
        low, high = np.quantile(self._weights @ values, [0.025, 0.975])
        return Interval(float(self._mean_weights @ values), float(low), float(high))

    def paired(self, first: ArrayLike, second: ArrayLike) -> PairedResult:
        """First − second, slice by slice, on the slices where both are finite."""
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
        """One infinite slice must not take the others' result away."""
        left_out = int(np.sum(~known))
        if not known.any():
            return PairedResult(Interval(np.nan, np.nan, np.nan), None, "slice", 0, 0, left_out)
        part = Bootstrap(list(self._patients[known]), self._seed, len(self._weights))
        return replace(part.paired(difference[known], np.zeros(known.sum())), n_infinite=left_out)
