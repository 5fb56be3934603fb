"""The operator's page: what is waiting, since when and why, and buttons that need a token."""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ldct_denoise.errors import LdctDenoiseError
from ldct_denoise.node.durable_files import write_text
from ldct_denoise.node.operator import ACTIONS, perform
from ldct_denoise.node.records import read_record
from ldct_denoise.node.spool import STATES, Spool
from ldct_denoise.node.status import Page

#: Number of batches of one state that the page shows.
MAX_ROWS = 200
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;
color-scheme:light dark}table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:left;
border-bottom:1px solid #8886;vertical-align:top}code{font-size:.9em}.failed{color:#d33}.degraded{color:#b60}
.ok{color:#080}input,button,select{font:inherit;padding:.2rem .5rem}form{margin:1rem 0}"""


class OperatorPage:
    """A page without patient data: batches by their names, which are hashes.

    Parameters
    ----------
    spool : Spool
        The token is in its file ``token``, which only the node's user can read.
    health : callable
        Returns the content of ``/health``.
    """

    def __init__(self, spool: Spool, health: Callable[[], Mapping[str, Any]]) -> None:
        self._spool, self._health = spool, health
        self._token = _token(spool.root / "token")

    def html(self, message: str = "") -> str:
        """The page.

        Parameters
        ----------
        message : str
            Result of the last action, in text.
        """
        health = self._health()
        status = html.escape(str(health["status"]))
        problems = "".join(f"<li>{html.escape(text)}</li>" for text in health["problems"])
        note = f"<p><strong>{html.escape(message)}</strong></p>" if message else ""
        options = "".join(f"<option>{action}</option>" for action in ACTIONS)
        return (
            "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><meta http-equiv='refresh' content='30'>"
            "<meta name='viewport' content='width=device-width'>"
            f"<title>ldct-denoise node: {status}</title><style>{_STYLE}</style></head><body>"
            f"<h1>DICOM node: <span class='{status}'>{status}</span></h1><ul>{problems}</ul>{note}"
            f"{self._destinations(health)}{self._batches()}"
            "<h2>Act</h2><form method='post' action='/'>"
            f"<select name='action' aria-label='Action'>{options}</select> "
            "<input name='target' placeholder='batch; empty: all' aria-label='Batch' size='44'> "
            "<input name='token' type='password' placeholder='token' aria-label='Token' required> "
            "<button>Do it</button></form>"
            "<p>The token is in the file <code>token</code> of the spool. <code>ldct-denoise node list</code> "
            "also shows accession numbers. Research use only.</p></body></html>"
        )

    def act(self, fields: Mapping[str, str]) -> Page:
        """Answer a form.

        Parameters
        ----------
        fields : mapping from str to str
            ``action``, ``target`` and ``token``.

        Returns
        -------
        int, str, str
            HTTP status, content type, page.
        """
        if not secrets.compare_digest(fields.get("token", "").encode(), self._token.encode()):
            return 403, "text/html", self.html("Wrong token: nothing was done.")
        action = next((known for known in ACTIONS if known == fields.get("action")), None)
        if action is None:
            return 400, "text/html", self.html("No such action.")
        try:
            lines = perform(self._spool, action, fields.get("target", "").strip())
        except LdctDenoiseError as error:
            return 400, "text/html", self.html(str(error))
        return 200, "text/html", self.html("; ".join(lines) or "Nothing was there to be done.")

    def _destinations(self, health: Mapping[str, Any]) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{item['waiting']}</td><td>{_ago(item['oldest_s'])}</td>"
            f"<td>{_ago(item['last_success_s_ago'], ' ago')}</td>"
            f"<td>{html.escape(item['reason'])}</td></tr>"
            for name, item in health["destinations"].items()
        )
        headings = ("destination", "waiting", "oldest", "last success", "last failure")
        head = "<tr>" + "".join(f"<th>{heading}</th>" for heading in headings) + "</tr>"
        return f"<h2>Destinations</h2><table>{head}{rows}</table>"

    def _batches(self) -> str:
        parts = []
        for state in STATES:
            names = self._spool.batches(state)
            if not names:
                continue
            rows = "".join(self._row(state, batch) for batch in names[:MAX_ROWS])
            more = f"<p>and {len(names) - MAX_ROWS} more</p>" if len(names) > MAX_ROWS else ""
            parts.append(f"<h2>{state} ({len(names)})</h2><table>{rows}</table>{more}")
        return "".join(parts) or "<p>Nothing is waiting.</p>"

    def _row(self, state: str, batch: str) -> str:
        record = read_record(self._spool.root, batch, set_aside=False) if state != "incoming" else None
        # The reason of a failure may quote the images; it is for `node show`, on the machine itself.
        reasons = [record.incomplete] if record else []
        for name, delivery in record.deliveries.items() if record else ():
            reasons.append(f"{name}: {delivery.state}{f' ({delivery.reason})' if delivery.reason else ''}")
        if state == "dead-letter":
            reasons = ["the reason is in the spool: node show"]
        text = html.escape("; ".join(filter(None, reasons)))
        return f"<tr><td><code>{html.escape(batch)}</code></td><td>{text}</td></tr>"


def _ago(seconds: float | None, suffix: str = "") -> str:
    """A duration in words; ``never`` where there is none."""
    if seconds is None:
        return "never"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}{suffix}"
    return f"{seconds:.0f} s{suffix}"


def _token(path: Path) -> str:
    """Read the token, or create one."""
    try:
        found = path.read_text().strip()
    except OSError:
        found = ""
    if not found:
        found = secrets.token_urlsafe(24)
        write_text(path, f"{found}\n")
        path.chmod(0o600)
    return found
