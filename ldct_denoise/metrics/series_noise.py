"""Noise of whole series, gathered slice by slice: power spectra at the same uniform squares, and flicker.

What one slice contributes is small, so memory stays flat.
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
    noise_power_spectrum,
    noise_reduction_profile,
    uniform_places,
)
from ldct_denoise.regions.tissues import noise_tissue_mask

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

ROI_MM = 24.0
ROIS_PER_SLICE = 4
RING_PER_MM = 0.05  # coarse enough that a few squares give a smooth curve
SPECTRUM_SLICES = 24  # of a series, spread along it: more change the curves little


@dataclass(frozen=True)
class SliceNoise:
    """What one slice tells of every image: spectra of its uniform squares, and block means.

    Parameters
    ----------
    offset_mm : float
        Where it lies along the normal.
    spectra : mapping from image to NoisePowerSpectrum
        Empty where spectra were not asked for, or no square fits.
    squares : int
    blocks : mapping from image to ndarray
        NaN outside the body.
    """

    offset_mm: float
    spectra: Mapping[str, NoisePowerSpectrum]
    squares: int
    blocks: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ImageNoise:
    """One image of one series.

    Parameters
    ----------
    noise_hu : float
        Root of the spectrum's integral: the standard deviation in the squares, trend removed.
    spectrum : RadialSpectrum
    flicker_hu : float
        See :class:`~ldct_denoise.metrics.contrast.Flicker`; NaN without neighbouring slices.
    squares : int
        How many went into the spectrum.
    """

    noise_hu: float
    spectrum: RadialSpectrum
    flicker_hu: float
    squares: int


def spectrum_slices(count: int) -> range:
    """Which of ``count`` slices of a series are enough for its spectra: at most 24, spread along it."""
    return range(0, count, -(-count // SPECTRUM_SLICES) or 1)


def measure_slice(
    images: Mapping[str, Image],
    guide: Image,
    body: Mask,
    pixel_spacing_mm: tuple[float, float],
    offset_mm: float,
    spectra: bool,
) -> SliceNoise:
    """Measure every image of a slice at the same squares, those where ``guide`` is most uniform.

    Parameters
    ----------
    images : mapping from name to ndarray, shape (rows, columns)
        HU.
    guide : ndarray
        Where to look for uniform soft tissue: the reference.
    body : ndarray of bool
    pixel_spacing_mm : tuple of 2 floats
    offset_mm : float
        Where the slice lies along the normal.
    spectra : bool
        Also the spectra, which take longer than the block means.
    """
    found: dict[str, NoisePowerSpectrum] = {}
    places = soft_squares(guide, body, pixel_spacing_mm) if spectra else []
    if places:
        found = {
            name: noise_power_spectrum(np.array([hu[place] for place in places]), pixel_spacing_mm)
            for name, hu in images.items()
        }
    blocks = {name: block_means(hu, body) for name, hu in images.items()}
    return SliceNoise(offset_mm, found, len(places), blocks)


def soft_squares(
    hu: Image, body: Mask, pixel_spacing_mm: tuple[float, float], count: int = ROIS_PER_SLICE
) -> list[tuple[slice, slice]]:
    """The most uniform squares (24 mm) of soft tissue in a slice."""
    size = max(16, round(ROI_MM / min(pixel_spacing_mm) / 2) * 2)
    return uniform_places(hu, body & noise_tissue_mask(np.asarray(hu, np.float32)), size, count)


@dataclass
class SeriesNoise:
    """The sums of one series; slices are added in order along it, and not every image need have every slice.

    Parameters
    ----------
    slice_spacing_mm : float
        Of neighbours; see :class:`~ldct_denoise.metrics.contrast.Flicker`.
    """

    slice_spacing_mm: float
    _power: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _axes: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    _squares: dict[str, int] = field(default_factory=dict)
    _flicker: dict[str, Flicker] = field(default_factory=dict)

    def add(self, found: SliceNoise) -> None:
        """The next slice."""
        for name, means in found.blocks.items():
            self._flicker.setdefault(name, Flicker(self.slice_spacing_mm)).add_means(means, found.offset_mm)
        for name, spectrum in found.spectra.items():
            self._axes = spectrum.row_frequency, spectrum.column_frequency
            self._power[name] = self._power.get(name, 0.0) + found.squares * spectrum.power
            self._squares[name] = self._squares.get(name, 0) + found.squares

    def flicker_hu(self) -> dict[str, float]:
        """Slice-to-slice change of every image, HU; NaN without neighbouring slices."""
        return {name: flicker.value_hu for name, flicker in self._flicker.items()}

    def results(self) -> dict[str, ImageNoise]:
        """Every image's noise; empty where no uniform square was found."""
        if self._axes is None:
            return {}
        spectra = {
            name: NoisePowerSpectrum(sums / self._squares[name], *self._axes) for name, sums in self._power.items()
        }
        flicker = self.flicker_hu()
        return {
            name: ImageNoise(
                spectrum.variance_hu2**0.5,
                spectrum.radial(RING_PER_MM),
                flicker.get(name, np.nan),
                self._squares[name],
            )
            for name, spectrum in spectra.items()
        }


def reduction_profiles(found: Mapping[str, ImageNoise], baseline: str) -> dict[str, RadialSpectrum]:
    """:func:`~ldct_denoise.metrics.noise.noise_reduction_profile` of every other image against one of them, dB."""
    if baseline not in found:
        return {}
    return {
        name: noise_reduction_profile(found[baseline].spectrum, item.spectrum)
        for name, item in found.items()
        if name != baseline
    }
