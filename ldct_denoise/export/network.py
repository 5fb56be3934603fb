"""The exported network: HU in, HU out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ldct_denoise import __version__
from ldct_denoise.methods.base import NOMINAL_SPACING_MM, center_slice
from ldct_denoise.models.trained import TrainedModel

#: Smallest number of rows and columns of a slice.
SMALLEST_SIDE = 32


class HuModel(nn.Module):
    """A method as one network from HU to HU, for other programs.

    Values outside the HU range and NaN or infinite values are returned unchanged, as by ``apply``.

    Parameters
    ----------
    model : TrainedModel
        The model; its method is copied.
    spacing_mm : tuple of 2 floats
        Row and column spacing of the slices, mm.
    """

    def __init__(self, model: TrainedModel, spacing_mm: tuple[float, float] = NOMINAL_SPACING_MM) -> None:
        super().__init__()
        self.spacing_mm = spacing_mm
        self.method = copy.deepcopy(model.method.for_spacing(spacing_mm)).cpu().eval().requires_grad_(False)
        self.scale = model.scale

    def forward(self, hu: Tensor) -> Tensor:
        """Denoise slices.

        Parameters
        ----------
        hu : Tensor, shape (n, channels, rows, columns)
            Slices of at least 32 rows and columns, HU. A 2.5-D model takes adjacent slices as channels, in
            the order of the series.

        Returns
        -------
        Tensor, shape (n, 1, rows, columns)
            The denoised (center) slices, HU.
        """
        low, high = self.scale.low_hu, self.scale.high_hu
        restored = self.scale.to_hu(self.method.restore(self.scale.to_input(hu)))
        change = restored - self.scale.clip(center_slice(hu))
        center = center_slice(hu)
        in_range = (center >= low) & (center <= high)
        return center + torch.where(in_range, change, torch.zeros_like(change))


def describe(model: TrainedModel, network: HuModel) -> dict[str, str]:
    """Return the description that an exported file contains."""
    context, channels = model.method.context_slices, model.method.in_channels
    order = (
        f"; {context} slices before, the slice, {context} after; missing slices repeat the last" if context else ""
    )
    return {
        "name": model.name,
        "method": model.method_name,
        "sha256": model.checksum,
        "ldct_denoise": __version__,
        "range_hu": f"{model.scale.low_hu:g} {model.scale.high_hu:g}",
        "input": f"hu: float32, (n, {channels}, rows, columns), HU, at least {SMALLEST_SIDE} rows and columns"
        + order,
        "context_slices": str(context),
        "pixel_spacing_mm": " ".join(f"{mm:g}" for mm in network.spacing_mm),
        "output": "restored_hu: float32, (n, 1, rows, columns), HU",
        "use": "research use only, not for diagnosis",
    }
