"""Noise by scale: what is left after a blur, blotches, and noise out for noise in.

A single noise level hides coarse noise: a denoiser may leave little noise in all, and yet more than full dose at
the scale of a lesion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.metrics.noise import detrended

Image = NDArray[np.floating]

#: σ of the Gaussians after which noise is measured, mm.
SCALES_MM = (1.0, 2.0, 4.0)
#: Blotches are extrema beyond this many HU after a blur of this σ, mm.
BLOTCH_HU, BLOTCH_SIGMA_MM = 8.0, 2.0
#: Fewest ROIs for a curve of noise out for noise in, and its number of points.
MIN_TRANSFER_ROIS, TRANSFER_POINTS = 12, 5


class Blotches(NamedTuple):
    """Extrema that were counted.

    Parameters
    ----------
    number : int
    area_cm2 : float
        Area of the ROIs.
    """

    number: int
    area_cm2: float

    @property
    def per_100_cm2(self) -> float:
        """Number per 100 cm²; NaN without an area."""
        return 100 * self.number / self.area_cm2 if self.area_cm2 else float("nan")


def count_blotches(
    hu: Image, rois: Sequence[tuple[slice, slice]], pixel_spacing_mm: tuple[float, float]
) -> Blotches:
    """Count the local extrema beyond ±8 HU after a Gaussian of σ = 2 mm, in uniform ROIs without their trend.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    rois : sequence of (slice, slice)
        Rows and columns of each ROI; all of one size.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    Blotches
    """
    if not rois:
        return Blotches(0, 0.0)
    smooth = ndimage.gaussian_filter(np.asarray(hu, np.float64), [BLOTCH_SIGMA_MM / mm for mm in pixel_spacing_mm])
    extreme = (smooth == ndimage.maximum_filter(smooth, 3)) | (smooth == ndimage.minimum_filter(smooth, 3))
    residual = detrended(np.array([smooth[roi] for roi in rois]))
    beyond = np.abs(residual) > BLOTCH_HU
    count = int(np.count_nonzero(beyond & np.array([extreme[roi] for roi in rois])))
    return Blotches(count, residual.size * pixel_spacing_mm[0] * pixel_spacing_mm[1] / 100)


def noise_transfer(before_hu: Sequence[float], after_hu: Sequence[float]) -> list[tuple[float, float]]:
    """Noise out for noise in: means over groups of ROIs of rising noise.

    Parameters
    ----------
    before_hu, after_hu : sequence of float
        Noise of the same ROIs before and after denoising, HU.

    Returns
    -------
    list of (float, float)
        Noise in and out, HU; empty for fewer than 12 ROIs.
    """
    if len(before_hu) < MIN_TRANSFER_ROIS:
        return []
    order = np.argsort(before_hu, kind="stable")
    groups = np.array_split(order, TRANSFER_POINTS)
    first, second = np.asarray(before_hu), np.asarray(after_hu)
    return [(float(first[group].mean()), float(second[group].mean())) for group in groups]
