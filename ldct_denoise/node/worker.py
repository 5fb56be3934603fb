"""The node's hands: a complete series becomes a derived series."""

from __future__ import annotations

import errno
import logging
import threading
import time

from ldct_denoise.errors import LdctDenoiseError, OutputError
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.dicom.instance import attribute_values
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.inventory import Inventory
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.models.trained import DEFAULT_MODEL, TrainedModel, load_model
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.rules import Rule, Rules
from ldct_denoise.node.spool import Delivery, Record, Spool

log = logging.getLogger("ldct_denoise.node")

#: Batches that a kill or a full disk ended so often are set aside.
MAX_ATTEMPTS = 3


class _Stopped(Exception):
    """The node is to stop; the batch stays for the next start."""


class Worker:
    """Denoises batches, one after another.

    Parameters
    ----------
    rules : Rules
    spool : Spool
    counters : Counters
    stop : threading.Event
        Set, it ends the work between two slices.
    """

    def __init__(self, rules: Rules, spool: Spool, counters: Counters, stop: threading.Event) -> None:
        self._rules, self._spool, self._counters, self._stop = rules, spool, counters, stop
        self._models: dict[str, TrainedModel] = {}

    def load_models(self) -> None:
        """Read every model that a rule names; a wrong name stops the node at its start, not at night.

        Raises
        ------
        ModelError
        """
        for rule in self._rules.rules:
            if not rule.ignore:
                self._model(rule)

    def run_once(self) -> bool:
        """Work on the oldest batch that may be worked on; whether there was one."""
        now = time.time()
        for batch in self._spool.batches("ready"):
            if self._spool.record(batch).not_before <= now:
                self._work(batch)
                return True
        return False

    def _work(self, batch: str) -> None:
        with self._spool.changing(batch) as record:
            record.attempts += 1
        try:
            self._attempt(batch, record)
        except _Stopped:
            with self._spool.changing(batch) as record:
                record.attempts -= 1
        except Exception as error:  # a bug or a hostile image must not end the work on other series
            if isinstance(error, (OutputError, OSError, MemoryError)) or _is_full_disk(error):
                self._later(batch, record, error)
            else:
                self._bury(batch, _told(error))

    def _attempt(self, batch: str, record: Record) -> None:
        if record.attempts > MAX_ATTEMPTS:
            why = f"; the last error: {record.reason}" if record.reason else ""
            self._bury(batch, f"given up after {MAX_ATTEMPTS} attempts that did not end{why}")
            return
        try:
            self._denoise(batch, record)
        finally:  # before anything is noted: on a full disk this makes the room for it
            self._spool.discard_work(batch)

    def _denoise(self, batch: str, record: Record) -> None:
        folder = self._spool.folder("ready", batch)
        started = time.monotonic()
        key = batch.partition(".")[0]
        stacks = self._spool.stacks(key)
        found = scan(folder, registry=stacks)
        number = self._rules.rule_for(attribute_values(next(folder.iterdir()), self._rules.keywords))
        if number is None or self._rules.rules[number].ignore:
            self._ignore(batch, "no rule" if number is None else f"rule {number + 1}")
            return
        if not found.series:
            self._nothing_to_denoise(batch, found)
            return
        rule = self._rules.rules[number]
        self._write(batch, found, rule)
        self._spool.save_stacks(key, stacks)
        record.rule, record.model = number + 1, self._model(rule).name
        record.images, record.skipped = sum(map(len, found.series)), len(found.skipped)
        record.deliveries = {name: Delivery() for name in rule.send_to}
        record.attempts = 0
        self._spool.set_record(batch, record)
        self._spool.hand_over(batch)
        seconds = time.monotonic() - started
        self._counters.add("denoise_seconds", seconds)
        self._counters.add("series", outcome="denoised")
        log.info(
            "%s: %d images denoised in %.1f s by rule %d, %d set aside",
            batch, record.images, seconds, record.rule, record.skipped,
        )  # fmt: skip

    def _write(self, batch: str, found: Inventory[Series], rule: Rule) -> None:
        """The derived images, in a folder for each stack of the series."""
        settings = ApplySettings(rule.strength, self._rules.device, rule.precision)
        created = self._spool.created(batch.partition(".")[0])
        writing = WriteSettings(
            overwrite=True,
            compress=rule.compress,
            private_tags=rule.private_tags,
            keep_manufacturer=rule.keep_manufacturer,
            created=created,
        )
        for number, series in enumerate(found.series):
            place = self._spool.folder("working", batch) / f"{number:03d}"
            apply_series(series, self._model(rule), place, settings, writing, progress=self._go_on)

    def _go_on(self, done: int, total: int, name: str) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _model(self, rule: Rule) -> TrainedModel:
        name = rule.model or DEFAULT_MODEL
        if name not in self._models:
            self._models[name] = load_model(name)
        return self._models[name]

    def _nothing_to_denoise(self, batch: str, found: Inventory[Series]) -> None:
        reasons = sorted({item.reason for item in found.skipped})
        if all(item.kind.is_intentional for item in found.skipped):
            self._ignore(batch, " and ".join(reasons))
        else:
            self._bury(batch, "no CT image that can be denoised: " + "; ".join(reasons))

    def _ignore(self, batch: str, why: str) -> None:
        self._spool.drop("ready", batch)
        self._counters.add("series", outcome="ignored")
        log.info("%s: ignored (%s)", batch, why)

    def _bury(self, batch: str, reason: str) -> None:
        """The reason may quote the images, so it goes into the spool, not into the log."""
        self._spool.dead_letter("ready", batch, reason)
        self._counters.add("series", outcome="dead letter")
        log.error("%s: cannot be denoised; the reason is in dead-letter/%s.json", batch, batch)

    def _later(self, batch: str, record: Record, error: Exception) -> None:
        """The place to write to may be better in a while; a full disk is no fault of the batch."""
        wait = self._rules.retry.wait_s(record.attempts)
        full = _is_full_disk(error) or self._spool.is_tight()
        with self._spool.changing(batch) as record:
            record.not_before = time.time() + wait
            record.attempts -= full
            record.reason = _told(error)
        what = "no room on the spool's disk" if full else type(error).__name__
        log.error("%s: %s while denoising; tried again in %.0f s", batch, what, wait)


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether the system said that there is no room, and our errors say it in their own words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _told(error: Exception) -> str:
    """Our own errors explain themselves."""
    return str(error) if isinstance(error, LdctDenoiseError) else f"{type(error).__name__}: {error}"
