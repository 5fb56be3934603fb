"""Check and decode the pixel data of DICOM files that may be damaged or hostile."""

from __future__ import annotations

import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID, RLELossless

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom import decoder_process
from ldct_denoise.io.dicom.codestream import check_codestream_size
from ldct_denoise.io.dicom.encoding import Encoding, PixelDataLocation
from ldct_denoise.io.dicom.header import (
    as_input_error,
    inflated,
    open_regular_file,
    pixel_data_value,
)
from ldct_denoise.io.inventory import Exclusion, ExclusionKind

#: Largest number of fragments of encapsulated pixel data.
MAX_FRAGMENTS = 1 << 20
UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM_TAG = (0xFFFE, 0xE000)


def pixel_data_exclusion(
    path: str | Path, pixel_data: PixelDataLocation | None, encoding: Encoding
) -> Exclusion | None:
    """Reason why the pixel data cannot be decoded, found without decoding, or None.

    Parameters
    ----------
    path : str or Path
    pixel_data : PixelDataLocation, optional
    encoding : Encoding
        Encoding that the header states.
    """
    problem = _pixel_data_problem(path, pixel_data, encoding)
    return Exclusion(ExclusionKind.LOST_SLICE, problem) if problem else None


def _pixel_data_problem(path: str | Path, pixel_data: PixelDataLocation | None, encoding: Encoding) -> str:
    if pixel_data is None:
        return "no pixel data"
    syntax = UID(encoding.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"no decoder for its encoding ({syntax.name})"
    if not decoder.is_available:
        return f"no decoder for its encoding is installed ({syntax.name})"
    if encoding.is_compressed:
        if pixel_data.length != UNDEFINED_LENGTH:
            return (
                f"Transfer Syntax says {syntax.name}, but the pixel data have a defined length, as native ones,"
                " which does not fit the image; correct Transfer Syntax UID (0002,0010)"
            )
        return _fragment_problem(path, pixel_data)
    needed = encoding.frame_bytes * encoding.frames
    available = min(pixel_data.length, pixel_data.available)
    return f"truncated: {available} of {needed} bytes of pixel data" if available < needed else ""


def _fragment_problem(path: str | Path, pixel_data: PixelDataLocation) -> str:
    """Walk through the items of encapsulated pixel data (PS3.5 A.4)."""
    with as_input_error(path, "unreadable"), open_regular_file(path) as file:
        offset, end, items = pixel_data.value_offset, pixel_data.value_offset + pixel_data.available, 0
        while offset + 8 <= end:
            file.seek(offset)
            group, element, length = struct.unpack("<HHL", file.read(8))
            if (group, element) != _ITEM_TAG:
                break
            offset, items = offset + 8 + length, items + 1
            if items > MAX_FRAGMENTS:
                return f"more than {MAX_FRAGMENTS} fragments of pixel data"
        if offset > end:
            return f"truncated: {offset - end} bytes of compressed pixel data are missing"
        # The first item is the offset table.
        return "" if items >= 2 else "truncated: no compressed pixel data"


def read_frame(path: Path, pixel_offset: int, frame: int, encoding: Encoding) -> NDArray[np.integer[Any]]:
    """Read the stored values of one frame.

    Parameters
    ----------
    path : Path
    pixel_offset : int
        Position of the Pixel Data element, bytes (in the inflated data set of a deflated file).
    frame : int
        Index of the frame, from 0.
    encoding : Encoding

    Returns
    -------
    ndarray, shape (rows, columns)

    Raises
    ------
    InputError
        If the file has changed, or the frame cannot be decoded.
    """
    with as_input_error(path, "pixels cannot be decoded"), open_regular_file(path) as file:
        stream, _ = inflated(file)
        syntax = UID(encoding.syntax)
        implicit = syntax.is_implicit_VR
        value = pixel_data_value(stream, pixel_offset, implicit, syntax.is_little_endian)
        if value is None and not syntax.is_compressed:  # some files are not encoded as they state
            implicit = not implicit
            value = pixel_data_value(stream, pixel_offset, implicit, syntax.is_little_endian)
        if value is None:
            raise InputError("has changed since it was found")
        data = _frame_data(stream, value[0], frame, encoding)
        if encoding.is_compressed and encoding.syntax != RLELossless:
            stored = _keep_stored_bits(decoder_process.decode(asdict(encoding), data), encoding.bits_stored)
        else:
            stored = pixel_array(encoding.image(data), index=0, raw=True)
        if stored.shape != (encoding.rows, encoding.columns):
            raise InputError(f"decodes to {stored.shape}, not {encoding.rows}×{encoding.columns}")
        return stored
    raise AssertionError  # the contexts above never suppress an error


def _frame_data(stream: BinaryIO, value_offset: int, frame: int, encoding: Encoding) -> bytes:
    """Bytes of one frame, as the value of a Pixel Data element of a single frame."""
    if not encoding.is_compressed:
        stream.seek(value_offset + frame * encoding.frame_bytes)
        data = stream.read(encoding.frame_bytes)
        if len(data) < encoding.frame_bytes:
            raise InputError(f"truncated: {len(data)} of {encoding.frame_bytes} bytes of a frame")
        return data
    stream.seek(value_offset)
    codestream = get_frame(stream, frame, number_of_frames=encoding.frames)
    if encoding.syntax != RLELossless:
        check_codestream_size(codestream, encoding.rows, encoding.columns)
    return encapsulate([codestream])


def _keep_stored_bits(cells: NDArray[np.integer[Any]], bits: int) -> NDArray[np.integer[Any]]:
    """Value in the low bits of each cell (PS3.5 8.1.1); pydicom does this for uncompressed cells only."""
    shift = 8 * cells.dtype.itemsize - bits
    if shift <= 0:
        return cells
    values: NDArray[np.integer[Any]] = np.right_shift(np.left_shift(cells, shift), shift)
    return values
