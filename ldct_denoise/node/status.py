"""Health, counters and the operator's page over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs

from ldct_denoise.errors import ConfigError

#: HTTP status, content type and text of a page.
Page = tuple[int, str, str]
#: Largest body of a request, bytes.
MAX_BODY = 4096


class StatusServer:
    """Answers ``GET`` and ``HEAD`` of ``/health``, ``/metrics`` (Prometheus) and ``/``, and ``POST`` of ``/``.

    ``/health`` answers 503 where a part has failed, otherwise 200.

    Parameters
    ----------
    host : str
    port : int
    health : callable
        Returns the content of ``/health``; its entry ``status`` decides the HTTP status.
    metrics : callable
        Returns the text of ``/metrics``.
    page : callable
        Returns the HTML of ``/``.
    act : callable
        Called with the fields of a form that was posted; returns the page of its answer.

    Raises
    ------
    ConfigError
        If the port is in use.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        health: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], str],
        page: Callable[[], str],
        act: Callable[[Mapping[str, str]], Page],
    ) -> None:
        class Handler(_Handler):
            pages: ClassVar = {
                "/": lambda: (200, "text/html", page()),
                "/health": lambda: _health_page(health()),
                "/metrics": lambda: (200, "text/plain; version=0.0.4", metrics()),
            }
            forms: ClassVar = {"/": act}

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise ConfigError(f"status_port {port}: cannot be listened on ({error.strerror})") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def _health_page(health: Mapping[str, Any]) -> Page:
    return 503 if health["status"] == "failed" else 200, "application/json", json.dumps(health) + "\n"


class _Handler(BaseHTTPRequestHandler):
    """Serves a few pages; reads only the path of a request and the fields of a form, and logs nothing."""

    timeout = 10
    pages: ClassVar[Mapping[str, Callable[[], Page]]]
    forms: ClassVar[Mapping[str, Callable[[Mapping[str, str]], Page]]]

    def do_GET(self) -> None:
        """Answer a request."""
        page = self.pages.get(self.path)
        self._answer(page() if page else (404, "text/plain", "there are /, /health and /metrics\n"))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answer a form of the operator's page."""
        form, length = self.forms.get(self.path), int(self.headers.get("Content-Length") or 0)
        if form is None:
            self._answer((404, "text/plain", "not accepted\n"))
        elif not 0 <= length <= MAX_BODY:
            self._answer((413, "text/plain", "not accepted\n"))
        else:
            fields = parse_qs(self.rfile.read(length).decode("ascii", "replace"))
            self._answer(form({name: values[0] for name, values in fields.items()}))

    def _answer(self, page: Page) -> None:
        status, content_type, text = page
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header(
            "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"
        )
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""
