"""Volumes in files: NIfTI through nibabel, NRRD and MHA through SimpleITK; read by the slice, written whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError, OutputError
from ldct_denoise.io.dicom.archive import ExtractedArchive
from ldct_denoise.io.dicom.encoding import MAX_FRAMES, MAX_SIDE
from ldct_denoise.io.dicom.filter import AXIAL_COSINE
from ldct_denoise.output import atomic_write, check_writable
from ldct_denoise.volume import Geometry, SeriesMetadata, SliceSource, Volume

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".mha", ".mhd")
#: Written is all that is read but ``.mhd``, which is two files and cannot appear at once.
WRITTEN = (*NIFTI, ".nrrd", ".mha")
#: Begins what a file that was denoised says of itself: NIfTI in its description, the others under a key.
DENOISED = "denoised by ldct-denoise"
MARK_KEY, MARK_LENGTH = "Description", 79
#: NIfTI's axes point right, anterior, superior; ours left, posterior, superior.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: How far off an even spacing a slice may lie that is written to a volume file, in slice spacings.
UNEVEN = 0.1


def is_volume_file(path: str | Path) -> bool:
    """Whether the name is that of a volume that :func:`open_file` reads."""
    return str(path).lower().endswith(NIFTI + ITK)


def identity_of(path: Path) -> str:
    """Place, size and time of a file: written anew, or of the same name elsewhere, it is another."""
    stat = path.stat()
    return f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"


def require_folder(output: Path, series: int) -> None:
    """Refuse the name of one volume file for several series.

    Raises
    ------
    OutputError
        If it is one.
    """
    if series > 1 and is_volume_file(output):
        raise OutputError(f"{output}: names one file, but there are {series} series; give a folder")


def volume_place(source: SliceSource, output: Path, uid: str = "") -> Path:
    """Where a volume goes: ``output`` itself where it names a volume file, else a file in it named as the input.

    ``uid`` names a DICOM series' file; its own by default.
    """
    if is_volume_file(output):
        return output
    if not isinstance(source, FileSeries):
        return output / f"{uid or source.uid}.nii.gz"
    name = source.path.name
    return output / (f"{source.path.stem}.mha" if name.lower().endswith(".mhd") else name)


@dataclass(frozen=True)
class FileSeries:
    """A volume file, read slice by slice.

    Parameters
    ----------
    path : Path
    geometry : Geometry
        The file's slowest axis is the slice axis.
    patient : str
        Name of the file's folder: nothing in such a file states the patient.
    metadata : SeriesMetadata
    keeper : object
        Keeps extracted files until the series is no longer used.
    """

    path: Path
    geometry: Geometry
    patient: str
    metadata: SeriesMetadata
    keeper: Any = field(default=None, compare=False, repr=False)

    @cached_property
    def uid(self) -> str:
        """Digest of the place and size of the file, in the form of a UID."""
        return f"2.25.{int(hashlib.sha256(identity_of(self.path).encode()).hexdigest()[:32], 16)}"

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def __len__(self) -> int:
        return self.geometry.shape[0]

    @cached_property
    def _voxels(self) -> Any:
        return _itk_array(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_voxels"}

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One slice in HU."""
        try:
            if self.path.name.lower().endswith(NIFTI):
                voxels = _kept_open(self.path, self.path.stat().st_mtime_ns, os.getpid())
                return np.asarray(voxels[..., index], dtype=np.float32).T.copy()
            return np.asarray(self._voxels[index], dtype=np.float32)
        except (OSError, EOFError, ValueError) as error:
            raise InputError(f"{self.path}: slice {index} cannot be read ({_line(error)})") from None


def open_file(path: Path, keeper: ExtractedArchive | None = None) -> FileSeries:
    """Open a volume file; voxels are read on demand.

    Parameters
    ----------
    path : Path
    keeper : ExtractedArchive, optional
        Keeps the file until the series is no longer used, where it was extracted from an archive.

    Raises
    ------
    InputError
        If it cannot be read, or is not one 3-D volume.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    affine, shape = _nifti_place(path) if path.name.lower().endswith(NIFTI) else _itk_place(path)
    if not (0 < shape[0] <= MAX_FRAMES and 0 < min(shape[1:]) <= max(shape[1:]) <= MAX_SIDE):
        raise InputError(f"{path}: impossible size of {'×'.join(map(str, reversed(shape)))} voxels")
    geometry = Geometry.from_affine(affine, shape)
    across = "sagittal" if abs(geometry.normal[0]) > abs(geometry.normal[1]) else "coronal"
    lying = abs(geometry.normal[2]) < AXIAL_COSINE
    problems = (f"{across} slices: models learn axial ones; reorder the file's axes",) if lying else ()
    shown = keeper.shown(path) if keeper else path
    metadata = SeriesMetadata(path=shown, first_file=shown, problems=problems)
    return FileSeries(path, geometry, path.resolve().parent.name, metadata, keeper)


def holds_labels(path: Path) -> bool:
    """Whether a NIfTI file says by its intent code that its values are labels, not HU."""
    return path.name.lower().endswith(NIFTI) and _nifti(path).header.get_intent()[0] == "label"


def is_denoised(path: Path) -> bool:
    """Whether a volume file says that this package denoised it."""
    if path.name.lower().endswith(NIFTI):
        told = bytes(_nifti(path).header["descrip"]).decode("ascii", "replace")
    else:
        reader = _itk_reader(path)
        told = reader.GetMetaData(MARK_KEY) if reader.HasMetaDataKey(MARK_KEY) else ""
    return bool(told.startswith(DENOISED))


@lru_cache(maxsize=4)
def _kept_open(path: Path, _written_ns: int, _process: int) -> Any:
    """The voxels of a NIfTI file that stays open: a compressed one is unpacked on from where it was, not anew.

    A process has its own, for a forked one would move the other's place in the file.
    """
    return _nifti(path, keep_file_open=True).dataobj


def _nifti(path: Path, **how: Any) -> Any:
    import nibabel

    try:
        image = nibabel.load(path, **how)
    except Exception as error:
        raise InputError(f"{path}: not a NIfTI volume ({_line(error)})") from None
    return image


def _nifti_place(path: Path) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    image = _nifti(path)
    if len(image.shape) != 3:
        raise InputError(f"{path}: {len(image.shape)}-dimensional; give one 3-D volume of HU")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: colour or complex values; give one 3-D volume of HU")
    columns, rows, slices = image.shape
    by_file_axes = RAS_TO_LPS @ image.affine
    return by_file_axes[:, [2, 1, 0, 3]], (slices, rows, columns)


def _itk_reader(path: Path) -> Any:
    """With the header read."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: not a volume that SimpleITK reads ({_line(error)})") from None
    return reader


def _itk_place(path: Path) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    reader = _itk_reader(path)
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
        raise InputError(f"{path}: voxels cannot be read ({_line(error)})") from None
    return array


def write_volume(
    path: Path,
    slices: Volume | Iterable[NDArray[np.floating[Any]]],
    geometry: Geometry,
    *,
    like: Path | None = None,
    labels: bool = False,
    denoised: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a volume, whole or not at all; the format is told by the name.

    Parameters
    ----------
    path : Path
        ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``.
    slices : Volume or iterable of ndarray
        HU, slice by slice.
    geometry : Geometry
    like : Path, optional
        The input, whose voxel type is kept where it holds whole numbers: values are rounded and clipped to it.
        It is never written over.
    labels : bool
        The values are labels, which a NIfTI file then says.
    denoised : str, optional
        The model that denoised the image, which the file then says, so that it is not denoised again.
    overwrite : bool

    Raises
    ------
    OutputError
        If the file is the input, exists and ``overwrite`` is not given, cannot be written, the name tells no
        format that is written, or the slices lie unevenly, which these formats cannot tell: they would stand at
        places where they were not taken.
    """
    _refuse_place(path, like, overwrite)
    if geometry.unevenness_mm > UNEVEN * geometry.slice_spacing_mm:
        raise OutputError(
            f"{path}: slices lie up to {geometry.unevenness_mm:.1f} mm off an even spacing, which a volume file "
            "cannot tell; give a series without gaps, or write DICOM"
        )
    dtype = _whole_number_type(like)
    hu = np.empty(geometry.shape, dtype=dtype or np.float32)
    source = (slices.read_hu(index) for index in range(len(slices))) if isinstance(slices, Volume) else slices
    for index, one in enumerate(source):
        hu[index] = one if dtype is None else _rounded(one, dtype)
    mark = "" if denoised is None else f"{DENOISED}: {denoised}".encode("ascii", "replace")[:MARK_LENGTH].decode()
    try:
        if path.name.lower().endswith(NIFTI):
            atomic_write(path, lambda part: _write_nifti(part, hu, geometry, labels, mark))
        else:
            atomic_write(path, lambda part: _write_itk(part, hu, geometry, mark))
    except (OSError, RuntimeError) as error:  # SimpleITK's are RuntimeErrors
        reason = getattr(error, "strerror", None) or _line(error)
        raise OutputError(f"{path}: cannot be written ({reason}); make room, or choose another place") from None


def _refuse_place(path: Path, like: Path | None, overwrite: bool) -> None:
    """Refuse a name that must not be written, before anything is computed."""
    if not str(path).lower().endswith(WRITTEN):
        what = "is written as two files" if str(path).lower().endswith(ITK) else "no volume format"
        raise OutputError(f"{path}: {what}; name it {', '.join(reversed(WRITTEN))}")
    if like is not None and path.exists() and like.exists() and path.samefile(like):
        raise OutputError(f"{path}: is the input, which is never changed; give another name")
    check_writable(path, overwrite)


def _rounded(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """Whole numbers that ``dtype`` holds, in float64: float32 has no number as large as int32's largest."""
    low, high = (float(limit) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    if high > np.iinfo(dtype).max:  # nor has float64 one for 64 bits
        high = float(np.nextafter(high, 0))
    return np.clip(np.rint(values.astype(np.float64)), low, high)


def _whole_number_type(like: Path | None) -> np.dtype[Any] | None:
    """The stored type of ``like``, where its values are whole numbers without a scale."""
    if like is None or not like.is_file():
        return None
    if like.name.lower().endswith(NIFTI):
        header = _nifti(like).header
        slope, intercept = header.get_slope_inter()
        plain = slope in (None, 1.0) and intercept in (None, 0.0)
        dtype = np.dtype(header.get_data_dtype()).newbyteorder("=")
    else:
        import SimpleITK as sitk

        plain, dtype = True, sitk.GetArrayFromImage(sitk.ReadImage(str(like))[:1, :1, :1]).dtype
    return dtype if plain and dtype.kind in "iu" else None


def _write_nifti(path: Path, hu: NDArray[Any], geometry: Geometry, labels: bool, mark: str) -> None:
    import nibabel

    affine = RAS_TO_LPS @ geometry.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine, dtype=hu.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    # A qform cannot hold the shear of a gantry tilt; one that is a little off would win over the sform in ITK.
    image.set_qform(affine, code="unknown" if _is_sheared(affine) else "scanner")
    if labels:
        image.header.set_intent("label")
    image.header["descrip"] = mark
    nibabel.save(image, path)


def _is_sheared(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-6)


def _write_itk(path: Path, hu: NDArray[Any], geometry: Geometry, mark: str) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(hu)
    columns = geometry.affine[:3, [2, 1, 0]]
    lengths = np.linalg.norm(columns, axis=0)
    image.SetSpacing([float(length) for length in lengths])
    image.SetDirection([float(value) for value in (columns / lengths).ravel()])
    image.SetOrigin([float(value) for value in geometry.affine[:3, 3]])
    if mark:
        image.SetMetaData(MARK_KEY, mark)
    sitk.WriteImage(image, str(path), useCompression=True)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
