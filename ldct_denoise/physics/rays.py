"""Geometry of parallel rays."""

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
        Pixels of the slice.
    spacing_mm : tuple of 2 floats
        Row and column spacing.
    views : int
    channel_mm : float
        Distance of neighbouring channels at the centre of rotation.
    """

    rows: int
    columns: int
    spacing_mm: tuple[float, float]
    views: int
    channel_mm: float

    @property
    def angles(self) -> NDArray[np.floating[Any]]:
        """θ of each view, radians."""
        return np.arange(self.views, dtype=np.float64) * (math.pi / self.views)

    @property
    def channels_mm(self) -> NDArray[np.floating[Any]]:
        """Position s of each channel, mm."""
        diagonal = math.hypot(self.rows * self.spacing_mm[0], self.columns * self.spacing_mm[1])
        half = math.ceil(diagonal / 2 / self.channel_mm) + 1
        return np.arange(-half, half + 1) * self.channel_mm

    def coarser(self, image: int, views: int) -> ParallelGeometry:
        """Of the slice averaged over ``image``² pixels; channels as wide as those, 1/``views`` of the views."""
        spacing = (self.spacing_mm[0] * image, self.spacing_mm[1] * image)
        return ParallelGeometry(
            self.rows // image, self.columns // image, spacing, max(1, self.views // views), min(spacing)
        )
