"""Storage commitment as its user (PS3.4 Annex J): ask destinations whether they keep what they received."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom import evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from ldct_denoise.node.counters import Counters
from ldct_denoise.node.dimse import open_association
from ldct_denoise.node.records import Delivery
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.sending import Unreachable
from ldct_denoise.node.settings import DimseDestination
from ldct_denoise.node.spool import Spool

log = logging.getLogger("ldct_denoise.node")

#: Action type of a request, and event types of its results (PS3.4 J.3.2, J.3.3).
REQUEST, ALL_COMMITTED, SOME_FAILED = 1, 1, 2
SUCCESS, PROCESSING_FAILURE, NO_SUCH_INSTANCE = 0x0000, 0x0110, 0x0112


@dataclass(frozen=True)
class CommitmentResult:
    """Result of a request for storage commitment.

    Parameters
    ----------
    transaction_uid : str
    committed : tuple of str
        SOP Instance UIDs of the images that are kept.
    failed : mapping from str to int
        Failure Reason (0008,1197) of the others, by SOP Instance UID.
    """

    transaction_uid: str
    committed: tuple[str, ...]
    failed: Mapping[str, int]

    @classmethod
    def of(cls, information: Dataset) -> CommitmentResult:
        """Read Event Information (PS3.4 J.3.3.1).

        Raises
        ------
        AttributeError
            If it has no Transaction UID.
        """
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
            for item in information.get("FailedSOPSequence") or ()
        }
        committed = [str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()]
        kept = tuple(uid for uid in committed if uid not in failed)
        return cls(str(information.TransactionUID), kept, failed)


def references(images: Mapping[str, str]) -> Sequence:
    """Items of a Referenced SOP Sequence: SOP Class UID by SOP Instance UID."""
    items = []
    for sop_uid, class_uid in images.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, sop_uid
        items.append(item)
    return Sequence(items)


def request_commitment(
    destination: DimseDestination,
    ae_title: str,
    transaction_uid: str,
    images: Mapping[str, str],
    on_event: Callable[[Any], tuple[int, None]],
) -> None:
    """Ask a destination to commit to keep images; the result comes later, on this or another association.

    Parameters
    ----------
    destination : DimseDestination
    ae_title : str
        Own AE title, unless the destination names another.
    transaction_uid : str
    images : mapping from str to str
        SOP Class UID by SOP Instance UID.
    on_event : callable
        Takes an N-EVENT-REPORT that comes on the same association.

    Raises
    ------
    ConfigError
        If the TLS files of the destination cannot be used.
    Unreachable
        If it cannot be asked, or refuses the request.
    """
    association = open_association(
        destination, ae_title, [(StorageCommitmentPushModel, None)], handlers=[(evt.EVT_N_EVENT_REPORT, on_event)]
    )
    if not association.is_established:
        raise Unreachable("storage commitment is not supported by the destination")
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = references(images)
    try:
        answer, _ = association.send_n_action(
            information, REQUEST, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except (RuntimeError, OSError):
        raise Unreachable("association lost") from None
    finally:
        if association.is_established:
            association.release()
    status = answer.get("Status")
    if status != SUCCESS:
        told = "no answer" if status is None else f"status 0x{int(status):04X}"
        raise Unreachable(f"storage commitment: {told} to N-ACTION")


class CommitmentResults:
    """Takes the results that destinations report.

    Parameters
    ----------
    rules : Rules
    spool : Spool
    counters : Counters
    """

    def __init__(self, rules: Rules, spool: Spool, counters: Counters) -> None:
        self._rules, self._spool, self._counters = rules, spool, counters

    def use(self, rules: Rules) -> None:
        """Know the destinations of these rules from now on."""
        self._rules = rules

    def on_event(self, event: Any) -> tuple[int, None]:
        """Take an N-EVENT-REPORT; a result of an unknown transaction or of another peer is refused."""
        try:
            result = CommitmentResult.of(event.event_information)
        except Exception:  # a hostile message can fail anywhere inside pydicom
            return PROCESSING_FAILURE, None
        peer = event.assoc.requestor if event.assoc.is_acceptor else event.assoc.acceptor
        return (SUCCESS if self.take(result, peer.ae_title.strip()) else PROCESSING_FAILURE), None

    def take(self, result: CommitmentResult, ae_title: str) -> bool:
        """Note a result of the peer ``ae_title``; return whether its transaction is known."""
        for batch in self._spool.batches("outgoing"):
            for name, delivery in self._spool.peek(batch).deliveries.items():
                if delivery.transaction_uid != result.transaction_uid or not result.transaction_uid:
                    continue
                destination = self._rules.destinations.get(name)
                if not isinstance(destination, DimseDestination) or destination.ae_title != ae_title:
                    log.warning("%s: a result of storage commitment came from another peer than %s", batch, name)
                    return False
                self._note(batch, name, result)
                return True
        log.warning("a result of storage commitment belongs to no request that waits")
        return False

    def _note(self, batch: str, name: str, result: CommitmentResult) -> None:
        key, memory = batch.partition(".")[0], self._spool.memory
        sent = memory.sent(key, name)
        memory.mark_committed(key, name, {uid: sent[uid] for uid in result.committed if uid in sent})
        memory.withdraw_sent(key, name, [uid for uid in result.failed if uid in sent])
        with self._spool.update_record(batch) as record:
            delivery = record.deliveries[name]
            delivery.transaction_uid, delivery.next_try, delivery.reason = "", 0.0, ""
            if result.failed:
                failure = next(iter(result.failed.values()))
                fail(delivery, f"{len(result.failed)} images not committed, reason 0x{failure:04X}", self._rules)
        self._counters.add("committed", len(result.committed), destination=name)
        if result.failed:
            log.warning("%s: %s: %s; they are sent again", batch, name, delivery.reason)
        else:
            log.info("%s: %s gave storage commitment for %d images", batch, name, len(result.committed))


def fail(delivery: Delivery, reason: str, rules: Rules, wait_s: float | None = None) -> float:
    """Schedule the next attempt of a delivery, or give it up after ``give_up_h`` without progress.

    Parameters
    ----------
    delivery : Delivery
        Changed in place.
    reason : str
    rules : Rules
    wait_s : float, optional
        Time until the next attempt; by default it doubles with every attempt.

    Returns
    -------
    float
        The wait, s.
    """
    delivery.attempts += 1
    delivery.reason = reason
    wait_s = rules.retry.wait_s(delivery.attempts) if wait_s is None else wait_s
    delivery.next_try = time.time() + wait_s
    delivery.failing_s += wait_s
    if delivery.failing_s > rules.retry.give_up_h * 3600:
        delivery.state = "failed"
    return wait_s
