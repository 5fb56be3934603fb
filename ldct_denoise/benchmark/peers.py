"""The peers' published networks at their published sizes, untrained: speed does not depend on the weights.

RED-CNN: Chen et al., IEEE TMI 2017. The paper's E_X + G_Y: Du et al., CVPR 2020. CNN-10: Chen et al., Biomed. Opt.
Express 2017, whose three layers of 9×9, 3×3 and 5×5 have 24.5 thousand parameters.
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

PAPER_WIDTH = 64


class PaperRestoration(nn.Module):
    """E_X and G_Y of the published invariant-representation GAN."""

    def __init__(self, width: int = PAPER_WIDTH) -> None:
        super().__init__()
        whole: Any = methods.build("lir", {"form": "paper", "width": width}, Scale())
        self.encoder, self.generator = whole.e_x, whole.g_y

    def forward(self, image: Tensor) -> Tensor:
        """Same shape; sides are multiples of 4."""
        restored: Tensor = self.generator(self.encoder(image), image)
        return restored


def cnn10() -> nn.Module:
    """Three convolutions."""
    return nn.Sequential(conv(1, 64, 9), conv(64, 32, 3), conv(32, 1, 5, activation=None))


#: What the tables call them, and how they are built.
PEERS: dict[str, Callable[[], nn.Module]] = {
    "RED-CNN, 96 channels": partial(RedCnn, 96, final_relu=True),
    "paper's E_X + G_Y, width 64": PaperRestoration,
    "CNN-10": cnn10,
}


def parameter_count(network: nn.Module) -> int:
    """All weights."""
    return sum(parameter.numel() for parameter in network.parameters())
