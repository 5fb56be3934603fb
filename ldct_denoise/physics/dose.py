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
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.metrics.noise import periodograms
from ldct_denoise.physics.exposure import expected_quanta, tube_current_ma
from ldct_denoise.physics.kernel_fit import fit_texture
from ldct_denoise.physics.local_noise import noise_surface, noise_variance
from ldct_denoise.physics.noise import (
    MAX_SLICES,
    MIN_VARIANCE_HU2,
    ROI_SIDE_PX,
    NoiseModel,
    fill_with_air,
    roi_frequencies,
    soft_tissue_rois,
    valid_pixels,
)
from ldct_denoise.physics.projection import back_project, fan_noise, filter_channels, resample
from ldct_denoise.physics.rays import ParallelGeometry
from ldct_denoise.physics.roi_spectra import (
    ANATOMY_UP_TO_PER_MM,
    NOISE_FROM_PER_MM,
    PEAK_FROM_PER_MM,
    SliceSpectra,
    anatomy_index,
    model_rings,
    noise_band,
    ring_matrix,
)
from ldct_denoise.physics.scanner import DEFAULT_SCANNER, WATER_PER_MM, Image, Rays, Scanner, detector_geometry
from ldct_denoise.physics.simulation_summary import MIN_QUANTA
from ldct_denoise.physics.slice_correlation import CorrelatedFields, noise_correlations
from ldct_denoise.physics.texture import Texture
from ldct_denoise.volume import SliceSource, slice_thickness_mm, spread_indices

#: HU of a linear attenuation of 1/mm (HU·mm).
HU_MM = 1000 / WATER_PER_MM
#: Tube current of a series whose header does not state it, mA.
DEFAULT_CURRENT_MA = 250.0
#: Fewest ROIs of soft tissue in a slice from which its noise is measured.
MIN_ROIS = 5
#: Weight of the neighbours' level in that of a slice, as a number of ROIs.
NEIGHBOUR_ROIS = 20
#: Size of a detector reading, mm·rad: a channel of 0.6 mm at the isocenter, 1152 readings a turn.
READING_MM_RAD = 0.6 * math.pi / 1152
#: Largest deviation of a slice's quanta from the median of the series, in log units: a factor of 2.
MAX_LOG_DEVIATION = math.log(2)


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
        self._spacing_mm = source.geometry.pixel_spacing_mm
        _require_frequencies(source)
        current = tube_current_ma(source)
        self.current_ma = np.full(len(source), DEFAULT_CURRENT_MA) if current is None else current
        self.expected = expected_quanta(source)
        self._rays = lru_cache(maxsize=1)(self._project)
        chosen = spread_indices(len(source), MAX_SLICES)
        measured = [self._measure(index) for index in chosen]
        usable = [spectra for spectra in measured if len(spectra.corners)]
        self._require_noise(usable)
        self._band = noise_band(usable, self._spacing_mm, model)
        if not self._band.any():
            raise InputError(
                f"{source.name}: its kernel passes too little noise above {NOISE_FROM_PER_MM:g}/mm "
                "to measure; give a sharper reconstruction, or another --noise-model"
            )
        self.texture = (
            fit_texture(usable, self._band, self._spacing_mm, self.expected, source.metadata.kernel)
            if model is None
            else Texture.of(model, self._spacing_mm)
        )
        self._noise = model_rings(self.texture.model, self._spacing_mm)
        self._log_quanta = self._calibrate(chosen, measured)
        self._fields = self._noise_fields()

    @property
    def quanta_per_ma(self) -> float:
        """Quanta emitted towards the isocenter per mm, radian and mA: one number for the scan."""
        return float(np.exp(np.median(self._log_quanta)))

    def simulate(self, index: int, dose: float, seed: int) -> Image:
        """Simulate one slice at a fraction of its dose.

        Parameters
        ----------
        index : int
        dose : float
            Fraction of the dose, 0 < dose ≤ 1.
        seed : int
            Another seed gives another noise realisation.

        Returns
        -------
        ndarray, shape (rows, columns), float32
            HU, not clipped; padding and pixels that are not finite are unchanged.
        """
        require_dose(dose)
        hu = self._source.read_hu(index)
        if dose == 1:
            return hu
        return hu + self.added_noise(index, hu, dose, seed)

    def added_noise(self, index: int, hu: Image, dose: float, seed: int) -> Image:
        """Noise that a lower dose adds to a slice.

        Parameters
        ----------
        index : int
        hu : ndarray, shape (rows, columns)
            The slice, HU.
        dose : float
            Fraction of the dose, 0 < dose < 1.
        seed : int
            Seed of the noise.

        Returns
        -------
        ndarray, shape (rows, columns), float32
            HU; 0 in padding and where ``hu`` is not finite.
        """
        rays = self._rays(index)
        spectra = self._measure(index)
        log_variance = self._log_variance(spectra)
        quanta = math.exp(self._slice_log_quanta(index, log_variance))
        quantum = rays.variance / np.float32(quanta * self.current_ma[index])
        electronic = rays.electronic_ratio(self.current_ma[index])
        missing = (1 - dose) / dose * quantum * (1 + (1 + dose) / dose * electronic)
        anatomy = anatomy_index(spectra.rings, self._band, self._spacing_mm)
        surface = noise_surface(spectra.corners, log_variance / 2, anatomy, hu.shape)
        noise = reconstruct_noise(self._fields.of_slice(index, seed), missing, rays, self.texture)
        return noise * surface * valid_pixels(hu)

    def low_count_share(self, index: int, dose: float) -> float:
        """Share of the rays through the body that have fewer than ``MIN_QUANTA`` quanta at a fraction of the dose.

        A ray is a detector reading of the whole slice thickness.

        Parameters
        ----------
        index : int
        dose : float
            Fraction of the dose, 0 < dose ≤ 1.

        Returns
        -------
        float
            0 to 1; 0 if there is no body.
        """
        rays = self._rays(index)
        emitted = math.exp(self._log_quanta[index]) * self.current_ma[index] * dose * READING_MM_RAD
        quanta = emitted / (rays.variance[rays.in_body] * rays.ray_size)
        return float(np.mean(quanta < MIN_QUANTA)) if quanta.size else 0.0

    def _project(self, index: int) -> Rays:
        hu = fill_with_air(self._source.read_hu(index))
        return Rays.from_slice(hu, self._spacing_mm, self._scanner, self._device)

    def _measure(self, index: int) -> SliceSpectra:
        """Spectra of all ROIs of soft tissue in a slice that hold noise."""
        corners, pixels = soft_tissue_rois(fill_with_air(self._source.read_hu(index)))
        frequency, matrix, _ = ring_matrix(self._spacing_mm)
        if not len(corners):
            return SliceSpectra(corners, np.empty((0, len(frequency))))
        powers = periodograms(pixels, hann_window=True).reshape(len(corners), -1)
        noisy = (
            powers[:, roi_frequencies(self._spacing_mm).ravel() > PEAK_FROM_PER_MM].mean(axis=1) > MIN_VARIANCE_HU2
        )
        corners, powers = corners[noisy], powers[noisy]
        predicted = self.ramp_noise(index)
        at = tuple(((corners + ROI_SIDE_PX / 2) * np.array(predicted.shape) / self._shape).astype(int).T)
        pixel_mm2 = self._spacing_mm[0] * self._spacing_mm[1]
        return SliceSpectra(corners, powers @ matrix * (pixel_mm2 / predicted[at])[:, None])

    @property
    def _shape(self) -> tuple[int, int]:
        return self._source.geometry.rows, self._source.geometry.columns

    def ramp_noise(self, index: int) -> Image:
        """Noise power spectrum over frequency that a ramp filter gives for one quantum per mm, radian and mA.

        Parameters
        ----------
        index : int

        Returns
        -------
        ndarray
            HU²·mm³ at each position, on a coarser grid than the slice.
        """
        rays = self._rays(index)
        variance = rays.variance * (1 + rays.electronic_ratio(self.current_ma[index]))
        scale = HU_MM**2 * rays.ray_size / (math.pi * self.current_ma[index])
        return back_project(variance, rays.geometry, device=rays.device) * np.float32(scale)

    def _require_noise(self, usable: Sequence[SliceSpectra]) -> None:
        """Raise InputError if no slice has an ROI with noise."""
        if usable:
            return
        name, chosen = self._source.name, spread_indices(len(self._source), MAX_SLICES)
        if any(len(soft_tissue_rois(fill_with_air(self._source.read_hu(index)))[0]) for index in chosen):
            raise InputError(f"{name}: has no noise to measure; give a scan with its original noise")
        raise InputError(f"{name}: no soft tissue with noise to measure; give a scan of the body")

    def _log_variance(self, spectra: SliceSpectra) -> NDArray[np.float64]:
        """Logarithm of each ROI's noise variance relative to that of one quantum per mm, radian and mA."""
        found = noise_variance(spectra.rings, self._noise, self._band, self._spacing_mm)
        return np.log(np.maximum(found, 1e-30) / self.texture.gain)

    def _calibrate(self, chosen: Sequence[int], measured: Sequence[SliceSpectra]) -> NDArray[np.float64]:
        """Logarithm of the quanta per mm, radian and mA of every slice, interpolated between measured slices."""
        enough = [(i, s) for i, s in zip(chosen, measured, strict=True) if len(s.corners) >= MIN_ROIS]
        if not enough:
            name = self._source.name
            raise InputError(f"{name}: too little soft tissue with noise to measure; give a scan of the body")
        found = np.array([-np.median(self._log_variance(spectra)) for _, spectra in enough])
        near = np.clip(found, np.median(found) - MAX_LOG_DEVIATION, np.median(found) + MAX_LOG_DEVIATION)
        return np.interp(np.arange(len(self._source)), [index for index, _ in enough], near)

    def _slice_log_quanta(self, index: int, log_variance: NDArray[np.float64]) -> float:
        """Logarithm of the quanta of a slice: its own measurement and its neighbours', weighted by the ROIs."""
        count, neighbours = len(log_variance), float(self._log_quanta[index])
        if not count:
            return neighbours
        middle = float(np.median(self._log_quanta))
        own = float(np.clip(-np.median(log_variance), middle - MAX_LOG_DEVIATION, middle + MAX_LOG_DEVIATION))
        return (count * own + NEIGHBOUR_ROIS * neighbours) / (count + NEIGHBOUR_ROIS)

    def _noise_fields(self) -> CorrelatedFields:
        """Independent noise of the rays, correlated between neighbouring slices."""
        geometry, scanner = self._source.geometry, self._scanner
        detector = detector_geometry(self._shape, self._spacing_mm, scanner)
        spacing_mm = geometry.slice_spacing_mm
        correlations = noise_correlations(spacing_mm, slice_thickness_mm(self._source), scanner.slice_correlation)
        return CorrelatedFields(
            geometry.offsets_mm, spacing_mm, correlations, lambda rng: white_noise(detector, scanner, rng)
        )


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
    white = white_noise(rays.detector, scanner, rng)
    return reconstruct_noise(white, quantum * (1 + rays.electronic_ratio(current_ma)), rays, texture)


def white_noise(detector: ParallelGeometry, scanner: Scanner, rng: np.random.Generator) -> Image:
    """Draw white noise of unit variance for all rays of the detector.

    Parameters
    ----------
    detector : ParallelGeometry
    scanner : Scanner
        Its geometry is that of the rays.
    rng : Generator

    Returns
    -------
    ndarray, shape (views, channels), float32
    """
    if scanner.geometry == "fan":
        return fan_noise(detector, scanner.source_to_centre_mm, rng)
    return rng.standard_normal((detector.views, len(detector.channels_mm)), dtype=np.float32)


def reconstruct_noise(white: Image, variance: Image, rays: Rays, texture: Texture) -> Image:
    """Reconstruct noise of the line integrals with the kernel's texture.

    Parameters
    ----------
    white : ndarray, shape (views, channels)
        Noise of unit variance at the rays of the detector.
    variance : ndarray, shape (views, channels)
        Variance of the line integrals at the projected rays.
    rays : Rays
    texture : Texture
        Noise texture of the kernel.

    Returns
    -------
    ndarray, shape (rows, columns), float32
        HU.
    """
    fine = rays.detector
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
