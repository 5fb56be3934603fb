"""What is done of a large piece of work: a file of JSON lines, one for each finished series.

Several processes may add to it, and any may be killed at any time. It holds UIDs, the model, settings and places,
and nothing of the patient.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ldct_denoise.errors import OutputError


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Entry:
    """One finished series.

    Parameters
    ----------
    key : str
        Digest of the source images, the model and the settings: equal keys ask for the same work.
    series : str
        Series Instance UID of the source.
    model, checksum : str
        Name and SHA-256 of the model.
    settings : mapping
        How it was used and written.
    output : str
        Where the result lies, relative to the ledger's folder.
    files : int
        How many files it has.
    finished : str
        Time, ISO 8601, UTC.
    """

    key: str
    series: str
    model: str
    checksum: str
    settings: Mapping[str, Any]
    output: str
    files: int
    finished: str = field(default_factory=_now)


class Ledger:
    """The entries of one file.

    Parameters
    ----------
    path : Path
        Made with the first entry. Lines that are not whole (a process was killed while it wrote) are passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Only the last entry of a place tells what lies there: an earlier one was written over.
        self._standing = {entry.output: entry for entry in _read(path)}

    @classmethod
    def beside(cls, output: Path) -> Ledger:
        """The ledger of an output folder: ``<output>-ledger.jsonl``."""
        output = Path(os.path.abspath(output))
        return cls(output.with_name(f"{output.name}-ledger.jsonl"))

    def told(self, place: Path) -> str:
        """A result's place as entries tell it."""
        return os.path.relpath(place, self.path.parent)

    def knows(self, place: Path) -> bool:
        """Whether something was written there, with whatever model and settings."""
        return self.told(place) in self._standing

    def is_done(self, key: str, place: Path) -> bool:
        """Whether the last that was written there is this work, and it is still there whole."""
        entry = self._standing.get(self.told(place))
        return entry is not None and entry.key == key and count_files(place) == entry.files

    def add(self, entry: Entry) -> None:
        """Append an entry; it is on the disk when this returns.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        line = json.dumps(asdict(entry), sort_keys=True).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                os.write(descriptor, line if _ends_a_line(descriptor) else b"\n" + line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); make room for it") from None
        self._standing[entry.output] = entry


def count_files(place: Path) -> int:
    """Files of a result: of a folder, or 1 for a file that is there."""
    if place.is_dir():
        return sum(item.is_file() for item in place.iterdir())
    return int(place.is_file())


def _ends_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _read(path: Path) -> list[Entry]:
    """The whole lines of a file; none where there is no file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise OutputError(f"{path}: the ledger cannot be read ({error.strerror}); move it away") from None
    names = {item.name for item in fields(Entry)}
    entries = []
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and told.keys() == names:
            entries.append(Entry(**told))
    return entries
