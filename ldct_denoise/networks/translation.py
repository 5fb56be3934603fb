"""Encoders and generators of the invariant-representation GAN, in two forms with one interface.

A *code* is a list of feature maps, from fine to coarse. The published form (Du et al. 2020, after UNIT) has one
map at a quarter of the resolution; the multiscale form has one at every resolution, so that a generator keeps the
detail near the Nyquist frequency where the noise of sharp CT kernels lives.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldct_denoise.networks.blocks import (
    Norm,
    Padding,
    ResidualBlock,
    blur,
    conv,
    gaussian_kernel,
    join_conv,
    norm_layer,
    up_conv,
)

Code = list[Tensor]
Output = Literal["tanh", "linear"]
CriticInput = Literal["image", "texture"]


class PaperEncoder(nn.Module):
    """7×7 convolution to ``width``, two 4×4 stride-2 convolutions that double it, then residual blocks."""

    def __init__(
        self,
        width: int,
        blocks: int,
        norm: Norm,
        padding: Padding,
        code_channels: int | None = None,
        *,
        literal: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(1, width, 7, norm=norm, padding=padding)]
        for doubling in (1, 2):
            layers.append(
                conv(width * doubling, 2 * width * doubling, 4, stride=2, norm=norm, padding=padding, edge=1)
            )
        layers += [ResidualBlock(4 * width, norm, padding, literal) for _ in range(blocks)]
        if code_channels is not None:  # the noise encoder ends in a 1×1 convolution instead
            layers.append(nn.Conv2d(4 * width, code_channels, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Code:
        """Code of one map, a quarter of each side."""
        return [self.layers(image)]


class PaperGenerator(nn.Module):
    """Residual blocks, two up-samplings (nearest, 5×5 convolution that halves the width), a 7×7 convolution."""

    def __init__(
        self,
        channels: int,
        blocks: int,
        norm: Norm,
        up_norm: Norm,
        padding: Padding,
        output: Output,
        *,
        literal: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [ResidualBlock(channels, norm, padding, literal) for _ in range(blocks)]
        for halving in (1, 2):
            inputs, outputs = channels // halving, channels // (2 * halving)
            layers.append(up_conv(inputs, outputs, norm=up_norm, padding=padding, literal=literal))
        layers.append(conv(channels // 4, 1, 7, padding=padding, activation=None))
        self.layers = nn.Sequential(*layers)
        self.output = output

    def forward(self, code: Code, base: Tensor) -> Tensor:
        """The image of this code; ``base`` is not used in the published form."""
        image: Tensor = self.layers(code[0])
        return torch.tanh(image) if self.output == "tanh" else image


class MultiscaleEncoder(nn.Module):
    """Feature maps at full, half and quarter resolution: the way down of a U-Net.

    Parameters
    ----------
    widths : tuple of int
        Channels at each resolution, fine to coarse.
    blocks : int
        3×3 convolutions at each resolution.
    norm : Norm
    gain, centre : float
        The image is seen as ``(image − centre) · gain``, so that soft tissue is near 0 and 1 is a few hundred HU.
    inputs : int
        Channels of the image: slices.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: int, norm: Norm, gain: float, centre: float, inputs: int = 1
    ) -> None:
        super().__init__()
        self.gain, self.centre = gain, centre
        levels = []
        for width in widths:
            levels.append(
                nn.Sequential(*(conv(inputs if n == 0 else width, width, 3, norm=norm) for n in range(blocks)))
            )
            inputs = width
        self.levels = nn.ModuleList(levels)

    def forward(self, image: Tensor) -> Code:
        """One map for each width, each half the sides of the one before."""
        features, code = (image - self.centre) * self.gain, []
        for depth, level in enumerate(self.levels):
            features = self._finest(features) if depth == 0 else level(F.avg_pool2d(features, 2))
            code.append(features)
        return code

    def _finest(self, image: Tensor) -> Tensor:
        """The first resolution; where bf16 is on, its first convolution stays in float32.

        HU need more than bf16's 8 bits: on real slices this takes the mean difference from float32 from 0.3–0.5 HU
        to 0.1 HU, for a tenth of the time.
        """
        level, device = self.levels[0], image.device.type
        assert isinstance(level, nn.Sequential)
        features: Tensor
        if not torch.is_autocast_enabled(device):
            features = level(image)
            return features
        with torch.autocast(device, enabled=False):
            features = level[0](image.float())
        for block in list(level)[1:]:
            features = block(features)
        return features


class MultiscaleGenerator(nn.Module):
    """The way up of a U-Net over a code; predicts the correction to ``base``, almost none at the start.

    Parameters
    ----------
    widths : tuple of int
        Channels of its own at each resolution, fine to coarse.
    extra : tuple of int
        Channels of a second code that is concatenated to the first at each resolution (0: none).
    blocks : int
        3×3 convolutions at each resolution.
    norm : Norm
    gain : float
        As in the encoder: the correction is divided by it.
    """

    def __init__(
        self, widths: tuple[int, ...], extra: tuple[int, ...], blocks: int, norm: Norm, gain: float
    ) -> None:
        super().__init__()
        self.gain = gain
        levels = []
        for depth, width in enumerate(widths):
            fine, coarsest = width + extra[depth], depth + 1 == len(widths)
            first = (
                conv(fine, width, 3, norm=norm)
                if coarsest
                else join_conv(fine, widths[depth + 1], width, norm=norm)
            )
            levels.append(nn.Sequential(first, *(conv(width, width, 3, norm=norm) for _ in range(1, blocks))))
        self.levels = nn.ModuleList(levels)
        self.last = nn.Conv2d(widths[0], 1, 3, padding=1)
        with torch.no_grad():
            self.last.weight.mul_(0.01)
            assert self.last.bias is not None
            self.last.bias.zero_()

    def forward(self, code: Code, base: Tensor) -> Tensor:
        """``base`` and the correction that the code asks for."""
        features: Tensor = self.levels[-1](code[-1])
        for level, fine in zip(reversed(self.levels[:-1]), reversed(code[:-1]), strict=True):
            features = level((fine, features))
        correction: Tensor = self.last(features) / self.gain
        return base + correction


class ImageCritic(nn.Module):
    """Discriminator at several scales: four stride-2 4×4 convolutions each, least-squares or logit maps out.

    Parameters
    ----------
    width : int
        Channels after the first convolution; doubled by each of the next.
    scales : int
        Copies of the critic, each looking at the image averaged down by two once more.
    spectral_norm : bool
        Bound each layer's Lipschitz constant (Miyato et al. 2018).
    looks_at : CriticInput
        The image, or its texture: what a blur of 2 pixels removes, times ``gain``. CT noise is a hundredth of the
        range, which a bounded critic hardly feels, and anatomy differs between unpaired pools.
    gain : float
        As of the generators.
    """

    def __init__(
        self,
        width: int,
        scales: int = 3,
        spectral_norm: bool = False,
        looks_at: CriticInput = "image",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.critics = nn.ModuleList(_stride_critic(width, spectral_norm) for _ in range(scales))
        self.looks_at, self.gain, self._blur = looks_at, gain, gaussian_kernel(2.0, 6)

    def forward(self, image: Tensor) -> list[Tensor]:
        """One map of judgements for each scale that the image is large enough for."""
        if self.looks_at == "texture":
            image = (image - blur(image, self._blur)) * self.gain
        judgements = []
        for critic in self.critics:
            judgements.append(critic(image))
            if min(image.shape[-2:]) < 32:
                break
            image = F.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
        return judgements


def _stride_critic(width: int, spectral_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = [1, width, 2 * width, 4 * width, 8 * width]
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
    layers.append(nn.Conv2d(channels[-1], 1, 1))
    if spectral_norm:
        layers = [
            nn.utils.parametrizations.spectral_norm(part) if isinstance(part, nn.Conv2d) else part
            for part in layers
        ]
    return nn.Sequential(*layers)


class CodeCritic(nn.Module):
    """Representation discriminator D_R: four stride-2 3×3 convolutions, global average, one number."""

    def __init__(self, channels: int, width: int = 256, norm: Norm = "none") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for depth in range(4):
            layers += [
                nn.Conv2d(channels if depth == 0 else width, width, 3, 2, 1),
                norm_layer(norm, width),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 1, 1))

    def forward(self, code: Code) -> Tensor:
        """Judgements of the coarsest map, shape (n, 1, 1, 1)."""
        coarsest = code[-1]
        # torch 2.13 on a CPU: the weight gradient of a bf16 convolution over a single pixel is not initialised.
        single, kind = min(coarsest.shape[-2:]) <= 8, coarsest.device.type
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and not single):
            judgement: Tensor = self.layers(coarsest.float() if single else coarsest)
        return judgement
