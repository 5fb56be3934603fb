"""Health and counters over HTTP, on loopback only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from ldct_denoise.errors import ConfigError


class StatusServer:
    """Answers ``GET /health`` (200, or 503 where something is wrong) and ``GET /metrics`` (Prometheus).

    Parameters
    ----------
    port : int
    health : callable
        Gives what is told; ``ok`` decides the status.
    metrics : callable
        Gives Prometheus' text.

    Raises
    ------
    ConfigError
        If the port is taken.
    """

    def __init__(self, port: int, health: Callable[[], Mapping[str, Any]], metrics: Callable[[], str]) -> None:
        class Handler(_Handler):
            pages: ClassVar = {
                "/health": lambda: _health(health()),
                "/metrics": lambda: (200, "text/plain; version=0.0.4", metrics()),
            }

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ConfigError(f"status_port {port}: cannot be listened on ({error.strerror})") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


def _health(told: Mapping[str, Any]) -> tuple[int, str, str]:
    return 200 if told["ok"] else 503, "application/json", json.dumps(told) + "\n"


class _Handler(BaseHTTPRequestHandler):
    """Two pages; nothing is read from the caller but the path, and nothing is logged."""

    timeout = 10
    pages: ClassVar[Mapping[str, Callable[[], tuple[int, str, str]]]] = {}

    def do_GET(self) -> None:
        """Answer."""
        page = self.pages.get(self.path)
        status, kind, text = page() if page else (404, "text/plain", "there are /health and /metrics\n")
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
