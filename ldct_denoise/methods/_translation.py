"""What CycleGAN, UNIT and DRNet share: the order of updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._forms import FormMethod, FormSettings
from ldct_denoise.methods.base import Batch, Losses, Phase


class TranslationSettings(FormSettings):
    """How much the critics count."""

    blocks: int = Field(
        4, ge=2, le=16, description="paper: residual blocks; multiscale: convolutions at each scale"
    )
    adversarial_weight: float = Field(1.0, ge=0)
    beta1: float = Field(0.5, ge=0, lt=1)


class Translated(NamedTuple):
    """Both pools carried over: low dose to normal dose, and back."""

    x_to_y: Tensor
    y_to_x: Tensor


S = TypeVar("S", bound=TranslationSettings)


class TranslationGan(FormMethod[S]):
    """Subclasses give the generators, their losses and the restoration."""

    def __init__(self, settings: S, scale: Scale) -> None:
        super().__init__(settings, scale)
        self._add_critics()

    @abstractmethod
    def makers(self) -> Sequence[nn.Module]:
        """Everything but the critics, each once."""

    @abstractmethod
    def generate(self, batch: Batch) -> tuple[Translated, Losses]:
        """The translations of this step and every loss but the adversarial ones."""

    def generator_losses(self, batch: Batch) -> Losses:
        """The method's own losses, and the critics' to be deceived."""
        made, losses = self.generate(batch)
        batch.memo["translated"] = Translated(*(image.detach() for image in made))
        return losses | self._adversarial_losses(self.settings.adversarial_weight, made.y_to_x, made.x_to_y)

    def critic_losses(self, batch: Batch) -> Losses:
        """On what the generators made."""
        made: Translated = batch.memo["translated"] if "translated" in batch.memo else self.generate(batch)[0]
        return self._critic_losses(batch, made.y_to_x, made.x_to_y)

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Generators, then the critics on what they made."""
        learner = self.settings.learner
        return (
            Phase("generators", self.generator_losses, learner(self.makers(), learning_rate)),
            Phase("critics", self.critic_losses, learner([self.d_x, self.d_y], learning_rate, "adam")),
        )
