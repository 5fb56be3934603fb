"""Disentangled content and degradation (DRNet).

A deblurring method, used here with noise as the degradation. The content encoders of both domains share their last
block. The degradation code z of x, a vector drawn from a learned Gaussian, guides both generators: x → y is
``G_Y(E_X(x), z)`` and y → x is ``G_X(E_Y(y), z)``.

Supervision: unpaired

Reference: Lu, Chen, Chellappa: Unsupervised domain-specific deblurring via disentangled representations, CVPR 2019
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._translation import TranslationMethod, Translations, TranslationSettings
from ldct_denoise.methods._unpaired import encoder, generator
from ldct_denoise.methods.base import Batch, Losses
from ldct_denoise.networks.blocks import ResidualBlock, conv
from ldct_denoise.networks.encoder_decoder import Code
from ldct_denoise.networks.vgg import Vgg19Features


class DrNetSettings(TranslationSettings):
    """The loss weights of the paper."""

    code_dim: int = Field(8, ge=1, le=256, description="length of the degradation code")
    cycle_weight: float = Field(10.0, ge=0, description="weight of the cycle loss")
    kl_weight: float = Field(0.01, ge=0, description="weight of the KL divergence of the degradation code")
    perceptual_weight: float = Field(0.1, ge=0, description="weight of the distance of VGG-19 features")
    perceptual_layer: str = Field("conv3_3", description="layer of VGG-19")
    vgg_weights: str | None = Field(
        None, description="file of torchvision's vgg19 weights, or 'download'; none: no perceptual loss"
    )


class Gaussian(NamedTuple):
    """A diagonal normal distribution."""

    mean: Tensor
    log_variance: Tensor

    def kl(self) -> Tensor:
        """Return the KL divergence from N(0, 1), averaged over the code."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).mean()


class DegradationEncoder(nn.Module):
    """A 7×7 convolution, two 4×4 convolutions of stride 2, global average pooling, a Gaussian."""

    def __init__(self, settings: DrNetSettings) -> None:
        super().__init__()
        s, channels = settings, settings.base_channels
        self.input_scale, self.input_shift = s.input_scale, s.input_shift
        self.layers = nn.Sequential(
            conv(1, channels, 7),
            conv(channels, 2 * channels, 4, stride=2),
            conv(2 * channels, 4 * channels, 4, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(4 * channels, 2 * s.code_dim, 1),
        )

    def forward(self, image: Tensor) -> Gaussian:
        """Return the distribution of the code; both parts have shape (n, code_dim, 1, 1)."""
        mean, log_variance = self.layers((image - self.input_shift) * self.input_scale).chunk(2, dim=1)
        return Gaussian(mean, log_variance.clamp(-10, 10))


class DrNet(TranslationMethod[DrNetSettings]):
    """Disentangled representations of content and degradation."""

    Settings = DrNetSettings

    def __init__(self, settings: DrNetSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        s = settings
        self.e_x = encoder(s, s.blocks_per_level - 1)
        self.shared_encoder = ResidualBlock(s.coarsest_channels, s.norm, "reflect")
        self.e_noise = DegradationEncoder(s)
        self.g_y, self.join_y = generator(s), self._join()

    def _join(self) -> nn.Module:
        """Build the 1×1 convolution that merges a degradation code into a content code."""
        channels = self.settings.coarsest_channels
        return nn.Conv2d(channels + self.settings.code_dim, channels, 1)

    def add_training_networks(self) -> None:
        """Build the other encoder and generator, the discriminators and VGG-19."""
        s = self.settings
        self.e_y = encoder(s, s.blocks_per_level - 1)
        self.g_x, self.join_x = generator(s), self._join()
        super().add_training_networks()
        self.vgg: Vgg19Features | None = None
        if s.vgg_weights and s.perceptual_weight:
            self.vgg = Vgg19Features(s.perceptual_layer, s.vgg_weights)

    def generators(self) -> Sequence[nn.Module]:
        """Return encoders, generators and the layers that merge their codes."""
        encoders = (self.e_x, self.e_y, self.shared_encoder, self.e_noise)
        return *encoders, self.g_x, self.g_y, self.join_x, self.join_y

    def restoration_parameters(self) -> dict[str, Tensor]:
        """Return the weights of the networks that translate x to y."""
        return self._state_of("e_x", "shared_encoder", "e_noise", "g_y", "join_y")

    def _restore(self, image: Tensor) -> Tensor:
        return self._decode(self.g_y, self.join_y, self._content(self.e_x, image), self.e_noise(image).mean, image)

    def _content(self, network: nn.Module, image: Tensor) -> Code:
        *fine, coarsest = network(image)
        return [*fine, self.shared_encoder(coarsest)]

    def _decode(self, network: nn.Module, join: nn.Module, content: Code, code: Tensor, base: Tensor) -> Tensor:
        coarsest = content[-1]
        guided = join(torch.cat([coarsest, code.expand(-1, -1, *coarsest.shape[-2:])], dim=1))
        image: Tensor = network([*content[:-1], guided], base)
        return image

    def _sample(self, distribution: Gaussian, batch: Batch) -> Tensor:
        mean, log_variance = distribution
        return mean + (0.5 * log_variance).exp() * batch.randn_like(mean)

    def translate(self, batch: Batch) -> tuple[Translations, Losses]:
        """Restore x, degrade y, and translate both back."""
        s, x, y = self.settings, batch.low, batch.normal
        assert y is not None
        distribution = self.e_noise(x)
        code = self._sample(distribution, batch)
        x_to_y = self._decode(self.g_y, self.join_y, self._content(self.e_x, x), code, x)
        y_to_x = self._decode(self.g_x, self.join_x, self._content(self.e_y, y), code, y)
        code_back = self._sample(self.e_noise(y_to_x), batch)
        content_x, content_y = self._content(self.e_y, x_to_y), self._content(self.e_x, y_to_x)
        x_again = self._decode(self.g_x, self.join_x, content_x, code_back, x_to_y)
        y_again = self._decode(self.g_y, self.join_y, content_y, code_back, y_to_x)
        losses = {
            "cycle": s.cycle_weight * (F.l1_loss(x_again, x) + F.l1_loss(y_again, y)),
            "kl": s.kl_weight * distribution.kl(),
        }
        if self.vgg is not None:
            losses["perceptual"] = s.perceptual_weight * F.mse_loss(self.vgg(x_to_y), self.vgg(x))
        return Translations(x_to_y, y_to_x), losses


METHOD = DrNet
