"""Read headers of DICOM files that may be damaged or hostile.

Memory is bounded, nothing waits (as on a pipe), and every failure becomes an :class:`InputError` that names the
file.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.encoding import PixelDataLocation
from ldct_denoise.io.dicom.repair import repair_decimals
from ldct_denoise.io.dicom.trailing import add_trailing_elements
from ldct_denoise.io.dicom.transfer_syntax import correct_transfer_syntax
from ldct_denoise.io.quiet import short_message, suppress_warnings

#: Largest header (bytes before the pixel data), and largest deflated data set once inflated, bytes.
MAX_HEADER_BYTES = 256 << 20
MAX_INFLATED_BYTES = 512 << 20
#: Largest ratio of inflated to deflated size (CT images reach 2 to 10), and the size accepted at any ratio, bytes.
MAX_INFLATION_RATIO = 100
SAFE_INFLATED_BYTES = 64 << 20
#: The Transfer Syntax UID of a file stands in its first bytes: only four attributes of 64 bytes come before it.
SYNTAX_BYTES = 4096
_PIXEL_DATA_TAG = (0x7FE0, 0x0010)


@dataclass(frozen=True)
class Header:
    """Header of a DICOM file.

    Parameters
    ----------
    dataset : Dataset
        Attributes before the pixel data and, where all are read, those after it.
    pixel_data : PixelDataLocation, optional
        None where the file ends before the pixel data, or has none.
    """

    dataset: Dataset
    pixel_data: PixelDataLocation | None


def read_header(path: str | Path, attributes: Collection[str | BaseTag] | None = None) -> Header:
    """Read the header of a DICOM file.

    Parameters
    ----------
    path : str or Path
        Give a string where many files are read: Python keeps the parts of every Path in memory for good.
    attributes : collection of str or BaseTag, optional
        Keywords or tags of the attributes to read; all by default. Tags are faster where many files are read.

    Raises
    ------
    InputError
        If the file is not DICOM, or cannot be read.
    """
    with as_input_error(path, "unreadable"), open_regular_file(path) as file:
        stream, meta = inflated(file)
        dataset = pydicom.dcmread(
            stream, force=True, stop_before_pixels=True, specific_tags=list(attributes) if attributes else None
        )
        if meta is not None:
            dataset.file_meta = meta
        _complete_meta(dataset)
        repair_decimals(dataset)
        pixel_data = _locate_pixel_data(stream, dataset)
        if pixel_data is not None:
            correct_transfer_syntax(stream, dataset, pixel_data)
            if attributes is None:
                add_trailing_elements(stream, dataset, pixel_data)
        return Header(dataset, pixel_data)
    raise AssertionError  # the contexts above never suppress an error


@lru_cache(maxsize=1)
def read_shared_header(path: Path, changed_ns: int) -> Header:
    """Read the whole header of a multi-frame file and keep it for the next frames; callers must not change it.

    Parameters
    ----------
    path : Path
    changed_ns : int
        Modification time of the file, so that a changed file is read again.
    """
    return read_header(path)


@contextmanager
def as_input_error(path: str | Path, problem: str) -> Iterator[None]:
    """Turn every error into an InputError: a damaged file can fail anywhere inside pydicom and the decoders."""
    try:
        with suppress_warnings():
            yield
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: {reason}") from None
    except Exception as error:
        raise InputError(f"{path}: {problem} ({short_message(error)})") from None


@contextmanager
def open_regular_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file; anything else is refused, so that a pipe cannot make us wait."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError("not a regular file")
        yield file


def inflated(file: BinaryIO) -> tuple[BinaryIO, FileMetaDataset | None]:
    """The file itself, or the inflated data set of a deflated file and its meta information (PS3.5 A.5)."""
    start = file.read(SYNTAX_BYTES)
    if start[128:132] != b"DICM" and not _starts_like_a_data_set(start[:132]):
        raise InputError("not DICOM")
    file.seek(0)
    if DeflatedExplicitVRLittleEndian.encode() not in start:
        return file, None
    read_preamble(file, force=True)
    group = read_dataset(file, False, True, stop_when=_after_meta)
    meta = FileMetaDataset(group)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return file, None
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    deflated = file.read(MAX_INFLATED_BYTES)
    limit = min(MAX_INFLATED_BYTES, max(SAFE_INFLATED_BYTES, MAX_INFLATION_RATIO * len(deflated)))
    inflated = inflater.decompress(deflated, limit)
    if inflater.unconsumed_tail:
        raise InputError(f"inflates from {len(deflated)} bytes to more than {limit >> 20} MiB")
    return io.BytesIO(inflated), meta


def _after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _starts_like_a_data_set(start: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 2 or 8 of plausible length."""
    if len(start) < 16:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHL", start[:8])
        explicit = start[4:6].isalpha() and start[4:6].isupper()
        if group in (2, 8) and element < 0x3000 and (explicit or length < 1 << 16):
            return True
    return False


def _complete_meta(dataset: Dataset) -> None:
    """Fill in the transfer syntax that the file was read with, and the SOP class, where the file lacks them."""
    meta = dataset.file_meta
    if not meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    if not dataset.get("SOPClassUID") and meta.get("MediaStorageSOPClassUID"):
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    if not dataset.get("SOPClassUID"):
        raise InputError("not a DICOM image (no SOP Class UID)")


def _locate_pixel_data(stream: BinaryIO, dataset: Dataset) -> PixelDataLocation | None:
    """Location of the Pixel Data element that begins where the header was read to."""
    tag_offset = stream.tell()
    implicit, little = dataset.original_encoding
    value = pixel_data_value(stream, tag_offset, bool(implicit), bool(little))
    if value is None:
        return None
    size = stream.seek(0, os.SEEK_END)
    value_offset, length = value
    if tag_offset > MAX_HEADER_BYTES:
        raise InputError(f"header of more than {MAX_HEADER_BYTES >> 20} MiB")
    return PixelDataLocation(tag_offset, value_offset, length, max(0, size - value_offset))


def pixel_data_value(stream: BinaryIO, tag_offset: int, implicit: bool, little: bool) -> tuple[int, int] | None:
    """Find the value of a Pixel Data element (PS3.5 7.1).

    Parameters
    ----------
    stream : binary file
    tag_offset : int
        Position of the element, bytes.
    implicit, little : bool
        Whether the data set is encoded in implicit VR, and in little endian.

    Returns
    -------
    tuple of (int, int), or None
        Position of the value and the length that the element states, bytes; None where no Pixel Data begins here.
    """
    order = "<" if little else ">"
    stream.seek(tag_offset)
    start = stream.read(8)
    if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != _PIXEL_DATA_TAG:
        return None
    if implicit:
        return tag_offset + 8, struct.unpack(f"{order}L", start[4:])[0]
    if start[4:6].decode("latin-1") in EXPLICIT_VR_LENGTH_32:
        long = stream.read(4)
        return (tag_offset + 12, struct.unpack(f"{order}L", long)[0]) if len(long) == 4 else None
    return tag_offset + 8, struct.unpack(f"{order}H", start[6:])[0]
