"""Resolution: task transfer function (TTF) from a circular insert or a straight edge.

A denoiser is not linear: its resolution depends on the contrast of the edge, which is reported with the curve.

References
----------
AAPM Report 233 (TG-233), "Performance evaluation of computed tomography systems", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError

Image = NDArray[np.floating]

#: Bins of the edge profile per pixel.
OVERSAMPLING = 8
#: An insert's edge profile reaches this fraction of the radius to both sides of the edge.
DISK_REACH = 0.8
#: The smallest insert that a TTF can be measured from: radius in pixels, and pixels near its edge.
MIN_RADIUS_PX, MIN_EDGE_PIXELS = 4, 50


@dataclass(frozen=True)
class TaskTransfer:
    """A task transfer function.

    Parameters
    ----------
    frequency : ndarray, shape (n,)
        Rising from 0, 1/mm.
    value : ndarray, shape (n,)
        Dimensionless, 1 at frequency 0.
    contrast_hu : float
        Contrast of the edge it was measured on, inside − outside, HU.
    """

    frequency: NDArray[np.float64]
    value: NDArray[np.float64]
    contrast_hu: float

    def frequency_at(self, value: float) -> float:
        """Frequency at which the curve first falls to ``value`` (0.5: f50, 0.1: f10), 1/mm; NaN if it does not."""
        below = np.flatnonzero(self.value < value)
        if not len(below) or below[0] == 0:
            return float("nan")
        after, before = below[0], below[0] - 1
        part = (self.value[before] - value) / (self.value[before] - self.value[after])
        return float(self.frequency[before] + part * (self.frequency[after] - self.frequency[before]))


def ttf_of_disk(
    hu: Image, centre_px: tuple[float, float], radius_mm: float, pixel_spacing_mm: tuple[float, float]
) -> TaskTransfer:
    """Task transfer function from the edge of a circular insert.

    The distance of every pixel from the centre gives the oversampled edge profile. Its derivative is the line
    spread function, and the modulus of the Fourier transform of that is the TTF. Average repeated slices first if
    the contrast is not well above the noise.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    centre_px : tuple of 2 floats
        Row and column of the centre, pixels.
    radius_mm : float
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    TaskTransfer

    Raises
    ------
    InputError
        If the insert is too small, or not completely inside the image. Its surroundings may be cut off, because
        the profile is a mean over all directions.

    References
    ----------
    Richard et al., "Towards task-based assessment of CT performance: System and object MTF across different
    reconstruction algorithms", Med. Phys. 39, 2012.
    """
    middle, half = np.array(centre_px), radius_mm / np.array(pixel_spacing_mm)
    if np.any(middle - half < -0.5) or np.any(middle + half > np.array(hu.shape) - 0.5):
        raise InputError(
            f"an insert of radius {radius_mm:g} mm is not completely inside the image; check centre and radius"
        )
    rows, columns = np.mgrid[: hu.shape[0], : hu.shape[1]]
    distance = np.hypot(
        (rows - centre_px[0]) * pixel_spacing_mm[0], (columns - centre_px[1]) * pixel_spacing_mm[1]
    )
    reach = DISK_REACH * radius_mm
    ring = np.abs(distance - radius_mm) < reach
    if ring.sum() < MIN_EDGE_PIXELS or radius_mm < MIN_RADIUS_PX * max(pixel_spacing_mm):
        raise InputError(
            f"an insert of radius {radius_mm:g} mm is too small for a TTF; give {MIN_RADIUS_PX} pixels or more"
        )
    return _from_profile(radius_mm - distance[ring], hu[ring], reach, min(pixel_spacing_mm))


def ttf_of_edge(hu: Image, pixel_spacing_mm: tuple[float, float]) -> TaskTransfer:
    """Task transfer function from one straight, slightly slanted edge that crosses a region.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        A region that contains nothing but the two sides of the edge, HU.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    TaskTransfer

    Raises
    ------
    InputError
        If the region is constant.

    References
    ----------
    ISO 12233, slanted-edge method.
    """
    smooth = ndimage.gaussian_filter(np.asarray(hu, dtype=np.float64), 1.5)
    down, along = np.gradient(smooth, *pixel_spacing_mm)
    weight = down**2 + along**2
    total = weight.sum()
    if total <= 0:
        raise InputError("the region holds no edge; choose one that an edge crosses")
    rows, columns = np.mgrid[: hu.shape[0], : hu.shape[1]] * np.reshape(pixel_spacing_mm, (2, 1, 1))
    centre = (weight * rows).sum() / total, (weight * columns).sum() / total
    angle = 0.5 * np.arctan2(2 * (down * along).sum(), (along**2 - down**2).sum())
    distance = (columns - centre[1]) * np.cos(angle) + (rows - centre[0]) * np.sin(angle)
    if (along * np.cos(angle) + down * np.sin(angle)).sum() < 0:
        distance = -distance
    reach = 0.9 * min(distance.max(), -distance.min())
    near = np.abs(distance) < reach
    return _from_profile(distance[near], hu[near], reach, min(pixel_spacing_mm))


def _from_profile(distance: Image, hu: Image, reach: float, pixel_mm: float) -> TaskTransfer:
    """Transfer function from pixels at signed distances from the edge (positive inside)."""
    step = pixel_mm / OVERSAMPLING
    count = int(2 * reach / step)
    bins = np.clip(((distance + reach) / step).astype(int), 0, count - 1)
    size = np.bincount(bins, minlength=count)
    middle = (np.arange(count) + 0.5) * step - reach
    filled = size > 0
    profile = np.interp(
        middle, middle[filled], np.bincount(bins, weights=hu, minlength=count)[filled] / size[filled]
    )
    quarter = max(count // 6, 1)
    contrast = float(profile[-quarter:].mean() - profile[:quarter].mean())
    spread = np.diff(profile) * np.hanning(count - 1)
    padded = 8 * count
    value = np.abs(np.fft.rfft(spread, padded))
    frequency = np.fft.rfftfreq(padded, step)
    keep = frequency <= 1 / (2 * pixel_mm) * 1.5
    # Binning and the finite difference each multiply the spectrum by a sinc, which is divided out.
    known = np.sinc(frequency[keep] * step) ** 2
    curve = np.asarray(value[keep] / value[0] / known, dtype=np.float64)
    return TaskTransfer(np.asarray(frequency[keep], dtype=np.float64), curve, contrast)
