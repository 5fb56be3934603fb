"""Noise that is not stationary: its standard deviation around every pixel of a slice.

Edges and vessels are no noise. A high-pass filter removes most of them, strong edges are left out with a margin,
and what remains of anatomy is clipped as an outlier of its neighbourhood. The spectrum of the series' noise gives
the factor from the filtered noise to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.metrics.noise import NoisePowerSpectrum

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]

#: Gaussian neighbourhood in which the noise of a pixel is measured, σ in mm.
NEIGHBOURHOOD_MM = 6.0
#: σ of the Gaussian of the high-pass filter (1 − G)², mm: it leaves 0.5 % of the power at 0.1/mm, 31 % at 0.35/mm.
HIGH_PASS_MM = 0.8
#: Strong edges: gradient after a Gaussian of this σ (mm), HU/mm. This distance from them is left out, mm.
EDGE_HU_PER_MM, EDGE_SIGMA_MM, EDGE_MARGIN_MM = 40.0, 1.5, 3.0
#: Values beyond this many standard deviations count as that many: anatomy must not raise the noise beside it.
CLIP_NOISE = 2.5
#: Variance of normal values that are clipped there.
_CLIPPED_VARIANCE = 0.9775


def local_noise_map(
    hu: Image, body: Mask, pixel_spacing_mm: tuple[float, float], spectrum: NoisePowerSpectrum
) -> NDArray[np.float32]:
    """Map of the standard deviation of the noise.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    spectrum : NoisePowerSpectrum
        Noise of the series; only its shape is used.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        HU; NaN outside the body and near strong edges, where nothing was measured.
    """
    values = np.asarray(hu, np.float32)
    measured = distance_from_edges_mm([values], body, pixel_spacing_mm) > EDGE_MARGIN_MM
    found = np.full(values.shape, np.nan, np.float32)
    if measured.any():
        fine = _high_pass(values, pixel_spacing_mm)
        noise = local_std(fine, measured, NEIGHBOURHOOD_MM, pixel_spacing_mm)
        found[measured] = noise[measured] * _whole_over_fine(spectrum)
    return found


def _high_pass(values: Image, spacing_mm: tuple[float, float]) -> Image:
    rest = values - gaussian(values, HIGH_PASS_MM, spacing_mm)
    return rest - gaussian(rest, HIGH_PASS_MM, spacing_mm)


def _whole_over_fine(spectrum: NoisePowerSpectrum) -> float:
    """Standard deviation of noise with this spectrum over that after the high-pass filter."""
    frequency = np.hypot(spectrum.row_frequency[:, None], spectrum.column_frequency[None, :])
    passed = (1 - np.exp(-2 * (np.pi * HIGH_PASS_MM * frequency) ** 2)) ** 4
    fine = float((spectrum.power * passed).sum())
    return float(np.sqrt(spectrum.power.sum() / fine)) if fine > 0 else 1.0


def distance_from_edges_mm(
    images: Sequence[Image], body: Mask, spacing_mm: tuple[float, float]
) -> NDArray[np.float64]:
    """Distance from the strong edges that all images have, and from the outside of the body.

    Parameters
    ----------
    images : sequence of ndarray, shape (rows, columns)
        HU.
    body : ndarray of bool, shape (rows, columns)
        Body mask.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (rows, columns)
        mm; 0 on edges and outside the body.
    """
    gradients = []
    for image in images:
        parts = np.gradient(gaussian(image, EDGE_SIGMA_MM, spacing_mm), *spacing_mm)
        gradients.append(np.hypot(*parts))
    inside = body & (np.min(gradients, axis=0) < EDGE_HU_PER_MM)
    inside = np.pad(inside, 1)  # the border of the image is an edge
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    return distance[1:-1, 1:-1]


def gaussian(image: Image, sigma_mm: float, spacing_mm: tuple[float, float]) -> Image:
    """Gaussian blur; the kernel ends at 3 σ.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
    sigma_mm : float
        σ, mm.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (rows, columns)
    """
    smooth: Image = ndimage.gaussian_filter(image, [sigma_mm / mm for mm in spacing_mm], truncate=3.0)
    return smooth


def local_std(values: Image, mask: Mask, sigma_mm: float, spacing_mm: tuple[float, float]) -> Image:
    """Standard deviation of zero-mean values in Gaussian neighbourhoods inside the mask, clipped against outliers.

    Computed on blocks about a quarter of σ wide and interpolated.

    Parameters
    ----------
    values : ndarray, shape (rows, columns)
        Values around 0.
    mask : ndarray of bool, shape (rows, columns)
        Pixels that count.
    sigma_mm : float
        σ of the neighbourhood, mm.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (rows, columns)
        In the unit of the values, also outside the mask.
    """
    block = tuple(max(1, round(sigma_mm / 4 / mm)) for mm in spacing_mm)
    sigma = [sigma_mm / mm / size for mm, size in zip(spacing_mm, block, strict=True)]
    square = np.where(mask, values**2, 0).astype(np.float32)
    weight = _blocks(mask.astype(np.float32), block)
    total = np.maximum(ndimage.gaussian_filter(weight, sigma), 1e-6)
    inside = square[mask]
    std = np.full(weight.shape, np.sqrt(np.median(inside)) / 0.6745, np.float32)
    for _ in range(4):
        limit = (CLIP_NOISE * np.kron(std, np.ones(block, np.float32))) ** 2
        clipped = np.minimum(square, limit[: values.shape[0], : values.shape[1]])
        mean = ndimage.gaussian_filter(_blocks(clipped, block), sigma) / total
        std = np.sqrt(mean / _CLIPPED_VARIANCE)
    return _interpolated(std, block, values.shape)


def _blocks(values: Image, block: tuple[int, ...]) -> Image:
    """Means over blocks; the last ones are padded with zeros."""
    rows, columns = (-(-side // size) for side, size in zip(values.shape, block, strict=True))
    padded = np.zeros((rows * block[0], columns * block[1]), values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    means: Image = padded.reshape(rows, block[0], columns, block[1]).mean(axis=(1, 3))
    return means


def _interpolated(values: Image, block: tuple[int, ...], shape: tuple[int, ...]) -> Image:
    """Linear interpolation of block values at every pixel."""
    axes = [(np.arange(side) + 0.5) / size - 0.5 for side, size in zip(shape, block, strict=True)]
    lower = [
        np.clip(np.floor(axis).astype(int), 0, max(count - 2, 0))
        for axis, count in zip(axes, values.shape, strict=True)
    ]
    upper = [np.minimum(low + 1, count - 1) for low, count in zip(lower, values.shape, strict=True)]
    part = [np.clip(axis - low, 0, 1).astype(np.float32) for axis, low in zip(axes, lower, strict=True)]
    along = values[lower[0]] * (1 - part[0])[:, None] + values[upper[0]] * part[0][:, None]
    full: Image = along[:, lower[1]] * (1 - part[1]) + along[:, upper[1]] * part[1]
    return full
