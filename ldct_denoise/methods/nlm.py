"""Non-local means, as scikit-image has it.

Buades, Coll, Morel, "A non-local algorithm for image denoising", CVPR 2005, in the fast form of Darbon et al.
2008, with the noise variance taken off the patch distances.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma, on_array
from ldct_denoise.methods.base import Method, Supervision


class NlmSettings(SigmaSettings):
    """Patches, search and how fast weights fall."""

    patch: int = Field(5, ge=1, le=15, description="side of a patch, pixels")
    reach: int = Field(8, ge=1, le=30, description="how far patches are searched, pixels")
    cut_off: float = Field(0.8, gt=0, le=5, description="h: decay of the weights, in units of σ")


class NonLocalMeans(Method[NlmSettings]):
    """Average of the pixels whose surroundings look alike."""

    Settings = NlmSettings
    supervision = Supervision.NONE
    title = "non-local means"
    reference = "Buades, Coll, Morel: A non-local algorithm for image denoising, CVPR 2005"

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Slice by slice on the CPU."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        from skimage.restoration import denoise_nl_means

        s, sigma = self.settings, noise_sigma(image, self.settings, self.scale)
        if sigma == 0:
            return image
        return on_array(
            image,
            lambda array: denoise_nl_means(
                array, s.patch, s.reach, h=s.cut_off * sigma, sigma=sigma, fast_mode=True
            ),
        )


METHOD = NonLocalMeans
