"""Noise and resolution along z: z-NPS, correlation of neighbouring slices, slice sensitivity profile (SSP).

References
----------
AAPM Report 233 (TG-233), "Performance evaluation of computed tomography systems", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.metrics.noise import detrended, periodograms
from ldct_denoise.metrics.series_noise import MIN_COHERENCE
from ldct_denoise.metrics.unpaired_noise import LEVEL_FROM_PER_MM

Stack = NDArray[np.floating]


@dataclass(frozen=True)
class ZNoise:
    """Noise of a stack of slices along z.

    Parameters
    ----------
    frequency : ndarray, shape (n,)
        1/mm, from 0 to the Nyquist frequency of the slices.
    power : ndarray, shape (n,)
        z-NPS, HU²·mm; its integral from minus to plus the Nyquist frequency is the variance.
    correlation : ndarray, shape (slices,)
        Correlation of the noise of slices 0, 1, 2 … apart.
    is_free_of_anatomy : bool
        Whether it comes from the part of the image that follows a difference in which anatomy cancels.
    """

    frequency: NDArray[np.float64]
    power: NDArray[np.float64]
    correlation: NDArray[np.float64]
    is_free_of_anatomy: bool

    @property
    def noise_hu(self) -> float:
        """Standard deviation in the regions without their in-plane trend, HU."""
        steps = np.full(len(self.power), 2.0)  # both signs of the frequency
        steps[[0, -1]] = 1.0
        return float(np.sqrt(self.power @ steps * (self.frequency[1] - self.frequency[0])))


def noise_along_z(stack: Stack, spacing_mm: tuple[float, float, float], difference: Stack | None = None) -> ZNoise:
    """Noise power spectrum along z and correlation of neighbouring slices, in uniform regions.

    Every region of every slice loses its in-plane polynomial trend; nothing is removed along z. The 3-D
    periodograms are integrated over the in-plane frequencies.

    With a difference of images in which anatomy cancels, such as low dose − normal dose or input − output, the
    spectrum is ``S(image, d)²/S(d, d)`` in every in-plane ring and z frequency: for a linear filter of noise of
    one spectrum this is the shape of the image's noise. The image gives the level above 0.25/mm in-plane.

    Parameters
    ----------
    stack : ndarray, shape (regions, slices, rows, columns)
        The same in-plane regions of contiguous slices, HU.
    spacing_mm : tuple of 3 floats
        Slice, row and column spacing.
    difference : ndarray of the same shape, optional
        HU. Without it anatomy counts as noise that correlates along z.

    Returns
    -------
    ZNoise
    """
    slices = stack.shape[1]
    frequency = np.fft.fftfreq(2 * slices, spacing_mm[0])
    ring, cells, fine = _rings(stack.shape[2:], spacing_mm[1:])
    image = _spectrum(stack)
    power = _ring_powers(image, image, ring).mean(axis=0)
    free = False
    if difference is not None:
        other = _spectrum(difference)
        removed = _ring_powers(other, other, ring).mean(axis=0)
        square = _mean_square(_ring_powers(image, other, ring))
        shape = np.divide(square, removed, out=np.zeros_like(square), where=removed > 1e-12 * removed.max())
        followed = float(shape.mean(axis=0)[fine] @ cells[fine])
        # The window keeps anatomy of low frequency out of the high ones.
        windowed = periodograms(stack.reshape(-1, *stack.shape[2:]), hann_window=True).mean(axis=0)
        level = float(windowed.ravel()[fine[ring]].sum())
        if followed > MIN_COHERENCE * level:
            power, free = shape * level / followed, True
    # Noise power per cell of the discrete spectrum, integrated over the in-plane frequencies.
    along_z = power @ cells / np.prod(stack.shape[2:]) * spacing_mm[0]
    half = slice(0, slices + 1)
    return ZNoise(np.abs(frequency[half]), along_z[half], _correlation(along_z, slices), free)


def _spectrum(stack: Stack) -> NDArray[np.complex128]:
    """Spectrum of every region, (regions, 2·slices, cells); zeros along z keep its ends apart."""
    count, slices, rows, columns = stack.shape
    flat = detrended(np.asarray(stack, np.float64).reshape(-1, rows, columns)).reshape(stack.shape)
    padded = np.concatenate([flat, np.zeros_like(flat)], axis=1)
    spectrum: NDArray[np.complex128] = np.fft.fftn(padded, axes=(1, 2, 3)) / np.sqrt(slices * rows * columns)
    return spectrum.reshape(count, 2 * slices, -1)


def _rings(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.bool_]]:
    """Ring of every in-plane cell, cells of each ring, and which rings are above 0.25/mm."""
    down, along = (np.fft.fftfreq(count, mm) for count, mm in zip(shape, spacing_mm, strict=True))
    radius = np.hypot(down[:, None], along[None]).ravel()
    step = 1 / min(count * mm for count, mm in zip(shape, spacing_mm, strict=True))
    ring = np.round(radius / step).astype(int)
    nyquist = 0.5 / max(spacing_mm)
    fine = np.arange(ring.max() + 1) * step >= min(LEVEL_FROM_PER_MM, nyquist / 2)
    return ring, np.bincount(ring), fine


def _ring_powers(
    first: NDArray[np.complex128], second: NDArray[np.complex128], ring: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Real cross-periodogram of every region, mean over each in-plane ring, (regions, 2·slices, rings)."""
    cells = np.bincount(ring)
    matrix = np.zeros((len(ring), len(cells)))
    matrix[np.arange(len(ring)), ring] = 1 / cells[ring]
    power: NDArray[np.float64] = (first * second.conj()).real @ matrix
    return power


def _mean_square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square of the mean over regions, less the part that its random error adds."""
    count = len(values)
    error = values.var(axis=0, ddof=1) / count if count > 1 else 0.0
    square: NDArray[np.float64] = np.maximum(np.maximum(values.mean(axis=0), 0) ** 2 - error, 0)
    return square


def _correlation(power: NDArray[np.float64], slices: int) -> NDArray[np.float64]:
    """Correlation of slices 0, 1, 2 … apart from the spectrum of stacks that zeros lengthen to twice."""
    covariance = np.fft.ifft(power).real[:slices] / (1 - np.arange(slices) / slices)
    return np.asarray(covariance / covariance[0]) if covariance[0] > 0 else np.full(slices, np.nan)


def full_width_mm(offsets_mm: NDArray[np.floating], values: NDArray[np.floating]) -> float:
    """Full width at half maximum (FWHM) of a slice sensitivity profile.

    Parameters
    ----------
    offsets_mm : ndarray, shape (n,)
        Distance from the object along z, both signs, in any order; equal distances are averaged.
    values : ndarray, shape (n,)
        Response at each distance.

    Returns
    -------
    float
        mm, by linear interpolation of the mean profile; NaN where a side does not fall below half of the maximum.
    """
    at, inverse = np.unique(np.round(offsets_mm, 6), return_inverse=True)
    mean = np.bincount(inverse, values) / np.bincount(inverse)
    top = int(np.argmax(mean))
    half = mean[top] / 2
    sides = []
    for places, heights in ((at[top:], mean[top:]), (at[top::-1], mean[top::-1])):
        below = np.flatnonzero(heights < half)
        if not len(below):
            return float("nan")
        one = int(below[0])
        share = (heights[one - 1] - half) / (heights[one - 1] - heights[one])
        sides.append(abs(places[one - 1] + share * (places[one] - places[one - 1]) - at[top]))
    return float(sum(sides))
