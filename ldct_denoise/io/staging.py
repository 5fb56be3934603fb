"""A folder that appears complete under its final name, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ldct_denoise.errors import OutputError

#: Suffix of a folder that is being replaced.
REPLACED_SUFFIX = "-old"
#: Suffix of the file next to a folder that locks it.
LOCK_SUFFIX = ".lock"


class StagedFolder:
    """Collects files in a hidden folder next to ``target`` and renames it at the end.

    Leftovers of a killed process are removed. A folder that a running process still fills is recognised by
    its lock and kept.

    Parameters
    ----------
    target : Path
        The final folder; for a link, the folder it points to.
    overwrite : bool
        Whether an existing folder of DICOM files may be replaced.
    inputs : iterable of Path
        Files that must not be inside ``target``.

    Raises
    ------
    OutputError
        If ``target`` is not empty and must not be replaced, contains an input, is a mount point, or cannot be
        written.
    """

    def __init__(self, target: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
        self.target = Path(os.path.realpath(target))
        self._overwrite = overwrite
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            self._refuse(inputs)
            self.path = self.target.with_name(f"{self._prefix}-{secrets.token_hex(4)}")
            self._lock = _locked(self.path)
            self.path.mkdir()
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror}); choose another folder") from None

    @property
    def _prefix(self) -> str:
        return f".{self.target.name}.partial"

    def publish(self) -> Path:
        """Give the folder its final name."""
        replaced = self.path.with_name(self.path.name + REPLACED_SUFFIX)
        try:
            if self._overwrite and self.target.is_dir():
                self.target.rename(replaced)
            self.path.rename(self.target)
        except OSError as error:
            if replaced.is_dir() and not self.target.exists():
                replaced.rename(self.target)
            self.discard()
            raise OutputError(f"{self.target}: cannot be created ({error.strerror})") from None
        shutil.rmtree(replaced, ignore_errors=True)
        self._unlock()
        return self.target

    def discard(self) -> None:
        """Remove the files that were collected but not published."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            _unlock(self._lock)
            self._lock = None

    def _refuse(self, inputs: Iterable[Path]) -> None:
        for path in inputs:
            if path.resolve().is_relative_to(self.target):
                raise OutputError(f"{self.target}: contains the input {path.name}; choose another output folder")
        if not self.target.exists():
            return
        if not self.target.is_dir():
            raise OutputError(f"{self.target}: is a file; choose a folder")
        if os.path.ismount(self.target):
            raise OutputError(f"{self.target}: is a mount point, which cannot be replaced; choose a folder in it")
        content = sorted(self.target.iterdir())
        if content and not self._overwrite:
            raise OutputError(f"{self.target}: already exists; use --overwrite, or choose another folder")
        for path in content:
            if path.suffix != ".dcm" or not path.is_file():
                raise OutputError(
                    f"{self.target}: contains {path.name}, which no derived series contains; choose another folder"
                )

    def _remove_leftovers(self) -> None:
        for path in self.target.parent.glob(f"{self._prefix.replace('[', '[[]')}-*"):
            path = path.with_name(path.name.removesuffix(LOCK_SUFFIX))
            lock = _locked(path)
            if lock is None:
                continue
            if path.is_dir() and path.name.endswith(REPLACED_SUFFIX) and not self.target.exists():
                path.rename(self.target)  # killed between the two renames of publish()
            else:
                shutil.rmtree(path, ignore_errors=True)
            _unlock(lock)


def _locked(folder: Path) -> BaseFileLock | None:
    """Lock a folder by a file next to it; None where another process holds the lock."""
    lock = FileLock(folder.with_name(folder.name + LOCK_SUFFIX), thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _unlock(lock: BaseFileLock) -> None:
    """Release the lock and remove its file; no process waits for it, because each folder has a name of its own."""
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
