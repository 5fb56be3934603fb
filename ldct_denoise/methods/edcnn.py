"""Edge-enhancement densely connected CNN (EDCNN).

A layer of Sobel filters with a trainable factor each enhances edges (Section III-A); its output and the image
are concatenated to the input of each of eight blocks of a 1×1 and a 3×3 convolution (III-B). The last block
predicts the correction to the image. The compound loss is the squared error plus 0.01 times the squared
distance of the features of ResNet-50 after each of its four stages (III-C); without ``resnet50_weights`` the
squared error remains. Chosen here: images are normalised for ResNet-50 as ImageNet's are.

Supervision: supervised

Reference: Liang, Jin, Li, Wang: EDCNN: Edge enhancement-based densely connected network with compound loss for
low-dose CT denoising, ICSP 2020
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses
from ldct_denoise.networks.encoder_decoder import initialize_near_zero
from ldct_denoise.networks.resnet50 import ResNet50Features

NUM_BLOCKS = 8


class EdcnnSettings(RegressionSettings):
    """The published network. Because of the last leaky ReLU, 0 is the low end of the HU range."""

    channels: int = Field(32, ge=4, le=256, multiple_of=4, description="Sobel filters, and filters of each layer")
    perceptual_weight: float = Field(0.01, ge=0, description="weight of the distance of ResNet-50 features")
    resnet50_weights: str | None = Field(
        None, description="file of torchvision's resnet50 weights, or 'download'; none: no perceptual loss"
    )
    input_shift: float = Field(0.0, description="the image value that the network sees as 0 (0: low end of range)")


def sobel_kernels() -> Tensor:
    """Return Sobel kernels of four directions, shape (4, 1, 3, 3)."""
    horizontal = torch.tensor([[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]])
    diagonal = torch.tensor([[-2.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    return torch.stack([horizontal, horizontal.T, diagonal, diagonal.flip(0)])[:, None]


class EdgeEnhancement(nn.Module):
    """Sobel filters, each with a trainable factor and bias; the image comes first in the output.

    Parameters
    ----------
    channels : int
        Number of filters.
    """

    kernels: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("kernels", sobel_kernels().repeat(channels // 4, 1, 1, 1), persistent=False)
        self.factor = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, image: Tensor) -> Tensor:
        """Return the image and its edges, shape (n, 1 + channels, height, width)."""
        edges = F.conv2d(image, self.kernels * self.factor, self.bias, padding=1)
        return torch.cat([image, edges], dim=1)


class EdgeEnhancedNetwork(nn.Module):
    """Edge enhancement and eight densely connected blocks.

    Parameters
    ----------
    channels : int
        Sobel filters, and filters of each layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = EdgeEnhancement(channels)
        self.pointwise = nn.ModuleList(
            nn.Conv2d(1 + channels * (1 if n == 0 else 2), channels, 1) for n in range(NUM_BLOCKS)
        )
        self.spatial = nn.ModuleList(
            nn.Conv2d(channels, 1 if n == NUM_BLOCKS - 1 else channels, 3, padding=1) for n in range(NUM_BLOCKS)
        )
        initialize_near_zero(self.spatial[-1])

    def forward(self, image: Tensor) -> Tensor:
        """Return the estimate, of the same shape."""
        enhanced = features = self.edges(image)
        for pointwise, spatial in zip(self.pointwise[:-1], self.spatial[:-1], strict=True):
            features = F.leaky_relu(spatial(F.leaky_relu(pointwise(features))))
            features = torch.cat([enhanced, features], dim=1)
        correction = self.spatial[-1](F.leaky_relu(self.pointwise[-1](features)))
        return F.leaky_relu(image + correction)


class Edcnn(Regression[EdcnnSettings]):
    """EDCNN, trained on pairs."""

    Settings = EdcnnSettings

    def __init__(self, settings: EdcnnSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.resnet50: ResNet50Features | None = None

    def _network(self) -> nn.Module:
        return EdgeEnhancedNetwork(self.settings.channels)

    def add_training_networks(self) -> None:
        """Build ResNet-50, where its weights are given."""
        s = self.settings
        if s.resnet50_weights and s.perceptual_weight:
            self.resnet50 = ResNet50Features(s.resnet50_weights)

    def restoration_parameters(self) -> dict[str, Tensor]:
        """Return the weights of the network, without those of ResNet-50."""
        return {key: value for key, value in self.state_dict().items() if key.startswith("network.")}

    def losses(self, batch: Batch) -> Losses:
        """Squared error and distance of features (eq. 5 to 7)."""
        assert batch.normal is not None
        estimate = self._estimate(batch.low)
        losses: Losses = {self.settings.loss: self._distance(estimate, batch.normal)}
        if self.resnet50 is not None:
            pairs = zip(self.resnet50(estimate), self.resnet50(batch.normal), strict=True)
            distance = torch.stack([F.mse_loss(one, other) for one, other in pairs]).mean()
            losses["perceptual"] = self.settings.perceptual_weight * distance
        return losses

    def notes(self, has_noise: bool = True) -> Sequence[str]:
        """Say that the perceptual loss is off."""
        if self.settings.resnet50_weights or not self.settings.perceptual_weight:
            return ()
        return ("the perceptual loss is off: settings.resnet50_weights names no ResNet-50 weights",)


METHOD = Edcnn
