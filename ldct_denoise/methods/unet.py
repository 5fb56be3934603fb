"""The network that LIR keeps for use in its multiscale form, trained on pairs.

It answers what pairs would be worth: in `docs/comparison.md` it stands beside LIR on the same slices and budget.
The way down and up with skip connections is Ronneberger et al. 2015; it learns the correction to the input.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Supervision
from ldct_denoise.networks.translation import MultiscaleEncoder, MultiscaleGenerator


class UNetSettings(RegressionSettings):
    """The sizes of ``configs/lir-ct.yaml``."""

    width: int = Field(32, ge=4, description="channels at full resolution")
    scales: int = Field(3, ge=1, le=5, description="resolutions")
    blocks: int = Field(2, ge=1, description="3×3 convolutions at each resolution, down and up")


class UNet(nn.Module):
    """Encoder and generator in one; the image comes in and goes out in units of the gain."""

    def __init__(self, settings: UNetSettings) -> None:
        super().__init__()
        widths = tuple(settings.width * 2**depth for depth in range(settings.scales))
        self.encoder = MultiscaleEncoder(widths, settings.blocks, "none", 1.0, 0.0)
        self.generator = MultiscaleGenerator(widths, (0,) * settings.scales, settings.blocks, "none", 1.0)

    def forward(self, image: Tensor) -> Tensor:
        """Same shape; sides are multiples of 2^(scales − 1)."""
        restored: Tensor = self.generator(self.encoder(image), image)
        return restored


class UNetMethod(Regression[UNetSettings]):
    """LIR's restoration network, supervised."""

    Settings = UNetSettings
    supervision = Supervision.SUPERVISED
    title = "LIR's restoration network (residual U-Net), supervised"
    reference = "Ronneberger, Fischer, Brox: U-Net, MICCAI 2015; here as in LIR's multiscale form"

    def __init__(self, settings: UNetSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.multiple = 2 ** (settings.scales - 1)

    def _network(self) -> nn.Module:
        return UNet(self.settings)


METHOD = UNetMethod
