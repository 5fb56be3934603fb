"""Shared by CycleGAN, UNIT and DRNet: losses and phases of generators and discriminators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.methods._unpaired import UnpairedMethod, UnpairedSettings
from ldct_denoise.methods.base import Batch, Losses, Phase


class TranslationSettings(UnpairedSettings):
    """Settings of the methods that translate between both pools."""

    blocks_per_level: int = Field(
        4, ge=2, le=16, description="lir: residual blocks; unet: 3×3 convolutions at each resolution"
    )
    adversarial_weight: float = Field(1.0, ge=0, description="weight of the adversarial losses")
    beta1: float = Field(0.5, ge=0, lt=1, description="decay rate of Adam's mean of gradients")


class Translations(NamedTuple):
    """Low-dose images translated to normal dose, and normal-dose images to low dose."""

    x_to_y: Tensor
    y_to_x: Tensor


S = TypeVar("S", bound=TranslationSettings)


class TranslationMethod(UnpairedMethod[S]):
    """Base of the translation methods; subclasses give the generators, their losses and the restoration."""

    @abstractmethod
    def generators(self) -> Sequence[nn.Module]:
        """Return all networks but the discriminators."""

    @abstractmethod
    def translate(self, batch: Batch) -> tuple[Translations, Losses]:
        """Return the translations of a batch and all losses but the adversarial ones."""

    def generator_losses(self, batch: Batch) -> Losses:
        """Losses of the generators; stores the translations for the discriminators."""
        translations, losses = self.translate(batch)
        x_to_y, y_to_x = translations
        batch.memo["translations"] = Translations(x_to_y.detach(), y_to_x.detach())
        return losses | self._adversarial_losses(self.settings.adversarial_weight, y_to_x, x_to_y)

    def discriminator_losses(self, batch: Batch) -> Losses:
        """Losses of the discriminators, on the translations of the same step."""
        memo = batch.memo
        x_to_y, y_to_x = memo["translations"] if "translations" in memo else self.translate(batch)[0]
        return self._discriminator_losses(batch, y_to_x, x_to_y)

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Update the generators, then the discriminators."""
        make_optimizer = self.settings.make_optimizer
        adam = make_optimizer([self.d_x, self.d_y], learning_rate, "adam")
        return (
            Phase("generators", self.generator_losses, make_optimizer(self.generators(), learning_rate)),
            Phase("discriminators", self.discriminator_losses, adam),
        )
