"""Radial spectra of the ROIs of a series, relative to the noise that its attenuation predicts.

Above about 0.4 /mm soft tissue has hardly any structure, so the power of an ROI is noise; below 0.2 /mm it is
mostly anatomy. The high frequencies give the noise level of every ROI, the ratio of both its amount of anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.metrics.noise import ring_means
from ldct_denoise.physics.noise import BIN_PER_MM, NoiseModel, roi_frequencies

#: Highest frequency that is used, relative to 1/pixel: above the Nyquist frequency an ROI covers few directions.
#: With coarse pixels these directions are used too, up to the second number and 0.3 /mm.
HIGHEST, HIGHEST_DIAGONAL, NEEDED_PER_MM = 0.465, 0.7, 0.3
#: The noise band ends where the median spectrum has fallen to this fraction of its maximum above …
BAND_POWER = 0.03
#: … this frequency (1/mm), and begins at this fraction of its end.
PEAK_FROM_PER_MM, BAND_START = 0.18, 0.7
#: A kernel whose noise band ends below this frequency passes too little noise to measure, 1/mm.
NOISE_FROM_PER_MM = 0.25
#: ROIs are ranked by their power in this band, where anatomy is strong, 1/mm.
ANATOMY_FROM_PER_MM, ANATOMY_UP_TO_PER_MM = 0.04, 0.12


@dataclass(frozen=True)
class SliceSpectra:
    """Radial spectra of the ROIs of one slice.

    Parameters
    ----------
    corners : ndarray of int, shape (n, 2)
        First row and column of each ROI.
    rings : ndarray, shape (n, bins)
        Noise power spectrum of each ROI, HU²·mm², over the slope of that of a ramp filter for one quantum per mm,
        radian and mA, HU²·mm³: f · (transfer function)² / quanta, plus anatomy.
    """

    corners: NDArray[np.int_]
    rings: NDArray[np.float64]


@cache
def ring_matrix(
    spacing_mm: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int_]]:
    """Radial bins of an ROI's spectrum.

    Parameters
    ----------
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    frequencies_per_mm : ndarray, shape (bins,)
        Centres of the bins, 1/mm.
    matrix : ndarray, shape (cells, bins)
        A flattened spectrum times this matrix is its radial mean; 0 in empty bins.
    cells : ndarray, shape (bins,)
        Number of cells in each bin.
    """
    edges = np.arange(0.5, 24) * BIN_PER_MM
    radius = roi_frequencies(spacing_mm).ravel()
    inside = (radius[:, None] >= edges[:-1]) & (radius[:, None] < edges[1:])
    cells = inside.sum(axis=0)
    return (edges[:-1] + edges[1:]) / 2, inside / np.maximum(cells, 1), cells


def measurable_rings(spacing_mm: tuple[float, float]) -> NDArray[np.bool_]:
    """Bins up to the highest frequency that is used, shape (bins,)."""
    frequency, _, cells = ring_matrix(spacing_mm)
    pixel_mm = max(spacing_mm)
    highest = max(HIGHEST / pixel_mm, min(NEEDED_PER_MM, HIGHEST_DIAGONAL / pixel_mm))
    return np.asarray((frequency <= highest) & (cells > 0))


def model_rings(model: NoiseModel, spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Radial means of a noise model's spectrum in the bins of :func:`ring_matrix`, shape (bins,)."""
    edges = np.arange(0.5, 24) * BIN_PER_MM
    radius = roi_frequencies(spacing_mm)
    return ring_means(model.power(radius), radius, edges)[0]


def noise_band(
    slices: Sequence[SliceSpectra], spacing_mm: tuple[float, float], model: NoiseModel | None = None
) -> NDArray[np.bool_]:
    """Bins in which noise outweighs anatomy and rounding: the highest that the kernel passes.

    Parameters
    ----------
    slices : sequence of SliceSpectra
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    model : NoiseModel, optional
        Known spectrum of the kernel; bins without its noise are left out.

    Returns
    -------
    ndarray of bool, shape (bins,)
        All False if the kernel passes nothing above ``NOISE_FROM_PER_MM``.
    """
    frequency = ring_matrix(spacing_mm)[0]
    typical = np.median(np.concatenate([one.rings for one in slices]), axis=0)
    measured = measurable_rings(spacing_mm)
    if model is not None:
        expected = model_rings(model, spacing_mm)
        measured &= expected > BAND_POWER * expected.max()
    above = measured & (frequency > PEAK_FROM_PER_MM)
    if not above.any():
        return above
    passed = above & (typical > BAND_POWER * typical[above].max())
    top = float(frequency[passed].max()) if passed.any() else 0.0
    if top < NOISE_FROM_PER_MM:
        return np.zeros_like(passed)
    return np.asarray(passed & (frequency >= BAND_START * top))


def band_mean(
    rings: NDArray[np.float64], band: NDArray[np.bool_], spacing_mm: tuple[float, float]
) -> NDArray[np.float64]:
    """Mean power over the cells of some bins.

    Parameters
    ----------
    rings : ndarray, shape (..., bins)
        Radial spectra.
    band : ndarray of bool, shape (bins,)
        Bins to average.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (...,)
    """
    cells = ring_matrix(spacing_mm)[2]
    return np.asarray(rings[..., band] @ cells[band] / cells[band].sum())


def anatomy_index(
    rings: NDArray[np.float64], band: NDArray[np.bool_], spacing_mm: tuple[float, float]
) -> NDArray[np.float64]:
    """Amount of anatomy in ROIs: power at low frequencies over that in the noise band.

    Parameters
    ----------
    rings : ndarray, shape (n, bins)
        Radial spectra.
    band : ndarray of bool, shape (bins,)
        Bins of the noise band.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (n,)
    """
    frequency, _, cells = ring_matrix(spacing_mm)
    low = (frequency > ANATOMY_FROM_PER_MM) & (frequency < ANATOMY_UP_TO_PER_MM) & (cells > 0)
    return band_mean(rings, low, spacing_mm) / np.maximum(band_mean(rings, band, spacing_mm), 1e-30)
