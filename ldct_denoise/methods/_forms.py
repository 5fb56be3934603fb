"""What LIR and the other translators between the pools share: two forms of networks, image critics, the hold.

``paper`` is the published shape; ``multiscale`` keeps full resolution, as CT needs. x is low dose, y normal dose.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Batch, LearnedSettings, Losses, Method, center_slice
from ldct_denoise.networks.blocks import Norm, Padding, on_multiple
from ldct_denoise.networks.losses import Adversarial, judge, tell_apart
from ldct_denoise.networks.low_pass import Hold
from ldct_denoise.networks.translation import (
    CriticInput,
    ImageCritic,
    MultiscaleEncoder,
    MultiscaleGenerator,
    PaperEncoder,
    PaperGenerator,
)


class FormSettings(LearnedSettings):
    """Networks, image critics, and what holds the mean HU, which no adversarial loss does."""

    form: Literal["paper", "multiscale"] = "paper"
    width: int = Field(64, ge=4, le=256, description="channels at full resolution")
    blocks: int = Field(
        4, ge=1, le=16, description="paper: residual blocks; multiscale: convolutions at each scale"
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
    hold_sigma_px: float = Field(
        0.0, ge=0, description="restoration leaves what is smoother than this Gaussian as it is (0: off)"
    )
    hold_above_hu: float | None = Field(
        None,
        description="only where the image so smoothed is above this (fading in over 50 HU): in air low dose is "
        "not right itself, since noise below the scanner's floor is cut off; none: everywhere",
    )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the multiscale form at each resolution, fine to coarse."""
        return tuple(self.width * 2**depth for depth in range(self.scales))

    @property
    def coarsest_channels(self) -> int:
        """Channels of a code's coarsest map."""
        return 4 * self.width if self.form == "paper" else self.widths[-1]

    @property
    def multiple(self) -> int:
        """What the sides of an image must be multiples of."""
        return 4 if self.form == "paper" else 2 ** (self.scales - 1)


S = TypeVar("S", bound=FormSettings)


class FormMethod(Method[S]):
    """Two image critics, and a restoration whose mean is held; subclasses give the translators."""

    def __init__(self, settings: S, scale: Scale) -> None:
        super().__init__(settings, scale)
        s = settings
        self._hold = Hold(s.hold_sigma_px, s.hold_above_hu, scale) if s.hold_sigma_px else None

    @abstractmethod
    def _restore(self, image: Tensor) -> Tensor:
        """Low to normal dose, for sides that fit."""

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Low to normal dose."""
        restored = on_multiple(self._restore, image, self.settings.multiple, self._least)
        return restored if self._hold is None else self._hold(restored, center_slice(image))

    @property
    def _least(self) -> int:
        """Pixels that a side must have: reflection needs two at the coarsest resolution."""
        reflects = any(getattr(part, "padding_mode", None) == "reflect" for part in self.modules())
        return 2 * self.settings.multiple if reflects else 1

    def _add_critics(self) -> None:
        """D_X and D_Y; called where they are drawn, since a seed gives weights in the order of construction."""
        s = self.settings
        self.d_x, self.d_y = (
            ImageCritic(s.critic_width, s.critic_scales, s.spectral_norm, s.critic_input, s.gain) for _ in range(2)
        )

    def _adversarial_losses(self, weight: float, y_to_x: Tensor, x_to_y: Tensor) -> Losses:
        """The generators' side: both critics are to take translations for real."""
        form = self.settings.adversarial
        return {
            "adversarial_x": weight * judge(self.d_x(y_to_x), 1.0, form),
            "adversarial_y": weight * judge(self.d_y(x_to_y), 1.0, form),
        }

    def _critic_losses(self, batch: Batch, y_to_x: Tensor, x_to_y: Tensor) -> Losses:
        """The critics' side: real is 1, translated is 0."""
        assert batch.normal is not None
        x, y = center_slice(batch.low), center_slice(batch.normal)
        sides = (("critic_x", self.d_x, x, y_to_x), ("critic_y", self.d_y, y, x_to_y))
        form = self.settings.adversarial
        return {name: tell_apart(critic(real), critic(fake.detach()), form) for name, critic, real, fake in sides}

    def _kept(self, *networks: str) -> dict[str, Tensor]:
        """The state of these networks alone."""
        prefixes = tuple(f"{name}." for name in networks)
        return {key: value for key, value in self.state_dict().items() if key.startswith(prefixes)}


def encoder(
    s: FormSettings, blocks: int | None = None, *, literal: bool = False, context_slices: int = 0
) -> nn.Module:
    """An encoder of the chosen form.

    Parameters
    ----------
    s : FormSettings
    blocks : int, optional
        Residual blocks instead of the settings', in the published form.
    literal : bool
        The published form's convolutions as they are written down, without the products that can be saved.
    context_slices : int
        Slices on each side that the multiscale form sees as well.
    """
    if s.form == "multiscale":
        return MultiscaleEncoder(s.widths, s.blocks, s.norm, s.gain, s.centre, 2 * context_slices + 1)
    return PaperEncoder(s.width, s.blocks if blocks is None else blocks, s.norm, s.padding, literal=literal)


def generator(
    s: FormSettings,
    blocks: int | None = None,
    *,
    beside: Sequence[int] = (),
    up_norm: Norm | None = None,
    literal: bool = False,
) -> nn.Module:
    """A generator of the chosen form.

    Parameters
    ----------
    s : FormSettings
    blocks : int, optional
        Residual blocks instead of the settings', in the published form.
    beside : sequence of int
        Channels of a second code that is concatenated to the first, for each of its maps.
    up_norm : Norm, optional
        Normalisation of the published form's up-sampling blocks; the settings' unless given.
    literal : bool
        As for :func:`encoder`.
    """
    if s.form == "multiscale":
        return MultiscaleGenerator(s.widths, tuple(beside) or (0,) * s.scales, s.blocks, s.norm, s.gain)
    blocks = s.blocks if blocks is None else blocks
    channels = 4 * s.width + sum(beside)
    return PaperGenerator(channels, blocks, s.norm, up_norm or s.norm, s.padding, s.output, literal=literal)
