"""Decode compressed frames in a separate process.

The codecs are C and C++. On damaged codestreams they may end the process, print to the terminal, or take all
memory (fuzzing found that GDCM does so for one of a thousand mutated files). Here they end only the decoder
process, which is started again for the next frame. It returns numbers, never objects.
"""

from __future__ import annotations

import contextlib
import json
import os
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
from pydicom.pixels import pixel_array
from pydicom.uid import CTImageStorage, JPEGExtended12Bit

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.encoding import Encoding
from ldct_denoise.io.process_limits import limit_memory
from ldct_denoise.io.quiet import short_message, suppress_warnings

#: Longest time to decode one frame, s.
LIMIT_S = 10.0
#: Longest time to start: importing the codecs takes a second, on a busy machine more, s.
START_LIMIT_S = 120.0
#: Address space of the process, bytes.
LIMIT_BYTES = 4 << 30
_HEAD, _BODY = struct.Struct(">I"), struct.Struct(">Q")


class DecoderProcess:
    """A process that decodes frames one after the other; started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._end: Callable[[], object] = lambda: None

    def decode(self, encoding: Mapping[str, Any], pixel_data: bytes) -> NDArray[np.integer[Any]]:
        """Decode a compressed frame to stored values.

        Parameters
        ----------
        encoding : mapping
            Fields of :class:`~ldct_denoise.io.dicom.encoding.Encoding`.
        pixel_data : bytes
            Value of a Pixel Data element with this frame alone.

        Returns
        -------
        ndarray, shape (rows, columns)

        Raises
        ------
        InputError
            If the frame cannot be decoded. The message is the reason alone, without the file.
        """
        with self._lock:
            process = self._running()
            head, body = self._request(process, LIMIT_S, encoding, pixel_data)
        if "error" in head:
            raise InputError(str(head["error"]))
        stored: NDArray[np.integer[Any]] = np.frombuffer(body, np.dtype(head["dtype"])).reshape(head["shape"])
        return stored

    def _request(
        self, process: subprocess.Popen[bytes], limit_s: float, encoding: Mapping[str, Any], pixel_data: bytes
    ) -> tuple[dict[str, Any], bytes]:
        watchdog = threading.Timer(limit_s, process.kill)
        watchdog.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            _send(process.stdin, encoding, pixel_data)
            return _receive(process.stdout)
        except (OSError, EOFError):
            is_late = not watchdog.is_alive()
            self._stop()
            reason = f"took longer than {limit_s:g} s" if is_late else "crashed"
            raise InputError(f"the decoder {reason} on its codestream") from None
        finally:
            watchdog.cancel()

    def _running(self) -> subprocess.Popen[bytes]:
        # A forked process must not use its parent's pipes.
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
            self._end = weakref.finalize(self, _end_process, self._process, self._owner)
            self._request(self._process, START_LIMIT_S, {}, b"")
        return self._process

    def forget(self) -> None:
        """Let go of the parent's process, and of its lock, after a fork."""
        self._lock, self._process = threading.Lock(), None

    def _stop(self) -> None:
        if self._process is not None:
            self._end()
            self._process = None


def _end_process(process: subprocess.Popen[bytes], owner: int) -> None:
    """End the decoder process, from the process that started it only."""
    if os.getpid() == owner:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


#: One decoder process serves everything that this process reads.
_PROCESS = DecoderProcess()
os.register_at_fork(after_in_child=lambda: _PROCESS.forget())


def decode(encoding: Mapping[str, Any], pixel_data: bytes) -> NDArray[np.integer[Any]]:
    """Decode as :meth:`DecoderProcess.decode`, in the decoder process of this process."""
    return _PROCESS.decode(encoding, pixel_data)


# Messages: a JSON head and a binary body, each after its length. ---------------------------------------------


def _send(stream: IO[bytes], head: Mapping[str, Any], body: bytes) -> None:
    text = json.dumps(dict(head)).encode()
    stream.write(_HEAD.pack(len(text)) + text + _BODY.pack(len(body)))
    stream.write(body)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    head = json.loads(_read_exactly(stream, _HEAD.unpack(_read_exactly(stream, _HEAD.size))[0]))
    return head, _read_exactly(stream, _BODY.unpack(_read_exactly(stream, _BODY.size))[0])


def _read_exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


# In the decoder process -------------------------------------------------------------------------------------


def _serve() -> None:
    """Answer requests until the input ends."""
    limit_memory(LIMIT_BYTES)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # codecs print to standard output
    while True:
        try:
            head, pixel_data = _receive(sys.stdin.buffer)
        except EOFError:
            return
        _send(answers, *(_answer(head, pixel_data) if head else ({}, b"")))  # an empty request checks the start


def _answer(head: dict[str, Any], pixel_data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        with suppress_warnings():
            encoding = Encoding(**head)
            image = encoding.image(pixel_data)
            is_twelve_bit = encoding.syntax == JPEGExtended12Bit and encoding.bits_stored > 8
            stored = _decode_with_gdcm(image) if is_twelve_bit else pixel_array(image, index=0, raw=True)
        return {"dtype": stored.dtype.str, "shape": list(stored.shape)}, stored.tobytes()
    except Exception as error:  # codecs may fail in any way on damaged codestreams
        return {"error": short_message(error)}, b""


def _decode_with_gdcm(image: Dataset) -> NDArray[np.integer[Any]]:
    """Decode 12-bit JPEG Extended, which pydicom does not pass on to GDCM; the values equal those of dcmtk."""
    import gdcm

    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2"
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        image.save_as(file.name, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(file.name)
        if not reader.Read():
            raise InputError("12-bit JPEG that GDCM does not decode")
        found = reader.GetImage()
        values = found.GetBuffer().encode("utf-8", "surrogateescape")
    kind = f"<{'i' if image.PixelRepresentation else 'u'}{len(values) // (image.Rows * image.Columns)}"
    return np.frombuffer(values, kind).reshape(image.Rows, image.Columns)


if __name__ == "__main__":
    _serve()
