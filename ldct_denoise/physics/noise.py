"""Noise models measured from images alone, and noise drawn from them.

No normal-dose partner and no repeated scan is needed. The most uniform small regions of interest (ROIs) of soft
tissue give the noise power spectrum (NPS) of a reconstruction kernel, and the noise level of every slice. The
periodograms of the ROIs are those of :func:`ldct_denoise.metrics.noise.periodograms` with a Hann window.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.metrics.noise import periodograms, ring_means
from ldct_denoise.regions.tissues import noise_tissue_mask
from ldct_denoise.volume import SliceSource, spread_indices

#: Side of the ROIs, and distance between the positions that are tried, pixels.
ROI_SIDE_PX, ROI_STEP_PX = 32, 8
#: Fraction of the ROIs that are used, the most uniform ones, and their smallest number.
UNIFORM_FRACTION, MIN_UNIFORM_ROIS = 0.2, 10
#: Width of a frequency bin, 1/mm.
BIN_PER_MM = 0.05
#: Below this frequency residual anatomy outweighs noise, so the spectrum is extrapolated from above, 1/mm.
TRUSTED_FROM_PER_MM = 0.1
#: ROIs are ranked by their power below this frequency, where anatomy is strong, 1/mm.
ANATOMY_BELOW_PER_MM = 0.12
#: Largest number of slices of a series that are measured, evenly spread.
MAX_SLICES = 40
#: Value of air, and the value below which pixels are padding (−2000, −3024): no scanner noise reaches that low.
AIR_HU, PADDING_BELOW_HU = -1000.0, -1500.0
#: Variance below which an ROI holds no noise but rounding, HU².
MIN_VARIANCE_HU2 = 1e-6


@dataclass(frozen=True)
class NoiseModel:
    """Noise of one reconstruction kernel.

    Parameters
    ----------
    kernel : str
        Convolution kernel; empty if it is unknown.
    frequencies_per_mm : ndarray, shape (bins,)
        Centres of the radial bins, 1/mm.
    nps : ndarray, shape (bins,)
        Radial noise power spectrum relative to its maximum.
    sigma_hu : ndarray, shape (slices,)
        Standard deviation in uniform soft tissue of each measured slice, HU.
    """

    kernel: str
    frequencies_per_mm: NDArray[np.float64]
    nps: NDArray[np.float64]
    sigma_hu: NDArray[np.float64]

    @property
    def mean_frequency_per_mm(self) -> float:
        """Mean frequency of the radial spectrum, 1/mm."""
        return float(np.sum(self.frequencies_per_mm * self.nps) / np.sum(self.nps))

    @property
    def peak_frequency_per_mm(self) -> float:
        """Frequency of the maximum of the radial spectrum, 1/mm."""
        return float(self.frequencies_per_mm[np.argmax(self.nps)])

    def power(self, frequency_per_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Relative power at any frequency (1/mm): interpolated, 0 at frequency 0 and above the last bin."""
        frequencies = np.concatenate([[0.0], self.frequencies_per_mm])
        return np.interp(frequency_per_mm, frequencies, np.concatenate([[0.0], self.nps]), right=0.0)

    def draw_fields(
        self, count: int, height: int, width: int, spacing_mm: tuple[float, float], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Draw stationary Gaussian noise fields of unit variance with this spectrum.

        Parameters
        ----------
        count : int
            Number of fields.
        height, width : int
            Size of a field, pixels.
        spacing_mm : tuple of 2 floats
            Row and column spacing of the image, mm.
        rng : Generator

        Returns
        -------
        ndarray, shape (count, height, width), float32
        """
        # The fields are periodic; twice the size keeps opposite edges apart.
        radius = half_plane_frequencies(2 * height, 2 * width, spacing_mm)
        return filtered_noise(self.power(radius), (count, height, width), rng)

    def save(self, path: Path) -> None:
        """Write the model to a JSON file."""
        content = {
            key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()
        }
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> NoiseModel:
        """Read a model that :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is not a noise model.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            arrays = {key: np.asarray(content[key], float) for key in ("frequencies_per_mm", "nps", "sigma_hu")}
            _check_spectrum(arrays["frequencies_per_mm"], arrays["nps"])
            return cls(str(content["kernel"]), **arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a noise model ({error})") from None

    @classmethod
    def merge(cls, models: Sequence[NoiseModel]) -> NoiseModel:
        """Merge models of the same kernel: mean spectrum weighted by measured slices, and all noise levels."""
        weights = [len(model.sigma_hu) for model in models]
        nps = np.average([model.nps for model in models], axis=0, weights=weights)
        sigma_hu = np.concatenate([model.sigma_hu for model in models])
        return cls(models[0].kernel, models[0].frequencies_per_mm, nps / nps.max(), sigma_hu)


def _check_spectrum(frequencies_per_mm: NDArray[np.float64], nps: NDArray[np.float64]) -> None:
    """Raise ValueError unless there are at least two rising frequencies with powers ≥ 0, not all 0."""
    if frequencies_per_mm.ndim != 1 or frequencies_per_mm.shape != nps.shape or len(nps) < 2:
        raise ValueError("frequencies_per_mm and nps must be two lists of one length, of at least 2")
    if not (np.isfinite(frequencies_per_mm).all() and np.all(np.diff(frequencies_per_mm, prepend=0) > 0)):
        raise ValueError("frequencies_per_mm must rise from above 0")
    if not (np.isfinite(nps).all() and nps.min() >= 0 and nps.max() > 0):
        raise ValueError("nps must be ≥ 0, and more somewhere")


def valid_pixels(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mask of pixels that hold HU: finite and not padding."""
    return np.isfinite(hu) & (hu >= PADDING_BELOW_HU)


def fill_with_air(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace padding and values that are not finite by air."""
    return np.where(valid_pixels(hu), hu, np.float32(AIR_HU))


@lru_cache(maxsize=32)
def half_plane_frequencies(rows: int, columns: int, spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Radial frequency of each coefficient of ``rfft2``, 1/mm.

    Parameters
    ----------
    rows, columns : int
        Size of the image, pixels.
    spacing_mm : tuple of 2 floats
        Row and column spacing.

    Returns
    -------
    ndarray, shape (rows, columns // 2 + 1)
        Read-only, because it is shared between calls.
    """
    down, along = np.fft.fftfreq(rows, spacing_mm[0]), np.fft.rfftfreq(columns, spacing_mm[1])
    radius: NDArray[np.float64] = np.hypot(down[:, None], along[None])
    radius.setflags(write=False)
    return radius


def filtered_noise(
    power: NDArray[np.float64], shape: tuple[int, int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw Gaussian noise fields of unit variance with a given power spectrum.

    Parameters
    ----------
    power : ndarray, shape (2·height, width + 1)
        Relative power on the half plane of ``rfft2`` of twice the size; see :func:`half_plane_frequencies`.
    shape : tuple of 3 ints
        (count, height, width).
    rng : Generator

    Returns
    -------
    ndarray, shape (count, height, width), float32
    """
    count, height, width = shape
    area = (2 * height, 2 * width)
    twice = np.full(width + 1, 2.0)
    twice[[0, -1]] = 1.0  # these columns of the half plane have no mirror image
    variance = (power @ twice).sum() / (area[0] * area[1])
    white = fft.rfft2(rng.standard_normal((count, *area), dtype=np.float32))
    white *= np.sqrt(power / variance).astype(np.float32)
    fields: NDArray[np.float32] = fft.irfft2(white, s=area, overwrite_x=True)[:, :height, :width]
    return fields


def estimate_noise(source: SliceSource) -> NoiseModel:
    """Measure the noise of a series in its most uniform ROIs of soft tissue.

    Parameters
    ----------
    source : SliceSource

    Returns
    -------
    NoiseModel

    Raises
    ------
    InputError
        If no slice has a uniform ROI of soft tissue, or none has noise.
    """
    spacing_mm = source.geometry.pixel_spacing_mm
    count = len(source)
    chosen = spread_indices(count, MAX_SLICES)
    spectra, sigmas, is_tissue = [], [], False
    for index in chosen:
        rois = uniform_roi_spectra(fill_with_air(source.read_hu(index)), spacing_mm)
        is_tissue |= len(rois) > 0
        if len(rois) and rois.mean() > MIN_VARIANCE_HU2:
            spectra.append(rois.mean(axis=0))
            sigmas.append(np.sqrt(rois.mean()))
    if is_tissue and not spectra:
        raise InputError(f"{source.name}: has no noise to measure; give a scan with its original noise")
    if not spectra:
        raise InputError(f"{source.name}: no uniform soft tissue to measure noise in; leave it out")
    # Spectra are normalised so that all slices have equal weight; otherwise the noisiest would dominate.
    shape = np.mean([spectrum / spectrum.mean() for spectrum in spectra], axis=0)
    frequencies, nps = radial_nps(shape, spacing_mm)
    nps = without_anatomy(frequencies, nps)
    return NoiseModel(source.metadata.kernel, frequencies, nps / nps.max(), np.asarray(sigmas))


def uniform_roi_spectra(hu: NDArray[np.float32], spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Periodograms of the most uniform ROIs of a slice.

    ROIs are ranked by their power at low frequencies, where anatomy is strong, relative to that at high
    frequencies.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (n, ROI_SIDE_PX, ROI_SIDE_PX)
        HU²; the mean of a periodogram is the variance.
    """
    rois = soft_tissue_rois(hu)[1]
    if not len(rois):
        return np.empty((0, ROI_SIDE_PX, ROI_SIDE_PX))
    spectra = periodograms(rois, hann_window=True)
    kept = max(min(MIN_UNIFORM_ROIS, len(spectra)), round(UNIFORM_FRACTION * len(spectra)))
    best: NDArray[np.float64] = spectra[np.argsort(anatomy_ratio(spectra, spacing_mm))[:kept]]
    return best


def anatomy_ratio(spectra: NDArray[np.float64], spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Power of ROIs at low frequencies, where anatomy is strong, over that at high ones, shape (n,)."""
    radius = roi_frequencies(spacing_mm)
    low = spectra[:, (radius > 0) & (radius < ANATOMY_BELOW_PER_MM)].mean(axis=1)
    high = spectra[:, radius > 0.5 * radius.max() / np.sqrt(2)].mean(axis=1)
    ratio: NDArray[np.float64] = low / np.maximum(high, 1e-9)
    return ratio


def soft_tissue_rois(
    hu: NDArray[np.float32], step: int = ROI_STEP_PX
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """All ROIs that lie completely in soft tissue or fat.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    step : int
        Distance between the positions that are tried, pixels.

    Returns
    -------
    corners : ndarray of int, shape (n, 2)
        First row and column of each ROI.
    rois : ndarray, shape (n, ROI_SIDE_PX, ROI_SIDE_PX)
        HU.
    """
    tissue = noise_tissue_mask(hu).astype(np.uint8)
    inside = ndimage.minimum_filter(tissue, size=ROI_SIDE_PX, origin=-(ROI_SIDE_PX // 2))[::step, ::step].astype(
        bool
    )
    corners = np.argwhere(inside) * step
    corners = corners[(corners[:, 0] <= hu.shape[0] - ROI_SIDE_PX) & (corners[:, 1] <= hu.shape[1] - ROI_SIDE_PX)]
    rois = [hu[row : row + ROI_SIDE_PX, column : column + ROI_SIDE_PX] for row, column in corners]
    return corners, np.asarray(rois, float).reshape(-1, ROI_SIDE_PX, ROI_SIDE_PX)


def roi_frequencies(spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Frequency of each cell of an ROI's spectrum, 1/mm, shape (ROI_SIDE_PX, ROI_SIDE_PX)."""
    down, along = (np.fft.fftfreq(ROI_SIDE_PX, spacing) for spacing in spacing_mm)
    return np.hypot(down[:, None], along[None])


def radial_nps(
    spectrum: NDArray[np.float64], spacing_mm: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radial mean of an ROI's spectrum.

    Parameters
    ----------
    spectrum : ndarray, shape (ROI_SIDE_PX, ROI_SIDE_PX)
        Zero frequency first.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    frequencies_per_mm : ndarray, shape (bins,)
        Centres of the bins, 1/mm.
    power : ndarray, shape (bins,)
        In the unit of ``spectrum``; 0 in empty bins above the highest frequency.
    """
    edges = np.arange(0.5, 24) * BIN_PER_MM
    return (edges[:-1] + edges[1:]) / 2, ring_means(spectrum, roi_frequencies(spacing_mm), edges)[0]


def without_anatomy(frequencies_per_mm: NDArray[np.float64], nps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove residual anatomy below the peak of the spectrum.

    Below its peak the noise power of filtered back-projection rises with frequency (the ramp filter); excess power
    there is anatomy. The power is limited to rise up to the peak, and to be at most proportional to frequency
    below ``TRUSTED_FROM_PER_MM``.
    """
    trusted = frequencies_per_mm >= TRUSTED_FROM_PER_MM
    peak = int(np.argmax(np.where(trusted, nps, 0)))
    rising = nps.copy()
    rising[: peak + 1] = np.minimum.accumulate(nps[peak::-1])[::-1]
    first = int(np.argmax(trusted))
    rising[:first] = np.minimum(
        rising[:first], rising[first] * frequencies_per_mm[:first] / frequencies_per_mm[first]
    )
    return rising
