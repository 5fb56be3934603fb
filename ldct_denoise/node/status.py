"""Health and counters over HTTP, on loopback only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from ldct_denoise.errors import ConfigError

#: HTTP status, content type and text of a page.
Page = tuple[int, str, str]


class StatusServer:
    """Answers ``GET /health`` (200, or 503 where something is wrong) and ``GET /metrics`` (Prometheus).

    Parameters
    ----------
    port : int
    health : callable
        Returns the content of ``/health``; its entry ``ok`` decides the status.
    metrics : callable
        Returns the text of ``/metrics``.

    Raises
    ------
    ConfigError
        If the port is in use.
    """

    def __init__(self, port: int, health: Callable[[], Mapping[str, Any]], metrics: Callable[[], str]) -> None:
        class Handler(_Handler):
            pages: ClassVar = {
                "/health": lambda: _health_page(health()),
                "/metrics": lambda: (200, "text/plain; version=0.0.4", metrics()),
            }

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
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
    return 200 if health["ok"] else 503, "application/json", json.dumps(health) + "\n"


class _Handler(BaseHTTPRequestHandler):
    """Serves two pages; reads only the path of a request, and logs nothing."""

    timeout = 10
    pages: ClassVar[Mapping[str, Callable[[], Page]]] = {}

    def do_GET(self) -> None:
        """Answer a request."""
        page = self.pages.get(self.path)
        status, content_type, text = page() if page else (404, "text/plain", "there are /health and /metrics\n")
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""
