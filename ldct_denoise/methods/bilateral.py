"""Bilateral filter.

A weighted average of neighbours; the weight is a Gaussian of their distance times a Gaussian of the difference of
their values. It is written in torch: scikit-image's filter quantises the values into bins.

Supervision: none

Reference: Tomasi, Manduchi: Bilateral filtering for gray and color images, ICCV 1998
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma
from ldct_denoise.methods.base import Method
from ldct_denoise.networks.blocks import reflect_pad


class BilateralSettings(SigmaSettings):
    """The two Gaussians."""

    sigma_spatial_px: float = Field(1.5, gt=0, le=10, description="standard deviation of distances, pixels")
    sigma_range: float = Field(
        3.0, gt=0, le=20, description="standard deviation of values, in units of the noise σ"
    )


class Bilateral(Method[BilateralSettings]):
    """Edge-preserving local average."""

    Settings = BilateralSettings

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Filter slice by slice, on the image's device."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        s, sigma = self.settings, noise_sigma(image, self.settings, self.scale)
        if sigma == 0:
            return image
        radius = math.ceil(3 * s.sigma_spatial_px)
        height, width = image.shape
        padded = reflect_pad(image[None, None], radius, radius, radius, radius)[0, 0]
        total, weights = torch.zeros_like(image), torch.zeros_like(image)
        for row in range(2 * radius + 1):
            for column in range(2 * radius + 1):
                neighbour = padded[row : row + height, column : column + width]
                distance = ((row - radius) ** 2 + (column - radius) ** 2) / s.sigma_spatial_px**2
                difference = ((neighbour - image) / (s.sigma_range * sigma)).square()
                weight = torch.exp(-0.5 * (difference + distance))
                total += weight * neighbour
                weights += weight
        return total / weights


METHOD = Bilateral
