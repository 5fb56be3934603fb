"""Record of finished series: a file of JSON lines, one for each series.

Several processes may append to it, and any may be killed at any time. It contains UIDs, the model, settings and
paths, but no patient data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from ldct_denoise.errors import OutputError
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.volume import SliceSource


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Entry:
    """One finished series.

    Parameters
    ----------
    key : str
        Digest of the source images, the model and the settings; see :func:`job_key`.
    series : str
        Series Instance UID of the source.
    model : str
        Name of the model.
    checksum : str
        SHA-256 of the model.
    settings : mapping
        Settings that determine what is written.
    output : str
        Path of the result, relative to the ledger's folder.
    files : int
        Number of files of the result.
    finished : str
        Time, ISO 8601, UTC.
    warnings : sequence of str
        Problems of the source, and how it differs from the images that the model was trained on.
    """

    key: str
    series: str
    model: str
    checksum: str
    settings: Mapping[str, Any]
    output: str
    files: int
    finished: str = field(default_factory=_now)
    warnings: Sequence[str] = ()


def job_key(source: SliceSource, checksum: str, settings: Mapping[str, Any]) -> str:
    """Digest of the source images, the model and the settings; equal keys ask for the same result.

    Parameters
    ----------
    source : SliceSource
    checksum : str
        SHA-256 of the model.
    settings : mapping
        Settings that determine what is written.

    Returns
    -------
    str
        SHA-256, hexadecimal.
    """
    images = [ref.unique_uid for ref in source.slices] if isinstance(source, Series) else []
    return hashlib.sha256(
        json.dumps([source.uid, images, checksum, settings], sort_keys=True).encode()
    ).hexdigest()


class Ledger:
    """The entries of one file.

    Parameters
    ----------
    path : Path
        Created with the first entry. Incomplete lines, of a process killed while it wrote, are ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Later entries win: an output may have been overwritten.
        self._latest = {entry.output: entry for entry in _read(path)}

    @classmethod
    def of_output(cls, output: Path) -> Ledger:
        """The ledger of an output folder: ``<output>-ledger.jsonl``."""
        output = Path(os.path.abspath(output))
        return cls(output.with_name(f"{output.name}-ledger.jsonl"))

    def relative(self, location: Path) -> str:
        """Path of a result relative to the ledger's folder, as in entries."""
        return os.path.relpath(location, self.path.parent)

    def has_entry(self, location: Path) -> bool:
        """Whether anything was written to ``location``, with whatever model and settings."""
        return self.relative(location) in self._latest

    def is_done(self, key: str, location: Path) -> bool:
        """Whether the last result written to ``location`` has this key, and is still complete."""
        entry = self._latest.get(self.relative(location))
        return entry is not None and entry.key == key and count_files(location) == entry.files

    def add(self, entry: Entry) -> None:
        """Append an entry; it is on the disk when this returns.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        line = json.dumps(asdict(entry), sort_keys=True).encode() + b"\n"
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                lock.acquire()
                os.write(descriptor, line if _ends_with_newline(descriptor) else b"\n" + line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                lock.release()
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror}); free disk space for it"
            ) from None
        self._latest[entry.output] = entry


def count_files(location: Path) -> int:
    """Number of files of a result: those of a folder, or 1 for a file that exists."""
    if location.is_dir():
        return sum(item.is_file() for item in location.iterdir())
    return int(location.is_file())


def _ends_with_newline(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    if size == 0:
        return True
    os.lseek(descriptor, size - 1, os.SEEK_SET)  # os.pread is missing on Windows; appending ignores the position
    return os.read(descriptor, 1) == b"\n"


def _read(path: Path) -> list[Entry]:
    """The complete lines of a file; none where it does not exist."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise OutputError(f"{path}: the ledger cannot be read ({error.strerror}); move it away") from None
    names = {item.name for item in fields(Entry)}
    entries = []
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and values.keys() == names:
            entries.append(Entry(**values))
    return entries
