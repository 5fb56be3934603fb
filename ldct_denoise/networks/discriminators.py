"""Discriminators of images and of codes."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldct_denoise.networks.blocks import Norm, blur, gaussian_kernel, norm_layer
from ldct_denoise.networks.encoder_decoder import Code

DiscriminatorInput = Literal["image", "highpass"]


class ImageDiscriminator(nn.Module):
    """Patch discriminator at several scales: four 4×4 convolutions of stride 2 each (pix2pixHD, Wang et al. 2018).

    Parameters
    ----------
    channels : int
        Channels after the first convolution; each next one doubles them.
    num_scales : int
        Copies of the network; each sees the image average-pooled by 2 once more.
    spectral_norm : bool
        Bound the Lipschitz constant of each layer (Miyato et al. 2018).
    sees : {"image", "highpass"}
        ``highpass``: the image minus its Gaussian blur of 2 pixels, times ``input_scale``. CT noise is a hundredth
        of the range of the image, which a discriminator with bounded slope hardly sees, and the anatomy of
        unpaired pools differs anyway.
    input_scale : float
        As of the generators.
    """

    def __init__(
        self,
        channels: int,
        num_scales: int = 3,
        spectral_norm: bool = False,
        sees: DiscriminatorInput = "image",
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_strided_convolutions(channels, spectral_norm) for _ in range(num_scales))
        self.sees, self.input_scale, self._blur = sees, input_scale, gaussian_kernel(2.0, 6)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return one map of scores for each scale that the image is large enough for."""
        if self.sees == "highpass":
            image = (image - blur(image, self._blur)) * self.input_scale
        scores = []
        for network in self.scales:
            scores.append(network(image))
            if min(image.shape[-2:]) < 32:
                break
            image = F.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
        return scores


def _strided_convolutions(channels: int, spectral_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([1, channels, 2 * channels, 4 * channels, 8 * channels]):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
    layers.append(nn.Conv2d(8 * channels, 1, 1))
    if spectral_norm:
        bound = nn.utils.parametrizations.spectral_norm
        layers = [bound(layer) if isinstance(layer, nn.Conv2d) else layer for layer in layers]
    return nn.Sequential(*layers)


class CodeDiscriminator(nn.Module):
    """Representation discriminator D_R: four 3×3 convolutions of stride 2, global average pooling, one score.

    Parameters
    ----------
    in_channels : int
        Channels of the coarsest map of the code.
    channels : int
        Channels of each convolution.
    norm : Norm
        Normalisation after each convolution.
    """

    def __init__(self, in_channels: int, channels: int = 256, norm: Norm = "none") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (in_channels, channels, channels, channels):
            layers += [nn.Conv2d(inputs, channels, 3, 2, 1), norm_layer(norm, channels), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 1, 1))

    def forward(self, code: Code) -> Tensor:
        """Return a score of the coarsest map of each code, shape (n, 1, 1, 1)."""
        coarsest = code[-1]
        # torch 2.13 on a CPU: the weight gradient of a bf16 convolution over a single pixel is not initialised.
        single, device = min(coarsest.shape[-2:]) <= 8, coarsest.device.type
        with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and not single):
            score: Tensor = self.layers(coarsest.float() if single else coarsest)
        return score
