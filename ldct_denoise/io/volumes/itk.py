"""Headers of NRRD and MetaImage files, through SimpleITK, and where their voxels are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.io.volumes.header import MARK_KEY, VolumeHeader, last_line
from ldct_denoise.io.volumes.stored_type import StoredType
from ldct_denoise.io.volumes.voxels import Compression, VoxelLayout

NRRD_SUFFIXES = (".nrrd", ".nhdr")
METAIMAGE_SUFFIXES = (".mha", ".mhd")
#: Suffixes of headers whose voxels are in another file.
DETACHED_SUFFIXES = (".nhdr", ".mhd")
ITK_SUFFIXES = NRRD_SUFFIXES + METAIMAGE_SUFFIXES
#: Longest text header that is read.
MAX_HEADER_BYTES = 1 << 20
_NRRD_ENCODINGS: dict[str, Compression] = {"raw": "none", "gzip": "gzip", "gz": "gzip"}


def read_itk_header(path: Path) -> VolumeHeader:
    """Read the header of an NRRD or MetaImage file.

    Raises
    ------
    InputError
        If it is not one 3-D volume of single real numbers.
    """
    reader = _reader(path)
    size = [int(side) for side in reader.GetSize()]
    if reader.GetNumberOfComponents() != 1 or len(size) < 3 or any(side != 1 for side in size[3:]):
        shown = f"{len(size)}-dimensional, {'×'.join(map(str, size))} voxels"
        raise InputError(f"{path}: not one 3-D volume of single values ({shown}); give one 3-D volume of HU")
    dtype = _dtypes().get(reader.GetPixelID())
    if dtype is None:
        raise InputError(f"{path}: colour or complex values; give one 3-D volume of HU")
    columns, rows, slices = size[:3]
    dimensions = len(size)
    affine = np.eye(4)
    direction = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    affine[:3, :3] = direction * np.asarray(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    return VolumeHeader(
        affine=affine[:, [2, 1, 0, 3]],
        layout=_layout(path, (slices, rows, columns), dtype),
        stored_type=StoredType(dtype),
        mark=reader.GetMetaData(MARK_KEY) if reader.HasMetaDataKey(MARK_KEY) else "",
    )


def _reader(path: Path) -> Any:
    """A SimpleITK reader that has read the file's header."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: not a volume that SimpleITK reads ({last_line(error)})") from None
    return reader


@cache
def _dtypes() -> dict[int, np.dtype[Any]]:
    import SimpleITK as sitk

    pixels = {
        sitk.sitkUInt8: np.uint8, sitk.sitkInt8: np.int8, sitk.sitkUInt16: np.uint16, sitk.sitkInt16: np.int16,
        sitk.sitkUInt32: np.uint32, sitk.sitkInt32: np.int32, sitk.sitkUInt64: np.uint64, sitk.sitkInt64: np.int64,
        sitk.sitkFloat32: np.float32, sitk.sitkFloat64: np.float64,
    }  # fmt: skip
    return {pixel: np.dtype(dtype) for pixel, dtype in pixels.items()}


# Where the voxels are ---------------------------------------------------------------------------------------


def _layout(path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> VoxelLayout:
    """Layout of the voxels; where the header describes one that is rare, SimpleITK reads the whole volume."""
    try:
        find = _nrrd_layout if path.name.lower().endswith(NRRD_SUFFIXES) else _metaimage_layout
        return find(path, shape, dtype)
    except (KeyError, ValueError, OSError):
        return VoxelLayout(path, shape, dtype, compression="itk")


def data_files(path: Path) -> tuple[Path, ...]:
    """The file of the voxels, if the header is detached and names a single one that exists."""
    if not path.name.lower().endswith(DETACHED_SUFFIXES):
        return ()
    try:
        fields, _ = _nrrd_fields(path) if path.name.lower().endswith(NRRD_SUFFIXES) else _metaimage_fields(path)
        name = fields.get("data file") or fields.get("datafile") or fields.get("elementdatafile", "")
        return (_next_to(path, name),)
    except (InputError, KeyError, ValueError, OSError):
        return ()


def _next_to(path: Path, name: str) -> Path:
    """The data file that a detached header names."""
    found = path.parent / name
    if not name or name.upper().startswith("LIST") or "%" in name:
        raise ValueError(f"no single data file {name!r}")
    if not found.is_file():
        raise InputError(f"{path}: its data file {name} is missing; put it into the same folder")
    return found


def _nrrd_layout(path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> VoxelLayout:
    """Layout of an NRRD file (Teem's NRRD0005, "Basic field specifications")."""
    fields, end = _nrrd_fields(path)
    if int(fields.get("line skip", fields.get("lineskip", 0))) != 0:
        raise ValueError("lines to skip")
    compression = _NRRD_ENCODINGS[fields["encoding"].lower()]
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    name = fields.get("data file") or fields.get("datafile")
    data, start = (_next_to(path, name), 0) if name else (path, end)
    if skip < 0:
        raise ValueError("voxels at the end of the file")
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder({"little": "<", "big": ">"}[fields["endian"].lower()])  # type: ignore[arg-type]
    if compression == "none":
        return VoxelLayout(data, shape, dtype, offset=start + skip)
    return VoxelLayout(data, shape, dtype, offset=skip, compression=compression, start=start)


def _nrrd_fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields of an NRRD header in lower case, and the position after the blank line that ends it."""
    text, end = _header_lines(path, lambda line: line == "")
    fields = [line.split(":", 1) for line in text[1:] if ":" in line and not line.startswith("#")]
    return {key.strip().lower(): value.strip() for key, value in fields if not value.startswith("=")}, end


def _metaimage_layout(path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> VoxelLayout:
    """Layout of a MetaImage file (ITK's MetaIO documentation, "Quick Start")."""
    fields, end = _metaimage_fields(path)
    if fields.get("binarydata", "true").lower() != "true" or int(fields.get("headersize", 0)) != 0:
        raise ValueError("text, or a header of unknown size")
    name = fields["elementdatafile"]
    data, start = (path, end) if name.upper() == "LOCAL" else (_next_to(path, name), 0)
    is_big = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "false")).lower() == "true"
    dtype = dtype.newbyteorder(">" if is_big else "<")
    if fields.get("compresseddata", "false").lower() != "true":
        return VoxelLayout(data, shape, dtype, offset=start)
    return VoxelLayout(data, shape, dtype, compression="zlib", start=start)


def _metaimage_fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a MetaImage header with keys in lower case, and the position after the last one."""
    text, end = _header_lines(path, lambda line: line.lower().replace(" ", "").startswith("elementdatafile="))
    fields = [line.split("=", 1) for line in text if "=" in line]
    return {key.strip().lower(): value.strip() for key, value in fields}, end


def _header_lines(path: Path, is_last: Any) -> tuple[list[str], int]:
    """Lines of a text header up to the last one, and the position after it."""
    lines = []
    with path.open("rb") as file:
        while file.tell() < MAX_HEADER_BYTES:
            raw = file.readline(MAX_HEADER_BYTES)
            lines.append(raw.decode("latin-1").strip())
            if not raw or is_last(lines[-1]):
                return lines, file.tell()
    raise ValueError("no end of the header")


# Writing ----------------------------------------------------------------------------------------------------


def save_itk(path: Path, voxels: NDArray[Any], header: VolumeHeader) -> None:
    """Write an NRRD or MHA file.

    Parameters
    ----------
    path : Path
    voxels : ndarray, shape (slices, rows, columns)
        Stored values, which are HU.
    header : VolumeHeader
        What the file states; the layout and the scale are ignored.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels)
    columns = header.affine[:3, [2, 1, 0]]
    lengths = np.linalg.norm(columns, axis=0)
    image.SetSpacing([float(length) for length in lengths])
    image.SetDirection([float(value) for value in (columns / lengths).ravel()])
    image.SetOrigin([float(value) for value in header.affine[:3, 3]])
    if header.mark:
        image.SetMetaData(MARK_KEY, header.mark)
    sitk.WriteImage(image, str(path), useCompression=True)
