"""Tissue masks by HU range."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from scipy import ndimage

from ldct_denoise.errors import ConfigError
from ldct_denoise.volume import Image, Mask

TISSUE_SMOOTHING_MM = 2.0  # less, and noise decides what counts as tissue
#: HU ranges of the tissue classes, as (low, high, border in mm): what is no deeper inside is partial volume.
TISSUES: dict[str, tuple[float, float, float]] = {
    "lung": (-1000.0, -600.0, 2.0),
    "fat": (-140.0, -50.0, 2.0),
    "soft-tissue": (0.0, 120.0, 2.0),
    "bone": (200.0, 3071.0, 1.0),  # cortical bone is thin
}


def tissue_mask(hu: Image, tissue: str, pixel_spacing_mm: tuple[float, float], body: Mask) -> Mask:
    """One tissue of :func:`tissue_masks`."""
    return tissue_masks(hu, [tissue], pixel_spacing_mm, body)[tissue]


def tissue_masks(
    hu: Image, tissues: Collection[str], pixel_spacing_mm: tuple[float, float], body: Mask
) -> dict[str, Mask]:
    """Where a smoothed slice lies in each tissue's HU range, without the border.

    A border holds partial volume, and there the slice's own noise would choose the pixels, so that any other image
    of the same place would seem to be shifted in HU.

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
    margin_px = math.ceil(4 * TISSUE_SMOOTHING_MM / min(pixel_spacing_mm))  # what the smoothing reaches
    box = _grown(bounding_box(body), margin_px)
    sigma_px = [TISSUE_SMOOTHING_MM / mm for mm in pixel_spacing_mm]
    smooth = ndimage.gaussian_filter(np.asarray(hu[box], dtype=np.float32), sigma_px)
    for tissue, mask in masks.items():
        low, high, border_mm = TISSUES[tissue]
        raw = (smooth >= low) & (smooth <= high) & body[box]
        if raw.any():
            tight = bounding_box(raw)
            depth_mm = ndimage.distance_transform_edt(np.pad(raw[tight], 1), sampling=pixel_spacing_mm)
            mask[box][tight] = depth_mm[1:-1, 1:-1] > border_mm
    return masks


def bounding_box(mask: Mask) -> tuple[slice, slice]:
    """The smallest rectangle that holds every true pixel of a mask that has one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _grown(box: tuple[slice, slice], margin: int) -> tuple[slice, slice]:
    rows, columns = (slice(max(side.start - margin, 0), side.stop + margin) for side in box)
    return rows, columns
