"""Derived series on their way: to every destination once, later where it is down, aside where it refuses."""

from __future__ import annotations

import logging
import threading
import time

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.instance import read_instance_uids
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.destinations import Unreachable, make_sender
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.spool import Delivery, Spool

log = logging.getLogger("ldct_denoise.node")


class Deliverer:
    """Brings batches to one destination; the others do not wait for it.

    Parameters
    ----------
    name : str
        Of the destination.
    rules : Rules
    spool : Spool
    counters : Counters
    stop : threading.Event
        Set, it ends a batch between two images.
    """

    def __init__(self, name: str, rules: Rules, spool: Spool, counters: Counters, stop: threading.Event) -> None:
        self.name = name
        self._retry, self._spool, self._counters, self._stop = rules.retry, spool, counters, stop
        self._sender = make_sender(rules.destinations[name], rules.ae_title)

    def run_once(self) -> bool:
        """Try the oldest batch that is due; whether there was one."""
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
            self._counters.add("images_sent_before", len(files) - len(waiting))
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
            self._fail(batch, str(error), progress=done > 0)
        except OSError as error:
            self._fail(batch, f"spool: {error.strerror}", progress=False)
        except InputError:
            self._conclude(batch, 0, "a derived image in the spool cannot be read; send the series again")
        except Exception as error:  # a bug: other batches must not wait for this one
            self._fail(batch, type(error).__name__, progress=done > 0)
        else:
            refused = f"{len(refusals)} of {len(waiting)} images refused: {refusals[0]}" if refusals else ""
            self._conclude(batch, len(waiting), refused)

    def _conclude(self, batch: str, count: int, failure: str) -> None:
        """The destination has all images, or never will."""
        with self._spool.changing(batch) as record:
            delivery = record.deliveries[self.name]
            delivery.state = "failed" if failure else "sent"
            delivery.reason = failure
        if failure:
            self._counters.add("send_failures", destination=self.name)
            log.error("%s: %s: %s", batch, self.name, failure)
        else:
            log.info("%s: %s has all images, %d of them new", batch, self.name, count)

    def _fail(self, batch: str, reason: str, progress: bool) -> None:
        """Try again later, or give up."""
        self._counters.add("send_failures", destination=self.name)
        now = time.time()
        with self._spool.changing(batch) as record:
            delivery = record.deliveries[self.name]
            if progress or not delivery.attempts:
                delivery.attempts, delivery.first_failure = 0, now
            delivery.attempts += 1
            delivery.reason = reason
            wait = self._retry.wait_s(delivery.attempts)
            delivery.next_try = now + wait
            if now - delivery.first_failure > self._retry.give_up_h * 3600:
                delivery.state = "failed"
        log.warning("%s: %s: %s; attempt %d, next in %.0f s", batch, self.name, reason, delivery.attempts, wait)


def settle(spool: Spool, rules: Rules, counters: Counters) -> None:
    """Let go of the batches that every destination has; put those aside that one will not get."""
    for batch in spool.batches("outgoing"):
        deliveries = spool.record(batch).deliveries
        for name, delivery in deliveries.items():
            if delivery.state == "waiting" and name not in rules.destinations:
                deliveries[name] = Delivery(state="failed", reason="no longer a destination")
        if any(delivery.state == "waiting" for delivery in deliveries.values()):
            continue
        failures = [f"{name}: {d.reason}" for name, d in deliveries.items() if d.state == "failed"]
        if failures or not deliveries:
            spool.dead_letter("outgoing", batch, "; ".join(failures) or "nobody to send to is known")
            log.error("%s: not delivered to everyone; see dead-letter/%s.json", batch, batch)
        else:
            spool.drop("outgoing", batch)
        counters.add("series", outcome="dead letter" if failures else "delivered")
