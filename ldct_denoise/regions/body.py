"""Body mask of a slice: without surrounding air, table and blankets."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from ldct_denoise.volume import Image, Mask

#: Tissue is above this value after smoothing, HU.
BODY_ABOVE_HU = -400.0
#: A morphological opening of this width removes table, blankets and tubing, mm.
TABLE_THICKNESS_MM = 12.0
#: Objects smaller than this fraction of the largest are removed; arms and legs are kept.
MIN_OBJECT_FRACTION = 0.05
#: Values below are padding outside the field of view, HU.
BELOW_AIR_HU = -1500.0
#: The median of lungs is above this value, that of surrounding air below, HU.
LUNG_ABOVE_HU = -960.0
#: Smallest lung, and the smallest fraction of its area inside the convex hull of the body.
MIN_LUNG_MM2, MIN_LUNG_FRACTION = 500.0, 0.6


def body_mask(hu: Image, pixel_spacing_mm: tuple[float, float]) -> Mask:
    """Body mask of one slice.

    The smoothed slice is thresholded at −400 HU, an opening of 12 mm removes the table, small objects are removed,
    and holes are filled. Lungs are included even if the chest wall is thinner than that or outside the field of
    view.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU; may be noisy.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray of bool, shape (rows, columns)
        All False for a slice of air.
    """
    step = 2 if min(hu.shape) >= 256 else 1  # half the matrix size is fine enough for an outline
    small = ndimage.uniform_filter(np.clip(hu, -1000, 400), 2 * step + 1)[::step, ::step]
    tissue = np.pad(small > BODY_ABOVE_HU, 1)
    spacing = tuple(step * mm for mm in pixel_spacing_mm)
    radius = TABLE_THICKNESS_MM / 2
    core = ndimage.distance_transform_edt(tissue, sampling=spacing) > radius
    parts, found = ndimage.label(core)
    if found == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(parts.ravel())[1:]
    large = np.isin(parts, 1 + np.flatnonzero(sizes >= MIN_OBJECT_FRACTION * sizes.max()))
    grown = _within(large, radius, spacing) & tissue
    sampled = np.pad(hu[::step, ::step], 1, mode="edge")
    filled = _with_lungs(ndimage.binary_fill_holes(grown), tissue, sampled, spacing)
    return np.repeat(np.repeat(filled[1:-1, 1:-1], step, axis=0), step, axis=1)[: hu.shape[0], : hu.shape[1]]


def _with_lungs(body: Mask, tissue: Mask, hu: Image, spacing: tuple[float, ...]) -> Mask:
    """Add lungs that the opening has laid open, together with their thin walls."""
    padding = hu < BELOW_AIR_HU
    closed = tissue | ndimage.binary_dilation(padding, iterations=2)  # the smoothing spreads padding by 2 pixels
    inside = (slice(1, -1), slice(1, -1))  # the padded rim would connect lungs at the border with outside air
    gaps = np.zeros(body.shape, dtype=np.intp)
    gaps[inside], found = ndimage.label(~closed[inside])
    counts = np.bincount(gaps[~body], minlength=found + 1)
    large = 1 + np.flatnonzero(counts[1:] * math.prod(spacing) >= MIN_LUNG_MM2)
    lunglike = [n for n in large if np.median(hu[gaps == n]) > LUNG_ABOVE_HU]
    if not lunglike:
        return body
    enclosed = np.bincount(gaps[_hull(body) & ~body], minlength=found + 1)
    lungs = np.isin(gaps, [n for n in lunglike if enclosed[n] >= MIN_LUNG_FRACTION * counts[n]])
    walls = closed & ~padding & _within(lungs, TABLE_THICKNESS_MM, spacing)
    filled: Mask = ndimage.binary_fill_holes(body | lungs | walls)
    return filled


def _within(mask: Mask, distance_mm: float, spacing_mm: tuple[float, ...]) -> Mask:
    """Dilate a mask by a distance; an empty mask stays empty."""
    if not mask.any():  # the distance transform is undefined without any background pixel
        return np.zeros_like(mask)
    near: Mask = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= distance_mm
    return near


def _hull(mask: Mask) -> Mask:
    """Convex hull of each connected object."""
    from skimage.morphology import convex_hull_image

    parts, _ = ndimage.label(mask)
    hull = np.zeros_like(mask)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        hull[box] |= convex_hull_image(parts[box] == number)
    return hull
