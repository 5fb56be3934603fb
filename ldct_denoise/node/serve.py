"""The whole node: start its threads, watch them, and stop them in order."""

from __future__ import annotations

import ipaddress
import logging
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from ldct_denoise.io.process_limits import peak_memory_bytes
from ldct_denoise.node.completion import Completion
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.deliver import Deliverer, settle
from ldct_denoise.node.destinations import make_sender
from ldct_denoise.node.log_privacy import suppress_library_logs
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.spool import Spool
from ldct_denoise.node.status import StatusServer
from ldct_denoise.node.storage_scp import StorageSCP, server_tls
from ldct_denoise.node.worker import Worker

log = logging.getLogger("ldct_denoise.node")

#: Interval between two looks at the folders, s.
TICK_S = 0.25
#: Interval between two measurements and prunings of the spool, s.
HOUSEKEEPING_S = 60.0
#: Time for open associations to finish when the node stops, s.
GRACE_S = 10.0


class Node:
    """A DICOM node; all of its state that must survive a restart is in its spool.

    Parameters
    ----------
    rules : Rules

    Raises
    ------
    ConfigError, ModelError, OutputError
        If an address, a model, a TLS file or the spool cannot be used.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.counters = Counters()
        self.stopping = threading.Event()
        self.spool = Spool(rules.spool, rules.limits)
        self._completion = Completion(rules.complete)
        self._worker = Worker(rules, self.spool, self.counters, self.stopping)
        self._worker.load_models()
        jobs: dict[str, Callable[[], bool]] = {"watch": self._watch, "work": self._worker.run_once}
        for name in rules.destinations:
            deliverer = Deliverer(name, rules, self.spool, self.counters, self.stopping)
            jobs[f"send-{name}"] = deliverer.run_once
        self._threads = [threading.Thread(target=self._repeat, args=item, name=item[0]) for item in jobs.items()]
        self._status = StatusServer(rules.status_port, self.health, self.metrics) if rules.status_port else None
        self._receiver = StorageSCP(rules, self.spool, self._completion, self.counters)
        self._started = time.time()
        self._next_housekeeping = 0.0

    def start(self) -> None:
        """Start to receive, denoise and send, each in its own threads."""
        for thread in self._threads:
            thread.start()
        self._receiver.start()
        if self._status:
            self._status.start()
        if self.rules.tls is None and not ipaddress.ip_address(self.rules.host).is_loopback:
            log.warning("listens on %s without TLS: anybody on that network can read the images", self.rules.host)
        log.info("%s listens on %s, port %d", self.rules.ae_title, self.rules.host, self.rules.port)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Accept nothing new, let open associations finish, and leave the rest on disk for the next start."""
        log.info("stopping")
        self._receiver.stop(grace_s)
        self.stopping.set()
        for thread in self._threads:
            thread.join()
        if self._status:
            self._status.stop()
        self.spool.close()
        log.info("stopped")

    def run(self, until: threading.Event) -> None:
        """Serve until the event is set."""
        with suppress_library_logs():
            self.start()
            try:
                until.wait()
            finally:
                self.stop()

    def health(self) -> dict[str, Any]:
        """Content of ``/health``: whether all parts run, and how much is waiting."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        dead += [] if self._receiver.alive else ["receive"]
        free = shutil.disk_usage(self.rules.spool).free / 2**30
        full = self.spool.is_tight() or self._spool_gib() > self.rules.limits.spool_gib
        return {
            "ok": not dead and not full,
            "stopped_parts": dead,
            "disk_full": full,
            "free_gib": round(free, 2),
            "spool_gib": round(self._spool_gib(), 3),
            "associations": self._receiver.open_associations,
            "batches": self.spool.counts(),
        }

    def metrics(self) -> str:
        """Content of ``/metrics``: counters in Prometheus' text format."""
        gauges = {
            "spool_bytes": self.spool.used_bytes,
            "free_bytes": shutil.disk_usage(self.rules.spool).free,
            "open_associations": self._receiver.open_associations,
            "up_seconds": time.time() - self._started,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        return self.counters.text(gauges, self.spool.counts())

    def _spool_gib(self) -> float:
        return self.spool.used_bytes / 2**30

    def _repeat(self, name: str, job: Callable[[], bool]) -> None:
        """Repeat a job until the node stops; wait where it had nothing to do or failed."""
        while not self.stopping.is_set():
            try:
                busy = job()
            except Exception as error:  # for example a full disk: the part must go on when there is room again
                log.error("%s: %s; trying again soon", name, type(error).__name__)
                self.stopping.wait(10 * TICK_S)
                continue
            if not busy:
                self.stopping.wait(TICK_S)

    def _watch(self) -> bool:
        """Close the series that are complete, settle delivered batches, and keep the spool in order."""
        for key in self._completion.complete_series(self.spool.incoming(), time.time()):
            log.info("%s: complete", self.spool.complete(key))
            self._completion.forget(key)
        settle(self.spool, self.rules, self.counters)
        if time.monotonic() >= self._next_housekeeping:
            self._next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            self.spool.measure()
            self.spool.prune(self.rules.remember_days)
        return False


def check(rules: Rules) -> None:
    """Check models, certificates and secrets that the rules name, without listening or sending.

    Raises
    ------
    ConfigError, ModelError
    """
    Worker(rules, None, Counters(), threading.Event()).load_models()  # type: ignore[arg-type]
    if rules.tls:
        server_tls(rules.tls)
    for destination in rules.destinations.values():
        make_sender(destination, rules.ae_title)
