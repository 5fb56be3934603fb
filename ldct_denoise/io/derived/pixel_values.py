"""Convert HU back to stored values: rounded, clipped, and kept out of the padding range."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from ldct_denoise.io.dicom.padding import padding_range


@dataclass(frozen=True)
class PixelFormat:
    """How an image stores its pixel values.

    Parameters
    ----------
    bits_allocated, bits_stored : int
        Size of a pixel cell and of the value in its low bits (PS3.5 8.1.1).
    signed : bool
        Whether values are in two's complement.
    slope, intercept : float
        ``HU = slope × stored + intercept``.
    padding : tuple of 2 int, optional
        Lowest and highest stored value of padding pixels, inclusive (PS3.3 C.7.5.1.1.2).
    """

    bits_allocated: int
    bits_stored: int
    signed: bool
    slope: float
    intercept: float
    padding: tuple[int, int] | None = None

    @classmethod
    def of(cls, header: Dataset, slope: float, intercept: float) -> PixelFormat:
        """Format stated by a header.

        Parameters
        ----------
        header : Dataset
        slope, intercept : float
            Rescale of the slice.

        Returns
        -------
        PixelFormat
        """
        signed = header.PixelRepresentation == 1
        bits = int(header.BitsStored)
        return cls(int(header.BitsAllocated), bits, signed, slope, intercept, padding_range(header))

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """NumPy type of a cell, little endian."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def lowest(self) -> int:
        """Lowest value that the stored bits hold."""
        return -(1 << (self.bits_stored - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """Highest value that the stored bits hold."""
        return (1 << (self.bits_stored - 1)) - 1 if self.signed else (1 << self.bits_stored) - 1

    def to_stored(self, hu: NDArray[np.floating]) -> NDArray[np.integer]:
        """Nearest stored values of ``hu``, kept out of the padding range."""
        stored = np.rint((np.asarray(hu, dtype=np.float64) - self.intercept) / self.slope)
        stored = np.clip(stored, self.lowest, self.highest)
        if self.padding is not None:
            stored = self._outside_padding(stored, *self.padding)
        return stored.astype(self.dtype)

    def _outside_padding(self, stored: NDArray[np.float64], first: int, last: int) -> NDArray[np.float64]:
        below, above = first - 1, last + 1
        if below < self.lowest and above > self.highest:
            return stored  # the whole range is padding
        up = stored - below >= above - stored  # towards the nearer side; upwards in a tie
        up = (up | (below < self.lowest)) & (above <= self.highest)
        inside = (stored >= first) & (stored <= last)
        return np.where(inside, np.where(up, above, below), stored)


def merge_unused_bits(
    stored: NDArray[np.integer], cells: NDArray[np.integer], form: PixelFormat
) -> NDArray[np.integer]:
    """Put ``stored`` into the low bits of the source's cells and keep the bits above them.

    Old files store overlays in these bits (PS3.5 8.1.1). Where they only repeat the sign, they follow the new
    value.

    Parameters
    ----------
    stored, cells : ndarray, shape (rows, columns)
        New stored values, and the source's cells.
    form : PixelFormat

    Returns
    -------
    ndarray, shape (rows, columns)
    """
    bits = form.bits_stored
    if bits == form.bits_allocated:
        return stored
    unsigned = np.dtype(f"<u{form.bits_allocated // 8}")
    mask = unsigned.type((1 << bits) - 1)
    if np.array_equal(cells, sign_extended(cells, form)):
        return stored
    merged = (stored.view(unsigned) & mask) | (cells.view(unsigned) & ~mask)
    result: NDArray[np.integer] = merged.view(form.dtype)
    return result


def sign_extended(cells: NDArray[np.integer], form: PixelFormat) -> NDArray[np.integer]:
    """Values in the low bits of ``cells``, sign-extended to the whole cell."""
    shift = form.bits_allocated - form.bits_stored
    values: NDArray[np.integer] = np.right_shift(np.left_shift(cells, shift), shift)
    return values


def native_cells(path: Path, header: Dataset, form: PixelFormat) -> NDArray[np.integer] | None:
    """Cells of an uncompressed file, including the bits above the stored ones.

    Parameters
    ----------
    path : Path
        The source file.
    header : Dataset
        Its header, with file meta information.
    form : PixelFormat

    Returns
    -------
    ndarray, shape (rows, columns), or None
        None where the file is compressed or has no bits above the stored ones.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if form.bits_stored == form.bits_allocated or syntax.is_compressed or not path.is_file():
        return None
    values = dcmread(path, force=True, specific_tags=["PixelData"]).PixelData
    shape = (int(header.Rows), int(header.Columns))
    dtype = form.dtype if syntax.is_little_endian else form.dtype.newbyteorder(">")
    return np.frombuffer(values, dtype, shape[0] * shape[1]).reshape(shape).astype(form.dtype)


def set_pixel_statistics(image: Dataset, cells: NDArray[np.integer]) -> None:
    """Update the smallest and largest pixel value where the source states them; padding is excluded.

    See PS3.3 C.7.5.1.1.2 Note 2.
    """
    form = PixelFormat.of(image, 1.0, 0.0)
    values = sign_extended(cells, form)
    if form.padding is not None:
        first, last = form.padding
        native = values[(values < first) | (values > last)]
        values = native if native.size else values
    value_type = "SS" if form.signed else "US"
    for keyword, value in (
        ("SmallestImagePixelValue", values.min()),
        ("LargestImagePixelValue", values.max()),
    ):
        if keyword in image:
            image.add_new(keyword, value_type, int(value))
