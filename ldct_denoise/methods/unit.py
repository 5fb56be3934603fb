"""Variational autoencoders with a shared latent space (UNIT).

An encoder and a generator for each domain; the last residual block of the encoders and the first of the generators
are shared. Codes are drawn from N(E(x), 1) in training and are E(x) in use. Losses: reconstruction, cycle, KL
divergence of the codes from N(0, 1), and an adversarial loss for each domain.

Supervision: unpaired

Reference: Liu, Breuel, Kautz: Unsupervised image-to-image translation networks, NIPS 2017
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._translation import TranslationMethod, Translations, TranslationSettings
from ldct_denoise.methods._unpaired import encoder, generator
from ldct_denoise.methods.base import Batch, Losses
from ldct_denoise.networks.blocks import ResidualBlock
from ldct_denoise.networks.encoder_decoder import Code


class UnitSettings(TranslationSettings):
    """The loss weights of the published code."""

    reconstruction_weight: float = Field(10.0, ge=0, description="weight of the reconstruction loss")
    cycle_weight: float = Field(10.0, ge=0, description="weight of the cycle loss")
    kl_weight: float = Field(0.01, ge=0, description="weight of the KL divergence of the codes of images")
    cycle_kl_weight: float = Field(0.01, ge=0, description="weight of that of the codes of translations")
    latent_noise_std: float = Field(1.0, ge=0, description="standard deviation of the codes in training")


class Unit(TranslationMethod[UnitSettings]):
    """Unsupervised image-to-image translation with a shared latent space."""

    Settings = UnitSettings

    def __init__(self, settings: UnitSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        s, self._unshared = settings, settings.blocks_per_level - 1
        self.e_x, self.g_y = encoder(s, self._unshared), generator(s, self._unshared)
        self.shared_encoder, self.shared_generator = (
            ResidualBlock(s.coarsest_channels, s.norm, "reflect") for _ in range(2)
        )

    def add_training_networks(self) -> None:
        """Build the other encoder and generator and the discriminators."""
        self.e_y, self.g_x = encoder(self.settings, self._unshared), generator(self.settings, self._unshared)
        super().add_training_networks()

    def generators(self) -> Sequence[nn.Module]:
        """Return encoders, generators and their shared blocks."""
        return self.e_x, self.e_y, self.g_x, self.g_y, self.shared_encoder, self.shared_generator

    def restoration_parameters(self) -> dict[str, Tensor]:
        """Return the weights of the low-dose encoder, the normal-dose generator and the shared blocks."""
        return self._state_of("e_x", "g_y", "shared_encoder", "shared_generator")

    def _restore(self, image: Tensor) -> Tensor:
        return self._decode(self.g_y, self._encode(self.e_x, image), image)

    def _encode(self, network: nn.Module, image: Tensor) -> Code:
        *fine, coarsest = network(image)
        return [*fine, self.shared_encoder(coarsest)]

    def _decode(self, network: nn.Module, code: Code, base: Tensor) -> Tensor:
        image: Tensor = network([*code[:-1], self.shared_generator(code[-1])], base)
        return image

    def _sample(self, code: Code, batch: Batch) -> Code:
        """Draw from N(code, latent_noise_std²)."""
        deviation = self.settings.latent_noise_std
        return [part + deviation * batch.randn_like(part) for part in code] if deviation else code

    def translate(self, batch: Batch) -> tuple[Translations, Losses]:
        """Reconstruct both images, translate them, and translate back."""
        s, x, y = self.settings, batch.low, batch.normal
        assert y is not None
        mean_x, mean_y = self._encode(self.e_x, x), self._encode(self.e_y, y)
        code_x, code_y = self._sample(mean_x, batch), self._sample(mean_y, batch)
        x_to_y, y_to_x = self._decode(self.g_y, code_x, x), self._decode(self.g_x, code_y, y)
        same = F.l1_loss(self._decode(self.g_x, code_x, x), x) + F.l1_loss(self._decode(self.g_y, code_y, y), y)
        back_x, back_y = self._encode(self.e_y, x_to_y), self._encode(self.e_x, y_to_x)
        cycle = F.l1_loss(self._decode(self.g_x, self._sample(back_x, batch), x_to_y), x)
        cycle = cycle + F.l1_loss(self._decode(self.g_y, self._sample(back_y, batch), y_to_x), y)
        return Translations(x_to_y, y_to_x), {
            "reconstruction": s.reconstruction_weight * same,
            "cycle": s.cycle_weight * cycle,
            "kl": s.kl_weight * _kl_divergence([*mean_x, *mean_y]),
            "cycle_kl": s.cycle_kl_weight * _kl_divergence([*back_x, *back_y]),
        }


def _kl_divergence(code: Code) -> Tensor:
    """Twice the KL divergence of N(code, 1) from N(0, 1): the mean of squares, summed over maps."""
    return torch.stack([part.square().mean() for part in code]).sum()


METHOD = Unit
