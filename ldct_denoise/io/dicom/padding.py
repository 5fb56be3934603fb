"""Padding values of an image."""

from __future__ import annotations

from pydicom.dataset import Dataset


def padding_range(header: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that are padding, or None (PS3.3 C.7.5.1.1.2).

    Values written with the wrong signedness are converted to that of Pixel Representation.
    """
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.get("PixelPaddingRangeLimit")
    ends = [_as_stored(number, header) for number in (value, limit) if isinstance(number, int)]
    return min(ends), max(ends)


def _as_stored(number: int, header: Dataset) -> int:
    size = 1 << int(header.get("BitsAllocated", 16))
    number %= size
    return number - size if header.get("PixelRepresentation") == 1 and number >= size // 2 else number
