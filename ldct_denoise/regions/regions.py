"""Regions in which images are measured: image, body, tissues, spheres, label volumes.

A region returns a mask for any slice of any series, from the slice's position and the HU of the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ldct_denoise.regions.body import body_mask
from ldct_denoise.regions.tissues import tissue_mask, tissue_masks
from ldct_denoise.volume import Geometry, Image, Mask, Volume


class Region(Protocol):
    """A named region in the patient."""

    @property
    def name(self) -> str:
        """Name in the tables."""
        ...

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """Mask of the region in one slice.

        Parameters
        ----------
        geometry : Geometry
            Geometry of the series.
        index : int
            Slice of the series.
        hu : ndarray, shape (rows, columns)
            The slice of the reference, HU.

        Returns
        -------
        ndarray of bool, shape (rows, columns), or None
            None for the whole slice.
        """
        ...

    def renamed(self, name: str) -> Region:
        """The same region under another name."""
        ...


def region_masks(regions: Sequence[Region], geometry: Geometry, index: int, hu: Image) -> dict[str, Mask | None]:
    """Masks of several regions in one slice; the body mask and the smoothed slice are computed once.

    Parameters
    ----------
    regions : sequence of Region
    geometry : Geometry
        Geometry of the series.
    index : int
        Slice of the series.
    hu : ndarray, shape (rows, columns)
        The slice of the reference, HU.

    Returns
    -------
    dict from name to ndarray of bool or None
        None for the whole slice. Regions without a pixel in this slice are left out.
    """
    tissues = {region.tissue for region in regions if isinstance(region, Tissue)}
    by_hu = bool(tissues) or any(isinstance(region, Body) for region in regions)
    body = body_mask(hu, geometry.pixel_spacing_mm) if by_hu else np.zeros(hu.shape, dtype=bool)
    found = tissue_masks(hu, tissues, geometry.pixel_spacing_mm, body)
    masks: dict[str, Mask | None] = {}
    for region in regions:
        mask: Mask | None
        if isinstance(region, Body):
            mask = body
        elif isinstance(region, Tissue):
            mask = found[region.tissue]
        else:
            mask = region.mask(geometry, index, hu)
        if mask is None or mask.any():
            masks[region.name] = mask
    return masks


@dataclass(frozen=True)
class WholeImage:
    """Every pixel."""

    name: str = "image"

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """Return None, meaning the whole slice.

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
        None
        """
        return None

    def renamed(self, name: str) -> WholeImage:
        """The same region under another name."""
        return WholeImage(name)


@dataclass(frozen=True)
class Body:
    """The patient without surrounding air and table."""

    name: str = "body"

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """Body mask of the slice; see :func:`body_mask`.

        Parameters
        ----------
        geometry : Geometry
            Geometry of the series.
        index : int
            Slice of the series.
        hu : ndarray, shape (rows, columns)
            The slice of the reference, HU.

        Returns
        -------
        ndarray of bool, shape (rows, columns)
        """
        return body_mask(hu, geometry.pixel_spacing_mm)

    def renamed(self, name: str) -> Body:
        """The same region under another name."""
        return Body(name)


@dataclass(frozen=True)
class Tissue:
    """A tissue class: a range of HU inside the body.

    Parameters
    ----------
    tissue : str
        A key of :data:`~ldct_denoise.regions.tissues.TISSUES`.
    name : str
        Name of the region; by default that of the tissue.
    """

    tissue: str
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.tissue)

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """Mask of the tissue; see :func:`tissue_mask`.

        Parameters
        ----------
        geometry : Geometry
            Geometry of the series.
        index : int
            Slice of the series.
        hu : ndarray, shape (rows, columns)
            The slice of the reference, HU.

        Returns
        -------
        ndarray of bool, shape (rows, columns)
        """
        body = body_mask(hu, geometry.pixel_spacing_mm)
        return tissue_mask(hu, self.tissue, geometry.pixel_spacing_mm, body)

    def renamed(self, name: str) -> Tissue:
        """The same region under another name."""
        return Tissue(self.tissue, name)


@dataclass(frozen=True)
class Sphere:
    """A sphere in patient coordinates.

    Parameters
    ----------
    name : str
    centre_mm : tuple of 3 floats
        LPS, mm.
    radius_mm : float
        Larger than 0.
    """

    name: str
    centre_mm: tuple[float, float, float]
    radius_mm: float

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """Mask of pixels whose centre is inside the sphere.

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
        """
        along, down, across = in_plane_mm(geometry, index, self.centre_mm)
        row_mm, column_mm = geometry.pixel_spacing_mm
        rows = (np.arange(geometry.rows) * row_mm - down)[:, None]
        columns = (np.arange(geometry.columns) * column_mm - along)[None, :]
        mask: Mask = rows**2 + columns**2 + across**2 <= self.radius_mm**2
        return mask

    def renamed(self, name: str) -> Sphere:
        """The same region under another name."""
        return replace(self, name=name)


class LabelRegion:
    """One label of a label volume, resampled onto the series by the nearest voxel.

    Parameters
    ----------
    name : str
    labels : Volume
        Label volume on any grid.
    value : int
        The label.
    """

    def __init__(self, name: str, labels: Volume, value: int) -> None:
        self.name = name
        self._labels, self._value = labels, value
        self._to_index = np.linalg.inv(labels.geometry.affine)

    def __eq__(self, other: object) -> bool:
        """Whether both are the same label of equal label volumes, e.g. of a file that was read twice."""
        return (
            isinstance(other, LabelRegion)
            and (self.name, self._value) == (other.name, other._value)
            and np.array_equal(self._to_index, other._to_index)
            and np.array_equal(self._labels.hu, other._labels.hu)
        )

    def renamed(self, name: str) -> LabelRegion:
        """The same region under another name."""
        return LabelRegion(name, self._labels, self._value)

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """Mask of pixels whose nearest label voxel has this label.

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
        """
        here = geometry.positions_mm[index]
        start = self._to_index[:3, :3] @ here + self._to_index[:3, 3]
        down = self._to_index[:3, :3] @ np.asarray(geometry.column_direction) * geometry.pixel_spacing_mm[0]
        along = self._to_index[:3, :3] @ np.asarray(geometry.row_direction) * geometry.pixel_spacing_mm[1]
        rows, columns = np.arange(geometry.rows)[:, None], np.arange(geometry.columns)[None, :]
        voxel = [
            np.floor(start[axis] + down[axis] * rows + along[axis] * columns + 0.5).astype(int)
            for axis in range(3)
        ]
        shape = self._labels.hu.shape
        inside = np.logical_and.reduce([(v >= 0) & (v < n) for v, n in zip(voxel, shape, strict=True)])
        values = self._labels.hu[tuple(np.clip(v, 0, n - 1) for v, n in zip(voxel, shape, strict=True))]
        mask: Mask = inside & (np.rint(values) == self._value)
        return mask


def in_plane_mm(geometry: Geometry, index: int, point_mm: Sequence[float]) -> tuple[float, float, float]:
    """Position of a point relative to the first voxel of a slice.

    Parameters
    ----------
    geometry : Geometry
    index : int
        Slice.
    point_mm : sequence of 3 floats
        LPS, mm.

    Returns
    -------
    tuple of 3 floats
        mm along the row, down the column, and along the slice normal.
    """
    offset = np.asarray(point_mm, dtype=np.float64) - geometry.positions_mm[index]
    return (
        float(offset @ np.asarray(geometry.row_direction)),
        float(offset @ np.asarray(geometry.column_direction)),
        float(offset @ geometry.normal),
    )
