"""Volume files as slice sources: NIfTI, NRRD and MetaImage; single slices are read on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.archive import ExtractedArchive
from ldct_denoise.io.dicom.encoding import MAX_FRAMES, MAX_SIDE
from ldct_denoise.io.dicom.filter import AXIAL_COSINE
from ldct_denoise.io.volumes.header import VolumeHeader, last_line
from ldct_denoise.io.volumes.itk import ITK_SUFFIXES, read_itk_header
from ldct_denoise.io.volumes.nifti import NIFTI_SUFFIXES, is_nifti, read_nifti_header
from ldct_denoise.volume import Geometry, SeriesMetadata

VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
#: Largest cosine between rows and columns of an image.
MAX_IN_PLANE_SHEAR = 1e-3


def is_volume_file(path: str | Path) -> bool:
    """Whether the name is that of a volume that :func:`open_volume_file` reads."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def file_identity(path: Path) -> str:
    """Identity of a file: its path, size and modification time."""
    stat = path.stat()
    return f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"


@dataclass(frozen=True)
class VolumeFile:
    """A volume file, read slice by slice.

    Parameters
    ----------
    path : Path
        The file that is read; inside a temporary folder where it was extracted from an archive.
    geometry : Geometry
        The file's slowest axis is the slice axis.
    patient : str
        Name of the file's folder: nothing in such a file states the patient.
    metadata : SeriesMetadata
    header : VolumeHeader
        What the file's header states.
    archive : ExtractedArchive, optional
        The archive that the file was extracted from; it exists as long as something refers to it.
    """

    path: Path
    geometry: Geometry
    patient: str
    metadata: SeriesMetadata
    header: VolumeHeader = field(compare=False, repr=False)
    archive: ExtractedArchive | None = field(default=None, compare=False, repr=False)

    @cached_property
    def uid(self) -> str:
        """Digest of the file's identity, in the form of a UID."""
        return f"2.25.{int(hashlib.sha256(file_identity(self.path).encode()).hexdigest()[:32], 16)}"

    @property
    def name(self) -> str:
        """File name."""
        return self.path.name

    def __len__(self) -> int:
        return self.geometry.shape[0]

    def read_stored(self, index: int) -> NDArray[Any]:
        """Read the stored values of one slice, shape (rows, columns).

        Raises
        ------
        InputError
            If it cannot be read.
        """
        try:
            return self.header.layout.read(index)
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.path}: slice {index} cannot be read ({last_line(error)})") from None

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one slice in HU, shape (rows, columns).

        Raises
        ------
        InputError
            If it cannot be read.
        """
        return self.header.stored_type.to_hu(self.read_stored(index))


def open_volume_file(path: Path, archive: ExtractedArchive | None = None) -> VolumeFile:
    """Open a volume file; only its header is read.

    Parameters
    ----------
    path : Path
    archive : ExtractedArchive, optional
        The archive that the file was extracted from.

    Raises
    ------
    InputError
        If it cannot be read, or is not one 3-D volume.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    header = read_volume_header(path)
    shape = header.layout.shape
    if not (0 < shape[0] <= MAX_FRAMES and 0 < min(shape[1:]) <= max(shape[1:]) <= MAX_SIDE):
        raise InputError(f"{path}: impossible size of {'×'.join(map(str, reversed(shape)))} voxels")
    geometry = Geometry.from_affine(header.affine, shape)
    if abs(np.dot(geometry.row_direction, geometry.column_direction)) > MAX_IN_PLANE_SHEAR:
        raise InputError(f"{path}: rows and columns are not perpendicular; resample the volume to a regular grid")
    original = archive.original_path(path) if archive else path
    problems = (*header.problems, *_plane_problems(geometry))
    metadata = SeriesMetadata(path=original, first_file=original, problems=problems)
    return VolumeFile(path, geometry, path.resolve().parent.name, metadata, header, archive)


def read_volume_header(path: Path) -> VolumeHeader:
    """Read the header of a volume file.

    Raises
    ------
    InputError
        If it cannot be read, or is not one 3-D volume.
    """
    return read_nifti_header(path) if is_nifti(path) else read_itk_header(path)


def is_denoised_volume(path: Path) -> bool:
    """Whether a volume file is marked as denoised by this package."""
    return read_volume_header(path).is_denoised


def _plane_problems(geometry: Geometry) -> tuple[str, ...]:
    """A problem where the slices are not axial, in words."""
    if abs(geometry.normal[2]) >= AXIAL_COSINE:
        return ()
    plane = "sagittal" if abs(geometry.normal[0]) > abs(geometry.normal[1]) else "coronal"
    return (f"{plane} slices, but models are trained on axial ones; reorder the file's axes",)
