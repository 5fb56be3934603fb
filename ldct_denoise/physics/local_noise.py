"""Noise level of a slice and its deviation from the attenuation model, measured in the slice itself.

Helical view weighting, which no header describes, and a tube current that lags behind the patient's shape make
noise stronger on one side of a slice; the side changes along z. A smooth surface describes this asymmetry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ldct_denoise.physics.noise import ROI_SIDE_PX, NoiseModel, radial_nps, roi_frequencies

#: Fraction of the ROIs, those with the least anatomy, that the level and the surface are measured in.
LEVEL_FRACTION, SURFACE_FRACTION = 0.2, 0.5
#: Frequencies below this (1/mm), and those where the kernel passes less than this fraction of its peak power, are
#: not used for the level.
LEVEL_FROM_PER_MM, LEVEL_POWER = 0.09, 0.1
#: Number of iteratively reweighted fits of the level.
LEVEL_ITERATIONS = 4
#: Fewest ROIs for a surface.
MIN_ROIS = 40
#: Scatter of the log sigma of one ROI; larger deviations have less weight.
ROI_SCATTER = 0.1
#: Standard deviation of the prior of the surface's coefficients, in log sigma.
SURFACE_PRIOR = 0.33
#: Largest factor by which the surface changes the noise.
MAX_FACTOR = 1.6


def noise_level(
    spectra: NDArray[np.float64],
    anatomy: NDArray[np.float64],
    model: NoiseModel,
    spacing_mm: tuple[float, float],
) -> float:
    """Noise variance in ROIs, without residual anatomy.

    The mean spectrum of the most uniform ROIs is decomposed into the kernel's noise N(f) and anatomy seen through
    the same kernel, f⁻³·N(f): N(f) is f times the squared transfer function of the kernel.

    Parameters
    ----------
    spectra : ndarray, shape (n, side, side)
        Periodograms of the ROIs.
    anatomy : ndarray, shape (n,)
        Amount of anatomy in each ROI; see :class:`~ldct_denoise.physics.dose.RoiNoise`.
    model : NoiseModel
        Noise power spectrum of the kernel.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    float
        Variance in the unit of ``spectra``; NaN if only anatomy is found.
    """
    quiet = anatomy <= np.quantile(anatomy, LEVEL_FRACTION)
    frequency, seen = radial_nps(spectra[quiet].mean(axis=0), spacing_mm)
    expected = model.power(roi_frequencies(spacing_mm))
    noise = radial_nps(expected / expected.mean(), spacing_mm)[1]
    used = (
        (frequency > LEVEL_FROM_PER_MM)
        & (frequency < 0.45 / max(spacing_mm))
        & (noise > LEVEL_POWER * noise.max())
        & (seen > 0)
    )
    if used.sum() < 3:
        return float(spectra[quiet].mean())
    parts = np.stack([noise, noise * frequency**-3.0], axis=1)[used]
    # The number of cells in a bin is proportional to f, and each cell's uncertainty equals its value.
    weight = np.sqrt(frequency[used]) / seen[used]
    for _ in range(LEVEL_ITERATIONS):
        found = optimize.nnls(parts * weight[:, None], seen[used] * weight)[0]
        weight = np.sqrt(frequency[used]) / (parts @ found)
    return float(found[0]) if found[0] > 0 else float("nan")


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
