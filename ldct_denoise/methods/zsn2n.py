"""Zero-shot Noise2Noise (ZS-N2N).

A small network is fitted to each image. Two fixed 2×2 filters of stride 2, each the mean of one diagonal, give
two images of half the size with independent noise (Section 3.1). The network f predicts the noise: of either
image it should give the other (residual loss, eq. 4), and denoising should commute with the filters
(consistency loss, eq. 5). Two 3×3 convolutions with 48 filters and leaky ReLU, one 1×1 convolution; Adam at
0.001, halved every 1000 of 2000 iterations. Chosen here: the image is scaled to zero mean and unit variance,
where the paper's images have values in 0…1. Noise must be independent between pixels, which CT noise is not:
the network keeps what neighbours share.

Supervision: none

Reference: Mansour, Heckel: Zero-shot Noise2Noise: Efficient image denoising without any data, CVPR 2023
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._classical import each_image, fit_to_image
from ldct_denoise.methods.base import Method, Settings


class ZsN2nSettings(Settings):
    """The published network and its fit."""

    iterations: int = Field(2000, ge=1, le=100_000, description="iterations for each slice")
    learning_rate: float = Field(0.001, gt=0, le=1, description="initial step size of Adam")
    lr_step_size: int = Field(1000, ge=1, description="iterations after which the step size is halved")
    channels: int = Field(48, ge=1, le=512, description="filters of hidden layers")


def downsample_pair(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return two images of half the size: the mean of each diagonal of every 2×2 square."""
    kernels = torch.tensor([[[[0.0, 0.5], [0.5, 0.0]]], [[[0.5, 0.0], [0.0, 0.5]]]]).to(image)
    first, second = F.conv2d(image, kernels, stride=2).split(1, dim=1)
    return first, second


def zero_shot_loss(network: nn.Module, image: Tensor) -> Tensor:
    """Residual and consistency loss of a network that predicts noise (eq. 4 and 5), a scalar."""
    first, second = downsample_pair(image)
    of_first, of_second = first - network(first), second - network(second)
    residual = F.mse_loss(of_first, second) + F.mse_loss(of_second, first)
    denoised = downsample_pair(image - network(image))
    consistency = F.mse_loss(of_first, denoised[0]) + F.mse_loss(of_second, denoised[1])
    return 0.5 * (residual + consistency)


class ZsN2n(Method[ZsN2nSettings]):
    """A small network for each slice, fitted to that slice.

    Attributes
    ----------
    on_iteration : callable
        Called as ``on_iteration(iteration, iterations)`` during a fit; does nothing unless replaced.
    """

    Settings = ZsN2nSettings
    is_random = True

    def __init__(self, settings: ZsN2nSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.on_iteration: Callable[[int, int], None] = lambda iteration, iterations: None

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Fit slice by slice; a slice of 512×512 takes up to half an hour on one CPU core."""
        return each_image(image, lambda one: fit_to_image(one, lambda target, _: self._fit(target, seed), 2, 2))

    def make_network(self) -> nn.Sequential:
        """Build a network with random weights."""
        channels = self.settings.channels
        return nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels, 1, 1),
        )

    def _fit(self, image: Tensor, seed: int) -> Tensor:
        """Fit a network to an image (1, 1, height, width); return its estimate."""
        s = self.settings
        with torch.random.fork_rng(devices=[]):  # weight initialisation uses the global generator
            torch.manual_seed(seed)
            network = self.make_network().to(image.device)
        optimizer = torch.optim.Adam(network.parameters(), s.learning_rate)
        for iteration in range(1, s.iterations + 1):
            loss = zero_shot_loss(network, image)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if iteration % s.lr_step_size == 0:
                optimizer.param_groups[0]["lr"] *= 0.5
            self.on_iteration(iteration, s.iterations)
        with torch.no_grad():
            estimate: Tensor = image - network(image)
        return estimate


METHOD = ZsN2n
