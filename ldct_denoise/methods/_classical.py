"""What methods without training share: the noise level, and image by image on the CPU."""

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


class SigmaSettings(base.Settings):
    """The noise level, given or estimated for each slice."""

    sigma_hu: float | None = Field(
        None, ge=0, description="standard deviation of the noise in HU; none: estimated for each slice"
    )
    sigma_from: Literal["tissue", "wavelet"] = Field(
        "tissue",
        description="estimate from the calmest soft tissue (CT), or the finest wavelets (white noise)",
    )
    strength: float = Field(1.0, ge=0, le=10, description="the noise level is multiplied by this")


def noise_sigma(image: Tensor, settings: SigmaSettings, scale: Scale) -> float:
    """Standard deviation of one image's noise, network units, times the strength.

    Parameters
    ----------
    image : Tensor, shape (height, width)
    """
    if settings.sigma_hu is not None:
        return settings.strength * settings.sigma_hu / scale.width_hu
    tissue = tissue_sigma(image, scale) if settings.sigma_from == "tissue" else None
    return settings.strength * (estimated_sigma(image) if tissue is None else tissue)


def tissue_sigma(image: Tensor, scale: Scale, window: int = 9) -> float | None:
    """Noise of whatever spectrum: the lower tenth of local standard deviations in soft tissue (−150…250 HU).

    None where the image has too little of it. On the 2016 Mayo slices it is 0.88–1.03 times the standard deviation
    of quarter minus full dose for the sharp and 0.80–1.00 for the soft kernel; wavelets say 0.74–0.84 and 0.36.
    """
    if min(image.shape) < window:
        return None
    centred = image[None, None].float() - scale.to_unit(50.0)
    mean = F.avg_pool2d(centred, window, 1)
    spread = (F.avg_pool2d(centred.square(), window, 1) - mean.square()).clamp(min=0).sqrt()
    calm = spread[mean.abs() < 200 / scale.width_hu]
    if calm.numel() < 1000:
        return None
    return float(calm.sort().values[calm.numel() // 10])


def estimated_sigma(image: Tensor) -> float:
    """White-noise standard deviation of one image (height, width); 0 for a flat one.

    Median absolute deviation of the finest diagonal wavelet coefficients (Donoho & Johnstone 1994) as scikit-image
    computes it. The noise of a soft CT kernel has little power there, so for those it comes out too low.
    """
    from skimage.restoration import estimate_sigma

    if min(image.shape) < 4 or bool((image == image[0, 0]).all()):
        return 0.0
    sigma = float(estimate_sigma(image.float().cpu().numpy()))
    return sigma if np.isfinite(sigma) else 0.0


def each_image(image: Tensor, restore: Callable[[Tensor], Tensor]) -> Tensor:
    """Restore (n, 1, height, width) one (height, width) image at a time, in float32 whatever autocast says."""
    with torch.autocast(image.device.type, enabled=False):
        restored = [restore(one[0].float()) for one in image]
    return torch.stack(restored)[:, None].to(image.dtype)


def on_array(image: Tensor, restore: Callable[[NDArray[np.float32]], NDArray[np.floating]]) -> Tensor:
    """Run a numpy function on one (height, width) image; scikit-image may drop an axis of one pixel."""
    restored = np.asarray(restore(image.cpu().numpy()), dtype=np.float32).reshape(image.shape)
    return torch.from_numpy(restored).to(image.device)
