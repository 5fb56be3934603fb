"""The audit trail: messages about what was received, denoised and sent, delivered to a repository over syslog.

Messages wait in the spool until the repository has them (syslog over TCP or TLS; over UDP nobody knows).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import ssl
import threading
import time
from collections import Counter as Count
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.io.dicom.instance import attribute_values
from ldct_denoise.node.audit_message import Participant, StudyObject, audit_message
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.durable_files import write_text
from ldct_denoise.node.reachability import describe
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.settings import AuditSettings, ClientTLS, DimseDestination, StowDestination
from ldct_denoise.node.spool import Spool
from ldct_denoise.node.tls import client_tls

log = logging.getLogger("ldct_denoise.node")

#: Facility 10 (security), severity 5 (notice), and message ID (PS3.15 A.6, RFC 5424 6.2).
_PRIORITY, _MESSAGE_ID = 10 * 8 + 5, "DICOM+RFC3881"
#: Time within which one refused caller is reported once, s.
ALERT_S = 60.0
_KEYWORDS = ("StudyInstanceUID", "PatientID", "AccessionNumber", "SeriesInstanceUID", "SOPClassUID")


class AuditTrail:
    """Writes audit messages where the rules ask for them, and does nothing otherwise.

    Parameters
    ----------
    rules : Rules
    spool : Spool
        Holds the messages that the repository does not have yet.
    counters : Counters
    """

    def __init__(self, rules: Rules, spool: Spool, counters: Counters) -> None:
        self._rules, self._spool, self._counters = rules, spool, counters
        self._folder = spool.root / "audit"
        self._failures, self._next_try = 0, 0.0
        self._alerts: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def use(self, rules: Rules) -> None:
        """Report by these rules from now on."""
        self._rules, self._next_try = rules, 0.0

    # Events -------------------------------------------------------------------------------------------------

    def application(self, event_type: str) -> None:
        """Report that the node starts or stops.

        Parameters
        ----------
        event_type : {"start", "stop"}
        """
        self._record("activity", "E", self._node("application"), event_type=event_type)

    def received(self, batch: str, folder: Path, callers: Iterable[tuple[str, str]]) -> None:
        """Report a complete series.

        Parameters
        ----------
        batch : str
        folder : Path
            Its images.
        callers : iterable of (str, str)
            AE title and address of each sender.
        """
        senders = [Participant(title, "source", host, is_requestor=True) for title, host in callers]
        self._record_study("transferred", "C", [*senders, self._node("destination")], folder, {"batch": batch})

    def denoised(self, batch: str, folder: Path, model: str, checksum: str) -> None:
        """Report the derived images of a batch.

        Parameters
        ----------
        batch : str
        folder : Path
            The images.
        model, checksum : str
            Name of the model, and SHA-256 of its parameters.
        """
        details = {"batch": batch, "model": model, "model-sha256": checksum}
        self._record_study("accessed", "C", [self._node("application", is_requestor=True)], folder, details)

    def delivered(
        self, batch: str, name: str, folder: Path, details: Mapping[str, str], failure: str = ""
    ) -> None:
        """Report that a destination has a batch, or will never have it.

        Parameters
        ----------
        batch : str
        name : str
            Name of the destination.
        folder : Path
            The images.
        details : mapping from str to str
            Model and checksum.
        failure : str
            Reason; empty where the destination has it.
        """
        to = self._rules.destinations.get(name)
        receiver = Participant(name, "destination")
        if isinstance(to, DimseDestination):
            receiver = Participant(to.ae_title, "destination", to.host)
        elif isinstance(to, StowDestination):
            receiver = Participant("", "destination", to.server, user_id=to.stow)
        participants = [self._node("source", is_requestor=True), receiver]
        given = {"batch": batch, "destination": name, **details}
        self._record_study("transferred", "C", participants, folder, given, failure)

    def refused(self, ae_title: str, host: str, reason: str) -> None:
        """Report a caller that is not accepted; the same one at most once a minute.

        Parameters
        ----------
        ae_title, host : str
            Of the caller; the title is empty where it is not known.
        reason : str
        """
        with self._lock:
            now = time.monotonic()
            known = self._alerts.get((ae_title, host), -ALERT_S)
            if now - known < ALERT_S or len(self._alerts) > 1000:
                self._alerts = {who: since for who, since in self._alerts.items() if now - since < ALERT_S}
                return
            self._alerts[ae_title, host] = now
        caller = Participant(ae_title, "source", host, is_requestor=True)
        self._record("alert", "E", caller, self._node("destination"), event_type="authentication", failure=reason)

    def _node(self, role: Any, is_requestor: bool = False) -> Participant:
        user_id = f"{self._rules.ae_title}@{socket.gethostname()}"
        return Participant(self._rules.ae_title, role, self._rules.host, is_requestor, user_id)

    def _record_study(
        self,
        event: str,
        action: Any,
        participants: Iterable[Participant],
        folder: Path,
        details: dict[str, str],
        failure: str = "",
    ) -> None:
        if self._rules.audit is not None:
            study = _study_of(folder, details)
            self._record(event, action, *participants, study=study, failure=failure)

    def _record(self, event: str, action: Any, *participants: Participant, **more: Any) -> None:
        settings = self._rules.audit
        if settings is None:
            return
        now = datetime.now().astimezone()
        text = audit_message(event, action, now, settings.source_id or self._rules.ae_title, participants, **more)
        header = (
            f"<{_PRIORITY}>1 {now.isoformat(timespec='milliseconds')} {socket.gethostname()} ldct-denoise"
            f" {os.getpid()} {_MESSAGE_ID} -"
        )
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._folder / f"{time.time_ns()}-{secrets.token_hex(4)}.xml"
            write_text(path, f"{header} \ufeff{text}")
        except OSError as error:
            self._counters.add("audit_failures")
            log.error("an audit message cannot be written (%s)", error.strerror)

    # Delivery -----------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float = 2.0) -> None:
        """Send the last messages when the node stops; after a failure they wait for the next start."""
        if self._rules.audit and not self._failures:
            self._deliver(self._rules.audit.model_copy(update={"timeout_s": timeout_s}))

    def run_once(self) -> bool:
        """Send the messages that wait; return whether there was one."""
        return self._deliver(self._rules.audit)

    def _deliver(self, settings: AuditSettings | None) -> bool:
        waiting = sorted(self._folder.glob("[!.]*.xml")) if settings and self._folder.is_dir() else []
        if settings is None or not waiting or time.monotonic() < self._next_try:
            return False
        try:
            with contextlib.closing(_connect(settings)) as connection:
                for path in waiting:
                    _send(settings, connection, path.read_bytes())
                _finish(connection)
        except (OSError, ConfigError) as error:
            self._failures += 1
            wait_s = self._rules.retry.wait_s(self._failures)
            self._next_try = time.monotonic() + wait_s
            self._counters.add("audit_failures")
            reason = describe(error) if isinstance(error, OSError) else str(error)
            log.warning("audit: %d messages wait: %s; next attempt in %.0f s", len(waiting), reason, wait_s)
            self._drop_old(settings, waiting)
            return False
        for path in waiting:
            path.unlink(missing_ok=True)
        self._counters.add("audit_messages", len(waiting))
        self._failures = 0
        return True

    def _drop_old(self, settings: AuditSettings, waiting: list[Path]) -> None:
        limit_ns = time.time_ns() - int(settings.keep_days * 86400e9)
        for path in waiting:
            if int(path.name.partition("-")[0]) < limit_ns:
                path.unlink(missing_ok=True)
                self._counters.add("audit_failures")
                log.error("an audit message was deleted unsent after %g days", settings.keep_days)


def _connect(settings: AuditSettings) -> socket.socket:
    address = (settings.host, settings.port)
    if settings.transport == "udp":
        family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        connection = socket.socket(family, kind, protocol)
        connection.connect(target)
        return connection
    connection = socket.create_connection(address, timeout=settings.timeout_s)
    if settings.transport == "tcp":
        return connection
    context: ssl.SSLContext = client_tls(settings.tls or ClientTLS())  # type: ignore[call-arg]
    return context.wrap_socket(connection, server_hostname=settings.host)


def _send(settings: AuditSettings, connection: socket.socket, message: bytes) -> None:
    if settings.transport == "udp":
        connection.send(message)
    else:
        connection.sendall(b"%d " % len(message) + message)  # RFC 5425 4.3: length, space, message


def _finish(connection: socket.socket) -> None:
    """Close a stream in order: one that is simply closed may lose what the repository has not read yet."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(ssl.SSLError, TimeoutError):  # a repository that never says goodbye
            connection.unwrap()
    elif connection.type == socket.SOCK_STREAM:
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            connection.recv(1)


def _study_of(folder: Path, details: dict[str, str]) -> StudyObject:
    """The study of the images in a folder; each series in it has one class, and a folder of its own."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    counts = Count(file.parent for file in files)
    firsts = [_values(min(file for file in files if file.parent == parent)) for parent in sorted(counts)]
    instances: Count[str] = Count()
    for values, parent in zip(firsts, sorted(counts), strict=True):
        instances[values["SOPClassUID"]] += counts[parent]
    study = firsts[0] if firsts else dict.fromkeys(_KEYWORDS, "")
    series = {f"series-{number}": values["SeriesInstanceUID"] for number, values in enumerate(firsts, 1)}
    return StudyObject(
        study["StudyInstanceUID"],
        study["PatientID"],
        study["AccessionNumber"],
        {uid: count for uid, count in instances.items() if uid},
        {name: value for name, value in (details | series).items() if value},
    )


def _values(file: Path) -> dict[str, str]:
    try:
        return {keyword: "\\".join(found) for keyword, found in attribute_values(file, _KEYWORDS).items()}
    except InputError:
        return dict.fromkeys(_KEYWORDS, "")
