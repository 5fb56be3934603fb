"""UNIT: two variational autoencoders that share their latent space, and critics.

Liu, Breuel, Kautz, "Unsupervised image-to-image translation networks", NIPS 2017. The encoders' last and the
generators' first residual block are shared; codes are drawn from N(E(x), 1) in training and are E(x) in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._forms import encoder, generator
from ldct_denoise.methods._translation import Translated, TranslationGan, TranslationSettings
from ldct_denoise.methods.base import Batch, Losses, Supervision
from ldct_denoise.networks.blocks import ResidualBlock
from ldct_denoise.networks.translation import Code


class UnitSettings(TranslationSettings):
    """The weights of the published code."""

    reconstruction_weight: float = Field(10.0, ge=0)
    cycle_weight: float = Field(10.0, ge=0)
    kl_weight: float = Field(0.01, ge=0, description="of the codes of images")
    cycle_kl_weight: float = Field(0.01, ge=0, description="of the codes of translated images")
    code_noise: float = Field(1.0, ge=0, description="standard deviation of the codes in training")


class Unit(TranslationGan[UnitSettings]):
    """Shared-latent-space translation."""

    Settings = UnitSettings
    supervision = Supervision.UNPAIRED
    title = "variational autoencoders with a shared latent space, unpaired"
    reference = "Liu, Breuel, Kautz: Unsupervised image-to-image translation networks, NIPS 2017"

    def __init__(self, settings: UnitSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        s, own = settings, settings.blocks - 1
        self.e_x, self.e_y = encoder(s, own), encoder(s, own)
        self.g_x, self.g_y = generator(s, own), generator(s, own)
        self.shared_encoder, self.shared_generator = (
            ResidualBlock(s.coarsest_channels, s.norm, s.padding) for _ in range(2)
        )

    def makers(self) -> Sequence[nn.Module]:
        """Encoders, generators and what they share."""
        return self.e_x, self.e_y, self.g_x, self.g_y, self.shared_encoder, self.shared_generator

    def restoration_parameters(self) -> dict[str, Tensor]:
        """The low-dose encoder, the normal-dose generator, and the shared blocks."""
        return self._kept("e_x", "g_y", "shared_encoder", "shared_generator")

    def _restore(self, image: Tensor) -> Tensor:
        return self._decode(self.g_y, self._encode(self.e_x, image), image)

    def _encode(self, network: nn.Module, image: Tensor) -> Code:
        *fine, coarsest = network(image)
        return [*fine, self.shared_encoder(coarsest)]

    def _decode(self, network: nn.Module, code: Code, on: Tensor) -> Tensor:
        image: Tensor = network([*code[:-1], self.shared_generator(code[-1])], on)
        return image

    def _draw(self, code: Code, batch: Batch) -> Code:
        """A sample of N(code, code_noise²)."""
        deviation = self.settings.code_noise
        return [part + deviation * batch.randn_like(part) for part in code] if deviation else code

    def generate(self, batch: Batch) -> tuple[Translated, Losses]:
        """Reconstructions, translations, and the way back."""
        s, x, y = self.settings, batch.low, batch.normal
        assert y is not None
        code_x, code_y = self._encode(self.e_x, x), self._encode(self.e_y, y)
        drawn_x, drawn_y = self._draw(code_x, batch), self._draw(code_y, batch)
        made = Translated(self._decode(self.g_y, drawn_x, x), self._decode(self.g_x, drawn_y, y))
        again = F.l1_loss(self._decode(self.g_x, drawn_x, x), x) + F.l1_loss(self._decode(self.g_y, drawn_y, y), y)
        back_x, back_y = self._encode(self.e_y, made.x_to_y), self._encode(self.e_x, made.y_to_x)
        cycle = F.l1_loss(self._decode(self.g_x, self._draw(back_x, batch), made.x_to_y), x)
        cycle = cycle + F.l1_loss(self._decode(self.g_y, self._draw(back_y, batch), made.y_to_x), y)
        return made, {
            "reconstruction": s.reconstruction_weight * again,
            "cycle": s.cycle_weight * cycle,
            "kl": s.kl_weight * _energy([*code_x, *code_y]),
            "cycle_kl": s.cycle_kl_weight * _energy([*back_x, *back_y]),
        }


def _energy(code: Code) -> Tensor:
    """KL divergence of N(code, 1) from N(0, 1), but for a factor ½: the mean of squares."""
    return torch.stack([part.square().mean() for part in code]).sum()


METHOD = Unit
