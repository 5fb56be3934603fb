"""Deep image prior (DIP).

A convolutional network with a fixed random input is fitted to one image and stopped before it fits the noise: when
the mean squared residual has fallen to the noise variance (discrepancy principle of Morozov), or after all
iterations. As in the paper, the result is an exponential moving average of the outputs.

Supervision: none

Reference: Ulyanov, Vedaldi, Lempitsky: Deep image prior, CVPR 2018
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._classical import SigmaSettings, each_image, fit_to_image, noise_sigma
from ldct_denoise.methods.base import Method
from ldct_denoise.networks.blocks import conv
from ldct_denoise.networks.optimizers import OptimizerName, create_optimizer


class DipSettings(SigmaSettings):
    """The network and its fit. The noise level is used by the stopping rule only."""

    iterations: int = Field(1800, ge=1, le=100_000, description="largest number of iterations")
    stop: Literal["discrepancy", "never"] = Field(
        "discrepancy", description="discrepancy: when the residual has fallen to σ; never: after all iterations"
    )
    optimizer: OptimizerName = Field("adam", description="adam as published; muon needs fewer iterations")
    learning_rate: float = Field(0.01, gt=0, le=1, description="step size of the fit")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="decay of the average of outputs; 0: the last output")
    input_channels: int = Field(32, ge=1, le=128, description="channels of the random input")
    reg_noise_std: float = Field(
        1 / 30, ge=0, description="standard deviation of the noise that each iteration adds to the input"
    )
    base_channels: int = Field(32, ge=4, le=256, description="channels at every resolution (128 in the paper)")
    num_levels: int = Field(4, ge=1, le=6, description="number of resolutions (5 in the paper)")
    skip_channels: int = Field(4, ge=0, le=64, description="channels of the skip connection at each resolution")


class Hourglass(nn.Module):
    """Strided convolutions down, bilinear up-sampling, and narrow skip connections at each resolution."""

    def __init__(self, s: DipSettings) -> None:
        super().__init__()
        channels, skip = s.base_channels, s.skip_channels
        inputs = [s.input_channels] + [channels] * (s.num_levels - 1)
        self.down = nn.ModuleList(
            nn.Sequential(
                conv(count, channels, 3, stride=2, norm="batch", activation=nn.LeakyReLU),
                conv(channels, channels, 3, norm="batch", activation=nn.LeakyReLU),
            )
            for count in inputs
        )
        self.across = nn.ModuleList(
            conv(count, skip, 1, norm="batch", activation=nn.LeakyReLU) if skip else nn.Identity()
            for count in inputs
        )
        self.up = nn.ModuleList(
            conv(channels + skip, channels, 3, norm="batch", activation=nn.LeakyReLU) for _ in inputs
        )
        self.last = nn.Conv2d(channels, 1, 1)
        self.skip_channels = skip

    def forward(self, features: Tensor) -> Tensor:
        """Return an image of the same sides, which must be multiples of ``2 ** num_levels``."""
        skips = []
        for down, across in zip(self.down, self.across, strict=True):
            skips.append(across(features))
            features = down(features)
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            features = F.interpolate(features, scale_factor=2.0, mode="bilinear")
            features = up(torch.cat([features, skip], dim=1) if self.skip_channels else features)
        image: Tensor = self.last(features)
        return image


class Dip(Method[DipSettings]):
    """A small network for each slice, fitted to that slice.

    Attributes
    ----------
    on_iteration : callable
        Called as ``on_iteration(iteration, iterations)`` during a fit; does nothing unless replaced.
    """

    Settings = DipSettings
    is_random = True

    def __init__(self, settings: DipSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.on_iteration: Callable[[int, int], None] = lambda iteration, iterations: None

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Fit slice by slice; a slice of 512×512 takes up to half an hour on one CPU core."""
        return each_image(image, lambda one: self._restore(one, seed))

    def _restore(self, image: Tensor, seed: int) -> Tensor:
        sigma, multiple = noise_sigma(image, self.settings, self.scale), 2**self.settings.num_levels
        # Batch normalisation needs more than one pixel at the coarsest resolution.
        return fit_to_image(
            image, lambda target, std: self._fit(target, sigma / std, seed), multiple, 2 * multiple
        )

    def _fit(self, target: Tensor, sigma: float, seed: int) -> Tensor:
        """Fit a network to ``target`` (1, 1, height, width) of unit variance; return its averaged output."""
        s = self.settings
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # weight initialisation uses the global generator
            torch.manual_seed(seed)
            network = Hourglass(s).to(target.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        code = 0.1 * torch.rand(1, s.input_channels, *target.shape[-2:], generator=generator)
        optimizer = create_optimizer(s.optimizer, [network], s.learning_rate, (0.9, 0.999))
        average, total_weight = torch.zeros_like(target), 0.0
        for iteration in range(1, s.iterations + 1):
            noise = s.reg_noise_std * torch.randn(code.shape, generator=generator)
            output = network((code + noise).to(target.device, memory_format=torch.channels_last)).float()
            loss = F.mse_loss(output, target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            average = s.ema_decay * average + (1 - s.ema_decay) * output.detach()
            total_weight = s.ema_decay * total_weight + 1 - s.ema_decay
            self.on_iteration(iteration, s.iterations)
            if s.stop == "discrepancy" and float(loss.detach()) <= sigma**2:
                break
        return average / total_weight


METHOD = Dip
