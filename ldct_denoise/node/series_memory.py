"""Notes on each series: creation time, stacks, rule, patients, and delivered images."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from ldct_denoise.io.dicom.stack_identity import StackRegistry
from ldct_denoise.node.durable_files import Reserve, append_line, remove, write_text
from ldct_denoise.node.records import RememberedRule

#: Stands for the digest of an image that a destination does not have after all.
_WITHDRAWN = "-"


class SeriesMemory:
    """Notes on every series, one folder each.

    Parameters
    ----------
    root : Path
        Folder of the notes.
    reserve : Reserve
        Makes room for a note when the disk is full.
    """

    def __init__(self, root: Path, reserve: Reserve) -> None:
        self.root, self._reserve = root, reserve
        self._lock = threading.Lock()

    def created(self, key: str) -> datetime:
        """Creation time of the derived series; the same for all batches and repetitions."""
        path = self.root / key / "created"
        with self._lock:
            try:
                return datetime.fromisoformat(path.read_text())
            except (FileNotFoundError, ValueError):
                now = datetime.now().astimezone()
                self._write(path, now.isoformat())
                return now

    def stack_registry(self, key: str) -> StackRegistry:
        """Read which images of a series belong to which stack."""
        try:
            return StackRegistry.from_json((self.root / key / "stacks.json").read_text())
        except FileNotFoundError:
            return StackRegistry()

    def save_stack_registry(self, key: str, registry: StackRegistry) -> None:
        """Write which images of a series belong to which stack, for images that arrive late."""
        self._write(self.root / key / "stacks.json", registry.to_json())

    def rule(self, key: str, rules_digest: str | None = None) -> RememberedRule | None:
        """Read which rule decided for a series.

        Parameters
        ----------
        key : str
            Key of the series.
        rules_digest : str, optional
            Digest of the present rules; a rule that was chosen among others does not count. None to count any.

        Returns
        -------
        RememberedRule or None
        """
        try:
            content = json.loads((self.root / key / "rule.json").read_text())
            remembered = RememberedRule(
                content["rules_digest"], content["index"], tuple(content.get("send_to", ()))
            )
        except (OSError, ValueError, TypeError, LookupError):
            return None
        return remembered if rules_digest in (None, remembered.rules_digest) else None

    def remember_rule(self, key: str, rule: RememberedRule) -> None:
        """Write which rule decided for a series, for images that arrive late."""
        self._write(self.root / key / "rule.json", json.dumps(asdict(rule)))

    def originals_to(self, key: str) -> tuple[str, ...]:
        """Read the destinations to which the received images of a series were forwarded."""
        try:
            return tuple(map(str, json.loads((self.root / key / "originals.json").read_text())))
        except (OSError, ValueError, TypeError):
            return ()

    def remember_originals(self, key: str, destinations: Sequence[str]) -> None:
        """Write the destinations to which the received images of a series are forwarded.

        Parameters
        ----------
        key : str
            Key of the series.
        destinations : sequence of str
            Their names.
        """
        self._write(self.root / key / "originals.json", json.dumps(list(destinations)))

    def is_urgent(self, key: str) -> bool:
        """Whether a sender gave an image of a series the priority HIGH."""
        return (self.root / key / "urgent").exists()

    def mark_urgent(self, key: str) -> None:
        """Record that a sender gave an image of a series the priority HIGH."""
        if not self.is_urgent(key):
            self._write(self.root / key / "urgent", "")

    def patient_revision(self, key: str, patient: str) -> int:
        """Number of a patient identity among those under which a series was received, from 0.

        A series that is sent again with a corrected patient has another revision, and its derived series other
        UIDs: an archive would otherwise keep the images that it has under the wrong patient.

        Parameters
        ----------
        key : str
            Key of the series.
        patient : str
            The identifying attributes in one text; only its digest is kept.

        Returns
        -------
        int
        """
        path = self.root / key / "patients.json"
        digest = hashlib.sha256(f"{key}\0{patient}".encode()).hexdigest()
        with self._lock:
            try:
                known = [str(item) for item in json.loads(path.read_text())]
            except (OSError, ValueError, TypeError):
                known = []
            if digest not in known:
                known.append(digest)
                self._write(path, json.dumps(known))
            return known.index(digest)

    def sent(self, key: str, destination: str) -> dict[str, str]:
        """Images that a destination has acknowledged: digest of the file by SOP Instance UID.

        The digest is empty where an earlier version of the node did not note it.
        """
        return self._notes(key, f"{destination}.sent")

    def committed(self, key: str, destination: str) -> dict[str, str]:
        """Images for which a destination has given storage commitment: digest of the file by SOP Instance UID."""
        return self._notes(key, f"{destination}.committed")

    def _notes(self, key: str, name: str) -> dict[str, str]:
        try:
            lines = (self.root / key / name).read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        notes = [line.split() for line in lines if line.endswith("\n") and line.strip()]
        found = {uid: digest[0] if digest else "" for uid, *digest in notes}
        return {uid: digest for uid, digest in found.items() if digest != _WITHDRAWN}

    def mark_sent(self, key: str, destination: str, sop_uid: str, digest: str) -> None:
        """Record that a destination has acknowledged an image.

        Parameters
        ----------
        key : str
            Key of the series.
        destination : str
            Name of the destination.
        sop_uid : str
            SOP Instance UID of the image.
        digest : str
            SHA-256 of its file.
        """
        self._append(key, f"{destination}.sent", f"{sop_uid} {digest}")

    def mark_committed(self, key: str, destination: str, digests: Mapping[str, str]) -> None:
        """Record that a destination has given storage commitment for images.

        Parameters
        ----------
        key : str
            Key of the series.
        destination : str
            Name of the destination.
        digests : mapping from str to str
            SHA-256 of the file of each image, by SOP Instance UID.
        """
        if digests:
            self._append(
                key, f"{destination}.committed", "\n".join(f"{uid} {digest}" for uid, digest in digests.items())
            )

    def withdraw_sent(self, key: str, destination: str, sop_uids: Collection[str]) -> None:
        """Record that a destination does not have images after all; they are sent again.

        Parameters
        ----------
        key : str
            Key of the series.
        destination : str
            Name of the destination.
        sop_uids : collection of str
            SOP Instance UIDs of the images.
        """
        if sop_uids:
            self._append(key, f"{destination}.sent", "\n".join(f"{uid} {_WITHDRAWN}" for uid in sop_uids))

    def _append(self, key: str, name: str, lines: str) -> None:
        self._reserve.write(lambda: append_line(self.root / key / name, lines))

    def forget_sent(self, key: str) -> int:
        """Forget what was delivered of a series, so that it is delivered again when it is received again.

        Returns
        -------
        int
            Number of notes that were deleted.
        """
        notes = [*(self.root / key).glob("*.sent"), *(self.root / key).glob("*.committed")]
        for note in notes:
            note.unlink(missing_ok=True)
        return len(notes)

    def prune(self, busy: Collection[str], days: float) -> None:
        """Delete the notes on series without any event for ``days``, unless they are ``busy``."""
        now = time.time()
        for folder in self.root.iterdir():
            newest = max((item.stat().st_mtime for item in folder.iterdir()), default=0.0)
            if folder.name not in busy and now - newest > days * 86400:
                remove(folder)

    def _write(self, path: Path, text: str) -> None:
        self._reserve.write(lambda: write_text(path, text))
