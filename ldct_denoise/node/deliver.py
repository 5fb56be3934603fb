"""Deliver derived series to every destination: once, later where it is down, not at all where it refuses."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from pydicom.uid import generate_uid

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.instance import read_instance_uids, storage_uids
from ldct_denoise.node.audit import AuditTrail
from ldct_denoise.node.clock import Waits
from ldct_denoise.node.commitment import CommitmentResults, fail, request_commitment
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.destinations import make_sender
from ldct_denoise.node.records import Delivery
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.sending import Answer, Outcome, Unreachable
from ldct_denoise.node.settings import DimseDestination
from ldct_denoise.node.spool import ORIGINALS, Spool

log = logging.getLogger("ldct_denoise.node")


class Deliverer:
    """Delivers batches to one destination, independently of the others.

    Parameters
    ----------
    name : str
        Name of the destination.
    rules : Rules
    spool : Spool
    counters : Counters
    stop : threading.Event
        Interrupts a batch between two images when set.
    audit : AuditTrail, optional
        By default as the rules say.

    Raises
    ------
    ConfigError
        If the TLS or authorization files of the destination cannot be used.
    """

    def __init__(
        self,
        name: str,
        rules: Rules,
        spool: Spool,
        counters: Counters,
        stop: threading.Event,
        audit: AuditTrail | None = None,
    ) -> None:
        self.name = name
        self._spool, self._counters, self._stop = spool, counters, stop
        self._audit = audit or AuditTrail(rules, spool, counters)
        self._waits = Waits()
        self.use(rules)
        #: Monotonic time of the last image that the destination stored; None before the first.
        self.last_success: float | None = None
        #: Number of failures of images, by batch and SOP Instance UID.
        self._failures: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def use(self, rules: Rules) -> None:
        """Deliver by these rules from the next batch on.

        Raises
        ------
        ConfigError
            If the TLS or authorization files of the destination cannot be used.
        """
        self._destination = rules.destinations[self.name]
        self._sender = make_sender(self._destination, rules.ae_title)
        self._rules = rules
        self._results = CommitmentResults(rules, self._spool, self._counters)

    def run_once(self) -> bool:
        """Try to deliver the most urgent batch that is due; return whether there was one."""
        for batch in self._spool.by_priority("outgoing"):
            if self._is_due(batch):
                self._waits.forget(batch)
                self._deliver(batch)
                return True
        return False

    def cancel(self) -> None:
        """Abort a running transmission, when the node stops."""
        self._sender.cancel()

    def _is_due(self, batch: str) -> bool:
        delivery = self._spool.peek(batch).deliveries.get(self.name)
        if delivery is None or delivery.state != "waiting":
            return False
        longest_s = self._rules.retry.wait_s(max(delivery.attempts, 1))
        if delivery.transaction_uid and isinstance(self._destination, DimseDestination):
            longest_s = self._destination.commitment_wait_s
        return self._waits.is_over(batch, delivery.next_try, longest_s)

    def _is_outranked(self, batch: str) -> bool:
        """Whether a more urgent batch is due."""
        priority = self._spool.peek(batch).priority
        for other in self._spool.by_priority("outgoing") if priority else ():
            if self._spool.peek(other).priority >= priority:
                return False
            if self._is_due(other):
                return True
        return False

    def _deliver(self, batch: str) -> None:
        key = batch.partition(".")[0]
        files = sorted(self._spool.folder("outgoing", batch).rglob("*.dcm"))
        answers: list[Answer] = []
        waiting: list[Path] = []
        try:
            uids = {file: read_instance_uids(file).sop_uid for file in files}
            sent = self._spool.memory.sent(key, self.name)
            waiting = [file for file in files if not _is_delivered(file, sent.get(uids[file]))]
            waiting.sort(key=lambda file: self._failures[batch][uids[file]])  # one that fails holds back no other
            self._counters.add("images_already_sent", len(files) - len(waiting))
            priority = self._spool.peek(batch).priority
            for file, answer in self._sender.send(waiting, priority) if waiting else ():
                answers.append(answer)
                self._note(batch, key, file, uids[file], answer)
                if self._stop.is_set() or (len(answers) < len(waiting) and self._is_outranked(batch)):
                    return
        except Unreachable as error:
            image = error.image or waiting[len(answers)]
            self._failures[batch][uids[image]] += 1  # this image may be the cause
            self._retry_later(batch, str(error), _has_progress(answers))
        except OSError as error:
            self._retry_later(batch, f"spool: {error.strerror}", made_progress=False)
        except InputError:
            self._finish(batch, 0, "a derived image in the spool cannot be read; send the series again")
        except Exception as error:  # a bug must not block other batches and images
            self._failures[batch].update(uids[file] for file in waiting[len(answers) : len(answers) + 1])
            self._retry_later(batch, type(error).__name__, _has_progress(answers))
        else:
            self._conclude(batch, answers, uids)
        finally:
            self._log_warnings(batch, answers)

    def _note(self, batch: str, key: str, file: Path, uid: str, answer: Answer) -> None:
        """Note that the destination has an image, or that it failed."""
        if answer.outcome is Outcome.STORED:
            self.last_success = time.monotonic()
            self._spool.memory.mark_sent(key, self.name, uid, digest_of(file))
            self._counters.add("images_sent", destination=self.name)
            if answer.reason:
                self._counters.add("send_warnings", destination=self.name)
        else:
            self._failures[batch][uid] += 1

    def _log_warnings(self, batch: str, answers: list[Answer]) -> None:
        """Log each warning of stored images once, with its number of images."""
        for reason, count in Counter(
            a.reason for a in answers if a.outcome is Outcome.STORED and a.reason
        ).items():
            log.warning("%s: %s: %d images stored with warning %s", batch, self.name, count, reason)

    def _conclude(self, batch: str, answers: list[Answer], uids: Mapping[Path, str]) -> None:
        """Finish a batch whose images were all answered, or schedule those that may be stored another time."""
        retries = [answer.reason for answer in answers if answer.outcome is Outcome.RETRY]
        refusals = [answer.reason for answer in answers if answer.outcome is Outcome.REFUSED]
        if retries:
            reason = f"{len(retries)} of {len(answers)} images not stored: {retries[0]}"
            self._retry_later(batch, reason, _has_progress(answers))
            return
        failure = f"{len(refusals)} of {len(answers)} images refused: {refusals[0]}" if refusals else ""
        open_images = {} if failure else self._without_commitment(batch, uids)
        if open_images:
            self._ask_commitment(batch, open_images)
        else:
            self._finish(batch, len(answers), failure)

    def _without_commitment(self, batch: str, uids: Mapping[Path, str]) -> dict[str, str]:
        """Images for which the destination must still give storage commitment: class by SOP Instance UID."""
        if not isinstance(self._destination, DimseDestination) or not self._destination.commitment:
            return {}
        committed = self._spool.memory.committed(batch.partition(".")[0], self.name)
        return {
            uid: storage_uids(file)[0] for file, uid in uids.items() if not _is_delivered(file, committed.get(uid))
        }

    def _ask_commitment(self, batch: str, images: Mapping[str, str]) -> None:
        """Ask for storage commitment; ask again if the former request was not answered in time."""
        assert isinstance(self._destination, DimseDestination)
        transaction_uid = generate_uid()
        with self._spool.update_record(batch) as record:  # first: the result may come before the answer
            delivery = record.deliveries[self.name]
            was_asked = bool(delivery.transaction_uid)
            delivery.transaction_uid = transaction_uid
            wait_s = self._destination.commitment_wait_s
            reason = "no result of storage commitment in time" if was_asked else "waits for storage commitment"
            if was_asked:
                fail(delivery, reason, self._rules, wait_s)
            else:
                delivery.reason, delivery.next_try = reason, time.time() + wait_s
        if delivery.state == "failed":
            self._log_given_up(batch, reason)
            return
        try:
            request_commitment(
                self._destination, self._rules.ae_title, transaction_uid, images, self._results.on_event
            )
        except Unreachable as error:
            self._retry_later(batch, str(error), made_progress=False)
        else:
            log.info("%s: %s: asked for storage commitment of %d images", batch, self.name, len(images))

    def _finish(self, batch: str, count: int, failure: str) -> None:
        """Record that the destination has all images, or that it will never have them."""
        self._failures.pop(batch, None)
        with self._spool.update_record(batch) as record:
            delivery = record.deliveries[self.name]
            delivery.state = "failed" if failure else "sent"
            delivery.reason = failure
        self._report(batch, failure)
        if failure:
            self._counters.add("send_failures", destination=self.name)
            log.error("%s: %s: %s", batch, self.name, failure)
        else:
            log.info("%s: %s has all images, %d of them new", batch, self.name, count)

    def _retry_later(self, batch: str, reason: str, made_progress: bool) -> None:
        """Schedule the next attempt, or give up after ``give_up_h`` without progress."""
        self._counters.add("send_failures", destination=self.name)
        with self._spool.update_record(batch) as record:
            delivery = record.deliveries[self.name]
            if made_progress:
                delivery.attempts, delivery.failing_s = 0, 0.0
            delivery.transaction_uid = ""
            wait_s = fail(delivery, reason, self._rules)
        if delivery.state == "failed":
            self._log_given_up(batch, reason)
            return
        log.warning("%s: %s: %s; attempt %d, next in %.0f s", batch, self.name, reason, delivery.attempts, wait_s)

    def _report(self, batch: str, failure: str) -> None:
        """Write into the audit trail that the destination has a batch, or will never have it."""
        record = self._spool.peek(batch)
        details = {"model": record.model, "model-sha256": record.checksum}
        self._audit.delivered(batch, self.name, self._spool.folder("outgoing", batch), details, failure)

    def _log_given_up(self, batch: str, reason: str) -> None:
        self._failures.pop(batch, None)
        self._report(batch, reason)
        log.error("%s: %s: given up: %s", batch, self.name, reason)


def _has_progress(answers: list[Answer]) -> bool:
    return any(answer.outcome is Outcome.STORED for answer in answers)


def _is_delivered(file: Path, digest: str | None) -> bool:
    """Whether a destination has an image as it is now; an empty digest stands for any content."""
    return digest is not None and (digest == "" or digest == digest_of(file))


def digest_of(file: Path) -> str:
    """SHA-256 of a file, by which a delivered image is known."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def settle(spool: Spool, rules: Rules, counters: Counters) -> None:
    """Delete the batches that every destination has; move those that one will never have to the dead letters.

    Parameters
    ----------
    spool : Spool
    rules : Rules
    counters : Counters
    """
    for batch in spool.batches("outgoing"):
        if not spool.peek(batch).deliveries:
            _restore_deliveries(batch, spool)
        deliveries = spool.record(batch).deliveries
        for name, delivery in deliveries.items():
            if delivery.state == "waiting" and name not in rules.destinations:
                deliveries[name] = Delivery(state="failed", reason="no longer a destination")
        if any(delivery.state == "waiting" for delivery in deliveries.values()):
            continue
        failures = [f"{name}: {d.reason}" for name, d in deliveries.items() if d.state == "failed"]
        if failures or not deliveries:
            spool.dead_letter("outgoing", batch, "; ".join(failures) or "its destinations are not known")
            log.error("%s: not delivered to all destinations; see dead-letter/%s.json", batch, batch)
        else:
            spool.delete("outgoing", batch)
        kind = "originals " if batch.endswith(ORIGINALS) else ""
        counters.add("series", outcome=kind + ("dead letter" if failures or not deliveries else "delivered"))


def _restore_deliveries(batch: str, spool: Spool) -> None:
    """Begin the deliveries of a batch anew whose record was lost; what a destination has is not sent again."""
    key = batch.partition(".")[0]
    remembered = spool.memory.rule(key)
    send_to = remembered.send_to if remembered else ()
    if batch.endswith(ORIGINALS):
        send_to = spool.memory.originals_to(key)
    if send_to:
        log.error("%s: its record was lost; its deliveries begin anew", batch)
        with spool.update_record(batch) as record:
            record.deliveries = {name: Delivery() for name in send_to}
