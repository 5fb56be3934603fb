"""Full-reference metrics: PSNR, errors and bias in HU, by window and region; and all of them with SSIM at once.

Both images are clipped to the window, and ``data_range`` is its width. Every function takes HU and an optional
mask; no pixel outside the mask is used.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.intensity import Window
from ldct_denoise.metrics.ssim import DEFAULT_SSIM, LocalMean, SsimForm, mean_inside, ssim_product, ssim_terms
from ldct_denoise.regions.tissues import bounding_box

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]


def rmse(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Root mean square error: ``√mean((candidate − reference)²)``.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Both images are clipped to it.
    mask : ndarray of bool, shape (rows, columns), optional
        Region; the whole image by default.

    Returns
    -------
    float
        HU.
    """
    return float(np.sqrt(np.mean(np.square(_difference(candidate, reference, window, mask)))))


def mae(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Mean absolute error: ``mean(|candidate − reference|)``.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Both images are clipped to it.
    mask : ndarray of bool, shape (rows, columns), optional
        Region; the whole image by default.

    Returns
    -------
    float
        HU.
    """
    return float(np.mean(np.abs(_difference(candidate, reference, window, mask))))


def hu_bias(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Mean error: ``mean(candidate − reference)``.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Both images are clipped to it.
    mask : ndarray of bool, shape (rows, columns), optional
        Region; the whole image by default.

    Returns
    -------
    float
        HU.
    """
    return float(np.mean(_difference(candidate, reference, window, mask)))


def noise_std(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Standard deviation of ``candidate − reference``; it includes the noise of the reference.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Both images are clipped to it.
    mask : ndarray of bool, shape (rows, columns), optional
        Region; the whole image by default.

    Returns
    -------
    float
        HU.
    """
    return float(np.std(_difference(candidate, reference, window, mask)))


def psnr(candidate: Image, reference: Image, window: Window, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio: ``20·log10(window width / rmse)``.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Both images are clipped to it.
    mask : ndarray of bool, shape (rows, columns), optional
        Region; the whole image by default.

    Returns
    -------
    float
        dB; infinite for equal images.
    """
    return _psnr_of(rmse(candidate, reference, window, mask), window)


def measure(
    candidate: Image,
    reference: Image,
    window: Window,
    regions: Mapping[str, Mask | None],
    form: SsimForm = DEFAULT_SSIM,
    means: MutableMapping[tuple[str, SsimForm], LocalMean] | None = None,
) -> dict[tuple[str, str], float]:
    """All metrics of this module for one slice, one window and several regions.

    Parameters
    ----------
    candidate, reference : ndarray, shape (rows, columns)
        HU.
    window : Window
        Clips both images and gives ``data_range``.
    regions : mapping from name to mask
        ``None`` for the whole image; empty regions are left out.
    form : SsimForm
        Variant of SSIM.
    means : mutable mapping, optional
        Cache of what depends on the regions only. Passing the same mapping for all images and windows of these
        regions saves a fifth of the time.

    Returns
    -------
    dict from (region, metric) to float
        ``psnr`` (dB), ``ssim``, ``rmse``, ``mae``, ``hu_bias``, ``noise_std`` (HU). Without ``ssim`` where an
        image is smaller than its window (11 pixels).
    """
    first, second = window.clip(candidate), window.clip(reference)
    difference = first - second
    means = {} if means is None else means
    values: dict[tuple[str, str], float] = {}
    for name, mask in regions.items():
        if mask is not None and not mask.any():
            continue
        inside = difference if mask is None else difference[mask]
        bias = float(np.mean(inside, dtype=np.float64))
        mean_square = float(np.mean(np.square(inside), dtype=np.float64))
        values[name, "psnr"] = _psnr_of(mean_square**0.5, window)
        box = (slice(None), slice(None)) if mask is None else bounding_box(mask)
        part = None if mask is None else mask[box]  # pixels outside the mask are not used anyway
        if (name, form) not in means:
            means[name, form] = LocalMean(part, first.dtype, form)
        luminance, contrast = ssim_terms(first[box], second[box], window, part, form, means[name, form])
        if luminance.size:
            values[name, "ssim"] = mean_inside(ssim_product(luminance, contrast, form), part)
        values[name, "rmse"] = mean_square**0.5
        values[name, "mae"] = float(np.mean(np.abs(inside), dtype=np.float64))
        values[name, "hu_bias"] = bias
        values[name, "noise_std"] = max(mean_square - bias**2, 0.0) ** 0.5
    return values


def _difference(candidate: Image, reference: Image, window: Window, mask: Mask | None) -> Image:
    difference = window.clip(candidate).astype(np.float64) - window.clip(reference)
    return difference if mask is None else difference[mask]


def _psnr_of(rmse_hu: float, window: Window) -> float:
    return 20 * float(np.log10(window.width_hu / rmse_hu)) if rmse_hu > 0 else float("inf")
