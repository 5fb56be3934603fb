"""Noise of whole series, accumulated slice by slice: noise power spectra of the same uniform ROIs, and flicker.

A slice contributes little data, so memory use does not grow with the series.

Uniform ROIs of a patient still hold anatomy, which counts as noise of low frequency. Where a low-dose and a
normal-dose image of the same anatomy are at hand, the shape of the spectra comes from their difference, in which
anatomy cancels. Otherwise the spectra have limits; see :mod:`~ldct_denoise.metrics.unpaired_noise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.metrics.contrast import Flicker, block_means
from ldct_denoise.metrics.noise import (
    NoisePowerSpectrum,
    RadialSpectrum,
    detrended,
    find_uniform_rois,
    noise_power_spectrum,
    noise_reduction_profile,
)
from ldct_denoise.metrics.noise_by_scale import SCALES_MM, Blotches, count_blotches, noise_transfer
from ldct_denoise.metrics.texture import blurred_noise_hu, mean_noise_frequency
from ldct_denoise.metrics.unpaired_noise import (
    LEVEL_FROM_PER_MM,
    RING_PER_MM,
    NoiseLimits,
    RoiStack,
    merge_stacks,
    noise_limits,
    roi_side_px,
    stack_rois,
)
from ldct_denoise.regions.tissues import noise_tissue_mask

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Largest number of ROIs of a slice that has a pair.
ROIS_PER_SLICE = 4
#: Slices of a series whose spectra are measured, evenly spread; more hardly change the curves.
SPECTRUM_SLICES = 24
#: Images whose difference holds no anatomy.
LOW_DOSE, NORMAL_DOSE = "input", "reference"
#: Smallest share of an image's power above that frequency that must follow the difference.
MIN_COHERENCE = 0.25


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
    difference : ndarray or None
        Power of low dose − normal dose in the same ROIs, HU²·mm²; None where one of the two is missing.
    cross : mapping from image to ndarray
        Real part of the cross-spectrum of each image with that difference, HU²·mm².
    blotches : mapping from image to Blotches
    roi_noise_hu : mapping from image to list of float
        Standard deviation of every ROI without its trend, HU.
    quiet_rois : RoiStack or None
        ROIs with the least anatomy; None for a slice with both doses.
    """

    offset_mm: float
    spectra: Mapping[str, NoisePowerSpectrum]
    rois: int
    blocks: Mapping[str, NDArray[np.float64]]
    difference: NDArray[np.float64] | None = None
    cross: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    blotches: Mapping[str, Blotches] = field(default_factory=dict)
    roi_noise_hu: Mapping[str, Sequence[float]] = field(default_factory=dict)
    quiet_rois: RoiStack | None = None


@dataclass(frozen=True)
class ImageNoise:
    """Noise of one image of one series.

    Parameters
    ----------
    noise_hu : float
        Standard deviation in the ROIs after removal of the trend, HU; an upper limit without the difference.
    spectrum : RadialSpectrum
        Radial noise power spectrum; an upper limit without the difference.
    mean_frequency_per_mm : float
        See :func:`~ldct_denoise.metrics.texture.mean_noise_frequency`.
    flicker_hu : float
        See :class:`~ldct_denoise.metrics.contrast.Flicker`; NaN without neighbouring slices.
    rois : int
        Number of ROIs of the spectrum.
    is_free_of_anatomy : bool
        Whether the spectrum comes from the difference of a low- and a normal-dose image. Otherwise anatomy in the
        ROIs is part of it, and all figures are upper limits.
    blurred_noise_hu : dict from float to float
        Noise after a Gaussian of each σ (mm), HU.
    blotches_per_100_cm2 : float
        See :func:`~ldct_denoise.metrics.noise_by_scale.count_blotches`; anatomy in the ROIs counts too.
    limits : NoiseLimits or None
        Limits of the spectrum; None where it comes from the difference.
    """

    noise_hu: float
    spectrum: RadialSpectrum
    mean_frequency_per_mm: float
    flicker_hu: float
    rois: int
    is_free_of_anatomy: bool
    blurred_noise_hu: dict[float, float]
    blotches_per_100_cm2: float
    limits: NoiseLimits | None = None


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

    An image that chooses its own ROIs loses power: those where its noise happens to be flat are taken. The
    difference of low and normal dose is not affected, nor are images that are not the guide.

    Parameters
    ----------
    images : mapping from name to ndarray, shape (rows, columns)
        HU.
    guide : ndarray, shape (rows, columns)
        Image in which uniform tissue is searched, HU: the mean of the neighbouring slices, or the reference.
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
    difference, cross = None, {}
    blotches: dict[str, Blotches] = {}
    levels: dict[str, Sequence[float]] = {}
    if rois:
        stacks = {name: np.array([hu[roi] for roi in rois], np.float64) for name, hu in images.items()}
        found = {name: noise_power_spectrum(stack, pixel_spacing_mm) for name, stack in stacks.items()}
        blotches = {name: count_blotches(hu, rois, pixel_spacing_mm) for name, hu in images.items()}
        levels = {name: detrended(stack).std(axis=(1, 2)).tolist() for name, stack in stacks.items()}
        if LOW_DOSE in stacks and NORMAL_DOSE in stacks:
            removed = stacks[LOW_DOSE] - stacks[NORMAL_DOSE]
            difference = noise_power_spectrum(removed, pixel_spacing_mm).power
            for name, stack in stacks.items():  # |a + d|² = |a|² + |d|² + 2·Re(a·d*)
                total = noise_power_spectrum(stack + removed, pixel_spacing_mm).power
                cross[name] = (total - found[name].power - difference) / 2
    blocks = {name: block_means(hu, body) for name, hu in images.items()}
    quiet = None
    if spectra and NORMAL_DOSE in images and LOW_DOSE not in images:
        quiet = stack_rois(images, NORMAL_DOSE, body, pixel_spacing_mm)
    return SliceNoise(offset_mm, found, len(rois), blocks, difference, cross, blotches, levels, quiet)


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
    mask = body & noise_tissue_mask(np.asarray(hu, np.float32))
    return find_uniform_rois(hu, mask, roi_side_px(pixel_spacing_mm), count)


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
    _difference: NDArray[np.float64] | float = 0.0
    _difference_rois: int = 0
    _cross: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _blotches: dict[str, Blotches] = field(default_factory=dict)
    _roi_noise_hu: dict[str, list[float]] = field(default_factory=dict)
    _quiet_rois: list[RoiStack] = field(default_factory=list)

    def add(self, found: SliceNoise) -> None:
        """Add the next slice."""
        for name, means in found.blocks.items():
            self._flicker.setdefault(name, Flicker(self.slice_spacing_mm)).add_means(means, found.offset_mm)
        for name, spectrum in found.spectra.items():
            self._axes = spectrum.row_frequency, spectrum.column_frequency
            self._power[name] = self._power.get(name, 0.0) + found.rois * spectrum.power
            self._rois[name] = self._rois.get(name, 0) + found.rois
            self._roi_noise_hu.setdefault(name, []).extend(found.roi_noise_hu[name])
            before, now = self._blotches.get(name, Blotches(0, 0.0)), found.blotches[name]
            self._blotches[name] = Blotches(before.number + now.number, before.area_cm2 + now.area_cm2)
        if found.quiet_rois is not None:
            self._quiet_rois.append(found.quiet_rois)
        if found.difference is not None:
            self._difference = self._difference + found.rois * found.difference
            self._difference_rois += found.rois
            for name, power in found.cross.items():
                self._cross[name] = self._cross.get(name, 0.0) + found.rois * power

    def flicker_hu(self) -> dict[str, float]:
        """Slice-to-slice change of every image, HU; NaN without neighbouring slices."""
        return {name: flicker.value_hu for name, flicker in self._flicker.items()}

    def results(self) -> dict[str, ImageNoise]:
        """Noise of every image; empty if no uniform ROI was found."""
        if self._axes is None:
            return {}
        flicker, quiet = self.flicker_hu(), merge_stacks(self._quiet_rois)
        found: dict[str, ImageNoise] = {}
        for name, power in self._power.items():
            direct = NoisePowerSpectrum(power / self._rois[name], *self._axes)
            by_difference = self._without_anatomy(name, direct)
            limits = None
            if by_difference is None and quiet is not None and name in quiet.pixels:
                limits = noise_limits(quiet, name, self._spacing_mm())
            spectrum = by_difference or (limits.upper if limits else direct)
            found[name] = ImageNoise(
                spectrum.variance_hu2**0.5,
                spectrum.radial(RING_PER_MM),
                mean_noise_frequency(spectrum),
                flicker.get(name, np.nan),
                limits.rois if limits else self._rois[name],
                by_difference is not None,
                {sigma_mm: blurred_noise_hu(spectrum, sigma_mm) for sigma_mm in SCALES_MM},
                self._blotches[name].per_100_cm2,
                limits,
            )
        return found

    def noise_transfer(self, before: str, after: str) -> list[tuple[float, float]]:
        """Noise out for noise in of two images, HU: means over groups of ROIs."""
        levels = [self._roi_noise_hu.get(name, []) for name in (before, after)]
        return noise_transfer(*levels) if len(levels[0]) == len(levels[1]) else []

    def _spacing_mm(self) -> tuple[float, float]:
        assert self._axes is not None
        row, column = (0.5 / -float(axis[0]) for axis in self._axes)
        return row, column

    def _without_anatomy(self, name: str, direct: NoisePowerSpectrum) -> NoisePowerSpectrum | None:
        """Spectrum with the shape of the noise that follows the difference and the level of the image's own.

        The noise of low and normal dose has the shape of the spectrum of their difference ``D``: one kernel, one
        scanner. A denoiser changes noise by the frequency response ``h = S(image, d)/D``, in which anatomy does
        not take part, so that its output's noise has the shape ``h²·D``. The level is that of the image above
        0.25/mm, where anatomy is negligible. None without a difference in all ROIs of the image, or where the
        image does not follow it.
        """
        if not self._difference_rois or self._difference_rois != self._rois[name]:
            return None
        removed = np.asarray(self._difference) / self._difference_rois
        frequency = np.hypot(direct.row_frequency[:, None], direct.column_frequency[None, :])
        nyquist = min(-float(direct.row_frequency[0]), -float(direct.column_frequency[0]))
        fine = frequency >= min(LEVEL_FROM_PER_MM, nyquist / 2)
        shape = removed
        if name not in (LOW_DOSE, NORMAL_DOSE):
            cross = self._cross[name] / self._difference_rois
            shape = cross**2 / np.maximum(removed, 1e-12 * removed.max() + 1e-30)
            followed, level = shape[fine].sum(), direct.power[fine].sum()
            if not followed * self._input_share(removed, fine) > MIN_COHERENCE * level:
                return None
        if not shape[fine].sum() > 0:
            return None
        return replace(direct, power=shape * direct.power[fine].sum() / shape[fine].sum())

    def _input_share(self, removed: NDArray[np.float64], fine: Mask) -> float:
        """Noise power of low dose relative to that of the difference, above 0.25/mm."""
        low = self._power[LOW_DOSE] / self._rois[LOW_DOSE]
        return float(low[fine].sum() / max(removed[fine].sum(), 1e-30))


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
