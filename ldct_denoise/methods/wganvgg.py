"""Wasserstein GAN with perceptual loss (WGAN-VGG).

The generator has eight 3×3 convolutions, 32 filters each but the last, with ReLU (Fig. 1). The critic has six
3×3 convolutions of 64, 64, 128, 128, 256 and 256 filters, every second of stride 2, and fully connected layers
of 1024 and 1 outputs. Losses: Wasserstein distance with gradient penalty λ = 10 (eq. 2), and λ₁ = 0.1 times the
squared distance of the features of VGG-19's last convolution (eq. 5 to 7). The critic is updated four times for
each update of the generator, with Adam, β₁ = 0.5 and β₂ = 0.9. Without ``vgg_weights`` the squared error
replaces the distance of features: the paper's WGAN-MSE. Chosen here: no ReLU after the last layer, since 0
stands for 0 HU; zero padding; the critic averages its last map to 8×8, so that any patch size fits (64 pixels
as published need no averaging); the four updates of the critic use one batch; the weight of the squared error,
for which the paper gives no value.

Supervision: supervised

Reference: Yang, Yan, Zhang, Yu, Shi, Mou, Kalra, Zhang, Sun, Wang: Low-dose CT image denoising using a
generative adversarial network with Wasserstein distance and perceptual loss, IEEE TMI 2018
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses, Phase
from ldct_denoise.networks.blocks import conv
from ldct_denoise.networks.vgg import Vgg19Features

NUM_LAYERS = 8
CRITIC_GRID = 8


class WganVggSettings(RegressionSettings):
    """The published networks, weights of losses and optimizer."""

    channels: int = Field(32, ge=4, le=256, description="filters of the generator")
    critic_channels: int = Field(64, ge=2, le=256, description="filters of the critic's first two layers")
    critic_features: int = Field(1024, ge=8, description="outputs of the critic's first fully connected layer")
    critic_steps: int = Field(4, ge=1, le=20, description="updates of the critic in every step")
    gradient_penalty_weight: float = Field(10.0, ge=0, description="weight of the gradient penalty, λ")
    perceptual_weight: float = Field(0.1, ge=0, description="weight of the distance of VGG-19 features, λ₁")
    mse_weight: float = Field(1000.0, ge=0, description="weight of the squared error, without vgg_weights")
    perceptual_layer: str = Field("conv5_4", description="layer of VGG-19")
    vgg_weights: str | None = Field(
        None, description="file of torchvision's vgg19 weights, or 'download'; none: squared error instead"
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="decay rate of Adam's mean of gradients")
    beta2: float = Field(0.9, ge=0, lt=1, description="decay rate of Adam's mean of squared gradients")


class Critic(nn.Module):
    """Six convolutions and two fully connected layers; one score for each image.

    Parameters
    ----------
    channels : int
        Filters of the first two layers; doubled twice.
    features : int
        Outputs of the first fully connected layer.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        widths = (1, *(channels * 2 ** (n // 2) for n in range(6)))
        self.layers = nn.Sequential(
            *(
                conv(widths[n], widths[n + 1], 3, stride=1 + n % 2, activation=lambda: nn.LeakyReLU(0.2))
                for n in range(6)
            ),
            nn.AdaptiveAvgPool2d(CRITIC_GRID),
            nn.Flatten(),
            nn.Linear(widths[-1] * CRITIC_GRID**2, features),
            nn.LeakyReLU(0.2),
            nn.Linear(features, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return scores, shape (n, 1)."""
        score: Tensor = self.layers(image)
        return score


class WganVgg(Regression[WganVggSettings]):
    """WGAN-VGG, trained on pairs."""

    Settings = WganVggSettings

    def __init__(self, settings: WganVggSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.vgg: Vgg19Features | None = None

    def _network(self) -> nn.Module:
        channels = self.settings.channels
        layers = [conv(1 if n == 0 else channels, channels, 3) for n in range(NUM_LAYERS - 1)]
        return nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))

    def add_training_networks(self) -> None:
        """Build the critic, and VGG-19 where its weights are given."""
        s = self.settings
        self.critic = Critic(s.critic_channels, s.critic_features)
        if s.vgg_weights and s.perceptual_weight:
            self.vgg = Vgg19Features(s.perceptual_layer, s.vgg_weights)

    def restoration_parameters(self) -> dict[str, Tensor]:
        """Return the weights of the generator."""
        return {key: value for key, value in self.state_dict().items() if key.startswith("network.")}

    def _score(self, image: Tensor) -> Tensor:
        s = self.settings
        score: Tensor = self.critic((image - s.input_shift) * s.input_scale)
        return score

    def critic_losses(self, batch: Batch) -> Losses:
        """Wasserstein distance and gradient penalty (eq. 2)."""
        assert batch.normal is not None
        if "estimate" not in batch.memo:
            with torch.no_grad():
                batch.memo["estimate"] = self._estimate(batch.low)
        estimate = batch.memo["estimate"]
        distance = self._score(estimate).mean() - self._score(batch.normal).mean()
        penalty = self.settings.gradient_penalty_weight * self._gradient_penalty(estimate, batch)
        return {"wasserstein": distance, "gradient_penalty": penalty}

    def _gradient_penalty(self, estimate: Tensor, batch: Batch) -> Tensor:
        """Squared difference of the gradient's norm from 1, at a random point between estimate and target.

        The gradient is that with respect to what the critic sees, so it does not depend on ``input_scale``.
        """
        s = self.settings
        assert batch.normal is not None
        with torch.enable_grad(), torch.autocast(estimate.device.type, enabled=False):
            share = torch.rand(len(estimate), 1, 1, 1, generator=batch.generator).to(batch.normal)
            between = share * batch.normal + (1 - share) * estimate.to(batch.normal)
            seen = ((between - s.input_shift) * s.input_scale).requires_grad_()
            (gradient,) = torch.autograd.grad(self.critic(seen).sum(), seen, create_graph=True)
            return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    def losses(self, batch: Batch) -> Losses:
        """Losses of the generator: the critic's score, and the distance of features or the squared error."""
        assert batch.normal is not None
        s, estimate = self.settings, self._estimate(batch.low)
        losses = {"adversarial": -self._score(estimate).mean()}
        if self.vgg is not None:
            losses["perceptual"] = s.perceptual_weight * F.mse_loss(self.vgg(estimate), self.vgg(batch.normal))
        else:
            losses[s.loss] = s.mse_weight * self._distance(estimate, batch.normal)
        return losses

    def phases(self, learning_rate: float) -> Sequence[Phase]:
        """Update the critic several times, then the generator."""
        s = self.settings
        critic = s.make_optimizer([self.critic], learning_rate, "adam")
        return (
            Phase("critic", self.critic_losses, critic, repeats=s.critic_steps),
            Phase("generator", self.losses, s.make_optimizer([self.network], learning_rate)),
        )

    def notes(self, has_noise: bool = True) -> Sequence[str]:
        """Say that this is WGAN-MSE."""
        if self.settings.vgg_weights and self.settings.perceptual_weight:
            return ()
        return ("settings.vgg_weights names no VGG-19 weights: trained with the squared error (WGAN-MSE)",)


METHOD = WganVgg
