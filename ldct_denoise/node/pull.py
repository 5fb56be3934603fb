"""Pull series from a PACS by accession number: requests on disk, carried out one after the other."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.node import dicomweb, query_retrieve
from ldct_denoise.node.clock import Waits
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.durable_files import write_text
from ldct_denoise.node.intake import SUCCESS, Intake
from ldct_denoise.node.rules import Rules
from ldct_denoise.node.sending import Unreachable
from ldct_denoise.node.settings import DimseSource, WebSource

log = logging.getLogger("ldct_denoise.node")

FOLDER = "pulls"


@dataclass(frozen=True)
class PullRequest:
    """Series that are to be pulled.

    Parameters
    ----------
    source, accession_number : str
        Name of the source, and the accession number of the series.
    added : float
        Time of the request, seconds since 1970.
    done : tuple of str
        Series Instance UIDs that are here.
    attempts : int
        Failed attempts since the last progress.
    next_try : float
        Time of the next attempt, seconds since 1970.
    reason : str
        Why the last attempt failed.
    state : str
        ``waiting`` or ``failed``.
    """

    source: str
    accession_number: str
    added: float
    done: tuple[str, ...] = ()
    attempts: int = 0
    next_try: float = 0.0
    reason: str = ""
    state: str = "waiting"


def add_pulls(root: Path, source: str, accession_numbers: Sequence[str]) -> None:
    """Ask for the CT series with these accession numbers; a running node begins at once.

    Parameters
    ----------
    root : Path
        The spool.
    source : str
        Name of a source.
    accession_numbers : sequence of str

    Raises
    ------
    InputError
        If an accession number is impossible (PS3.5 6.2: SH).
    """
    for number in accession_numbers:
        if not number.strip() or len(number) > 16 or set(number) & set("\\*?") or not number.isprintable():
            raise InputError(f"accession number {number!r}: give 1 to 16 characters, without \\, * and ?")
    (root / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in accession_numbers:
        _write(root, PullRequest(source, number.strip(), time.time()))


def list_pulls(root: Path) -> list[PullRequest]:
    """Requests that are not done, the oldest first."""
    found = [_read(path) for path in (root / FOLDER).glob("[!.]*.json")]
    return sorted((one for one in found if one is not None), key=lambda one: one.added)


class Puller:
    """Carries out requests, the oldest first.

    Parameters
    ----------
    rules : Rules
    root : Path
        The spool.
    intake : Intake
    counters : Counters
    stop : threading.Event
        Interrupts a retrieval between two images when set.
    """

    def __init__(
        self, rules: Rules, root: Path, intake: Intake, counters: Counters, stop: threading.Event
    ) -> None:
        self._rules, self._root, self._intake, self._counters, self._stop = rules, root, intake, counters, stop
        self._waits = Waits()

    def use(self, rules: Rules) -> None:
        """Pull by these rules from the next request on."""
        self._rules = rules

    def run_once(self) -> bool:
        """Carry out the oldest request that is due; return whether there was one."""
        for asked in list_pulls(self._root):
            key = _name(asked)
            if asked.state == "waiting" and self._waits.is_over(key, asked.next_try, self._rules.retry.longest_s):
                self._waits.forget(key)
                self._carry_out(asked)
                return True
        return False

    def _carry_out(self, asked: PullRequest) -> None:
        source = self._rules.sources.get(asked.source)
        if source is None:
            self._fail(asked, "no longer a source", final=True)
            return
        try:
            series = self._find(source, asked.accession_number)
            if not series:
                self._fail(asked, "no CT series with this accession number", final=True)
                return
            for study_uid, series_uid in series:
                if series_uid not in asked.done and not self._stop.is_set():
                    self._retrieve(source, study_uid, series_uid)
                    asked = replace(asked, done=(*asked.done, series_uid), attempts=0)
                    self._counters.add("pulled_series")
                    self._update(asked)
        except (Unreachable, ConfigError) as error:
            self._fail(asked, str(error))
            return
        if not self._stop.is_set():
            if self._is_current(asked):
                (self._root / FOLDER / _name(asked)).unlink(missing_ok=True)
            log.info("pulled %d series from %s", len(asked.done), asked.source)

    def _find(self, source: DimseSource | WebSource, accession_number: str) -> list[tuple[str, str]]:
        if isinstance(source, WebSource):
            return dicomweb.find_series(source, accession_number)
        return query_retrieve.find_series(source, self._rules.ae_title, accession_number)

    def _retrieve(self, source: DimseSource | WebSource, study_uid: str, series_uid: str) -> None:
        transfer = secrets.randbits(62)
        if isinstance(source, DimseSource):
            is_whole = False
            try:
                query_retrieve.retrieve_series(
                    source,
                    self._rules.ae_title,
                    study_uid,
                    series_uid,
                    lambda event: self._on_store(event, transfer),
                )
                is_whole = True
            finally:
                self._intake.transfer_ended(transfer, is_whole)
            return
        is_whole = False
        try:
            limit = self._rules.limits.image_mib * 2**20
            for data in dicomweb.retrieve_series(source, study_uid, series_uid, limit):
                status = self._intake.store(data, transfer, ("", source.server))
                if status != SUCCESS:
                    raise Unreachable(f"an image cannot be stored, status 0x{status:04X}")
                if self._stop.is_set():
                    raise Unreachable("the node stops")
            is_whole = True
        finally:
            self._intake.transfer_ended(transfer, is_whole)

    def _on_store(self, event: Any, transfer: int) -> int:
        peer = event.assoc.acceptor
        return self._intake.store(
            event.encoded_dataset(),
            transfer,
            (str(peer.ae_title).strip(), peer.address_info.address),
            announced_uid=str(event.request.AffectedSOPInstanceUID),
        )

    def _fail(self, asked: PullRequest, reason: str, *, final: bool = False) -> None:
        wait_s = self._rules.retry.wait_s(asked.attempts + 1)
        is_final = final or time.time() - asked.added > self._rules.retry.give_up_h * 3600
        self._update(
            replace(
                asked,
                attempts=asked.attempts + 1,
                next_try=time.time() + wait_s,
                reason=reason,
                state="failed" if is_final else "waiting",
            ),
        )
        self._counters.add("pull_failures")
        level = logging.ERROR if is_final else logging.WARNING
        log.log(level, "pull from %s: %s%s", asked.source, reason, "" if is_final else f"; next in {wait_s:.0f} s")

    def _update(self, asked: PullRequest) -> None:
        if self._is_current(asked):
            _write(self._root, asked)

    def _is_current(self, asked: PullRequest) -> bool:
        """Whether the request was not given again meanwhile."""
        known = _read(self._root / FOLDER / _name(asked))
        return known is None or known.added == asked.added


def _name(asked: PullRequest) -> str:
    digest = hashlib.sha256(f"{asked.source}\0{asked.accession_number}".encode()).hexdigest()
    return f"{digest[:32]}.json"


def _write(root: Path, asked: PullRequest) -> None:
    write_text(root / FOLDER / _name(asked), json.dumps(asdict(asked)))


def _read(path: Path) -> PullRequest | None:
    try:
        content = json.loads(path.read_text())
        return PullRequest(**content | {"done": tuple(content["done"])})
    except (OSError, ValueError, TypeError, LookupError):
        return None
