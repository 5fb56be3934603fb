"""Simulation of a lower dose from a normal-dose series: only the missing noise is generated and added.

The image is projected to find how many quanta reach each detector channel. The noise that the lower dose would add
to each ray is drawn and reconstructed with the noise texture of the series itself, so the anatomy is not blurred
by a second reconstruction. With q detected quanta of a ray at normal dose and electronic noise of variance E
(quanta²), the variance of the line integral is 1/q + E/q². At a fraction a of the dose it is 1/(a·q) + E/(a·q)².
The missing variance is

    (1 − a)/a · (1/q) · (1 + (1 + a)/a · E/q)

The number of quanta is not in the image header; it is estimated from the noise of the image.

References
----------
Yu et al., "Development and validation of a practical lower-dose-simulation tool for optimizing computed tomography
scan protocols", J. Comput. Assist. Tomogr. 36, 2012.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.metrics.noise import periodograms
from ldct_denoise.physics.local_noise import noise_level, noise_surface
from ldct_denoise.physics.noise import (
    MAX_SLICES,
    MIN_VARIANCE_HU2,
    ROI_SIDE_PX,
    NoiseModel,
    estimate_noise,
    fill_with_air,
    roi_frequencies,
    soft_tissue_rois,
    valid_pixels,
)
from ldct_denoise.physics.projection import back_project, fan_noise, filter_channels, resample
from ldct_denoise.physics.scanner import DEFAULT_SCANNER, WATER_PER_MM, Image, Rays, Scanner
from ldct_denoise.physics.texture import Texture, noise_texture
from ldct_denoise.volume import SliceSource, spread_indices

#: HU of a linear attenuation of 1/mm (HU·mm).
HU_MM = 1000 / WATER_PER_MM
#: Noise is measured at frequencies where the kernel passes at least this fraction of its peak power …
MIN_KERNEL_POWER = 0.25
#: … and above this frequency, where anatomy is weak, 1/mm.
NOISE_FROM_PER_MM = 0.25
#: Anatomy is measured up to this frequency, 1/mm.
ANATOMY_UP_TO_PER_MM = 0.12
#: Tube current of a series whose header does not state it, mA.
DEFAULT_CURRENT_MA = 250.0
#: Fewest ROIs of soft tissue in a slice from which its noise is measured.
MIN_ROIS = 5


class DoseSimulator:
    """Simulates lower doses of one normal-dose series.

    Parameters
    ----------
    source : SliceSource
        Normal-dose series.
    scanner : Scanner
    model : NoiseModel, optional
        Noise power spectrum of the kernel; by default measured in the series.
    device : str
        Device of the projections, as torch names it. The noise is the same on all devices, apart from rounding.

    Raises
    ------
    InputError
        If the series has no soft tissue or no noise, or its pixels are too coarse or too fine to measure noise.
    """

    def __init__(
        self,
        source: SliceSource,
        scanner: Scanner = DEFAULT_SCANNER,
        model: NoiseModel | None = None,
        device: str = "cpu",
    ) -> None:
        self._source, self._scanner, self._device = source, scanner, device
        spacing_mm = source.geometry.pixel_spacing_mm
        _require_frequencies(source)
        self.texture = (
            noise_texture(estimate_noise(source), spacing_mm) if model is None else Texture.of(model, spacing_mm)
        )
        current = tube_current_ma(source)
        self.current_ma = np.full(len(source), DEFAULT_CURRENT_MA) if current is None else current
        self.quanta_per_ma = self._calibrate()

    def simulate(self, index: int, dose: float, seed: int) -> Image:
        """Simulate one slice at a fraction of its dose.

        Parameters
        ----------
        index : int
        dose : float
            Fraction of the dose, 0 < dose ≤ 1.
        seed : int
            Another seed gives another noise realisation. The noise of every slice is independent.

        Returns
        -------
        ndarray, shape (rows, columns), float32
            HU, not clipped; padding and pixels that are not finite are unchanged.
        """
        require_dose(dose)
        hu = self._source.read_hu(index)
        if dose == 1:
            return hu
        return hu + self.added_noise(index, hu, dose, np.random.default_rng([17, seed, index]))

    def added_noise(self, index: int, hu: Image, dose: float, rng: np.random.Generator) -> Image:
        """Noise that a lower dose adds to a slice.

        Parameters
        ----------
        index : int
        hu : ndarray, shape (rows, columns)
            The slice, HU.
        dose : float
            Fraction of the dose, 0 < dose < 1.
        rng : Generator

        Returns
        -------
        ndarray, shape (rows, columns), float32
            HU; 0 in padding and where ``hu`` is not finite.
        """
        seen, hu = valid_pixels(hu), fill_with_air(hu)
        rays = Rays.from_slice(hu, self._source.geometry.pixel_spacing_mm, self._scanner, self._device)
        quantum = rays.variance / np.float32(self.quanta_per_ma[index] * self.current_ma[index])
        electronic = rays.electronic_ratio(self.current_ma[index])
        missing = (1 - dose) / dose * quantum * (1 + (1 + dose) / dose * electronic)
        rois = self._roi_noise(index, hu, rays)
        surface = noise_surface(rois.corners, rois.log_sigma, rois.anatomy, hu.shape)
        return draw_noise(missing, rays, self.texture, self._scanner, rng) * surface * seen

    def _calibrate(self) -> NDArray[np.float64]:
        """Quanta per mm, radian and mA of every slice, interpolated between slices with tissue."""
        count = len(self._source)
        chosen = spread_indices(count, MAX_SLICES)
        found = np.log([self._measure_quanta(index) for index in chosen])
        seen = np.isfinite(found)
        if not seen.any():
            raise InputError(f"{self._source.name}: no soft tissue with noise to measure; give a scan of the body")
        return np.exp(np.interp(np.arange(count), np.array(chosen)[seen], found[seen]))

    def _measure_quanta(self, index: int) -> float:
        """Quanta per mm, radian and mA that explain the noise of a slice; NaN if it has too little tissue."""
        hu = fill_with_air(self._source.read_hu(index))
        rays = Rays.from_slice(hu, self._source.geometry.pixel_spacing_mm, self._scanner, self._device)
        rois = self._roi_noise(index, hu, rays)
        if len(rois.corners) < MIN_ROIS:
            return math.nan
        return 1 / noise_level(
            rois.spectra, rois.anatomy, self.texture.model, self._source.geometry.pixel_spacing_mm
        )

    def _roi_noise(self, index: int, hu: Image, rays: Rays) -> RoiNoise:
        """Measure the noise of a slice in ROIs of soft tissue."""
        spacing_mm = self._source.geometry.pixel_spacing_mm
        corners, pixels = soft_tissue_rois(hu)
        radius = roi_frequencies(spacing_mm)
        expected = self.texture.model.power(radius)
        used = (expected > MIN_KERNEL_POWER) & (radius > NOISE_FROM_PER_MM)
        if not used.any():
            raise InputError(
                f"{self._source.name}: its kernel passes too little noise above {NOISE_FROM_PER_MM:g}/mm "
                "to measure; give a sharper reconstruction, or another --noise-model"
            )
        spectra = periodograms(pixels, hann_window=True)
        noisy = spectra[:, used].mean(axis=1) > MIN_VARIANCE_HU2
        corners, spectra = corners[noisy], spectra[noisy]
        if not len(corners):
            return RoiNoise(corners, np.empty(0), np.empty(0), spectra)
        measured = spectra[:, used].mean(axis=1) * expected.mean() / expected[used].mean()
        anatomy = spectra[:, (radius > 0) & (radius < ANATOMY_UP_TO_PER_MM)].mean(axis=1) / measured
        predicted = self.variance_map(index, rays)
        at = tuple(((corners + ROI_SIDE_PX / 2) * np.array(predicted.shape) / hu.shape).astype(int).T)
        relative = spectra / predicted[at][:, None, None]
        return RoiNoise(corners, np.log(measured / predicted[at]) / 2, anatomy, relative)

    def variance_map(self, index: int, rays: Rays) -> Image:
        """Variance of a slice's noise for one quantum per mm, radian and mA.

        Parameters
        ----------
        index : int
        rays : Rays
            Rays through the slice.

        Returns
        -------
        ndarray
            HU², on a coarser grid than the slice.
        """
        gain = HU_MM**2 * math.pi / rays.detector.views * self.texture.noise_gain(rays.detector.channel_mm)
        variance = rays.variance * (1 + rays.electronic_ratio(self.current_ma[index]))
        return back_project(variance, rays.geometry, device=rays.device) * np.float32(
            gain / self.current_ma[index]
        )


@dataclass(frozen=True)
class RoiNoise:
    """Noise in ROIs of soft tissue.

    Parameters
    ----------
    corners : ndarray of int, shape (n, 2)
        First row and column of each ROI.
    log_sigma : ndarray, shape (n,)
        Logarithm of the measured standard deviation over that predicted for one quantum per mm, radian and mA.
    anatomy : ndarray, shape (n,)
        Power at low frequencies relative to the noise.
    spectra : ndarray, shape (n, side, side)
        Periodograms relative to the predicted variance.
    """

    corners: NDArray[np.int_]
    log_sigma: NDArray[np.float64]
    anatomy: NDArray[np.float64]
    spectra: NDArray[np.float64]


def scan_noise(
    hu: Image,
    spacing_mm: tuple[float, float],
    texture: Texture,
    *,
    quanta_per_ma: float,
    current_ma: float,
    scanner: Scanner,
    rng: np.random.Generator,
) -> Image:
    """Noise of a simulated scan of a noise-free slice.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        Noise-free slice, HU.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    texture : Texture
        Noise texture of the kernel.
    quanta_per_ma : float
        Quanta emitted towards the isocenter, per mm, radian and mA.
    current_ma : float
        Mean tube current of the slice, mA.
    scanner : Scanner
    rng : Generator

    Returns
    -------
    ndarray, shape (rows, columns), float32
        HU.
    """
    rays = Rays.from_slice(hu, spacing_mm, scanner)
    quantum = rays.variance / np.float32(quanta_per_ma * current_ma)
    return draw_noise(quantum * (1 + rays.electronic_ratio(current_ma)), rays, texture, scanner, rng)


def draw_noise(variance: Image, rays: Rays, texture: Texture, scanner: Scanner, rng: np.random.Generator) -> Image:
    """Draw white noise of the line integrals and reconstruct it with the kernel's texture.

    Parameters
    ----------
    variance : ndarray, shape (views, channels)
        Variance of the line integrals at the projected rays.
    rays : Rays
    texture : Texture
        Noise texture of the kernel.
    scanner : Scanner
    rng : Generator

    Returns
    -------
    ndarray, shape (rows, columns), float32
        HU.
    """
    fine = rays.detector
    if scanner.geometry == "fan":
        white = fan_noise(fine, scanner.source_to_centre_mm, rng)
    else:
        white = rng.standard_normal((fine.views, len(fine.channels_mm)), dtype=np.float32)
    noise = white * resample(np.sqrt(variance), rays.geometry, fine)

    def response(frequency: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        # The filter compensates the linear interpolation between channels in the back-projection.
        return texture.response(frequency) / np.sinc(frequency * fine.channel_mm) ** 2

    return back_project(filter_channels(noise, fine, response), fine, device=rays.device) * np.float32(HU_MM)


def _require_frequencies(source: SliceSource) -> None:
    """Raise InputError if the ROIs cover no frequency at which noise, or anatomy, can be measured."""
    radius, millimetres = roi_frequencies(source.geometry.pixel_spacing_mm), max(source.geometry.pixel_spacing_mm)
    if radius.max() <= NOISE_FROM_PER_MM:
        raise InputError(
            f"{source.name}: pixels of {millimetres:.1f} mm are too coarse to measure noise in; give smaller"
        )
    if radius[radius > 0].min() >= ANATOMY_UP_TO_PER_MM:
        raise InputError(
            f"{source.name}: pixels of {millimetres:.2f} mm are too fine to tell anatomy from noise; give larger"
        )


def require_dose(dose: float) -> None:
    """Raise :class:`ConfigError` unless 0 < dose ≤ 1."""
    if not 0 < dose <= 1:
        raise ConfigError(f"dose {dose:g}: give a fraction of the series' dose, above 0 and at most 1")


def tube_current_ma(source: SliceSource) -> NDArray[np.float64] | None:
    """Tube current of every slice, mA; None if the header of a slice does not state it."""
    current_ma = source.metadata.tube_current_ma
    if not current_ma or any(not current for current in current_ma):
        return None
    return np.asarray(current_ma, float)
