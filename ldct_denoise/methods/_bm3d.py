"""Shared by BM3D and BM3D with the Anscombe transform: the settings, and the filter of one image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings
from ldct_denoise.networks.bm3d import Stage, bm3d


class Bm3dSettings(SigmaSettings):
    """The parameters of Table I of Dabov et al. 2007; the defaults are its "normal profile"."""

    stages: int = Field(2, ge=1, le=2, description="1: hard thresholding only; 2: Wiener filtering too")
    block_size: Literal[4, 8, 16] = Field(8, description="N₁: side of a block, pixels: 4, 8 or 16")
    stride: int = Field(3, ge=1, le=8, description="N_step: pixels between reference blocks, block_size at most")
    search_window: int = Field(39, ge=3, le=99, description="N_S: side of the search window, pixels, odd")
    lambda_3d: float = Field(2.7, gt=0, le=10, description="λ₃D: hard threshold in units of σ")
    tau_match_hard: float = Field(
        4.0, gt=0, description="τ_match of stage 1: largest mean squared difference of blocks, in units of σ²"
    )
    tau_match_wiener: float = Field(0.64, gt=0, description="τ_match of stage 2")

    @field_validator("stride")
    @classmethod
    def _leaves_no_gaps(cls, stride: int, info: ValidationInfo) -> int:
        block_size = info.data.get("block_size", stride)
        if stride > block_size:
            raise ValueError(f"leaves gaps between blocks of {block_size} pixels; give {block_size} at most")
        return stride


def bm3d_filter(image: Tensor, sigma: float, settings: Bm3dSettings) -> Tensor:
    """Denoise one image with BM3D.

    Parameters
    ----------
    image : Tensor, shape (height, width)
        Image in any units.
    sigma : float
        Standard deviation of its white noise, same units.
    settings : Bm3dSettings
        Parameters of both stages.

    Returns
    -------
    Tensor, shape (height, width)
        Denoised image.
    """
    s, search_window = settings, settings.search_window | 1
    hard = Stage(s.block_size, s.stride, search_window, 16, s.tau_match_hard, "bior1.5")
    wiener = Stage(s.block_size, s.stride, search_window, 32, s.tau_match_wiener, "dct")
    return bm3d(image, sigma, hard, wiener if s.stages == 2 else None, s.lambda_3d)
