"""Full-reference numbers beyond one scale: MS-SSIM, VIF and GMSD.

All work on HU clipped to a window; ``data_range`` is its width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.intensity import Window
from ldct_denoise.metrics.fidelity import ssim_terms

Image = NDArray[np.floating]

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli & Bovik 2003
VIF_NOISE_VARIANCE = 2.0  # on a range of 255, as Sheikh & Bovik 2006
GMSD_CONSTANT = 170.0  # on a range of 255, as Xue et al. 2014


def ms_ssim(candidate: Image, reference: Image, window: Window) -> float:
    """Multi-scale SSIM (Wang, Simoncelli & Bovik 2003, eq. 7), five scales, 2×2 mean between them.

    Negative contrast-structure terms count as 0.

    Raises
    ------
    InputError
        If a side is shorter than 176 pixels (11 at the fifth scale).
    """
    if min(candidate.shape) < 11 * 2**4:
        raise InputError(f"MS-SSIM needs sides of at least 176 pixels, not {candidate.shape}")
    first, second = _double(window.clip(candidate)), _double(window.clip(reference))
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        luminance, contrast_structure = ssim_terms(first, second, window)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        term = np.mean(luminance * contrast_structure if last else contrast_structure)
        product *= max(float(term), 0.0) ** weight
        first, second = _halve(first), _halve(second)
    return product


def vif(candidate: Image, reference: Image, window: Window) -> float:
    """Visual information fidelity in the pixel domain (Sheikh & Bovik 2006; four scales).

    1 for equal images; smaller where information is lost; above 1 where contrast is enhanced.
    """
    first, second = _double(255 * window.to_grey(candidate)), _double(255 * window.to_grey(reference))
    kept = available = 0.0
    for scale in range(1, 5):
        size = 2 ** (5 - scale) + 1
        if scale > 1:
            first, second = _valid(first, size)[::2, ::2], _valid(second, size)[::2, ::2]
        mean_1, mean_2 = _valid(first, size), _valid(second, size)
        var_1 = np.maximum(_valid(first * first, size) - mean_1**2, 0)
        var_2 = np.maximum(_valid(second * second, size) - mean_2**2, 0)
        covariance = _valid(first * second, size) - mean_1 * mean_2
        gain = np.where(var_2 > 1e-10, covariance / (var_2 + 1e-10), 0)
        noise = np.where(gain < 0, var_1, np.maximum(var_1 - gain * covariance, 1e-10))
        gain = np.maximum(gain, 0)
        kept += float(np.sum(np.log2(1 + gain**2 * var_2 / (noise + VIF_NOISE_VARIANCE))))
        available += float(np.sum(np.log2(1 + var_2 / VIF_NOISE_VARIANCE)))
    return kept / available if available > 0 else 1.0


def gmsd(candidate: Image, reference: Image, window: Window) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014, eq. 6): 0 for equal images, larger is worse."""
    first, second = (_halve(255 * window.to_grey(image).astype(np.float64)) for image in (candidate, reference))
    gradient_1, gradient_2 = _gradient(first), _gradient(second)
    similarity = (2 * gradient_1 * gradient_2 + GMSD_CONSTANT) / (gradient_1**2 + gradient_2**2 + GMSD_CONSTANT)
    return float(np.std(similarity))


def measure(candidate: Image, reference: Image, window: Window) -> dict[str, float]:
    """``ms_ssim``, ``vif`` and ``gmsd`` of one slice; MS-SSIM only where the slice is large enough."""
    values = {"vif": vif(candidate, reference, window), "gmsd": gmsd(candidate, reference, window)}
    if min(candidate.shape) >= 11 * 2**4:
        values["ms_ssim"] = ms_ssim(candidate, reference, window)
    return values


def _double(image: Image) -> Image:
    return np.asarray(image, dtype=np.float64)


def _halve(image: Image) -> Image:
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    halved: Image = image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3))
    return halved


def _gradient(image: Image) -> Image:
    """Gradient magnitude by Prewitt's operator with weights 1/3."""
    magnitude: Image = np.hypot(*(ndimage.prewitt(image, axis=axis) / 3 for axis in (0, 1)))
    return magnitude


def _valid(image: Image, size: int) -> Image:
    """Gaussian mean (σ = size/5) where the window fits."""
    offsets = np.arange(size) - size // 2
    taps = np.exp(-0.5 * (offsets / (size / 5)) ** 2)
    taps /= taps.sum()
    blurred = ndimage.correlate1d(ndimage.correlate1d(image, taps, axis=0), taps, axis=1)
    edge = size // 2
    inner: Image = blurred[edge : blurred.shape[0] - edge, edge : blurred.shape[1] - edge]
    return inner
