"""Encoders and generators of the invariant-representation GAN, in two architectures with one interface.

A *code* is a list of feature maps, fine to coarse. The published architecture (Du et al. 2020, after UNIT) has one
map at a quarter of the resolution. The U-Net has one map at every resolution, so that a generator keeps detail
near the Nyquist frequency, where sharp CT kernels have most of their noise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldct_denoise.networks.blocks import Norm, ResidualBlock, conv, upsample_concat_conv, upsample_conv

Code = list[Tensor]


class LirEncoder(nn.Module):
    """7×7 convolution, two 4×4 convolutions of stride 2 that double the channels, then residual blocks.

    Parameters
    ----------
    base_channels : int
        Channels at full resolution; the code has four times as many.
    num_blocks : int
        Residual blocks.
    norm : Norm
        Normalisation after each convolution.
    code_channels : int, optional
        Channels of a last 1×1 convolution, which only the noise encoder has.
    """

    def __init__(self, base_channels: int, num_blocks: int, norm: Norm, code_channels: int | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(1, base_channels, 7, norm=norm, padding_mode="reflect")]
        for factor in (1, 2):
            channels = base_channels * factor
            layers.append(conv(channels, 2 * channels, 4, stride=2, norm=norm, padding_mode="reflect", padding=1))
        layers += [ResidualBlock(4 * base_channels, norm, "reflect") for _ in range(num_blocks)]
        if code_channels is not None:
            layers.append(nn.Conv2d(4 * base_channels, code_channels, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Code:
        """Return a code of one map with a quarter of the image's height and width."""
        return [self.layers(image)]


class LirGenerator(nn.Module):
    """Residual blocks, twice nearest up-sampling and a 5×5 convolution that halves the channels, 7×7 convolution.

    Parameters
    ----------
    channels : int
        Channels of the code.
    num_blocks : int
        Residual blocks.
    norm : Norm
        Normalisation in the residual blocks; the up-sampling blocks have layer normalisation, as published.
    tanh : bool
        Whether the output passes through tanh, as published.
    """

    def __init__(self, channels: int, num_blocks: int, norm: Norm, tanh: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(ResidualBlock(channels, norm, "reflect") for _ in range(num_blocks)),
            upsample_conv(channels, channels // 2, "layer", "reflect"),
            upsample_conv(channels // 2, channels // 4, "layer", "reflect"),
            conv(channels // 4, 1, 7, padding_mode="reflect", activation=None),
        )
        self.tanh = tanh

    def forward(self, code: Code, base: Tensor) -> Tensor:
        """Return the image of a code; ``base`` is not used by this architecture."""
        image: Tensor = self.layers(code[0])
        return torch.tanh(image) if self.tanh else image


class UNetEncoder(nn.Module):
    """The contracting path of a U-Net (Ronneberger et al. 2015); its code is the feature map of every level.

    Parameters
    ----------
    channels : tuple of int
        Channels of each level, fine to coarse.
    blocks_per_level : int
        3×3 convolutions in each level.
    norm : Norm
        Normalisation after each convolution.
    input_scale, input_shift : float
        The network sees ``(image − input_shift) · input_scale``: soft tissue near 0, a few hundred HU near 1.
    in_channels : int
        Channels of the image: 1, or the slices of a 2.5-D stack.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        blocks_per_level: int,
        norm: Norm,
        input_scale: float,
        input_shift: float,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.input_scale, self.input_shift = input_scale, input_shift
        levels = []
        for out_channels in channels:
            inputs = [in_channels] + [out_channels] * (blocks_per_level - 1)
            levels.append(nn.Sequential(*(conv(count, out_channels, 3, norm=norm) for count in inputs)))
            in_channels = out_channels
        self.levels = nn.ModuleList(levels)

    def forward(self, image: Tensor) -> Code:
        """Return one map for each level; each has half the height and width of the one before."""
        features, code = (image - self.input_shift) * self.input_scale, []
        for depth, level in enumerate(self.levels):
            features = self._finest(features) if depth == 0 else level(F.avg_pool2d(features, 2))
            code.append(features)
        return code

    def _finest(self, image: Tensor) -> Tensor:
        """Run the first level; under bf16 autocast its first convolution stays in float32.

        HU need more than the 8 bits of bf16. On real slices this lowers the mean difference from float32 from
        0.3–0.5 HU to 0.1 HU and takes a tenth more time.
        """
        level, device = self.levels[0], image.device.type
        assert isinstance(level, nn.Sequential)
        features: Tensor
        if not torch.is_autocast_enabled(device):
            features = level(image)
            return features
        with torch.autocast(device, enabled=False):
            features = level[0](image.float())
        for layer in list(level)[1:]:
            features = layer(features)
        return features


class UNetGenerator(nn.Module):
    """The expanding path of a U-Net; it predicts the correction to ``base``, initially nearly 0.

    Parameters
    ----------
    channels : tuple of int
        Channels of each level, fine to coarse.
    extra_channels : tuple of int
        Channels of a second code that is concatenated to the first at each level (0: none).
    blocks_per_level : int
        3×3 convolutions in each level.
    norm : Norm
        Normalisation after each convolution.
    input_scale : float
        As of the encoder; the predicted correction is divided by it.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        extra_channels: tuple[int, ...],
        blocks_per_level: int,
        norm: Norm,
        input_scale: float,
    ) -> None:
        super().__init__()
        self.input_scale = input_scale
        levels = []
        for depth, out_channels in enumerate(channels):
            fine = out_channels + extra_channels[depth]
            if depth + 1 == len(channels):
                first = conv(fine, out_channels, 3, norm=norm)
            else:
                first = upsample_concat_conv(fine, channels[depth + 1], out_channels, norm)
            others = (conv(out_channels, out_channels, 3, norm=norm) for _ in range(1, blocks_per_level))
            levels.append(nn.Sequential(first, *others))
        self.levels = nn.ModuleList(levels)
        self.last = nn.Conv2d(channels[0], 1, 3, padding=1)
        initialize_near_zero(self.last)

    def forward(self, code: Code, base: Tensor) -> Tensor:
        """Return ``base`` plus the correction that the code predicts."""
        features: Tensor = self.levels[-1](code[-1])
        for level, fine in zip(reversed(self.levels[:-1]), reversed(code[:-1]), strict=True):
            features = level((fine, features))
        correction: Tensor = self.last(features) / self.input_scale
        return base + correction


@torch.no_grad()
def initialize_near_zero(layer: nn.Module, factor: float = 0.01) -> None:
    """Scale down the initial weights of a last convolution, so that a residual network begins as near-identity."""
    assert isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.zero_()
