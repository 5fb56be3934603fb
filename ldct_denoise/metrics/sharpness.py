"""Resolution: the task transfer function from the edge of a circular insert or of a straight border (TG-233).

A denoiser is not linear: its resolution depends on the contrast of the edge, which is reported with the curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError

Image = NDArray[np.floating]

OVERSAMPLING = 8  # bins of the edge profile per pixel


@dataclass(frozen=True)
class TaskTransfer:
    """A task transfer function.

    Parameters
    ----------
    frequency : ndarray
        1/mm.
    value : ndarray
        1 at frequency 0.
    contrast_hu : float
        Inside − outside of the edge it was measured on.
    """

    frequency: NDArray[np.float64]
    value: NDArray[np.float64]
    contrast_hu: float

    def frequency_at(self, value: float) -> float:
        """Where the curve first falls to ``value`` (0.5: f50, 0.1: f10), 1/mm; NaN where it does not."""
        below = np.flatnonzero(self.value < value)
        if not len(below) or below[0] == 0:
            return float("nan")
        after, before = below[0], below[0] - 1
        part = (self.value[before] - value) / (self.value[before] - self.value[after])
        return float(self.frequency[before] + part * (self.frequency[after] - self.frequency[before]))


def ttf_of_disk(
    hu: Image, centre_px: tuple[float, float], radius_mm: float, pixel_spacing_mm: tuple[float, float]
) -> TaskTransfer:
    """Transfer function from the border of a circular insert.

    Every pixel's distance from the centre places it on the edge profile (Richard et al. 2012); its derivative is
    the line spread, the modulus of whose Fourier transform is the transfer function. Average repeated slices
    first where the contrast is not well above the noise.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
    centre_px : tuple of 2 floats
        Row and column of the centre.
    radius_mm : float
    pixel_spacing_mm : tuple of 2 floats

    Raises
    ------
    InputError
        If the insert is too small or not whole in the image. What lies around it may be cut: the profile is a mean
        over all directions.
    """
    middle, half = np.array(centre_px), radius_mm / np.array(pixel_spacing_mm)
    if np.any(middle - half < -0.5) or np.any(middle + half > np.array(hu.shape) - 0.5):
        raise InputError(
            f"an insert of radius {radius_mm:g} mm is not whole in the image; check centre and radius"
        )
    rows, columns = np.mgrid[: hu.shape[0], : hu.shape[1]]
    distance = np.hypot(
        (rows - centre_px[0]) * pixel_spacing_mm[0], (columns - centre_px[1]) * pixel_spacing_mm[1]
    )
    reach = 0.8 * radius_mm
    ring = np.abs(distance - radius_mm) < reach
    if ring.sum() < 50 or radius_mm < 4 * max(pixel_spacing_mm):
        raise InputError(
            f"an insert of radius {radius_mm:g} mm is too small for a TTF; give one of 4 pixels or more"
        )
    return _from_profile(radius_mm - distance[ring], hu[ring], reach, min(pixel_spacing_mm))


def ttf_of_edge(hu: Image, pixel_spacing_mm: tuple[float, float]) -> TaskTransfer:
    """Transfer function from one straight, slightly slanted border that crosses a region (ISO 12233's idea).

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        A region that holds nothing but the two sides of the border.
    """
    smooth = ndimage.gaussian_filter(np.asarray(hu, dtype=np.float64), 1.5)
    down, along = np.gradient(smooth, *pixel_spacing_mm)
    weight = down**2 + along**2
    total = weight.sum()
    if total <= 0:
        raise InputError("the region holds no edge; choose one that a border crosses")
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
    """From pixels at signed distances (positive inside) to the transfer function."""
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
    # Binning and the finite difference each multiply by a known sinc.
    known = np.sinc(frequency[keep] * step) ** 2
    curve = np.asarray(value[keep] / value[0] / known, dtype=np.float64)
    return TaskTransfer(np.asarray(frequency[keep], dtype=np.float64), curve, contrast)
