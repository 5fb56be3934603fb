"""The body mask of a slice: without air, table and blankets."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from ldct_denoise.volume import Image, Mask

BODY_ABOVE_HU = -400.0
TABLE_THICKNESS_MM = 12.0  # what an opening this wide removes is table, blanket or tubing, not body
BELOW_AIR_HU = -1500.0  # padding outside of the field of view
LUNG_ABOVE_HU = -960.0  # the median of lungs is above this, that of air around the patient below
LUNG_LEAST_MM2 = 500.0
LUNG_LEAST_SHARE = 0.6  # of its area, in the convex hull of the body


def body_mask(hu: Image, pixel_spacing_mm: tuple[float, float]) -> Mask:
    """The body of one slice: what is left of the tissue after the table is opened away, with its holes filled.

    Lungs count also where the chest wall is as thin as a table, or lies outside of the field of view.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU; may be noisy.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing.
    """
    step = 2 if min(hu.shape) >= 256 else 1  # half the matrix is fine enough to find an outline
    small = ndimage.uniform_filter(np.clip(hu, -1000, 400), 2 * step + 1)[::step, ::step]
    tissue = np.pad(small > BODY_ABOVE_HU, 1)
    spacing = tuple(step * mm for mm in pixel_spacing_mm)
    radius = TABLE_THICKNESS_MM / 2
    core = ndimage.distance_transform_edt(tissue, sampling=spacing) > radius
    parts, found = ndimage.label(core)
    if found == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(parts.ravel())[1:]
    # Arms and legs count as body; crumbs do not.
    large = np.isin(parts, 1 + np.flatnonzero(sizes >= 0.05 * sizes.max()))
    grown = _within(large, radius, spacing) & tissue
    sampled = np.pad(hu[::step, ::step], 1, mode="edge")
    filled = _with_lungs(ndimage.binary_fill_holes(grown), tissue, sampled, spacing)
    return np.repeat(np.repeat(filled[1:-1, 1:-1], step, axis=0), step, axis=1)[: hu.shape[0], : hu.shape[1]]


def _with_lungs(body: Mask, tissue: Mask, hu: Image, spacing: tuple[float, ...]) -> Mask:
    """The body with the lungs that lie open after the opening, and the walls that it took from them."""
    padding = hu < BELOW_AIR_HU
    closed = tissue | ndimage.binary_dilation(padding, iterations=2)  # padding, and what smoothing spread it to
    inside = (slice(1, -1), slice(1, -1))  # a rim would join what the field of view cuts with the air outside
    gaps = np.zeros(body.shape, dtype=np.intp)
    gaps[inside], found = ndimage.label(~closed[inside])
    counts = np.bincount(gaps[~body], minlength=found + 1)
    large = 1 + np.flatnonzero(counts[1:] * math.prod(spacing) >= LUNG_LEAST_MM2)
    lunglike = [n for n in large if np.median(hu[gaps == n]) > LUNG_ABOVE_HU]
    if not lunglike:  # nor is a hull needed
        return body
    enclosed = np.bincount(gaps[_hull(body) & ~body], minlength=found + 1)
    lungs = np.isin(gaps, [n for n in lunglike if enclosed[n] >= LUNG_LEAST_SHARE * counts[n]])
    walls = closed & ~padding & _within(lungs, TABLE_THICKNESS_MM, spacing)
    filled: Mask = ndimage.binary_fill_holes(body | lungs | walls)
    return filled


def _within(mask: Mask, distance_mm: float, spacing_mm: tuple[float, ...]) -> Mask:
    """Where the mask is, and what is no farther from it than that; nowhere for an empty one."""
    if not mask.any():  # the distance transform has no background to measure from, and answers all the same
        return np.zeros_like(mask)
    near: Mask = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= distance_mm
    return near


def _hull(mask: Mask) -> Mask:
    """The convex hull of each connected part."""
    from skimage.morphology import convex_hull_image

    parts, _ = ndimage.label(mask)
    hull = np.zeros_like(mask)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        hull[box] |= convex_hull_image(parts[box] == number)
    return hull
