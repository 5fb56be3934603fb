"""The node's disk: the folder that a batch lies in is its state.

=============== ==========================================================================
``receiving``   images being written; those of a killed node were never acknowledged
``incoming``    one folder for each series that may still grow
``ready``       batches: complete series, or images that arrived late; nothing is added any more
``working``     derived images being written; deleted and repeated after a kill
``outgoing``    images that some destination does not have yet: derived ones, and ``…-originals``, received ones
``kept``        received images of batches in ``outgoing`` that stay until these are delivered
``dead-letter`` batches that cannot go on, each with ``<batch>.json``: the reason, and its former state
``records``     one record per batch: attempts, deliveries
``series``      what is remembered of each series, see :mod:`ldct_denoise.node.series_memory`
``requests``    what an operator asks of the running node, see :mod:`ldct_denoise.node.operator`
``pulls``       series to be pulled, see :mod:`ldct_denoise.node.pull`
``commitments`` requests for storage commitment, see :mod:`ldct_denoise.node.commitment_scp`
=============== ==========================================================================

A batch moves from folder to folder by one rename. Folder names are hashes, so that no path contains a patient's
name or ID. The spool contains patient images: its folders are readable only for the node's user.

The names of the batches and their records are also in memory, so that thousands of waiting batches cost nothing.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ldct_denoise.errors import OutputError
from ldct_denoise.io.dicom.instance import InstanceUIDs
from ldct_denoise.node.clock import Arrivals
from ldct_denoise.node.durable_files import Reserve, remove, sync, temporary_file, write_text
from ldct_denoise.node.listing import FolderListing
from ldct_denoise.node.names import file_of_image, series_key
from ldct_denoise.node.records import VERSION, Delivery, Record, read_record, record_path, write_record
from ldct_denoise.node.series_memory import SeriesMemory
from ldct_denoise.node.settings import Limits

STATES = ("incoming", "ready", "outgoing", "dead-letter")
FOLDERS = ("receiving", "working", "kept", "records", "series", "requests", "commitments", "pulls", *STATES)
#: End of the name of a batch of received images that are forwarded.
ORIGINALS = "-originals"
GIB = 2**30


@dataclass(frozen=True)
class IncomingSeries:
    """A series that may still grow.

    Parameters
    ----------
    key : str
        See :func:`series_key`.
    last_image : float
        Time of its last image by the monotonic clock, s.
    """

    key: str
    last_image: float

    @property
    def study(self) -> str:
        """Part of the key that all series of a study share."""
        return self.key.split("-")[0]


class SpoolInUse(OutputError):
    """Another process uses the spool."""


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
        If it cannot be written, another node uses it, or a newer version of the node wrote it.
    """

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root
        self.limits = limits
        self._moving = threading.RLock()
        self._arrivals = Arrivals()
        self._records: dict[str, Record] = {}
        self._reserve = Reserve(root / "reserve")
        self.memory = SeriesMemory(root / "series", self._reserve)
        #: Grows with every change of a batch or a record.
        self.changes = 0
        try:
            for name in FOLDERS:
                (root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            root.chmod(0o700)
            self._lock = _lock(root)
            _check_version(root)
            for name in ("receiving", "working"):
                for leftover in (root / name).iterdir():
                    remove(leftover)
        except OSError as error:
            raise OutputError(f"spool {root}: cannot be used ({error.strerror}); choose another place") from None
        self._listings = {state: FolderListing(root / state) for state in STATES}
        self._reserve.fill()
        for batch in self.batches("outgoing"):  # killed between the two steps of hand_over
            if (root / "ready" / batch).is_dir():
                self._take_received(batch)
        self.used_bytes = self.measure()

    def close(self) -> None:
        """Release the spool for another node."""
        self._lock.release()

    # Receiving ----------------------------------------------------------------------------------------------

    def receive(self, uids: InstanceUIDs, data: bytes) -> str:
        """Store an image; when this returns, the image survives a kill and a power failure.

        Different images that share a SOP Instance UID are all kept, numbered in the order of their arrival: the
        doses of a series whose low-dose copy kept its UIDs stay apart.

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
                    self._listings["incoming"].forget()
                os.replace(part, file_of_image(folder, uids.sop_uid, data))
                sync(folder)
        except OSError as error:
            raise OutputError(f"spool: an image cannot be written ({error.strerror})") from None
        self.used_bytes += len(data)
        return key

    def _require_room(self, size: int) -> None:
        if self.used_bytes + size > self.limits.spool_gib * GIB:
            raise OutputError(f"spool: full (limits.spool_gib is {self.limits.spool_gib:g})")
        if self.is_tight(size):
            raise OutputError(f"spool: less than {self.limits.free_gib:g} GiB are free on its disk")

    def is_tight(self, size: int = 0) -> bool:
        """Whether ``size`` more bytes would leave too little of the disk free."""
        return shutil.disk_usage(self.root).free - size < self.limits.free_gib * GIB

    def incoming(self) -> list[IncomingSeries]:
        """Series that may still grow."""
        found = []
        for key in self._listings["incoming"].names():
            with contextlib.suppress(FileNotFoundError):
                changed = (self.root / "incoming" / key).stat().st_mtime_ns
                found.append(IncomingSeries(key, self._arrivals.last_change(key, changed)))
        return found

    def complete(self, key: str) -> str:
        """Close a series as a batch; images that arrive later open a new batch of the same series.

        Returns
        -------
        str
            Name of the batch.
        """
        self.memory.created(key)
        with self._moving:
            batch = f"{key}.{time.time_ns()}"
            self._move("incoming", key, "ready", batch)
        self._arrivals.forget(key)
        return batch

    # Batches ------------------------------------------------------------------------------------------------

    def batches(self, state: str) -> list[str]:
        """Batches in a state, the oldest first."""
        return list(self._listings[state].names())

    def by_priority(self, state: str) -> list[str]:
        """Batches in a state, the most urgent first, of these the oldest."""
        return sorted(self._listings[state].names(), key=lambda batch: self.peek(batch).priority)

    def folder(self, state: str, batch: str) -> Path:
        """Folder of a batch in a state."""
        return self.root / state / batch

    def hand_over(self, batch: str) -> None:
        """Move the complete derived images from ``working`` to ``outgoing``.

        The received ones are deleted, unless the record of the batch says that they stay until it is delivered.
        """
        for file in sorted((self.root / "working" / batch).rglob("*")):
            sync(file)
        self._move("working", batch, "outgoing", batch)
        self._take_received(batch)

    def _take_received(self, batch: str) -> None:
        """Delete or keep the received images of a batch whose derived ones are in ``outgoing``."""
        if self.peek(batch).keep_received:
            self._move("ready", batch, "kept", batch)
        else:
            remove(self.root / "ready" / batch)

    def forward_originals(self, batch: str, send_to: Sequence[str], priority: int) -> None:
        """Put the received images of a batch in ``ready`` into ``outgoing`` as well: links, in another batch.

        Doing it once more changes nothing; what a destination has is not sent again.

        Parameters
        ----------
        batch : str
        send_to : sequence of str
            Names of the destinations.
        priority : int
            0 high, 1 medium, 2 low.
        """
        name = f"{batch}{ORIGINALS}"
        if any(self.folder(state, name).is_dir() for state in ("outgoing", "dead-letter")):
            return
        self.memory.remember_originals(batch.partition(".")[0], send_to)
        linked = self.folder("working", name)
        remove(linked)
        linked.mkdir(mode=0o700)
        for file in self.folder("ready", batch).iterdir():
            os.link(file, linked / file.name)
        deliveries = {destination: Delivery() for destination in send_to}
        self.set_record(name, Record(priority=priority, deliveries=deliveries))
        self._move("working", name, "outgoing", name)

    def discard_work(self, batch: str) -> None:
        """Delete derived images that were not handed over."""
        remove(self.root / "working" / batch)

    def delete(self, state: str, batch: str) -> None:
        """Delete a batch that is done with."""
        with self._moving:
            remove(self.root / state / batch)
            remove(self.root / "kept" / batch)
            record_path(self.root, batch).unlink(missing_ok=True)
            self._records.pop(batch, None)
            self._listings[state].forget()
            self.changes += 1

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
        self._reserve.write(lambda: write_text(self.root / "dead-letter" / f"{batch}.json", note))
        self._move(state, batch, "dead-letter", batch)

    def retry(self, batch: str) -> str:
        """Move a dead letter back to its former state, as if never tried.

        Returns
        -------
        str
            That state.
        """
        with self._moving:
            with self.update_record(batch) as record:
                record.attempts, record.not_before, record.reason = 0, 0.0, ""
                record.deliveries = {
                    n: d if d.state == "sent" else Delivery() for n, d in record.deliveries.items()
                }
            state = record.former_state if record.former_state in ("ready", "outgoing") else "ready"
            (self.root / "dead-letter" / f"{batch}.json").unlink(missing_ok=True)
            self._move("dead-letter", batch, state, batch)
        return state

    def _move(self, state: str, name: str, new_state: str, new_name: str) -> None:
        os.rename(self.root / state / name, self.root / new_state / new_name)
        sync(self.root / new_state)
        sync(self.root / state)
        for folder in (state, new_state):
            if folder in self._listings:
                self._listings[folder].forget()
        self.changes += 1

    # Records ------------------------------------------------------------------------------------------------

    def peek(self, batch: str) -> Record:
        """The record of a batch, to read only."""
        record = self._records.get(batch)
        if record is None:
            record = self._records[batch] = read_record(self.root, batch)
        return record

    def record(self, batch: str) -> Record:
        """A copy of the record of a batch."""
        return copy.deepcopy(self.peek(batch))

    def set_record(self, batch: str, record: Record) -> None:
        """Write the record of a batch."""
        with self._moving:
            self._reserve.write(lambda: write_record(self.root, batch, record))
            self._records[batch] = copy.deepcopy(record)
            self.changes += 1

    @contextlib.contextmanager
    def update_record(self, batch: str) -> Iterator[Record]:
        """Context manager: a record to change, written at the end; one change at a time."""
        with self._moving:
            record = self.record(batch)
            yield record
            self.set_record(batch, record)

    # Housekeeping -------------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Number of series and batches in every state."""
        return {state: len(listing.names()) for state, listing in self._listings.items()}

    def measure(self) -> int:
        """Measure the size of the whole spool, bytes."""
        sizes: dict[int, int] = {}  # by inode: forwarded originals are links
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name == self._reserve.path.name:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(os.path.join(folder, name))
                    sizes[status.st_ino] = status.st_size
        self.used_bytes = sum(sizes.values())
        return self.used_bytes

    def tidy(self, days: float) -> None:
        """Delete what is no longer needed, and fill the reserve again.

        Parameters
        ----------
        days : float
            Series without any event for so long are forgotten.
        """
        batches = {name for state in STATES for name in self.batches(state)}
        self.memory.prune({name.partition(".")[0] for name in batches}, days)
        now = time.time()
        for file in (self.root / "records").iterdir():
            if file.name.partition(".json")[0] not in batches and now - file.stat().st_mtime > 86400:
                remove(file)
        for folder in (self.root / "kept").iterdir():
            if folder.name not in batches:  # killed while a delivered batch was deleted
                remove(folder)
        for batch in self._records.keys() - batches:
            self._records.pop(batch, None)
        if not self.is_tight():
            self._reserve.fill()

    def unreadable_records(self) -> int:
        """Number of records that were moved away because they cannot be read."""
        return sum(name.endswith(".unreadable") for name in os.listdir(self.root / "records"))


def _lock(root: Path) -> BaseFileLock:
    lock = FileLock(root / "lock", mode=0o600, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise SpoolInUse(f"spool {root}: another node uses it; give each node its own") from None
    return lock


def _check_version(root: Path) -> None:
    path = root / "version"
    try:
        found = int(path.read_text())
    except FileNotFoundError:
        found = 0
    except ValueError:
        found = VERSION
    if found > VERSION:
        raise OutputError(f"spool {root}: written by a newer version of the node; run that, or give another spool")
    if found < VERSION:
        write_text(path, f"{VERSION}\n")
