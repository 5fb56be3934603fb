"""Dose equivalence: the dose at which unprocessed images reach the detectability of processed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.metrics.observers import Detectability

#: Largest fraction of bootstrap samples without an equivalent dose; with more, the 95 % interval is not defined.
MAX_UNDEFINED = 0.05
#: Rounding error that is allowed at the ends of the dose curve.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class DoseEquivalence:
    """Dose at which the unprocessed image has the same d′, with its 95 % interval.

    Parameters
    ----------
    dose : float
        Fraction of the full dose; NaN where d′ is not above 0 or the dose is outside the measured doses.
    low, high : float
        Limits of the interval; NaN where the limit cannot be determined or is outside the measured doses.
    """

    dose: float
    low: float
    high: float


def dose_equivalence(
    doses: Sequence[float], measured: Sequence[Detectability], ours: Detectability
) -> DoseEquivalence:
    """Dose at which the unprocessed image reaches the d′ of the processed one.

    A power law ``d′ = k·dose^b`` is fitted to the unprocessed images. The interval comes from the bootstrap
    samples of all images together. Nothing is extrapolated beyond the smallest and the largest measured dose.

    Parameters
    ----------
    doses : sequence of float
        At least two doses of unprocessed images, as fractions of the full dose.
    measured : sequence of Detectability
        d′ of the unprocessed images at those doses.
    ours : Detectability
        d′ of the processed image.

    Returns
    -------
    DoseEquivalence

    Raises
    ------
    InputError
        If d′ is given at fewer than two doses.
    """
    if len(doses) < 2 or len(doses) != len(measured):
        raise InputError("dose equivalence needs d′ of the unprocessed image at two doses or more")
    repeats = min(len(ours.samples), *(len(item.samples) for item in measured))
    curves = np.array([item.samples[:repeats] for item in measured])
    found = np.array([_dose_at(doses, curves[:, i], ours.samples[i]) for i in range(repeats)])
    dose = _dose_at(doses, [item.d_prime for item in measured], ours.d_prime)
    low = high = float("nan")
    if np.isnan(found).mean() <= MAX_UNDEFINED:
        low, high = np.nanquantile(found, [0.025, 0.975])
    return DoseEquivalence(*(_within(doses, value) for value in (dose, low, high)))


def _within(doses: Sequence[float], dose: float) -> float:
    """The dose, or NaN outside the measured doses."""
    is_inside = min(doses) * (1 - TOLERANCE) <= dose <= max(doses) * (1 + TOLERANCE)
    return float(dose) if is_inside else float("nan")


def _dose_at(doses: Sequence[float], d_primes: ArrayLike, target: float) -> float:
    """Dose of a d′ by the power law through the measured ones, not limited to the measured doses."""
    values: NDArray[np.float64] = np.asarray(d_primes, dtype=np.float64)
    if not target > 0 or not np.all(values > 0):
        return float("nan")
    slope, offset = np.polyfit(np.log(doses), np.log(values), 1)
    return float(np.exp((np.log(target) - offset) / slope)) if slope > 0 else float("nan")
