"""Blind-spot learning from single noisy images (Noise2Void).

Random pixels are replaced, and the network learns to predict their values from their surroundings. This removes
noise that is independent between pixels. CT noise is correlated by the reconstruction kernel, so neighbours
predict part of it and the network keeps that part. A structured mask (Broaddus et al.: Removing structured noise
with self-supervised blind-spot networks, ISBI 2020) therefore also replaces the neighbours along one axis or both.

Supervision: self

Reference: Krull, Buchholz, Jug: Noise2Void – learning denoising from single noisy images, CVPR 2019
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses
from ldct_denoise.networks.residual import UNet


class Noise2VoidSettings(RegressionSettings):
    """A U-Net, and the mask; the mask's settings are named as in CAREamics."""

    base_channels: int = Field(
        32, ge=4, le=256, description="channels at full resolution; doubled at each next level"
    )
    num_levels: int = Field(3, ge=1, le=6, description="number of resolutions")
    blocks_per_level: int = Field(2, ge=1, le=4, description="3×3 convolutions at each resolution, down and up")
    masked_pixel_percentage: float = Field(
        1.0, gt=0, le=20, description="pixels to predict in each patch, percent"
    )
    struct_mask_axis: Literal["none", "horizontal", "vertical", "both"] = Field(
        "none", description="axis along which the neighbours of a masked pixel are replaced too"
    )
    struct_mask_span: int = Field(7, ge=3, le=21, description="pixels replaced along that axis, odd")
    roi_size: int = Field(5, ge=3, le=21, description="side of the square that replacement values come from, odd")

    @field_validator("struct_mask_span", "roi_size")
    @classmethod
    def _is_odd(cls, side: int) -> int:
        if side % 2 == 0:
            raise ValueError(f"{side} is even; give an odd number of pixels")
        return side


class Noise2Void(Regression[Noise2VoidSettings]):
    """U-Net that predicts masked pixels from their surroundings."""

    Settings = Noise2VoidSettings

    def __init__(self, settings: Noise2VoidSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.size_multiple = 2 ** (settings.num_levels - 1)

    def _network(self) -> nn.Module:
        s = self.settings  # not residual: a skip would carry the pixel past the blind spot
        return UNet(s.base_channels, s.num_levels, s.blocks_per_level, residual=False)

    def losses(self, batch: Batch) -> Losses:
        """Distance of the estimate to the image at the masked pixels; the network sees their replacements."""
        predicted, replaced = self.masks(batch.low, batch.generator)
        shown = torch.where(replaced, self._replacements(batch.low, batch.generator), batch.low)
        return {self.settings.loss: self._distance(self._estimate(shown), batch.low, predicted)}

    def masks(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the pixels to predict and those to replace.

        Returns
        -------
        (Tensor, Tensor), bool, each of the shape of ``image``
            Both have at least one pixel in each image.
        """
        s = self.settings
        draw = torch.rand(image.shape, generator=generator)
        smallest = draw.amin(dim=(2, 3), keepdim=True) + 1e-7
        predicted = draw < torch.clamp(smallest, min=s.masked_pixel_percentage / 100)
        columns = s.struct_mask_span if s.struct_mask_axis in ("horizontal", "both") else 1
        rows = s.struct_mask_span if s.struct_mask_axis in ("vertical", "both") else 1
        spots = predicted.float()
        wide = F.max_pool2d(spots, (1, columns), 1, (0, columns // 2))
        tall = F.max_pool2d(spots, (rows, 1), 1, (rows // 2, 0))
        return predicted.to(image.device), torch.maximum(wide, tall).bool().to(image.device)

    def _replacements(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """For each pixel, draw another one from the square around it; the image wraps around at its edges."""
        side, radius = self.settings.roi_size, self.settings.roi_size // 2
        draw = torch.randint(side**2 - 1, image.shape, generator=generator).to(image.device)
        draw = draw + (draw >= side**2 // 2)  # skips the center
        height, width = image.shape[-2:]
        rows = torch.arange(height, device=image.device)[:, None] + draw // side - radius
        columns = torch.arange(width, device=image.device) + draw % side - radius
        index = (rows % height) * width + columns % width
        return image.flatten(2).gather(2, index.flatten(2)).view_as(image)


METHOD = Noise2Void
