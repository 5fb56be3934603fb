"""BM3D for Poisson images: Anscombe's transform, BM3D at σ = 1, exact unbiased inverse.

Anscombe 1948; Mäkitalo, Foi, "Optimal inversion of the Anscombe transformation in low-count Poisson image
denoising", IEEE TIP 20(1), 2011: the inverse maps E{f(z)} back to E{z}, where the algebraic inverse is biased at
low counts. CT slices are not Poisson; there the model stands for a variance that grows with the value.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ldct_denoise.methods._classical import each_image
from ldct_denoise.methods.base import Method, Supervision
from ldct_denoise.methods.bm3d import Bm3dSettings, filtered

#: Means up to this are inverted by the tabulated expectation, larger ones by the asymptotic inverse.
_LARGEST_TABULATED = 100.0


class AnscombeBm3dSettings(Bm3dSettings):
    """BM3D's parameters, and the counts."""

    peak: float | None = Field(
        None, gt=0, description="counts at image value 1 (network units); none: fitted to each slice"
    )


class AnscombeBm3d(Method[AnscombeBm3dSettings]):
    """Variance-stabilised BM3D; ``sigma_hu`` is not used, ``strength`` multiplies the stabilised σ of 1."""

    Settings = AnscombeBm3dSettings
    supervision = Supervision.NONE
    title = "Anscombe transform and BM3D, for Poisson noise"
    reference = "Mäkitalo, Foi: Optimal inversion of the Anscombe transformation, IEEE TIP 2011"

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Slice by slice."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        if self.settings.strength == 0:  # the unbiased inverse does not undo the transform of a single image
            return image
        peak = self.settings.peak or estimated_peak(image)
        if peak is None:
            return image
        stable = filtered(anscombe(image * peak), self.settings.strength, self.settings)
        return unbiased_inverse(stable) / peak


def anscombe(counts: Tensor) -> Tensor:
    """``2 √(z + 3/8)``: variance near 1 for Poisson counts z; below −3/8 it is 0."""
    return 2 * (counts + 0.375).clamp(min=0).sqrt()


def unbiased_inverse(stable: Tensor) -> Tensor:
    """The mean count whose transformed counts have this expectation (eq. 6 of the paper).

    Tabulated up to 100 counts; above, the asymptotically unbiased inverse, which differs there by less than 10⁻³.
    """
    expectations, means = _table()
    values = stable.double().cpu().numpy()
    asymptotic = values**2 / 4 - 1 / 8
    exact = np.interp(values, expectations, np.sqrt(means)) ** 2  # the root is nearly linear
    counts = np.where(values > expectations[-1], asymptotic, exact)
    return torch.from_numpy(counts).to(stable)


@lru_cache
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """E{2 √(z + 3/8)} for Poisson z, and the means of z."""
    from scipy.stats import poisson

    means = np.concatenate([[0.0], np.geomspace(1e-4, _LARGEST_TABULATED, 600)])
    counts = np.arange(int(_LARGEST_TABULATED + 12 * _LARGEST_TABULATED**0.5))
    expectations = poisson.pmf(counts, means[:, None]) @ (2 * np.sqrt(counts + 0.375))
    return expectations, means


def estimated_peak(image: Tensor, block: int = 8) -> float | None:
    """Counts at image value 1: the median over blocks of mean to variance; none where nothing varies.

    The variance is that of 2×2 diagonal differences, which see little of the anatomy.
    """
    height, width = image.shape
    if min(height, width) <= block:
        return None
    difference = (image[:-1, :-1] - image[1:, :-1] - image[:-1, 1:] + image[1:, 1:]) / 2
    squares = torch.nn.functional.avg_pool2d(difference.square()[None, None], block)
    means = torch.nn.functional.avg_pool2d(image[None, None, :-1, :-1], block)
    usable = (means > 0.01 * image.max()) & (squares > 0)
    return float((means[usable] / squares[usable]).median()) if usable.any() else None


METHOD = AnscombeBm3d
