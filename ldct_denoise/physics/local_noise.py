"""Noise level of a slice and its deviation from the attenuation model, measured in the slice itself.

Helical view weighting, which no header describes, and a tube current that lags behind the patient's shape make
noise stronger on one side of a slice; the side changes along z. A smooth surface describes this asymmetry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ldct_denoise.physics.kernel_fit import ANATOMY_EXPONENT
from ldct_denoise.physics.noise import ROI_SIDE_PX
from ldct_denoise.physics.roi_spectra import band_mean, ring_matrix

#: Fraction of the ROIs, those with the least anatomy, that the surface is fitted to.
SURFACE_FRACTION = 0.8
#: Range in which the anatomy of an ROI is measured, to correct its noise level, 1/mm.
ANATOMY_BAND_PER_MM = (0.18, 0.32)
#: Smallest fraction of an ROI's power in the noise band that is taken for noise.
MIN_NOISE_FRACTION = 0.3
#: Fewest ROIs for a surface.
MIN_ROIS = 40
#: Scatter of the log sigma of one ROI; larger deviations have less weight.
ROI_SCATTER = 0.1
#: Standard deviation of the prior of the surface's coefficients, in log sigma.
SURFACE_PRIOR = 0.33
#: Largest factor by which the surface changes the noise.
MAX_FACTOR = 1.6


def noise_variance(
    rings: NDArray[np.float64],
    noise: NDArray[np.float64],
    band: NDArray[np.bool_],
    spacing_mm: tuple[float, float],
) -> NDArray[np.float64]:
    """Noise variance of each ROI: its power in the noise band, less the anatomy that is left there.

    The anatomy is measured at lower frequencies, where it is strong, and extrapolated with
    ``kernel_fit.ANATOMY_EXPONENT``.

    Parameters
    ----------
    rings : ndarray, shape (n, bins)
        Radial spectra of the ROIs; see :func:`~ldct_denoise.physics.roi_spectra.ring_matrix`.
    noise : ndarray, shape (bins,)
        Radial spectrum of the kernel's noise.
    band : ndarray of bool, shape (bins,)
        Bins of the noise band.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (n,)
        Factor of ``noise`` that the ROI contains.
    """
    frequency, _, cells = ring_matrix(spacing_mm)
    low = (frequency > ANATOMY_BAND_PER_MM[0]) & (frequency < ANATOMY_BAND_PER_MM[1]) & (cells > 0) & (noise > 0)
    in_band = band_mean(rings, band, spacing_mm) / band_mean(noise, band, spacing_mm)
    if not low.any():
        return in_band
    anatomy = np.where(noise > 0, noise * frequency**-ANATOMY_EXPONENT, 0)
    band_share, low_share = (
        band_mean(anatomy, part, spacing_mm) / band_mean(noise, part, spacing_mm) for part in (band, low)
    )
    if low_share < 2 * band_share:
        return in_band
    in_low = band_mean(rings, low, spacing_mm) / band_mean(noise, low, spacing_mm)
    amount = np.maximum(in_low - in_band, 0) / (low_share - band_share)
    return np.maximum(in_band - amount * band_share, MIN_NOISE_FRACTION * in_band)


def noise_surface(
    corners: NDArray[np.int_], log_sigma: NDArray[np.float64], anatomy: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Local factor of the noise's standard deviation, 1 on average over the ROIs.

    A quadratic surface in row and column is fitted robustly (soft L1) to log sigma of the ROIs with the least
    anatomy. Outside the ROIs it is constant.

    Parameters
    ----------
    corners : ndarray, shape (n, 2)
        First row and column of the ROIs.
    log_sigma : ndarray, shape (n,)
        Logarithm of measured over expected standard deviation.
    anatomy : ndarray, shape (n,)
        Amount of anatomy in each ROI.
    shape : tuple of 2 ints
        Rows and columns of the slice.

    Returns
    -------
    ndarray, shape (rows, columns), float32
        All 1 if there are fewer than 40 ROIs.
    """
    if len(corners) < MIN_ROIS:
        return np.ones(shape, np.float32)
    quiet = anatomy <= np.quantile(anatomy, SURFACE_FRACTION)
    at = (corners + ROI_SIDE_PX / 2) / np.array(shape) * 2 - 1
    terms, seen = _quadratic(*at[quiet].T), log_sigma[quiet]
    weight = np.sqrt(MIN_ROIS / len(seen)) / ROI_SCATTER  # ROIs overlap: more of them hold no more information
    ridge = np.diag([0.0, *[1 / SURFACE_PRIOR] * 5])

    def misfit(c: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([(terms @ c - seen) * weight, ridge @ c])

    jacobian = np.concatenate([terms * weight, ridge])
    start = [float(np.median(seen)), 0, 0, 0, 0, 0]
    c = optimize.least_squares(misfit, start, jac=lambda _: jacobian, loss="soft_l1").x
    inside = _quadratic(*at.T) @ c
    rows, columns = (
        np.clip(np.linspace(-1, 1, length), low, high)
        for length, low, high in zip(shape, at.min(axis=0), at.max(axis=0), strict=True)
    )
    y, x = np.meshgrid(rows, columns, indexing="ij")
    log_factor = (_quadratic(y.ravel(), x.ravel()) @ c).reshape(shape) - inside.mean()
    return np.exp(np.clip(log_factor, -np.log(MAX_FACTOR), np.log(MAX_FACTOR))).astype(np.float32)


def _quadratic(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(x), y, x, y * y, x * y, x * x], axis=1)
