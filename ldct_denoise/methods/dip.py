"""Deep image prior: fit a convolutional network to one image, and stop before it fits the noise.

Ulyanov, Vedaldi, Lempitsky, "Deep image prior", CVPR 2018. The fit stops when the mean squared residual has
come down to the noise variance (Morozov's discrepancy principle), or after all iterations; the result is the
running average of the last outputs, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma
from ldct_denoise.methods.base import Method, Supervision
from ldct_denoise.networks.blocks import conv, on_multiple
from ldct_denoise.networks.optimizers import OptimizerName, optimizer


class DipSettings(SigmaSettings):
    """The network and its fit; σ is used by the stopping rule only."""

    iterations: int = Field(1800, ge=1, le=100_000, description="most iterations")
    stop: Literal["discrepancy", "never"] = Field(
        "discrepancy",
        description="discrepancy: where the residual has come down to σ; never: after all iterations",
    )
    optimizer: OptimizerName = Field(
        "adam", description="adam, as published; muon gets further in fewer iterations"
    )
    learning_rate: float = Field(0.01, gt=0, le=1)
    average: float = Field(
        0.99, ge=0, lt=1, description="decay of the running average of outputs; 0: the last one"
    )
    input_channels: int = Field(32, ge=1, le=128, description="of the noise that the network is given")
    input_jitter: float = Field(1 / 30, ge=0, description="noise added to that input, anew in each iteration")
    width: int = Field(32, ge=4, le=256, description="channels at every resolution (128 in the paper)")
    scales: int = Field(4, ge=1, le=6, description="resolutions (5 in the paper)")
    skip: int = Field(4, ge=0, le=64, description="channels that skip over at each resolution")


class Hourglass(nn.Module):
    """Down by strided convolutions, up by bilinear interpolation, a few channels across at each resolution."""

    def __init__(self, s: DipSettings) -> None:
        super().__init__()
        inputs = [s.input_channels] + [s.width] * (s.scales - 1)
        self.down = nn.ModuleList(
            nn.Sequential(
                conv(count, s.width, 3, stride=2, norm="batch", activation=nn.LeakyReLU),
                conv(s.width, s.width, 3, norm="batch", activation=nn.LeakyReLU),
            )
            for count in inputs
        )
        self.across = nn.ModuleList(
            conv(count, s.skip, 1, norm="batch", activation=nn.LeakyReLU) if s.skip else nn.Identity()
            for count in inputs
        )
        self.up = nn.ModuleList(
            conv(s.width + s.skip, s.width, 3, norm="batch", activation=nn.LeakyReLU) for _ in inputs
        )
        self.last = nn.Conv2d(s.width, 1, 1)
        self.skip = s.skip

    def forward(self, code: Tensor) -> Tensor:
        """An image of the same sides, which must be multiples of ``2 ** scales``."""
        skips = []
        for down, across in zip(self.down, self.across, strict=True):
            skips.append(across(code))
            code = down(code)
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            code = F.interpolate(code, scale_factor=2.0, mode="bilinear")
            code = up(torch.cat([code, skip], dim=1) if self.skip else code)
        image: Tensor = self.last(code)
        return image


class Dip(Method[DipSettings]):
    """One small network for each slice, trained on that slice.

    Attributes
    ----------
    on_iteration : callable
        Told (iteration, iterations) while a slice is fitted; does nothing unless replaced.
    """

    Settings = DipSettings
    supervision = Supervision.NONE
    title = "deep image prior, fitted to each slice"
    reference = "Ulyanov, Vedaldi, Lempitsky: Deep image prior, CVPR 2018"
    is_random = True

    def __init__(self, settings: DipSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.on_iteration: Callable[[int, int], None] = lambda iteration, iterations: None

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Slice by slice; half an hour each at most on one CPU core (512×512)."""
        return each_image(image, lambda one: self._restore(one, seed))

    def _restore(self, image: Tensor, seed: int) -> Tensor:
        sigma, spread = noise_sigma(image, self.settings, self.scale), float(image.std(correction=0))
        if spread == 0:
            return image
        with torch.inference_mode(False), torch.enable_grad():  # a fit inside a restoration
            middle = float(image.mean())
            target = (image.clone()[None, None] - middle) / spread
            multiple = 2**self.settings.scales
            # Batch normalisation needs more than one pixel at the coarsest resolution.
            fitted = on_multiple(
                lambda padded: self._fit(padded, sigma / spread, seed), target, multiple, 2 * multiple
            )
        return fitted[0, 0] * spread + middle

    def _fit(self, target: Tensor, sigma: float, seed: int) -> Tensor:
        """The averaged output of a network fitted to ``target`` (1, 1, height, width) of unit spread."""
        s = self.settings
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # initialisation reads the global generator
            torch.manual_seed(seed)
            network = Hourglass(s).to(target.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        code = 0.1 * torch.rand(1, s.input_channels, *target.shape[-2:], generator=generator)
        learner = optimizer(s.optimizer, [network], s.learning_rate, (0.9, 0.999))
        average = torch.zeros_like(target)
        seen = 0.0
        for iteration in range(1, s.iterations + 1):
            jitter = s.input_jitter * torch.randn(code.shape, generator=generator)
            output = network((code + jitter).to(target.device, memory_format=torch.channels_last)).float()
            loss = F.mse_loss(output, target)
            learner.zero_grad(set_to_none=True)
            loss.backward()
            learner.step()
            average = s.average * average + (1 - s.average) * output.detach()
            seen = s.average * seen + 1 - s.average  # what the average's weights add up to
            self.on_iteration(iteration, s.iterations)
            if s.stop == "discrepancy" and float(loss.detach()) <= sigma**2:
                break
        return average / seen


METHOD = Dip
