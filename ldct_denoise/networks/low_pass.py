"""Low-frequency passthrough: the output keeps the low frequencies of the input, so mean HU cannot drift."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.networks.blocks import blur, gaussian_kernel

#: The passthrough fades in over this many HU above ``min_hu``.
FADE_HU = 50.0
#: Radius of the filter, standard deviations.
TRUNCATE = 2.5


class LowFrequencyPassthrough(nn.Module):
    """Replace the low frequencies of a restored image by those of the input.

    Parameters
    ----------
    sigma_mm : float
        Standard deviation of the Gaussian low-pass filter, mm.
    spacing_mm : tuple of 2 floats
        Row and column spacing of the images, mm.
    min_hu : float or None
        Act only where the low-pass filtered input is above this. In air low-dose values are biased, since noise
        below the lowest stored value is clipped; there the network may correct the mean. None: act everywhere.
    scale : Scale
        HU range of the network's values.
    """

    def __init__(
        self, sigma_mm: float, spacing_mm: tuple[float, float], min_hu: float | None, scale: Scale
    ) -> None:
        super().__init__()
        self.along_columns: Tensor
        self.along_rows: Tensor
        for name, mm in zip(("along_columns", "along_rows"), spacing_mm, strict=True):
            kernel = gaussian_kernel(sigma_mm / mm, round(TRUNCATE * sigma_mm / mm))
            self.register_buffer(name, kernel, persistent=False)  # moves with an exported network
        self._min = None if min_hu is None else float(scale.to_unit(min_hu))
        self._fade = FADE_HU / scale.width_hu

    def forward(self, restored: Tensor, image: Tensor) -> Tensor:
        """Return the corrected image; all have shape (n, 1, height, width), network units."""
        # Blurring the small difference once: bf16 would lose 1 HU if both images were blurred.
        change = self._blur(restored - image)
        if self._min is None:
            return restored - change
        return restored - change * torch.clamp((self._blur(image) - self._min) / self._fade, 0, 1)

    def _blur(self, image: Tensor) -> Tensor:
        return blur(image, self.along_columns, self.along_rows)
