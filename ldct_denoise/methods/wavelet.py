"""Wavelet shrinkage (BayesShrink).

Soft thresholding of wavelet coefficients with a threshold σ² / σ_signal for each subband, averaged over shifts of
the image (cycle spinning; Coifman, Donoho: Translation-invariant de-noising, 1995). From scikit-image.

Supervision: none

Reference: Chang, Yu, Vetterli: Adaptive wavelet thresholding for image denoising and compression, IEEE TIP 2000
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from ldct_denoise.methods._classical import SigmaSettings, each_image, noise_sigma, on_array
from ldct_denoise.methods.base import Method
from ldct_denoise.networks.blocks import run_padded

#: Images are padded to multiples of this, so that the longest filters fit.
_SIZE_MULTIPLE = 32


class WaveletSettings(SigmaSettings):
    """Basis, depth and shifts; named as in scikit-image."""

    wavelet: str = Field("sym8", description="name of a discrete wavelet of PyWavelets")
    wavelet_levels: int = Field(4, ge=1, le=8, description="levels of the decomposition; fewer for a small image")
    max_shifts: int = Field(1, ge=0, le=7, description="cycle spinning over shifts of 0…this along each axis")

    @field_validator("wavelet")
    @classmethod
    def _is_known(cls, name: str) -> str:
        import pywt

        if name not in pywt.wavelist(kind="discrete"):
            raise ValueError(f"PyWavelets has no {name!r}; give one as haar, db4, sym8, coif2 or bior4.4")
        return name


class Wavelet(Method[WaveletSettings]):
    """Adaptive soft thresholding of wavelet coefficients."""

    Settings = WaveletSettings

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Filter slice by slice on the CPU."""
        return each_image(image, self._restore)

    def _restore(self, image: Tensor) -> Tensor:
        sigma = noise_sigma(image, self.settings, self.scale)
        if sigma == 0:
            return image

        def shrink(padded: Tensor) -> Tensor:
            return on_array(padded[0, 0], lambda array: self._shrink(array, sigma))[None, None]

        return run_padded(shrink, image[None, None], _SIZE_MULTIPLE)[0, 0]

    def _shrink(self, image: NDArray[np.float32], sigma: float) -> NDArray[np.floating]:
        import pywt
        from skimage.restoration import denoise_wavelet

        s = self.settings
        levels = min(s.wavelet_levels, max(1, pywt.dwtn_max_level(image.shape, s.wavelet)))
        total = np.zeros(image.shape)
        for shift in product(range(s.max_shifts + 1), repeat=2):
            shifted = np.roll(image, shift, axis=(0, 1))
            shrunk = denoise_wavelet(
                shifted, sigma=sigma, wavelet=s.wavelet, wavelet_levels=levels, rescale_sigma=False
            )
            total += np.roll(shrunk, (-shift[0], -shift[1]), axis=(0, 1))
        return total / (s.max_shifts + 1) ** 2


METHOD = Wavelet
