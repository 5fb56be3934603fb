"""Block matching and 3-D filtering (BM3D).

Similar blocks are stacked and filtered jointly in a 3-D transform domain, first by hard thresholding, then by a
Wiener filter that uses the first estimate. Written from the paper, with its "normal profile". Block distances are
limited in units of σ² (the paper's 2500 and 400 at σ = 25), so that the result does not depend on the units of the
image.

Supervision: none

Reference: Dabov, Foi, Katkovnik, Egiazarian: Image denoising by sparse 3-D transform-domain collaborative
filtering, IEEE TIP 2007
"""

from __future__ import annotations

from torch import Tensor

from ldct_denoise.methods._bm3d import Bm3dSettings, bm3d_filter
from ldct_denoise.methods._classical import each_image, noise_sigma
from ldct_denoise.methods.base import Method


class Bm3d(Method[Bm3dSettings]):
    """BM3D of each slice."""

    Settings = Bm3dSettings

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Filter slice by slice, on the image's device."""
        s = self.settings
        return each_image(image, lambda one: bm3d_filter(one, noise_sigma(one, s, self.scale), s))


METHOD = Bm3d
