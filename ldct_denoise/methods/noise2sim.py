"""Learning from similar pixels of adjacent slices (Noise2Sim).

A network is regressed from one low-dose slice on its neighbours, at the pixels where both show the same
anatomy. The noise of contiguous slices is nearly independent, and that of similar pixels has zero mean, so the
optimum is the mean of similar pixels: as in Noise2Noise, correlated noise within a slice is removed too. Two
pixels count as similar where the means of their surroundings differ by less than a threshold; a copy of the
slice itself, at the end of a series, does not count. Chosen here: the network is a U-Net of three levels; the
means are over 7×7 pixels, with a threshold of 40 HU; both neighbours are targets, at most 5 mm away. Series
need contiguous slices; overlapping ones share noise, which the network then keeps. The paper's search for
similar pixels within a slice, which suits noise that is independent between pixels, is left out.

Supervision: self

Reference: Niu, Li, Fan, Wu, Guo, Lyu, Wang: Noise suppression with similarity-based self-supervised deep
learning, IEEE TMI 2023
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.methods._regression import Regression, RegressionSettings
from ldct_denoise.methods.base import Batch, Losses, center_slice
from ldct_denoise.networks.blocks import reflect_pad
from ldct_denoise.networks.residual import UNet


class Noise2SimSettings(RegressionSettings):
    """A U-Net that predicts the correction, and the similarity of pixels."""

    base_channels: int = Field(
        32, ge=4, le=256, description="channels at full resolution; doubled at each next level"
    )
    num_levels: int = Field(3, ge=1, le=6, description="number of resolutions")
    blocks_per_level: int = Field(2, ge=1, le=4, description="3×3 convolutions at each resolution, down and up")
    residual: bool = Field(True, description="predict the correction to the image, or the image")
    similarity_window: int = Field(
        7, ge=1, le=31, description="side of the squares whose means are compared, pixels"
    )
    similarity_threshold_hu: float = Field(40.0, gt=0, description="largest difference of these means, HU")


class Noise2Sim(Regression[Noise2SimSettings]):
    """U-Net from one slice to the next."""

    Settings = Noise2SimSettings

    def __init__(self, settings: Noise2SimSettings, scale: Scale) -> None:
        super().__init__(settings, scale)
        self.size_multiple = 2 ** (settings.num_levels - 1)

    @property
    def training_context_slices(self) -> int:
        """One neighbour on each side."""
        return 1

    def _network(self) -> nn.Module:
        s = self.settings
        return UNet(s.base_channels, s.num_levels, s.blocks_per_level, s.residual)

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Run the network on single slices, or on the center slices of training stacks."""
        return super().restore(center_slice(image), seed)

    def losses(self, batch: Batch) -> Losses:
        """Distance of the estimate to both neighbours, at similar pixels."""
        estimate = self._estimate(center_slice(batch.low))
        neighbours = batch.low[:, [0, -1]]
        similar = self.similar_pixels(center_slice(batch.low), neighbours).to(estimate.dtype)
        error = (estimate - neighbours) * self.settings.input_scale
        error = error.square() if self.settings.loss == "l2" else error.abs()
        return {self.settings.loss: (error * similar).sum() / similar.sum().clamp(min=1)}

    def similar_pixels(self, image: Tensor, neighbours: Tensor) -> Tensor:
        """Find the pixels where slices show the same anatomy.

        Parameters
        ----------
        image : Tensor, shape (n, 1, height, width)
            Slices, network units.
        neighbours : Tensor, shape (n, k, height, width)
            Neighbours of each; where one is a copy of the slice, none of its pixels is similar.

        Returns
        -------
        Tensor of bool, shape (n, k, height, width)
        """
        s, difference = self.settings, neighbours - image
        low, high = (s.similarity_window - 1) // 2, s.similarity_window // 2
        mean = F.avg_pool2d(reflect_pad(difference, low, high, low, high), s.similarity_window, 1)
        differs = (difference != 0).flatten(2).any(dim=2)[..., None, None]
        return (mean.abs() < s.similarity_threshold_hu / self.scale.width_hu) & differs


METHOD = Noise2Sim
