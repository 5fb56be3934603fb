"""Total variation, by scikit-image's Chambolle solver.

Rudin, Osher, Fatemi 1992; Chambolle, "An algorithm for total variation minimization and applications", JMIV 2004:
the image u that minimises ``‖u − f‖² / 2 + weight · TV(u)``, the weight being a multiple of σ.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma, on_array
from ldct_denoise.methods.base import Method, Supervision


class TvSettings(SigmaSettings):
    """Weight of the variation, and when to stop."""

    weight: float = Field(1.2, gt=0, le=20, description="weight of the total variation, in units of σ")
    iterations: int = Field(200, ge=1, le=5000, description="most iterations")
    tolerance: float = Field(2e-4, gt=0, description="stop where the cost changes relatively less than this")


class TotalVariation(Method[TvSettings]):
    """Piecewise smooth fit."""

    Settings = TvSettings
    supervision = Supervision.NONE
    title = "total variation"
    reference = "Chambolle: An algorithm for total variation minimization and applications, JMIV 2004"

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Slice by slice on the CPU."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        from skimage.restoration import denoise_tv_chambolle

        s, sigma = self.settings, noise_sigma(image, self.settings, self.scale)
        if sigma == 0:
            return image
        return on_array(
            image,
            lambda array: sigma * denoise_tv_chambolle(array / sigma, s.weight, s.tolerance, s.iterations),
        )


METHOD = TotalVariation
