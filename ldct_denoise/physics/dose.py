"""A lower dose simulated from a normal-dose series: only the missing noise is made, and added to the image.

The image is projected to find how many quanta reach each detector channel; the noise that the lower dose would add
to each ray is drawn and reconstructed with the noise texture of the series itself, so that the anatomy is not
blurred by a second reconstruction. With q quanta detected of a ray at normal dose and E the variance of the
electronic noise in quanta², the line integral's variance is 1/q + E/q². At a fraction a of the dose it is
1/(a·q) + E/(a·q)²; what is missing is

    (1 − a)/a · (1/q) · (1 + (1 + a)/a · E/q)

(Yu et al., *J. Comput. Assist. Tomogr.* 36, 2012: "Development and validation of a practical lower-dose-simulation
tool"). How many quanta there are is not in the image's header: it is found from the noise that the image has.
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
    LEAST_VARIANCE,
    MOST_SLICES,
    SIDE,
    NoiseModel,
    estimate_noise,
    is_image,
    roi_frequencies,
    soft_tissue_rois,
    with_air,
)
from ldct_denoise.physics.projection import back_project, fan_noise, filter_channels, resample
from ldct_denoise.physics.scanner import DEFAULT_SCANNER, WATER_PER_MM, Image, Rays, Scanner
from ldct_denoise.physics.texture import Texture, noise_texture
from ldct_denoise.volume import SliceSource

#: HU of a linear attenuation of 1/mm.
HU_MM = 1000 / WATER_PER_MM
#: Noise is measured where the kernel passes at least this share of its peak power.
LEAST_POWER = 0.25
#: … and at frequencies (1/mm) where anatomy is faint.
FAINT_FROM_PER_MM = 0.25
#: Up to this frequency (1/mm) anatomy shows.
ANATOMY_TO_PER_MM = 0.12
#: Tube current, mA, of a series that does not tell it.
ASSUMED_MA = 250.0
#: Fewest squares of soft tissue in a slice that tell its noise.
LEAST_SQUARES = 5


class DoseSimulator:
    """Simulates lower doses of one normal-dose series.

    Parameters
    ----------
    source : SliceSource
    scanner : Scanner
    model : NoiseModel, optional
        Noise spectrum of the kernel; measured in the series without.
    device : str
        Of the projections: the noise drawn is the same on all, to rounding.

    Raises
    ------
    InputError
        If the series has no soft tissue or no noise to measure, or pixels too coarse or too fine to do so.
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
        self.current_ma = np.full(len(source), ASSUMED_MA) if current is None else current
        self.quanta_per_ma = self._calibrate()

    def simulate(self, index: int, dose: float, seed: int) -> Image:
        """One slice at a fraction of its dose.

        Parameters
        ----------
        index : int
        dose : float
            0 < dose ≤ 1.
        seed : int
            Another seed is another scan; each slice has its own noise.

        Returns
        -------
        ndarray, shape (rows, columns), float32
            HU, not clipped; padding and pixels that are not finite stay as they are.
        """
        require_dose(dose)
        hu = self._source.read_hu(index)
        if dose == 1:
            return hu
        return hu + self.added_noise(index, hu, dose, np.random.default_rng([17, seed, index]))

    def added_noise(self, index: int, hu: Image, dose: float, rng: np.random.Generator) -> Image:
        """The noise that a slice lacks at a fraction of its dose, HU.

        Parameters
        ----------
        index : int
        hu : ndarray, shape (rows, columns)
            The slice; where it holds no HU, none are added.
        dose : float
        rng : Generator
        """
        seen, hu = is_image(hu), with_air(hu)
        rays = Rays.through(hu, self._source.geometry.pixel_spacing_mm, self._scanner, self._device)
        quantum = rays.variance / np.float32(self.quanta_per_ma[index] * self.current_ma[index])
        electronic = rays.electronic_share(self.current_ma[index])
        missing = (1 - dose) / dose * quantum * (1 + (1 + dose) / dose * electronic)
        squares = self._tissue_noise(index, hu, rays)
        surface = noise_surface(squares.corners, squares.log_sigma, squares.anatomy, hu.shape)
        return draw_noise(missing, rays, self.texture, self._scanner, rng) * surface * seen

    def _calibrate(self) -> NDArray[np.float64]:
        """Quanta per mm, radian and mA of every slice: measured where there is tissue, interpolated between."""
        count = len(self._source)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_SLICES)).round().astype(int))
        found = np.log([self._measure_quanta(int(index)) for index in chosen])
        seen = np.isfinite(found)
        if not seen.any():
            raise InputError(f"{self._source.name}: no soft tissue with noise to measure; give a scan of the body")
        return np.exp(np.interp(np.arange(count), chosen[seen], found[seen]))

    def _measure_quanta(self, index: int) -> float:
        """Quanta per mm, radian and mA that explain the noise of a slice; NaN where it has too little tissue."""
        hu = with_air(self._source.read_hu(index))
        rays = Rays.through(hu, self._source.geometry.pixel_spacing_mm, self._scanner, self._device)
        squares = self._tissue_noise(index, hu, rays)
        if len(squares.corners) < LEAST_SQUARES:
            return math.nan
        return 1 / noise_level(
            squares.spectra, squares.anatomy, self.texture.model, self._source.geometry.pixel_spacing_mm
        )

    def _tissue_noise(self, index: int, hu: Image, rays: Rays) -> RoiNoise:
        """What the squares of soft tissue tell of a slice's own noise."""
        spacing_mm = self._source.geometry.pixel_spacing_mm
        corners, pixels = soft_tissue_rois(hu)
        radius = roi_frequencies(spacing_mm)
        expected = self.texture.model.power(radius)
        used = (expected > LEAST_POWER) & (radius > FAINT_FROM_PER_MM)
        if not used.any():
            raise InputError(
                f"{self._source.name}: its kernel passes too little noise above {FAINT_FROM_PER_MM:g}/mm "
                "to measure; give a sharper reconstruction, or another --noise-model"
            )
        spectra = periodograms(pixels, hann_window=True)
        noisy = spectra[:, used].mean(axis=1) > LEAST_VARIANCE
        corners, spectra = corners[noisy], spectra[noisy]
        if not len(corners):
            return RoiNoise(corners, np.empty(0), np.empty(0), spectra)
        measured = spectra[:, used].mean(axis=1) * expected.mean() / expected[used].mean()
        anatomy = spectra[:, (radius > 0) & (radius < ANATOMY_TO_PER_MM)].mean(axis=1) / measured
        predicted = self.variance_map(index, rays)
        at = tuple(((corners + SIDE / 2) * np.array(predicted.shape) / hu.shape).astype(int).T)
        relative = spectra / predicted[at][:, None, None]
        return RoiNoise(corners, np.log(measured / predicted[at]) / 2, anatomy, relative)

    def variance_map(self, index: int, rays: Rays) -> Image:
        """Variance of a slice's own noise for one quantum per mm, radian and mA, HU²; on a coarser grid."""
        gain = HU_MM**2 * math.pi / rays.fine.views * self.texture.noise_gain(rays.fine.channel_mm)
        variance = rays.variance * (1 + rays.electronic_share(self.current_ma[index]))
        return back_project(variance, rays.geometry, device=rays.device) * np.float32(
            gain / self.current_ma[index]
        )


@dataclass(frozen=True)
class RoiNoise:
    """Squares of soft tissue: first row and column, log of measured over predicted sigma (one quantum per mm,
    radian and mA), what is in them besides noise, and their spectra relative to the predicted variance.
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
    """The noise with which a scanner would see a noise-free slice, HU.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
    spacing_mm : tuple of 2 floats
    texture : Texture
    quanta_per_ma : float
        That leave the tube towards the middle of the field, per mm, radian and mA.
    current_ma : float
    scanner : Scanner
    rng : Generator
    """
    rays = Rays.through(hu, spacing_mm, scanner)
    quantum = rays.variance / np.float32(quanta_per_ma * current_ma)
    return draw_noise(quantum * (1 + rays.electronic_share(current_ma)), rays, texture, scanner, rng)


def draw_noise(variance: Image, rays: Rays, texture: Texture, scanner: Scanner, rng: np.random.Generator) -> Image:
    """White noise of this variance (of line integrals, at the projected rays), reconstructed; HU."""
    fine = rays.fine
    if scanner.geometry == "fan":
        white = fan_noise(fine, scanner.source_to_centre_mm, rng)
    else:
        white = rng.standard_normal((fine.views, len(fine.channels_mm)), dtype=np.float32)
    noise = white * resample(np.sqrt(variance), rays.geometry, fine)

    def response(frequency: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        # Back-projection interpolates linearly between channels, which the filter makes up for.
        return texture.response(frequency) / np.sinc(frequency * fine.channel_mm) ** 2

    return back_project(filter_channels(noise, fine, response), fine, device=rays.device) * np.float32(HU_MM)


def _require_frequencies(source: SliceSource) -> None:
    """Refuse pixels whose squares hold no frequency at which noise, or anatomy, shows."""
    radius, millimetres = roi_frequencies(source.geometry.pixel_spacing_mm), max(source.geometry.pixel_spacing_mm)
    if radius.max() <= FAINT_FROM_PER_MM:
        raise InputError(
            f"{source.name}: pixels of {millimetres:.1f} mm are too coarse to measure noise in; give smaller"
        )
    if radius[radius > 0].min() >= ANATOMY_TO_PER_MM:
        raise InputError(
            f"{source.name}: pixels of {millimetres:.2f} mm are too fine to tell anatomy from noise; give larger"
        )


def require_dose(dose: float) -> None:
    """Raise :class:`ConfigError` unless 0 < dose ≤ 1."""
    if not 0 < dose <= 1:
        raise ConfigError(f"dose {dose:g}: give a fraction of the series' dose, above 0 and at most 1")


def tube_current_ma(source: SliceSource) -> NDArray[np.float64] | None:
    """Tube current of every slice, where the headers say so."""
    current_ma = source.metadata.tube_current_ma
    if not current_ma or any(not current for current in current_ma):
        return None
    return np.asarray(current_ma, float)
