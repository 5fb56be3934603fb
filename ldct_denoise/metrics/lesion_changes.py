"""Lesion-sized changes between an image and its denoised version: structures that were erased or invented.

The change ``output − input`` is mostly removed noise. A lesion that was erased or invented is a compact part of
it. For each lesion size the change is filtered with a difference of Gaussians that responds to a disc of that
size, and divided by the local noise of the filtered change. The resulting z values are about normal where only
noise was removed, and far from 0 where a structure of that size changed. ``docs/reference/measurements.md`` states
the rate of false alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.metrics.local_noise import distance_from_edges_mm, gaussian, local_std
from ldct_denoise.regions.tissues import bounding_box

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Diameters of the lesions that are searched for, mm.
LESION_SIZES_MM = (3.0, 5.0, 8.0, 12.0, 15.0)
#: σ of the two Gaussians, as a share of the lesion's diameter: near the best signal-to-noise ratio for a disc in
#: the noise that is removed from real quarter-dose images.
FILTER_SIGMAS = (0.35, 0.7)
#: Response of that filter at the centre of a disc, as a share of its contrast.
DISC_RESPONSE = float(np.exp(-1 / (8 * FILTER_SIGMAS[1] ** 2)) - np.exp(-1 / (8 * FILTER_SIGMAS[0] ** 2)))
#: Part of z's denominator that does not come from noise: a filtered change of 0.7 HU, and a share of the structure
#: of that size in the image: 5 % from 10 mm on, more below, where every denoiser takes contrast from anatomy.
TOLERANCE_HU, STRUCTURE_TOLERANCE, STRUCTURE_TOLERANCE_MM = 0.7, 0.05, 10.0
#: Edges that both images have are left out, with a margin, mm.
EDGE_MARGIN_MM = 3.0
#: The noise is measured in Gaussian neighbourhoods of this σ, mm; of the change itself in smaller ones.
NOISE_SIGMA_MM, PIXEL_NOISE_SIGMA_MM = 20.0, 10.0
#: Changes beyond this many standard deviations count as that many: a lesion must not hide one beside it.
CLIP_CHANGE = 6.0
#: Independent looks per cm² that was searched, all sizes together: from the largest z of full dose − quarter dose
#: and of both shipped models on 21 slices (12 to 25 in the nine groups of slices).
LOOKS_PER_CM2 = 25.0
#: Probability that removed noise alone exceeds the (amber, red) limit anywhere in a series.
FALSE_ALARM = (0.05, 1e-5)
#: HU range of the structure whose loss in part is tolerated.
_STRUCTURE_HU = (-300.0, 400.0)
#: Fewest pixels in which a size is measured.
_MIN_PIXELS = 500


@dataclass(frozen=True)
class LesionChange:
    """A lesion-sized change of one slice.

    Parameters
    ----------
    row, column : int
        Centre, pixels.
    size_mm : float
        Diameter of the disc that fits best.
    contrast_hu : float
        Contrast of that disc in output − input, HU; negative: the output is darker.
    z : float
        Filtered change over its noise.
    slice_number : int
        Number of the slice among those that were searched.
    """

    row: int
    column: int
    size_mm: float
    contrast_hu: float
    z: float
    slice_number: int = 0


@dataclass(frozen=True)
class LesionChangeMap:
    """z values of one slice at the lesion size where they are largest.

    Parameters
    ----------
    z : ndarray of float32, shape (rows, columns)
        Positive: the output is brighter. NaN where nothing was measured: outside the body and near strong edges.
    size_mm : ndarray of float32, shape (rows, columns)
        Lesion size of each z value.
    contrast_hu : ndarray of float32, shape (rows, columns)
        Contrast of a disc of that size, HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    """

    z: NDArray[np.float32]
    size_mm: NDArray[np.float32]
    contrast_hu: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float]

    @property
    def area_cm2(self) -> float:
        """Area that was searched, cm²."""
        return float(np.count_nonzero(self.measured)) * math.prod(self.pixel_spacing_mm) / 100

    @property
    def measured(self) -> Mask:
        """Where at least one lesion size was measured."""
        return np.isfinite(self.z)

    def changes(self, least_z: float, most: int = 20) -> list[LesionChange]:
        """Separate changes with an absolute z of at least ``least_z``, the largest first.

        Two peaks closer than the sum of their diameters are one change.

        Parameters
        ----------
        least_z : float
        most : int
            Largest number of changes.

        Returns
        -------
        list of LesionChange
        """
        strength = np.nan_to_num(np.abs(self.z))
        peaks = (strength >= least_z) & (strength == ndimage.maximum_filter(strength, 3))
        rows, columns = np.nonzero(peaks)
        found: list[LesionChange] = []
        for index in np.argsort(-strength[rows, columns], kind="stable"):
            at = int(rows[index]), int(columns[index])
            size_mm = float(self.size_mm[at])
            if any(_distance_mm(at, other, self.pixel_spacing_mm) < size_mm + other.size_mm for other in found):
                continue
            found.append(LesionChange(*at, size_mm, float(self.contrast_hu[at]), float(self.z[at])))
            if len(found) == most:
                break
        return found


def lesion_z_limits(area_cm2: float) -> tuple[float, float]:
    """Limits (amber, red) of the absolute z so that noise exceeds them anywhere in the area only by chance.

    Parameters
    ----------
    area_cm2 : float
        Area that was searched, all slices together.

    Returns
    -------
    tuple of 2 floats
        Normal quantiles for the probabilities of :data:`FALSE_ALARM`, divided by the number of independent looks
        (Bonferroni).
    """
    from scipy.stats import norm

    looks = max(LOOKS_PER_CM2 * area_cm2, 1.0)
    amber, red = (float(norm.isf(probability / looks / 2)) for probability in FALSE_ALARM)
    return amber, red


def lesion_change_map(
    before: Image, after: Image, body: Mask, pixel_spacing_mm: tuple[float, float]
) -> LesionChangeMap:
    """Map the lesion-sized changes of one slice.

    For every size ``d`` of :data:`LESION_SIZES_MM`: ``b = G(0.35·d)∗c − G(0.7·d)∗c`` with ``c = after − before``,
    and ``z = b / √(s² + t² + (a·m)²)``. ``s`` is the local standard deviation of ``b`` (clipped, so that a lesion
    does not hide itself), ``t`` 0.7 HU, ``m`` the local root mean square of the same filter on the output and
    ``a`` its tolerated share.

    Parameters
    ----------
    before, after : ndarray, shape (rows, columns)
        Image before and after denoising, HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask; see :func:`~ldct_denoise.regions.body.body_mask`.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    LesionChangeMap
    """
    maps = [np.full(np.shape(before), value, np.float32) for value in (np.nan, 0, 0)]
    found = LesionChangeMap(maps[0], maps[1], maps[2], pixel_spacing_mm)
    if body.any():
        box = bounding_box(body)
        first, second = (np.asarray(image[box], np.float32) for image in (before, after))
        _measure(first, second, body[box], pixel_spacing_mm, *(values[box] for values in maps))
    return found


def _measure(
    before: Image,
    after: Image,
    body: Mask,
    spacing_mm: tuple[float, float],
    z: NDArray[np.float32],
    size_mm: NDArray[np.float32],
    contrast_hu: NDArray[np.float32],
) -> None:
    """Fill the maps of a slice in place, size by size."""
    depth_mm = distance_from_edges_mm((before, after), body, spacing_mm)
    change = (after - before) * body
    limit = CLIP_CHANGE * local_std(change, body, PIXEL_NOISE_SIGMA_MM, spacing_mm)
    change = np.clip(change, -limit, limit)
    structure = np.clip(after, *_STRUCTURE_HU)
    for diameter in LESION_SIZES_MM:
        measured = depth_mm > max(EDGE_MARGIN_MM, diameter / 2)
        if np.count_nonzero(measured) < _MIN_PIXELS:
            continue
        filtered = _disc_filter(change, diameter, spacing_mm)
        noise = local_std(filtered, measured, NOISE_SIGMA_MM, spacing_mm)
        share = STRUCTURE_TOLERANCE * max(1.0, STRUCTURE_TOLERANCE_MM / diameter) ** 2
        local = gaussian(_disc_filter(structure, diameter, spacing_mm) ** 2, 0.5 * diameter, spacing_mm)
        here = filtered / np.sqrt(noise**2 + TOLERANCE_HU**2 + share**2 * local)
        larger = measured & ~(np.abs(here) <= np.abs(z))  # also where z is NaN
        z[larger], size_mm[larger] = here[larger], diameter
        contrast_hu[larger] = filtered[larger] / DISC_RESPONSE


def _disc_filter(image: Image, diameter_mm: float, spacing_mm: tuple[float, float]) -> Image:
    narrow, wide = (gaussian(image, share * diameter_mm, spacing_mm) for share in FILTER_SIGMAS)
    return narrow - wide


def _distance_mm(at: tuple[int, int], other: LesionChange, spacing_mm: tuple[float, float]) -> float:
    return float(np.hypot((at[0] - other.row) * spacing_mm[0], (at[1] - other.column) * spacing_mm[1]))
