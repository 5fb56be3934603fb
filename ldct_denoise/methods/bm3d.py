"""BM3D: collaborative filtering of blocks that look alike, hard threshold then Wiener.

Dabov, Foi, Katkovnik, Egiazarian, "Image denoising by sparse 3-D transform-domain collaborative filtering", IEEE
TIP 16(8), 2007, written from the paper; the profile is its "normal" one. Block distances are limited in units of
σ² (the paper's 2500 and 400 at σ = 25), so that the result does not depend on the units of the image.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma
from ldct_denoise.methods.base import Method, Supervision
from ldct_denoise.networks.bm3d import Stage, bm3d


class Bm3dSettings(SigmaSettings):
    """The parameters of Table I of the paper."""

    steps: int = Field(2, ge=1, le=2, description="1: the basic estimate only; 2: Wiener filtering too")
    block: Literal[4, 8, 16] = Field(8, description="side of a block, pixels: 4, 8 or 16")
    stride: int = Field(3, ge=1, le=8, description="pixels between reference blocks, a block's side at most")
    search: int = Field(39, ge=3, le=99, description="side of the search window, pixels, odd")
    threshold: float = Field(2.7, gt=0, le=10, description="λ₃D: hard threshold in units of σ")
    match_hard: float = Field(4.0, gt=0, description="largest mean squared block distance, in σ², first step")
    match_wiener: float = Field(0.64, gt=0, description="the same, second step")

    @field_validator("stride")
    @classmethod
    def _leaves_no_gaps(cls, stride: int, info: ValidationInfo) -> int:
        block = info.data.get("block", stride)
        if stride > block:
            raise ValueError(f"leaves gaps between blocks of {block} pixels; give {block} at most")
        return stride


class Bm3d(Method[Bm3dSettings]):
    """Block matching and 3-D filtering of each slice."""

    Settings = Bm3dSettings
    supervision = Supervision.NONE
    title = "block matching and 3-D filtering"
    reference = (
        "Dabov et al.: Image denoising by sparse 3-D transform-domain collaborative filtering, IEEE TIP 2007"
    )

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Both steps, slice by slice, on the image's device."""
        return each_image(
            image, lambda one: filtered(one, noise_sigma(one, self.settings, self.scale), self.settings)
        )


def filtered(image: Tensor, sigma: float, settings: Bm3dSettings) -> Tensor:
    """One image (height, width) with white noise of standard deviation ``sigma``, filtered."""
    s = settings
    hard = Stage(s.block, s.stride, s.search | 1, 16, s.match_hard, "bior1.5")
    wiener = Stage(s.block, s.stride, s.search | 1, 32, s.match_wiener, "dct")
    return bm3d(image, sigma, hard, wiener if s.steps == 2 else None, s.threshold)


METHOD = Bm3d
