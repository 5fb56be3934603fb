"""Noise2Void: learn from single noisy images, by pixels hidden from the network.

Krull, Buchholz, Jug, "Noise2Void – learning denoising from single noisy images", CVPR 2019 (Batson, Royer,
"Noise2Self", ICML 2019, is the same with a fixed grid). The argument asks that the noise of a pixel cannot be told
from its neighbours'. CT noise is correlated by the reconstruction kernel, so its neighbours do tell it and the
network learns to keep the noise; the structured mask (Broaddus et al., "Removing structured noise with
self-supervised blind-spot networks", ISBI 2020) hides the neighbours on both axes as well.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses, Supervision
from ldct_denoise.networks.residual import UNet


class Noise2VoidSettings(RegressionSettings):
    """The blind spot."""

    width: int = Field(32, ge=4, le=256, description="channels at full resolution, doubled at each next")
    scales: int = Field(3, ge=1, le=6, description="resolutions")
    blocks: int = Field(2, ge=1, le=4, description="convolutions at each resolution")
    hidden: float = Field(0.01, gt=0, le=0.2, description="fraction of pixels hidden in each patch")
    mask: Literal["pixel", "horizontal", "vertical", "cross"] = Field(
        "pixel", description="what is hidden around each chosen pixel; cross: along both axes"
    )
    mask_reach: int = Field(3, ge=1, le=10, description="pixels hidden to each side by the structured masks")
    window: int = Field(5, ge=3, le=21, description="side of the square that replacements are drawn from, odd")


class Noise2Void(Regression[Noise2VoidSettings]):
    """U-Net that predicts hidden pixels from their surroundings."""

    Settings = Noise2VoidSettings
    supervision = Supervision.SELF
    title = "blind-spot learning from single noisy images"
    reference = "Krull, Buchholz, Jug: Noise2Void – learning denoising from single noisy images, CVPR 2019"

    def __init__(self, settings: Noise2VoidSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.multiple = 2 ** (settings.scales - 1)

    def _network(self) -> nn.Module:
        s = self.settings
        return UNet(
            s.width, s.scales, s.blocks, residual=False
        )  # a shortcut would carry the pixel past the blind spot

    def losses(self, batch: Batch) -> Losses:
        """The estimate at the chosen pixels, from an image that does not show them."""
        chosen, hidden = self.masks(batch.low, batch.generator)
        shown = torch.where(hidden, self._replacements(batch.low, batch.generator), batch.low)
        return {self.settings.loss: self._distance(self._estimate(shown), batch.low, chosen)}

    def masks(self, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels to predict and pixels to hide, bool, the shape of ``image``; at least one of each."""
        s = self.settings
        draw = torch.rand(image.shape, generator=generator)
        chosen = draw < torch.clamp(draw.amin(dim=(2, 3), keepdim=True) + 1e-7, min=s.hidden)
        across = s.mask_reach if s.mask in ("horizontal", "cross") else 0
        down = s.mask_reach if s.mask in ("vertical", "cross") else 0
        spots = chosen.float()
        wide = F.max_pool2d(spots, (1, 2 * across + 1), 1, (0, across))
        tall = F.max_pool2d(spots, (2 * down + 1, 1), 1, (down, 0))
        return chosen.to(image.device), torch.maximum(wide, tall).bool().to(image.device)

    def _replacements(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """For every pixel another one drawn from the square around it (never itself; edges wrap)."""
        reach = self.settings.window // 2
        side = 2 * reach + 1
        draw = torch.randint(side**2 - 1, image.shape, generator=generator).to(image.device)
        draw = draw + (draw >= side**2 // 2)  # leaves out the centre
        height, width = image.shape[-2:]
        rows = torch.arange(height, device=image.device)[:, None] + draw // side - reach
        columns = torch.arange(width, device=image.device) + draw % side - reach
        place = (rows % height) * width + columns % width
        return image.flatten(2).gather(2, place.flatten(2)).view_as(image)


METHOD = Noise2Void
