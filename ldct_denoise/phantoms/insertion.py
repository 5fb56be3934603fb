"""Lesions that are inserted into real slices: soft-tissue discs, calcifications, lung nodules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.floating]

#: HU of the smoothed slice in which lesions of each tissue are inserted.
TISSUE_HU = {"soft tissue": (20.0, 150.0), "lung": (-950.0, -700.0)}
#: Distance of a lesion's centre from the border of its tissue.
MARGIN_MM = {"soft tissue": 12.0, "lung": 7.0}
#: Smoothing before tissues are told apart by HU: sigma of a Gaussian, mm.
SMOOTHING_MM = 2.5
#: Least distance of two lesions of a slice; a tile of this side holds a lesion and its surroundings.
APART_MM, APART_PX = 40.0, 64
#: Most lesions of one tissue in a slice.
MAX_PLACES = 8
#: Samples along the side of a pixel.
OVERSAMPLING = 5


@dataclass(frozen=True)
class InsertedLesion:
    """A disc that is inserted into a slice.

    Parameters
    ----------
    kind : {"soft tissue", "calcification", "lung nodule"}
    diameter_mm : float
    contrast_hu : float
        Contrast to its surroundings, HU.
    """

    kind: str
    diameter_mm: float
    contrast_hu: float

    @property
    def tissue(self) -> str:
        """Tissue that it is inserted into."""
        return "lung" if self.kind == "lung nodule" else "soft tissue"


#: Soft-tissue lesions from barely to well visible; calcifications; ground-glass, part-solid and solid nodules.
DEFAULT_LESIONS = (
    *(InsertedLesion("soft tissue", mm, hu) for mm in (3, 5, 8, 12, 20) for hu in (-5, -10, -20, -40)),
    *(InsertedLesion("calcification", mm, hu) for mm in (2, 3) for hu in (100, 300)),
    *(InsertedLesion("lung nodule", mm, hu) for mm in (3, 5, 8, 10) for hu in (150, 400, 850)),
)


def disc(diameter_mm: float, spacing_mm: tuple[float, float], side_px: int, blur_mm: float) -> NDArray[np.float64]:
    """A disc of height 1 in the centre of a tile, as a scanner images it.

    Parameters
    ----------
    diameter_mm : float
    spacing_mm : tuple of 2 floats
        Row and column spacing.
    side_px : int
        Side of the tile, even; the centre is between the middle pixels.
    blur_mm : float
        Resolution of the kernel: σ of a Gaussian.

    Returns
    -------
    ndarray, shape (side_px, side_px)
    """
    fine = (np.arange(side_px * OVERSAMPLING) + 0.5) / OVERSAMPLING - side_px / 2
    inside = np.hypot(fine[:, None] * spacing_mm[0], fine[None, :] * spacing_mm[1]) < diameter_mm / 2
    blurred = ndimage.gaussian_filter(
        inside.astype(np.float64), [blur_mm / mm * OVERSAMPLING for mm in spacing_mm]
    )
    return blurred.reshape(side_px, OVERSAMPLING, side_px, OVERSAMPLING).mean(axis=(1, 3))


def tile_side_px(spacing_mm: tuple[float, float]) -> int:
    """Side of the tile around a lesion, even."""
    return max(APART_PX, 2 * round(APART_MM / min(spacing_mm) / 2))


def find_places(hu: Image, spacing_mm: tuple[float, float]) -> dict[str, list[tuple[int, int]]]:
    """Places of a slice for lesions of each tissue: the most uniform ones, so far apart that tiles do not overlap.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    spacing_mm : tuple of 2 floats
        Row and column spacing.

    Returns
    -------
    dict
        Row and column of the corner that the four middle pixels of each tile share, by tissue.
    """
    side = tile_side_px(spacing_mm)
    smooth = ndimage.gaussian_filter(np.asarray(hu, np.float32), [SMOOTHING_MM / mm for mm in spacing_mm])
    window = [max(3, round(16 / mm)) for mm in spacing_mm]
    spread = ndimage.uniform_filter(smooth**2, window) - ndimage.uniform_filter(smooth, window) ** 2
    taken: list[tuple[int, int]] = []
    places: dict[str, list[tuple[int, int]]] = {}
    for tissue, (low, high) in TISSUE_HU.items():
        inside = ndimage.distance_transform_edt((smooth > low) & (smooth < high), spacing_mm) > MARGIN_MM[tissue]
        inside[: side // 2] = inside[-side // 2 :] = False
        inside[:, : side // 2] = inside[:, -side // 2 :] = False
        candidates = np.argwhere(inside)[np.argsort(spread[inside], kind="stable")]
        found: list[tuple[int, int]] = []
        for row, column in candidates.tolist():
            if all(max(abs(row - r), abs(column - c)) >= side for r, c in taken):
                found.append((row, column))
                taken.append((row, column))
            if len(found) == MAX_PLACES:
                break
        places[tissue] = found
    return places
