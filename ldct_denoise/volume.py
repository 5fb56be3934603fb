"""Geometry, metadata and CT numbers of a series of slices.

Conventions of the whole package: patient coordinates are DICOM's LPS in millimetres; array axes are (slice, row,
column); HU are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError

#: Two positions closer than this are equal, mm.
POSITION_TOLERANCE_MM = 1e-2


@dataclass(frozen=True)
class Geometry:
    """Position of every voxel of a stack of slices in the patient.

    Each slice has its own position: uneven spacing, missing slices and gantry tilt are represented exactly.

    Parameters
    ----------
    positions_mm : ndarray, shape (slices, 3)
        LPS position of the centre of each slice's first voxel (ImagePositionPatient, PS3.3 C.7.6.2.1.1).
    row_direction, column_direction : tuple of 3 floats
        Unit vectors along a row (towards higher column index) and along a column (towards higher row index):
        the first and last three values of ImageOrientationPatient.
    pixel_spacing_mm : tuple of 2 floats
        Distance between row centres and between column centres (the order of PixelSpacing).
    rows, columns : int
        Size of a slice.
    step_mm : tuple of 3 floats, optional
        LPS vector from one slice to the next as stated by the file; used only where there is a single slice.

    Raises
    ------
    InputError
        If a spacing or a size is not positive.
    """

    positions_mm: NDArray[np.float64]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    pixel_spacing_mm: tuple[float, float]
    rows: int
    columns: int
    step_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        positions = np.array(self.positions_mm, dtype=np.float64).reshape(-1, 3)
        positions.flags.writeable = False
        object.__setattr__(self, "positions_mm", positions)
        if min(self.pixel_spacing_mm) <= 0 or min(self.rows, self.columns, len(positions)) < 1:
            raise InputError(
                f"impossible geometry: {len(positions)} slices of {self.rows}×{self.columns} pixels, "
                f"pixel spacing {self.pixel_spacing_mm} mm"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return len(self.positions_mm), self.rows, self.columns

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal of the slices: row direction × column direction."""
        normal = np.cross(self.row_direction, self.column_direction)
        return normal / np.linalg.norm(normal)

    @property
    def offsets_mm(self) -> NDArray[np.float64]:
        """Signed distance of each slice plane from the patient origin along the normal, shape (slices,)."""
        return self.positions_mm @ self.normal

    @property
    def slice_spacing_mm(self) -> float:
        """Median distance between adjacent slice planes; for a single slice its stated step, or 1."""
        if len(self.positions_mm) < 2:
            return float(abs(self._single_step @ self.normal))
        return float(np.median(np.abs(np.diff(self.offsets_mm))))

    @property
    def _single_step(self) -> NDArray[np.float64]:
        return self.normal if self.step_mm is None else np.array(self.step_mm)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(slice, row, column) spacing."""
        return self.slice_spacing_mm, *self.pixel_spacing_mm

    @property
    def is_even(self) -> bool:
        """Whether the slices are evenly spaced (to 1 % of the spacing)."""
        steps = np.diff(self.positions_mm, axis=0)
        if len(steps) < 2:
            return True
        return bool(
            np.all(np.linalg.norm(steps - np.median(steps, axis=0), axis=1) < 0.01 * self.slice_spacing_mm)
        )

    @property
    def unevenness_mm(self) -> float:
        """Largest distance of a slice from its position under :attr:`affine`."""
        even = self.affine[:3, 3] + np.arange(len(self.positions_mm))[:, None] * self.affine[:3, 0]
        return float(np.linalg.norm(self.positions_mm - even, axis=1).max())

    @property
    def tilt_degrees(self) -> float:
        """Gantry tilt: angle between the normal and the line through the positions; 0 for a single slice."""
        step = self.positions_mm[-1] - self.positions_mm[0]
        length = np.linalg.norm(step)
        if length < POSITION_TOLERANCE_MM:
            return 0.0
        return float(np.degrees(np.arccos(np.clip(abs(step @ self.normal) / length, 0, 1))))

    @property
    def affine(self) -> NDArray[np.float64]:
        """4×4 matrix from (slice, row, column) index to LPS mm, with the mean slice step."""
        matrix = np.eye(4)
        count = len(self.positions_mm)
        first, last = self.positions_mm[0], self.positions_mm[-1]
        matrix[:3, 0] = (last - first) / (count - 1) if count > 1 else self._single_step
        matrix[:3, 1] = np.asarray(self.column_direction) * self.pixel_spacing_mm[0]
        matrix[:3, 2] = np.asarray(self.row_direction) * self.pixel_spacing_mm[1]
        matrix[:3, 3] = self.positions_mm[0]
        return matrix

    @classmethod
    def from_affine(cls, affine: NDArray[np.float64], shape: Sequence[int]) -> Geometry:
        """Create the evenly spaced geometry of an index-to-LPS matrix.

        Parameters
        ----------
        affine : ndarray, shape (4, 4)
            From (slice, row, column) index to LPS mm.
        shape : sequence of int
            (slices, rows, columns).

        Raises
        ------
        InputError
            If the matrix has a zero column for rows or columns.
        """
        slices, rows, columns = shape
        matrix = np.asarray(affine, dtype=np.float64)
        step_mm, row_mm, column_mm = np.linalg.norm(matrix[:3, :3], axis=0)
        if min(row_mm, column_mm) == 0:
            raise InputError("impossible geometry: the image's matrix has a zero column")
        return cls(
            positions_mm=matrix[:3, 3] + np.arange(slices)[:, None] * matrix[:3, 0],
            row_direction=_triple(matrix[:3, 2] / column_mm),
            column_direction=_triple(matrix[:3, 1] / row_mm),
            pixel_spacing_mm=(float(row_mm), float(column_mm)),
            rows=rows,
            columns=columns,
            step_mm=_triple(matrix[:3, 0]) if step_mm else None,
        )

    def to_lps(self, index: NDArray[np.floating] | Sequence[float]) -> NDArray[np.float64]:
        """Convert (slice, row, column) indices, shape (..., 3), to LPS mm; slice indices are rounded."""
        index = np.asarray(index, dtype=np.float64)
        plane = self.positions_mm[np.rint(index[..., 0]).astype(int)]
        down = index[..., 1, None] * self.pixel_spacing_mm[0] * np.asarray(self.column_direction)
        along = index[..., 2, None] * self.pixel_spacing_mm[1] * np.asarray(self.row_direction)
        return plane + down + along

    def select(self, indices: Sequence[int]) -> Geometry:
        """Geometry of a subset of the slices."""
        return replace(self, positions_mm=self.positions_mm[list(indices)])


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in vector)
    return x, y, z


@dataclass(frozen=True)
class SeriesMetadata:
    """Header information of a series, apart from its geometry.

    Texts are empty and numbers are None where the format or the header does not state them.

    Parameters
    ----------
    kernel : str
        First value of Convolution Kernel (0018,1210).
    description : str
        Series Description (0008,103E).
    derivation : str
        Derivation Description (0008,2111).
    manufacturer : str
        Manufacturer (0008,0070).
    scanner_model : str
        Manufacturer's Model Name (0008,1090).
    transfer_syntax : str
        Names of the transfer syntaxes of the files, separated by commas.
    slice_thickness_mm : float, optional
        Slice Thickness (0018,0050) of the first slice; see :func:`slice_thickness_mm`.
    kvp : float, optional
        KVP (0018,0060) of the first slice: the tube voltage, kV.
    tube_current_ma : tuple of (float or None)
        X-Ray Tube Current (0018,1151) of every slice; empty where the format has none.
    mas_per_ma : float, optional
        Effective mAs per mA of tube current of the first slice, s: rotation time over pitch.
    multiframe : bool
        Whether the slices are frames of multi-frame DICOM files.
    path : Path, optional
        Folder of a DICOM series, or the volume file. Inside a zip archive, the archive's path followed by the path
        inside it.
    first_file : Path, optional
        File of the first slice, written in the same way; equals ``path`` for a volume file.
    problems : tuple of str
        Findings that do not prevent reading, such as uneven spacing.
    """

    kernel: str = ""
    description: str = ""
    derivation: str = ""
    manufacturer: str = ""
    scanner_model: str = ""
    transfer_syntax: str = ""
    slice_thickness_mm: float | None = None
    kvp: float | None = None
    tube_current_ma: tuple[float | None, ...] = ()
    mas_per_ma: float | None = None
    multiframe: bool = False
    path: Path | None = None
    first_file: Path | None = None
    problems: tuple[str, ...] = ()

    def select(self, indices: Sequence[int]) -> SeriesMetadata:
        """Metadata of a subset of the slices."""
        if not self.tube_current_ma:
            return self
        return replace(self, tube_current_ma=tuple(self.tube_current_ma[index] for index in indices))


@runtime_checkable
class SliceSource(Protocol):
    """A CT series that is read slice by slice, so that memory use stays constant.

    DICOM series, volume files and volumes in memory are all sources.
    """

    @property
    def uid(self) -> str:
        """Unique identifier: the Series Instance UID of a DICOM series, a digest for a volume file."""
        ...

    @property
    def patient(self) -> str:
        """Patient ID; training and validation sets are split by patient."""
        ...

    @property
    def name(self) -> str:
        """Short label for people: folder and kernel, or the file name."""
        ...

    @property
    def geometry(self) -> Geometry:
        """Positions and orientation of the slices."""
        ...

    @property
    def metadata(self) -> SeriesMetadata:
        """Header information."""
        ...

    def __len__(self) -> int:
        """Number of slices."""
        ...

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one slice in HU, shape (rows, columns)."""
        ...


def slice_thickness_mm(source: SliceSource) -> float:
    """Slice thickness from the header, or the slice spacing where the header states none."""
    thickness_mm = source.metadata.slice_thickness_mm
    return source.geometry.slice_spacing_mm if thickness_mm is None else thickness_mm


def spread_indices(total: int, count: int) -> list[int]:
    """At most ``count`` indices below ``total``, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()


@dataclass(frozen=True)
class SeriesView:
    """Base of sources that present another source differently.

    Everything is delegated to the underlying source; a subclass overrides what differs.

    Parameters
    ----------
    source : SliceSource
        The underlying series.
    """

    source: SliceSource

    @property
    def uid(self) -> str:
        """Unique identifier."""
        return self.source.uid

    @property
    def patient(self) -> str:
        """Patient ID."""
        return self.source.patient

    @property
    def name(self) -> str:
        """Short label for people."""
        return self.source.name

    @property
    def geometry(self) -> Geometry:
        """Positions and orientation of the slices."""
        return self.source.geometry

    @property
    def metadata(self) -> SeriesMetadata:
        """Header information."""
        return self.source.metadata

    def __len__(self) -> int:
        return len(self.source)

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one slice in HU, shape (rows, columns)."""
        return self.source.read_hu(index)


@dataclass(frozen=True)
class Volume:
    """A whole series in memory.

    Parameters
    ----------
    hu : ndarray, shape (slices, rows, columns)
        CT numbers; stored as read-only float32.
    geometry : Geometry
        Geometry of the same shape.
    uid, patient, name : str
        As in :class:`SliceSource`.
    metadata : SeriesMetadata

    Raises
    ------
    InputError
        If the shape of ``hu`` is not that of ``geometry``.
    """

    hu: NDArray[np.float32]
    geometry: Geometry
    uid: str = ""
    patient: str = ""
    name: str = ""
    metadata: SeriesMetadata = SeriesMetadata()

    def __post_init__(self) -> None:
        hu = np.asarray(self.hu, dtype=np.float32)
        if hu.shape != self.geometry.shape:
            raise InputError(f"volume of {hu.shape} voxels does not fit its geometry of {self.geometry.shape}")
        hu = hu.view()
        hu.flags.writeable = False
        object.__setattr__(self, "hu", hu)

    def __len__(self) -> int:
        return len(self.hu)

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Return one slice in HU, shape (rows, columns)."""
        return self.hu[index]

    def with_hu(self, hu: NDArray[np.floating]) -> Volume:
        """Return a volume with the same geometry and other CT numbers."""
        return replace(self, hu=np.asarray(hu, dtype=np.float32))

    @classmethod
    def of(cls, source: SliceSource) -> Volume:
        """Read every slice of ``source`` into memory."""
        hu = np.empty(source.geometry.shape, dtype=np.float32)
        for index in range(len(source)):
            hu[index] = source.read_hu(index)
        return cls(hu, source.geometry, source.uid, source.patient, source.name, source.metadata)


Mask = NDArray[np.bool_]
Image = NDArray[np.floating]
