"""Send images to a destination by C-STORE or STOW-RS."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.io.dicom.instance import read_instance_uids, read_uncompressed, storage_uids
from ldct_denoise.node.reachability import connection_problem, describe, echo_problem, rejection
from ldct_denoise.node.rules import ClientTLS, DimseDestination, StowDestination
from ldct_denoise.node.stow_answer import parse_stow_answer

#: Temporary C-STORE statuses: out of resources (PS3.4 B.2.3), processing failure (PS3.7 C).
TEMPORARY = frozenset({*range(0xA700, 0xA800), 0x0110})
#: HTTP statuses that concern one image; other failures concern the server.
REFUSED_IMAGE = frozenset({400, 409, 413, 415, 422})
#: C-STORE statuses and failure reasons with which the destination has the image (PS3.4 B.2.3, PS3.7 C).
STORED_WITH_WARNING = {
    0xB000: "coercion of data elements",
    0xB006: "elements discarded",
    0xB007: "data set does not match SOP class",
    0x0001: "optional attributes not supported",
    0x0107: "attribute list error",
    0x0116: "attribute value out of range",
    0x0111: "had it already",
}


class Unreachable(Exception):
    """A destination cannot accept images now. The message names no image."""


class Outcome(Enum):
    """State of an image at a destination after it was sent."""

    STORED = "stored"
    RETRY = "retry"
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """A destination's answer to one image.

    Parameters
    ----------
    outcome : Outcome
        Stored; not stored this time; or never to be stored.
    reason : str
        Warning of a stored image, empty without one; otherwise the reason of the failure. Names no image.
    """

    outcome: Outcome
    reason: str = ""


class Sender(Protocol):
    """Sends images to a destination."""

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, Answer]]:
        """Send images one after the other; an image that is not stored does not end it.

        Yields
        ------
        Path
            The image.
        Answer

        Raises
        ------
        Unreachable
            If the destination is down. The answers yielded before hold.
        """
        ...

    def cancel(self) -> None:
        """Abort a running transmission, from another thread."""
        ...

    def check(self) -> str:
        """Ask the destination whether it is there; return the reason where it is not, else an empty text."""
        ...


def make_sender(destination: DimseDestination | StowDestination, ae_title: str) -> Sender:
    """Create the sender for a destination.

    Parameters
    ----------
    destination : DimseDestination or StowDestination
    ae_title : str
        Own AE title, unless the destination names another.

    Returns
    -------
    Sender

    Raises
    ------
    ConfigError
        If its TLS or authorization files cannot be used.
    """
    if isinstance(destination, StowDestination):
        return StowSender(destination)
    return DimseSender(destination, ae_title)


class DimseSender:
    """Sends by C-STORE (PS3.4 Annex B), with one association per batch."""

    def __init__(self, destination: DimseDestination, ae_title: str) -> None:
        self._destination = destination
        self._ae_title = destination.calling_ae_title or ae_title
        self._tls = client_tls(destination.tls) if destination.tls else None
        self._association: Association | None = None

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, Answer]]:
        """See :class:`Sender`."""
        entity = AE(self._ae_title)
        entity.acse_timeout = entity.dimse_timeout = self._destination.timeout_s
        entity.network_timeout = entity.connection_timeout = self._destination.timeout_s
        contexts = {file: storage_uids(file) for file in files}
        for storage_class, syntax in sorted(
            {offer for context in contexts.values() for offer in _offers(*context)}
        ):
            entity.add_requested_context(storage_class, syntax)
        association = entity.associate(
            self._destination.host,
            self._destination.port,
            ae_title=self._destination.ae_title,
            tls_args=(self._tls, self._destination.host) if self._tls else None,
        )
        if association.rejected_contexts and not association.is_established:
            # The association was accepted, but for none of the images.
            yield from ((file, _not_accepted(contexts[file])) for file in files)
            return
        if not association.is_established:
            raise Unreachable(self._failure(association))
        self._association = association
        try:
            accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
            for file in files:
                usable = next((offer for offer in _offers(*contexts[file]) if offer in accepted), None)
                if usable is None:
                    yield file, _not_accepted(contexts[file])
                    continue
                try:
                    image = file if usable == contexts[file] else read_uncompressed(file)
                except InputError:
                    yield (
                        file,
                        Answer(Outcome.REFUSED, "transfer syntax not accepted, and pixels cannot be decoded"),
                    )
                else:
                    yield file, _dimse_answer(_store(association, image))
        finally:
            self._association = None
            if association.is_established:
                association.release()

    def cancel(self) -> None:
        """See :class:`Sender`."""
        if (association := self._association) is not None:
            association.abort(block=False)

    def check(self) -> str:
        """See :class:`Sender`."""
        return echo_problem(self._destination, self._ae_title, self._tls)

    def _failure(self, association: Association) -> str:
        """Why there is no association."""
        if association.is_rejected:
            return rejection(association)
        to = self._destination
        problem = connection_problem(to.host, to.port, min(to.timeout_s, 10), self._tls)
        return problem or "no answer to the association request"


def _offers(storage_class: str, syntax: str) -> list[tuple[str, str]]:
    """Contexts in which an image can be sent, the best first.

    The last is the default transfer syntax, which every peer must accept (PS3.5 10.1).
    """
    syntaxes = dict.fromkeys((syntax, str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)))
    return [(storage_class, offer) for offer in syntaxes]


def _not_accepted(context: tuple[str, str]) -> Answer:
    return Answer(Outcome.REFUSED, f"storage class or transfer syntax not accepted: {' '.join(context)}")


def _store(association: object, image: Path | Dataset) -> int:
    """Send one image and return the C-STORE status.

    A data set in Explicit VR Little Endian is sent in Implicit VR where only that was accepted.
    """
    try:
        answer = association.send_c_store(image)  # type: ignore[attr-defined]
    except (RuntimeError, OSError):
        raise Unreachable("association lost") from None
    if "Status" not in answer:
        raise Unreachable("no answer to C-STORE")
    return int(answer.Status)


def _dimse_answer(status: int) -> Answer:
    """Read a C-STORE status; with a warning the image is stored (PS3.7 Annex C)."""
    if status == 0:
        return Answer(Outcome.STORED)
    if status in STORED_WITH_WARNING or 0xB000 <= status <= 0xBFFF:
        return _stored_with_warning(status)
    return Answer(Outcome.RETRY if status in TEMPORARY else Outcome.REFUSED, f"C-STORE status 0x{status:04X}")


def _stored_with_warning(status: int) -> Answer:
    return Answer(Outcome.STORED, f"0x{status:04X} ({STORED_WITH_WARNING.get(status, 'warning')})")


class StowSender:
    """Sends by STOW-RS (PS3.18 10.5), one request per image over one connection."""

    def __init__(self, destination: StowDestination) -> None:
        self._destination = destination
        self._address = urlsplit(destination.stow)
        secure = self._address.scheme == "https"
        self._tls = client_tls(destination.tls or ClientTLS()) if secure else None  # type: ignore[call-arg]
        self._authorization = _read_secret(destination.authorization_file)
        self._open: http.client.HTTPConnection | None = None

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, Answer]]:
        """See :class:`Sender`."""
        connection = self._open = self._connection()
        try:
            for file in files:
                try:
                    status, body = self._post(connection, file)
                except (OSError, http.client.HTTPException) as error:
                    raise Unreachable(f"STOW-RS: {describe(error)}") from None
                yield file, _stow_answer(status, body, read_instance_uids(file).sop_uid)
        finally:
            self._open = None
            connection.close()

    def cancel(self) -> None:
        """See :class:`Sender`."""
        if (connection := self._open) is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def check(self) -> str:
        """See :class:`Sender`."""
        port = self._address.port or (443 if self._tls else 80)
        return connection_problem(str(self._address.hostname), port, self._destination.timeout_s, self._tls)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._address.hostname), self._address.port
        if self._tls:
            return http.client.HTTPSConnection(host, port, timeout=self._destination.timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self._destination.timeout_s)

    def _post(self, connection: http.client.HTTPConnection, file: Path) -> tuple[int, bytes]:
        boundary = uuid.uuid4().hex
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json, application/dicom+xml;q=0.5",
        }
        if self._authorization:
            headers["Authorization"] = self._authorization
        start = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join((start, file.read_bytes(), f"\r\n--{boundary}--\r\n".encode()))
        path = self._address.path + (f"?{self._address.query}" if self._address.query else "")
        connection.request("POST", path or "/", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 20)


def _stow_answer(status: int, body: bytes, sop_uid: str) -> Answer:
    """Read a STOW-RS answer: an image is stored if the server says so of this image, and only then.

    A success status alone does not mean that: a login page and a proxy answer 200, too.
    """
    answer = parse_stow_answer(body)
    failure = answer.failed.get(sop_uid)
    if failure == 0x0111:
        return _stored_with_warning(failure)
    if status < 300 and sop_uid in answer.stored and sop_uid not in answer.failed:
        warning = answer.stored[sop_uid]
        return _stored_with_warning(warning) if warning else Answer(Outcome.STORED)
    if sop_uid in answer.failed or status in REFUSED_IMAGE:
        return Answer(Outcome.RETRY, f"STOW-RS answer {status}" + (f", reason 0x{failure:04X}" if failure else ""))
    detail = " that does not report the image as stored" if status < 300 else ""
    raise Unreachable(f"STOW-RS answer {status}{detail}")


def client_tls(settings: ClientTLS) -> ssl.SSLContext:
    """Create a TLS context (1.2 or later) that checks the destination's name and certificate.

    Raises
    ------
    ConfigError
        If a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"tls of a destination: its files cannot be used ({reason})") from None
    return context


def _read_secret(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"authorization_file {path}: cannot be read ({error.strerror})") from None
