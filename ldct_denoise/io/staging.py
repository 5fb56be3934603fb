"""A folder that appears whole under its final name, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from ldct_denoise.errors import OutputError

#: Ends the name of a folder that is being replaced.
RETIRED = "-old"


class StagedFolder:
    """Collects files in a hidden folder beside ``target`` and renames it at the end.

    What an earlier, killed process left is removed; a folder that a living process still fills is told by
    its lock and left alone.

    Parameters
    ----------
    target : Path
        The final folder; where it is a link, the folder it leads to.
    overwrite : bool
        Whether an existing folder of DICOM files may be replaced.
    inputs : iterable of Path
        Files that must not lie in ``target``.

    Raises
    ------
    OutputError
        If ``target`` holds something and must not be replaced, holds an input, is a mount point, or cannot be
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
            self.path.mkdir()
            self._lock = _locked(self.path)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror}); choose another place") from None

    @property
    def _prefix(self) -> str:
        return f".{self.target.name}.partial"

    def publish(self) -> Path:
        """Give the folder its final name."""
        retired = self.path.with_name(self.path.name + RETIRED)
        try:
            if self._overwrite and self.target.is_dir():
                self.target.rename(retired)
            self.path.rename(self.target)
        except OSError as error:
            if retired.is_dir() and not self.target.exists():
                retired.rename(self.target)
            self.discard()
            raise OutputError(f"{self.target}: cannot be put in place ({error.strerror})") from None
        shutil.rmtree(retired, ignore_errors=True)
        self._unlock()
        return self.target

    def discard(self) -> None:
        """Remove what was collected and not published."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _refuse(self, inputs: Iterable[Path]) -> None:
        for path in inputs:
            if path.resolve().is_relative_to(self.target):
                raise OutputError(f"{self.target}: holds the input {path.name}; choose another output folder")
        if not self.target.exists():
            return
        if not self.target.is_dir():
            raise OutputError(f"{self.target}: is a file; choose a folder")
        if os.path.ismount(self.target):
            raise OutputError(f"{self.target}: is a mount point, which cannot be replaced; choose a folder in it")
        content = sorted(self.target.iterdir())
        if content and not self._overwrite:
            raise OutputError(f"{self.target}: exists already; choose another folder or allow overwriting")
        for path in content:
            if path.suffix != ".dcm" or not path.is_file():
                raise OutputError(
                    f"{self.target}: holds {path.name}, which is no DICOM file of ours; choose another folder"
                )

    def _remove_leftovers(self) -> None:
        for path in self.target.parent.glob(f"{self._prefix.replace('[', '[[]')}-*"):
            lock = _locked(path)
            if lock is None:
                continue
            if path.name.endswith(RETIRED) and not self.target.exists():
                path.rename(self.target)  # killed between taking the old folder away and naming the new one
            else:
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock, or None where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    os.close(descriptor)
    return None
