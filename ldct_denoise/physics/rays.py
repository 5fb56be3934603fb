"""Geometry of parallel rays through a slice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ParallelGeometry:
    """Rays through one slice: views evenly over half a turn, channels evenly across the slice's diagonal.

    Parameters
    ----------
    rows, columns : int
        Matrix of the slice.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    views : int
        Number of views.
    channel_mm : float
        Distance of neighbouring channels at the isocenter, mm.
    """

    rows: int
    columns: int
    spacing_mm: tuple[float, float]
    views: int
    channel_mm: float

    @property
    def angles(self) -> NDArray[np.floating[Any]]:
        """Angle θ of each view, rad."""
        return np.arange(self.views, dtype=np.float64) * (math.pi / self.views)

    @property
    def channels_mm(self) -> NDArray[np.floating[Any]]:
        """Position s of each channel, mm."""
        diagonal = math.hypot(self.rows * self.spacing_mm[0], self.columns * self.spacing_mm[1])
        half = math.ceil(diagonal / 2 / self.channel_mm) + 1
        return np.arange(-half, half + 1) * self.channel_mm

    def binned(self, image: int, views: int) -> ParallelGeometry:
        """The slice binned by ``image``² pixels, with channels as wide and 1/``views`` of the views."""
        spacing = (self.spacing_mm[0] * image, self.spacing_mm[1] * image)
        return ParallelGeometry(
            self.rows // image, self.columns // image, spacing, max(1, self.views // views), min(spacing)
        )
