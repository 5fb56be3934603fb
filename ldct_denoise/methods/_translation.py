"""What the unpaired translation GANs share: two image critics, and the order of updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods import base
from ldct_denoise.methods.base import Batch, Losses, Method, Phase
from ldct_denoise.networks.blocks import Norm, Padding, on_multiple
from ldct_denoise.networks.losses import Adversarial, judge, tell_apart
from ldct_denoise.networks.translation import (
    CriticInput,
    ImageCritic,
    MultiscaleEncoder,
    MultiscaleGenerator,
    PaperEncoder,
    PaperGenerator,
)


class TranslationSettings(base.HeldSettings):
    """Networks and critics; ``paper`` is the published shape, ``multiscale`` keeps full resolution as CT needs."""

    form: Literal["paper", "multiscale"] = "paper"
    width: int = Field(64, ge=4, le=256, description="channels at full resolution")
    blocks: int = Field(
        4, ge=2, le=16, description="paper: residual blocks; multiscale: convolutions at each scale"
    )
    scales: int = Field(3, ge=1, le=5, description="multiscale: resolutions of the code")
    norm: Norm = "layer"
    padding: Padding = "reflect"
    output: Literal["tanh", "linear"] = "linear"
    gain: float = Field(16.0, gt=0, description="multiscale: image values are multiplied by this inside")
    centre: float = Field(0.25, description="multiscale: the image value that is 0 inside (0.25: 0 HU)")
    critic_width: int = Field(64, ge=4, le=256)
    critic_scales: int = Field(3, ge=1, le=4)
    critic_input: CriticInput = Field("image", description="texture: what a 2-pixel blur removes, times the gain")
    spectral_norm: bool = False
    adversarial: Adversarial = "least_squares"
    adversarial_weight: float = Field(1.0, ge=0)
    beta1: float = Field(0.5, ge=0, lt=1)


class Translated(NamedTuple):
    """Both pools carried over: low dose to normal dose, and back."""

    x_to_y: Tensor
    y_to_x: Tensor


S = TypeVar("S", bound=TranslationSettings)


class TranslationGan(Method[S]):
    """x is low dose, y normal dose; subclasses give the generators, their losses and the restoration."""

    def __init__(self, settings: S, scale: Scale) -> None:
        super().__init__(settings, scale)
        s = settings
        self.d_x, self.d_y = (
            ImageCritic(s.critic_width, s.critic_scales, s.spectral_norm, s.critic_input, s.gain) for _ in range(2)
        )
        self._hold = s.hold(scale)

    @abstractmethod
    def makers(self) -> Sequence[nn.Module]:
        """Everything but the critics, each once."""

    @abstractmethod
    def generate(self, batch: Batch) -> tuple[Translated, Losses]:
        """The translations of this step and every loss but the adversarial ones."""

    @abstractmethod
    def _restore(self, image: Tensor) -> Tensor:
        """Low to normal dose, for sides that fit."""

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Low to normal dose."""
        s = self.settings
        restored = on_multiple(self._restore, image, 4 if s.form == "paper" else 2 ** (s.scales - 1))
        return restored if self._hold is None else self._hold(restored, image)

    def generator_losses(self, batch: Batch) -> Losses:
        """The method's own losses, and the critics' to be deceived."""
        s = self.settings
        made, losses = self.generate(batch)
        batch.memo["translated"] = Translated(*(image.detach() for image in made))
        losses["adversarial_x"] = s.adversarial_weight * judge(self.d_x(made.y_to_x), 1.0, s.adversarial)
        losses["adversarial_y"] = s.adversarial_weight * judge(self.d_y(made.x_to_y), 1.0, s.adversarial)
        return losses

    def critic_losses(self, batch: Batch) -> Losses:
        """Real is 1, translated is 0."""
        assert batch.normal is not None
        form = self.settings.adversarial
        made: Translated = batch.memo["translated"] if "translated" in batch.memo else self.generate(batch)[0]
        pairs = (("critic_x", self.d_x, batch.low, made.y_to_x), ("critic_y", self.d_y, batch.normal, made.x_to_y))
        return {name: tell_apart(critic(real), critic(fake.detach()), form) for name, critic, real, fake in pairs}

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Generators, then the critics on what they made."""
        learner = self.settings.learner
        return (
            Phase("generators", self.generator_losses, learner(self.makers(), learning_rate)),
            Phase("critics", self.critic_losses, learner([self.d_x, self.d_y], learning_rate, "adam")),
        )

    def _kept(self, *networks: str) -> dict[str, Tensor]:
        """The state of these networks alone."""
        prefixes = tuple(f"{name}." for name in networks)
        return {key: value for key, value in self.state_dict().items() if key.startswith(prefixes)}


def encoder(s: TranslationSettings, blocks: int | None = None) -> nn.Module:
    """An encoder of the chosen form; ``blocks`` residual blocks instead of the settings' in the published form."""
    if s.form == "multiscale":
        return MultiscaleEncoder(_widths(s), s.blocks, s.norm, s.gain, s.centre)
    return PaperEncoder(s.width, s.blocks if blocks is None else blocks, s.norm, s.padding)


def generator(s: TranslationSettings, blocks: int | None = None, doubled: bool = False) -> nn.Module:
    """A generator of the chosen form; ``doubled`` where a second code is concatenated to the first."""
    if s.form == "multiscale":
        widths = _widths(s)
        return MultiscaleGenerator(widths, widths if doubled else (0,) * s.scales, s.blocks, s.norm, s.gain)
    channels = 4 * s.width * (2 if doubled else 1)
    return PaperGenerator(channels, s.blocks if blocks is None else blocks, s.norm, s.norm, s.padding, s.output)


def coarsest_channels(s: TranslationSettings) -> int:
    """Channels of a code's coarsest map."""
    return s.width * (4 if s.form == "paper" else 2 ** (s.scales - 1))


def _widths(s: TranslationSettings) -> tuple[int, ...]:
    return tuple(s.width * 2**depth for depth in range(s.scales))
