"""Read volume files slice by slice: NIfTI through nibabel, NRRD and MHA through SimpleITK."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.archive import ExtractedArchive
from ldct_denoise.io.dicom.encoding import MAX_FRAMES, MAX_SIDE
from ldct_denoise.io.dicom.filter import AXIAL_COSINE
from ldct_denoise.volume import Geometry, SeriesMetadata

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
#: Marks a file that was denoised: NIfTI in its description field, NRRD and MHA under :data:`MARK_KEY`.
DENOISED_MARK = "denoised by ldct-denoise"
MARK_KEY = "Description"
#: NIfTI's axes point right, anterior, superior; ours left, posterior, superior.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


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
    archive : ExtractedArchive, optional
        The archive that the file was extracted from; it exists as long as something refers to it.
    """

    path: Path
    geometry: Geometry
    patient: str
    metadata: SeriesMetadata
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

    @cached_property
    def _voxels(self) -> Any:
        return _itk_array(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_voxels"}

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one slice in HU, shape (rows, columns).

        Raises
        ------
        InputError
            If it cannot be read.
        """
        try:
            if self.path.name.lower().endswith(NIFTI_SUFFIXES):
                voxels = _nifti_voxels(self.path, self.path.stat().st_mtime_ns, os.getpid())
                return np.asarray(voxels[..., index], dtype=np.float32).T.copy()
            return np.asarray(self._voxels[index], dtype=np.float32)
        except (OSError, EOFError, ValueError) as error:
            raise InputError(f"{self.path}: slice {index} cannot be read ({last_line(error)})") from None


def open_volume_file(path: Path, archive: ExtractedArchive | None = None) -> VolumeFile:
    """Open a volume file; voxels are read on demand.

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
    affine, shape = _nifti_geometry(path) if path.name.lower().endswith(NIFTI_SUFFIXES) else _itk_geometry(path)
    if not (0 < shape[0] <= MAX_FRAMES and 0 < min(shape[1:]) <= max(shape[1:]) <= MAX_SIDE):
        raise InputError(f"{path}: impossible size of {'×'.join(map(str, reversed(shape)))} voxels")
    geometry = Geometry.from_affine(affine, shape)
    original = archive.original_path(path) if archive else path
    metadata = SeriesMetadata(path=original, first_file=original, problems=_plane_problems(geometry))
    return VolumeFile(path, geometry, path.resolve().parent.name, metadata, archive)


def _plane_problems(geometry: Geometry) -> tuple[str, ...]:
    """A problem where the slices are not axial, in words."""
    if abs(geometry.normal[2]) >= AXIAL_COSINE:
        return ()
    plane = "sagittal" if abs(geometry.normal[0]) > abs(geometry.normal[1]) else "coronal"
    return (f"{plane} slices, but models are trained on axial ones; reorder the file's axes",)


def is_label_volume(path: Path) -> bool:
    """Whether the intent code of a NIfTI file states that its values are labels, not HU."""
    return path.name.lower().endswith(NIFTI_SUFFIXES) and open_nifti(path).header.get_intent()[0] == "label"


def is_denoised_volume(path: Path) -> bool:
    """Whether a volume file is marked as denoised by this package."""
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        mark = bytes(open_nifti(path).header["descrip"]).decode("ascii", "replace")
    else:
        reader = _read_itk_header(path)
        mark = reader.GetMetaData(MARK_KEY) if reader.HasMetaDataKey(MARK_KEY) else ""
    return bool(mark.startswith(DENOISED_MARK))


@lru_cache(maxsize=4)
def _nifti_voxels(path: Path, _modified_ns: int, _process: int) -> Any:
    """Voxels of a NIfTI file that is kept open, so that a compressed file is not inflated again for every slice.

    Each process opens the file itself, because forked processes would share the position in it.
    """
    return open_nifti(path, keep_file_open=True).dataobj


def open_nifti(path: Path, **options: Any) -> Any:
    """Open a NIfTI file with nibabel; voxels are read on demand.

    Raises
    ------
    InputError
        If it is not a NIfTI file.
    """
    import nibabel

    try:
        image = nibabel.load(path, **options)
    except Exception as error:
        raise InputError(f"{path}: not a NIfTI volume ({last_line(error)})") from None
    return image


def _nifti_geometry(path: Path) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Index-to-LPS matrix and shape, both in (slice, row, column) order."""
    image = open_nifti(path)
    if len(image.shape) != 3:
        raise InputError(f"{path}: {len(image.shape)}-dimensional; give one 3-D volume of HU")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: colour or complex values; give one 3-D volume of HU")
    columns, rows, slices = image.shape
    by_file_axes = RAS_TO_LPS @ image.affine
    return by_file_axes[:, [2, 1, 0, 3]], (slices, rows, columns)


def _read_itk_header(path: Path) -> Any:
    """An ITK reader that has read the file's header."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: not a volume that SimpleITK reads ({last_line(error)})") from None
    return reader


def _itk_geometry(path: Path) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Index-to-LPS matrix and shape, both in (slice, row, column) order."""
    reader = _read_itk_header(path)
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(f"{path}: not one 3-D volume of single values")
    columns, rows, slices = (int(side) for side in reader.GetSize())
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * np.asarray(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()
    return affine[:, [2, 1, 0, 3]], (slices, rows, columns)


def _itk_array(path: Path) -> NDArray[Any]:
    import SimpleITK as sitk

    try:
        array: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise InputError(f"{path}: voxels cannot be read ({last_line(error)})") from None
    return array


def last_line(error: Exception) -> str:
    """Last line of an error's message, or its type's name where there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
