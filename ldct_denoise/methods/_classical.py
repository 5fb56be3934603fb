"""Shared by the methods without training: the noise level, and restoration image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ldct_denoise.intensity import Scale
from ldct_denoise.methods import base
from ldct_denoise.networks.blocks import run_padded


class SigmaSettings(base.Settings):
    """The noise level: given, or estimated for each slice."""

    sigma_hu: float | None = Field(
        None, ge=0, description="standard deviation of the noise, HU; none: estimated for each slice"
    )
    sigma_estimator: Literal["tissue", "wavelet"] = Field(
        "tissue",
        description="from uniform soft tissue (CT), or from the finest wavelet coefficients (white noise)",
    )
    sigma_factor: float = Field(1.0, ge=0, le=10, description="the noise level is multiplied by this")


def noise_sigma(image: Tensor, settings: SigmaSettings, scale: Scale) -> float:
    """Return the standard deviation of an image's noise times ``sigma_factor``, network units.

    Parameters
    ----------
    image : Tensor, shape (height, width)
        One image, network units.
    settings : SigmaSettings
        How the noise level is found.
    scale : Scale
        HU range of network units.

    Returns
    -------
    float
        Standard deviation, network units.
    """
    if settings.sigma_hu is not None:
        return settings.sigma_factor * settings.sigma_hu / scale.width_hu
    tissue = tissue_sigma(image, scale) if settings.sigma_estimator == "tissue" else None
    return settings.sigma_factor * (wavelet_sigma(image) if tissue is None else tissue)


def tissue_sigma(image: Tensor, scale: Scale, window: int = 9) -> float | None:
    """Estimate the noise of any spectrum: the 10th percentile of local standard deviations in soft tissue.

    Soft tissue is −150…250 HU. On the 2016 Mayo slices the estimate is 0.88–1.03 times the standard deviation of
    quarter minus full dose for the sharp kernel and 0.80–1.00 for the medium one, the estimate from wavelets
    0.74–0.84 and 0.36.

    Parameters
    ----------
    image : Tensor, shape (height, width)
        One image, network units.
    scale : Scale
        HU range of network units.
    window : int
        Side of the local windows, pixels.

    Returns
    -------
    float or None
        Standard deviation in network units; None if the image has too little soft tissue.
    """
    if min(image.shape) < window:
        return None
    centered = image[None, None].float() - scale.to_unit(50.0)
    mean = F.avg_pool2d(centered, window, 1)
    std = (F.avg_pool2d(centered.square(), window, 1) - mean.square()).clamp(min=0).sqrt()
    in_tissue = std[mean.abs() < 200 / scale.width_hu]
    if in_tissue.numel() < 1000:
        return None
    return float(in_tissue.sort().values[in_tissue.numel() // 10])


def wavelet_sigma(image: Tensor) -> float:
    """Estimate the standard deviation of white noise in one image (height, width); 0 for a constant image.

    Median absolute deviation of the finest diagonal wavelet coefficients (Donoho & Johnstone 1994), from
    scikit-image. The noise of a soft CT kernel has little power there, so the estimate is too low for such
    kernels.
    """
    from skimage.restoration import estimate_sigma

    if min(image.shape) < 4 or bool((image == image[0, 0]).all()):
        return 0.0
    sigma = float(estimate_sigma(image.float().cpu().numpy()))
    return sigma if np.isfinite(sigma) else 0.0


def each_image(image: Tensor, restore: Callable[[Tensor], Tensor]) -> Tensor:
    """Restore (n, 1, height, width) one (height, width) image at a time, in float32 even under autocast."""
    with torch.autocast(image.device.type, enabled=False):
        restored = [restore(one[0].float()) for one in image]
    return torch.stack(restored)[:, None].to(image.dtype)


def fit_to_image(image: Tensor, fit: Callable[[Tensor, float], Tensor], multiple: int, min_side: int) -> Tensor:
    """Fit a network to one image of zero mean and unit variance, with gradients even where a caller wants none.

    Parameters
    ----------
    image : Tensor, shape (height, width)
        The image.
    fit : callable
        Maps the standardised image, padded to shape (1, 1, height, width), and the standard deviation of the image
        to an estimate of the same shape.
    multiple : int
        Divisor of the sides that the network accepts, pixels.
    min_side : int
        Smallest side that the network accepts, pixels.

    Returns
    -------
    Tensor, shape (height, width)
        The estimate; a constant image is returned as it is.
    """
    std = float(image.std(correction=0))
    if std == 0:
        return image
    with torch.inference_mode(False), torch.enable_grad():
        mean = float(image.mean())
        target = (image.clone()[None, None] - mean) / std
        fitted = run_padded(lambda padded: fit(padded, std), target, multiple, min_side)
    return fitted[0, 0] * std + mean


def on_array(image: Tensor, restore: Callable[[NDArray[np.float32]], NDArray[np.floating]]) -> Tensor:
    """Apply a NumPy function to one (height, width) image and return a tensor of its shape.

    scikit-image may drop an axis of one pixel.
    """
    restored = np.asarray(restore(image.cpu().numpy()), dtype=np.float32).reshape(image.shape)
    return torch.from_numpy(restored).to(image.device)
