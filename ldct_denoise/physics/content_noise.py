"""Noise by content: how noise in lung, in bone and at edges differs from that in uniform soft tissue.

Noise is measured in uniform soft tissue (:mod:`ldct_denoise.physics.noise`). Elsewhere it differs: it is weaker in
lung, and an iterative reconstruction leaves it at edges while it smooths uniform tissue. This module measures it
from two unpaired pools. Over pixels of the same content, images of both pools have the same power of anatomy on
average, so the difference of their mean power is the power of the noise that low dose adds. The difference is
taken in frequency bands, for classes of the blurred HU and of the edge strength. Edge strengths are compared by
rank, because noise raises all gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.physics.noise import NoiseModel

Image = NDArray[np.float32]
#: HU of a slice, and its row and column spacing in mm.
ImageWithSpacing = tuple[Image, tuple[float, float]]

#: Frequency bands: differences of Gaussian blurs of these standard deviations, mm, and the remainder.
BAND_SIGMAS_MM = (0.45, 0.9)
#: Standard deviations of the blur that gives the HU of a pixel, and of the derivative that gives its edges, mm.
HU_SIGMA_MM, EDGE_SIGMA_MM = 2.2, 1.5
#: Limits of the HU classes: air, lung, borders of lung, fat, soft tissue, contrast and soft bone, bone.
HU_LIMITS = (-950.0, -800.0, -500.0, -150.0, -30.0, 80.0, 250.0)
LUNG, SOFT_TISSUE = 1, 5
#: Limits of the edge classes, as quantiles within a HU class.
EDGE_QUANTILES = (0.5, 0.75, 0.9, 0.97)
#: Fewest slices of each pool.
MIN_SLICES = 3
#: Fewest pixels of a class in a pool (about), and largest standard error of its power relative to the power.
MIN_PIXELS, MAX_RELATIVE_ERROR = 2000, 0.3
#: The noise of a class is between these factors of that in uniform soft tissue.
FACTOR_RANGE = (0.25, 4.0)


@dataclass(frozen=True)
class ContentNoise:
    """Noise of each content class relative to a stationary field.

    Parameters
    ----------
    edge_limits : ndarray, shape (HU classes, edge classes − 1)
        Limits of the edge classes, HU per mm.
    factors : ndarray, shape (bands, HU classes, edge classes)
        Factor on each frequency band of a field that has the measured spectrum.
    """

    edge_limits: NDArray[np.float64]
    factors: NDArray[np.float64]

    def apply(
        self, fields: Image, clean_hu: Image, spacing_mm: tuple[float, float], has_measured_spectrum: bool = True
    ) -> Image:
        """Give stationary noise fields the noise by content of an image.

        Parameters
        ----------
        fields : ndarray, shape (n, rows, columns)
            Stationary noise.
        clean_hu : ndarray, shape (rows, columns)
            Normal-dose image, HU.
        spacing_mm : tuple of 2 floats
            Row and column spacing, mm.
        has_measured_spectrum : bool
            Whether the fields have the measured spectrum: then each band is scaled by itself, otherwise the
            field as a whole.

        Returns
        -------
        ndarray, shape (n, rows, columns)
            Noise in the unit of ``fields``.
        """
        hu_class, edges = _content(clean_hu, spacing_mm)
        edge_class = _edge_class(hu_class, edges, self.edge_limits)
        factors = self.factors if has_measured_spectrum else self.factors.mean(axis=0, keepdims=True)
        maps = [ndimage.gaussian_filter(band[hu_class, edge_class].astype(np.float32), 1.0) for band in factors]
        if not has_measured_spectrum:
            return fields * maps[0]
        scaled = [sum(m * b for m, b in zip(maps, _bands(field, spacing_mm), strict=True)) for field in fields]
        return np.stack(scaled).astype(np.float32)

    def summary(self) -> str:
        """Noise in lung and at the strongest edges of soft tissue, in words."""
        lung, edges = self.factors[0, LUNG, 0], self.factors[0, SOFT_TISSUE, -1]
        uniform = self.factors[0, SOFT_TISSUE, 0]
        return f"{lung / uniform:.1f} × in lung and {edges / uniform:.1f} × at edges that in uniform soft tissue"


def measure_content_noise(
    low: Sequence[ImageWithSpacing], normal: Sequence[ImageWithSpacing], model: NoiseModel, sigma_hu: float
) -> ContentNoise | None:
    """Measure the noise by content from unpaired images of one kernel.

    Parameters
    ----------
    low, normal : sequence of (ndarray, (float, float))
        Low- and normal-dose slices, each with its pixel spacing.
    model : NoiseModel
        Noise of the low-dose images in uniform soft tissue.
    sigma_hu : float
        Standard deviation of the noise that low dose adds there, HU.

    Returns
    -------
    ContentNoise or None
        None if there are too few slices, or no class whose noise can be told from the scatter of anatomy.
    """
    if min(len(low), len(normal)) < MIN_SLICES or sigma_hu <= 0:
        return None
    limits, spacing_mm = _edge_limits(normal), normal[0][1]
    powers_low, powers_normal = _class_powers(low, _edge_limits(low)), _class_powers(normal, limits)
    fields = model.draw_fields(4, 128, 128, spacing_mm, np.random.default_rng(0)) * np.float32(sigma_hu)
    stationary = np.mean([[float(np.var(band)) for band in _bands(field, spacing_mm)] for field in fields], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # classes without pixels are NaN
        added = np.nanmean(powers_low, axis=0) - np.nanmean(powers_normal, axis=0)
        error = np.hypot(_standard_error(powers_low), _standard_error(powers_normal))
    added = np.where(error < MAX_RELATIVE_ERROR * added, added, np.nan)
    if not np.isfinite(added[0]).any():
        return None
    # Anatomy hides the noise of the coarsest band: it follows the band above.
    ratio = added[:-1] / stationary[:-1, None, None]
    factors = np.clip(np.sqrt(_filled(ratio)), *FACTOR_RANGE)
    return ContentNoise(limits, np.concatenate([factors, factors[-1:]]))


def _bands(field: Image, spacing_mm: tuple[float, float]) -> list[Image]:
    """Frequency bands of an image, fine to coarse; their sum is the image."""
    bands, rest = [], field
    for sigma_mm in BAND_SIGMAS_MM:
        smooth = _blur(field, sigma_mm, spacing_mm)
        bands.append(rest - smooth)
        rest = smooth
    return [*bands, rest]


def _blur(image: Image, sigma_mm: float, spacing_mm: tuple[float, float]) -> Image:
    blurred: Image = ndimage.gaussian_filter(image, [sigma_mm / spacing for spacing in spacing_mm], truncate=3.0)
    return blurred


def _content(hu: Image, spacing_mm: tuple[float, float]) -> tuple[NDArray[np.intp], Image]:
    """HU class of each pixel, and its edge strength in HU per mm."""
    hu_class = np.digitize(_blur(hu, HU_SIGMA_MM, spacing_mm), HU_LIMITS)
    slopes = np.gradient(_blur(hu, EDGE_SIGMA_MM, spacing_mm), *spacing_mm)
    return hu_class, np.hypot(*slopes)


def _edge_limits(images: Sequence[ImageWithSpacing]) -> NDArray[np.float64]:
    """Limits of the edge classes of a pool, shape (HU classes, edge classes − 1)."""
    found = [_content(hu, spacing_mm) for hu, spacing_mm in images]
    classes, edges = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*found, strict=True))
    limits = np.full((len(HU_LIMITS) + 1, len(EDGE_QUANTILES)), np.inf)
    for number in np.unique(classes):
        limits[number] = np.quantile(edges[classes == number], EDGE_QUANTILES)
    return limits


def _class_powers(images: Sequence[ImageWithSpacing], limits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean power of each band and class in each image, HU², shape (images, bands, HU classes, edge classes)."""
    shape = limits.shape[0], limits.shape[1] + 1
    powers = []
    for hu, spacing_mm in images:
        hu_class, edges = _content(hu, spacing_mm)
        flat = (hu_class * shape[1] + _edge_class(hu_class, edges, limits)).ravel()
        count = np.bincount(flat, minlength=shape[0] * shape[1]).astype(float)
        count[count < MIN_PIXELS / len(images)] = np.nan
        sums = [np.bincount(flat, np.square(band).ravel(), len(count)) for band in _bands(hu, spacing_mm)]
        powers.append((np.stack(sums) / count).reshape(-1, *shape))
    return np.stack(powers)


def _edge_class(hu_class: NDArray[np.intp], edges: Image, limits: NDArray[np.float64]) -> NDArray[np.intp]:
    return sum((edges >= limits[hu_class, number]).astype(np.intp) for number in range(limits.shape[1]))


def _standard_error(powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of the mean over images; NaN for a class that fewer than two images have."""
    error: NDArray[np.float64] = np.nanstd(powers, axis=0, ddof=1) / np.sqrt(np.isfinite(powers).sum(axis=0))
    return error


def _filled(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill classes that were not measured: from the other band, else from the nearest HU class."""
    filled = ratio.copy()
    for band, other in zip(filled, ratio[::-1], strict=True):
        band[:] = np.where(np.isfinite(band), band, other)
        known = np.flatnonzero(np.isfinite(band).any(axis=1))
        for number, row in enumerate(band):
            nearest = band[known[np.argmin(np.abs(known - number))]]
            row[~np.isfinite(row)] = np.nanmedian(nearest)
    return filled
