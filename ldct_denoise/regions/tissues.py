"""HU ranges of tissues, and masks by HU range."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ldct_denoise.errors import ConfigError
from ldct_denoise.volume import Image, Mask


class TissueRange(NamedTuple):
    """HU range of a tissue, and the width of the border that its mask leaves out.

    Parameters
    ----------
    low_hu, high_hu : float
        Range of the smoothed image, HU, both ends included.
    border_mm : float
        Pixels this close to the edge of the tissue are left out: they are partial volume.
    """

    low_hu: float
    high_hu: float
    border_mm: float


#: Width of the Gaussian (σ) that an image is smoothed with before tissues are found; with less, noise decides.
TISSUE_SMOOTHING_MM = 2.0
#: The tissue classes by name. Cortical bone is thin, so its border is narrower.
TISSUES: dict[str, TissueRange] = {
    "lung": TissueRange(-1000.0, -600.0, 2.0),
    "fat": TissueRange(-140.0, -50.0, 2.0),
    "soft-tissue": TissueRange(0.0, 120.0, 2.0),
    "bone": TissueRange(200.0, 3071.0, 1.0),
}
#: HU range in which noise is measured: fat, organs and muscle, where anatomy varies slowly.
NOISE_TISSUE_HU = (-160.0, 160.0)
#: Width of the Gaussian (σ) that an image is smoothed with before :data:`NOISE_TISSUE_HU` is applied, pixels.
NOISE_TISSUE_SMOOTHING_PX = 2.5


def noise_tissue_mask(hu: Image) -> Mask:
    """Pixels of fat, organs and muscle, in which noise can be measured.

    Their smoothed value is within :data:`NOISE_TISSUE_HU`. Unlike in :func:`tissue_masks` no border is
    removed, because the noise estimators choose the most uniform regions of interest inside the mask.
    """
    smooth = ndimage.gaussian_filter(hu, NOISE_TISSUE_SMOOTHING_PX)
    mask: Mask = (smooth > NOISE_TISSUE_HU[0]) & (smooth < NOISE_TISSUE_HU[1])
    return mask


def tissue_mask(hu: Image, tissue: str, pixel_spacing_mm: tuple[float, float], body: Mask) -> Mask:
    """Mask of one tissue; see :func:`tissue_masks`.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        Image in HU.
    tissue : str
        A key of :data:`TISSUES`.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    body : ndarray of bool, shape (rows, columns)
        Body mask of the image.

    Returns
    -------
    ndarray of bool, shape (rows, columns)
    """
    return tissue_masks(hu, [tissue], pixel_spacing_mm, body)[tissue]


def tissue_masks(
    hu: Image, tissues: Collection[str], pixel_spacing_mm: tuple[float, float], body: Mask
) -> dict[str, Mask]:
    """Masks of tissues: pixels whose smoothed value is in the tissue's HU range, without the border.

    The border is left out for two reasons: it holds partial volume, and there the noise of the image itself
    decides which pixels belong to the mask, so that another image of the same anatomy would seem to be shifted.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        Image in HU.
    tissues : collection of str
        Keys of :data:`TISSUES`.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    body : ndarray of bool, shape (rows, columns)
        Body mask of the image.

    Returns
    -------
    dict from str to ndarray of bool, shape (rows, columns)
        A mask of every tissue asked for; all False where the slice holds none of it.

    Raises
    ------
    ConfigError
        If a tissue is unknown.
    """
    for tissue in tissues:
        if tissue not in TISSUES:
            raise ConfigError(f"tissue {tissue!r} is unknown; there are {', '.join(TISSUES)}")
    masks = {tissue: np.zeros(hu.shape, dtype=bool) for tissue in tissues}
    if not masks or not body.any():
        return masks
    margin_px = math.ceil(4 * TISSUE_SMOOTHING_MM / min(pixel_spacing_mm))  # reach of the truncated Gaussian
    box = _grown(bounding_box(body), margin_px)
    sigma_px = [TISSUE_SMOOTHING_MM / mm for mm in pixel_spacing_mm]
    smooth = ndimage.gaussian_filter(np.asarray(hu[box], dtype=np.float32), sigma_px)
    for tissue, mask in masks.items():
        low_hu, high_hu, border_mm = TISSUES[tissue]
        raw = (smooth >= low_hu) & (smooth <= high_hu) & body[box]
        if raw.any():
            tight = bounding_box(raw)
            depth_mm = ndimage.distance_transform_edt(np.pad(raw[tight], 1), sampling=pixel_spacing_mm)
            mask[box][tight] = depth_mm[1:-1, 1:-1] > border_mm
    return masks


def bounding_box(mask: Mask) -> tuple[slice, slice]:
    """Smallest rectangle that holds every True pixel of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _grown(box: tuple[slice, slice], margin: int) -> tuple[slice, slice]:
    rows, columns = (slice(max(side.start - margin, 0), side.stop + margin) for side in box)
    return rows, columns
