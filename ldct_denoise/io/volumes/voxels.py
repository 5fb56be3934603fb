"""Read single slices of a volume file: only their bytes are read, also from compressed files."""

from __future__ import annotations

import gzip
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import indexed_gzip
import numpy as np
from numpy.typing import NDArray

Compression = Literal["none", "gzip", "zlib", "itk"]
GZIP_SIGNATURE = b"\x1f\x8b"
#: Gzip header of a deflate stream without name and time (RFC 1952, 2.3).
_GZIP_HEADER = GZIP_SIGNATURE + b"\x08\0\0\0\0\0\0\xff"
#: Length of zlib's header (RFC 1950, 2.2); gzip's trailer is 8 bytes long, zlib's 4.
_ZLIB_HEADER_LENGTH, _GZIP_TRAILER_LENGTH = 2, 8
#: Compressed files that a process keeps open, with an index of where inflating can begin.
MAX_OPEN_STREAMS = 32
#: Inflated bytes between two entries of the index; an entry takes 32 KiB of memory.
INDEX_SPACING = 4 << 20
#: Bytes that are inflated at once where slices are read in order; each read begins at an entry of the index.
READ_AHEAD = 8 << 20
_BUFFER_SIZE = 1 << 16


@dataclass(frozen=True)
class VoxelLayout:
    """Where and how voxels are stored.

    Parameters
    ----------
    path : Path
        File of the voxels, which differs from that of a detached header.
    shape : tuple of (int, int, int)
        (slices, rows, columns); columns vary fastest.
    dtype : numpy.dtype
        Type with the byte order of the file.
    offset : int
        First byte of the voxels: of the inflated file in a gzip file that begins at 0, see ``start``.
    compression : {"none", "gzip", "zlib", "itk"}
        With "itk" the layout is unknown, and SimpleITK reads the whole volume.
    start : int
        First byte of the compressed stream in the file.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int = 0
    compression: Compression = "none"
    start: int = 0

    def read(self, index: int) -> NDArray[Any]:
        """Read one slice as it is stored, in native byte order, shape (rows, columns).

        Raises
        ------
        OSError, EOFError, RuntimeError
            If it cannot be read.
        """
        rows, columns = self.shape[1:]
        if self.compression == "itk":
            return itk_array(self.path, _modified_ns(self.path))[index].reshape(rows, columns).copy()
        size = rows * columns * self.dtype.itemsize
        data = self._bytes(self.offset + index * size, size)
        if len(data) < size:
            raise EOFError("the file ends before the slice does")
        stored = np.frombuffer(data, self.dtype).reshape(rows, columns)
        return stored.astype(self.dtype.newbyteorder("="))

    def _bytes(self, position: int, size: int) -> bytes:
        if self.compression == "none":
            with self.path.open("rb") as file:
                file.seek(position)
                return file.read(size)
        is_zlib = self.compression == "zlib"
        stream = _open_stream(self.path, _modified_ns(self.path), self.start, is_zlib, os.getpid())
        return stream.read(position, size)


def is_gzip(path: Path) -> bool:
    """Whether a file begins like a gzip file, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(GZIP_SIGNATURE)) == GZIP_SIGNATURE


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of a file, inflated where it is a gzip file."""
    with path.open("rb") as file:
        return gzip.GzipFile(fileobj=file).read(size) if is_gzip(path) else file.read(size)


class _GzipView(io.RawIOBase):
    """A compressed stream inside a file, presented as a gzip file.

    Parameters
    ----------
    path : Path
    start : int
        First byte of the stream.
    is_zlib : bool
        Whether it is a zlib stream; its header and trailer are replaced by those of gzip.
    """

    def __init__(self, path: Path, start: int, is_zlib: bool) -> None:
        super().__init__()
        self._file = path.open("rb")
        size = self._file.seek(0, io.SEEK_END)
        self._prefix = _GZIP_HEADER if is_zlib else b""
        self._start = start + (_ZLIB_HEADER_LENGTH if is_zlib else 0)
        self._end = max(size - self._start, 0) + len(self._prefix)
        self._size = self._end + (_GZIP_TRAILER_LENGTH if is_zlib else 0)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        position, prefix = self._position, len(self._prefix)
        if position < prefix:
            data = self._prefix[position : position + len(view)]
        elif position < self._end:
            self._file.seek(self._start + position - prefix)
            data = self._file.read(min(len(view), self._end - position))
        else:
            data = bytes(max(min(len(view), self._size - position), 0))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _CompressedStream:
    """Random access to a compressed stream, with reading ahead where it is read in order.

    Parameters
    ----------
    view : _GzipView
    check : bool
        Whether gzip's checksum is compared.
    """

    def __init__(self, view: _GzipView, check: bool) -> None:
        self._file = indexed_gzip.IndexedGzipFile(
            fileobj=view,
            spacing=INDEX_SPACING,
            readbuf_size=_BUFFER_SIZE,
            buffer_size=_BUFFER_SIZE,
            skip_crc_check=not check,
        )
        self._lock = Lock()
        self._block, self._block_start, self._next = b"", 0, -1

    def read(self, position: int, size: int) -> bytes:
        """Read inflated bytes; fewer than ``size`` at the end of the stream."""
        with self._lock:
            start = position - self._block_start
            if not 0 <= start <= len(self._block) - size:
                self._file.seek(position)
                wanted = max(size, READ_AHEAD) if position == self._next else size
                self._block, self._block_start, start = self._file.read(wanted), position, 0
            self._next = position + size
            return self._block[start : start + size]


@lru_cache(maxsize=MAX_OPEN_STREAMS)
def _open_stream(path: Path, _modified_ns: int, start: int, is_zlib: bool, _process: int) -> _CompressedStream:
    """A compressed stream that is kept open, so that it is not inflated again for every slice.

    Each process opens the file itself, because forked processes would share the position in it.
    """
    return _CompressedStream(_GzipView(path, start, is_zlib), check=not is_zlib)


@lru_cache(maxsize=1)
def itk_array(path: Path, _modified_ns: int) -> NDArray[Any]:
    """All voxels of a file whose layout only SimpleITK knows; the last such file stays in memory."""
    import SimpleITK as sitk

    array: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return array.reshape(array.shape[-3:])


def _modified_ns(path: Path) -> int:
    return path.stat().st_mtime_ns
