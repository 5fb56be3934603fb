"""Non-local means.

An average of pixels weighted by ``exp(−max(d² − 2σ², 0) / h²)``, with the mean squared difference d² of the
patches around them. From scikit-image, in the fast form of Darbon et al. 2008.

Supervision: none

Reference: Buades, Coll, Morel: A non-local algorithm for image denoising, CVPR 2005
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma, on_array
from ldct_denoise.methods.base import Method


class NlmSettings(SigmaSettings):
    """Patches and weights; named as in scikit-image."""

    patch_size: int = Field(5, ge=1, le=15, description="side of a patch, pixels")
    patch_distance: int = Field(8, ge=1, le=30, description="largest distance of a compared patch, pixels")
    h: float = Field(
        0.8, gt=0, le=5, description="decay of the weights with patch distance, in units of the noise σ"
    )


class NonLocalMeans(Method[NlmSettings]):
    """Average of pixels with similar neighbourhoods."""

    Settings = NlmSettings

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Filter slice by slice on the CPU."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        from skimage.restoration import denoise_nl_means

        s, sigma = self.settings, noise_sigma(image, self.settings, self.scale)
        if sigma == 0:
            return image
        return on_array(
            image,
            lambda array: denoise_nl_means(
                array, s.patch_size, s.patch_distance, h=s.h * sigma, sigma=sigma, fast_mode=True
            ),
        )


METHOD = NonLocalMeans
