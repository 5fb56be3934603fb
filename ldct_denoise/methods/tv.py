"""Total variation.

The image u that minimises ``‖u − f‖² / 2 + weight · σ · TV(u)`` (Rudin, Osher, Fatemi 1992), by the solver of
Chambolle from scikit-image.

Supervision: none

Reference: Chambolle: An algorithm for total variation minimization and applications, JMIV 2004
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma, on_array
from ldct_denoise.methods.base import Method


class TvSettings(SigmaSettings):
    """Weight and stopping rule; named as in scikit-image."""

    weight: float = Field(1.2, gt=0, le=20, description="weight of the total variation, in units of the noise σ")
    eps: float = Field(2e-4, gt=0, description="stop when the relative change of the cost is below this")
    max_num_iter: int = Field(200, ge=1, le=5000, description="largest number of iterations")


class TotalVariation(Method[TvSettings]):
    """Total-variation regularised least squares."""

    Settings = TvSettings

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Filter slice by slice on the CPU."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        from skimage.restoration import denoise_tv_chambolle

        s, sigma = self.settings, noise_sigma(image, self.settings, self.scale)
        if sigma == 0:
            return image
        return on_array(
            image, lambda array: sigma * denoise_tv_chambolle(array / sigma, s.weight, s.eps, s.max_num_iter)
        )


METHOD = TotalVariation
