"""Full-reference metrics beyond a single scale: MS-SSIM, VIF and GMSD.

All are computed on HU clipped to a window; ``data_range`` is the window's width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.intensity import Window
from ldct_denoise.metrics.ssim import ssim_terms

Image = NDArray[np.floating]

#: Weights of the five scales (Wang, Simoncelli & Bovik 2003).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Shortest side that holds the SSIM window of 11 pixels at the fifth scale.
MS_SSIM_MIN_SIDE_PX = 11 * 2**4
#: Variance of the visual noise on a range of 255 (Sheikh & Bovik 2006).
VIF_NOISE_VARIANCE = 2.0
#: Stabilising constant on a range of 255 (Xue et al. 2014).
GMSD_CONSTANT = 170.0


def ms_ssim(candidate: Image, reference: Image, window: Window) -> float:
    """Multi-scale structural similarity: 1 for equal images.

    ``l₅^w₅ · Π cs_j^w_j`` over five scales with a 2×2 mean between them; ``l`` is the mean luminance term and
    ``cs`` the mean contrast-structure term of SSIM. Negative terms count as 0.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window

    Returns
    -------
    float
        0 to 1, dimensionless.

    Raises
    ------
    InputError
        If a side is shorter than 176 pixels (11 at the fifth scale).

    References
    ----------
    Wang, Simoncelli & Bovik, "Multiscale structural similarity for image quality assessment", Asilomar
    Conference 2003, eq. 7.
    """
    if min(candidate.shape) < MS_SSIM_MIN_SIDE_PX:
        raise InputError(f"MS-SSIM needs sides of at least {MS_SSIM_MIN_SIDE_PX} pixels, not {candidate.shape}")
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
    """Visual information fidelity in the pixel domain, four scales.

    Information about the scene that the candidate shares with the reference, relative to the information in the
    reference. Images are scaled to 0…255 within the window.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window

    Returns
    -------
    float
        Dimensionless: 1 for equal images, less if information is lost, more than 1 if contrast is enhanced.

    References
    ----------
    Sheikh & Bovik, "Image information and visual quality", IEEE Trans. Image Process. 15, 2006.
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
    """Gradient magnitude similarity deviation: 0 for equal images, larger is worse.

    Standard deviation over the image of ``(2·m₁·m₂ + c) / (m₁² + m₂² + c)``; ``m`` are gradient magnitudes by
    Prewitt's operator after a 2×2 mean, on images scaled to 0…255 within the window, and ``c`` = 170.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window

    Returns
    -------
    float
        Dimensionless.

    References
    ----------
    Xue, Zhang, Mou & Bovik, "Gradient magnitude similarity deviation", IEEE Trans. Image Process. 23, 2014, eq. 6.
    """
    first, second = (_halve(255 * window.to_grey(image).astype(np.float64)) for image in (candidate, reference))
    gradient_1, gradient_2 = _gradient(first), _gradient(second)
    similarity = (2 * gradient_1 * gradient_2 + GMSD_CONSTANT) / (gradient_1**2 + gradient_2**2 + GMSD_CONSTANT)
    return float(np.std(similarity))


#: The metrics of this module by name.
METRICS: Mapping[str, Callable[[Image, Image, Window], float]] = {"vif": vif, "gmsd": gmsd, "ms_ssim": ms_ssim}


def measure(
    candidate: Image, reference: Image, window: Window, metrics: Sequence[str] = tuple(METRICS)
) -> dict[str, float]:
    """Measure several of the metrics of this module.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
    metrics : sequence of str
        Keys of :data:`METRICS`.

    Returns
    -------
    dict from metric to float
        Without ``ms_ssim`` if the image is too small for it.
    """
    is_large = min(candidate.shape) >= MS_SSIM_MIN_SIDE_PX
    return {
        name: metric(candidate, reference, window)
        for name, metric in METRICS.items()
        if name in metrics and (is_large or name != "ms_ssim")
    }


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
