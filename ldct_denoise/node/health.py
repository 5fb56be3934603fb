"""State of the node as one word, with the numbers that it follows from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ldct_denoise.node.pull import list_pulls
from ldct_denoise.node.spool import GIB, ORIGINALS, Spool

Status = Literal["ok", "degraded", "failed"]


class Health:
    """Measures how much is waiting, and since when.

    Parameters
    ----------
    spool : Spool
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        #: Monotonic time at which a batch was first seen in its present state.
        self._since: dict[tuple[str, str], float] = {}

    def content(
        self, stopped: Sequence[str], successes: Mapping[str, float | None], alarm_s: float, *, associations: int
    ) -> dict[str, Any]:
        """Content of ``/health``.

        Parameters
        ----------
        stopped : sequence of str
            Parts of the node that have stopped.
        successes : mapping from str to float
            For each destination, the monotonic time of the last image that it stored; None before the first.
        alarm_s : float
            Age of a waiting batch from which the node counts as degraded.
        associations : int
            Number of open associations.

        Returns
        -------
        dict
            ``status`` is ``failed`` where a part has stopped or images are refused because the disk is full, else
            ``degraded`` where something needs a person, which ``problems`` lists, else ``ok``.
        """
        now = time.monotonic()
        counts, ages = self._spool.counts(), self._ages(now)
        destinations = self._destinations(successes, ages, now)
        free_gib, spool_gib = shutil.disk_usage(self._spool.root).free / GIB, self._spool.used_bytes / GIB
        is_full = self._spool.is_tight() or spool_gib > self._spool.limits.spool_gib
        unreadable = self._spool.unreadable_records()
        oldest_s = max(ages.values(), default=0.0)
        problems = [f"{counts['dead-letter']} dead letters"] if counts["dead-letter"] else []
        problems += [f"{unreadable} unreadable records"] if unreadable else []
        pulls = sum(one.state == "failed" for one in list_pulls(self._spool.root))
        problems += [f"{pulls} pulls failed"] if pulls else []
        waiting = [
            state
            for state in ("ready", "outgoing")
            if any(s == state and a > alarm_s for (s, _), a in ages.items())
        ]
        problems += [f"batches wait in {state} for more than {alarm_s / 60:g} min" for state in waiting]
        problems += [
            f"{name} fails: {item['reason']}" for name, item in destinations.items()
            if item["reason"] and item["oldest_s"] > alarm_s
        ]  # fmt: skip
        status: Status = "failed" if stopped or is_full else "degraded" if problems else "ok"
        return {
            "status": status,
            "ok": status == "ok",
            "problems": problems,
            "stopped_parts": list(stopped),
            "disk_full": is_full,
            "free_gib": round(free_gib, 2),
            "spool_gib": round(spool_gib, 3),
            "associations": associations,
            "batches": counts,
            "oldest_batch_s": round(oldest_s, 1),
            "unreadable_records": unreadable,
            "destinations": destinations,
        }

    def _ages(self, now: float) -> dict[tuple[str, str], float]:
        """Age of every waiting batch in its state, s; after a restart from the age in its name."""
        waiting = [(state, batch) for state in ("ready", "outgoing") for batch in self._spool.batches(state)]
        self._since = {item: self._since.get(item, now - _age_s(item[1])) for item in waiting}
        return {item: now - since for item, since in self._since.items()}

    def _destinations(
        self, successes: Mapping[str, float | None], ages: Mapping[tuple[str, str], float], now: float
    ) -> dict[str, dict[str, Any]]:
        """Batches that wait for each destination, the age of the oldest, and the last success and failure."""
        found: dict[str, dict[str, Any]] = {}
        for name, success in successes.items():
            last = None if success is None else round(now - success, 1)
            found[name] = {"waiting": 0, "oldest_s": 0.0, "last_success_s_ago": last, "reason": ""}
        for (state, batch), age in ages.items():
            for name, delivery in self._spool.peek(batch).deliveries.items() if state == "outgoing" else ():
                if delivery.state == "waiting" and name in found:
                    item = found[name]
                    item["waiting"] += 1
                    item["oldest_s"] = max(item["oldest_s"], round(age, 1))
                    item["reason"] = item["reason"] or delivery.reason
        return found


def _age_s(batch: str) -> float:
    """Age of a batch by the time in its name, s; 0 where the clock was set back since."""
    try:
        return max(time.time() - int(batch.partition(".")[2].removesuffix(ORIGINALS)) / 1e9, 0.0)
    except ValueError:
        return 0.0
