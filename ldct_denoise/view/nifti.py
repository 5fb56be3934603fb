"""A CT series as an uncompressed NIfTI-1 file that is built slice by slice, so that memory stays flat."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.io.volumes.nifti import RAS_TO_LPS
from ldct_denoise.volume import SliceSource

#: Bytes before the first voxel: the header and an empty extension flag.
HEADER_BYTES = 352


class NiftiFile:
    """The bytes of a NIfTI-1 file of a series; any range of them can be read without the rest.

    Voxels are int16 HU if the HU are whole numbers, else float32. Only three slices are looked at beforehand; if a
    later slice does not fit int16 exactly, reading it raises :class:`NotInt16Error` and the file becomes float32.

    Parameters
    ----------
    source : SliceSource
    """

    def __init__(self, source: SliceSource) -> None:
        self.source = source
        self._reading = threading.Lock()
        probes = {0, len(source) // 2, len(source) - 1}
        whole = all(_fits_int16(source.read_hu(index)) for index in probes)
        self.dtype: np.dtype[np.int16] | np.dtype[np.float32] = np.dtype("<i2" if whole else "<f4")

    @property
    def pixel_type(self) -> str:
        """``int16`` or ``float32``."""
        return self.dtype.name

    @property
    def slice_bytes(self) -> int:
        """Size of one slice."""
        _, rows, columns = self.source.geometry.shape
        return rows * columns * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return HEADER_BYTES + len(self.source) * self.slice_bytes

    @property
    def affine(self) -> NDArray[np.float64]:
        """4×4 matrix from voxel index (column, row, slice) to NIfTI's RAS coordinates in mm."""
        matrix: NDArray[np.float64] = RAS_TO_LPS @ self.source.geometry.affine[:, [2, 1, 0, 3]]
        return matrix

    @property
    def header(self) -> bytes:
        """The first :data:`HEADER_BYTES` bytes."""
        import nibabel

        slices, rows, columns = self.source.geometry.shape
        header = nibabel.Nifti1Header(endianness="<")
        header.set_data_dtype(self.dtype)
        header.set_data_shape((columns, rows, slices))
        header.set_sform(self.affine, code="scanner")
        header.set_zooms(self.source.geometry.spacing_mm[::-1])
        header.set_xyzt_units("mm")
        header.set_slope_inter(1, 0)
        header["magic"], header["vox_offset"] = b"n+1", HEADER_BYTES
        return header.binaryblock.ljust(HEADER_BYTES, b"\0")

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` (exclusive) of the file, one slice at a time.

        Raises
        ------
        InputError
            If a slice cannot be read.
        NotInt16Error
            If a slice does not fit int16; the file is float32 from then on.
        """
        if start < HEADER_BYTES:
            yield self.header[start : min(stop, HEADER_BYTES)]
        size = self.slice_bytes
        first, last = max(start - HEADER_BYTES, 0) // size, -(-(stop - HEADER_BYTES) // size)
        for index in range(first, last):
            begin = HEADER_BYTES + index * size
            yield self._slice(index)[max(start - begin, 0) : stop - begin]

    def _slice(self, index: int) -> bytes:
        with self._reading:
            hu = self.source.read_hu(index)
        if self.dtype.kind == "i" and not _fits_int16(hu):
            self.dtype = np.dtype("<f4")
            raise NotInt16Error(index)
        return hu.astype(self.dtype).tobytes()


class NotInt16Error(Exception):
    """A slice that int16 does not hold exactly."""


def _fits_int16(hu: NDArray[np.float32]) -> bool:
    limits = np.iinfo(np.int16)
    return bool(hu.min() >= limits.min and hu.max() <= limits.max and np.array_equal(hu, np.rint(hu)))
