"""The phantom of ``image-quality``: rods for resolution, liver and lung with small lesions for detectability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import ConfigError
from ldct_denoise.phantoms.scan import SLICE_MM, with_noise
from ldct_denoise.volume import Geometry, Volume

Stack = NDArray[np.floating]

#: Matrix size and pixel spacing.
SIDE_PX, SPACING_MM = 256, 0.75
#: Body, and the lung in its right half.
BODY_RADIUS_MM, LUNG_RADIUS_MM = 88.0, 78.0
BACKGROUND_HU = {"liver": 50.0, "lung": -850.0}
#: Noise of the lung relative to that of the liver.
LUNG_NOISE = 0.7
#: Resolution of the simulated scanner: σ of a Gaussian, mm.
BLUR_MM = 0.6
#: Rods on a ring: contrast to the body, HU.
ROD_CONTRASTS_HU = (-100.0, 40.0, 120.0, 400.0)
ROD_RADIUS_MM, RING_MM = 14.0, 45.0
#: Regions of interest (ROIs): side in pixels, rows and columns of each background.
ROI_PX, ROI_ROWS, ROI_COLUMNS = 32, 4, 2
#: Distance of the ROIs from the border between liver and lung, pixels.
MARGIN_PX = 10
#: Samples along the side of a pixel.
OVERSAMPLING = 4


@dataclass(frozen=True)
class Lesion:
    """A disc to be detected.

    Parameters
    ----------
    background : {"liver", "lung"}
    diameter_mm : float
    contrast_hu : float
        Contrast to the background, HU.

    Raises
    ------
    ConfigError
        If the background is unknown or the diameter does not fit into an ROI of 24 mm.
    """

    background: str
    diameter_mm: float
    contrast_hu: float

    def __post_init__(self) -> None:
        if self.background not in BACKGROUND_HU:
            raise ConfigError(f"lesion: background {self.background!r} is unknown; give liver or lung")
        if not 1 <= self.diameter_mm <= 16:
            raise ConfigError(f"lesion: diameter {self.diameter_mm:g} mm; give 1 to 16 mm")

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.background}, {self.diameter_mm:g} mm, {self.contrast_hu:+g} HU"

    @classmethod
    def parse(cls, text: str) -> Lesion:
        """Parse ``BACKGROUND,DIAMETER_MM,CONTRAST_HU``.

        Raises
        ------
        ConfigError
            If the text has another form.
        """
        try:
            background, diameter_mm, contrast_hu = text.split(",")
            return cls(background.strip(), float(diameter_mm), float(contrast_hu))
        except ValueError:
            raise ConfigError(
                f"lesion {text!r}: give BACKGROUND,DIAMETER_MM,CONTRAST_HU, as in liver,7,-15"
            ) from None

    def image(self) -> NDArray[np.float64]:
        """The lesion as the scanner images it in the centre of an ROI, HU."""
        axis = ((np.arange(ROI_PX * OVERSAMPLING) + 0.5) / OVERSAMPLING - ROI_PX / 2) * SPACING_MM
        disc = np.hypot(axis[:, None], axis[None, :]) < self.diameter_mm / 2
        return self.contrast_hu * _imaged(disc.astype(np.float64))

    @property
    def sigma_mm(self) -> float:
        """Standard deviation of its imaged profile along an axis, mm."""
        return float(np.hypot(self.diameter_mm / 4, BLUR_MM))


#: Lesions near the limit of detection at a quarter of the dose.
DEFAULT_LESIONS = (
    Lesion("liver", 4, -20),
    Lesion("liver", 7, -10),
    Lesion("liver", 12, -6),
    Lesion("lung", 3, 30),
    Lesion("lung", 5, 15),
    Lesion("lung", 8, 8),
)


def rod_centres_px() -> dict[float, tuple[float, float]]:
    """Row and column of each rod's centre, by contrast."""
    angles = 2 * np.pi * np.arange(len(ROD_CONTRASTS_HU)) / len(ROD_CONTRASTS_HU) + np.pi / 4
    middle = (SIDE_PX - 1) / 2
    return {
        contrast: (middle + RING_MM * np.sin(angle) / SPACING_MM, middle + RING_MM * np.cos(angle) / SPACING_MM)
        for contrast, angle in zip(ROD_CONTRASTS_HU, angles, strict=True)
    }


def rois(background: str) -> list[tuple[slice, slice]]:
    """Rows and columns of the ROIs of a background; each is in the place of one lesion."""
    top, middle = (SIDE_PX - ROI_ROWS * ROI_PX) // 2, SIDE_PX // 2
    left = middle + MARGIN_PX if background == "lung" else middle - MARGIN_PX - ROI_COLUMNS * ROI_PX
    starts = [(top + r * ROI_PX, left + c * ROI_PX) for r in range(ROI_ROWS) for c in range(ROI_COLUMNS)]
    return [(slice(row, row + ROI_PX), slice(column, column + ROI_PX)) for row, column in starts]


def cut_rois(stack: Stack, background: str) -> Stack:
    """All ROIs of a background, shape (slices, rois, ROI_PX, ROI_PX)."""
    return np.stack([stack[:, rows, columns] for rows, columns in rois(background)], axis=1)


def rod_truth() -> NDArray[np.float64]:
    """The body with rods, without noise, HU."""
    hu, rows, columns = _body()
    for contrast, (row, column) in rod_centres_px().items():
        hu[np.hypot(rows - row, columns - column) * SPACING_MM < ROD_RADIUS_MM] = BACKGROUND_HU["liver"] + contrast
    return _imaged(hu)


def background_truth() -> NDArray[np.float64]:
    """The body with liver in its left and lung in its right half, without lesions and noise, HU."""
    hu, rows, columns = _body()
    hu[_lung(rows, columns)] = BACKGROUND_HU["lung"]
    return _imaged(hu)


def add_lesions(truth: Stack, lesions: dict[str, list[Lesion]], number: int) -> NDArray[np.float64]:
    """Add a lesion to every ROI; over as many images as there are lesions each lesion visits each ROI once.

    Parameters
    ----------
    truth : ndarray, shape (SIDE_PX, SIDE_PX)
        Background, HU.
    lesions : dict
        Lesions of each background.
    number : int
        Number of the image, from 0.

    Returns
    -------
    ndarray, shape (SIDE_PX, SIDE_PX)
    """
    image = truth.astype(np.float64)
    for background, of_background in lesions.items():
        for place, roi in enumerate(rois(background)):
            image[roi] += of_background[(place + number) % len(of_background)].image()
    return image


def scan_noise_hu(realisations: int, seed: int, *, with_lung: bool) -> NDArray[np.float32]:
    """Noise of normal-dose scans of the body, HU.

    Parameters
    ----------
    realisations : int
    seed : int
    with_lung : bool
        The right half is lung, whose noise is 0.7 times that of the liver.

    Returns
    -------
    ndarray, shape (realisations, SIDE_PX, SIDE_PX)
    """
    hu, _, _ = _body()
    volume = Volume(np.broadcast_to(_imaged(hu), (realisations, SIDE_PX, SIDE_PX)), phantom_geometry(realisations))
    noise = with_noise(volume, 1.0, seed).hu - volume.hu
    if with_lung:
        rows, columns = np.ogrid[:SIDE_PX, :SIDE_PX]
        noise[:, _lung(rows, columns)] *= LUNG_NOISE
    return noise


def phantom_geometry(slices: int) -> Geometry:
    """Geometry of the phantom's slices: centred, 3 mm apart."""
    corner = -(SIDE_PX - 1) / 2 * SPACING_MM
    positions = np.array([[corner, corner, SLICE_MM * number] for number in range(slices)])
    return Geometry(positions, (1, 0, 0), (0, 1, 0), (SPACING_MM, SPACING_MM), SIDE_PX, SIDE_PX)


def _lung(rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether points, in pixels, are in the lung."""
    middle = (SIDE_PX - 1) / 2
    inner: NDArray[np.bool_] = np.hypot(rows - middle, columns - middle) * SPACING_MM < LUNG_RADIUS_MM
    return inner & (columns > middle)


def _body() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The body in air on the fine grid, with row and column of the samples in pixels."""
    axis = (np.arange(SIDE_PX * OVERSAMPLING) + 0.5) / OVERSAMPLING - 0.5
    rows, columns, middle = axis[:, None], axis[None, :], (SIDE_PX - 1) / 2
    hu = np.full((len(axis), len(axis)), -1000.0)
    hu[np.hypot(rows - middle, columns - middle) * SPACING_MM < BODY_RADIUS_MM] = BACKGROUND_HU["liver"]
    return hu, rows, columns


def _imaged(fine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the fine samples over pixels, as detectors do, and blur by the scanner's resolution."""
    side = len(fine) // OVERSAMPLING
    coarse = fine.reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean(axis=(1, 3))
    image: NDArray[np.float64] = ndimage.gaussian_filter(coarse, BLUR_MM / SPACING_MM)
    return image
