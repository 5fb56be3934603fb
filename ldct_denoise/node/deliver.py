"""Deliver derived series to every destination: once, later where it is down, not at all where it refuses."""

from __future__ import annotations

import logging
import threading
import time

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.instance import read_instance_uids
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.destinations import Unreachable, make_sender
from ldct_denoise.node.records import Delivery
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.spool import Spool

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

    Raises
    ------
    ConfigError
        If the TLS or authorization files of the destination cannot be used.
    """

    def __init__(self, name: str, rules: Rules, spool: Spool, counters: Counters, stop: threading.Event) -> None:
        self.name = name
        self._retry, self._spool, self._counters, self._stop = rules.retry, spool, counters, stop
        self._sender = make_sender(rules.destinations[name], rules.ae_title)

    def run_once(self) -> bool:
        """Try to deliver the oldest batch that is due; return whether there was one."""
        for batch in self._spool.batches("outgoing"):
            delivery = self._spool.record(batch).deliveries.get(self.name)
            if delivery and delivery.state == "waiting" and delivery.next_try <= time.time():
                self._deliver(batch)
                return True
        return False

    def _deliver(self, batch: str) -> None:
        key = batch.partition(".")[0]
        sent = self._spool.sent(key, self.name)
        files = sorted(self._spool.folder("outgoing", batch).rglob("*.dcm"))
        refusals: list[str] = []
        done = 0
        try:
            uids = {file: read_instance_uids(file).sop_uid for file in files}
            waiting = [file for file in files if uids[file] not in sent]
            self._counters.add("images_already_sent", len(files) - len(waiting))
            for file, refusal in self._sender.send(waiting) if waiting else ():
                done += 1
                if refusal:
                    refusals.append(refusal)
                else:
                    self._spool.mark_sent(key, self.name, uids[file])
                    self._counters.add("images_sent", destination=self.name)
                if self._stop.is_set():
                    return
        except Unreachable as error:
            self._retry_later(batch, str(error), made_progress=done > 0)
        except OSError as error:
            self._retry_later(batch, f"spool: {error.strerror}", made_progress=False)
        except InputError:
            self._finish(batch, 0, "a derived image in the spool cannot be read; send the series again")
        except Exception as error:  # a bug must not block other batches
            self._retry_later(batch, type(error).__name__, made_progress=done > 0)
        else:
            failure = f"{len(refusals)} of {len(waiting)} images refused: {refusals[0]}" if refusals else ""
            self._finish(batch, len(waiting), failure)

    def _finish(self, batch: str, count: int, failure: str) -> None:
        """Record that the destination has all images, or that it will never have them."""
        with self._spool.update_record(batch) as record:
            delivery = record.deliveries[self.name]
            delivery.state = "failed" if failure else "sent"
            delivery.reason = failure
        if failure:
            self._counters.add("send_failures", destination=self.name)
            log.error("%s: %s: %s", batch, self.name, failure)
        else:
            log.info("%s: %s has all images, %d of them new", batch, self.name, count)

    def _retry_later(self, batch: str, reason: str, made_progress: bool) -> None:
        """Schedule the next attempt, or give up after ``give_up_h`` without progress."""
        self._counters.add("send_failures", destination=self.name)
        now = time.time()
        with self._spool.update_record(batch) as record:
            delivery = record.deliveries[self.name]
            if made_progress or not delivery.attempts:
                delivery.attempts, delivery.first_failure = 0, now
            delivery.attempts += 1
            delivery.reason = reason
            wait_s = self._retry.wait_s(delivery.attempts)
            delivery.next_try = now + wait_s
            if now - delivery.first_failure > self._retry.give_up_h * 3600:
                delivery.state = "failed"
        log.warning("%s: %s: %s; attempt %d, next in %.0f s", batch, self.name, reason, delivery.attempts, wait_s)


def settle(spool: Spool, rules: Rules, counters: Counters) -> None:
    """Delete the batches that every destination has; move those that one will never have to the dead letters.

    Parameters
    ----------
    spool : Spool
    rules : Rules
    counters : Counters
    """
    for batch in spool.batches("outgoing"):
        deliveries = spool.record(batch).deliveries
        for name, delivery in deliveries.items():
            if delivery.state == "waiting" and name not in rules.destinations:
                deliveries[name] = Delivery(state="failed", reason="no longer a destination")
        if any(delivery.state == "waiting" for delivery in deliveries.values()):
            continue
        failures = [f"{name}: {d.reason}" for name, d in deliveries.items() if d.state == "failed"]
        if failures or not deliveries:
            spool.dead_letter("outgoing", batch, "; ".join(failures) or "no destination is known")
            log.error("%s: not delivered to all destinations; see dead-letter/%s.json", batch, batch)
        else:
            spool.delete("outgoing", batch)
        counters.add("series", outcome="dead letter" if failures else "delivered")
