"""BM3D with the Anscombe transform.

The transform ``2 √(z + 3/8)`` gives Poisson counts z a variance near 1; BM3D removes noise of σ = 1; the exact
unbiased inverse maps E{f(z)} back to E{z}, where the algebraic inverse is biased at low counts (Anscombe 1948). CT
slices are not Poisson-distributed; for them the model is a variance that grows with the value.

Supervision: none

Reference: Mäkitalo, Foi: Optimal inversion of the Anscombe transformation in low-count Poisson image denoising,
IEEE TIP 2011
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ldct_denoise.methods._bm3d import Bm3dSettings, bm3d_filter
from ldct_denoise.methods._classical import each_image
from ldct_denoise.methods.base import Method

#: Largest mean count that is inverted by the tabulated expectation; above, the asymptotic inverse is used.
_LARGEST_TABULATED = 100.0


class AnscombeBm3dSettings(Bm3dSettings):
    """The settings of BM3D, and the counts. ``sigma_hu`` is not used; ``sigma_factor`` multiplies σ = 1."""

    peak: float | None = Field(
        None, gt=0, description="counts at image value 1 (network units); none: fitted to each slice"
    )


class AnscombeBm3d(Method[AnscombeBm3dSettings]):
    """Variance-stabilised BM3D."""

    Settings = AnscombeBm3dSettings

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Filter slice by slice, on the image's device."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        if self.settings.sigma_factor == 0:  # the unbiased inverse is not the inverse of the transform
            return image
        peak = self.settings.peak or estimated_peak(image)
        if peak is None:
            return image
        stable = bm3d_filter(anscombe(image * peak), self.settings.sigma_factor, self.settings)
        return unbiased_inverse(stable) / peak


def anscombe(counts: Tensor) -> Tensor:
    """Return ``2 √(z + 3/8)``, whose variance is near 1 for Poisson counts z; 0 below −3/8."""
    return 2 * (counts + 0.375).clamp(min=0).sqrt()


def unbiased_inverse(stable: Tensor) -> Tensor:
    """Return the mean count whose transformed counts have this expectation (eq. 6 of the paper).

    Tabulated up to 100 counts; above, the asymptotically unbiased inverse, which differs by less than 10⁻³ counts.
    """
    expectations, means = _table()
    values = stable.double().cpu().numpy()
    asymptotic = values**2 / 4 - 1 / 8
    exact = np.interp(values, expectations, np.sqrt(means)) ** 2  # the square root is nearly linear
    counts = np.where(values > expectations[-1], asymptotic, exact)
    return torch.from_numpy(counts).to(stable)


@lru_cache
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tabulate E{2 √(z + 3/8)} for Poisson z against the mean of z; return both."""
    from scipy.stats import poisson

    means = np.concatenate([[0.0], np.geomspace(1e-4, _LARGEST_TABULATED, 600)])
    counts = np.arange(int(_LARGEST_TABULATED + 12 * _LARGEST_TABULATED**0.5))
    expectations = poisson.pmf(counts, means[:, None]) @ (2 * np.sqrt(counts + 0.375))
    return expectations, means


def estimated_peak(image: Tensor, block: int = 8) -> float | None:
    """Estimate the counts at image value 1: the median over blocks of the ratio of mean to variance.

    The variance is that of 2×2 diagonal differences, which contain little anatomy.

    Parameters
    ----------
    image : Tensor, shape (height, width)
        One image, network units.
    block : int
        Side of a block, pixels.

    Returns
    -------
    float or None
        None for an image that is too small or constant.
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
