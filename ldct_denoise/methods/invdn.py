"""Invertible network with a resampled latent (InvDN).

An invertible network splits an image into a small clean image and a latent that contains noise and fine detail. To
restore, the latent is replaced by samples of N(0, 1); the mean over several samples is the Monte Carlo
self-ensemble of the paper.

Supervision: supervised

Reference: Liu, Qin, Anwar, Ji, Kim, Caldwell, Gedeon: Invertible denoising network: a light solution for real
noise removal, CVPR 2021
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch, Losses, Method, Phase, TrainableSettings
from ldct_denoise.networks.blocks import run_padded
from ldct_denoise.networks.invertible import InvertibleNetwork


class InvDnSettings(TrainableSettings):
    """The published network; one level instead of two keeps more detail of CT."""

    num_levels: int = Field(2, ge=1, le=3, description="the small image is 2**this times smaller")
    blocks_per_level: int = Field(8, ge=1, le=16, description="affine couplings at each level")
    growth_channels: int = Field(
        32, ge=4, le=128, description="channels that each convolution of a dense block adds"
    )
    input_scale: float = Field(16.0, gt=0, description="the network sees (image − input_shift) · input_scale")
    input_shift: float = Field(0.25, description="the image value that the network sees as 0 (0.25: 0 HU)")
    small_image_weight: float = Field(16.0, ge=0, description="weight of the small image's squared error")
    image_weight: float = Field(1.0, ge=0, description="weight of the restored image's absolute error")
    num_samples: int = Field(8, ge=1, le=64, description="samples of the latent that a restoration averages")
    temperature: float = Field(1.0, ge=0, le=2, description="standard deviation of the samples; 0: the mode")
    beta2: float = Field(0.99, ge=0, lt=1, description="decay rate of Adam's mean of squared gradients")


class InvDn(Method[InvDnSettings]):
    """Invertible denoising network."""

    Settings = InvDnSettings
    is_random = True

    def __init__(self, settings: InvDnSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        s = settings
        self.network = InvertibleNetwork(s.num_levels, s.blocks_per_level, s.growth_channels)

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Average over samples of the latent; every image of the batch gets the same samples."""
        generator = torch.Generator().manual_seed(seed)
        return run_padded(lambda padded: self._restore(padded, generator), image, 2**self.settings.num_levels)

    def _restore(self, image: Tensor, generator: torch.Generator) -> Tensor:
        s = self.settings
        small, latent = self.network((image - s.input_shift) * s.input_scale)
        total = torch.zeros_like(image)
        num_samples = s.num_samples if s.temperature else 1
        for _ in range(num_samples):
            sample = s.temperature * torch.randn(latent.shape[1:], generator=generator).to(latent)
            total = total + self.network.inverse(small, sample.expand_as(latent))
        return total / (num_samples * s.input_scale) + s.input_shift

    def losses(self, batch: Batch) -> Losses:
        """Errors of the small image against the down-scaled target, and of the restoration against the target."""
        assert batch.normal is not None
        s = self.settings
        low, normal = ((image - s.input_shift) * s.input_scale for image in (batch.low, batch.normal))
        small, latent = self.network(low)
        small_target = F.interpolate(normal, size=small.shape[-2:], mode="bicubic", antialias=True)
        restored = self.network.inverse(small, batch.randn_like(latent))
        return {
            "small_image": s.small_image_weight * F.mse_loss(small, small_target),
            "image": s.image_weight * F.l1_loss(restored, normal),
        }

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Update the network, with the gradient norm clipped to 10 as published."""
        optimizer = self.settings.make_optimizer([self.network], learning_rate)
        return (Phase("network", self.losses, optimizer, max_grad_norm=10.0),)


METHOD = InvDn
