"""Cycle-consistent adversarial networks (CycleGAN).

Two translators, F from low to normal dose and G back, trained with the cycle loss ``|G(F(x)) − x| + |F(G(y)) −
y|``, the identity loss ``|F(y) − y| + |G(x) − x|`` and an adversarial loss for each. The discriminators are those
of LIR. There is no buffer of past translations: a resumed run must equal an uninterrupted one.

Supervision: unpaired

Reference: Zhu, Park, Isola, Efros: Unpaired image-to-image translation using cycle-consistent adversarial
networks, ICCV 2017
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._translation import TranslationMethod, Translations, TranslationSettings
from ldct_denoise.methods._unpaired import encoder, generator
from ldct_denoise.methods.base import Batch, Losses


class Translator(nn.Module):
    """One encoder and one generator."""

    def __init__(self, settings: TranslationSettings) -> None:
        super().__init__()
        self.encoder, self.generator = encoder(settings, num_blocks=0), generator(settings)

    def forward(self, image: Tensor) -> Tensor:
        """Return the translation, of the same shape."""
        translation: Tensor = self.generator(self.encoder(image), image)
        return translation


class CycleGanSettings(TranslationSettings):
    """Nine residual blocks and the loss weights of the published code."""

    blocks_per_level: int = Field(
        9, ge=2, le=16, description="lir: residual blocks; unet: 3×3 convolutions at each resolution"
    )
    cycle_weight: float = Field(10.0, ge=0, description="weight of the cycle loss")
    identity_weight: float = Field(5.0, ge=0, description="weight of the identity loss")


class CycleGan(TranslationMethod[CycleGanSettings]):
    """Cycle-consistent adversarial networks."""

    Settings = CycleGanSettings

    def __init__(self, settings: CycleGanSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.to_y = Translator(settings)

    def add_training_networks(self) -> None:
        """Build the translator to low dose and the discriminators."""
        self.to_x = Translator(self.settings)
        super().add_training_networks()

    def generators(self) -> Sequence[nn.Module]:
        """Return both translators."""
        return self.to_y, self.to_x

    def _restore(self, image: Tensor) -> Tensor:
        restored: Tensor = self.to_y(image)
        return restored

    def restoration_parameters(self) -> dict[str, Tensor]:
        """Return the weights of the translator to normal dose."""
        return self._state_of("to_y")

    def translate(self, batch: Batch) -> tuple[Translations, Losses]:
        """Translate both images, and back."""
        s, x, y = self.settings, batch.low, batch.normal
        assert y is not None
        x_to_y, y_to_x = self.to_y(x), self.to_x(y)
        cycle = F.l1_loss(self.to_x(x_to_y), x) + F.l1_loss(self.to_y(y_to_x), y)
        losses = {"cycle": s.cycle_weight * cycle}
        if s.identity_weight:
            losses["identity"] = s.identity_weight * (F.l1_loss(self.to_y(y), y) + F.l1_loss(self.to_x(x), x))
        return Translations(x_to_y, y_to_x), losses


METHOD = CycleGan
