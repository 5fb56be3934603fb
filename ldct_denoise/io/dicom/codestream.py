"""What compressed images say of themselves, read without a decoder."""

from __future__ import annotations

import struct

from ldct_denoise.errors import InputError


def check_codestream_size(code: bytes, rows: int, columns: int) -> None:
    """Refuse a compressed image of another size than the header's before a decoder reserves memory for it.

    Parameters
    ----------
    code : bytes
        JPEG, JPEG-LS or JPEG 2000.
    rows, columns : int
        What the DICOM header says.

    Raises
    ------
    InputError
        With the reason alone.
    """
    size = _jpeg_2000_size(code) if b"\xff\x4f\xff\x51" in code[:4096] else _jpeg_size(code)
    if size is None:
        raise InputError("no compressed image where one should be")
    if size != (rows, columns):
        raise InputError(f"compressed image of {size[0]}×{size[1]} pixels, the header says {rows}×{columns}")


def _jpeg_2000_size(code: bytes) -> tuple[int, int] | None:
    """Rows and columns in the SIZ marker segment (ISO 15444-1 A.5.1)."""
    at = code.index(b"\xff\x4f\xff\x51") + 8
    if len(code) < at + 34:
        return None
    right, bottom, left, top, tile_width, tile_height, *_, parts = struct.unpack(">8LH", code[at : at + 34])
    if parts != 1:
        raise InputError(f"compressed image with {parts} colours")
    rows, columns = bottom - top, right - left
    if min(tile_width, tile_height) < 1 or rows * columns / (tile_width * tile_height) > 4096:
        raise InputError("compressed image with too many tiles")
    return rows, columns


def _jpeg_size(code: bytes) -> tuple[int, int] | None:
    """Rows and columns in the frame header of JPEG and JPEG-LS (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2)."""
    at = 2
    while code[:2] == b"\xff\xd8" and at + 9 < len(code):
        if code[at] != 0xFF:
            return None
        marker = code[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, parts = struct.unpack(">HHB", code[at + 5 : at + 10])
            if parts != 1:
                raise InputError(f"compressed image with {parts} colours")
            return rows, columns
        at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    return None
