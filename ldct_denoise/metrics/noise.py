"""Noise power spectrum (NPS), noise level, and how a denoiser changes them.

References
----------
AAPM Report 233 (TG-233), "Performance evaluation of computed tomography systems", 2019.
ICRU Report 87, "Radiation dose and image-quality assessment in computed tomography", 2012.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Side of the neighbourhood of the noise map, mm (Christianson et al. 2015).
NOISE_MAP_MM = 6.0
#: Its smallest side, pixels: the mode of standard deviations of 3×3 pixels is far below the noise level.
NOISE_MAP_MIN_PX = 5
#: Largest correction of the global noise level for coarse noise.
MAX_COARSE_FACTOR = 2.0


@dataclass(frozen=True)
class NoisePowerSpectrum:
    """A 2-D noise power spectrum.

    Parameters
    ----------
    power : ndarray, shape (rows, columns)
        HU²·mm², zero frequency in the centre.
    row_frequency : ndarray, shape (rows,)
        Vertical frequency of each row, 1/mm.
    column_frequency : ndarray, shape (columns,)
        Horizontal frequency of each column, 1/mm.
    detrend_order : int, optional
        Order of the polynomial that was removed from the regions, which takes coarse noise away; None for a
        spectrum from which nothing is missing.
    """

    power: NDArray[np.float64]
    row_frequency: NDArray[np.float64]
    column_frequency: NDArray[np.float64]
    detrend_order: int | None = None

    @property
    def variance_hu2(self) -> float:
        """The integral of the spectrum: the variance of the detrended regions, HU²."""
        cell = _step(self.row_frequency) * _step(self.column_frequency)
        return float(self.power.sum() * cell)

    def radial(self, bin_width: float | None = None) -> RadialSpectrum:
        """Radial spectrum: means over rings, up to the Nyquist frequency.

        Parameters
        ----------
        bin_width : float, optional
            Width of a ring, 1/mm; by default one frequency step of the spectrum.

        Returns
        -------
        RadialSpectrum
        """
        width = bin_width or max(_step(self.row_frequency), _step(self.column_frequency))
        frequency = np.hypot(self.row_frequency[:, None], self.column_frequency[None, :])
        nyquist = min(-self.row_frequency[0], -self.column_frequency[0])
        edges = np.arange(int(nyquist / width) + 1) * width
        known = frequency > 0
        power, cells = ring_means(self.power[known], frequency[known], edges)
        middle, _ = ring_means(frequency[known], frequency[known], edges)
        return RadialSpectrum(middle[cells > 0], power[cells > 0])


@dataclass(frozen=True)
class RadialSpectrum:
    """A radial noise power spectrum.

    Parameters
    ----------
    frequency : ndarray, shape (n,)
        Rising, 1/mm.
    power : ndarray, shape (n,)
        HU²·mm², or dB for a noise reduction profile.
    """

    frequency: NDArray[np.float64]
    power: NDArray[np.float64]

    @property
    def peak_frequency(self) -> float:
        """Frequency of the largest power, 1/mm."""
        return float(self.frequency[np.argmax(self.power)])

    @property
    def mean_frequency(self) -> float:
        """``∫ f·NPS df / ∫ NPS df`` of this curve, 1/mm; NaN where there is no power.

        It is too high where a trend was removed from small regions; see
        :func:`~ldct_denoise.metrics.texture.mean_noise_frequency`.
        """
        total = float(np.trapezoid(self.power, self.frequency))
        return float(np.trapezoid(self.frequency * self.power, self.frequency)) / total if total else float("nan")


def periodograms(
    rois: NDArray[np.floating], *, detrend_order: int = 2, hann_window: bool = False
) -> NDArray[np.float64]:
    """Power spectrum of every region by itself, ``|DFT(roi − trend)|² / (Nx·Ny)``, HU².

    The mean over all frequencies is the variance of the detrended region. Multiplied by ``dx·dy`` and averaged
    over regions it is the noise power spectrum; see :func:`noise_power_spectrum`.

    Parameters
    ----------
    rois : ndarray, shape (n, rows, columns)
        Regions of interest, HU.
    detrend_order : int
        Order of the polynomial that is fitted and removed: 0 is the mean, 2 also removes cupping.
    hann_window : bool
        Multiply by a Hann window of unit mean square, so that structure at the region's border leaks less into
        other frequencies.

    Returns
    -------
    ndarray, shape (n, rows, columns), float64
        Zero frequency first, as :func:`numpy.fft.fft2` returns it.
    """
    residual = detrended(rois, detrend_order)
    rows, columns = residual.shape[1:]
    if hann_window:
        residual = residual * _hann(rows, columns)
    power: NDArray[np.float64] = np.abs(np.fft.fft2(residual)) ** 2 / (rows * columns)
    return power


def detrended(rois: NDArray[np.floating], order: int = 2) -> NDArray[np.float64]:
    """Regions of shape (n, rows, columns) without their polynomial trend, HU; order 2 also removes cupping."""
    stack: NDArray[np.float64] = np.asarray(rois, dtype=np.float64)
    rows, columns = stack.shape[1:]
    basis, flat = _polynomials(rows, columns, order), stack.reshape(-1, rows * columns)
    return (flat - (flat @ basis) @ basis.T).reshape(stack.shape)


def ring_means(
    values: NDArray[np.floating], frequency: NDArray[np.floating], edges: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """Mean of a spectrum over rings of equal frequency.

    Parameters
    ----------
    values : ndarray
        Power, or anything else that is to be averaged.
    frequency : ndarray of the same shape
        Distance of each value from the zero frequency, 1/mm.
    edges : ndarray, shape (rings + 1,)
        Rising limits of the rings, 1/mm; the lower limit belongs to the ring.

    Returns
    -------
    mean : ndarray, shape (rings,)
        0 where a ring holds no value.
    count : ndarray of int, shape (rings,)
        Number of values in each ring.
    """
    rings = len(edges) - 1
    ring = np.digitize(frequency.ravel(), edges) - 1
    inside = (ring >= 0) & (ring < rings)
    count = np.bincount(ring[inside], minlength=rings)
    total = np.bincount(ring[inside], weights=values.ravel()[inside], minlength=rings)
    return total / np.maximum(count, 1), count


def noise_power_spectrum(
    rois: NDArray[np.floating], pixel_spacing_mm: tuple[float, float], *, detrend_order: int = 2
) -> NoisePowerSpectrum:
    """Noise power spectrum of uniform regions of interest (ROIs).

    ``NPS(f) = dx·dy/(Nx·Ny) · mean |DFT(roi − trend)|²``. Its integral is the variance of the detrended ROIs.

    Parameters
    ----------
    rois : ndarray, shape (n, rows, columns)
        ROIs of uniform regions, HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing (dy, dx), mm.
    detrend_order : int
        Order of the polynomial that is fitted and removed: 0 is the mean, 2 also removes cupping.

    Returns
    -------
    NoisePowerSpectrum
        HU²·mm².

    Raises
    ------
    InputError
        If there is no ROI.

    References
    ----------
    ICRU Report 87, eq. 11.1.
    """
    stack: NDArray[np.float64] = np.asarray(rois, dtype=np.float64)
    if stack.ndim != 3 or not len(stack):
        raise InputError(f"a noise power spectrum needs regions of shape (n, rows, columns), not {stack.shape}")
    rows, columns = stack.shape[1:]
    area = pixel_spacing_mm[0] * pixel_spacing_mm[1]
    power = periodograms(stack, detrend_order=detrend_order).mean(axis=0) * area
    return NoisePowerSpectrum(
        np.fft.fftshift(power),
        np.fft.fftshift(np.fft.fftfreq(rows, pixel_spacing_mm[0])),
        np.fft.fftshift(np.fft.fftfreq(columns, pixel_spacing_mm[1])),
        detrend_order,
    )


def difference_spectrum(
    first: NDArray[np.floating], second: NDArray[np.floating], pixel_spacing_mm: tuple[float, float]
) -> NoisePowerSpectrum:
    """Noise power spectrum from the difference of two images of the same object with independent noise.

    Suitable images are repeated scans, or neighbouring slices that share no projections. Anatomy cancels, so the
    regions need not be uniform. The difference is divided by √2, because the variances of both images add up.

    Parameters
    ----------
    first, second : ndarray, shape (n, rows, columns)
        The same ROIs of both images, HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    NoisePowerSpectrum
        Spectrum of one image's noise, HU²·mm².
    """
    difference = (np.asarray(first, np.float64) - np.asarray(second, np.float64)) / np.sqrt(2)
    return noise_power_spectrum(difference, pixel_spacing_mm)


def noise_reduction_profile(before: RadialSpectrum, after: RadialSpectrum) -> RadialSpectrum:
    """Noise reduction by frequency: ``10·log10(NPS after / NPS before)``, dB; 0 dB means unchanged."""
    power = np.interp(before.frequency, after.frequency, after.power)
    with np.errstate(divide="ignore", invalid="ignore"):
        return RadialSpectrum(before.frequency, 10 * np.log10(power / before.power))


def find_uniform_rois(hu: Image, mask: Mask, size: int, count: int = 8) -> list[tuple[slice, slice]]:
    """Find the most uniform square ROIs inside a mask; they do not overlap.

    Uniformity is the spread, within the ROI, of means over blocks a quarter as wide: noise averages out in the
    blocks, anatomy does not.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    mask : ndarray of bool, shape (rows, columns)
        ROIs lie completely inside it.
    size : int
        Side of an ROI, pixels.
    count : int
        Largest number of ROIs.

    Returns
    -------
    list of (slice, slice)
        Rows and columns of each ROI, the most uniform first.
    """
    block = max(size // 4, 1)
    smooth = ndimage.uniform_filter(np.asarray(hu, dtype=np.float64), block)
    spread = ndimage.uniform_filter(smooth**2, size) - ndimage.uniform_filter(smooth, size) ** 2
    inside = ndimage.minimum_filter(mask.astype(np.uint8), size, mode="constant") > 0
    half = size // 2
    rows, columns = np.nonzero(inside)
    order = np.argsort(spread[rows, columns], kind="stable")
    covered = np.zeros(hu.shape, dtype=bool)
    rois: list[tuple[slice, slice]] = []
    for row, column in zip(rows[order], columns[order], strict=True):
        roi = (slice(row - half, row - half + size), slice(column - half, column - half + size))
        fits = row >= half and column >= half and hu[roi].shape == (size, size)
        if not fits or covered[roi].any():
            continue
        covered[roi] = True
        rois.append(roi)
        if len(rois) == count:
            break
    return rois


def noise_map(hu: Image, pixel_spacing_mm: tuple[float, float], width_mm: float = NOISE_MAP_MM) -> Image:
    """Map of the local (sample) standard deviation.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    width_mm : float
        Side of the square neighbourhood, mm; it is at least 5 pixels wide.

    Returns
    -------
    ndarray, shape (rows, columns)
        HU.

    References
    ----------
    Christianson et al., "Automated technique to measure noise in clinical CT examinations", AJR 205, 2015.
    """
    size = [max(NOISE_MAP_MIN_PX, round(width_mm / mm) | 1) for mm in pixel_spacing_mm]
    values = np.asarray(hu, dtype=np.float64)
    variance = ndimage.uniform_filter(values**2, size) - ndimage.uniform_filter(values, size) ** 2
    count = math.prod(size)
    deviation: Image = np.sqrt(np.maximum(variance, 0) * count / (count - 1))
    return deviation


def global_noise_level(noise: Image, mask: Mask) -> float:
    """Global noise level: the mode of the noise map within a tissue, HU; NaN for an empty mask.

    Edges raise the local standard deviation, but only in the tail of its distribution, not at the mode. The level
    of noise that is coarser than the map's neighbourhood is too low; see :func:`coarse_noise_factor`.

    References
    ----------
    Christianson et al., "Automated technique to measure noise in clinical CT examinations", AJR 205, 2015.
    """
    values = noise[mask]
    if not len(values):
        return float("nan")
    low, high = 0.0, float(np.percentile(values, 95)) * 1.5 + 1e-9
    histogram, edges = np.histogram(values, bins=200, range=(low, high))
    smooth = ndimage.gaussian_filter1d(histogram.astype(np.float64), 4, mode="constant")
    best = int(np.argmax(smooth))
    return float((edges[best] + edges[best + 1]) / 2)


def coarse_noise_factor(
    rois: Sequence[Image] | NDArray[np.floating], pixel_spacing_mm: tuple[float, float]
) -> float:
    """Factor from the global noise level to the standard deviation of the noise, from uniform ROIs.

    A noise map sees 6 mm at a time, so that it misses coarser noise; the mode of such noise is lower still. In
    uniform ROIs, which are larger, both can be measured: the standard deviation about a plane, and the level by
    :func:`global_noise_level`.

    Parameters
    ----------
    rois : sequence of ndarray, shape (n, rows, columns)
        Uniform ROIs of 20 mm or more, HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    float
        1 for fine noise, at least 1 and at most 2; 1 without ROIs.
    """
    stack = np.asarray(rois, dtype=np.float64)
    if not len(stack):
        return 1.0
    count = stack[0].size
    variance = float(np.median(periodograms(stack, detrend_order=1).mean(axis=(1, 2)))) * count / (count - 3)
    half = [max(NOISE_MAP_MIN_PX, round(NOISE_MAP_MM / mm) | 1) // 2 for mm in pixel_spacing_mm]
    inside = slice(half[0], -half[0]), slice(half[1], -half[1])
    maps = np.stack([noise_map(roi, pixel_spacing_mm)[inside] for roi in stack])
    level = global_noise_level(maps, np.ones(maps.shape, bool))
    return float(np.clip(np.sqrt(variance) / level, 1.0, MAX_COARSE_FACTOR)) if level > 0 else 1.0


@cache
def _polynomials(rows: int, columns: int, order: int) -> NDArray[np.float64]:
    """Orthonormal basis of the polynomials in row and column up to an order, shape (rows·columns, terms)."""
    y, x = (np.mgrid[:rows, :columns] / np.reshape([rows, columns], (2, 1, 1)) - 0.5).reshape(2, -1)
    powers = [(i, degree - i) for degree in range(order + 1) for i in range(degree + 1)]
    powers.sort(key=lambda power: (sum(power), abs(power[0] - power[1]), power[1]))
    return np.linalg.qr(np.stack([y**i * x**j for i, j in powers], axis=1))[0]


@cache
def _hann(rows: int, columns: int) -> NDArray[np.float64]:
    """Hann window of unit mean square that is nowhere 0."""
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    return window / np.sqrt(np.mean(window**2))


def _step(axis: Sequence[float] | NDArray[np.float64]) -> float:
    return float(axis[1] - axis[0])
