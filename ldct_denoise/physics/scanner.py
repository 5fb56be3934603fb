"""The simulated scanner, and the quanta that its detector receives through a slice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import ConfigError
from ldct_denoise.physics.projection import project
from ldct_denoise.physics.rays import ParallelGeometry

Image = NDArray[np.float32]

#: Attenuation of water at the effective energy of a 120 kV spectrum (about 70 keV), 1/mm (NIST XCOM: 0.0193).
WATER_PER_MM = 0.0193
#: Smoothed values below this are air or table foam, whose attenuation is neglected, HU.
AIR_HU = -900.0
#: Binning of pixels and views for the projection: attenuation varies slowly enough.
PROJECTION_BINNING = (2, 4)
#: Diameter of the water cylinder that the bow-tie filter is designed for, mm (CTDI body phantom).
BOW_TIE_MM = 320.0
#: Largest factor between the tube current of a view and the mean of the slice.
MAX_MODULATION = 2.5


@dataclass(frozen=True)
class Scanner:
    """Parameters of the simulated scanner.

    Parameters
    ----------
    geometry : {"parallel", "fan"}
        Geometry of the rays for which noise is drawn; fan-beam noise is rebinned to parallel rays.
    source_to_centre_mm : float
        Distance from the source to the isocenter, for a fan beam (595 mm in a Siemens Definition AS+).
    views : int
        Number of views over half a turn.
    electronic_noise_ma : float
        Tube current at which an unattenuated ray has as much electronic as quantum noise. For a ray of attenuation
        exp(p), the ratio of electronic to quantum variance is ``electronic_noise_ma`` · exp(p) / tube current.
    bow_tie : float
        Strength of the bow-tie filter: 0 for none, 1 if all rays through a 320 mm water cylinder are attenuated
        equally.
    modulation : float
        Tube-current modulation: the current of a view is ∝ exp(modulation · its largest line integral). 0 is
        constant, 0.5 minimises the total noise.
    slice_correlation : float, optional
        Correlation of the noise of neighbouring slices, 0 to 0.9; by default from slice spacing and thickness.

    Raises
    ------
    ConfigError
        If a value is out of range.

    References
    ----------
    Gies et al., "Dose reduction in CT by anatomically adapted tube current modulation. I", Med. Phys. 26, 1999.
    """

    geometry: Literal["parallel", "fan"] = "parallel"
    source_to_centre_mm: float = 595.0
    views: int = 720
    electronic_noise_ma: float = 0.085
    bow_tie: float = 0.35
    modulation: float = 0.5
    slice_correlation: float | None = None

    def __post_init__(self) -> None:
        if self.geometry not in ("parallel", "fan"):
            raise ConfigError(f"geometry {self.geometry!r}: give parallel or fan")
        values = self.source_to_centre_mm, self.electronic_noise_ma, self.bow_tie, self.modulation
        if not all(map(math.isfinite, values)):
            raise ConfigError("scanner: source distance, electronic noise, bow tie and modulation must be finite")
        if min(self.electronic_noise_ma, self.bow_tie, self.modulation) < 0 or self.views < 16:
            raise ConfigError("scanner: electronic noise, bow tie and modulation must be ≥ 0, views ≥ 16")
        if self.slice_correlation is not None and not 0 <= self.slice_correlation <= 0.9:
            raise ConfigError(f"slice correlation {self.slice_correlation:g}: give a number from 0 to 0.9")


#: A 120 kV body scan on a Siemens Definition AS+, fitted to the Mayo pairs (``docs/explanation/simulation.md``).
DEFAULT_SCANNER = Scanner()


@dataclass(frozen=True)
class Rays:
    """Quantum noise of the rays through one slice.

    Parameters
    ----------
    geometry : ParallelGeometry
        Rays that are projected.
    detector : ParallelGeometry
        Rays of the detector.
    variance : ndarray, shape (views, channels)
        Quantum variance of the line integral of a detector ray, at the projected rays, for one quantum per mm and
        radian emitted towards the isocenter.
    in_body : ndarray of bool, shape (views, channels)
        Projected rays that are attenuated.
    scanner : Scanner
    device : str
        Device of the projections, as torch names it.
    """

    geometry: ParallelGeometry
    detector: ParallelGeometry
    variance: Image
    in_body: NDArray[np.bool_]
    scanner: Scanner
    device: str = "cpu"

    def electronic_ratio(self, current_ma: float) -> Image:
        """Ratio of electronic to quantum variance of each ray, at a mean tube current (mA) of the slice."""
        return self.variance * np.float32(self.scanner.electronic_noise_ma * self.ray_size / current_ma)

    @property
    def ray_size(self) -> float:
        """Size of one detector ray, mm·rad."""
        return self.detector.channel_mm * math.pi / self.detector.views

    @classmethod
    def from_slice(cls, hu: Image, spacing_mm: tuple[float, float], scanner: Scanner, device: str = "cpu") -> Rays:
        """Project a slice, with bow-tie filter and tube-current modulation over the views.

        Parameters
        ----------
        hu : ndarray, shape (rows, columns)
            HU.
        spacing_mm : tuple of 2 floats
            Row and column spacing, mm.
        scanner : Scanner
        device : str
            Device of the projections, as torch names it.

        Returns
        -------
        Rays
        """
        detector = detector_geometry(hu.shape, spacing_mm, scanner)
        image, views = PROJECTION_BINNING
        coarse = replace(detector.binned(image, views), channel_mm=min(spacing_mm) * image)
        integral = project(_block_mean(attenuation(hu), image), coarse, device=device)
        peaks = integral.max(axis=1)
        current = np.exp(scanner.modulation * (peaks - peaks.mean()))
        current = np.clip(current / current.mean(), 1 / MAX_MODULATION, MAX_MODULATION)
        s = coarse.channels_mm
        chord = 2 * np.sqrt(np.clip((BOW_TIE_MM / 2) ** 2 - s**2, 0, None))
        filter_ = scanner.bow_tie * WATER_PER_MM * (BOW_TIE_MM - chord)
        log_variance = integral + filter_[None] - np.log(current)[:, None]
        ray_size = detector.channel_mm * math.pi / detector.views
        variance = (np.exp(log_variance) / ray_size).astype(np.float32)
        return cls(coarse, detector, variance, integral > 0, scanner, device)


def detector_geometry(
    shape: tuple[int, ...], spacing_mm: tuple[float, float], scanner: Scanner
) -> ParallelGeometry:
    """Rays of the detector through a slice: channels half a pixel apart.

    Parameters
    ----------
    shape : tuple of 2 ints
        Rows and columns of the slice.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    scanner : Scanner

    Returns
    -------
    ParallelGeometry
    """
    rows, columns = shape
    return ParallelGeometry(rows, columns, spacing_mm, scanner.views, min(spacing_mm) / 2)


def attenuation(hu: Image) -> Image:
    """Linear attenuation ``μ = μ_water·(1 + HU/1000)``, 1/mm; 0 in air."""
    per_mm = WATER_PER_MM * np.clip(1 + hu / 1000, 0, None)
    per_mm[ndimage.uniform_filter(hu, 5) < AIR_HU] = 0
    return per_mm.astype(np.float32)


def _block_mean(image: Image, side: int) -> Image:
    rows, columns = (length // side * side for length in image.shape)
    return image[:rows, :columns].reshape(rows // side, side, columns // side, side).mean(axis=(1, 3))
