"""Read the elements after Pixel Data: private ones of groups above 7FE0, as some scanners write them."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from ldct_denoise.io.dicom.transfer_syntax import UNDEFINED_LENGTH

if TYPE_CHECKING:
    from ldct_denoise.io.dicom.encoding import PixelDataLocation

PIXEL_DATA_GROUP = 0x7FE0
#: More than this after the pixel data is no header, bytes.
MAX_TRAILING_BYTES = 64 << 20
_ITEM_TAG, _END_TAG = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


def add_trailing_elements(stream: BinaryIO, header: Dataset, pixel_data: PixelDataLocation) -> None:
    """Add the elements after Pixel Data to a header. Bytes that are no elements, such as padding, are ignored.

    Parameters
    ----------
    stream : file
        The file, or the inflated data set.
    header : Dataset
        As read before Pixel Data; changed in place.
    pixel_data : PixelDataLocation
    """
    end, size = _end(stream, pixel_data), pixel_data.value_offset + pixel_data.available
    if end is None or not 8 <= size - end <= MAX_TRAILING_BYTES:
        return
    implicit, little = header.original_encoding
    with suppress(Exception):  # padding can fail anywhere inside pydicom
        stream.seek(end)
        trailing = read_dataset(stream, bool(implicit), bool(little), stop_when=_is_before)
        for tag in trailing.keys():  # noqa: SIM118 - iterating a Dataset would decode its values
            element = trailing.get_item(tag)
            length = getattr(element, "length", UNDEFINED_LENGTH)
            is_whole = length == UNDEFINED_LENGTH or len(element.value or b"") == length
            if tag not in header and is_whole:
                header[tag] = element


def _is_before(tag: BaseTag, vr: str | None, length: int) -> bool:
    """Elements are sorted: what should stand before Pixel Data is none."""
    return tag.group <= PIXEL_DATA_GROUP


def _end(stream: BinaryIO, pixel_data: PixelDataLocation) -> int | None:
    """Where Pixel Data ends; None where encapsulated pixel data have no end (PS3.5 A.4)."""
    if pixel_data.length != UNDEFINED_LENGTH:
        return pixel_data.value_offset + pixel_data.length
    offset, size = pixel_data.value_offset, pixel_data.value_offset + pixel_data.available
    while offset + 8 <= size:
        stream.seek(offset)
        group, element, length = struct.unpack("<HHL", stream.read(8))
        if (group, element) == _END_TAG:
            return offset + 8
        if (group, element) != _ITEM_TAG:
            return None
        offset = stream.seek(length, os.SEEK_CUR)
    return None
