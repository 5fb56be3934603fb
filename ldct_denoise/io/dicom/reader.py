"""Open DICOM files that may be broken or hostile: bounded memory, never a wait, one kind of error."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import get_decoder, pixel_array
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom import decoder_process as isolated
from ldct_denoise.io.dicom.codestream import check_codestream_size
from ldct_denoise.io.dicom.encoding import Encoding
from ldct_denoise.io.quiet import short_message, suppress_warnings

#: Bytes before the pixel data, and of a deflated file once inflated.
MAX_HEADER_BYTES = 256 << 20
MAX_INFLATED_BYTES = 512 << 20
#: Times that a deflated file or an archive grows (CT images: 2 to 10), and what is let through whatever the ratio.
MAX_INFLATION_RATIO = 100
SAFE_INFLATED_BYTES = 64 << 20
#: Items of encapsulated pixel data that are walked through at the most.
MAX_FRAGMENTS = 1 << 20
UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_DATA = (0x7FE0, 0x0010)


class PixelDataLocation(NamedTuple):
    """Where Pixel Data lies, in bytes: its tag, its value, how long it says to be, and how much is there."""

    tag_offset: int
    value_offset: int
    length: int
    available: int


@dataclass(frozen=True)
class Head:
    """What stands before the pixel data."""

    dataset: Dataset
    pixels: PixelDataLocation | None


@contextmanager
def _one_kind_of_error(path: str | Path, what: str) -> Iterator[None]:
    """A broken file can fail anywhere inside pydicom and the decoders, in any way; here it becomes one."""
    try:
        with suppress_warnings():
            yield
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: {reason}") from None
    except Exception as error:
        raise InputError(f"{path}: {what} ({short_message(error)})") from None


@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    """A regular file; anything else is not opened, so that a pipe cannot make us wait."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError("not a regular file")
        yield file


def read_header(path: str | Path, tags: Collection[str] | None = None) -> Head:
    """What stands before the pixel data.

    Parameters
    ----------
    path : str or Path
        A string where many are read: Path keeps every name for good.
    tags : collection of str, optional
        Keywords of the attributes that are wanted; all without.

    Raises
    ------
    InputError
        If this is not DICOM, or cannot be read.
    """
    with _one_kind_of_error(path, "unreadable"), _opened(path) as file:
        stream, meta = _plain_stream(file)
        dataset = pydicom.dcmread(
            stream, force=True, stop_before_pixels=True, specific_tags=list(tags) if tags else None
        )
        if meta is not None:
            dataset.file_meta = meta
        _complete_meta(dataset)
        return Head(dataset, _pixel_element(stream, dataset))
    raise AssertionError  # the contexts above never swallow


@lru_cache(maxsize=1)
def read_shared_header(path: Path, changed_ns: int) -> Head:
    """The whole head of a multi-frame file, whose frames are asked for one after the other; not to be changed."""
    return read_header(path)


def _plain_stream(file: BinaryIO) -> tuple[BinaryIO, FileMetaDataset | None]:
    """The file itself; of a deflated one the inflated data set, with its meta information apart (PS3.5 A.5)."""
    start = file.read(132)
    if start[128:132] != b"DICM" and not _starts_like_a_data_set(start):
        raise InputError("not DICOM")
    file.seek(0)
    read_preamble(file, force=True)
    group = read_dataset(file, False, True, stop_when=_after_meta)
    meta = FileMetaDataset(group)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return file, None
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = file.read(MAX_INFLATED_BYTES)
    limit = min(MAX_INFLATED_BYTES, max(SAFE_INFLATED_BYTES, MAX_INFLATION_RATIO * len(packed)))
    plain = inflater.decompress(packed, limit)
    if inflater.unconsumed_tail:
        raise InputError(f"inflates from {len(packed)} bytes to more than {limit >> 20} MiB")
    return io.BytesIO(plain), meta


def _after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _starts_like_a_data_set(start: bytes) -> bool:
    """Without preamble, a data set begins in group 2 or 8 with a length that makes sense; cheaper than a try."""
    if len(start) < 16:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHL", start[:8])
        explicit = start[4:6].isalpha() and start[4:6].isupper()
        if group in (2, 8) and element < 0x3000 and (explicit or length < 1 << 16):
            return True
    return False


def _complete_meta(dataset: Dataset) -> None:
    """Where the file does not tell its transfer syntax, the one that it was read with."""
    meta = dataset.file_meta
    if not meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    if not dataset.get("SOPClassUID") and meta.get("MediaStorageSOPClassUID"):
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    if not dataset.get("SOPClassUID"):
        raise InputError("not a DICOM image (no SOP Class UID)")


def _pixel_element(stream: BinaryIO, dataset: Dataset) -> PixelDataLocation | None:
    tag_offset = stream.tell()
    implicit, little = dataset.original_encoding
    value = _element_at(stream, tag_offset, bool(implicit), bool(little))
    if value is None:
        return None
    size = stream.seek(0, os.SEEK_END)
    value_offset, length = value
    if tag_offset > MAX_HEADER_BYTES:
        raise InputError(f"header of more than {MAX_HEADER_BYTES >> 20} MiB")
    return PixelDataLocation(tag_offset, value_offset, length, max(0, size - value_offset))


def _element_at(stream: BinaryIO, tag_offset: int, implicit: bool, little: bool) -> tuple[int, int] | None:
    """Where the value of the Pixel Data that begins here begins, and its length (PS3.5 7.1)."""
    order = "<" if little else ">"
    stream.seek(tag_offset)
    start = stream.read(8)
    if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != _PIXEL_DATA:
        return None
    if implicit:
        return tag_offset + 8, struct.unpack(f"{order}L", start[4:])[0]
    if start[4:6].decode("latin-1") in EXPLICIT_VR_LENGTH_32:
        long = stream.read(4)
        return (tag_offset + 12, struct.unpack(f"{order}L", long)[0]) if len(long) == 4 else None
    return tag_offset + 8, struct.unpack(f"{order}H", start[6:])[0]


def why_not_decodable(path: str | Path, pixels: PixelDataLocation | None, encoding: Encoding) -> str | None:
    """What can be said against the pixel data without decoding them, or nothing."""
    if pixels is None:
        return "no pixel data"
    syntax = UID(encoding.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"no decoder for its encoding ({syntax.name})"
    if not decoder.is_available:
        return f"no decoder for its encoding is installed ({syntax.name})"
    if encoding.is_compressed:
        if pixels.length != UNDEFINED_LENGTH:
            return "compressed, but not as its encoding demands (its length is defined)"
        return _why_not_whole(path, pixels)
    needed = encoding.frame_bytes * encoding.frames
    there = min(pixels.length, pixels.available)
    if there < needed:
        return f"truncated: {there} of {needed} bytes of pixel data"
    return None


def _why_not_whole(path: str | Path, pixels: PixelDataLocation) -> str | None:
    """Walk through the items of encapsulated pixel data (PS3.5 A.4)."""
    with _one_kind_of_error(path, "unreadable"), _opened(path) as file:
        at, end, found = pixels.value_offset, pixels.value_offset + pixels.available, 0
        while at + 8 <= end:
            file.seek(at)
            group, element, length = struct.unpack("<HHL", file.read(8))
            if (group, element) != (0xFFFE, 0xE000):
                break
            at, found = at + 8 + length, found + 1
            if found > MAX_FRAGMENTS:
                return f"more than {MAX_FRAGMENTS} pieces of pixel data"
        if at > end:
            return f"truncated: {at - end} bytes of compressed pixel data are missing"
        # The first item is the offset table.
        return None if found >= 2 else "truncated: no compressed pixel data"


def read_frame(path: Path, pixel_offset: int, frame: int, encoding: Encoding) -> NDArray[np.integer[Any]]:
    """Stored values of one frame.

    Parameters
    ----------
    path : Path
    pixel_offset : int
        Where the Pixel Data element begins, in bytes (in the inflated data set of a deflated file).
    frame : int
        Counted from 0.
    encoding : Encoding

    Returns
    -------
    ndarray, shape (rows, columns)

    Raises
    ------
    InputError
        If the file has changed, or the frame cannot be decoded.
    """
    with _one_kind_of_error(path, "pixels cannot be decoded"), _opened(path) as file:
        stream, _ = _plain_stream(file)
        syntax = UID(encoding.syntax)
        implicit = syntax.is_implicit_VR
        value = _element_at(stream, pixel_offset, implicit, syntax.is_little_endian)
        if value is None and not syntax.is_compressed:  # some files are not encoded as they say
            implicit = not implicit
            value = _element_at(stream, pixel_offset, implicit, syntax.is_little_endian)
        if value is None:
            raise InputError("has changed since it was found")
        data = _frame_value(stream, value[0], frame, encoding)
        if encoding.is_compressed and encoding.syntax != RLELossless:
            stored = _stored_bits(isolated.decode(asdict(encoding), data), encoding.bits_stored)
        else:
            stored = pixel_array(encoding.image(data), index=0, raw=True)
        if stored.shape != (encoding.rows, encoding.columns):
            raise InputError(f"decodes to {stored.shape}, not {encoding.rows}×{encoding.columns}")
        return stored
    raise AssertionError  # the contexts above never swallow


def _frame_value(stream: BinaryIO, value_offset: int, frame: int, encoding: Encoding) -> bytes:
    """The bytes of one frame as the value of a Pixel Data of its own."""
    if not encoding.is_compressed:
        stream.seek(value_offset + frame * encoding.frame_bytes)
        data = stream.read(encoding.frame_bytes)
        if len(data) < encoding.frame_bytes:
            raise InputError(f"truncated: {len(data)} of {encoding.frame_bytes} bytes of a frame")
        return data
    stream.seek(value_offset)
    code = get_frame(stream, frame, number_of_frames=encoding.frames)
    if encoding.syntax != RLELossless:
        check_codestream_size(code, encoding.rows, encoding.columns)
    return encapsulate([code])


def _stored_bits(cells: NDArray[np.integer[Any]], bits: int) -> NDArray[np.integer[Any]]:
    """The value in the low bits of each cell (PS3.5 8.1.1), as pydicom gives it of uncompressed cells alone."""
    shift = 8 * cells.dtype.itemsize - bits
    if shift <= 0:
        return cells
    values: NDArray[np.integer[Any]] = np.right_shift(np.left_shift(cells, shift), shift)
    return values
