"""Decide when a series is complete: DICOM never states it, so a period without new images has to do."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ldct_denoise.node.settings import CompletionSettings
from ldct_denoise.node.spool import IncomingSeries


class Completion:
    """Decides which incoming series are complete.

    A series is complete ``quiet_s`` after its last image, or ``released_s`` after it where every association that
    brought an image of it was released (not aborted). With unit ``study`` the same holds for all series of a study
    together. The state need not survive a restart: without it, ``quiet_s`` decides.

    Parameters
    ----------
    settings : CompletionSettings
    """

    def __init__(self, settings: CompletionSettings) -> None:
        self._settings = settings
        self._open_associations: dict[str, set[int]] = {}
        self._aborted: set[str] = set()
        self._callers: dict[str, set[tuple[str, str]]] = {}
        self._lock = threading.Lock()

    def image_received(self, key: str, association: int, caller: tuple[str, str] = ("", "")) -> None:
        """Register that an association brought an image of a series.

        Parameters
        ----------
        key : str
            Key of the series.
        association : int
        caller : tuple of (str, str)
            AE title and address of the caller.
        """
        with self._lock:
            self._open_associations.setdefault(key, set()).add(association)
            self._callers.setdefault(key, set()).add(caller)

    def take_callers(self, key: str) -> set[tuple[str, str]]:
        """Callers that brought a series since this was last asked; empty after a restart."""
        with self._lock:
            return self._callers.pop(key, set())

    def association_ended(self, association: int, released: bool) -> None:
        """Register that an association ended; ``released`` is False where it was aborted or lost."""
        with self._lock:
            for key, associations in self._open_associations.items():
                if association in associations:
                    associations.discard(association)
                    if not released:
                        self._aborted.add(key)

    def complete_series(self, incoming: Iterable[IncomingSeries], now: float) -> list[str]:
        """Keys of the incoming series that are complete at the monotonic time ``now``."""
        groups: dict[str, list[IncomingSeries]] = {}
        for series in incoming:
            groups.setdefault(series.study if self._settings.unit == "study" else series.key, []).append(series)
        return [series.key for group in groups.values() if self._is_complete(group, now) for series in group]

    def forget(self, key: str) -> None:
        """Forget a series that was taken up; images that arrive from now on are late."""
        with self._lock:
            self._open_associations.pop(key, None)
            self._aborted.discard(key)

    def _is_complete(self, group: list[IncomingSeries], now: float) -> bool:
        with self._lock:
            released = all(
                self._open_associations.get(series.key) == set() and series.key not in self._aborted
                for series in group
            )
        wait_s = self._settings.released_s if released else self._settings.quiet_s
        return now - max(series.last_image for series in group) >= min(wait_s, self._settings.quiet_s)
