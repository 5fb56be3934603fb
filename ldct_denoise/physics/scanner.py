"""The scanner that a simulation assumes, and what its detector receives through a slice."""

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
#: Below this, after smoothing, lies air or the table's foam: no attenuation is counted.
AIR_HU = -900.0
#: The attenuation varies slowly enough to be projected with pixels and channels twice as wide and 1/4 the views.
COARSER = (2, 4)
#: Diameter of the water cylinder that the bow-tie filter is made for, mm (the CTDI body phantom's).
BOW_TIE_MM = 320.0
#: Tube current of one view stays within this factor of the slice's mean.
MOST_MODULATION = 2.5


@dataclass(frozen=True)
class Scanner:
    """The scanner that the simulation assumes.

    Parameters
    ----------
    geometry : {"parallel", "fan"}
        How rays are arranged when noise is drawn; fan-beam noise is rebinned.
    source_to_centre_mm : float
        Of the fan (DistanceSourceToPatient; 595 mm in a Siemens Definition AS+).
    views : int
        Over half a turn.
    electronic_noise_ma : float
        Tube current at which an unattenuated ray would have as much electronic as quantum noise. In a ray of
        attenuation exp(p), electronic : quantum variance is then ``electronic_noise_ma`` · exp(p) / tube current.
    bow_tie : float
        0 for none; 1 for a filter that makes all rays through a 320 mm water cylinder equally attenuated.
    modulation : float
        Tube current of a view ∝ exp(modulation · its largest line integral): 0 constant, 0.5 optimal for the
        total noise (Gies et al., *Med. Phys.* 26, 1999).

    Raises
    ------
    ConfigError
        For values out of range.
    """

    geometry: Literal["parallel", "fan"] = "parallel"
    source_to_centre_mm: float = 595.0
    views: int = 720
    electronic_noise_ma: float = 0.07
    bow_tie: float = 0.35
    modulation: float = 0.5

    def __post_init__(self) -> None:
        if self.geometry not in ("parallel", "fan"):
            raise ConfigError(f"geometry {self.geometry!r}: give parallel or fan")
        told = self.source_to_centre_mm, self.electronic_noise_ma, self.bow_tie, self.modulation
        if not all(map(math.isfinite, told)):
            raise ConfigError("scanner: source distance, electronic noise, bow tie and modulation must be finite")
        if min(self.electronic_noise_ma, self.bow_tie, self.modulation) < 0 or self.views < 16:
            raise ConfigError("scanner: electronic noise, bow tie and modulation must be ≥ 0, views ≥ 16")


#: A 120 kV body scan on a Siemens Definition AS+, fitted to the Mayo pairs (``docs/simulation.md``).
DEFAULT_SCANNER = Scanner()


@dataclass(frozen=True)
class Rays:
    """What reaches the detector in one slice.

    Parameters
    ----------
    geometry, fine : ParallelGeometry
        Rays that are projected, and the rays of the detector.
    variance : ndarray, shape (views, channels)
        Quantum variance of a detector ray's line integral, at the projected rays, if one quantum per mm and radian
        left the tube towards the middle.
    scanner : Scanner
    device : str
        Of the projections.
    """

    geometry: ParallelGeometry
    fine: ParallelGeometry
    variance: Image
    scanner: Scanner
    device: str = "cpu"

    def electronic_share(self, current_ma: float) -> Image:
        """Electronic relative to quantum variance of each ray, at this mean tube current of the slice."""
        return self.variance * np.float32(self.scanner.electronic_noise_ma * self.per_ray / current_ma)

    @property
    def per_ray(self) -> float:
        """Millimetres times radians of one detector ray."""
        return self.fine.channel_mm * math.pi / self.fine.views

    @classmethod
    def through(cls, hu: Image, spacing_mm: tuple[float, float], scanner: Scanner, device: str = "cpu") -> Rays:
        """Project a slice: attenuation, bow-tie filter and tube-current modulation over the views."""
        rows, columns = hu.shape
        fine = ParallelGeometry(rows, columns, spacing_mm, scanner.views, min(spacing_mm) / 2)
        image, views = COARSER
        coarse = replace(fine.coarser(image, views), channel_mm=min(spacing_mm) * image)
        integral = project(_block_mean(attenuation(hu), image), coarse, device=device)
        peaks = integral.max(axis=1)
        current = np.exp(scanner.modulation * (peaks - peaks.mean()))
        current = np.clip(current / current.mean(), 1 / MOST_MODULATION, MOST_MODULATION)
        s = coarse.channels_mm
        chord = 2 * np.sqrt(np.clip((BOW_TIE_MM / 2) ** 2 - s**2, 0, None))
        filter_ = scanner.bow_tie * WATER_PER_MM * (BOW_TIE_MM - chord)
        log_variance = integral + filter_[None] - np.log(current)[:, None]
        per_ray = fine.channel_mm * math.pi / fine.views
        return cls(coarse, fine, (np.exp(log_variance) / per_ray).astype(np.float32), scanner, device)


def attenuation(hu: Image) -> Image:
    """Linear attenuation, 1/mm: μ = μ_water · (1 + HU/1000), none in air."""
    per_mm = WATER_PER_MM * np.clip(1 + hu / 1000, 0, None)
    per_mm[ndimage.uniform_filter(hu, 5) < AIR_HU] = 0
    return per_mm.astype(np.float32)


def _block_mean(image: Image, side: int) -> Image:
    rows, columns = (length // side * side for length in image.shape)
    return image[:rows, :columns].reshape(rows // side, side, columns // side, side).mean(axis=(1, 3))
