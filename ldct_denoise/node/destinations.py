"""The node's voice: images go to a destination by C-STORE or STOW-RS."""

from __future__ import annotations

import http.client
import ssl
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from pynetdicom import AE

from ldct_denoise.errors import ConfigError
from ldct_denoise.io.dicom.instance import storage_uids, stow_failure
from ldct_denoise.node.rules import ClientTLS, DimseDestination, StowDestination

#: C-STORE status and failure reasons that may pass: out of resources (PS3.4 B.2.3), processing failure (PS3.7 C).
PASSING = frozenset({*range(0xA700, 0xA800), 0x0110})
#: HTTP answers that say the image itself is wrong; every other failure may pass.
WRONG_IMAGE = frozenset({400, 409, 413, 415, 422})


class Unreachable(Exception):
    """A destination cannot take images now; the message names no image."""


class Sender(Protocol):
    """A way to a destination."""

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """Send images in turn.

        Yields
        ------
        Path
            The image.
        str
            Empty where the destination has it now; else why it never will.

        Raises
        ------
        Unreachable
            If the destination is down or has no room; what was yielded before is done.
        """
        ...


def make_sender(destination: DimseDestination | StowDestination, own_ae_title: str) -> Sender:
    """The way to a destination.

    Raises
    ------
    ConfigError
        If its TLS or authorization files cannot be used.
    """
    if isinstance(destination, StowDestination):
        return StowSender(destination)
    return DimseSender(destination, own_ae_title)


class DimseSender:
    """C-STORE (PS3.4 Annex B): one association for a batch."""

    def __init__(self, destination: DimseDestination, own_ae_title: str) -> None:
        self._to = destination
        self._own = destination.calling_ae_title or own_ae_title
        self._tls = client_tls(destination.tls) if destination.tls else None

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """See :class:`Sender`."""
        entity = AE(self._own)
        entity.acse_timeout = entity.dimse_timeout = self._to.timeout_s
        entity.network_timeout = entity.connection_timeout = self._to.timeout_s
        kinds = {file: storage_uids(file) for file in files}
        for storage_class, syntax in sorted(set(kinds.values())):
            entity.add_requested_context(storage_class, syntax)
        association = entity.associate(
            self._to.host,
            self._to.port,
            ae_title=self._to.ae_title,
            tls_args=(self._tls, self._to.host) if self._tls else None,
        )
        if (
            association.rejected_contexts and not association.is_established
        ):  # accepted, but for none of the images
            yield from ((file, _not_taken(kinds[file])) for file in files)
            return
        if not association.is_established:
            raise Unreachable("association rejected" if association.is_rejected else "no association")
        try:
            taken = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
            for file in files:
                if kinds[file] in taken:
                    yield file, _judge(_store(association, file))
                else:
                    yield file, _not_taken(kinds[file])
        finally:
            if association.is_established:
                association.release()


def _not_taken(kind: tuple[str, str]) -> str:
    return f"storage class or transfer syntax not taken: {' '.join(kind)}"


def _store(association: object, file: Path) -> int:
    """The status of one C-STORE."""
    try:
        answer = association.send_c_store(file)  # type: ignore[attr-defined]
    except (RuntimeError, OSError):
        raise Unreachable("association lost") from None
    if "Status" not in answer:
        raise Unreachable("no answer to C-STORE")
    return int(answer.Status)


def _judge(status: int) -> str:
    """PS3.7 Annex C: success and warnings mean stored."""
    if status == 0 or 0xB000 <= status <= 0xBFFF:
        return ""
    if status in PASSING:
        raise Unreachable(f"C-STORE status 0x{status:04X}")
    return f"C-STORE status 0x{status:04X}"


class StowSender:
    """STOW-RS (PS3.18 10.5): one request for an image, over one connection."""

    def __init__(self, destination: StowDestination) -> None:
        self._to = destination
        self._address = urlsplit(destination.stow)
        secure = self._address.scheme == "https"
        self._tls = client_tls(destination.tls or ClientTLS()) if secure else None
        self._authorization = _read_secret(destination.authorization_file)

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """See :class:`Sender`."""
        connection = self._connection()
        try:
            for file in files:
                try:
                    answer, body = self._post(connection, file)
                except (OSError, http.client.HTTPException) as error:
                    raise Unreachable(f"STOW-RS: {type(error).__name__}") from None
                yield file, _judge_stow(answer, body)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._address.hostname), self._address.port
        if self._tls:
            return http.client.HTTPSConnection(host, port, timeout=self._to.timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self._to.timeout_s)

    def _post(self, connection: http.client.HTTPConnection, file: Path) -> tuple[int, bytes]:
        boundary = uuid.uuid4().hex
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        if self._authorization:
            headers["Authorization"] = self._authorization
        start = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join((start, file.read_bytes(), f"\r\n--{boundary}--\r\n".encode()))
        path = self._address.path + (f"?{self._address.query}" if self._address.query else "")
        connection.request("POST", path or "/", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 20)


def _judge_stow(status: int, body: bytes) -> str:
    reason = stow_failure(body)
    if reason in PASSING or (status >= 300 and status not in WRONG_IMAGE):
        raise Unreachable(f"STOW-RS answer {status}" + (f", reason 0x{reason:04X}" if reason else ""))
    if status < 300 and reason is None:
        return ""
    return f"STOW-RS answer {status}" + (f", reason 0x{reason:04X}" if reason else "")


def client_tls(settings: ClientTLS) -> ssl.SSLContext:
    """TLS 1.2 or later, the destination's name and certificate checked.

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
