"""Storage commitment as its provider (PS3.4 Annex J): tell senders which of their images are safe elsewhere.

The node is no archive. It commits to an image when every destination of ``originals_to`` has it, and has itself
given storage commitment where it is asked for that. The result of a request waits as long as an image may still
get there. Images that are forwarded nowhere are reported as failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from ldct_denoise.errors import ConfigError
from ldct_denoise.node.clock import Waits
from ldct_denoise.node.commitment import (
    ALL_COMMITTED,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    REQUEST,
    SOME_FAILED,
    SUCCESS,
    references,
)
from ldct_denoise.node.dimse import open_association
from ldct_denoise.node.durable_files import write_text
from ldct_denoise.node.names import image_stem
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.sending import Unreachable
from ldct_denoise.node.settings import DimseDestination
from ldct_denoise.node.spool import ORIGINALS, Spool

log = logging.getLogger("ldct_denoise.node")

#: Interval between two looks at images that are not there yet, s.
LOOK_S = 2.0
#: Largest number of images in one request.
MAX_IMAGES = 100_000


@dataclass(frozen=True)
class CommitmentRequest:
    """A request of a sender that is not answered yet.

    Parameters
    ----------
    transaction_uid, ae_title, host : str
        Of the request; AE title and address of the sender.
    images : dict from str to str
        SOP Class UID by SOP Instance UID.
    received : float
        Time of the request, seconds since 1970.
    attempts : int
        Attempts to report its result.
    next_try : float
        Time of the next attempt, seconds since 1970.
    """

    transaction_uid: str
    ae_title: str
    host: str
    images: dict[str, str]
    received: float
    attempts: int = 0
    next_try: float = 0.0


class CommitmentSCP:
    """Takes requests for storage commitment and reports their results.

    Parameters
    ----------
    rules : Rules
    spool : Spool
        Keeps the requests.
    """

    def __init__(self, rules: Rules, spool: Spool) -> None:
        self._rules, self._spool = rules, spool
        self._folder = spool.root / "commitments"
        self._waits = Waits()
        self._next_look: dict[str, float] = {}

    def use(self, rules: Rules) -> None:
        """Answer by these rules from now on."""
        self._rules = rules

    def on_action(self, event: Any) -> tuple[int, None]:
        """Take an N-ACTION; success means that the request is on disk."""
        sender = event.assoc.requestor
        try:
            information = event.action_information
            images = {
                str(item.ReferencedSOPInstanceUID): str(item.ReferencedSOPClassUID)
                for item in information.ReferencedSOPSequence
            }
            transaction_uid = str(information.TransactionUID)
            host = sender.address_info.address
            is_request = event.action_type == REQUEST and 0 < len(images) <= MAX_IMAGES
            if not is_request or self._reports_to(sender.ae_title.strip(), host) is None:
                log.warning("a request for storage commitment is refused: its sender has no setting `commitment`")
                return PROCESSING_FAILURE, None
            asked = CommitmentRequest(transaction_uid, sender.ae_title.strip(), host, images, time.time())
            self._write(asked)
        except Exception as error:  # a hostile message can fail anywhere inside pydicom
            log.warning("a request for storage commitment is refused: %s", type(error).__name__)
            return PROCESSING_FAILURE, None
        log.info("asked for storage commitment of %d images", len(images))
        return SUCCESS, None

    def run_once(self) -> bool:
        """Report the results that are known; return whether there was one."""
        for path in sorted(self._folder.glob("[!.]*.json")):
            asked = _read(path)
            if asked is None:
                path.unlink(missing_ok=True)
                continue
            longest_s = self._rules.retry.longest_s
            if time.monotonic() < self._next_look.get(path.name, 0.0) or not self._waits.is_over(
                path.name, asked.next_try, longest_s
            ):
                continue
            self._next_look[path.name] = time.monotonic() + LOOK_S
            result = self._result(asked)
            if result is not None:
                self._report(path, asked, result)
                return True
        return False

    def _result(self, asked: CommitmentRequest) -> dict[str, int] | None:
        """Failure Reason by SOP Instance UID; None while an image may still reach its destinations."""
        waiting = set(asked.images) - self._delivered(asked.images)
        failed: dict[str, int] = {}
        is_late = time.time() - asked.received > self._rules.retry.give_up_h * 3600
        for sop_uid in waiting:
            state = self._state(sop_uid)
            if state in ("incoming", "ready", "outgoing") and not is_late:
                return None
            failed[sop_uid] = PROCESSING_FAILURE if state else NO_SUCH_INSTANCE
        return failed

    def _delivered(self, sop_uids: Iterable[str]) -> set[str]:
        """The images that all of their destinations keep."""
        wanted, found = set(sop_uids), set[str]()
        memory = self._spool.memory
        with contextlib.suppress(FileNotFoundError):  # a series that is forgotten just now
            for folder in sorted(memory.root.iterdir(), key=lambda item: -item.stat().st_mtime):
                destinations = memory.originals_to(folder.name)
                kept = [
                    (memory.committed if self._rules.asks_commitment(name) else memory.sent)(folder.name, name)
                    for name in destinations
                ]
                if kept:
                    found |= wanted.intersection(*kept)
                if found == wanted:
                    break
        return found

    def _state(self, sop_uid: str) -> str:
        """State of the first batch of received images that holds an image; empty where none does."""
        name = f"{image_stem(sop_uid)}.dcm"
        for state in ("incoming", "ready", "outgoing", "dead-letter"):
            for batch in self._spool.batches(state):
                holds_received = state != "outgoing" or batch.endswith(ORIGINALS)
                if holds_received and (self._spool.folder(state, batch) / name).exists():
                    return state
        return ""

    def _report(self, path: Path, asked: CommitmentRequest, failed: dict[str, int]) -> None:
        """Send the result, or schedule another attempt."""
        try:
            self._send(asked, failed)
        except (Unreachable, ConfigError) as error:
            if time.time() - asked.received > self._rules.retry.give_up_h * 3600:
                path.unlink(missing_ok=True)
                log.error("a result of storage commitment cannot be reported: %s; given up", error)
                return
            wait_s = self._rules.retry.wait_s(asked.attempts + 1)
            self._write(replace(asked, attempts=asked.attempts + 1, next_try=time.time() + wait_s))
            log.warning("a result of storage commitment cannot be reported: %s; next in %.0f s", error, wait_s)
            return
        path.unlink(missing_ok=True)
        self._waits.forget(path.name)
        self._next_look.pop(path.name, None)
        log.info(
            "storage commitment given for %d of %d images", len(asked.images) - len(failed), len(asked.images)
        )

    def _send(self, asked: CommitmentRequest, failed: dict[str, int]) -> None:
        receiver = self._reports_to(asked.ae_title, asked.host)
        if receiver is None:
            raise Unreachable("its sender is no accepted caller with `commitment`")
        information = Dataset()
        information.TransactionUID = asked.transaction_uid
        kept = {uid: kind for uid, kind in asked.images.items() if uid not in failed}
        if kept:
            information.ReferencedSOPSequence = references(kept)
        if failed:
            information.FailedSOPSequence = references({uid: asked.images[uid] for uid in failed})
            for item in information.FailedSOPSequence:
                item.FailureReason = failed[item.ReferencedSOPInstanceUID]
        association = open_association(
            receiver,
            self._rules.ae_title,
            [(StorageCommitmentPushModel, None)],
            roles=[build_role(StorageCommitmentPushModel, scp_role=True)],
        )
        if not association.is_established:
            raise Unreachable("its sender does not accept results of storage commitment")
        try:
            answer, _ = association.send_n_event_report(
                information,
                SOME_FAILED if failed else ALL_COMMITTED,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
        except (RuntimeError, OSError):
            raise Unreachable("association lost") from None
        finally:
            if association.is_established:
                association.release()
        if answer.get("Status") != SUCCESS:
            raise Unreachable("N-EVENT-REPORT is not answered with success")

    def _reports_to(self, ae_title: str, host: str) -> DimseDestination | None:
        """Where the results of a caller go; None where nothing says it."""
        for peer in self._rules.accept:
            if peer.commitment and peer.allows(ae_title, host):
                to = peer.commitment
                return DimseDestination(  # type: ignore[call-arg]
                    host=host, port=to.port, ae_title=ae_title, timeout_s=to.timeout_s, tls=to.tls
                )
        return None

    def _write(self, asked: CommitmentRequest) -> None:
        name = hashlib.sha256(f"{asked.ae_title}\0{asked.transaction_uid}".encode()).hexdigest()[:32]
        write_text(self._folder / f"{name}.json", json.dumps(asdict(asked)))


def _read(path: Path) -> CommitmentRequest | None:
    try:
        return CommitmentRequest(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
