"""How much noise a slice has, and where it is above or below what attenuation explains; from the slice itself.

A helical scan weighs the views of a slice in a way that no header tells, and its tube current runs behind the
patient's shape: noise leans to one side, another one a few slices on. A smooth surface follows it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ldct_denoise.physics.noise import SIDE, NoiseModel, radial, roi_frequencies

#: Share of the squares that the level is measured in, and the surface: those with the least anatomy.
LEVEL_SHARE, SURFACE_SHARE = 0.2, 0.5
#: Frequencies (1/mm) below this, and where the kernel passes less than this share of its peak power, tell little.
LEVEL_FROM_PER_MM, LEVEL_POWER = 0.09, 0.1
#: Fits of the level, each weighted by the one before.
LEVEL_STEPS = 4
#: Fewest squares for a surface.
FEWEST = 40
#: Scatter of one square's log sigma: larger deviations count less.
SCATTER = 0.1
#: How far the surface is trusted, in log sigma: a coefficient of this size costs as much as one square's scatter.
TRUST = 0.33
#: The noise is moved by at most this factor.
MOST = 1.6


def noise_level(
    spectra: NDArray[np.float64],
    anatomy: NDArray[np.float64],
    model: NoiseModel,
    spacing_mm: tuple[float, float],
) -> float:
    """Variance of the noise in squares, without what is left of anatomy in them.

    The mean spectrum of the quietest squares is taken apart into the kernel's noise N(f) and anatomy seen through
    the same kernel, f⁻³·N(f): noise goes as f times the square of the kernel's transfer function.

    Parameters
    ----------
    spectra : ndarray, shape (n, side, side)
        Periodograms of squares.
    anatomy : ndarray, shape (n,)
        Grows with what is in a square besides noise.
    model : NoiseModel
    spacing_mm : tuple of 2 floats

    Returns
    -------
    float
        In the unit of ``spectra``; NaN where nothing but anatomy is found.
    """
    quiet = anatomy <= np.quantile(anatomy, LEVEL_SHARE)
    frequency, seen = radial(spectra[quiet].mean(axis=0), spacing_mm)
    expected = model.power(roi_frequencies(spacing_mm))
    noise = radial(expected / expected.mean(), spacing_mm)[1]
    used = (
        (frequency > LEVEL_FROM_PER_MM)
        & (frequency < 0.45 / max(spacing_mm))
        & (noise > LEVEL_POWER * noise.max())
        & (seen > 0)
    )
    if used.sum() < 3:
        return float(spectra[quiet].mean())
    parts = np.stack([noise, noise * frequency**-3.0], axis=1)[used]
    # A bin of frequency f holds cells in proportion to f, each known to within its own size.
    weight = np.sqrt(frequency[used]) / seen[used]
    for _ in range(LEVEL_STEPS):
        found = optimize.nnls(parts * weight[:, None], seen[used] * weight)[0]
        weight = np.sqrt(frequency[used]) / (parts @ found)
    return float(found[0]) if found[0] > 0 else float("nan")


def noise_surface(
    corners: NDArray[np.int_], log_sigma: NDArray[np.float64], anatomy: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Local factor of the noise's standard deviation, 1 on average over the squares.

    A quadratic surface in row and column, fitted robustly (soft L1) to the squares with the least anatomy;
    outside them it goes on as at their edge.

    Parameters
    ----------
    corners : ndarray, shape (n, 2)
        First row and column of the squares.
    log_sigma : ndarray, shape (n,)
        Logarithm of measured over expected standard deviation.
    anatomy : ndarray, shape (n,)
        Grows with what is in a square besides noise.
    shape : tuple of 2 ints
        Of the slice.

    Returns
    -------
    ndarray, shape (rows, columns), float32
        All 1 where there are fewer than 40 squares.
    """
    if len(corners) < FEWEST:
        return np.ones(shape, np.float32)
    quiet = anatomy <= np.quantile(anatomy, SURFACE_SHARE)
    at = (corners + SIDE / 2) / np.array(shape) * 2 - 1
    terms, seen = _quadratic(*at[quiet].T), log_sigma[quiet]
    weight = np.sqrt(FEWEST / len(seen)) / SCATTER  # squares overlap: many are no more than 40 are
    ridge = np.diag([0.0, *[1 / TRUST] * 5])

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
    return np.exp(np.clip(log_factor, -np.log(MOST), np.log(MOST))).astype(np.float32)


def _quadratic(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(x), y, x, y * y, x * y, x * x], axis=1)
