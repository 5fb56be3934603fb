"""The exported network: HU in, HU out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldct_denoise import __version__
from ldct_denoise.methods.base import center_slice
from ldct_denoise.models.trained import TrainedModel

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
#: Slices have at least so many rows and columns.
SMALLEST_SIDE = 32


class HuModel(nn.Module):
    """A method with its HU range: what a site's own program calls.

    Values outside the range, and those that are no numbers, come out as they went in, as with ``apply``.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.method = copy.deepcopy(model.method).cpu().eval().requires_grad_(False)
        self.scale = model.scale

    def forward(self, hu: Tensor) -> Tensor:
        """HU, shape (n, channels, rows, columns), at least 32 rows and columns; gives (n, 1, rows, columns).

        One channel is the slice; a 2.5-D model sees as many slices before it as after it, in order.
        """
        low, high = self.scale.low_hu, self.scale.high_hu
        # One that is no number would spread over all that the network sees.
        seen = torch.where(torch.isfinite(hu), hu, low).clamp(low, high)
        change = self.scale.to_hu(self.method.restore(self.scale.to_unit(seen))) - center_slice(seen)
        own = center_slice(hu)
        return own + torch.where((own >= low) & (own <= high), change, torch.zeros_like(change))


def described(model: TrainedModel) -> dict[str, str]:
    """What an export says of itself."""
    beside, channels = model.method.context_slices, model.method.channels
    order = f"; {beside} slices before, the slice, {beside} after; at an end the last again" if beside else ""
    return {
        "name": model.name,
        "method": model.method_name,
        "sha256": model.checksum,
        "ldct_denoise": __version__,
        "range_hu": f"{model.scale.low_hu:g} {model.scale.high_hu:g}",
        "input": f"hu: float32, (n, {channels}, rows, columns), HU, at least {SMALLEST_SIDE} rows and columns"
        + order,
        "output": "restored_hu: float32, (n, 1, rows, columns), HU",
        "use": "research use only, not for diagnosis",
    }
