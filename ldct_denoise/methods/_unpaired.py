"""Shared by the unpaired methods: encoders and generators, image discriminators, low-frequency passthrough.

x is a low-dose image, y a normal-dose image of another patient or position.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import (
    NOMINAL_SPACING_MM,
    Batch,
    Losses,
    Method,
    TrainableSettings,
    center_slice,
)
from ldct_denoise.networks.blocks import Norm, run_padded
from ldct_denoise.networks.discriminators import DiscriminatorInput, ImageDiscriminator
from ldct_denoise.networks.encoder_decoder import LirEncoder, LirGenerator, UNetEncoder, UNetGenerator
from ldct_denoise.networks.losses import AdversarialForm, adversarial_loss, discriminator_loss
from ldct_denoise.networks.low_pass import LowFrequencyPassthrough


class UnpairedSettings(TrainableSettings):
    """Networks, discriminators, and the low-frequency passthrough of the unpaired methods."""

    architecture: Literal["lir", "unet"] = Field(
        "lir",
        description="lir: the published networks, whose code has a quarter of the resolution; unet: a code "
        "at every resolution and a predicted correction, which keeps the detail of CT",
    )
    base_channels: int = Field(64, ge=4, le=256, description="channels at full resolution")
    num_levels: int = Field(3, ge=1, le=5, description="unet: number of resolutions")
    blocks_per_level: int = Field(
        4, ge=1, le=16, description="lir: residual blocks; unet: 3×3 convolutions at each resolution"
    )
    norm: Norm = Field("layer", description="normalisation after convolutions")
    input_scale: float = Field(
        16.0, gt=0, description="unet: the network sees (image − input_shift) · input_scale"
    )
    input_shift: float = Field(0.25, description="unet: the image value that the network sees as 0 (0.25: 0 HU)")
    discriminator_channels: int = Field(64, ge=4, le=256, description="channels after the first convolution")
    discriminator_input: DiscriminatorInput = Field(
        "image", description="highpass: the image minus its Gaussian blur of 2 pixels, times input_scale"
    )
    spectral_norm: bool = Field(False, description="spectral normalisation of the image discriminators")
    adversarial_loss: AdversarialForm = Field("least_squares", description="form of all adversarial losses")
    lowpass_sigma_mm: float = Field(
        0.0, ge=0, description="restored images keep the input's part below this Gaussian low-pass, mm; 0: off"
    )
    lowpass_min_hu: float | None = Field(
        None,
        description="lowpass_sigma_mm acts only where the low-pass filtered input is above this, fading in over "
        "50 HU; in air low-dose values are biased, since noise below the lowest stored value is clipped; none: "
        "everywhere",
    )

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level of the U-Net, fine to coarse."""
        return tuple(self.base_channels * 2**depth for depth in range(self.num_levels))

    @property
    def coarsest_channels(self) -> int:
        """Channels of the coarsest map of a code."""
        return 4 * self.base_channels if self.architecture == "lir" else self.level_channels[-1]

    @property
    def size_multiple(self) -> int:
        """Divisor of the image sides that the networks accept."""
        return 4 if self.architecture == "lir" else 2 ** (self.num_levels - 1)


S = TypeVar("S", bound=UnpairedSettings)


class UnpairedMethod(Method[S]):
    """Base of the unpaired methods; subclasses build the encoders and generators."""

    d_x: ImageDiscriminator
    d_y: ImageDiscriminator

    def __init__(self, settings: S, scale: Scale) -> None:
        super().__init__(settings, scale)
        self._passthrough = self._make_passthrough(NOMINAL_SPACING_MM)

    def _make_passthrough(self, spacing_mm: tuple[float, float]) -> LowFrequencyPassthrough | None:
        sigma_mm, min_hu = self.settings.lowpass_sigma_mm, self.settings.lowpass_min_hu
        return LowFrequencyPassthrough(sigma_mm, spacing_mm, min_hu, self.scale) if sigma_mm else None

    def for_spacing(self, spacing_mm: tuple[float, float]) -> UnpairedMethod[S]:
        """Return this method with its low-frequency passthrough for a pixel spacing; networks are shared."""
        if self._passthrough is None:
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, "_passthrough": self._make_passthrough(spacing_mm)}
        return other

    @abstractmethod
    def _restore(self, image: Tensor) -> Tensor:
        """Translate low-dose images, whose sides are multiples of ``size_multiple``, to normal dose."""

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Translate low-dose images to normal dose."""
        restored = run_padded(self._restore, image, self.settings.size_multiple, self._min_side)
        return restored if self._passthrough is None else self._passthrough(restored, center_slice(image))

    @property
    def _min_side(self) -> int:
        """Smallest side of an image, pixels: reflection padding needs two pixels at the coarsest resolution."""
        reflects = any(getattr(part, "padding_mode", None) == "reflect" for part in self.modules())
        return 2 * self.settings.size_multiple if reflects else 1

    def add_training_networks(self) -> None:
        """Build the image discriminators D_X and D_Y."""
        s = self.settings
        self.d_x, self.d_y = (
            ImageDiscriminator(
                s.discriminator_channels,
                spectral_norm=s.spectral_norm,
                sees=s.discriminator_input,
                input_scale=s.input_scale,
            )
            for _ in range(2)
        )

    def _adversarial_losses(self, weight: float, y_to_x: Tensor, x_to_y: Tensor) -> Losses:
        """Losses of the generators: the discriminators should score translations as real."""
        form = self.settings.adversarial_loss
        return {
            "adversarial_x": weight * adversarial_loss(self.d_x(y_to_x), 1.0, form),
            "adversarial_y": weight * adversarial_loss(self.d_y(x_to_y), 1.0, form),
        }

    def _discriminator_losses(self, batch: Batch, y_to_x: Tensor, x_to_y: Tensor) -> Losses:
        """Losses of the discriminators: real images should score 1, translations 0."""
        assert batch.normal is not None
        x, y, form = center_slice(batch.low), center_slice(batch.normal), self.settings.adversarial_loss
        return {
            "discriminator_x": discriminator_loss(self.d_x(x), self.d_x(y_to_x.detach()), form),
            "discriminator_y": discriminator_loss(self.d_y(y), self.d_y(x_to_y.detach()), form),
        }

    def _state_of(self, *networks: str) -> dict[str, Tensor]:
        """Return the state of some networks, with its full key names."""
        prefixes = tuple(f"{name}." for name in networks)
        return {key: value for key, value in self.state_dict().items() if key.startswith(prefixes)}


def encoder(s: UnpairedSettings, num_blocks: int | None = None, context_slices: int = 0) -> nn.Module:
    """Build an encoder of the chosen architecture.

    Parameters
    ----------
    s : UnpairedSettings
        Settings of the method.
    num_blocks : int, optional
        Residual blocks of the architecture ``lir``; by default ``blocks_per_level``.
    context_slices : int
        Adjacent slices on each side that a U-Net also takes as input.

    Returns
    -------
    nn.Module
        Maps images to codes.
    """
    if s.architecture == "lir":
        return LirEncoder(s.base_channels, s.blocks_per_level if num_blocks is None else num_blocks, s.norm)
    in_channels = 2 * context_slices + 1
    return UNetEncoder(s.level_channels, s.blocks_per_level, s.norm, s.input_scale, s.input_shift, in_channels)


def generator(
    s: UnpairedSettings, num_blocks: int | None = None, extra_channels: Sequence[int] = (), tanh: bool = False
) -> nn.Module:
    """Build a generator of the chosen architecture.

    Parameters
    ----------
    s : UnpairedSettings
        Settings of the method.
    num_blocks : int, optional
        Residual blocks of the architecture ``lir``; by default ``blocks_per_level``.
    extra_channels : sequence of int
        Channels of each map of a second code that is concatenated to the first.
    tanh : bool
        Whether the output of the architecture ``lir`` passes through tanh.

    Returns
    -------
    nn.Module
        Maps codes, and the images that they are of, to images.
    """
    if s.architecture == "lir":
        channels = 4 * s.base_channels + sum(extra_channels)
        return LirGenerator(channels, s.blocks_per_level if num_blocks is None else num_blocks, s.norm, tanh)
    extra = tuple(extra_channels) or (0,) * s.num_levels
    return UNetGenerator(s.level_channels, extra, s.blocks_per_level, s.norm, s.input_scale)
