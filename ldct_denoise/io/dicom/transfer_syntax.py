"""Correct a Transfer Syntax UID that the pixel data contradict.

Some exports decompress images and leave the compressed syntax in File Meta Information, or compress and leave the
native one. The length of the pixel data and the beginning of the codestream show how they are really encoded.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, BinaryIO

from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

if TYPE_CHECKING:
    from ldct_denoise.io.dicom.encoding import PixelDataLocation

UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM_TAG = (0xFFFE, 0xE000)
_SEARCHED_BYTES = 4096
#: Syntaxes that a kind of codestream may have; the first replaces a false one.
_SYNTAXES: dict[str, tuple[UID, ...]] = {
    "JPEG-LS": (JPEGLSLossless, JPEGLSNearLossless),
    "near-lossless JPEG-LS": (JPEGLSNearLossless, JPEGLSLossless),
    "JPEG 2000": (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL),
    "lossless JPEG": (JPEGLossless, JPEGLosslessSV1),
    "baseline JPEG": (JPEGBaseline8Bit, JPEGExtended12Bit),
    "extended JPEG": (JPEGExtended12Bit,),
    "RLE": (RLELossless,),
}
#: Start-of-frame markers of JPEG (ISO 10918-1 B.1.1.3).
_FRAMES = {0xC0: "baseline JPEG", 0xC1: "extended JPEG", 0xC3: "lossless JPEG"}


def correct_transfer_syntax(stream: BinaryIO, header: Dataset, pixel_data: PixelDataLocation) -> None:
    """Replace a Transfer Syntax UID that is certainly false.

    Parameters
    ----------
    stream : file
        The file, or the inflated data set.
    header : Dataset
        With file meta information, which is changed in place.
    pixel_data : PixelDataLocation
    """
    stated = UID(header.file_meta.TransferSyntaxUID)
    is_encapsulated = pixel_data.length == UNDEFINED_LENGTH
    if not is_encapsulated and stated.is_encapsulated and pixel_data.length == _native_length(header):
        implicit, little = header.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    elif is_encapsulated:
        fitting = _SYNTAXES.get(_codestream_kind(stream, pixel_data.value_offset))
        if fitting and stated not in fitting:
            header.file_meta.TransferSyntaxUID = fitting[0]


def _native_length(header: Dataset) -> int | None:
    """Length of uncompressed pixel data, padded to even; None where the header is incomplete."""
    try:
        cells = int(header.Rows) * int(header.Columns) * int(header.get("NumberOfFrames") or 1)
        size = cells * int(header.BitsAllocated) // 8 * int(header.get("SamplesPerPixel") or 1)
    except (AttributeError, TypeError, ValueError):
        return None
    return size + size % 2 if size else None


def _codestream_kind(stream: BinaryIO, value_offset: int) -> str:
    """Kind of the first fragment of encapsulated pixel data (PS3.5 A.4); empty where it is not known."""
    stream.seek(value_offset)
    table = stream.read(8)
    if len(table) < 8 or struct.unpack("<HH", table[:4]) != _ITEM_TAG:
        return ""
    stream.seek(struct.unpack("<L", table[4:])[0], os.SEEK_CUR)
    item = stream.read(8)
    start = stream.read(_SEARCHED_BYTES)
    if len(item) < 8 or len(start) < 64:
        return ""
    if start.startswith(b"\xff\x4f\xff\x51"):
        return "JPEG 2000"
    if start.startswith(b"\xff\xd8"):
        return _jpeg_kind(start)
    segments, first = struct.unpack("<LL", start[:8])
    return "RLE" if 1 <= segments <= 15 and first == 64 else ""


def _jpeg_kind(start: bytes) -> str:
    """Kind of a JPEG or JPEG-LS codestream, by its start-of-frame marker; NEAR stands in the start of scan."""
    at, kind = 2, ""
    while at + 4 <= len(start) and start[at] == 0xFF:
        marker = start[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _FRAMES:
            return _FRAMES[marker]
        if marker == 0xF7:
            kind = "JPEG-LS"
        if marker == 0xDA:
            components = start[at + 4] if at + 4 < len(start) else 0
            near = at + 5 + 2 * components
            return "near-lossless JPEG-LS" if kind and near < len(start) and start[near] else kind
        at += 2 + int.from_bytes(start[at + 2 : at + 4], "big")
    return kind
