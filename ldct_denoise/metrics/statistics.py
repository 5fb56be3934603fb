"""Means, intervals and paired tests with equal weight of patients.

Slices of one patient are not independent, and they say nothing about the next patient. An interval therefore comes
from the highest level that can carry it:

* three patients or more: from the spread of the patients' means, which already holds the spread of their slices
  (Davison & Hinkley 1997, section 3.8). It describes patients like the measured ones: Student's t below twenty
  patients, the BCa bootstrap of patients from twenty on.
* one or two patients: from blocks of contiguous slices, with Student's t. It describes the measured patients only.
  There is none if the slices are too few for their correlation.

References
----------
Efron, "Better bootstrap confidence intervals", JASA 82, 1987 (BCa).
Davison & Hinkley, "Bootstrap methods and their application", 1997.
Kendall, "Note on bias in the estimation of autocorrelation", Biometrika 41, 1954.
Cohen, "Weighted kappa", Psychological Bulletin 70, 1968.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOOTSTRAP_REPEATS = 2000
#: Fewest patients for an interval that describes patients in general, and for the BCa bootstrap.
MIN_PATIENTS_FOR_INTERVAL, MIN_PATIENTS_FOR_BCA = 3, 20
#: With fewer patients a two-sided signed-rank test cannot reach p < 0.05.
MIN_PATIENTS_FOR_TEST = 6
#: Fewest slices of a patient for an interval from blocks: with fewer the correlation is not known well enough.
MIN_SLICES_FOR_BLOCKS = 30
#: Fewest and most blocks of a patient.
BLOCKS = (5, 8)
#: A block is at least this many times the correlation length of the slices.
BLOCK_CORRELATION_LENGTHS = 2.0


@dataclass(frozen=True)
class Interval:
    """Mean with equal weight of patients, and its 95 % confidence interval.

    Parameters
    ----------
    mean : float
    low, high : float
        Limits of the interval; NaN where the data do not carry one.
    describes : str
        ``patients`` if the interval is one for the mean of patients in general, ``these patients`` if it describes
        only the one or two measured patients, empty if there is no interval.
    """

    mean: float
    low: float
    high: float
    describes: str = ""


@dataclass(frozen=True)
class PairedResult:
    """Paired mean difference with its interval, and Wilcoxon's signed-rank test of the patients' means.

    Parameters
    ----------
    difference : Interval
        First − second.
    p_value : float or None
        Two-sided; 1 if all differences are 0, None with fewer than six patients.
    n_slices, n_patients : int
        Number of slices and patients with a finite difference.
    n_infinite : int
        Number of slices left out because a value is infinite, such as the PSNR of equal images.
    """

    difference: Interval
    p_value: float | None
    n_slices: int
    n_patients: int
    n_infinite: int = 0


class PatientStatistics:
    """Statistics of values measured slice by slice, grouped by patient.

    Parameters
    ----------
    patients : sequence of str, length n
        The patient of each slice. The slices of a patient are in their order along the patient.
    seed : int
        Seed of the bootstrap.
    """

    def __init__(self, patients: Sequence[str], seed: int = 0) -> None:
        self._patients, self._seed = np.asarray(patients, dtype=str), seed
        names, group = np.unique(self._patients, return_inverse=True)
        self.n_patients = len(names)
        self._members = [np.flatnonzero(group == number) for number in range(len(names))]

    def patient_means(self, values: ArrayLike) -> NDArray[np.float64]:
        """Mean over each patient's slices, shape (patients,); ``values`` has shape (n,)."""
        values = np.asarray(values, dtype=np.float64)
        return np.array([values[members].mean() for members in self._members])

    def interval(self, values: ArrayLike) -> Interval:
        """Mean of the patients' means, and its 95 % interval; ``values`` has shape (n,)."""
        values = np.asarray(values, dtype=np.float64)
        means = self.patient_means(values)
        mean, none = float(means.mean()), float("nan")
        if not np.isfinite(values).all():  # the PSNR of equal images is infinite
            return Interval(mean, none, none)
        if self.n_patients >= MIN_PATIENTS_FOR_BCA:
            return Interval(mean, *_bca_interval(means, self._seed), "patients")
        if self.n_patients >= MIN_PATIENTS_FOR_INTERVAL:
            error = float(means.std(ddof=1)) / np.sqrt(len(means))
            return Interval(mean, *_t_interval(mean, error, len(means) - 1), "patients")
        parts = [_mean_error(values[members]) for members in self._members]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            return Interval(mean, none, none)
        variances = np.array([error**2 for error, _ in found]) / len(parts) ** 2
        freedom = np.array([freedom for _, freedom in found])
        total = float(variances.sum())
        # Welch's and Satterthwaite's degrees of freedom.
        combined = total**2 / float(np.sum(variances**2 / freedom)) if total else float(freedom.min())
        return Interval(mean, *_t_interval(mean, np.sqrt(total), combined), "these patients")

    def paired(self, first: ArrayLike, second: ArrayLike) -> PairedResult:
        """Paired difference ``first − second`` of two metrics of shape (n,), on slices where it is finite."""
        from scipy.stats import wilcoxon

        with np.errstate(invalid="ignore"):
            difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
        known = np.isfinite(difference)
        if not known.all():
            return self._paired_where(known, difference)
        p_value, means = None, self.patient_means(difference)
        if self.n_patients >= MIN_PATIENTS_FOR_TEST:
            p_value = float(wilcoxon(means).pvalue) if np.any(means != 0) else 1.0
        return PairedResult(self.interval(difference), p_value, len(difference), self.n_patients)

    def _paired_where(self, known: NDArray[np.bool_], difference: NDArray[np.float64]) -> PairedResult:
        """Leave out infinite slices, so that one of them does not spoil the result of the others."""
        left_out = int(np.sum(~known))
        if not known.any():
            return PairedResult(Interval(np.nan, np.nan, np.nan), None, 0, 0, left_out)
        part = PatientStatistics(list(self._patients[known]), self._seed)
        return replace(part.paired(difference[known], np.zeros(known.sum())), n_infinite=left_out)


def small_sample_spread(count: int) -> float:
    """Factor by which bootstrap samples of ``count`` units are spread so that their percentiles cover.

    ``√(n/(n−1))·t₀.₉₇₅,ₙ₋₁/z₀.₉₇₅``: 1.12 for 16 units, 1.59 for 4.

    References
    ----------
    Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69, 2015.
    """
    from scipy.stats import norm, t

    return float(np.sqrt(count / (count - 1)) * t.ppf(0.975, count - 1) / norm.ppf(0.975))


def weighted_kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Agreement of two readers beyond chance: Cohen's kappa with quadratic weights (Cohen 1968, eq. 12).

    Parameters
    ----------
    first, second : sequence of numbers, length n
        Scores of the same readings, on one scale with equal steps.

    Returns
    -------
    float
        1: equal scores; 0: as by chance; negative: less than by chance. NaN if both always give one same score.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    expected = float(np.mean((one[:, None] - other[None, :]) ** 2))
    if not expected:
        return float("nan")
    return 1 - float(np.mean((one - other) ** 2)) / expected


def _mean_error(values: NDArray[np.float64]) -> tuple[float, int] | None:
    """Standard error of the mean of one patient's slices and its degrees of freedom; None if not known.

    The slices are cut into blocks of at least twice the correlation length, of which five are needed. The
    correlation length is that of a first-order autoregression, (1 + r)/(1 − r), at the upper limit (one standard
    error) of the autocorrelation r after Kendall's correction of its bias.
    """
    count = len(values)
    if count < MIN_SLICES_FOR_BLOCKS:
        return None
    deviation = values - values.mean()
    square = float(np.sum(deviation**2))
    if square <= 1e-24 * float(np.sum(values**2)):  # rounding alone
        return 0.0, count - 1
    r = float(np.sum(deviation[1:] * deviation[:-1])) / square
    r += (1 + 4 * r) / count
    r = float(np.clip(r + np.sqrt(max(1 - r**2, 0.05) / count), 0, 0.98))
    length = max(int(np.ceil(BLOCK_CORRELATION_LENGTHS * (1 + r) / (1 - r))), count // BLOCKS[1])
    blocks = count // length
    if blocks < BLOCKS[0]:
        return None
    parts = np.array_split(deviation, blocks)
    variance = sum(len(part) * part.mean() ** 2 for part in parts) / ((blocks - 1) * count)
    return float(np.sqrt(variance)), blocks - 1


def _t_interval(mean: float, error: float, freedom: float) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf(0.975, freedom)) * error
    return mean - half, mean + half


def _bca_interval(means: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % BCa bootstrap interval of the mean (Efron 1987, eqs. 2.3 and 6.6)."""
    from scipy.stats import norm

    count, mean = len(means), means.mean()
    deviation = means - mean
    if not np.any(deviation):
        return float(mean), float(mean)
    draws = np.random.default_rng(seed).integers(0, count, (BOOTSTRAP_REPEATS, count))
    sample = means[draws].mean(axis=1)
    below = (np.sum(sample < mean) + 0.5 * np.sum(sample == mean)) / len(sample)
    shift = norm.ppf(np.clip(below, 0.01, 0.99))
    acceleration = np.sum(deviation**3) / (6 * np.sum(deviation**2) ** 1.5)
    quantile = shift + norm.ppf([0.025, 0.975])
    low, high = np.quantile(sample, norm.cdf(shift + quantile / (1 - acceleration * quantile)))
    return float(low), float(high)
