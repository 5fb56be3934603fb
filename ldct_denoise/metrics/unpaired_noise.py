"""Noise spectrum of a series that has no pair: two limits, because ROIs of a patient also hold anatomy.

ROIs have to be chosen where there is least anatomy. An image that chooses its own ROIs loses noise, because those
are taken where its noise happens to be flat. Here one half of the frequencies chooses the ROIs and the other half
is measured in them, then the reverse. Noise of the two halves is independent; anatomy is in both.

The anatomy that is left in these ROIs makes the measured spectrum the upper limit. The lower limit comes from the
reconstruction: filtered back-projection gives noise ∝ f·T(f)², T being the kernel's transfer function, whereas
anatomy and denoised noise have more power at low frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.metrics.noise import NoisePowerSpectrum, noise_power_spectrum, periodograms, ring_means
from ldct_denoise.metrics.texture import blurred_noise_hu, mean_noise_frequency
from ldct_denoise.regions.tissues import noise_tissue_mask

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Side of an ROI, mm, and its fewest pixels.
ROI_MM, MIN_ROI_PX = 24.0, 16
#: Frequencies from which anatomy in uniform ROIs is negligible against noise, 1/mm. They give the level.
LEVEL_FROM_PER_MM = 0.25
#: ROIs are ranked by their power below this frequency, where anatomy is strong, 1/mm.
ANATOMY_BELOW_PER_MM = 0.15
#: Share of the candidates that is used, and their smallest number.
QUIET_SHARE, MIN_ROIS = 0.05, 16
#: Share of the candidates of one slice that is kept until the series is complete.
KEPT_SHARE = 0.12
#: The curve f·exp(a − b·f²) is fitted up to this frequency and extrapolated below the first one, 1/mm.
EXTRAPOLATED_BELOW_PER_MM, FITTED_UP_TO_PER_MM = 0.2, 0.42
#: Coarser pixels do not separate noise from anatomy: smallest Nyquist frequency of a lower limit, 1/mm.
MIN_NYQUIST_PER_MM = 0.45
#: Width of the rings in which the limits are compared, 1/mm, and their largest ratio where power is stated.
RING_PER_MM, STATED_RATIO = 0.05, 1.25


class RoiStack(NamedTuple):
    """ROIs of one slice or of a series, in several images.

    Parameters
    ----------
    pixels : mapping from image to ndarray of float32, shape (n, rows, columns)
        HU.
    anatomy : ndarray, shape (n, 2)
        Power at low frequencies over that at high frequencies, in each half of the frequencies.
    candidates : int
        Number of ROIs from which these are chosen.
    """

    pixels: Mapping[str, NDArray[np.float32]]
    anatomy: NDArray[np.float64]
    candidates: int

    def quietest(self, share: float = QUIET_SHARE) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        """Indices of the ROIs with the least anatomy in the first and in the second half of the frequencies."""
        count = max(MIN_ROIS, round(share * self.candidates))
        order = np.argsort(self.anatomy, axis=0, kind="stable")[:count]
        return order[:, 0], order[:, 1]

    def quiet_pixels(self, image: str) -> NDArray[np.float32]:
        """The ROIs of an image that either half of the frequencies chooses, shape (n, rows, columns), HU."""
        return self.pixels[image][np.union1d(*self.quietest())]


@dataclass(frozen=True)
class NoiseLimits:
    """Limits of a noise power spectrum.

    Parameters
    ----------
    upper : NoisePowerSpectrum
        As measured in the ROIs with the least anatomy.
    lower : NoisePowerSpectrum or None
        With at most the power that filtered back-projection leaves at low frequencies; None where the pixels are
        too coarse to tell noise from anatomy.
    stated_from_per_mm : float
        Above this frequency the limits differ by at most 25 %, 1/mm; infinite without a lower limit.
    rois : int
        Number of ROIs.
    """

    upper: NoisePowerSpectrum
    lower: NoisePowerSpectrum | None
    stated_from_per_mm: float
    rois: int

    @property
    def noise_hu(self) -> tuple[float, float]:
        """Limits of the standard deviation of the noise, HU; the lower is 0 where nothing is known."""
        return self._both(lambda spectrum: spectrum.variance_hu2**0.5)

    @property
    def mean_frequency_per_mm(self) -> tuple[float, float]:
        """Limits of the mean frequency, 1/mm; the lower belongs to the upper limit of the power."""
        limits = [mean_noise_frequency(spectrum) for spectrum in (self.upper, self.lower or self.upper)]
        return min(limits), max(limits)

    def blurred_hu(self, sigma_mm: float) -> tuple[float, float]:
        """Limits of the noise after a Gaussian of σ (mm), HU; the lower is 0 where nothing is known."""
        return self._both(lambda spectrum: blurred_noise_hu(spectrum, sigma_mm))

    def _both(self, value: Callable[[NoisePowerSpectrum], float]) -> tuple[float, float]:
        return (value(self.lower) if self.lower else 0.0), value(self.upper)


def roi_side_px(pixel_spacing_mm: tuple[float, float]) -> int:
    """Side of an ROI (24 mm) in pixels: even, and at least 16."""
    return max(MIN_ROI_PX, round(ROI_MM / min(pixel_spacing_mm) / 2) * 2)


def candidate_rois(hu: Image, body: Mask, pixel_spacing_mm: tuple[float, float]) -> list[tuple[slice, slice]]:
    """All square ROIs (24 mm) of soft tissue or fat on a grid of a third of their side.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    list of (slice, slice)
        Rows and columns of each ROI.
    """
    size = roi_side_px(pixel_spacing_mm)
    half, step = size // 2, size // 3
    tissue = body & noise_tissue_mask(np.asarray(hu, np.float32))
    whole = ndimage.minimum_filter(tissue.astype(np.uint8), size, mode="constant") > 0
    rows, columns = np.nonzero(whole[half::step, half::step])
    return [(slice(r, r + size), slice(c, c + size)) for r, c in zip(rows * step, columns * step, strict=True)]


def stack_rois(
    images: Mapping[str, Image], guide: str, body: Mask, pixel_spacing_mm: tuple[float, float]
) -> RoiStack | None:
    """The ROIs of a slice with the least anatomy, in every image.

    Parameters
    ----------
    images : mapping from name to ndarray, shape (rows, columns)
        HU.
    guide : str
        Name of the image in which tissue and anatomy are judged; the one with its original noise.
    body : ndarray of bool, shape (rows, columns)
        Body mask.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    RoiStack or None
        None if there is no ROI.
    """
    rois = candidate_rois(images[guide], body, pixel_spacing_mm)
    if not rois:
        return None
    anatomy = anatomy_by_half(np.array([images[guide][roi] for roi in rois], np.float64), pixel_spacing_mm)
    kept = np.union1d(*RoiStack({}, anatomy, len(rois)).quietest(KEPT_SHARE))
    pixels = {name: np.array([hu[rois[at]] for at in kept], np.float32) for name, hu in images.items()}
    return RoiStack(pixels, anatomy[kept], len(rois))


def merge_stacks(stacks: Sequence[RoiStack]) -> RoiStack | None:
    """The ROIs of several slices, for the images that all of them have; None without a slice."""
    if not stacks:
        return None
    names = [name for name in stacks[0].pixels if all(name in stack.pixels for stack in stacks)]
    return RoiStack(
        {name: np.concatenate([stack.pixels[name] for stack in stacks]) for name in names},
        np.concatenate([stack.anatomy for stack in stacks]),
        sum(stack.candidates for stack in stacks),
    )


def anatomy_by_half(rois: NDArray[np.floating], pixel_spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Amount of anatomy in each ROI: power below 0.15/mm over that above 0.25/mm, in each half of the frequencies.

    Parameters
    ----------
    rois : ndarray, shape (n, rows, columns)
        HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (n, 2)
    """
    power, (rows, columns) = periodograms(rois), rois.shape[1:]
    frequency, fine = _frequencies(rows, columns, pixel_spacing_mm)
    coarse = (frequency > 0) & (frequency < min(ANATOMY_BELOW_PER_MM, 0.6 * _level_from(frequency)))
    ratios = []
    for half in _halves(rows, columns):
        level = np.maximum(power[:, fine & half].mean(axis=1), 1e-12)
        ratios.append(power[:, coarse & half].sum(axis=1) / level)
    return np.stack(ratios, axis=1)


def noise_limits(stack: RoiStack, image: str, pixel_spacing_mm: tuple[float, float]) -> NoiseLimits:
    """Limits of the noise power spectrum of an image.

    Parameters
    ----------
    stack : RoiStack
        ROIs of the series.
    image : str
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    NoiseLimits
    """
    rois, quietest = stack.pixels[image], stack.quietest()
    spectra = [noise_power_spectrum(rois[chosen], pixel_spacing_mm) for chosen in quietest]
    halves = [np.fft.fftshift(half) for half in _halves(*rois.shape[1:])]
    upper = replace(spectra[0], power=np.where(halves[0], spectra[1].power, spectra[0].power))
    lower, stated_from = _lower_limit(upper), np.inf
    if lower is not None:
        high, low = upper.radial(RING_PER_MM), lower.radial(RING_PER_MM)
        differ = high.power > STATED_RATIO * low.power
        first = int(np.nonzero(differ)[0].max()) + 1 if differ.any() else 0
        stated_from = first * RING_PER_MM
    return NoiseLimits(upper, lower, stated_from, len(np.union1d(*quietest)))


def _lower_limit(upper: NoisePowerSpectrum) -> NoisePowerSpectrum | None:
    """The spectrum with at most the power of f·exp(a − b·f²), fitted above it, at low frequencies."""
    rows, columns = upper.row_frequency, upper.column_frequency
    frequency = np.hypot(rows[:, None], columns[None, :])
    if min(-rows[0], -columns[0]) < MIN_NYQUIST_PER_MM:
        return None
    edges = np.arange(0, FITTED_UP_TO_PER_MM + RING_PER_MM / 2, RING_PER_MM / 2)
    power, cells = ring_means(upper.power, frequency, edges)
    middle, _ = ring_means(frequency, frequency, edges)
    used = (middle > ANATOMY_BELOW_PER_MM) & (middle < FITTED_UP_TO_PER_MM) & (power > 0)
    if np.count_nonzero(used) < 3:
        return None
    weight = np.sqrt(cells[used])
    terms = np.stack([np.ones(weight.size), middle[used] ** 2], axis=1) * weight[:, None]
    a, b = np.linalg.lstsq(terms, np.log(power[used] / middle[used]) * weight, rcond=None)[0]
    ramp = frequency * np.exp(a + b * frequency**2)
    return replace(
        upper,
        power=np.where(frequency < EXTRAPOLATED_BELOW_PER_MM, np.minimum(upper.power, ramp), upper.power),
    )


def _frequencies(
    rows: int, columns: int, pixel_spacing_mm: tuple[float, float]
) -> tuple[NDArray[np.float64], Mask]:
    """Radial frequency of each cell, 1/mm, and the cells that give the level."""
    frequency = np.hypot(
        np.fft.fftfreq(rows, pixel_spacing_mm[0])[:, None], np.fft.fftfreq(columns, pixel_spacing_mm[1])[None]
    )
    return frequency, frequency >= _level_from(frequency)


def _level_from(frequency: NDArray[np.float64]) -> float:
    nyquist = min(float(frequency[:, 0].max()), float(frequency[0].max()))
    return min(LEVEL_FROM_PER_MM, nyquist / 2)


def _halves(rows: int, columns: int) -> tuple[Mask, Mask]:
    """Two halves of the frequencies, as on a chessboard; a frequency and its negative are in the same half."""
    row, column = np.ogrid[:rows, :columns]
    first = (np.minimum(row, rows - row) + np.minimum(column, columns - column)) % 2 == 0
    return first, ~first
