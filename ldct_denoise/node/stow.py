"""Send images by STOW-RS (PS3.18 10.5)."""

from __future__ import annotations

import contextlib
import http.client
import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ldct_denoise.io.dicom.instance import read_instance_uids
from ldct_denoise.node.reachability import connection_problem, describe
from ldct_denoise.node.sending import Answer, Outcome, Unreachable, stored_with_warning
from ldct_denoise.node.settings import ClientTLS, StowDestination
from ldct_denoise.node.stow_answer import parse_stow_answer
from ldct_denoise.node.tls import client_tls, read_secret

#: HTTP statuses that concern one image; other failures concern the server.
REFUSED_IMAGE = frozenset({400, 409, 413, 415, 422})


class StowSender:
    """Sends by STOW-RS (PS3.18 10.5), one request per image over one connection."""

    def __init__(self, destination: StowDestination) -> None:
        self._destination = destination
        self._address = urlsplit(destination.stow)
        secure = self._address.scheme == "https"
        self._tls = client_tls(destination.tls or ClientTLS()) if secure else None  # type: ignore[call-arg]
        self._authorization = read_secret(destination.authorization_file)
        self._open: http.client.HTTPConnection | None = None

    def send(self, files: Sequence[Path], priority: int = 1) -> Iterator[tuple[Path, Answer]]:
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
        return stored_with_warning(failure)
    if status < 300 and sop_uid in answer.stored and sop_uid not in answer.failed:
        warning = answer.stored[sop_uid]
        return stored_with_warning(warning) if warning else Answer(Outcome.STORED)
    if sop_uid in answer.failed or status in REFUSED_IMAGE:
        return Answer(Outcome.RETRY, f"STOW-RS answer {status}" + (f", reason 0x{failure:04X}" if failure else ""))
    detail = " that does not report the image as stored" if status < 300 else ""
    raise Unreachable(f"STOW-RS answer {status}{detail}")
