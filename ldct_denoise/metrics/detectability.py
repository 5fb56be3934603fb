"""Can a low-contrast lesion be seen? Detectability d′ of model observers, and the dose that would give the same.

``d′`` is the distance of the observer's responses with and without the lesion, in standard deviations.
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

MOST_UNKNOWN = 0.05  # share of bootstrap samples without a dose, above which the interval would not be one of 95 %


@dataclass(frozen=True)
class Detectability:
    """``d_prime`` with its 95 % bootstrap interval, and the resampled values behind it."""

    d_prime: float
    low: float
    high: float
    samples: NDArray[np.float64]


@dataclass(frozen=True)
class DoseEquivalence:
    """The share of dose at which the unprocessed image is as good, with its 95 % interval."""

    dose: float
    low: float
    high: float


def disk_task(frequency: ArrayLike, diameter_mm: float, contrast_hu: float) -> NDArray[np.float64]:
    """Fourier transform of a uniform disk, HU·mm²: ``C·π·r²·2·J1(2πrf)/(2πrf)``."""
    argument = np.pi * diameter_mm * np.asarray(frequency, dtype=np.float64)
    safe = np.where(argument == 0, 1.0, argument)
    shape = np.where(argument == 0, 1.0, 2 * special.j1(safe) / safe)
    return contrast_hu * np.pi * (diameter_mm / 2) ** 2 * shape


def gaussian_task(frequency: ArrayLike, sigma_mm: float, contrast_hu: float) -> NDArray[np.float64]:
    """Fourier transform of a Gaussian lesion, HU·mm²: ``C·2πσ²·exp(−2π²σ²f²)``."""
    frequency = np.asarray(frequency, dtype=np.float64)
    exponent = -2 * (np.pi * sigma_mm * frequency) ** 2
    return np.asarray(contrast_hu * 2 * np.pi * sigma_mm**2 * np.exp(exponent))


def eye_filter(
    frequency: ArrayLike, *, viewing_distance_mm: float = 475.0, magnification: float = 1.0
) -> NDArray[np.float64]:
    """The visual response of Saunders & Samei 2006, ``|ρ^1.5·exp(−0.98·ρ^0.68)|²`` with ρ in cycles per degree.

    Parameters
    ----------
    frequency : array_like
        1/mm in the patient.
    viewing_distance_mm : float
    magnification : float
        Size on the display over size in the patient.
    """
    per_degree = np.asarray(frequency) / magnification * viewing_distance_mm * np.pi / 180
    response: NDArray[np.float64] = (per_degree**1.5 * np.exp(-0.98 * per_degree**0.68)) ** 2
    return response


def npw_detectability(
    nps: NoisePowerSpectrum, task: Stack, transfer: TaskTransfer | None = None, eye: Stack | None = None
) -> float:
    """d′ of the non-prewhitening observer (TG-233 eq. for d′_NPW; with ``eye`` the eye filter, NPWE).

    ``d′² = [∫∫ |W|²·TTF²·E² ]² / ∫∫ |W|²·TTF²·E⁴·NPS``; without an eye filter E = 1. A task that is nowhere has
    d′ = 0, noise that is nowhere makes it infinite.

    Parameters
    ----------
    nps : NoisePowerSpectrum
    task : ndarray, same shape as ``nps.power``
        |W|, HU·mm², as :func:`disk_task` of :func:`radial_frequency`.
    transfer : TaskTransfer, optional
        At a contrast like the task's; 1 where absent.
    eye : ndarray, same shape, optional
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
    """Distance of every point of a spectrum from the zero frequency, 1/mm."""
    return np.hypot(nps.row_frequency[:, None], nps.column_frequency[None, :])


def laguerre_gauss_channels(size: int, width_px: float, count: int = 6) -> NDArray[np.float64]:
    """Laguerre–Gauss channels ``√2/a·exp(−πr²/a²)·L_j(2πr²/a²)``, shape (size², count) (Gallas & Barrett 2003).

    Complete for a lesion that looks the same in all directions; ``width_px`` is a. A Gaussian lesion of σ pixels
    is the first channel itself at a = √(2π)·σ.
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
    """d′ of the channelised Hotelling observer on repeated realisations, leaving one out.

    Every image is judged by a template trained on all others, so that the observer cannot learn the noise it is
    tested on; without that d′ is too high for small samples.

    Parameters
    ----------
    present, absent : ndarray, shape (n, size, size)
        Regions with and without the lesion in their middle.
    channels : ndarray, shape (size², count)
    seed, repeats : int
        Of the bootstrap over images.

    Raises
    ------
    InputError
        If there are too few images for the number of channels.
    """
    with_lesion, without = (_responses(stack, channels) for stack in (present, absent))
    if min(len(with_lesion), len(without)) < 2 * channels.shape[1]:
        raise InputError(
            f"{len(with_lesion)} and {len(without)} images are too few for {channels.shape[1]} channels; "
            f"give at least {2 * channels.shape[1]} of each"
        )
    scores_1 = np.array([_judge(row, np.delete(with_lesion, i, 0), without) for i, row in enumerate(with_lesion)])
    scores_0 = np.array([_judge(row, with_lesion, np.delete(without, i, 0)) for i, row in enumerate(without)])
    rng = np.random.default_rng(seed)
    samples = np.array([_separation(rng.choice(scores_1, len(scores_1)), rng.choice(scores_0, len(scores_0)))
                        for _ in range(repeats)])  # fmt: skip
    low, high = np.quantile(samples, [0.025, 0.975])
    return Detectability(_separation(scores_1, scores_0), float(low), float(high), samples)


def dose_equivalence(
    doses: Sequence[float], measured: Sequence[Detectability], ours: Detectability
) -> DoseEquivalence:
    """At which dose the unprocessed image reaches the d′ of the processed one.

    A power law ``d′ = k·dose^b`` is fitted to the unprocessed images; the interval comes from the bootstrap
    samples of all of them together. NaN where a d′ is not above 0, and for the interval where more than one
    sample in twenty has such a d′.

    Parameters
    ----------
    doses : sequence of float
        Of the unprocessed images, at least two (as a share of the full dose).
    measured : sequence of Detectability
        At those doses.
    ours : Detectability
        Of the processed image.
    """
    if len(doses) < 2 or len(doses) != len(measured):
        raise InputError("dose equivalence needs d′ of the unprocessed image at two doses or more")
    repeats = min(len(ours.samples), *(len(item.samples) for item in measured))
    curves = np.array([item.samples[:repeats] for item in measured])
    doses_found = np.array([_dose_at(doses, curves[:, i], ours.samples[i]) for i in range(repeats)])
    dose = _dose_at(doses, [item.d_prime for item in measured], ours.d_prime)
    if np.isnan(doses_found).mean() > MOST_UNKNOWN:
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


def _judge(response: NDArray[np.float64], with_lesion: Stack, without: Stack) -> float:
    """One image's score by the template of the others."""
    covariance = (np.cov(with_lesion.T) + np.cov(without.T)) / 2
    template = np.linalg.solve(np.atleast_2d(covariance), with_lesion.mean(axis=0) - without.mean(axis=0))
    return float(response @ template)


def _separation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float((first.mean() - second.mean()) / np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2))
