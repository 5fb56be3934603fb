"""Decode compressed frames in a process of their own.

The codecs are C and C++: on broken codes they may end the process, print to the terminal, or take all memory
(fuzzing found GDCM to do so in one of a thousand mutated files). Here they take down only the helper, which
is started again for the next frame. What comes back is numbers, never objects.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from ldct_denoise.errors import InputError

#: No slice takes longer to decode, nor needs more address space.
LIMIT_S = 10.0
#: Importing the codecs takes a second, on a busy machine more.
START_LIMIT_S = 120.0
LIMIT_BYTES = 4 << 30
_HEAD, _BODY = struct.Struct(">I"), struct.Struct(">Q")


class DecoderProcess:
    """A process that decodes frames, one after the other; started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._at_end: Callable[[], object] = lambda: None

    def decode(self, encoding: Mapping[str, Any], code: bytes) -> NDArray[np.integer[Any]]:
        """Stored values of a compressed frame.

        Parameters
        ----------
        encoding : mapping
            The fields of :class:`~ldct_denoise.io.dicom.reader.Encoding`.
        code : bytes
            Value of a Pixel Data with this frame alone.

        Raises
        ------
        InputError
            With the reason alone, if the frame cannot be decoded.
        """
        with self._lock:
            process = self._running()
            head, body = self._ask(process, LIMIT_S, encoding, code)
        if "error" in head:
            raise InputError(str(head["error"]))
        stored: NDArray[np.integer[Any]] = np.frombuffer(body, np.dtype(head["dtype"])).reshape(head["shape"])
        return stored

    def _ask(
        self, process: subprocess.Popen[bytes], limit_s: float, encoding: Mapping[str, Any], code: bytes
    ) -> tuple[dict[str, Any], bytes]:
        watch = threading.Timer(limit_s, process.kill)
        watch.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            _send(process.stdin, encoding, code)
            return _receive(process.stdout)
        except (OSError, EOFError):
            late = not watch.is_alive()
            self._stop()
            reason = f"took longer than {limit_s:g} s" if late else "broke down"
            raise InputError(f"the decoder {reason} on its code") from None
        finally:
            watch.cancel()

    def _running(self) -> subprocess.Popen[bytes]:
        # A forked process must not talk through its parent's pipes.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ldct_denoise.io.dicom.decoder_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
            self._owner = os.getpid()
            self._at_end = weakref.finalize(self, _end, self._process, self._owner)
            self._ask(self._process, START_LIMIT_S, {}, b"")
        return self._process

    def forget(self) -> None:
        """After a fork: the helper, and a lock that may be held, are the parent's."""
        self._lock, self._process = threading.Lock(), None

    def _stop(self) -> None:
        if self._process is not None:
            self._at_end()
            self._process = None


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """At the end of the process that started it; its closed input would end it too."""
    if os.getpid() == owner:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


#: One helper for a process, whatever it reads: what it holds is no state of ours, only a process kept warm.
_HELPER = DecoderProcess()
os.register_at_fork(after_in_child=lambda: _HELPER.forget())


def decode(encoding: Mapping[str, Any], code: bytes) -> NDArray[np.integer[Any]]:
    """As :meth:`DecoderProcess.decode`, by the helper of this process."""
    return _HELPER.decode(encoding, code)


def _send(stream: IO[bytes], head: Mapping[str, Any], body: bytes) -> None:
    text = json.dumps(dict(head)).encode()
    stream.write(_HEAD.pack(len(text)) + text + _BODY.pack(len(body)))
    stream.write(body)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    head = json.loads(_exactly(stream, _HEAD.unpack(_exactly(stream, _HEAD.size))[0]))
    return head, _exactly(stream, _BODY.unpack(_exactly(stream, _BODY.size))[0])


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _serve() -> None:
    """Decode what comes in until there is no more."""
    from pydicom.pixels import pixel_array
    from pydicom.uid import JPEGExtended12Bit

    from ldct_denoise.io.dicom.encoding import Encoding
    from ldct_denoise.io.quiet import short_message, suppress_warnings

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # codecs print there
    while True:
        try:
            head, code = _receive(sys.stdin.buffer)
        except EOFError:
            return
        if not head:  # only to know that we are there
            _send(answers, {}, b"")
            continue
        try:
            with suppress_warnings():
                encoding = Encoding(**head)
                image = encoding.image(code)
                twelve_bit = encoding.syntax == JPEGExtended12Bit and encoding.bits_stored > 8
                stored = _by_gdcm(image) if twelve_bit else pixel_array(image, index=0, raw=True)
            answer, body = {"dtype": stored.dtype.str, "shape": list(stored.shape)}, stored.tobytes()
        except Exception as error:  # whatever the codecs make of broken codes
            answer, body = {"error": short_message(error)}, b""
        _send(answers, answer, body)


def _by_gdcm(image: Dataset) -> NDArray[np.integer[Any]]:
    """JPEG Extended of 12 bits, which pydicom does not hand on to GDCM; its values are those of dcmtk."""
    import gdcm

    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2"
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        image.save_as(file.name, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(file.name)
        if not reader.Read():
            raise InputError("JPEG of 12 bits that GDCM does not decode")
        found = reader.GetImage()
        values = found.GetBuffer().encode("utf-8", "surrogateescape")
    kind = f"<{'i' if image.PixelRepresentation else 'u'}{len(values) // (image.Rows * image.Columns)}"
    return np.frombuffer(values, kind).reshape(image.Rows, image.Columns)


if __name__ == "__main__":
    _serve()
