"""InvDN: an invertible network that splits an image into a small clean one and a latent that holds the noise.

Liu, Qin, Anwar, Ji, Kim, Caldwell, Gedeon, "Invertible denoising network: a light solution for real noise
removal", CVPR 2021. To restore, the latent is thrown away and another drawn from N(0, 1); the mean over several
draws is the paper's Monte-Carlo self-ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ldct_denoise.intensity import Scale
from ldct_denoise.methods import base
from ldct_denoise.methods.base import Batch, Losses, Method, Phase, Supervision
from ldct_denoise.networks.blocks import on_multiple
from ldct_denoise.networks.invertible import InvertibleNetwork


class InvDnSettings(base.LearnedSettings):
    """The published network; CT keeps more detail with one halving."""

    halvings: int = Field(2, ge=1, le=3, description="the small image is 2**this times smaller")
    couplings: int = Field(8, ge=1, le=16, description="after each halving")
    growth: int = Field(32, ge=4, le=128, description="channels that each convolution of a dense block adds")
    gain: float = Field(16.0, gt=0, description="image values are multiplied by this inside")
    centre: float = Field(0.25, description="the image value that is 0 inside (0.25: 0 HU)")
    small_weight: float = Field(16.0, ge=0, description="of the small image's squared distance")
    image_weight: float = Field(1.0, ge=0, description="of the restored image's absolute distance")
    samples: int = Field(
        8, ge=1, le=64, description="draws of the latent that a restoration averages (1: no ensemble)"
    )
    temperature: float = Field(1.0, ge=0, le=2, description="standard deviation of the draws in use; 0: the mode")
    beta2: float = Field(0.99, ge=0, lt=1)


class InvDn(Method[InvDnSettings]):
    """Invertible denoising network."""

    Settings = InvDnSettings
    supervision = Supervision.SUPERVISED
    title = "invertible network with a resampled latent, supervised"
    reference = "Liu et al.: Invertible denoising network: a light solution for real noise removal, CVPR 2021"
    is_random = True

    def __init__(self, settings: InvDnSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.network = InvertibleNetwork(settings.halvings, settings.couplings, settings.growth)

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """The mean over draws of the latent; every image of the batch gets the same ones."""
        generator = torch.Generator().manual_seed(seed)
        return on_multiple(lambda padded: self._restore(padded, generator), image, 2**self.settings.halvings)

    def _restore(self, image: Tensor, generator: torch.Generator) -> Tensor:
        s = self.settings
        small, latent = self.network((image - s.centre) * s.gain)
        total = torch.zeros_like(image)
        samples = s.samples if s.temperature else 1
        for _ in range(samples):
            drawn = s.temperature * torch.randn(latent.shape[1:], generator=generator).to(latent)
            total = total + self.network.inverse(small, drawn.expand_as(latent))
        return total / (samples * s.gain) + s.centre

    def losses(self, batch: Batch) -> Losses:
        """The small image against the shrunken partner, and the restoration against the partner."""
        assert batch.normal is not None
        s = self.settings
        low, normal = ((image - s.centre) * s.gain for image in (batch.low, batch.normal))
        small, latent = self.network(low)
        wanted = F.interpolate(normal, size=small.shape[-2:], mode="bicubic", antialias=True)
        restored = self.network.inverse(small, batch.randn_like(latent))
        return {
            "small": s.small_weight * F.mse_loss(small, wanted),
            "image": s.image_weight * F.l1_loss(restored, normal),
        }

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """With the gradient norm limited to 10, as published."""
        learner = self.settings.learner([self.network], learning_rate)
        return (Phase("network", self.losses, learner, clip_norm=10.0),)


METHOD = InvDn
