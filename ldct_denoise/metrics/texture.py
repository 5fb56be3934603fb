"""Mean frequency of noise, freed of the bias of detrended regions.

Removing a trend from a small region also removes coarse noise: a quadratic trend in 24 mm takes most of the power
below 0.05/mm. The mean frequency of coarse noise then appears too high, and a shift towards coarse noise too
small. This module solves for the radial spectrum that would give the measured one in such regions.

References
----------
AAPM Report 233 (TG-233), 2019: mean frequency of the radial noise power spectrum.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.metrics.noise import NoisePowerSpectrum, noise_power_spectrum, periodograms, ring_means

#: Sampled plane waves in each ring of the true spectrum: frequencies × directions.
RING_SAMPLES = (4, 9)
#: Power in the first ring over that in the second where it is proportional to the frequency.
RAMP_SHARE = 0.49
#: Lowest rings whose spectrum is kept straight, and the weight of its bend: trend removal leaves little of them.
BENT_RINGS, STRAIGHTNESS = 2, 0.02


def mean_noise_frequency(spectrum: NoisePowerSpectrum, detrend_order: int = 2) -> float:
    """Mean frequency ``∫ f·NPS df / ∫ NPS df`` of the radial spectrum, corrected for the removal of the trend.

    Rings are one frequency step wide (1/24 mm for ROIs of 24 mm); the first reaches from 0 to 1.5 steps.

    Parameters
    ----------
    spectrum : NoisePowerSpectrum
        Mean over detrended ROIs.
    detrend_order : int
        Order of the polynomial that was removed.

    Returns
    -------
    float
        1/mm; NaN where there is no power.
    """
    edges, power = _undetrended(spectrum, detrend_order)
    width, first_moment = np.diff(edges), np.diff(edges**2) / 2
    total = float(power @ width)
    return float(power @ first_moment) / total if total else float("nan")


def blurred_noise_hu(spectrum: NoisePowerSpectrum, sigma_mm: float, detrend_order: int = 2) -> float:
    """Standard deviation of the noise after a Gaussian blur: noise at the scale of a lesion.

    ``√(∫ NPS(f)·exp(−4π²σ²f²) d²f)`` over the spectrum that is corrected for the removal of the trend. Removing
    the trend leaves so little of the first ring that few ROIs do not determine it; it has at least the power that
    the ramp filter of the reconstruction gives it for that of the second ring.

    Parameters
    ----------
    spectrum : NoisePowerSpectrum
        Mean over detrended ROIs.
    sigma_mm : float
        σ of the Gaussian, mm; above 0.
    detrend_order : int
        Order of the polynomial that was removed.

    Returns
    -------
    float
        HU.
    """
    edges, power = _undetrended(spectrum, detrend_order)
    power[0] = max(power[0], RAMP_SHARE * power[1])
    decay = 4 * np.pi**2 * sigma_mm**2
    share = -np.diff(np.exp(-decay * edges**2)) * np.pi / decay
    return float(np.sqrt(power @ share))


def _undetrended(
    spectrum: NoisePowerSpectrum, detrend_order: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Limits of the rings, 1/mm, and the radial spectrum in them before the trend was removed, HU²·mm²."""
    from scipy.optimize import nnls

    rows, columns = spectrum.row_frequency, spectrum.column_frequency
    step = max(float(axis[1] - axis[0]) for axis in (rows, columns))
    edges = _ring_edges(min(-float(rows[0]), -float(columns[0])), step)
    frequency = np.hypot(rows[:, None], columns[None, :])
    power, cells = ring_means(spectrum.power, frequency, edges)
    shape, spacing = spectrum.power.shape, tuple(1 / (len(axis) * (axis[1] - axis[0])) for axis in (rows, columns))
    response = _ring_response(shape, (round(spacing[0], 6), round(spacing[1], 6)), detrend_order)
    # Rings with more cells have less random error.
    weight = np.sqrt(cells)
    largest = float(power.max())
    if not largest > 0:
        return edges, np.zeros(len(edges) - 1)
    true, _ = nnls(response * weight[:, None], power / largest * weight)
    return edges, true * largest


def before_trend_removal(spectrum: NoisePowerSpectrum) -> NoisePowerSpectrum:
    """Estimate the spectrum that the noise had before a trend was removed from the regions.

    The radial spectrum that gives the measured one in such regions is found by least squares, without negative
    power. What the trend removal left no trace of, near the frequency 0, is extrapolated linearly.

    Parameters
    ----------
    spectrum : NoisePowerSpectrum
        Mean over detrended ROIs.

    Returns
    -------
    NoisePowerSpectrum
        On the same frequencies; the same spectrum where nothing was removed, or where it has no power.
    """
    from scipy.optimize import nnls

    if spectrum.detrend_order is None or not spectrum.power.max() > 0:
        return spectrum
    rows, columns = spectrum.row_frequency, spectrum.column_frequency
    step = max(float(axis[1] - axis[0]) for axis in (rows, columns))
    edges = _ring_edges(min(-float(rows[0]), -float(columns[0])), step)
    frequency = np.hypot(rows[:, None], columns[None, :])
    measured, cells = ring_means(spectrum.power, frequency, edges)
    shape, spacing = spectrum.power.shape, tuple(1 / (len(axis) * (axis[1] - axis[0])) for axis in (rows, columns))
    response = _ring_response(shape, (round(spacing[0], 6), round(spacing[1], 6)), spectrum.detrend_order)
    weight = np.sqrt(cells / cells.sum())[:, None]
    centre = 2 / 3 * np.diff(edges**3) / np.diff(edges**2)
    bend = np.zeros((BENT_RINGS, len(measured)))  # second differences of the lowest rings
    for first in range(BENT_RINGS):
        before, after = np.diff(centre[first : first + 3])
        bend[first, first : first + 3] = (
            np.array([1 / before, -1 / before - 1 / after, 1 / after]) * (before + after) / 2
        )
    system = np.concatenate([response * weight, STRAIGHTNESS * bend])
    largest = float(measured.max())
    true, _ = nnls(system, np.concatenate([measured / largest * weight[:, 0], np.zeros(BENT_RINGS)]))
    slope = (true[1] - true[0]) / (centre[1] - centre[0])
    points = np.concatenate([[0.0], centre])
    radial = (
        np.interp(frequency, points, np.concatenate([[max(true[0] - slope * centre[0], 0.0)], true])) * largest
    )
    # Above the lowest rings the measured power keeps its directions.
    ring = np.clip(np.digitize(frequency, edges) - 1, 0, len(measured) - 1)
    kept = spectrum.power / np.maximum((response @ true * largest)[ring], 1e-12 * largest) * (true * largest)[ring]
    power = np.where(frequency < edges[2], radial, np.where(frequency < edges[-1], kept, spectrum.power))
    return NoisePowerSpectrum(power, rows, columns)


def texture_shift(
    before: NDArray[np.floating], after: NDArray[np.floating], pixel_spacing_mm: tuple[float, float]
) -> tuple[float, float]:
    """Limits of the relative change of the mean noise frequency between two images of the same ROIs.

    The change of the spectra themselves overstates a fall where anatomy remains: anatomy is coarse, and its share
    grows as noise is removed. The second limit uses cross-spectra with the removed signal ``d = before − after``,
    in which anatomy that the denoiser keeps does not take part: ``S(after, d)²/S(d, d)`` against
    ``S(before, d)²/S(d, d)``. For a linear filter of the noise these are the noise spectra after and before; what
    the denoiser did not filter linearly, or left as it was, is missing, so that a fall is understated.

    Parameters
    ----------
    before, after : ndarray, shape (n, rows, columns)
        The same ROIs before and after denoising, HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    tuple of 2 floats
        (least, largest) change; a fall is negative, and ``least`` is nearer to a rise. NaN without any power.
    """
    spectra = [noise_power_spectrum(rois, pixel_spacing_mm) for rois in (before, after)]
    direct = mean_noise_frequency(spectra[1]) / mean_noise_frequency(spectra[0]) - 1
    removed = noise_power_spectrum(np.asarray(before, np.float64) - after, pixel_spacing_mm)
    if not removed.power.max() > 1e-12 * spectra[0].power.max():
        return direct, direct  # nothing was removed
    of_before, of_after, of_removed = (
        _ring_samples(removed, rois) for rois in _cross_periodograms(np.asarray(before, np.float64), after)
    )
    scale = of_removed[1].mean(axis=0)
    floor = 1e-12 * float(scale.max())
    noise = [
        mean_noise_frequency(replace(removed, power=(_mean_square(values) / np.maximum(scale, floor))[ring]))
        for ring, values in (of_before, of_after)
    ]
    linear = noise[1] / noise[0] - 1
    found = [value for value in (direct, linear) if np.isfinite(value)]
    return (max(found), min(found)) if found else (float("nan"), float("nan"))


def _cross_periodograms(
    before: NDArray[np.float64], after: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Real cross-periodograms of before, after and the removed signal with the removed signal, of every ROI."""
    of_before, of_after, of_removed = (
        np.fft.fftshift(periodograms(rois), axes=(1, 2)) for rois in (before, after, before - after)
    )
    shared = (of_before + of_after - of_removed) / 2  # |a − b|² = |a|² + |b|² − 2·Re(a·b*)
    return of_before - shared, shared - of_after, of_removed


def _ring_samples(
    spectrum: NoisePowerSpectrum, powers: NDArray[np.float64]
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Ring of every cell of the spectrum, one frequency step wide, and the ring means of every ROI (n, rings)."""
    rows, columns = spectrum.row_frequency, spectrum.column_frequency
    step = max(float(axis[1] - axis[0]) for axis in (rows, columns))
    ring = np.round(np.hypot(rows[:, None], columns[None, :]) / step).astype(int)
    cells = np.maximum(np.bincount(ring.ravel()), 1)
    return ring, np.array([np.bincount(ring.ravel(), power.ravel()) / cells for power in powers])


def _mean_square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square of the mean over ROIs without the part that its random error adds; 0 where that is all."""
    count = len(values)
    error = values.var(axis=0, ddof=1) / count if count > 1 else 0.0
    square: NDArray[np.float64] = np.maximum(values.mean(axis=0), 0) ** 2
    return np.maximum(square - error, 0)


def _ring_edges(nyquist: float, step: float) -> NDArray[np.float64]:
    """Limits of the rings, 1/mm, up to the Nyquist frequency."""
    return np.concatenate([[0.0], np.arange(1.5, nyquist / step + 1e-9) * step, [nyquist * (1 + 1e-9)]])


@cache
def _ring_response(
    shape: tuple[int, int], spacing_mm: tuple[float, float], detrend_order: int
) -> NDArray[np.float64]:
    """Power in each measured ring (rows) per unit of the true spectrum in each ring (columns).

    Noise of a spectrum is a sum of plane waves of independent phase. Each wave is detrended and transformed as an
    ROI is; the mean over the waves of a ring, times its area, is the ring's share.
    """
    sides = tuple(count * mm for count, mm in zip(shape, spacing_mm, strict=True))
    highest = min(count // 2 / (count * mm) for count, mm in zip(shape, spacing_mm, strict=True))
    edges = _ring_edges(highest, 1 / min(sides))
    axes = (np.fft.fftfreq(count, mm) for count, mm in zip(shape, spacing_mm, strict=True))
    frequency = np.hypot(*np.meshgrid(*axes, indexing="ij"))
    y, x = (np.arange(count) * mm for count, mm in zip(shape, spacing_mm, strict=True))
    angles = np.pi * (np.arange(RING_SAMPLES[1]) + 0.37) / RING_SAMPLES[1]
    response = np.empty((len(edges) - 1, len(edges) - 1))
    for ring, (low, high) in enumerate(pairwise(edges)):
        # Equal areas between the samples: the square of the frequency is evenly spread.
        radii = np.sqrt(low**2 + (high**2 - low**2) * (np.arange(RING_SAMPLES[0]) + 0.5) / RING_SAMPLES[0])
        fy, fx = (np.outer(radii, part(angles)).ravel()[:, None, None] for part in (np.sin, np.cos))
        phase = 2 * np.pi * (fy * y[:, None] + fx * x)
        waves = np.concatenate([np.cos(phase), np.sin(phase)])
        power = 2 * periodograms(waves, detrend_order=detrend_order).mean(axis=0)
        # The sampled waves hold unit variance; the ring holds its area in units of the frequency plane.
        area = np.pi * (high**2 - low**2) * spacing_mm[0] * spacing_mm[1]
        response[:, ring] = ring_means(power * area, frequency, edges)[0]
    return response
