"""Present a series in the axis order of another one: the same voxels, flipped or permuted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.volume import Geometry, SeriesMetadata, SeriesView, SliceSource, Volume

#: Largest deviation of a change of axes from whole steps.
AXES_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Axes:
    """Change of array axes: each axis of the result is an axis of the source, perhaps reversed.

    Parameters
    ----------
    order : tuple of int
        Axis of the source for each axis of the result.
    flipped : tuple of bool
        Whether an axis of the result runs against that of the source.
    """

    order: tuple[int, ...]
    flipped: tuple[bool, ...]

    def __str__(self) -> str:
        return "".join(
            f"{'-' if flip else '+'}{axis}" for axis, flip in zip(self.order, self.flipped, strict=True)
        )

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.order == tuple(range(len(self.order))) and not any(self.flipped)

    def apply(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Change the axes of an array."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return np.ascontiguousarray(array.transpose(self.order)[steps])


@dataclass(frozen=True)
class FlippedSlices(SeriesView):
    """The slices of a series, perhaps in reverse order, each with its rows and columns flipped or exchanged.

    Parameters
    ----------
    source : SliceSource
    axes : Axes
        Of the volume: (slices, rows, columns); slices remain slices.
    """

    axes: Axes

    @property
    def uid(self) -> str:
        """UID of the source with the change of axes appended: its slices are other arrays."""
        return f"{self.source.uid}/axes/{self.axes}"

    @property
    def metadata(self) -> SeriesMetadata:
        """Header information, in the order of the slices."""
        return self.source.metadata.select(self._indices)

    @property
    def _indices(self) -> range:
        """Index in the source of each slice."""
        every = range(len(self.source))
        return every[::-1] if self.axes.flipped[0] else every

    @cached_property
    def geometry(self) -> Geometry:  # type: ignore[override]
        """Geometry with the new axes."""
        old = self.source.geometry.select(self._indices)
        directions = np.array([old.column_direction, old.row_direction])
        spacing, size = old.pixel_spacing_mm, (old.rows, old.columns)
        shift, turned = np.zeros(3), []
        first, second = (axis - 1 for axis in self.axes.order[1:])
        for axis, flip in zip((first, second), self.axes.flipped[1:], strict=True):
            turned.append(-directions[axis] if flip else directions[axis])
            if flip:
                shift += directions[axis] * spacing[axis] * (size[axis] - 1)
        return replace(
            old,
            positions_mm=old.positions_mm + shift,
            row_direction=tuple(turned[1]),
            column_direction=tuple(turned[0]),
            pixel_spacing_mm=(spacing[first], spacing[second]),
            rows=size[first],
            columns=size[second],
        )

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one slice in HU, shape (rows, columns)."""
        _, first, second = self.axes.order
        in_plane = Axes((first - 1, second - 1), self.axes.flipped[1:])
        return in_plane.apply(self.source.read_hu(self._indices[index]))


@dataclass(frozen=True)
class PermutedVolume(SeriesView):
    """A series whose slices run along another axis; it is read into memory as a whole.

    Parameters
    ----------
    source : SliceSource
        Evenly spaced slices.
    axes : Axes
        Of the volume: (slices, rows, columns).
    """

    axes: Axes

    @property
    def uid(self) -> str:
        """UID of the source with the change of axes appended: its slices are other arrays."""
        return f"{self.source.uid}/axes/{self.axes}"

    @cached_property
    def geometry(self) -> Geometry:  # type: ignore[override]
        """Geometry with the new axes."""
        old, shape = self.source.geometry.affine, self.source.geometry.shape
        new = np.eye(4)
        new[:3, 3] = old[:3, 3]
        for axis, (given, flip) in enumerate(zip(self.axes.order, self.axes.flipped, strict=True)):
            new[:3, axis] = -old[:3, given] if flip else old[:3, given]
            if flip:
                new[:3, 3] += old[:3, given] * (shape[given] - 1)
        return Geometry.from_affine(new, [shape[axis] for axis in self.axes.order])

    @cached_property
    def _hu(self) -> NDArray[np.float32]:
        return self.axes.apply(Volume.of(self.source).hu)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_hu"}

    def __len__(self) -> int:
        return self.geometry.shape[0]

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Return one slice in HU, shape (rows, columns)."""
        return self._hu[index]


def oriented_like(source: SliceSource, geometry: Geometry) -> SliceSource:
    """Present a series with the axes of ``geometry``, where its voxel grid has the same axes in another order.

    Parameters
    ----------
    source : SliceSource
    geometry : Geometry
        Geometry of another series.

    Returns
    -------
    SliceSource
        ``source`` itself where its axes are the same, or where they cannot be made the same without resampling.
    """
    given, wanted = source.geometry.affine[:3, :3], geometry.affine[:3, :3]
    in_plane = _axes(np.linalg.lstsq(wanted[:, 1:], given[:, 1:], rcond=None)[0], wanted[:, 1:], given[:, 1:])
    if in_plane is not None:
        are_reversed = min(len(source), geometry.shape[0]) > 1 and given[:, 0] @ wanted[:, 0] < 0
        axes = Axes((0, *(axis + 1 for axis in in_plane.order)), (bool(are_reversed), *in_plane.flipped))
        return source if axes.is_identity else FlippedSlices(source, axes)
    if source.geometry.is_even and abs(np.linalg.det(wanted)) > 0:
        permutation = _axes(np.linalg.solve(wanted, given), wanted, given)
        if permutation is not None:
            return PermutedVolume(source, permutation)
    return source


def _axes(steps: NDArray[np.floating], wanted: NDArray[np.floating], given: NDArray[np.floating]) -> Axes | None:
    """Axes of a matrix from steps along the given axes to the wanted ones, if it permutes and flips."""
    if np.abs(wanted @ steps - given).max() > AXES_TOLERANCE * np.abs(given).max():
        return None  # another plane
    size = np.rint(np.abs(steps))
    is_permutation = (size.sum(axis=0) == 1).all() and (size.sum(axis=1) == 1).all()
    if not is_permutation or np.abs(steps - np.rint(steps)).max() > AXES_TOLERANCE:
        return None
    order = tuple(int(axis) for axis in size.argmax(axis=1))
    return Axes(order, tuple(bool(steps[axis, given_axis] < 0) for axis, given_axis in enumerate(order)))
