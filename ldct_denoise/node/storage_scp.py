"""Receive images: C-STORE and C-ECHO. An image is on disk, as received, before success is answered.

pynetdicom implements the protocol. This module adds the limits that it lacks: addresses are checked before a byte
is read, sockets time out, the sizes of PDUs and objects are bounded, a TLS handshake does not block other callers,
and connections that never request an association do not use up the number of associations.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from socketserver import BaseServer
from typing import Any

from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from ldct_denoise.errors import ConfigError
from ldct_denoise.io.dicom.instance import STORAGE_CLASSES, TRANSFER_SYNTAXES
from ldct_denoise.node.audit import AuditTrail
from ldct_denoise.node.commitment import CommitmentResults
from ldct_denoise.node.commitment_scp import CommitmentSCP
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.intake import SUCCESS, Intake
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.tls import server_tls

log = logging.getLogger("ldct_denoise.node")

#: Priority HIGH of C-STORE (PS3.7 9.3.1.1).
HIGH = 0x0001
#: Services other than storage, with the roles that callers may select. Senders ask for commitment as SCU;
#: destinations report its results as SCP.
OTHER_SERVICES = {
    Verification: {},
    StorageCommitmentPushModel: {"scu_role": True, "scp_role": True},
}
#: Open connections per allowed association; further connections are closed at once.
CONNECTIONS_PER_ASSOCIATION = 4
MIB = 2**20


class StorageSCP:
    """Listens for callers and fills the spool.

    Parameters
    ----------
    rules : Rules
    intake : Intake
        Stores the images.
    counters : Counters
    commitments : CommitmentSCP
        Takes requests for storage commitment.
    results : CommitmentResults
        Takes results of storage commitment.
    audit : AuditTrail
        Learns which callers are refused.

    Raises
    ------
    ConfigError
        If the address cannot be listened on, or the TLS files cannot be used.
    """

    def __init__(
        self,
        rules: Rules,
        intake: Intake,
        counters: Counters,
        commitments: CommitmentSCP,
        results: CommitmentResults,
        audit: AuditTrail,
    ) -> None:
        self._audit = audit
        self._rules, self._intake, self._counters = rules, intake, counters
        entity = _ApplicationEntity(rules)
        try:
            self._server = entity.make_server(
                (rules.host, rules.port),
                ssl_context=server_tls(rules.tls) if rules.tls else None,
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._on_request),
                    (evt.EVT_C_STORE, self._on_store),
                    (evt.EVT_N_ACTION, commitments.on_action),
                    (evt.EVT_N_EVENT_REPORT, results.on_event),
                    (evt.EVT_RELEASED, self._on_end, [True]),
                    (evt.EVT_ABORTED, self._on_end, [False]),
                    (evt.EVT_CONN_CLOSE, self._on_close),
                ],
                server_class=_Server,
                rules=rules,
                refused=self._count_refused,
            )
        except OSError as error:
            raise ConfigError(
                f"host {rules.host}, port {rules.port}: cannot be listened on ({error.strerror})"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="receive", daemon=True)

    def use(self, rules: Rules) -> None:
        """Accept callers by these rules from the next connection on.

        Raises
        ------
        ConfigError
            If the TLS files cannot be used; the former rules stay.
        """
        context = server_tls(rules.tls) if rules.tls else None
        self._rules = rules
        self._server.use(rules, context)

    def start(self) -> None:
        """Start to accept connections."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive()

    @property
    def open_associations(self) -> int:
        """Number of established associations."""
        return sum(association.is_established for association in self._server.active_associations)

    def stop(self, grace_s: float) -> None:
        """Accept no more connections; let open ones finish for ``grace_s``, then abort them."""
        self._server.shutdown()
        until = time.monotonic() + grace_s
        while self.open_associations and time.monotonic() < until:
            time.sleep(0.05)
        for association in self._server.active_associations:
            association.abort(block=False)

    def _count_refused(self, reason: str, host: str = "") -> None:
        self._counters.add("associations", end=reason)
        if host:
            self._audit.refused("", host, reason)

    def _on_request(self, event: Any) -> None:
        """Reject callers that are not accepted (PS3.8 9.3.4: permanent, calling AE title not recognised)."""
        caller = str(event.assoc.requestor.primitive.calling_ae_title)
        host = event.assoc.requestor.address_info.address
        if not any(peer.allows(caller, host) for peer in self._rules.accept):
            log.warning(
                "refused caller %r from %s: its AE title is not allowed from there", printable(caller), host
            )
            self._counters.add("associations", end="caller refused")
            self._audit.refused(printable(caller).strip(), host, "calling AE title not accepted")
            event.assoc.acse.send_reject(0x01, 0x01, 0x03)
            event.assoc.kill()

    def _on_store(self, event: Any) -> int:
        """Store an image; answer success only when it is safe on disk."""
        is_other = str(event.request.AffectedSOPClassUID) not in STORAGE_CLASSES
        if is_other and self._rules.other_objects != "forward":
            self._counters.add("images_discarded")
            return SUCCESS
        caller = event.assoc.requestor
        return self._intake.store(
            event.encoded_dataset(),
            id(event.assoc),
            (printable(str(caller.ae_title)).strip(), caller.address_info.address),
            announced_uid=str(event.request.AffectedSOPInstanceUID),
            is_urgent=event.request.Priority == HIGH,
        )

    def _on_end(self, event: Any, released: bool) -> None:
        self._intake.transfer_ended(id(event.assoc), released)
        self._counters.add("associations", end="released" if released else "aborted")

    def _on_close(self, event: Any) -> None:
        """Register a lost connection; after a release this changes nothing."""
        if not event.assoc.is_released:
            self._intake.transfer_ended(id(event.assoc), False)


class _ApplicationEntity(AE):  # type: ignore[misc]
    """The application entity: supported storage classes, time limits, number of associations."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules.ae_title)
        limits = rules.limits
        self.require_called_aet = True
        self.maximum_associations = limits.associations
        self.acse_timeout = limits.negotiation_s
        self.dimse_timeout = self.network_timeout = limits.idle_s
        self.maximum_pdu_size = limits.pdu_kib * 1024
        for storage_class in STORAGE_CLASSES:
            self.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        if rules.other_objects != "refuse":
            # A small deflated object may inflate to any size where its header is read.
            inflating = {DeflatedExplicitVRLittleEndian} if rules.other_objects == "forward" else set()
            syntaxes = [syntax for syntax in AllTransferSyntaxes if syntax not in inflating]
            for context in AllStoragePresentationContexts:
                if context.abstract_syntax not in STORAGE_CLASSES:
                    self.add_supported_context(context.abstract_syntax, syntaxes)
        for service, roles in OTHER_SERVICES.items():
            self.add_supported_context(service, **roles)

    @property
    def active_associations(self) -> list[Association]:
        """Associations that count against the limit; the base class also counts silent connections."""
        granted = [a for a in super().active_associations if a.is_established]
        asking = threading.current_thread()
        if isinstance(asking, Association) and asking.is_acceptor and not asking.is_established:
            granted.append(asking)
        return granted


class _Server(ThreadedAssociationServer):  # type: ignore[misc]
    """Checks the caller's address first, and never waits for one caller in the thread that serves all."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *given: Any, rules: Rules, refused: Callable[..., None], **named: Any) -> None:
        self._rules, self._refused = rules, refused
        super().__init__(*given, request_handler=_Handler, **named)

    def use(self, rules: Rules, context: ssl.SSLContext | None) -> None:
        """Serve by other rules and another TLS context."""
        self._rules, self.ssl_context = rules, context

    @property
    def limits(self) -> Any:
        """Limits from the rules."""
        return self._rules.limits

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection with a time limit; its TLS handshake happens later, in its own thread."""
        connection, address = self.socket.accept()
        connection.settimeout(self._rules.limits.negotiation_s)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether to serve this address at all."""
        if not any(peer.allows_host(client_address[0]) for peer in self._rules.accept):
            log.warning("closed a connection from %s: host not accepted", client_address[0])
            self._refused("host refused", client_address[0])
            return False
        open_connections = self.active_associations
        if len(open_connections) >= CONNECTIONS_PER_ASSOCIATION * self._rules.limits.associations:
            self._refused("too many connections")
            return self._close_silent(open_connections)
        return True

    def _close_silent(self, open_connections: list[Association]) -> bool:
        """Close the oldest connection without an association, so that silent ones do not keep others out."""
        silent = [connection for connection in open_connections if not connection.is_established]
        if not silent:
            return False
        oldest = min(silent, key=lambda connection: getattr(connection, "opened_s", 0.0))
        with contextlib.suppress(AttributeError, OSError):
            oldest.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Count a connection that failed before its association, without a traceback."""
        self._refused("broken connection")

    def shutdown(self) -> None:
        """Accept no more connections."""
        BaseServer.shutdown(self)
        self.server_close()


class _Handler(RequestHandler):  # type: ignore[misc]
    """Handles one connection."""

    def setup(self) -> None:
        """Do the TLS handshake within the time limit of the negotiation."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()

    def _create_association(self) -> Association:
        association = super()._create_association()
        association.opened_s = time.monotonic()
        association.dul.socket = _LimitedSocket(association.dul.socket, self.server.limits)
        association.dimse = _Dimse(association)
        return association


class _Dimse(DIMSEServiceProvider):  # type: ignore[misc]
    """Aborts an association after an invalid message; otherwise such a message would end a thread."""

    def receive_primitive(self, primitive: Any) -> None:
        """Process a part of a message."""
        try:
            super().receive_primitive(primitive)
        except Exception as error:  # an invalid message can fail anywhere inside pynetdicom
            log.warning("an association is aborted: invalid message (%s)", type(error).__name__)
            self.dul.event_queue.put("Evt19")  # PS3.8 9.2.1: unrecognised or invalid PDU


class _LimitedSocket(AssociationSocket):  # type: ignore[misc]
    """Reads PDUs of bounded size in bounded time.

    Parameters
    ----------
    plain : AssociationSocket
        The socket that this one replaces.
    limits : Limits
    """

    def __init__(self, plain: AssociationSocket, limits: Any) -> None:
        self.__dict__.update(plain.__dict__)
        self._limits = limits

    def recv(self, nr_bytes: int) -> bytearray:
        """Receive exactly ``nr_bytes`` bytes, or fewer at the end of the connection.

        Raises
        ------
        OSError
            If they are too many or take too long; pynetdicom then closes the connection.
        """
        if nr_bytes > self._limits.pdu_kib * 1024:
            raise OSError(f"a PDU of {nr_bytes} bytes")
        message = self.assoc.dimse.message
        if message is not None:
            received_bytes = message.data_set.tell() + message.encoded_command_set.tell()
            if received_bytes + nr_bytes > self._limits.image_mib * MIB:
                raise OSError(f"an object of more than {self._limits.image_mib} MiB")
        connection = self.socket
        if connection is None:
            raise OSError("closed")
        received = bytearray(nr_bytes)
        view, count = memoryview(received), 0
        limits = self._limits
        until = time.monotonic() + (limits.idle_s if self.assoc.is_established else limits.negotiation_s)
        while count < nr_bytes:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("a PDU took too long")
            connection.settimeout(left)
            size = connection.recv_into(view[count:])
            if not size:
                break
            count += size
        connection.settimeout(self._limits.idle_s)
        view.release()
        return received[:count]


def printable(ae_title: str) -> str:
    """An AE title as it may be logged: plain characters only, as a hostile caller may send any."""
    return "".join(
        character if character.isascii() and character.isprintable() else "?" for character in ae_title
    )[:16]
