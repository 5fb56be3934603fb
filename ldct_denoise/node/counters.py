"""Counters of the node in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Mapping

#: Name and description of every counter.
COUNTERS = {
    "images_received": "Images stored in the spool.",
    "images_refused": "Images refused, by reason.",
    "associations": "Associations, by how they ended.",
    "series": "Batches of series, by outcome.",
    "incomplete_series": "Batches whose derived series lacks images.",
    "images_discarded": "Accepted objects that are no CT images and were discarded.",
    "images_sent": "Derived images accepted by a destination.",
    "images_already_sent": "Derived images that a destination had already and that were not sent again.",
    "send_warnings": "Derived images that a destination stored with a warning or had already, by destination.",
    "committed": "Images for which a destination has given storage commitment.",
    "send_failures": "Failed attempts to send, by destination.",
    "audit_messages": "Audit messages sent to the repository.",
    "audit_failures": "Failures to write or send audit messages.",
    "pulled_series": "Series pulled from a source.",
    "pull_failures": "Failed attempts to pull series.",
    "denoise_seconds": "Time spent denoising.",
}


class Counters:
    """Numbers that only grow, each with at most one label."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1, **label: str) -> None:
        """Increase a counter.

        Parameters
        ----------
        name : str
            One of :data:`COUNTERS`.
        amount : float
        **label : str
            At most one label with its value.
        """
        kind, value = next(iter(label.items()), ("", ""))
        with self._lock:
            self._values[name, kind, value] = self._values.get((name, kind, value), 0) + amount

    def get(self, name: str, value: str = "") -> float:
        """Count of one label value."""
        with self._lock:
            return sum(count for (n, _, v), count in self._values.items() if n == name and v == value)

    def text(
        self, gauges: Mapping[str, float], states: Mapping[str, int], waiting: Mapping[str, float] | None = None
    ) -> str:
        """All counters in Prometheus' text format 0.0.4.

        Parameters
        ----------
        gauges : mapping from str to float
            Further values, by name.
        states : mapping from str to int
            Number of batches in every state of the spool.
        waiting : mapping from str to float, optional
            Number of batches that wait for every destination.

        Returns
        -------
        str
        """
        lines = []
        with self._lock:
            values = dict(self._values)
        for name, description in COUNTERS.items():
            full_name = f"ldct_node_{name}_total"
            lines += [f"# HELP {full_name} {description}", f"# TYPE {full_name} counter"]
            found = [(kind, value, count) for (n, kind, value), count in values.items() if n == name]
            for kind, value, count in found or [("", "", 0.0)]:
                lines.append(f"{full_name}{_label(kind, value)} {count:.10g}")
        lines += ["# HELP ldct_node_batches Series and batches in the spool.", "# TYPE ldct_node_batches gauge"]
        lines += [f"ldct_node_batches{_label('state', state)} {count}" for state, count in states.items()]
        lines += [
            "# HELP ldct_node_waiting Batches that wait for a destination.",
            "# TYPE ldct_node_waiting gauge",
        ]
        lines += [
            f"ldct_node_waiting{_label('destination', name)} {count:g}" for name, count in (waiting or {}).items()
        ]
        for name, number in gauges.items():
            lines += [f"# TYPE ldct_node_{name} gauge", f"ldct_node_{name} {number:.10g}"]
        return "\n".join(lines) + "\n"


def _label(kind: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{{{kind}="{escaped}"}}' if kind else ""
