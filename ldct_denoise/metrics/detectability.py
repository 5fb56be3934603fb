"""Detectability d′ of a low-contrast lesion by model observers, and dose equivalence.

``d′`` is the distance between the means of the observer's responses with and without the lesion, in standard
deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ldct_denoise.errors import InputError
from ldct_denoise.metrics.noise import NoisePowerSpectrum
from ldct_denoise.metrics.sharpness import TaskTransfer

Stack = NDArray[np.floating]

#: Largest fraction of bootstrap samples without an equivalent dose; with more, the 95 % interval is not defined.
MAX_UNDEFINED = 0.05


@dataclass(frozen=True)
class Detectability:
    """Detectability index with its 95 % bootstrap interval.

    Parameters
    ----------
    d_prime : float
        Dimensionless.
    low, high : float
        Limits of the interval.
    samples : ndarray, shape (n,)
        Bootstrap samples of d′.
    """

    d_prime: float
    low: float
    high: float
    samples: NDArray[np.float64]


@dataclass(frozen=True)
class DoseEquivalence:
    """Dose at which the unprocessed image has the same d′, with its 95 % interval.

    Parameters
    ----------
    dose : float
        Fraction of the full dose; NaN where it cannot be determined.
    low, high : float
        Limits of the interval; NaN where it cannot be determined.
    """

    dose: float
    low: float
    high: float


def disk_task(frequency: ArrayLike, diameter_mm: float, contrast_hu: float) -> NDArray[np.float64]:
    """Fourier transform of a uniform disk: ``C·π·r²·2·J₁(2πrf)/(2πrf)``.

    Parameters
    ----------
    frequency : array_like
        1/mm.
    diameter_mm : float
    contrast_hu : float

    Returns
    -------
    ndarray
        HU·mm².
    """
    argument = np.pi * diameter_mm * np.asarray(frequency, dtype=np.float64)
    safe = np.where(argument == 0, 1.0, argument)
    shape = np.where(argument == 0, 1.0, 2 * special.j1(safe) / safe)
    return contrast_hu * np.pi * (diameter_mm / 2) ** 2 * shape


def gaussian_task(frequency: ArrayLike, sigma_mm: float, contrast_hu: float) -> NDArray[np.float64]:
    """Fourier transform of a Gaussian lesion: ``C·2πσ²·exp(−2π²σ²f²)``.

    Parameters
    ----------
    frequency : array_like
        1/mm.
    sigma_mm : float
    contrast_hu : float

    Returns
    -------
    ndarray
        HU·mm².
    """
    frequency = np.asarray(frequency, dtype=np.float64)
    exponent = -2 * (np.pi * sigma_mm * frequency) ** 2
    return np.asarray(contrast_hu * 2 * np.pi * sigma_mm**2 * np.exp(exponent))


def eye_filter(
    frequency: ArrayLike, *, viewing_distance_mm: float = 475.0, magnification: float = 1.0
) -> NDArray[np.float64]:
    """Visual response function of the eye: ``|ρ^1.5·exp(−0.98·ρ^0.68)|²`` with ρ in cycles per degree.

    Parameters
    ----------
    frequency : array_like
        1/mm in the patient.
    viewing_distance_mm : float
    magnification : float
        Size on the display over size in the patient.

    Returns
    -------
    ndarray
        Dimensionless.

    References
    ----------
    Saunders & Samei, "Resolution and noise measurements of five CRT and LCD medical displays", Med. Phys. 33,
    2006.
    """
    per_degree = np.asarray(frequency) / magnification * viewing_distance_mm * np.pi / 180
    response: NDArray[np.float64] = (per_degree**1.5 * np.exp(-0.98 * per_degree**0.68)) ** 2
    return response


def npw_detectability(
    nps: NoisePowerSpectrum, task: Stack, transfer: TaskTransfer | None = None, eye: Stack | None = None
) -> float:
    """d′ of the non-prewhitening observer (NPW), or with an eye filter (NPWE).

    ``d′² = [∫∫ |W|²·TTF²·E²]² / ∫∫ |W|²·TTF²·E⁴·NPS``, with E = 1 without an eye filter.

    Parameters
    ----------
    nps : NoisePowerSpectrum
        HU²·mm².
    task : ndarray, same shape as ``nps.power``
        Task function |W|, HU·mm², e.g. :func:`disk_task` at the :func:`radial_frequency` of ``nps``.
    transfer : TaskTransfer, optional
        TTF, measured at a contrast similar to the task's; 1 by default.
    eye : ndarray, same shape as ``nps.power``, optional
        Eye filter E, e.g. :func:`eye_filter`.

    Returns
    -------
    float
        0 for a task of contrast 0, infinite without noise.

    References
    ----------
    AAPM Report 233 (TG-233), detectability index of the non-prewhitening matched filter.
    """
    signal = np.asarray(task, dtype=np.float64) ** 2
    if transfer is not None:
        signal = signal * np.interp(radial_frequency(nps), transfer.frequency, transfer.value, right=0.0) ** 2
    weight = np.ones_like(signal) if eye is None else np.asarray(eye, dtype=np.float64) ** 2
    cell = np.diff(nps.row_frequency[:2])[0] * np.diff(nps.column_frequency[:2])[0]
    top = (np.sum(signal * weight) * cell) ** 2
    bottom = np.sum(signal * weight**2 * nps.power) * cell
    if top == 0:
        return 0.0
    return float(np.sqrt(top / bottom)) if bottom > 0 else float("inf")


def radial_frequency(nps: NoisePowerSpectrum) -> NDArray[np.float64]:
    """Distance of every cell of a spectrum from the zero frequency, 1/mm."""
    return np.hypot(nps.row_frequency[:, None], nps.column_frequency[None, :])


def laguerre_gauss_channels(size: int, width_px: float, count: int = 6) -> NDArray[np.float64]:
    """Laguerre–Gauss channels ``√2/a·exp(−πr²/a²)·L_j(2πr²/a²)``, complete for rotationally symmetric lesions.

    With a = √(2π)·σ the first channel is a Gaussian lesion of σ pixels.

    Parameters
    ----------
    size : int
        Side of the region, pixels.
    width_px : float
        Width a, pixels.
    count : int
        Number of channels.

    Returns
    -------
    ndarray, shape (size², count)

    References
    ----------
    Gallas & Barrett, "Validating the use of channels to estimate the ideal linear observer", JOSA A 20, 2003.
    """
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    square = (rows**2 + columns**2) / width_px**2
    channels = [
        np.sqrt(2) / width_px * np.exp(-np.pi * square) * special.eval_laguerre(order, 2 * np.pi * square)
        for order in range(count)
    ]
    return np.stack([channel.ravel() for channel in channels], axis=1)


def hotelling_detectability(
    present: Stack, absent: Stack, channels: NDArray[np.float64], *, seed: int = 0, repeats: int = 500
) -> Detectability:
    """d′ of the channelised Hotelling observer (CHO), leave-one-out.

    ``d′ = (mean₁ − mean₀) / √((var₁ + var₀)/2)`` of the scores. Every image is scored by a template trained on all
    others, so that the observer cannot learn the noise it is tested on; otherwise d′ of small samples is too high.

    Parameters
    ----------
    present, absent : ndarray, shape (n, size, size)
        Independent regions with and without the lesion in their centre.
    channels : ndarray, shape (size², count)
        See :func:`laguerre_gauss_channels`.
    seed : int
        Seed of the bootstrap over images.
    repeats : int
        Number of bootstrap samples.

    Returns
    -------
    Detectability

    Raises
    ------
    InputError
        If there are too few images for the number of channels.

    References
    ----------
    Gallas & Barrett, "Validating the use of channels to estimate the ideal linear observer", JOSA A 20, 2003.
    """
    with_lesion, without = (_responses(stack, channels) for stack in (present, absent))
    if min(len(with_lesion), len(without)) < 2 * channels.shape[1]:
        raise InputError(
            f"{len(with_lesion)} and {len(without)} images are too few for {channels.shape[1]} channels; "
            f"give at least {2 * channels.shape[1]} of each"
        )
    scores_1 = np.array([_score(row, np.delete(with_lesion, i, 0), without) for i, row in enumerate(with_lesion)])
    scores_0 = np.array([_score(row, with_lesion, np.delete(without, i, 0)) for i, row in enumerate(without)])
    rng = np.random.default_rng(seed)
    samples = np.array([_separation(rng.choice(scores_1, len(scores_1)), rng.choice(scores_0, len(scores_0)))
                        for _ in range(repeats)])  # fmt: skip
    low, high = np.quantile(samples, [0.025, 0.975])
    return Detectability(_separation(scores_1, scores_0), float(low), float(high), samples)


def dose_equivalence(
    doses: Sequence[float], measured: Sequence[Detectability], ours: Detectability
) -> DoseEquivalence:
    """Dose at which the unprocessed image reaches the d′ of the processed one.

    A power law ``d′ = k·dose^b`` is fitted to the unprocessed images. The interval comes from the bootstrap
    samples of all images together.

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
        The dose is NaN if a d′ is not above 0; the interval is NaN if that holds for more than 5 % of the samples.

    Raises
    ------
    InputError
        If d′ is given at fewer than two doses.
    """
    if len(doses) < 2 or len(doses) != len(measured):
        raise InputError("dose equivalence needs d′ of the unprocessed image at two doses or more")
    repeats = min(len(ours.samples), *(len(item.samples) for item in measured))
    curves = np.array([item.samples[:repeats] for item in measured])
    doses_found = np.array([_dose_at(doses, curves[:, i], ours.samples[i]) for i in range(repeats)])
    dose = _dose_at(doses, [item.d_prime for item in measured], ours.d_prime)
    if np.isnan(doses_found).mean() > MAX_UNDEFINED:
        return DoseEquivalence(dose, float("nan"), float("nan"))
    low, high = np.nanquantile(doses_found, [0.025, 0.975])
    return DoseEquivalence(dose, float(low), float(high))


def _dose_at(doses: Sequence[float], values: ArrayLike, target: float) -> float:
    values = np.asarray(values, dtype=np.float64)
    if target <= 0 or np.any(values <= 0):
        return float("nan")
    slope, offset = np.polyfit(np.log(doses), np.log(values), 1)
    return float(np.exp((np.log(target) - offset) / slope)) if slope > 0 else float("nan")


def _responses(stack: Stack, channels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(stack, dtype=np.float64).reshape(len(stack), -1) @ channels


def _score(response: NDArray[np.float64], with_lesion: Stack, without: Stack) -> float:
    """Score of one image by the Hotelling template of the others."""
    covariance = (np.cov(with_lesion.T) + np.cov(without.T)) / 2
    template = np.linalg.solve(np.atleast_2d(covariance), with_lesion.mean(axis=0) - without.mean(axis=0))
    return float(response @ template)


def _separation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float((first.mean() - second.mean()) / np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2))
