"""Where to measure: image, body, tissues, spheres, label volumes.

A region gives a mask for any slice of any series, from the slice's place in the patient and the reference's HU.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.contours import ContourRegion
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.volume import Geometry, SliceSource, Volume

Mask = NDArray[np.bool_]
Image = NDArray[np.floating]

BODY_ABOVE_HU = -400.0
TABLE_THICKNESS_MM = 12.0  # what an opening this wide removes is table, blanket or tubing, not body
BELOW_AIR_HU = -1500.0  # padding outside of the field of view
LUNG_ABOVE_HU = -960.0  # the median of lungs is above this, that of air around the patient below
LUNG_LEAST_MM2 = 500.0
LUNG_LEAST_SHARE = 0.6  # of its area, in the convex hull of the body

TISSUE_SMOOTHING_MM = 2.0  # less, and noise decides what counts as tissue
#: HU ranges of the tissue classes, as (low, high, border in mm): what is no deeper inside is partial volume.
TISSUES: dict[str, tuple[float, float, float]] = {
    "lung": (-1000.0, -600.0, 2.0),
    "fat": (-140.0, -50.0, 2.0),
    "soft-tissue": (0.0, 120.0, 2.0),
    "bone": (200.0, 3071.0, 1.0),  # cortical bone is thin
}


class Region(Protocol):
    """A named place; ``None`` as mask means the whole slice."""

    @property
    def name(self) -> str:
        """As it stands in the tables."""
        ...

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """True where the slice ``index`` of ``geometry``, with reference values ``hu``, belongs to the region."""
        ...

    def renamed(self, name: str) -> Region:
        """The same region under another name."""
        ...


def region_masks(regions: Sequence[Region], geometry: Geometry, index: int, hu: Image) -> dict[str, Mask | None]:
    """Every region's mask in one slice, by name; body and smoothed slice, which several need, are made once.

    Regions without a pixel in this slice are left out.
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
        """No mask."""
        return None

    def renamed(self, name: str) -> WholeImage:
        """The same region under another name."""
        return WholeImage(name)


@dataclass(frozen=True)
class Body:
    """The patient without the air around and without the table."""

    name: str = "body"

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """See :func:`body_mask`."""
        return body_mask(hu, geometry.pixel_spacing_mm)

    def renamed(self, name: str) -> Body:
        """The same region under another name."""
        return Body(name)


@dataclass(frozen=True)
class Tissue:
    """A tissue class by HU inside the body.

    Parameters
    ----------
    tissue : str
        A key of :data:`TISSUES`.
    name : str
        The tissue's own unless said.
    """

    tissue: str
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.tissue)

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """See :func:`tissue_mask`."""
        body = body_mask(hu, geometry.pixel_spacing_mm)
        return tissue_mask(hu, self.tissue, geometry.pixel_spacing_mm, body)

    def renamed(self, name: str) -> Tissue:
        """The same tissue under another name."""
        return Tissue(self.tissue, name)


@dataclass(frozen=True)
class Sphere:
    """A ball in patient coordinates.

    Parameters
    ----------
    centre_mm : tuple of 3 floats
        LPS.
    radius_mm : float
        Larger than 0.
    """

    name: str
    centre_mm: tuple[float, float, float]
    radius_mm: float

    def mask(self, geometry: Geometry, index: int, hu: Image) -> Mask | None:
        """Pixels whose centre lies in the ball."""
        along, down, across = in_plane_mm(geometry, index, self.centre_mm)
        row_mm, column_mm = geometry.pixel_spacing_mm
        rows = (np.arange(geometry.rows) * row_mm - down)[:, None]
        columns = (np.arange(geometry.columns) * column_mm - along)[None, :]
        mask: Mask = rows**2 + columns**2 + across**2 <= self.radius_mm**2
        return mask

    def renamed(self, name: str) -> Sphere:
        """The same ball under another name."""
        return replace(self, name=name)


class LabelRegion:
    """One label of a label volume, brought onto the series by the nearest voxel."""

    def __init__(self, name: str, labels: Volume, value: int) -> None:
        self.name = name
        self._labels, self._value = labels, value
        self._to_index = np.linalg.inv(labels.geometry.affine)

    def __eq__(self, other: object) -> bool:
        """Whether both are the same label of the same voxels and place, as of a file that is read twice."""
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
        """Pixels whose centre's nearest label voxel has this region's value."""
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


def body_mask(hu: Image, pixel_spacing_mm: tuple[float, float]) -> Mask:
    """The body of one slice: what is left of the tissue after the table is opened away, with its holes filled.

    Lungs count also where the chest wall is as thin as a table, or lies outside of the field of view.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU; may be noisy.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing.
    """
    step = 2 if min(hu.shape) >= 256 else 1  # half the matrix is fine enough to find an outline
    small = ndimage.uniform_filter(np.clip(hu, -1000, 400), 2 * step + 1)[::step, ::step]
    tissue = np.pad(small > BODY_ABOVE_HU, 1)
    spacing = tuple(step * mm for mm in pixel_spacing_mm)
    radius = TABLE_THICKNESS_MM / 2
    core = ndimage.distance_transform_edt(tissue, sampling=spacing) > radius
    parts, found = ndimage.label(core)
    if found == 0:
        return np.zeros(hu.shape, dtype=bool)
    sizes = np.bincount(parts.ravel())[1:]
    # Arms and legs count as body; crumbs do not.
    large = np.isin(parts, 1 + np.flatnonzero(sizes >= 0.05 * sizes.max()))
    grown = _within(large, radius, spacing) & tissue
    sampled = np.pad(hu[::step, ::step], 1, mode="edge")
    filled = _with_lungs(ndimage.binary_fill_holes(grown), tissue, sampled, spacing)
    return np.repeat(np.repeat(filled[1:-1, 1:-1], step, axis=0), step, axis=1)[: hu.shape[0], : hu.shape[1]]


def _with_lungs(body: Mask, tissue: Mask, hu: Image, spacing: tuple[float, ...]) -> Mask:
    """The body with the lungs that lie open after the opening, and the walls that it took from them."""
    padding = hu < BELOW_AIR_HU
    closed = tissue | ndimage.binary_dilation(padding, iterations=2)  # padding, and what smoothing spread it to
    inside = (slice(1, -1), slice(1, -1))  # a rim would join what the field of view cuts with the air outside
    gaps = np.zeros(body.shape, dtype=np.intp)
    gaps[inside], found = ndimage.label(~closed[inside])
    counts = np.bincount(gaps[~body], minlength=found + 1)
    large = 1 + np.flatnonzero(counts[1:] * math.prod(spacing) >= LUNG_LEAST_MM2)
    lunglike = [n for n in large if np.median(hu[gaps == n]) > LUNG_ABOVE_HU]
    if not lunglike:  # nor is a hull needed
        return body
    enclosed = np.bincount(gaps[_hull(body) & ~body], minlength=found + 1)
    lungs = np.isin(gaps, [n for n in lunglike if enclosed[n] >= LUNG_LEAST_SHARE * counts[n]])
    walls = closed & ~padding & _within(lungs, TABLE_THICKNESS_MM, spacing)
    filled: Mask = ndimage.binary_fill_holes(body | lungs | walls)
    return filled


def _within(mask: Mask, distance_mm: float, spacing_mm: tuple[float, ...]) -> Mask:
    """Where the mask is, and what is no farther from it than that; nowhere for an empty one."""
    if not mask.any():  # the distance transform has no background to measure from, and answers all the same
        return np.zeros_like(mask)
    near: Mask = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= distance_mm
    return near


def _hull(mask: Mask) -> Mask:
    """The convex hull of each connected part."""
    from skimage.morphology import convex_hull_image

    parts, _ = ndimage.label(mask)
    hull = np.zeros_like(mask)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        hull[box] |= convex_hull_image(parts[box] == number)
    return hull


def tissue_mask(hu: Image, tissue: str, pixel_spacing_mm: tuple[float, float], body: Mask) -> Mask:
    """One tissue of :func:`tissue_masks`."""
    return tissue_masks(hu, [tissue], pixel_spacing_mm, body)[tissue]


def tissue_masks(
    hu: Image, tissues: Collection[str], pixel_spacing_mm: tuple[float, float], body: Mask
) -> dict[str, Mask]:
    """Where a smoothed slice lies in each tissue's HU range, without the border.

    A border holds partial volume, and there the slice's own noise would choose the pixels, so that any other image
    of the same place would seem to be shifted in HU.

    Raises
    ------
    ConfigError
        If a tissue is unknown.
    """
    for tissue in tissues:
        if tissue not in TISSUES:
            raise ConfigError(f"tissue {tissue!r} is unknown; there are {', '.join(TISSUES)}")
    masks = {tissue: np.zeros(hu.shape, dtype=bool) for tissue in tissues}
    if not masks or not body.any():
        return masks
    margin_px = math.ceil(4 * TISSUE_SMOOTHING_MM / min(pixel_spacing_mm))  # what the smoothing reaches
    box = _grown(bounding_box(body), margin_px)
    sigma_px = [TISSUE_SMOOTHING_MM / mm for mm in pixel_spacing_mm]
    smooth = ndimage.gaussian_filter(np.asarray(hu[box], dtype=np.float32), sigma_px)
    for tissue, mask in masks.items():
        low, high, border_mm = TISSUES[tissue]
        raw = (smooth >= low) & (smooth <= high) & body[box]
        if raw.any():
            tight = bounding_box(raw)
            depth_mm = ndimage.distance_transform_edt(np.pad(raw[tight], 1), sampling=pixel_spacing_mm)
            mask[box][tight] = depth_mm[1:-1, 1:-1] > border_mm
    return masks


def bounding_box(mask: Mask) -> tuple[slice, slice]:
    """The smallest rectangle that holds every true pixel of a mask that has one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _grown(box: tuple[slice, slice], margin: int) -> tuple[slice, slice]:
    rows, columns = (slice(max(side.start - margin, 0), side.stop + margin) for side in box)
    return rows, columns


def in_plane_mm(geometry: Geometry, index: int, point_mm: Sequence[float]) -> tuple[float, float, float]:
    """A point seen from a slice's first voxel: mm along the row, down the column, and across the plane."""
    offset = np.asarray(point_mm, dtype=np.float64) - geometry.positions_mm[index]
    return (
        float(offset @ np.asarray(geometry.row_direction)),
        float(offset @ np.asarray(geometry.column_direction)),
        float(offset @ geometry.normal),
    )


def parse_regions(text: str) -> tuple[Region, ...]:
    """Regions from one command-line word.

    ``image``, ``body``, a tissue's name, ``x,y,z,radius`` (LPS mm), or the path of a label volume, which gives a
    region for every label in it, called ``<file>-<label>``; of a DICOM SEG or RTSTRUCT, for every segment or
    structure.

    Raises
    ------
    ConfigError, InputError
        If the text is none of these, or the label volume cannot be used.
    """
    if text == "image":
        return (WholeImage(),)
    if text == "body":
        return (Body(),)
    if text in TISSUES:
        return (Tissue(text),)
    if Path(text).exists():
        return label_regions(Path(text))
    try:
        x, y, z, radius = (float(part) for part in text.split(","))
    except ValueError:
        known = ", ".join(["image", "body", *TISSUES])
        raise ConfigError(
            f"region {text!r}: give x,y,z,radius in mm (LPS), a label volume that exists, or one of {known}"
        ) from None
    if not (np.isfinite([x, y, z, radius]).all() and radius > 0):
        raise ConfigError(f"region {text!r}: the radius must be larger than 0 mm")
    return (Sphere(f"sphere({x:g} {y:g} {z:g} r{radius:g})", (x, y, z), radius),)


def one_region(text: str) -> Region:
    """A single region from one command-line word; see :func:`parse_regions`.

    Raises
    ------
    ConfigError
        If the text gives several regions.
    """
    found = parse_regions(text)
    if len(found) != 1:
        raise ConfigError(f"region {text!r} holds {len(found)} regions; give a file with one, a ball or a tissue")
    return found[0]


def named_apart(regions: Sequence[Region]) -> list[Region]:
    """The regions, one for one, of which no two different ones share a name: later ones get a number.

    What is given twice (a tissue, a ball, the same label of the same file) keeps one name.
    """
    kept: dict[str, Region] = {}
    named: list[Region] = []
    for region in regions:
        names = chain([region.name], (f"{region.name}-{number}" for number in count(2)))
        renamed = (region.renamed(name) for name in names)
        named.append(next(one for one in renamed if kept.setdefault(one.name, one) == one))
    return named


def label_regions(path: Path) -> tuple[Region, ...]:
    """A region for every label above 0 of a label volume (NIfTI, NRRD, MHA) or segment of a DICOM SEG, and
    for every structure of an RTSTRUCT.

    Raises
    ------
    InputError
        If the file holds no label.
    """
    from ldct_denoise.io.files import open_file
    from ldct_denoise.io.segmentation import is_segmentation, read_segmentation
    from ldct_denoise.io.structures import is_structure_set, read_structures

    if path.is_file() and is_segmentation(path):
        labels, names = read_segmentation(path)
        return tuple(LabelRegion(name, labels, value) for value, name in names.items())
    if path.is_file() and is_structure_set(path):
        return tuple(ContourRegion(one.name, one.contours) for one in read_structures(path))
    return regions_of_labels(open_file(path), path.name.split(".")[0])


def regions_of_labels(source: SliceSource, name: str) -> tuple[Region, ...]:
    """A region for every label above 0 of a label volume.

    Raises
    ------
    InputError
        If there is no label.
    """
    labels = Volume.of(source)
    values = np.unique(np.rint(labels.hu[labels.hu > 0.5])).astype(int)
    if not len(values):
        raise InputError(f"{name}: a label volume without a label above 0; label the region with 1, 2, …")
    if len(values) > 200:
        raise InputError(f"{name}: {len(values)} different values; this is an image, not a label volume")
    return tuple(LabelRegion(f"{name}-{value}", labels, int(value)) for value in values)
