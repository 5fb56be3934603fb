"""GAN with U-Net discriminators of the image and of its gradient (DU-GAN).

The generator is RED-CNN with 32 filters. Two discriminators score the image and its Sobel gradient magnitude,
each once for the whole image and for every pixel (Section III-B); low-dose images count as generated, too. With
a probability that rises from 0 the discriminators also see CutMix images, and their pixel scores of a mixed
image should be the mixed scores (eq. 5 to 8). Least-squares adversarial losses, squared error of the image,
absolute error of the gradient (eq. 11). Weights and rates are those of the authors' command. Chosen here: the
generator keeps RED-CNN's unpadded 5×5 kernels (the authors' code: padded 3×3); all convolutions of the
discriminators have spectral normalisation, and their last decoder level has as many channels as their first
level (ldct-benchmark: one); images are padded to what the strides of the discriminators divide.

Supervision: supervised

Reference: Huang, Zhang, Zhang, Shan: DU-GAN: Generative adversarial networks with dual-domain U-Net-based
discriminators for low-dose CT denoising, IEEE TIM 2022
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses, Phase
from ldct_denoise.networks.blocks import reflect_pad
from ldct_denoise.networks.residual import RedCnn

MAX_CHANNELS = 512


class DuGanSettings(RegressionSettings):
    """The published networks and the weights of the authors' command."""

    channels: int = Field(32, ge=4, le=512, description="filters of the generator")
    final_relu: bool = Field(True, description="as published: no output below the low end of the HU range")
    input_shift: float = Field(0.0, description="the image value that the network sees as 0 (0: low end of range)")
    discriminator_channels: int = Field(64, ge=4, le=256, description="channels at full resolution")
    discriminator_levels: int = Field(6, ge=1, le=8, description="times that the discriminators halve the image")
    discriminator_lr_factor: float = Field(0.39, gt=0, description="learning rate, relative to the generator's")
    image_adversarial_weight: float = Field(0.142, ge=0, description="weight of the image discriminator")
    gradient_adversarial_weight: float = Field(0.12, ge=0, description="weight of the gradient discriminator")
    image_weight: float = Field(5.03, ge=0, description="weight of the squared error of the image")
    gradient_weight: float = Field(35.3, ge=0, description="weight of the absolute error of the gradient")
    cutmix_prob: float = Field(0.76, ge=0, le=1, description="probability of a CutMix batch")
    cutmix_warmup_steps: int = Field(1000, ge=1, description="steps over which that probability rises from 0")
    cutmix_weight: float = Field(5.09, ge=0, description="weight of the consistency of CutMix scores")


class Scores(NamedTuple):
    """Scores of images, shape (n, 1), and of their pixels, shape (n, 1, height, width)."""

    image: Tensor
    pixels: Tensor


def _conv(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, kernel_size, stride, (kernel_size - 1) // 2)
    return nn.utils.parametrizations.spectral_norm(layer)


def _two_convs(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(inputs, outputs, 3), nn.LeakyReLU(0.2), _conv(outputs, outputs, 3), nn.LeakyReLU(0.2)
    )


class UNetDiscriminator(nn.Module):
    """U-Net of residual blocks that scores an image and each of its pixels (Schönfeld et al. 2020).

    Parameters
    ----------
    channels : int
        Channels at full resolution; doubled at each next one, up to 512.
    num_levels : int
        Times that the image is halved.
    """

    def __init__(self, channels: int, num_levels: int) -> None:
        super().__init__()
        widths = [min(channels * 2**level, MAX_CHANNELS) for level in range(num_levels)]
        inputs = [1, *widths[:-1]]
        self.multiple = 2**num_levels
        self.down = nn.ModuleList(_two_convs(a, b) for a, b in zip(inputs, widths, strict=True))
        self.halve = nn.ModuleList(_conv(b, b, 4, 2) for b in widths)
        self.down_skip = nn.ModuleList(_conv(a, b, 1, 2) for a, b in zip(inputs, widths, strict=True))
        self.bottom = _two_convs(widths[-1], widths[-1])
        self.image_score = nn.Linear(widths[-1], 1)
        outputs = [widths[0], *widths[:-1]]
        self.up = nn.ModuleList(
            _two_convs(2 * b, a) for a, b in zip(reversed(outputs), reversed(widths), strict=True)
        )
        self.up_skip = nn.ModuleList(
            _conv(b, a, 1) for a, b in zip(reversed(outputs), reversed(widths), strict=True)
        )
        self.pixel_score = _conv(widths[0], 1, 1)

    def forward(self, image: Tensor) -> Scores:
        """Return the scores."""
        height, width = image.shape[-2:]
        features = reflect_pad(image, 0, -width % self.multiple, 0, -height % self.multiple)
        skips = []
        for block, halve, skip in zip(self.down, self.halve, self.down_skip, strict=True):
            skips.append(block(features))
            features = halve(skips[-1]) + skip(features)
        features = features + self.bottom(features)
        score = self.image_score(F.leaky_relu(features, 0.2).mean(dim=(2, 3)))
        for block, skip in zip(self.up, self.up_skip, strict=True):
            features = F.interpolate(features, scale_factor=2.0, mode="bilinear")
            features = block(torch.cat([features, skips.pop()], dim=1)) + skip(features)
        return Scores(score, self.pixel_score(features)[..., :height, :width])


def gradient_magnitude(image: Tensor) -> Tensor:
    """Return the magnitude of the Sobel gradient, of the same shape."""
    row = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]).to(image) / 4
    gradient = F.conv2d(reflect_pad(image, 1, 1, 1, 1), torch.stack([row, row.T])[:, None])
    return (gradient.square().sum(dim=1, keepdim=True) + 1e-4).sqrt()


class DuGan(Regression[DuGanSettings]):
    """DU-GAN, trained on pairs."""

    Settings = DuGanSettings

    def _network(self) -> nn.Module:
        return RedCnn(self.settings.channels, self.settings.final_relu)

    def add_training_networks(self) -> None:
        """Build both discriminators."""
        s = self.settings
        self.d_image, self.d_gradient = (
            UNetDiscriminator(s.discriminator_channels, s.discriminator_levels) for _ in range(2)
        )

    def restoration_parameters(self) -> dict[str, Tensor]:
        """Return the weights of the generator."""
        return {key: value for key, value in self.state_dict().items() if key.startswith("network.")}

    def _seen(self, image: Tensor) -> Tensor:
        return (image - self.settings.input_shift) * self.settings.input_scale

    def losses(self, batch: Batch) -> Losses:
        """Losses of the generator (eq. 11)."""
        assert batch.normal is not None
        s, estimate = self.settings, self._estimate(batch.low)
        seen, target = self._seen(estimate), self._seen(batch.normal)
        gradient = gradient_magnitude(seen)
        return {
            "adversarial_image": s.image_adversarial_weight * _squares(self.d_image(seen), 1.0),
            "adversarial_gradient": s.gradient_adversarial_weight * _squares(self.d_gradient(gradient), 1.0),
            s.loss: s.image_weight * self._distance(estimate, batch.normal),
            "gradient": s.gradient_weight * F.l1_loss(gradient, gradient_magnitude(target)),
        }

    def image_discriminator_losses(self, batch: Batch) -> Losses:
        """Losses of the discriminator of images."""
        return self._discriminator_losses("image", self.d_image, batch, lambda image: image)

    def gradient_discriminator_losses(self, batch: Batch) -> Losses:
        """Losses of the discriminator of gradients."""
        return self._discriminator_losses("gradient", self.d_gradient, batch, gradient_magnitude)

    def _discriminator_losses(
        self, name: str, network: nn.Module, batch: Batch, domain: Callable[[Tensor], Tensor]
    ) -> Losses:
        """Least squares (eq. 3), and CutMix regularisation (eq. 5 to 8)."""
        assert batch.normal is not None
        s = self.settings
        if "estimate" not in batch.memo:
            with torch.no_grad():
                batch.memo["estimate"] = self._estimate(batch.low)
        low, real, generated = (
            domain(self._seen(image)) for image in (batch.low, batch.normal, batch.memo["estimate"])
        )
        of_low, of_real, of_generated = network(low), network(real), network(generated)
        losses = {
            f"discriminator_{name}": _squares(of_real, 1.0) + _squares(of_generated, 0.0) + _squares(of_low, 0.0)
        }
        prob = s.cutmix_prob * min(1.0, batch.step / s.cutmix_warmup_steps)
        if float(torch.rand(1, generator=batch.generator)) < prob:
            mask = cutmix_mask(real.shape[-2], real.shape[-1], batch.generator).to(real)
            mixed = network(mask * real + (1 - mask) * generated)
            wanted = mask * of_real.pixels + (1 - mask) * of_generated.pixels
            losses[f"cutmix_{name}"] = (
                mixed.image.square().mean()
                + (mixed.pixels - mask).square().mean()
                + s.cutmix_weight * (mixed.pixels - wanted).square().mean()
            )
        return losses

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Update the discriminators, then the generator."""
        s = self.settings
        rate = s.discriminator_lr_factor * learning_rate
        of_image, of_gradient = (s.make_optimizer([d], rate, "adam") for d in (self.d_image, self.d_gradient))
        return (
            Phase("image discriminator", self.image_discriminator_losses, of_image),
            Phase("gradient discriminator", self.gradient_discriminator_losses, of_gradient),
            Phase("generator", self.losses, s.make_optimizer([self.network], learning_rate)),
        )


def _squares(scores: Scores, target: float) -> Tensor:
    """Squared distance of the scores of images and of pixels from a target."""
    return (scores.image - target).square().mean() + (scores.pixels - target).square().mean()


def cutmix_mask(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw a mask (height, width) that is 0 in a rectangle of random size and place and 1 elsewhere.

    The fraction of the rectangle's area is uniform, Beta(1, 1), before it is cut at the border (Yun et al. 2019).

    Parameters
    ----------
    height, width : int
        Sides of the mask, pixels.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor, shape (height, width)
        Values 0 and 1.
    """
    fraction, row, column = (float(value) for value in torch.rand(3, generator=generator))
    side = math.sqrt(fraction)
    mask = torch.ones(height, width)
    top, left = round(height * (row - side / 2)), round(width * (column - side / 2))
    bottom, right = round(height * (row + side / 2)), round(width * (column + side / 2))
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 0
    return mask


METHOD = DuGan
