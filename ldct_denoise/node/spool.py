"""The node's disk: every series lies in one of a few folders, and which one is what is to be done with it.

============== ==========================================================================
``receiving``  images being written; what a killed node left here was never acknowledged
``incoming``   a folder per series that still grows
``ready``      batches: complete series, or slices that came late; nothing is added any more
``working``    derived images being written; begun anew after a kill
``outgoing``   derived images that some destination has not got yet
``dead-letter`` batches that cannot go on, each with ``<batch>.json``: why, and where it came from
``records``    per batch: attempts, deliveries
``series``     per series: time of creation, its stacks, and what each destination has got
============== ==========================================================================

A batch passes from folder to folder by one rename. Folder names are hashes, so no path holds a name or number of a
patient. The spool holds patient images: its folders are readable for the node's user only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ldct_denoise.errors import OutputError
from ldct_denoise.io.dicom.instance import InstanceUIDs
from ldct_denoise.io.dicom.stack_identity import StackRegistry
from ldct_denoise.node.rules import Limits
from ldct_denoise.output import atomic_write

STATES = ("incoming", "ready", "outgoing", "dead-letter")
FOLDERS = ("receiving", "working", "records", "series", *STATES)
GIB = 2**30


@dataclass
class Delivery:
    """How far one destination is with a batch; times in seconds since 1970."""

    attempts: int = 0
    first_failure: float = 0.0
    next_try: float = 0.0
    reason: str = ""
    state: str = "waiting"


@dataclass
class Record:
    """What is known of a batch beside where it lies."""

    attempts: int = 0
    not_before: float = 0.0
    rule: int = -1
    model: str = ""
    images: int = 0
    skipped: int = 0
    came_from: str = ""
    reason: str = ""
    deliveries: dict[str, Delivery] = field(default_factory=dict)

    @classmethod
    def read(cls, content: dict[str, Any]) -> Record:
        """From what :func:`dataclasses.asdict` gave."""
        deliveries = {name: Delivery(**values) for name, values in content.pop("deliveries", {}).items()}
        return cls(**content, deliveries=deliveries)


@dataclass(frozen=True)
class Incoming:
    """A series that still grows."""

    key: str
    last_image: float

    @property
    def study(self) -> str:
        """The same for all series of a study."""
        return self.key.split("-")[0]


class Spool:
    """The folders, and every passage between them.

    Parameters
    ----------
    root : Path
        Made where it is missing.
    limits : Limits
        How full it may get.

    Raises
    ------
    OutputError
        If it cannot be written, or another node uses it.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root
        self._limits = limits
        self._moving = threading.Lock()
        try:
            for name in FOLDERS:
                (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            root.chmod(0o700)
            self._lock = _lock(root)
            for name in ("receiving", "working"):
                for left in (root / name).iterdir():
                    _remove(left)
        except OSError as error:
            raise OutputError(f"spool {root}: cannot be used ({error.strerror}); choose another place") from None
        for batch in self.batches("outgoing"):  # killed after the batch was handed over
            _remove(root / "ready" / batch)
        self.used_bytes = self.measure()

    def close(self) -> None:
        """Let another node have it."""
        os.close(self._lock)

    # receiving ------------------------------------------------------------------------------------------

    def receive(self, identity: InstanceUIDs, data: bytes) -> str:
        """Keep an image; when this returns it survives a kill and a power cut.

        Returns
        -------
        str
            The key of its series.

        Raises
        ------
        OutputError
            If the spool or its disk is full, or cannot be written.
        """
        self._require_room(len(data))
        key = series_key(identity)
        folder = self.root / "incoming" / key
        try:
            with _unfinished(self.root / "receiving", data) as part, self._moving:
                if not folder.is_dir():
                    folder.mkdir(mode=0o700)
                    _sync(folder.parent)
                os.replace(part, folder / f"{_digest(identity.sop_uid)[:32]}.dcm")
                _sync(folder)
        except OSError as error:
            raise OutputError(f"spool: an image cannot be written ({error.strerror})") from None
        self.used_bytes += len(data)
        return key

    def _require_room(self, size: int) -> None:
        if self.used_bytes + size > self._limits.spool_gib * GIB:
            raise OutputError(f"spool: full (limits.spool_gib is {self._limits.spool_gib:g})")
        if self.is_tight(size):
            raise OutputError(f"spool: less than {self._limits.free_gib:g} GiB are free on its disk")

    def is_tight(self, size: int = 0) -> bool:
        """Whether ``size`` bytes more would leave too little of the disk free."""
        return shutil.disk_usage(self.root).free - size < self._limits.free_gib * GIB

    def incoming(self) -> list[Incoming]:
        """The series that still grow."""
        found = []
        for folder in (self.root / "incoming").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(Incoming(folder.name, folder.stat().st_mtime))
        return found

    def complete(self, key: str) -> str:
        """Take a series as complete; images that come later open a new batch of the same series.

        Returns
        -------
        str
            The name of the batch.
        """
        self.created(key)
        with self._moving:
            batch = f"{key}.{time.time_ns()}"
            self._move("incoming", key, "ready", batch)
        return batch

    # batches --------------------------------------------------------------------------------------------

    def batches(self, state: str) -> list[str]:
        """The batches in a state, the oldest first."""
        names = (item.name for item in (self.root / state).iterdir() if item.is_dir())
        return sorted(names, key=lambda name: (name.partition(".")[2], name))

    def folder(self, state: str, batch: str) -> Path:
        """Where a batch lies."""
        return self.root / state / batch

    def hand_over(self, batch: str) -> None:
        """Derived images are whole: pass them on, and let the received ones go."""
        for file in sorted((self.root / "working" / batch).rglob("*")):
            _sync(file)
        self._move("working", batch, "outgoing", batch)
        _remove(self.root / "ready" / batch)

    def discard_work(self, batch: str) -> None:
        """Derived images that were not handed over go: patients' images stay nowhere without need."""
        _remove(self.root / "working" / batch)

    def drop(self, state: str, batch: str) -> None:
        """Nothing more is to be done with a batch."""
        _remove(self.root / state / batch)
        (self.root / "records" / f"{batch}.json").unlink(missing_ok=True)

    def dead_letter(self, state: str, batch: str, reason: str) -> None:
        """Put a batch that cannot go on aside, with the reason."""
        with self.changing(batch) as record:
            record.came_from = state
        _write(
            self.root / "dead-letter" / f"{batch}.json", json.dumps({"reason": reason, "from": state}, indent=1)
        )
        self._move(state, batch, "dead-letter", batch)

    def _move(self, state: str, name: str, to: str, new_name: str) -> None:
        os.rename(self.root / state / name, self.root / to / new_name)
        _sync(self.root / to)
        _sync(self.root / state)

    # records --------------------------------------------------------------------------------------------

    def record(self, batch: str) -> Record:
        """What is known of a batch."""
        return _read_record(self.root, batch)

    def set_record(self, batch: str, record: Record) -> None:
        """Remember it."""
        _write_record(self.root, batch, record)

    @contextlib.contextmanager
    def changing(self, batch: str) -> Iterator[Record]:
        """A record to change; written at the end, one change at a time."""
        with self._moving:
            record = self.record(batch)
            yield record
            self.set_record(batch, record)

    def created(self, key: str) -> datetime:
        """When the derived series was made, as its images say: the same for all batches and repeats."""
        path = self.root / "series" / key / "created"
        with self._moving:
            try:
                return datetime.fromisoformat(path.read_text())
            except (FileNotFoundError, ValueError):
                now = datetime.now().astimezone()
                _write(path, now.isoformat())
                return now

    def stacks(self, key: str) -> StackRegistry:
        """The stacks that the images of a series were sorted into so far."""
        try:
            return StackRegistry.from_json((self.root / "series" / key / "stacks.json").read_text())
        except FileNotFoundError:
            return StackRegistry()

    def save_stacks(self, key: str, stacks: StackRegistry) -> None:
        """Remember them for images that come late."""
        _write(self.root / "series" / key / "stacks.json", stacks.to_json())

    def sent(self, key: str, destination: str) -> set[str]:
        """SOP Instance UIDs that a destination has got."""
        path = self.root / "series" / key / f"{destination}.sent"
        try:
            lines = path.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return set()
        return {line.strip() for line in lines if line.endswith("\n")}

    def mark_sent(self, key: str, destination: str, sop_uid: str) -> None:
        """A destination has said that it got an image."""
        path = self.root / "series" / key / f"{destination}.sent"
        path.parent.mkdir(exist_ok=True)
        # The line break comes first too: a line that a power cut tore stays a line of its own.
        with open(path, "a") as file:
            file.write(f"\n{sop_uid}\n")
            file.flush()
            os.fsync(file.fileno())

    # housekeeping ---------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many series and batches are in each state."""
        return {state: sum(item.is_dir() for item in (self.root / state).iterdir()) for state in STATES}

    def measure(self) -> int:
        """Bytes of the whole spool, counted anew."""
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(os.path.join(folder, name)).st_size
        self.used_bytes = total
        return total

    def forget(self, days: float) -> None:
        """Forget series that nothing happened to for so long, and the records of batches that are gone."""
        batches = {name for state in STATES for name in os.listdir(self.root / state)}
        keys = {name.partition(".")[0] for name in batches}
        now = time.time()
        for folder in (self.root / "series").iterdir():
            newest = max((item.stat().st_mtime for item in folder.iterdir()), default=0.0)
            if folder.name not in keys and now - newest > days * 86400:
                _remove(folder)
        for file in (self.root / "records").glob("*.json"):
            if file.stem not in batches and now - file.stat().st_mtime > 86400:
                _remove(file)


def requeue(root: Path) -> int:
    """Put every batch of the dead-letter folder back where it came from, as if never tried; also beside a node.

    Returns
    -------
    int
        How many there were.

    Raises
    ------
    OutputError
        If ``root`` is no spool.
    """
    if not (root / "dead-letter").is_dir():
        raise OutputError(f"{root}: no spool of a node")
    count = 0
    for folder in sorted(item for item in (root / "dead-letter").iterdir() if item.is_dir()):
        record = _read_record(root, folder.name)
        record.attempts, record.not_before, record.reason = 0, 0.0, ""
        record.deliveries = {n: d if d.state == "sent" else Delivery() for n, d in record.deliveries.items()}
        _write_record(root, folder.name, record)
        # The note goes first: the batch may be back, with a new one, at once.
        folder.with_name(f"{folder.name}.json").unlink(missing_ok=True)
        folder.rename(root / (record.came_from or "ready") / folder.name)
        count += 1
    return count


def series_key(identity: InstanceUIDs) -> str:
    """Name of a series in the spool, and in the log: study and series, hashed."""
    return f"{_digest(identity.study_uid)[:10]}-{_digest(identity.study_uid, identity.series_uid)[:16]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _lock(root: Path) -> int:
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise OutputError(f"spool {root}: another node uses it; give each node its own") from None
    return descriptor


def _read_record(root: Path, batch: str) -> Record:
    try:
        return Record.read(json.loads((root / "records" / f"{batch}.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return Record()


def _write_record(root: Path, batch: str, record: Record) -> None:
    _write(root / "records" / f"{batch}.json", json.dumps(asdict(record)))


def _write(path: Path, text: str) -> None:
    def write(part: Path) -> None:
        part.write_text(text)
        _sync(part)

    atomic_write(path, write)


@contextlib.contextmanager
def _unfinished(folder: Path, data: bytes) -> Iterator[Path]:
    """A file of ``data`` that survives a power cut; gone at the end unless it got a name elsewhere."""
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
