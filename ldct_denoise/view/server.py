"""A local web server for the viewer: 127.0.0.1 only, behind an unguessable path, for no other web page."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from itertools import chain, islice
from socketserver import TCPServer
from typing import Any, ClassVar

import numpy as np

from ldct_denoise import __version__
from ldct_denoise.errors import ConfigError, InputError, LdctDenoiseError, OutputError
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.orientation import oriented_like
from ldct_denoise.view.nifti import NiftiFile, NotInt16Error
from ldct_denoise.volume import SliceSource, slice_thickness_mm

#: Windows on the number keys 1 to 5.
PRESETS = ("abdomen", "mediastinum", "lung", "bone", "brain")
#: At most so many series are shown side by side.
MOST_SERIES = 3
#: Parts of a file (header, slices) that are read before the status line is sent; the page asks for fewer.
READ_AHEAD = 9
#: Unevenness of the slice spacing from which the page warns, mm.
UNEVEN_MM = 0.1
SCRIPTS = ("view", "state", "volumes", "measure", "engine", "overlay", "toolbar", "controls", "niivue.umd")
#: The files of the page. A request names one of these or a series; no path is ever made from a request.
PAGE_FILES = {
    "": ("view.html", "text/html; charset=utf-8"),
    "view.css": ("view.css", "text/css; charset=utf-8"),
} | {f"{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ViewServer(ThreadingHTTPServer):
    """Serves the viewer and its series until it is closed.

    Parameters
    ----------
    sources : sequence of SliceSource
        One to three series. The first defines the planes; the others are shown at the same patient position. Where
        they hold the same voxels in another axis order, they are presented in that of the first.
    names : sequence of str
        Title of each series on the page.
    port : int
        TCP port on 127.0.0.1; 0 takes a free one.
    include_patient_ids : bool
        Show patient ID and series name. The name is made from a folder's, which may be a patient's name.

    Raises
    ------
    ConfigError
        If there is no series, or more than three, or not one name for each.
    InputError
        If a series cannot be read.
    OutputError
        If the port is in use.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        sources: Sequence[SliceSource],
        names: Sequence[str],
        *,
        port: int = 0,
        include_patient_ids: bool = False,
    ) -> None:
        if not 1 <= len(sources) <= MOST_SERIES:
            raise ConfigError(f"{len(sources)} series to view; give one to {MOST_SERIES}")
        if len(names) != len(sources) or len(set(names)) != len(names):
            raise ConfigError(f"{len(names)} names for {len(sources)} series to view; give each its own name")
        self.names, self.include_patient_ids = tuple(names), include_patient_ids
        self.files = [NiftiFile(oriented_like(source, sources[0].geometry)) for source in sources]
        self.token = secrets.token_urlsafe(32)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise OutputError(f"port {port}: cannot be used ({error.strerror}); give another --port") from None
        self.hosts = {f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"}

    def server_bind(self) -> None:
        """Bind without looking up this machine's name, which may ask a name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def manifest(self) -> dict[str, Any]:
        """Names, geometry and pixel type of the series, window presets and version, for the page."""
        series = [self._describe(number, name) for number, name in enumerate(self.names)]
        presets = [
            {"name": name, "level": WINDOWS[name].level_hu, "width": WINDOWS[name].width_hu} for name in PRESETS
        ]
        return {"series": series, "presets": presets, "version": __version__}

    def _describe(self, number: int, name: str) -> dict[str, Any]:
        file = self.files[number]
        source, geometry = file.source, file.source.geometry
        notes = []
        if geometry.unevenness_mm > UNEVEN_MM:
            notes.append(
                f"slice positions are uneven by up to {geometry.unevenness_mm:.1f} mm: "
                "distances across slices, and coronal and sagittal images, are approximate"
            )
        described = {
            "name": name,
            "shape": geometry.shape[::-1],
            "spacing_mm": geometry.spacing_mm[::-1],
            "affine": file.affine.tolist(),
            "positions_mm": np.round(geometry.offsets_mm, 3).tolist(),
            "type": file.pixel_type,
            "file": f"{number}-{file.pixel_type}.nii",
            "kernel": source.metadata.kernel,
            "thickness_mm": slice_thickness_mm(source),
            "notes": notes,
        }
        if self.include_patient_ids:
            described |= {"patient": source.patient, "label": source.name}
        return described

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore broken connections, which a browser closes as it likes; log any other error."""
        if not isinstance(sys.exc_info()[1], OSError):
            logging.getLogger(__name__).exception("a request of the viewer failed")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of the page, its series and their list; everything else is 404."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ldct-denoise", ""
    timeout = 60
    server: ViewServer
    _types: ClassVar[dict[str, str]] = {"text": "text/plain; charset=utf-8", "json": "application/json"}

    def do_GET(self) -> None:
        """Answer a request."""
        if self.headers.get("Host", "") not in self.server.hosts or self._is_foreign():
            return self._send(HTTPStatus.FORBIDDEN, b"refused: not a request of this viewer's own page")
        _, _, path = self.path.partition("/")
        token, slash, name = path.partition("/")
        if not (slash and secrets.compare_digest(token.encode(), self.server.token.encode())):
            return self._send(HTTPStatus.NOT_FOUND, b"not found")
        if name in PAGE_FILES:
            file, kind = PAGE_FILES[name]
            return self._send(HTTPStatus.OK, (resources.files(__package__) / file).read_bytes(), kind)
        if name == "series.json":
            return self._send(HTTPStatus.OK, json.dumps(self.server.manifest()).encode(), self._types["json"])
        match = re.fullmatch(r"([0-9])-(int16|float32)\.nii", name)
        if match and int(match[1]) < len(self.server.files):
            return self._send_series(self.server.files[int(match[1])], match[2])
        return self._send(HTTPStatus.NOT_FOUND, b"not found")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the token is in every request line."""

    def _is_foreign(self) -> bool:
        """Whether another web page sent this request; following a link to the page is allowed."""
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.server.hosts}:
            return True
        site = self.headers.get("Sec-Fetch-Site", "none")
        return site not in ("same-origin", "none") and self.headers.get("Sec-Fetch-Mode") != "navigate"

    def _send(self, status: HTTPStatus, body: bytes, kind: str = _types["text"]) -> None:
        self._begin(status, kind, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, kind: str, size: int, **more: str) -> None:
        self.send_response(status)
        headers = HEADERS | {"Content-Type": kind, "Content-Length": str(size)}
        for name, value in headers.items():
            self.send_header(name, value)
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _send_series(self, file: NiftiFile, pixel_type: str) -> None:
        """Send a whole NIfTI file, or the range that was asked for (RFC 9110, 14.2).

        The page says which pixel type it expects, so that no range is ever read as another type.
        """
        if pixel_type != file.pixel_type:
            return self._send(HTTPStatus.CONFLICT, b"the series has another pixel type: ask for series.json again")
        start, stop, status = 0, file.size, HTTPStatus.OK
        more = {"Accept_Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d{1,15})-(\d{0,15})", self.headers.get("Range", "")):
            start, stop = int(asked[1]), min(int(asked[2] or file.size) + 1, file.size)
            if start >= stop:
                return self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"no such bytes")
            status, more["Content_Range"] = HTTPStatus.PARTIAL_CONTENT, f"bytes {start}-{stop - 1}/{file.size}"
        parts = file.read(start, stop)
        try:  # these before the status line, so that an error can still set the status
            ahead = list(islice(parts, READ_AHEAD if self.command != "HEAD" else 0))
        except NotInt16Error:
            return self._send(HTTPStatus.CONFLICT, b"the series is float32 from now on: ask for series.json again")
        except LdctDenoiseError as error:
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, _without_path(error).encode())
        self._begin(status, "application/octet-stream", stop - start, **more)
        try:
            for part in chain(ahead, parts if self.command != "HEAD" else ()):
                self.wfile.write(part)
        except (NotInt16Error, LdctDenoiseError):  # too late for a status: the page sees that the answer is short
            self.close_connection = True


def _without_path(error: LdctDenoiseError) -> str:
    """The message without the file that it begins with: a path may hold a patient's name."""
    return str(error).rpartition(": ")[2] if isinstance(error, InputError) else type(error).__name__


def serve_view(
    sources: Sequence[SliceSource],
    names: Sequence[str],
    *,
    port: int = 0,
    open_browser: bool = True,
    include_patient_ids: bool = False,
    announce: Callable[[str], object] | None = None,
) -> None:
    """Serve one to three series to the browser until Ctrl-C.

    Parameters
    ----------
    sources : sequence of SliceSource
        One to three series. The first defines the planes; the others are shown at the same patient position. Where
        they hold the same voxels in another axis order, they are presented in that of the first.
    names : sequence of str
        Title of each series on the page, for example ``("INPUT", "OUTPUT")``.
    port : int
        TCP port on 127.0.0.1; 0 takes a free one.
    open_browser : bool
        Open the page in the default browser.
    include_patient_ids : bool
        Show patient IDs and series names on the page.
    announce : callable, optional
        Called with the address once the server answers.

    Raises
    ------
    ConfigError
        If there is no series, or more than three, or not one name for each.
    InputError
        If a series cannot be read.
    OutputError
        If the port is in use.
    """
    with ViewServer(sources, names, port=port, include_patient_ids=include_patient_ids) as server:
        if announce is not None:
            announce(server.url)
        if open_browser:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
