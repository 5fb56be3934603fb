"""Detectability d′ of a lesion from spectra: task function, transfer function and noise power spectrum.

``d′`` is the distance between the means of the observer's responses with and without the lesion, in standard
deviations. The formulas hold for linear images. For denoised images score the images themselves
(:mod:`ldct_denoise.metrics.observers`): the transfer function of one contrast does not hold for another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ldct_denoise.metrics.noise import NoisePowerSpectrum
from ldct_denoise.metrics.sharpness import TaskTransfer
from ldct_denoise.metrics.texture import before_trend_removal

Stack = NDArray[np.floating]


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
        HU²·mm². The coarse noise that went with the trend of the regions is put back
        (:func:`~ldct_denoise.metrics.texture.before_trend_removal`).
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
    noise = before_trend_removal(nps).power
    signal = np.asarray(task, dtype=np.float64) ** 2
    if transfer is not None:
        signal = signal * np.interp(radial_frequency(nps), transfer.frequency, transfer.value, right=0.0) ** 2
    weight = np.ones_like(signal) if eye is None else np.asarray(eye, dtype=np.float64) ** 2
    cell = np.diff(nps.row_frequency[:2])[0] * np.diff(nps.column_frequency[:2])[0]
    top = (np.sum(signal * weight) * cell) ** 2
    bottom = np.sum(signal * weight**2 * noise) * cell
    if top == 0:
        return 0.0
    return float(np.sqrt(top / bottom)) if bottom > 0 else float("inf")


def radial_frequency(nps: NoisePowerSpectrum) -> NDArray[np.float64]:
    """Distance of every cell of a spectrum from the zero frequency, 1/mm."""
    return np.hypot(nps.row_frequency[:, None], nps.column_frequency[None, :])
