"""Files that survive a kill and a power failure, and notes that can still be written when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ldct_denoise.output import atomic_write

T = TypeVar("T")
#: Errors of a disk without room.
FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """A file that is deleted when the disk is full, so that short notes can still be written.

    Without the note that an image was delivered, the image would be sent again and again, and its batch could
    never be deleted to make room.

    Parameters
    ----------
    path : Path
    size_bytes : int
    """

    def __init__(self, path: Path, size_bytes: int = 4 * 2**20) -> None:
        self.path, self._size_bytes = path, size_bytes

    def fill(self) -> None:
        """Create the file where it is missing and the disk has room for it."""
        if self.path.exists() or shutil.disk_usage(self.path.parent).free < 4 * self._size_bytes:
            return
        with contextlib.suppress(OSError), temporary_file(self.path.parent, bytes(self._size_bytes)) as part:
            os.replace(part, self.path)

    def write(self, action: Callable[[], T]) -> T:
        """Run an action that writes a note; if the disk is full, delete the reserve and run it once more."""
        try:
            return action()
        except OSError as error:
            if error.errno not in FULL or not self.path.exists():
                raise
        self.path.unlink(missing_ok=True)
        return action()


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, and flush it and its name to the disk."""

    def write(part: Path) -> None:
        part.write_text(text)
        sync(part)

    atomic_write(path, write)
    sync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file and flush it to the disk.

    A line break comes first too: it keeps a line that a power failure tore apart from this one.
    """
    path.parent.mkdir(exist_ok=True)
    is_new = not path.exists()
    with open(path, "a") as file:
        file.write(f"\n{line}\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)


@contextlib.contextmanager
def temporary_file(folder: Path, data: bytes) -> Iterator[Path]:
    """Context manager: a file with ``data``, flushed to the disk; deleted at the end unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or a folder with its content; a missing file is no error."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
