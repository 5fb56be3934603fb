"""Send images to a destination by C-STORE or STOW-RS."""

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

#: Temporary C-STORE statuses and failure reasons: out of resources (PS3.4 B.2.3), processing failure (PS3.7 C).
TEMPORARY = frozenset({*range(0xA700, 0xA800), 0x0110})
#: HTTP statuses that refuse the image itself; every other failure is temporary.
REFUSED_IMAGE = frozenset({400, 409, 413, 415, 422})


class Unreachable(Exception):
    """A destination cannot accept images now. The message names no image."""


class Sender(Protocol):
    """Sends images to a destination."""

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """Send images one after the other.

        Yields
        ------
        Path
            The image.
        str
            Empty if the destination has the image now; otherwise the reason why it never will.

        Raises
        ------
        Unreachable
            If the destination is down or has no room. Images yielded before are sent.
        """
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

    def send(self, files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """See :class:`Sender`."""
        entity = AE(self._ae_title)
        entity.acse_timeout = entity.dimse_timeout = self._destination.timeout_s
        entity.network_timeout = entity.connection_timeout = self._destination.timeout_s
        contexts = {file: storage_uids(file) for file in files}
        for storage_class, syntax in sorted(set(contexts.values())):
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
            raise Unreachable("association rejected" if association.is_rejected else "no association")
        try:
            accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
            for file in files:
                if contexts[file] in accepted:
                    yield file, _dimse_refusal(_store(association, file))
                else:
                    yield file, _not_accepted(contexts[file])
        finally:
            if association.is_established:
                association.release()


def _not_accepted(context: tuple[str, str]) -> str:
    return f"storage class or transfer syntax not accepted: {' '.join(context)}"


def _store(association: object, file: Path) -> int:
    """Send one image and return the C-STORE status."""
    try:
        answer = association.send_c_store(file)  # type: ignore[attr-defined]
    except (RuntimeError, OSError):
        raise Unreachable("association lost") from None
    if "Status" not in answer:
        raise Unreachable("no answer to C-STORE")
    return int(answer.Status)


def _dimse_refusal(status: int) -> str:
    """Reason of a refusal, empty for success and warnings, which mean stored (PS3.7 Annex C)."""
    if status == 0 or 0xB000 <= status <= 0xBFFF:
        return ""
    if status in TEMPORARY:
        raise Unreachable(f"C-STORE status 0x{status:04X}")
    return f"C-STORE status 0x{status:04X}"


class StowSender:
    """Sends by STOW-RS (PS3.18 10.5), one request per image over one connection."""

    def __init__(self, destination: StowDestination) -> None:
        self._destination = destination
        self._address = urlsplit(destination.stow)
        secure = self._address.scheme == "https"
        self._tls = client_tls(destination.tls or ClientTLS()) if secure else None  # type: ignore[call-arg]
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
                yield file, _stow_refusal(answer, body)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._address.hostname), self._address.port
        if self._tls:
            return http.client.HTTPSConnection(host, port, timeout=self._destination.timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self._destination.timeout_s)

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


def _stow_refusal(status: int, body: bytes) -> str:
    """Reason of a refusal, empty where the image was stored."""
    reason = stow_failure(body)
    if reason in TEMPORARY or (status >= 300 and status not in REFUSED_IMAGE):
        raise Unreachable(f"STOW-RS answer {status}" + (f", reason 0x{reason:04X}" if reason else ""))
    if status < 300 and reason is None:
        return ""
    return f"STOW-RS answer {status}" + (f", reason 0x{reason:04X}" if reason else "")


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
