"""Low-frequency passthrough: the output keeps the low frequencies of the input, so mean HU cannot drift."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.networks.blocks import blur, gaussian_kernel

#: The passthrough fades in over this many HU above ``min_hu``.
FADE_HU = 50.0


class LowFrequencyPassthrough(nn.Module):
    """Replace the low frequencies of a restored image by those of the input.

    Parameters
    ----------
    sigma_px : float
        Standard deviation of the Gaussian low-pass filter, pixels.
    min_hu : float or None
        Act only where the low-pass filtered input is above this. In air low-dose values are biased, since noise
        below the lowest stored value is clipped; there the network may correct the mean. None: act everywhere.
    scale : Scale
        HU range of the network's values.
    """

    def __init__(self, sigma_px: float, min_hu: float | None, scale: Scale) -> None:
        super().__init__()
        self.kernel: Tensor
        kernel = gaussian_kernel(sigma_px, round(2.5 * sigma_px))
        self.register_buffer("kernel", kernel, persistent=False)  # moves with an exported network
        self._min = None if min_hu is None else float(scale.to_unit(min_hu))
        self._fade = FADE_HU / scale.width_hu

    def forward(self, restored: Tensor, image: Tensor) -> Tensor:
        """Return the corrected image; all have shape (n, 1, height, width), network units."""
        # Blurring the small difference once: bf16 would lose 1 HU if both images were blurred.
        change = blur(restored - image, self.kernel)
        if self._min is None:
            return restored - change
        smooth = blur(image, self.kernel)
        return restored - change * torch.clamp((smooth - self._min) / self._fade, 0, 1)
