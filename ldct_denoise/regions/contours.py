"""Regions drawn as contours (RT Structure Sets) on the slices of a series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.volume import Geometry

#: Largest extent of a contour along the slice normal, mm; more means that it was drawn on other slices.
FLAT_MM = 0.5


class ContourRegion:
    """A region of closed planar contours, as in an RT Structure Set.

    A slice uses the contours of the nearest plane, if that is at most half the plane spacing away (half the slice
    spacing if there is only one plane). Contours of a plane are combined by the even-odd rule: a contour inside
    another one is a hole, as planning systems write it.

    Parameters
    ----------
    name : str
    contours : sequence of ndarray, each of shape (points, 3)
        LPS, mm.
    """

    def __init__(self, name: str, contours: Sequence[NDArray[np.floating]]) -> None:
        self.name = name
        self._contours = tuple(np.asarray(contour, dtype=np.float64) for contour in contours)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same name and contours, e.g. of a file that was read twice."""
        return (
            isinstance(other, ContourRegion)
            and (self.name, len(self._contours)) == (other.name, len(other._contours))
            and all(map(np.array_equal, self._contours, other._contours))
        )

    def renamed(self, name: str) -> ContourRegion:
        """The same region under another name."""
        return ContourRegion(name, self._contours)

    def mask(self, geometry: Geometry, index: int, hu: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Mask of pixels whose centre is inside the contours.

        Parameters
        ----------
        geometry : Geometry
            Geometry of the series.
        index : int
            Slice of the series.
        hu : ndarray, shape (rows, columns)
            Not used.

        Returns
        -------
        ndarray of bool, shape (rows, columns)

        Raises
        ------
        InputError
            If the contours are not parallel to the slices.
        """
        from skimage.draw import polygon2mask

        mask = np.zeros((geometry.rows, geometry.columns), dtype=bool)
        for contour in self._of_slice(geometry, index):
            offsets = contour - geometry.positions_mm[index]
            rows = offsets @ np.asarray(geometry.column_direction) / geometry.pixel_spacing_mm[0]
            columns = offsets @ np.asarray(geometry.row_direction) / geometry.pixel_spacing_mm[1]
            mask ^= polygon2mask(mask.shape, np.stack([rows, columns], axis=1))
        return mask

    def _of_slice(self, geometry: Geometry, index: int) -> list[NDArray[np.float64]]:
        normal = geometry.normal
        across = [contour @ normal for contour in self._contours]
        if any(np.ptp(offsets) > FLAT_MM for offsets in across):
            raise InputError(
                f"region {self.name!r}: its contours are not parallel to the slices; give contours of this series"
            )
        positions = np.array([offsets.mean() for offsets in across])
        planes = np.unique(np.round(positions, 2))
        spacing = float(np.median(np.diff(planes))) if len(planes) > 1 else geometry.slice_spacing_mm
        distances = np.abs(positions - geometry.offsets_mm[index])
        nearest = distances.min()
        if nearest > spacing / 2 + 1e-2:
            return []
        # A slice half way between two planes uses the lower one.
        plane = positions[distances <= nearest + 1e-2].min()
        return [contour for contour, at in zip(self._contours, positions, strict=True) if abs(at - plane) <= 1e-2]
