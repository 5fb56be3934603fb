"""Read the parts of a multipart message (RFC 2046 5.1), as DICOMweb sends images, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from typing import Protocol

from ldct_denoise.errors import InputError

_BLOCK = 1 << 16
#: Largest size of the headers of a part, bytes.
_MAX_HEADERS = 1 << 14


class ByteStream(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; none at the end."""
        ...


def boundary_of(content_type: str) -> bytes:
    """Boundary in the Content-Type of a multipart message.

    Raises
    ------
    InputError
        If it is another type, or has none.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_maintype() != "multipart" or not boundary:
        raise InputError("no multipart message with a boundary")
    return boundary.encode("ascii", "replace")


def read_parts(stream: ByteStream, boundary: bytes, max_bytes: int) -> Iterator[bytes]:
    """Read the bodies of the parts.

    Parameters
    ----------
    stream : ByteStream
    boundary : bytes
    max_bytes : int
        Largest size of a part.

    Yields
    ------
    bytes

    Raises
    ------
    InputError
        If a part is larger, or the message ends before its last boundary.
    """
    delimiter = b"\r\n--" + boundary
    _, rest = _until(stream, b"\r\n", delimiter, _MAX_HEADERS)
    while True:
        ending, rest = _take(stream, rest, 2)
        if ending == b"--":
            return
        _, rest = _until(stream, ending + rest, b"\r\n\r\n", _MAX_HEADERS)
        body, rest = _until(stream, rest, delimiter, max_bytes)
        yield body


def _take(stream: ByteStream, rest: bytes, size: int) -> tuple[bytes, bytes]:
    while len(rest) < size:
        block = stream.read(_BLOCK)
        if not block:
            raise InputError("a multipart message ends too early")
        rest += block
    return rest[:size], rest[size:]


def _until(stream: ByteStream, rest: bytes, mark: bytes, max_bytes: int) -> tuple[bytes, bytes]:
    """The bytes before ``mark``, and those that were read behind it."""
    found = bytearray(rest)
    searched = 0
    while (end := found.find(mark, searched)) < 0:
        if len(found) > max_bytes + len(mark):
            raise InputError(f"a part of a multipart message has more than {max_bytes} bytes")
        searched = max(len(found) - len(mark), 0)
        block = stream.read(_BLOCK)
        if not block:
            raise InputError("a multipart message ends too early")
        found += block
    return bytes(found[:end]), bytes(found[end + len(mark) :])
