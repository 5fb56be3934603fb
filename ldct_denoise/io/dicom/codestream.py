"""Read the image size from JPEG, JPEG-LS and JPEG 2000 codestreams without a decoder."""

from __future__ import annotations

import struct

from ldct_denoise.errors import InputError

_JPEG_2000_START = b"\xff\x4f\xff\x51"


def check_codestream_size(codestream: bytes, rows: int, columns: int) -> None:
    """Refuse a compressed image of another size than the header's, before a decoder reserves memory for it.

    Parameters
    ----------
    codestream : bytes
        JPEG, JPEG-LS or JPEG 2000.
    rows, columns : int
        Size that the DICOM header states.

    Raises
    ------
    InputError
        If the size differs or cannot be found. The message is the reason alone, without the file.
    """
    is_jpeg_2000 = _JPEG_2000_START in codestream[:4096]
    size = _jpeg_2000_size(codestream) if is_jpeg_2000 else _jpeg_size(codestream)
    if size is None:
        raise InputError("no compressed image where one should be")
    if size != (rows, columns):
        raise InputError(f"compressed image of {size[0]}×{size[1]} pixels, the header says {rows}×{columns}")


def _jpeg_2000_size(codestream: bytes) -> tuple[int, int] | None:
    """Rows and columns in the SIZ marker segment (ISO 15444-1 A.5.1)."""
    at = codestream.index(_JPEG_2000_START) + 8
    if len(codestream) < at + 34:
        return None
    right, bottom, left, top, tile_width, tile_height, *_, components = struct.unpack(
        ">8LH", codestream[at : at + 34]
    )
    if components != 1:
        raise InputError(f"compressed image with {components} colours")
    rows, columns = bottom - top, right - left
    if min(tile_width, tile_height) < 1 or rows * columns / (tile_width * tile_height) > 4096:
        raise InputError("compressed image with too many tiles")
    return rows, columns


def _jpeg_size(codestream: bytes) -> tuple[int, int] | None:
    """Rows and columns in the frame header of JPEG and JPEG-LS (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2)."""
    at = 2
    while codestream[:2] == b"\xff\xd8" and at + 9 < len(codestream):
        if codestream[at] != 0xFF:
            return None
        marker = codestream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, components = struct.unpack(">HHB", codestream[at + 5 : at + 10])
            if components != 1:
                raise InputError(f"compressed image with {components} colours")
            return rows, columns
        at += 2 + int.from_bytes(codestream[at + 2 : at + 4], "big")
    return None
