"""Published networks at their published sizes, untrained, since speed does not depend on the weights.

RED-CNN: Chen et al., IEEE TMI 2017. LIR's E_X + G_Y: Du et al., CVPR 2020. CNN-10: Chen et al., Biomed. Opt.
Express 2017; its three layers of 9×9, 3×3 and 5×5 have 24.5 thousand parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ldct_denoise import methods
from ldct_denoise.intensity import Scale
from ldct_denoise.networks.blocks import conv
from ldct_denoise.networks.residual import RedCnn


class LirRestoration(nn.Module):
    """E_X and G_Y of the published invariant-representation GAN."""

    def __init__(self) -> None:
        super().__init__()
        method: Any = methods.build("lir", {}, Scale())
        self.encoder, self.generator = method.e_x, method.g_y

    def forward(self, image: Tensor) -> Tensor:
        """Return the restored image; its sides must be multiples of 4."""
        restored: Tensor = self.generator(self.encoder(image), image)
        return restored


def cnn10() -> nn.Module:
    """Build CNN-10."""
    return nn.Sequential(conv(1, 64, 9), conv(64, 32, 3), conv(32, 1, 5, activation=None))


#: Name of each network in the results, and the function that builds it.
PEERS: dict[str, Callable[[], nn.Module]] = {
    "RED-CNN, 96 channels": partial(RedCnn, 96, final_relu=True),
    "LIR's E_X + G_Y, 64 channels": LirRestoration,
    "CNN-10": cnn10,
}


def parameter_count(network: nn.Module) -> int:
    """Return the number of weights."""
    return sum(parameter.numel() for parameter in network.parameters())
