"""The node's disk: the folder that a batch lies in is its state.

=============== ==========================================================================
``receiving``   images being written; those of a killed node were never acknowledged
``incoming``    one folder for each series that may still grow
``ready``       batches: complete series, or images that arrived late; nothing is added any more
``working``     derived images being written; deleted and repeated after a kill
``outgoing``    derived images that some destination does not have yet
``dead-letter`` batches that cannot go on, each with ``<batch>.json``: the reason, and its former state
``records``     one record per batch: attempts, deliveries
``series``      for each series: creation time, its stacks, its rule, and the images that each destination has
=============== ==========================================================================

A batch moves from folder to folder by one rename. Folder names are hashes, so that no path contains a patient's
name or ID. The spool contains patient images: its folders are readable only for the node's user.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ldct_denoise.errors import OutputError
from ldct_denoise.io.dicom.instance import InstanceUIDs
from ldct_denoise.io.dicom.stack_identity import StackRegistry
from ldct_denoise.node.durable_files import remove, sync, temporary_file, write_text
from ldct_denoise.node.records import Delivery, Record, RememberedRule, read_record, write_record
from ldct_denoise.node.rules import Limits

STATES = ("incoming", "ready", "outgoing", "dead-letter")
FOLDERS = ("receiving", "working", "records", "series", *STATES)
GIB = 2**30


@dataclass(frozen=True)
class IncomingSeries:
    """A series that may still grow.

    Parameters
    ----------
    key : str
        See :func:`series_key`.
    last_image : float
        Time of its last image, seconds since 1970.
    """

    key: str
    last_image: float

    @property
    def study(self) -> str:
        """Part of the key that all series of a study share."""
        return self.key.split("-")[0]


class Spool:
    """The folders of the spool, and every transition between them.

    Parameters
    ----------
    root : Path
        Created where it is missing.
    limits : Limits
        Limits of its size.

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
                for leftover in (root / name).iterdir():
                    remove(leftover)
        except OSError as error:
            raise OutputError(f"spool {root}: cannot be used ({error.strerror}); choose another place") from None
        for batch in self.batches("outgoing"):  # killed between the two steps of hand_over
            remove(root / "ready" / batch)
        self.used_bytes = self.measure()

    def close(self) -> None:
        """Release the spool for another node."""
        self._lock.release()

    # Receiving ----------------------------------------------------------------------------------------------

    def receive(self, uids: InstanceUIDs, data: bytes) -> str:
        """Store an image; when this returns, the image survives a kill and a power failure.

        Parameters
        ----------
        uids : InstanceUIDs
        data : bytes
            The DICOM file.

        Returns
        -------
        str
            Key of its series.

        Raises
        ------
        OutputError
            If the spool or its disk is full, or cannot be written.
        """
        self._require_room(len(data))
        key = series_key(uids)
        folder = self.root / "incoming" / key
        try:
            with temporary_file(self.root / "receiving", data) as part, self._moving:
                if not folder.is_dir():
                    folder.mkdir(mode=0o700)
                    sync(folder.parent)
                os.replace(part, folder / f"{_digest(uids.sop_uid)[:32]}.dcm")
                sync(folder)
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
        """Whether ``size`` more bytes would leave too little of the disk free."""
        return shutil.disk_usage(self.root).free - size < self._limits.free_gib * GIB

    def incoming(self) -> list[IncomingSeries]:
        """Series that may still grow."""
        found = []
        for folder in (self.root / "incoming").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(IncomingSeries(folder.name, folder.stat().st_mtime))
        return found

    def complete(self, key: str) -> str:
        """Close a series as a batch; images that arrive later open a new batch of the same series.

        Returns
        -------
        str
            Name of the batch.
        """
        self.created(key)
        with self._moving:
            batch = f"{key}.{time.time_ns()}"
            self._move("incoming", key, "ready", batch)
        return batch

    # Batches ------------------------------------------------------------------------------------------------

    def batches(self, state: str) -> list[str]:
        """Batches in a state, the oldest first."""
        names = (item.name for item in (self.root / state).iterdir() if item.is_dir())
        return sorted(names, key=lambda name: (name.partition(".")[2], name))

    def folder(self, state: str, batch: str) -> Path:
        """Folder of a batch in a state."""
        return self.root / state / batch

    def hand_over(self, batch: str) -> None:
        """Move the complete derived images from ``working`` to ``outgoing``, and delete the received ones."""
        for file in sorted((self.root / "working" / batch).rglob("*")):
            sync(file)
        self._move("working", batch, "outgoing", batch)
        remove(self.root / "ready" / batch)

    def discard_work(self, batch: str) -> None:
        """Delete derived images that were not handed over."""
        remove(self.root / "working" / batch)

    def delete(self, state: str, batch: str) -> None:
        """Delete a batch that is done with."""
        remove(self.root / state / batch)
        (self.root / "records" / f"{batch}.json").unlink(missing_ok=True)

    def dead_letter(self, state: str, batch: str, reason: str) -> None:
        """Move a batch that cannot go on to the dead letters.

        Parameters
        ----------
        state, batch : str
            Its present state and its name.
        reason : str
            For people; may quote the images.
        """
        with self.update_record(batch) as record:
            record.former_state = state
        note = json.dumps({"reason": reason, "from": state}, indent=1)
        write_text(self.root / "dead-letter" / f"{batch}.json", note)
        self._move(state, batch, "dead-letter", batch)

    def _move(self, state: str, name: str, new_state: str, new_name: str) -> None:
        os.rename(self.root / state / name, self.root / new_state / new_name)
        sync(self.root / new_state)
        sync(self.root / state)

    # Records ------------------------------------------------------------------------------------------------

    def record(self, batch: str) -> Record:
        """Read the record of a batch."""
        return read_record(self.root, batch)

    def set_record(self, batch: str, record: Record) -> None:
        """Write the record of a batch."""
        write_record(self.root, batch, record)

    @contextlib.contextmanager
    def update_record(self, batch: str) -> Iterator[Record]:
        """Context manager: a record to change, written at the end; one change at a time."""
        with self._moving:
            record = self.record(batch)
            yield record
            self.set_record(batch, record)

    def created(self, key: str) -> datetime:
        """Creation time of the derived series; the same for all batches and repetitions."""
        path = self.root / "series" / key / "created"
        with self._moving:
            try:
                return datetime.fromisoformat(path.read_text())
            except (FileNotFoundError, ValueError):
                now = datetime.now().astimezone()
                write_text(path, now.isoformat())
                return now

    def stack_registry(self, key: str) -> StackRegistry:
        """Read which images of a series belong to which stack."""
        try:
            return StackRegistry.from_json((self.root / "series" / key / "stacks.json").read_text())
        except FileNotFoundError:
            return StackRegistry()

    def save_stack_registry(self, key: str, registry: StackRegistry) -> None:
        """Write which images of a series belong to which stack, for images that arrive late."""
        write_text(self.root / "series" / key / "stacks.json", registry.to_json())

    def remembered_rule(self, key: str, rules_digest: str) -> RememberedRule | None:
        """Read which rule decided for a series; None if none did yet, or the rules have changed since."""
        try:
            remembered = RememberedRule(**json.loads((self.root / "series" / key / "rule.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return remembered if remembered.rules_digest == rules_digest else None

    def remember_rule(self, key: str, rule: RememberedRule) -> None:
        """Write which rule decided for a series, for images that arrive late."""
        write_text(self.root / "series" / key / "rule.json", json.dumps(asdict(rule)))

    def sent(self, key: str, destination: str) -> set[str]:
        """SOP Instance UIDs that a destination has acknowledged."""
        path = self.root / "series" / key / f"{destination}.sent"
        try:
            lines = path.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return set()
        return {line.strip() for line in lines if line.endswith("\n")}

    def mark_sent(self, key: str, destination: str, sop_uid: str) -> None:
        """Record that a destination has acknowledged an image.

        Parameters
        ----------
        key : str
            Key of the series.
        destination : str
            Name of the destination.
        sop_uid : str
            SOP Instance UID of the image.
        """
        path = self.root / "series" / key / f"{destination}.sent"
        path.parent.mkdir(exist_ok=True)
        # The leading line break keeps a line that a power failure tore apart from this one.
        with open(path, "a") as file:
            file.write(f"\n{sop_uid}\n")
            file.flush()
            os.fsync(file.fileno())

    # Housekeeping -------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Number of series and batches in every state."""
        return {state: sum(item.is_dir() for item in (self.root / state).iterdir()) for state in STATES}

    def measure(self) -> int:
        """Measure the size of the whole spool, bytes."""
        total = 0
        for folder, _, names in os.walk(self.root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(os.path.join(folder, name)).st_size
        self.used_bytes = total
        return total

    def prune(self, days: float) -> None:
        """Delete the notes on series without any event for ``days``, and the records of batches that are gone."""
        batches = {name for state in STATES for name in os.listdir(self.root / state)}
        keys = {name.partition(".")[0] for name in batches}
        now = time.time()
        for folder in (self.root / "series").iterdir():
            newest = max((item.stat().st_mtime for item in folder.iterdir()), default=0.0)
            if folder.name not in keys and now - newest > days * 86400:
                remove(folder)
        for file in (self.root / "records").glob("*.json"):
            if file.stem not in batches and now - file.stat().st_mtime > 86400:
                remove(file)


def requeue(root: Path) -> int:
    """Move every dead letter back to its former state, as if never tried; also while a node runs.

    Returns
    -------
    int
        Number of batches moved.

    Raises
    ------
    OutputError
        If ``root`` is no spool.
    """
    if not (root / "dead-letter").is_dir():
        raise OutputError(f"{root}: no spool of a node")
    count = 0
    for folder in sorted(item for item in (root / "dead-letter").iterdir() if item.is_dir()):
        record = read_record(root, folder.name)
        record.attempts, record.not_before, record.reason = 0, 0.0, ""
        record.deliveries = {n: d if d.state == "sent" else Delivery() for n, d in record.deliveries.items()}
        write_record(root, folder.name, record)
        # The note is deleted first: a running node may bring the batch back, with a new note, at once.
        folder.with_name(f"{folder.name}.json").unlink(missing_ok=True)
        folder.rename(root / (record.former_state or "ready") / folder.name)
        count += 1
    return count


def series_key(uids: InstanceUIDs) -> str:
    """Name of a series in the spool and in the log: hashes of the Study and the Series Instance UID."""
    return f"{_digest(uids.study_uid)[:10]}-{_digest(uids.study_uid, uids.series_uid)[:16]}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _lock(root: Path) -> BaseFileLock:
    lock = FileLock(root / "lock", mode=0o600, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise OutputError(f"spool {root}: another node uses it; give each node its own") from None
    return lock
