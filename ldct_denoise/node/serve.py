"""The whole node: start its threads, watch them, and stop them in order."""

from __future__ import annotations

import ipaddress
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ldct_denoise.errors import ConfigError, LdctDenoiseError
from ldct_denoise.io.process_limits import peak_memory_bytes
from ldct_denoise.node.audit import AuditTrail
from ldct_denoise.node.commitment import CommitmentResults
from ldct_denoise.node.commitment_scp import CommitmentSCP
from ldct_denoise.node.completion import Completion
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.deliver import Deliverer, settle
from ldct_denoise.node.destinations import make_sender
from ldct_denoise.node.health import Health
from ldct_denoise.node.intake import Intake
from ldct_denoise.node.log_privacy import suppress_library_logs
from ldct_denoise.node.operator import answer_requests
from ldct_denoise.node.page import OperatorPage
from ldct_denoise.node.pull import Puller
from ldct_denoise.node.reachability import check_certificates
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.settings import ClientTLS, DimseDestination
from ldct_denoise.node.spool import Spool, SpoolInUse
from ldct_denoise.node.status import StatusServer
from ldct_denoise.node.storage_scp import StorageSCP
from ldct_denoise.node.tls import client_tls, server_tls
from ldct_denoise.node.worker import Worker, load_models

log = logging.getLogger("ldct_denoise.node")

#: Interval between two looks at the folders, s.
TICK_S = 0.25
#: Interval between two measurements and prunings of the spool, s.
HOUSEKEEPING_S = 60.0
#: Time for open associations to finish when the node stops, s.
GRACE_S = 10.0
#: Time for a slice that is denoised and an image that is sent to finish after that, s.
FINISH_S = 15.0
#: Settings that only a restart changes.
FIXED = ("ae_title", "host", "port", "spool", "limits", "complete", "status_host", "status_port", "device",
         "other_objects")  # fmt: skip


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
        self._audit = AuditTrail(rules, self.spool, self.counters)
        self._worker = Worker(rules, self.spool, self.counters, self.stopping, self._audit)
        self._worker.router.on_batch = self._report_batch
        self._worker.load_models()
        self._deliverers = {name: self._deliverer(name, rules) for name in rules.destinations}
        self._commitments = CommitmentSCP(rules, self.spool)
        self._results = CommitmentResults(rules, self.spool, self.counters)
        intake = Intake(self.spool, self._completion, self.counters)
        self._puller = Puller(rules, self.spool.root, intake, self.counters, self.stopping)
        jobs: dict[str, Callable[[], bool]] = {
            "watch": self._watch,
            "route": self._worker.router.run_once,
            "work": self._worker.run_once,
            "commit": self._commitments.run_once,
            "audit": self._audit.run_once,
            "pull": self._puller.run_once,
        }
        jobs |= {f"send-{name}": deliverer.run_once for name, deliverer in self._deliverers.items()}
        self._threads = [self._thread(name, job) for name, job in jobs.items()]
        self._receiver = StorageSCP(rules, intake, self.counters, self._commitments, self._results, self._audit)
        self._health = Health(self.spool)
        page = OperatorPage(self.spool, self.health)
        self._status = (
            StatusServer(
                rules.status_host, rules.status_port,
                health=self.health, metrics=self.metrics, page=page.html, act=page.act,
            )
            if rules.status_port
            else None
        )  # fmt: skip
        self._started = time.monotonic()
        self._next_housekeeping = 0.0
        self._settled = -1

    def _deliverer(self, name: str, rules: Rules) -> Deliverer:
        return Deliverer(name, rules, self.spool, self.counters, self.stopping, self._audit)

    def _report_batch(self, batch: str) -> None:
        """Write into the audit trail that a series was received."""
        callers = self._completion.take_callers(batch.partition(".")[0])
        self._audit.received(batch, self.spool.folder("ready", batch), sorted(callers))

    def _thread(self, name: str, job: Callable[[], bool]) -> threading.Thread:
        # Daemon threads: a receiver that never answers must not keep the process from ending.
        return threading.Thread(target=self._repeat, args=(name, job), name=name, daemon=True)

    def start(self) -> None:
        """Start to receive, denoise and send, each in its own threads."""
        self._audit.application("start")
        for thread in self._threads:
            thread.start()
        self._receiver.start()
        if self._status:
            self._status.start()
        if self.rules.tls is None and not ipaddress.ip_address(self.rules.host).is_loopback:
            log.warning("listens on %s without TLS: anybody on that network can read the images", self.rules.host)
        log.info("%s listens on %s, port %d", self.rules.ae_title, self.rules.host, self.rules.port)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Accept nothing new, let open associations finish, and leave the rest on disk for the next start.

        A transmission to a receiver that does not answer is aborted.
        """
        log.info("stopping")
        self.stopping.set()
        self._receiver.stop(grace_s)
        until = time.monotonic() + FINISH_S
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        for deliverer in self._deliverers.values():
            deliverer.cancel()
        for thread in self._threads:
            thread.join(1.0)
        if self._status:
            self._status.stop()
        self._audit.application("stop")
        self._audit.flush()
        self.spool.close()
        log.info("stopped")

    def run(self, until: threading.Event, reload: Callable[[], Rules | None] = lambda: None) -> None:
        """Serve until the event is set.

        Parameters
        ----------
        until : threading.Event
        reload : callable
            Called about once a second; returns other rules to be used from now on, or None.
        """
        with suppress_library_logs():
            self.start()
            try:
                while not until.wait(1.0):
                    rules = reload()
                    if rules is not None:
                        self.use(rules)
            finally:
                self.stop()

    def use(self, rules: Rules) -> None:
        """Use other rules, certificates and secrets from now on, without a restart.

        Parameters
        ----------
        rules : Rules
            If they cannot be used, or differ in a setting that only a restart changes, the former ones stay, and
            the log gives the reason.
        """
        try:
            fixed = [name for name in FIXED if getattr(rules, name) != getattr(self.rules, name)]
            if fixed:
                raise ConfigError(f"{', '.join(fixed)}: changed only by a restart")
            _check_tls(rules)
            self._worker.use(rules)
            self._receiver.use(rules)
            self._commitments.use(rules)
            self._results.use(rules)
            self._audit.use(rules)
            self._puller.use(rules)
            for name in rules.destinations:
                if name in self._deliverers:
                    self._deliverers[name].use(rules)
                else:
                    self._deliverers[name] = self._deliverer(name, rules)
                    self._threads.append(self._thread(f"send-{name}", self._deliverers[name].run_once))
                    self._threads[-1].start()
        except LdctDenoiseError as error:
            log.error("the new rules are not used: %s", error)
            return
        self.rules = rules
        self._settled = -1
        log.warning("new rules are used: %d rules, %d destinations", len(rules.rules), len(rules.destinations))

    def health(self) -> dict[str, Any]:
        """Content of ``/health``: whether all parts run, how much is waiting, and since when."""
        stopped = [thread.name for thread in self._threads if not thread.is_alive()]
        stopped += [] if self._receiver.alive else ["receive"]
        successes = {name: self._deliverers[name].last_success for name in self.rules.destinations}
        return self._health.content(
            stopped, successes, self.rules.alarm_min * 60, associations=self._receiver.open_associations
        )

    def metrics(self) -> str:
        """Content of ``/metrics``: counters in Prometheus' text format."""
        health = self.health()
        gauges = {
            "spool_bytes": self.spool.used_bytes,
            "free_bytes": shutil.disk_usage(self.rules.spool).free,
            "open_associations": self._receiver.open_associations,
            "up_seconds": time.monotonic() - self._started,
            "peak_memory_bytes": peak_memory_bytes(),
            "oldest_batch_seconds": health["oldest_batch_s"],
            "unreadable_records": health["unreadable_records"],
            "degraded": float(health["status"] != "ok"),
        }
        waiting = {name: float(item["waiting"]) for name, item in health["destinations"].items()}
        return self.counters.text(gauges, self.spool.counts(), waiting)

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
        for key in self._completion.complete_series(self.spool.incoming(), time.monotonic()):
            log.info("%s: complete", self.spool.complete(key))
            self._completion.forget(key)
        answer_requests(self.spool)
        if self._settled != self.spool.changes:
            self._settled = self.spool.changes
            settle(self.spool, self.rules, self.counters)
        if time.monotonic() >= self._next_housekeeping:
            self._next_housekeeping = time.monotonic() + HOUSEKEEPING_S
            self.spool.measure()
            self.spool.tidy(self.rules.remember_days)
        return False


def check(rules: Rules, *, contact: bool = False) -> list[str]:
    """Check models, certificates, secrets and the spool that the rules name, without listening.

    Parameters
    ----------
    rules : Rules
    contact : bool
        Also connect to every destination: C-ECHO, or a connection to a DICOMweb server.

    Returns
    -------
    list of str
        One line for everything that needs attention.

    Raises
    ------
    ConfigError, ModelError, OutputError
    """
    load_models(rules)
    warnings = _check_tls(rules)
    if rules.spool.exists():
        try:
            Spool(rules.spool, rules.limits).close()
        except SpoolInUse:
            warnings.append(f"spool {rules.spool}: a node is running on it")
    for name, destination in rules.destinations.items():
        sender = make_sender(destination, rules.ae_title)
        problem = sender.check() if contact else ""
        if problem:
            warnings.append(f"destination {name}: {problem}")
        reporter = destination.ae_title if isinstance(destination, DimseDestination) else ""
        if rules.asks_commitment(name) and reporter not in {peer.ae_title for peer in rules.accept}:
            warnings.append(f"destination {name}: add {reporter} to accept; it reports storage commitment")
    return warnings


def _check_tls(rules: Rules) -> list[str]:
    """Check the TLS files that the rules name; return a line for each certificate that ends soon."""
    files: list[Path] = []
    if rules.tls:
        server_tls(rules.tls)
        files += [rules.tls.certificate, *([rules.tls.authority] if rules.tls.authority else [])]
    for destination in rules.destinations.values():
        tls = destination.tls or ClientTLS()  # type: ignore[call-arg]
        files += [file for file in (tls.certificate, tls.authority) if file]
    if rules.audit and rules.audit.transport == "tls":
        tls = rules.audit.tls or ClientTLS()  # type: ignore[call-arg]
        client_tls(tls)
        files += [file for file in (tls.certificate, tls.authority) if file]
    return check_certificates(dict.fromkeys(files))
