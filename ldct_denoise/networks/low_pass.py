"""What keeps mean HU from drifting in use: what is smooth in the image stays as it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldct_denoise.intensity import Scale
from ldct_denoise.networks.blocks import blur, gaussian_kernel

#: Over so many HU above ``above_hu`` the hold fades in.
FADE_HU = 50.0


class Hold(nn.Module):
    """Give back what a network changed in what is smoother than a Gaussian.

    Parameters
    ----------
    sigma_px : float
        Of the Gaussian.
    above_hu : float or None
        Hold only where the image so smoothed is above this. In air low dose is not right itself, since noise below
        the scanner's floor is cut off: there the network may correct the mean. None: hold everywhere.
    scale : Scale
        Of the network's values.
    """

    def __init__(self, sigma_px: float, above_hu: float | None, scale: Scale) -> None:
        super().__init__()
        self.kernel: Tensor
        kernel = gaussian_kernel(sigma_px, round(2.5 * sigma_px))
        self.register_buffer("kernel", kernel, persistent=False)  # so that an exported network takes it to a GPU
        self._begin = None if above_hu is None else float(scale.to_unit(above_hu))
        self._fade = FADE_HU / scale.width_hu

    def forward(self, restored: Tensor, image: Tensor) -> Tensor:
        """The restored image, held; both of shape (n, 1, rows, columns), network values."""
        # One blur of a small difference: in two of whole images bf16 loses 1 HU.
        change = blur(restored - image, self.kernel)
        if self._begin is None:
            return restored - change
        smooth = blur(image, self.kernel)
        return restored - change * torch.clamp((smooth - self._begin) / self._fade, 0, 1)
