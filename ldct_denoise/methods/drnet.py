"""DRNet: disentangle content from degradation; here the degradation is noise instead of blur.

Lu, Chen, Chellappa, "Unsupervised domain-specific deblurring via disentangled representations", CVPR 2019. Content
encoders of both domains share their last block; the degradation code of x, a vector drawn from a learned Gaussian,
guides both generators: x → y is ``G_Y(E_X(x), z)`` and y → x is ``G_X(E_Y(y), z)``, with z from x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._forms import encoder, generator
from ldct_denoise.methods._translation import Translated, TranslationGan, TranslationSettings
from ldct_denoise.methods.base import Batch, Losses, Supervision
from ldct_denoise.networks.blocks import ResidualBlock, conv
from ldct_denoise.networks.translation import Code
from ldct_denoise.networks.vgg import Vgg19Features


class DrNetSettings(TranslationSettings):
    """The weights of the paper."""

    code: int = Field(8, ge=1, le=256, description="length of the degradation code")
    cycle_weight: float = Field(10.0, ge=0)
    kl_weight: float = Field(0.01, ge=0, description="of the degradation code's distribution from N(0, 1)")
    perceptual_weight: float = Field(0.1, ge=0, description="of deep features of x and its restoration")
    perceptual_layer: str = "conv3_3"
    vgg_weights: str | None = Field(None, description="file of torchvision's vgg19, or 'download'; none: off")


class Gaussian(NamedTuple):
    """A diagonal normal distribution."""

    mean: Tensor
    log_variance: Tensor

    def kl(self) -> Tensor:
        """Divergence from N(0, 1), averaged over the code."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).mean()


class DegradationEncoder(nn.Module):
    """Three stride-2 convolutions, global average, a Gaussian."""

    def __init__(self, width: int, code: int, gain: float, centre: float) -> None:
        super().__init__()
        self.gain, self.centre = gain, centre
        self.layers = nn.Sequential(
            conv(1, width, 7),
            conv(width, 2 * width, 4, stride=2),
            conv(2 * width, 4 * width, 4, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(4 * width, 2 * code, 1),
        )

    def forward(self, image: Tensor) -> Gaussian:
        """Distribution of the code, each part (n, code, 1, 1)."""
        mean, log_variance = self.layers((image - self.centre) * self.gain).chunk(2, dim=1)
        return Gaussian(mean, log_variance.clamp(-10, 10))


class DrNet(TranslationGan[DrNetSettings]):
    """Disentangled content and degradation."""

    Settings = DrNetSettings
    supervision = Supervision.UNPAIRED
    title = "disentangled content and degradation, unpaired"
    reference = (
        "Lu, Chen, Chellappa: Unsupervised domain-specific deblurring via disentangled representations, CVPR 2019"
    )

    def __init__(self, settings: DrNetSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        s, own = settings, settings.blocks - 1
        self.e_x, self.e_y = encoder(s, own), encoder(s, own)
        self.shared_encoder = ResidualBlock(s.coarsest_channels, s.norm, s.padding)
        self.e_noise = DegradationEncoder(s.width, s.code, s.gain, s.centre)
        self.g_x, self.g_y = generator(s), generator(s)
        self.join_x, self.join_y = (nn.Conv2d(s.coarsest_channels + s.code, s.coarsest_channels, 1) for _ in "xy")
        self.vgg = (
            Vgg19Features(s.perceptual_layer, s.vgg_weights) if s.vgg_weights and s.perceptual_weight else None
        )

    def makers(self) -> Sequence[nn.Module]:
        """Encoders, generators and where code joins content."""
        nets = (self.e_x, self.e_y, self.shared_encoder, self.e_noise, self.g_x, self.g_y)
        return *nets, self.join_x, self.join_y

    def restoration_parameters(self) -> dict[str, Tensor]:
        """What takes x to y."""
        return self._kept("e_x", "shared_encoder", "e_noise", "g_y", "join_y")

    def _restore(self, image: Tensor) -> Tensor:
        return self._decode(self.g_y, self.join_y, self._content(self.e_x, image), self.e_noise(image).mean, image)

    def _content(self, network: nn.Module, image: Tensor) -> Code:
        *fine, coarsest = network(image)
        return [*fine, self.shared_encoder(coarsest)]

    def _decode(self, network: nn.Module, join: nn.Module, content: Code, code: Tensor, on: Tensor) -> Tensor:
        coarsest = content[-1]
        guided = join(torch.cat([coarsest, code.expand(-1, -1, *coarsest.shape[-2:])], dim=1))
        image: Tensor = network([*content[:-1], guided], on)
        return image

    def _draw(self, distribution: Gaussian, batch: Batch) -> Tensor:
        mean, log_variance = distribution
        return mean + (0.5 * log_variance).exp() * batch.randn_like(mean)

    def generate(self, batch: Batch) -> tuple[Translated, Losses]:
        """Restoration, degradation, and the way back."""
        s, x, y = self.settings, batch.low, batch.normal
        assert y is not None
        noise = self.e_noise(x)
        code = self._draw(noise, batch)
        made = Translated(
            self._decode(self.g_y, self.join_y, self._content(self.e_x, x), code, x),
            self._decode(self.g_x, self.join_x, self._content(self.e_y, y), code, y),
        )
        code_back = self._draw(self.e_noise(made.y_to_x), batch)
        content_x, content_y = self._content(self.e_y, made.x_to_y), self._content(self.e_x, made.y_to_x)
        x_again = self._decode(self.g_x, self.join_x, content_x, code_back, made.x_to_y)
        y_again = self._decode(self.g_y, self.join_y, content_y, code_back, made.y_to_x)
        losses = {
            "cycle": s.cycle_weight * (F.l1_loss(x_again, x) + F.l1_loss(y_again, y)),
            "kl": s.kl_weight * noise.kl(),
        }
        if self.vgg is not None:
            losses["perceptual"] = s.perceptual_weight * F.mse_loss(self.vgg(made.x_to_y), self.vgg(x))
        return made, losses


METHOD = DrNet
