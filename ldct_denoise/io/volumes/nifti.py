"""Headers of NIfTI files, through nibabel: coordinates, scale, and where the voxels are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.io.volumes.header import VolumeHeader, last_line
from ldct_denoise.io.volumes.stored_type import StoredType
from ldct_denoise.io.volumes.voxels import VoxelLayout, is_gzip, read_start

NIFTI_SUFFIXES = (".nii", ".nii.gz")
#: NIfTI's axes point right, anterior, superior; ours left, posterior, superior.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Sizes of the two headers; each is the first value of its file.
_NIFTI1_SIZE, _NIFTI2_SIZE = 348, 540
#: Spatial units (xyzt_units & 7) in mm; an unknown one counts as mm, as in ITK.
_UNIT_MM = {1: 1000.0, 3: 0.001}
#: Two spacings or positions that differ by less are equal: relative, and in mm.
SPACING_TOLERANCE, POSITION_TOLERANCE_MM = 0.01, 0.1


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def read_nifti_header(path: Path) -> VolumeHeader:
    """Read the header of a NIfTI file; gzip is recognised by the content, not by the name.

    Raises
    ------
    InputError
        If it is not a NIfTI file with one 3-D volume of real numbers.
    """
    header = _header(path)
    size = header.get_data_shape()
    if len(size) < 3 or any(side != 1 for side in size[3:]):
        raise InputError(f"{path}: {_wrong_size(size)}; give one 3-D volume of HU")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: colour or complex values; give one 3-D volume of HU")
    columns, rows, slices = (int(side) for side in size[:3])
    affine, problems = _ras_affine(path, header)
    layout = VoxelLayout(
        path=path,
        shape=(slices, rows, columns),
        dtype=dtype,
        offset=header.get_data_offset(),
        compression="gzip" if is_gzip(path) else "none",
    )
    return VolumeHeader(
        affine=(RAS_TO_LPS @ affine)[:, [2, 1, 0, 3]],
        layout=layout,
        stored_type=_stored_type(path, header, dtype.newbyteorder("=")),
        is_labels=header.get_intent()[0] == "label",
        mark=bytes(header["descrip"]).decode("ascii", "replace"),
        nifti_codes=(int(header["qform_code"]), int(header["sform_code"])),
        problems=problems,
    )


def _wrong_size(size: tuple[int, ...]) -> str:
    if len(size) < 3:
        return f"{len(size)}-dimensional"
    volumes = int(np.prod(size[3:], dtype=np.int64))
    return f"{len(size)}-dimensional with {volumes} volumes"


def _header(path: Path) -> Any:
    import nibabel

    try:
        start = read_start(path, _NIFTI2_SIZE)
        sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
        if not sizes & {_NIFTI1_SIZE, _NIFTI2_SIZE}:  # nibabel would guess, and log it
            raise ValueError("no header of a single NIfTI file")
        kind = nibabel.Nifti2Header if _NIFTI2_SIZE in sizes else nibabel.Nifti1Header
        header = kind.from_fileobj(io.BytesIO(start))
        if bytes(header["magic"])[:2] != b"n+":
            raise ValueError("no header of a single NIfTI file")
    except Exception as error:
        raise InputError(f"{path}: not a NIfTI volume ({last_line(error)})") from None
    return header


def _stored_type(path: Path, header: Any, dtype: np.dtype[Any]) -> StoredType:
    """Type and scale; a slope of 0 or NaN means that values are not scaled (NIfTI-1, scl_slope)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return StoredType(dtype)
    if not np.isfinite(intercept):
        raise InputError(f"{path}: scl_slope is {slope:g} but scl_inter is {intercept}; write a finite scl_inter")
    return StoredType(dtype, slope, intercept)


# Coordinates ------------------------------------------------------------------------------------------------


def _ras_affine(path: Path, header: Any) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Matrix from (column, row, slice) index to RAS mm, and contradictions between sform, qform and pixdim.

    The sform counts, unless its spacing contradicts pixdim and the qform's does not, or it has lost the spacing
    (unit columns).
    """
    zooms = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    sform, qform = _sform(header), _qform(path, header)
    affine: NDArray[np.float64] | None
    problems: tuple[str, ...] = ()
    if sform is None and qform is None:
        affine = np.asarray(header.get_base_affine(), dtype=np.float64)
        problems = ("no orientation in the file (qform and sform codes are 0); axes are taken as x, y, z",)
    elif sform is None:
        affine = qform
    else:
        affine, problems = _checked_sform(sform, qform, zooms)
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(f"{path}: sform or qform is not a position in space; write a valid sform")
    affine = affine.copy()
    affine[:3] *= _UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine, problems


def _checked_sform(
    sform: NDArray[np.float64], qform: NDArray[np.float64] | None, zooms: NDArray[np.float64]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if not _equal(lengths, zooms):
        shown = f"sform spacing {_spacing(lengths)} mm, pixdim {_spacing(zooms)} mm"
        if qform is not None:
            return qform, (f"sform and qform disagree ({shown}); the qform is used",)
        if _equal(lengths, np.ones(3)) and zooms.min() > 0:
            scaled = sform.copy()
            scaled[:3, :3] *= zooms / lengths
            return scaled, (f"the sform has lost the spacing ({shown}); pixdim is used",)
        if _equal(zooms, np.ones(3)) or zooms.min() == 0:
            return sform, ()
        return sform, (f"sform and pixdim disagree ({shown}); the sform is used",)
    if qform is not None and np.abs(sform - qform).max() > POSITION_TOLERANCE_MM:
        return sform, ("sform and qform place the volume differently; the sform is used",)
    return sform, ()


def _sform(header: Any) -> NDArray[np.float64] | None:
    return np.asarray(header.get_sform(), dtype=np.float64) if int(header["sform_code"]) > 0 else None


def _qform(path: Path, header: Any) -> NDArray[np.float64] | None:
    if int(header["qform_code"]) <= 0:
        return None
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except Exception as error:  # an impossible quaternion
        if int(header["sform_code"]) > 0:
            return None
        raise InputError(f"{path}: the qform is impossible ({last_line(error)}); write a valid one") from None


def _equal(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    return bool(np.allclose(first, second, rtol=SPACING_TOLERANCE, atol=1e-6))


def _spacing(values: NDArray[np.float64]) -> str:
    return "×".join(f"{value:.4g}" for value in values)


# Writing ----------------------------------------------------------------------------------------------------


def save_nifti(
    path: Path,
    voxels: NDArray[Any],
    header: VolumeHeader,
) -> None:
    """Write a NIfTI file.

    Parameters
    ----------
    path : Path
    voxels : ndarray, shape (slices, rows, columns)
        Stored values.
    header : VolumeHeader
        What the file states; the layout is ignored.
    """
    import nibabel

    stored = header.stored_type
    affine = RAS_TO_LPS @ header.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    qform_code, sform_code = header.nifti_codes
    # A qform cannot store the shear of a gantry tilt, and ITK would prefer a slightly wrong qform to the sform.
    if is_sheared(affine):
        qform_code, sform_code = 0, max(sform_code, 1)
    has_codes = bool(qform_code or sform_code)
    image.set_sform(affine if has_codes else None, code=sform_code)
    image.set_qform(affine if has_codes else None, code=qform_code)
    if stored.is_scaled:
        image.header.set_slope_inter(stored.slope, stored.intercept)
    if header.is_labels:
        image.header.set_intent("label")
    image.header["descrip"] = header.mark
    nibabel.save(image, path)


def is_sheared(affine: NDArray[np.float64]) -> bool:
    """Whether the axes of a matrix are not perpendicular."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-6)
