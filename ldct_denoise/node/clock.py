"""Waits and ages that a change of the system clock neither shortens nor lengthens."""

from __future__ import annotations

import time
from collections.abc import Hashable


class Waits:
    """Tells when times that are kept on disk are reached, measured by the monotonic clock.

    A time on disk is of the system clock. When it is first seen, the monotonic clock takes over the rest of its
    wait, so that a clock that is set back or forward later changes nothing.
    """

    def __init__(self) -> None:
        self._ends: dict[Hashable, tuple[float, float]] = {}

    def is_over(self, key: Hashable, until: float, longest_s: float) -> bool:
        """Whether a wait is over.

        Parameters
        ----------
        key : hashable
            Whose wait it is.
        until : float
            Its end, seconds since 1970.
        longest_s : float
            The longest wait that is possible; a longer one comes from a clock that was set back.

        Returns
        -------
        bool
        """
        known, end = self._ends.get(key, (None, 0.0))
        if known != until:
            end = time.monotonic() + min(max(until - time.time(), 0.0), longest_s)
            self._ends[key] = (until, end)
        return time.monotonic() >= end

    def forget(self, key: Hashable) -> None:
        """Forget a wait that is no longer needed."""
        self._ends.pop(key, None)


class Arrivals:
    """Monotonic times of the last changes of folders."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def last_change(self, name: str, mtime_ns: int) -> float:
        """Monotonic time of the last change of a folder whose modification time is ``mtime_ns``.

        A folder that is seen for the first time, as after a restart, is as old as the system clock says; a change
        that is seen later is new, whatever the system clock says.
        """
        known, moment = self._seen.get(name, (None, 0.0))
        if known != mtime_ns:
            age = max(time.time() - mtime_ns / 1e9, 0.0) if known is None else 0.0
            moment = time.monotonic() - age
            self._seen[name] = (mtime_ns, moment)
        return moment

    def forget(self, name: str) -> None:
        """Forget a folder that is gone."""
        self._seen.pop(name, None)
