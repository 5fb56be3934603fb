"""CycleGAN: two translators whose composition is the identity.

Zhu, Park, Isola, Efros, "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV
2017. Critics are those of LIR, and there is no buffer of past images, so that a resumed run equals an unbroken
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._forms import encoder, generator
from ldct_denoise.methods._translation import Translated, TranslationGan, TranslationSettings
from ldct_denoise.methods.base import Batch, Losses, Supervision


class Translator(nn.Module):
    """One encoder and one generator."""

    def __init__(self, settings: TranslationSettings) -> None:
        super().__init__()
        self.encoder, self.generator = encoder(settings, blocks=0), generator(settings)

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        translated: Tensor = self.generator(self.encoder(image), image)
        return translated


class CycleGanSettings(TranslationSettings):
    """Nine residual blocks and the weights of the published code."""

    blocks: int = Field(
        9, ge=2, le=16, description="paper: residual blocks; multiscale: convolutions at each scale"
    )
    cycle_weight: float = Field(10.0, ge=0)
    identity_weight: float = Field(5.0, ge=0, description="of leaving images of the target domain as they are")


class CycleGan(TranslationGan[CycleGanSettings]):
    """Cycle-consistent adversarial networks."""

    Settings = CycleGanSettings
    supervision = Supervision.UNPAIRED
    title = "cycle-consistent adversarial networks, unpaired"
    reference = (
        "Zhu, Park, Isola, Efros: Unpaired image-to-image translation using cycle-consistent networks, ICCV 2017"
    )

    def __init__(self, settings: CycleGanSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.to_y, self.to_x = Translator(settings), Translator(settings)

    def makers(self) -> Sequence[nn.Module]:
        """Both translators."""
        return self.to_y, self.to_x

    def _restore(self, image: Tensor) -> Tensor:
        restored: Tensor = self.to_y(image)
        return restored

    def restoration_parameters(self) -> dict[str, Tensor]:
        """The translator to normal dose."""
        return self._kept("to_y")

    def generate(self, batch: Batch) -> tuple[Translated, Losses]:
        """There, and back again."""
        s, x, y = self.settings, batch.low, batch.normal
        assert y is not None
        made = Translated(self.to_y(x), self.to_x(y))
        cycle = F.l1_loss(self.to_x(made.x_to_y), x) + F.l1_loss(self.to_y(made.y_to_x), y)
        losses = {"cycle": s.cycle_weight * cycle}
        if s.identity_weight:
            losses["identity"] = s.identity_weight * (F.l1_loss(self.to_y(y), y) + F.l1_loss(self.to_x(x), x))
        return made, losses


METHOD = CycleGan
