"""Bilateral filter: a Gaussian average of the neighbours whose value is near.

Tomasi, Manduchi, "Bilateral filtering for gray and color images", ICCV 1998. Written out in torch: scikit-image's
takes uneven time with the range of values and quantises them into bins.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma
from ldct_denoise.methods.base import Method, Supervision
from ldct_denoise.networks.blocks import reflect_pad


class BilateralSettings(SigmaSettings):
    """The two Gaussians."""

    spatial_px: float = Field(1.5, gt=0, le=10, description="standard deviation in space, pixels")
    value: float = Field(3.0, gt=0, le=20, description="standard deviation of values, in units of σ")


class Bilateral(Method[BilateralSettings]):
    """Edge-preserving local average."""

    Settings = BilateralSettings
    supervision = Supervision.NONE
    title = "bilateral filter"
    reference = "Tomasi, Manduchi: Bilateral filtering for gray and color images, ICCV 1998"

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Slice by slice, on the image's device."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        s, sigma = self.settings, noise_sigma(image, self.settings, self.scale)
        if sigma == 0:
            return image
        radius = math.ceil(3 * s.spatial_px)
        height, width = image.shape
        around = reflect_pad(image[None, None], radius, radius, radius, radius)[0, 0]
        total, weights = torch.zeros_like(image), torch.zeros_like(image)
        for down in range(2 * radius + 1):
            for right in range(2 * radius + 1):
                near = around[down : down + height, right : right + width]
                distance = ((down - radius) ** 2 + (right - radius) ** 2) / s.spatial_px**2
                weight = torch.exp(-0.5 * (((near - image) / (s.value * sigma)).square() + distance))
                total += weight * near
                weights += weight
        return total / weights


METHOD = Bilateral
