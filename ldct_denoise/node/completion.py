"""When a series is complete: DICOM never says so, hence quiet for a while, sooner after a clean release."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ldct_denoise.node.rules import Complete
from ldct_denoise.node.spool import Incoming


class Completion:
    """Remembers which associations brought which series.

    A series is complete ``quiet_s`` after its last image, or ``released_s`` after it where every association that
    brought an image of it was released (not aborted). With unit ``study`` the same holds for all series of the
    study together. Nothing of this needs to survive a restart: then ``quiet_s`` decides.
    """

    def __init__(self, settings: Complete) -> None:
        self._settings = settings
        self._open: dict[str, set[int]] = {}
        self._broken: set[str] = set()
        self._lock = threading.Lock()

    def arrived(self, key: str, association: int) -> None:
        """An image of a series came."""
        with self._lock:
            self._open.setdefault(key, set()).add(association)

    def ended(self, association: int, released: bool) -> None:
        """An association was released, or broke off."""
        with self._lock:
            for key, associations in self._open.items():
                if association in associations:
                    associations.discard(association)
                    if not released:
                        self._broken.add(key)

    def due(self, growing: Iterable[Incoming], now: float) -> list[str]:
        """Keys of the series that are complete."""
        groups: dict[str, list[Incoming]] = {}
        for series in growing:
            groups.setdefault(series.study if self._settings.unit == "study" else series.key, []).append(series)
        return [series.key for group in groups.values() if self._quiet(group, now) for series in group]

    def taken(self, key: str) -> None:
        """A series left; what comes now is late."""
        with self._lock:
            self._open.pop(key, None)
            self._broken.discard(key)

    def _quiet(self, group: list[Incoming], now: float) -> bool:
        with self._lock:
            released = all(self._open.get(s.key) == set() and s.key not in self._broken for s in group)
        wait = self._settings.released_s if released else self._settings.quiet_s
        return now - max(series.last_image for series in group) >= min(wait, self._settings.quiet_s)
