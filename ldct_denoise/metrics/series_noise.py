"""Noise of whole series, accumulated slice by slice: noise power spectra of the same uniform ROIs, and flicker.

A slice contributes little data, so memory use does not grow with the series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.metrics.contrast import Flicker, block_means
from ldct_denoise.metrics.noise import (
    NoisePowerSpectrum,
    RadialSpectrum,
    find_uniform_rois,
    noise_power_spectrum,
    noise_reduction_profile,
)
from ldct_denoise.metrics.texture import mean_noise_frequency
from ldct_denoise.regions.tissues import noise_tissue_mask

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Side of an ROI, mm, and its fewest pixels.
ROI_MM = 24.0
MIN_ROI_PX = 16
ROIS_PER_SLICE = 4
#: Width of the rings of the radial spectrum, 1/mm: wide enough that a few ROIs give a smooth curve.
RING_PER_MM = 0.05
#: Slices of a series whose spectra are measured, evenly spread; more hardly change the curves.
SPECTRUM_SLICES = 24


@dataclass(frozen=True)
class SliceNoise:
    """Noise measurements of every image of one slice.

    Parameters
    ----------
    offset_mm : float
        Position of the slice along its normal, mm.
    spectra : mapping from image to NoisePowerSpectrum
        Mean over the ROIs; empty where spectra were not asked for or no ROI was found.
    rois : int
        Number of ROIs.
    blocks : mapping from image to ndarray
        Means of 16×16-pixel blocks, HU; NaN outside the body.
    """

    offset_mm: float
    spectra: Mapping[str, NoisePowerSpectrum]
    rois: int
    blocks: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ImageNoise:
    """Noise of one image of one series.

    Parameters
    ----------
    noise_hu : float
        Standard deviation in the ROIs after removal of the trend, HU.
    spectrum : RadialSpectrum
        Radial noise power spectrum.
    mean_frequency_per_mm : float
        See :func:`~ldct_denoise.metrics.texture.mean_noise_frequency`.
    flicker_hu : float
        See :class:`~ldct_denoise.metrics.contrast.Flicker`; NaN without neighbouring slices.
    rois : int
        Number of ROIs of the spectrum.
    """

    noise_hu: float
    spectrum: RadialSpectrum
    mean_frequency_per_mm: float
    flicker_hu: float
    rois: int


def spectrum_slices(count: int) -> range:
    """Indices of the slices, out of ``count``, whose spectra are measured: at most 24, evenly spread."""
    return range(0, count, -(-count // SPECTRUM_SLICES) or 1)


def measure_slice_noise(
    images: Mapping[str, Image],
    guide: Image,
    body: Mask,
    pixel_spacing_mm: tuple[float, float],
    offset_mm: float,
    spectra: bool,
) -> SliceNoise:
    """Measure the noise of every image of a slice in the same ROIs, those where ``guide`` is most uniform.

    Parameters
    ----------
    images : mapping from name to ndarray, shape (rows, columns)
        HU.
    guide : ndarray, shape (rows, columns)
        Image in which uniform tissue is searched, HU: the reference.
    body : ndarray of bool, shape (rows, columns)
        Body mask.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    offset_mm : float
        Position of the slice along its normal, mm.
    spectra : bool
        Also measure spectra, which takes longer than the block means.

    Returns
    -------
    SliceNoise
    """
    found: dict[str, NoisePowerSpectrum] = {}
    rois = uniform_soft_tissue_rois(guide, body, pixel_spacing_mm) if spectra else []
    if rois:
        found = {
            name: noise_power_spectrum(np.array([hu[roi] for roi in rois]), pixel_spacing_mm)
            for name, hu in images.items()
        }
    blocks = {name: block_means(hu, body) for name, hu in images.items()}
    return SliceNoise(offset_mm, found, len(rois), blocks)


def uniform_soft_tissue_rois(
    hu: Image, body: Mask, pixel_spacing_mm: tuple[float, float], count: int = ROIS_PER_SLICE
) -> list[tuple[slice, slice]]:
    """The most uniform square ROIs (24 mm) of soft tissue or fat in a slice.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    count : int
        Largest number of ROIs.

    Returns
    -------
    list of (slice, slice)
        Rows and columns of each ROI.
    """
    size_px = max(MIN_ROI_PX, round(ROI_MM / min(pixel_spacing_mm) / 2) * 2)
    return find_uniform_rois(hu, body & noise_tissue_mask(np.asarray(hu, np.float32)), size_px, count)


@dataclass
class SeriesNoise:
    """Accumulates the noise of one series. Slices are added in order; an image may lack some slices.

    Parameters
    ----------
    slice_spacing_mm : float
        Distance of neighbouring slices; see :class:`~ldct_denoise.metrics.contrast.Flicker`.
    """

    slice_spacing_mm: float
    _power: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _axes: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    _rois: dict[str, int] = field(default_factory=dict)
    _flicker: dict[str, Flicker] = field(default_factory=dict)

    def add(self, found: SliceNoise) -> None:
        """Add the next slice."""
        for name, means in found.blocks.items():
            self._flicker.setdefault(name, Flicker(self.slice_spacing_mm)).add_means(means, found.offset_mm)
        for name, spectrum in found.spectra.items():
            self._axes = spectrum.row_frequency, spectrum.column_frequency
            self._power[name] = self._power.get(name, 0.0) + found.rois * spectrum.power
            self._rois[name] = self._rois.get(name, 0) + found.rois

    def flicker_hu(self) -> dict[str, float]:
        """Slice-to-slice change of every image, HU; NaN without neighbouring slices."""
        return {name: flicker.value_hu for name, flicker in self._flicker.items()}

    def results(self) -> dict[str, ImageNoise]:
        """Noise of every image; empty if no uniform ROI was found."""
        if self._axes is None:
            return {}
        spectra = {
            name: NoisePowerSpectrum(power / self._rois[name], *self._axes) for name, power in self._power.items()
        }
        flicker = self.flicker_hu()
        return {
            name: ImageNoise(
                spectrum.variance_hu2**0.5,
                spectrum.radial(RING_PER_MM),
                mean_noise_frequency(spectrum),
                flicker.get(name, np.nan),
                self._rois[name],
            )
            for name, spectrum in spectra.items()
        }


def noise_reduction_profiles(found: Mapping[str, ImageNoise], baseline: str) -> dict[str, RadialSpectrum]:
    """Noise reduction profile of every other image relative to ``baseline``, dB; empty if that has no noise.

    See :func:`~ldct_denoise.metrics.noise.noise_reduction_profile`.
    """
    if baseline not in found:
        return {}
    return {
        name: noise_reduction_profile(found[baseline].spectrum, item.spectrum)
        for name, item in found.items()
        if name != baseline
    }
