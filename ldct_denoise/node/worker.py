"""Denoise complete series: from the received images of a batch to its derived images."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from pathlib import Path

from ldct_denoise.errors import LdctDenoiseError, OutputError
from ldct_denoise.inference.series import apply_series
from ldct_denoise.io.dicom.instance import attribute_values, patient_identity
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.inventory import ExclusionKind, Inventory
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.models.trained import DEFAULT_MODEL, TrainedModel, load_model
from ldct_denoise.node.clock import Waits
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.durable_files import FULL
from ldct_denoise.node.records import Delivery, Record, RememberedRule
from ldct_denoise.node.rules import Rule, Rules
from ldct_denoise.node.spool import Spool

log = logging.getLogger("ldct_denoise.node")

#: A batch becomes a dead letter after this many attempts that ended with the node or the disk.
MAX_ATTEMPTS = 3


#: Kinds of received images that leave a gap in the derived series.
_MISSING = frozenset({ExclusionKind.UNREADABLE, ExclusionKind.INVALID_HEADER, ExclusionKind.LOST_SLICE})


class _Stopped(Exception):
    """The node is stopping; the batch stays for the next start."""


class Worker:
    """Denoises batches one after the other.

    Parameters
    ----------
    rules : Rules
    spool : Spool
    counters : Counters
    stop : threading.Event
        Interrupts the work between two slices when set.
    """

    def __init__(self, rules: Rules, spool: Spool, counters: Counters, stop: threading.Event) -> None:
        self._rules, self._spool, self._counters, self._stop = rules, spool, counters, stop
        self._models: dict[str, TrainedModel] = {}
        self._waits = Waits()

    def use(self, rules: Rules) -> None:
        """Work by these rules from the next batch on.

        Raises
        ------
        ModelError
            If one of their models cannot be loaded; the former rules stay.
        """
        self._load(rules)
        self._rules = rules

    def load_models(self) -> None:
        """Load every model that a rule names, so that a wrong name is found at the start of the node.

        Raises
        ------
        ModelError
            If a model cannot be loaded.
        """
        self._load(self._rules)

    def _load(self, rules: Rules) -> None:
        for rule in rules.rules:
            if not rule.ignore:
                self._model(rule)

    def run_once(self) -> bool:
        """Process the oldest batch that is due; return whether there was one."""
        longest_s = self._rules.retry.longest_s
        for batch in self._spool.batches("ready"):
            if self._waits.is_over(batch, self._spool.peek(batch).not_before, longest_s):
                self._waits.forget(batch)
                self._process(batch)
                return True
        return False

    def _process(self, batch: str) -> None:
        with self._spool.update_record(batch) as record:
            record.attempts += 1
        try:
            self._attempt(batch, record)
        except _Stopped:
            with self._spool.update_record(batch) as record:
                record.attempts -= 1
        except Exception as error:  # a bug or a hostile image must not block other series
            if isinstance(error, (OutputError, OSError, MemoryError)) or _is_full_disk(error):
                self._requeue(batch, record, error)
            else:
                self._dead_letter(batch, _reason(error))

    def _attempt(self, batch: str, record: Record) -> None:
        if record.attempts > MAX_ATTEMPTS:
            last_error = f"; the last error: {record.reason}" if record.reason else ""
            self._dead_letter(batch, f"given up after {MAX_ATTEMPTS} attempts that did not end{last_error}")
            return
        try:
            self._denoise(batch, record)
        finally:  # before anything is written to the record: this makes room on a full disk
            self._spool.discard_work(batch)

    def _denoise(self, batch: str, record: Record) -> None:
        folder = self._spool.folder("ready", batch)
        started = time.monotonic()
        key = batch.partition(".")[0]
        registry = self._spool.memory.stack_registry(key)
        found = scan(folder, registry=registry)
        index = self._choose_rule(key, found, folder)
        if index is not None and self._rules.rules[index].assume_hu:
            registry = self._spool.memory.stack_registry(key)
            found = scan(folder, assume_hu=True, registry=registry)
        if index is None or self._rules.rules[index].ignore:
            self._ignore(batch, "no rule" if index is None else f"rule {index + 1}")
            return
        if not found.series:
            self._route_without_series(batch, found)
            return
        rule = self._rules.rules[index]
        record.warnings = self._write(batch, found, rule)
        self._spool.memory.save_stack_registry(key, registry)
        record.rule, record.model = index + 1, self._model(rule).name
        record.images, record.skipped = sum(map(len, found.series)), len(found.skipped)
        record.incomplete = self._report_missing(batch, found)
        record.deliveries = {name: Delivery() for name in rule.send_to}
        record.attempts = 0
        self._spool.set_record(batch, record)
        self._spool.hand_over(batch)
        seconds = time.monotonic() - started
        self._counters.add("denoise_seconds", seconds)
        self._counters.add("series", outcome="denoised")
        log.info(
            "%s: %d images denoised in %.1f s by rule %d, %d skipped",
            batch, record.images, seconds, record.rule, record.skipped,
        )  # fmt: skip
        for warning in record.warnings:
            log.warning("%s: %s", batch, warning)

    def _report_missing(self, batch: str, found: Inventory[Series]) -> str:
        """Log and count images that are missing from the derived series, and return what is missing, in words."""
        kinds = Counter(item.kind.replace("_", " ") for item in found.skipped if item.kind in _MISSING)
        parts = [
            f"{count} of {len(found.skipped) + sum(map(len, found.series))} images missing ({kind})"
            for kind, count in kinds.items()
        ]
        uneven = sum(len(series) > 2 and not series.geometry.is_even for series in found.series)
        parts += [f"{uneven} of {len(found.series)} stacks with uneven spacing"] if uneven else []
        if parts:
            self._counters.add("incomplete_series")
            log.warning("%s: the derived series is incomplete: %s", batch, "; ".join(parts))
        return "; ".join(parts)

    def _choose_rule(self, key: str, found: Inventory[Series], folder: Path) -> int | None:
        """Choose the rule of a series by the images that can be denoised, and remember it for late images.

        Localizers and other images that the scan excludes decide only where nothing else remains. If images fit
        different rules, the rule of most of them decides.

        Parameters
        ----------
        key : str
            Key of the series.
        found : Inventory
            The images of the batch.
        folder : Path
            Folder of the received images.

        Returns
        -------
        int or None
            Index of the rule; None if none fits.
        """
        remembered = self._spool.memory.rule(key, self._rules.rules_digest) if found.series else None
        if remembered is not None:
            return remembered.index
        files = sorted({ref.path for series in found.series for ref in series.slices}) or sorted(folder.iterdir())
        keywords = self._rules.keywords
        votes = Counter(self._rules.rule_for(attribute_values(file, keywords)) for file in files)
        last = len(self._rules.rules)
        index = min(votes, key=lambda rule: (-votes[rule], last if rule is None else rule))
        if found.series:
            if len(votes) > 1:
                log.warning("%s: its images fit %d rules; that of most images decides", key, len(votes))
            send_to = () if index is None else self._rules.rules[index].send_to
            self._spool.memory.remember_rule(key, RememberedRule(self._rules.rules_digest, index, send_to))
        return index

    def _write(self, batch: str, found: Inventory[Series], rule: Rule) -> list[str]:
        """Write the derived images, one folder for each stack of the series; return the warnings about them."""
        settings = rule.apply_settings(self._rules.device)
        key = batch.partition(".")[0]
        writing = WriteSettings(
            overwrite=True,
            compress=rule.compress,
            private_tags=rule.private_tags,
            keep_manufacturer=rule.keep_manufacturer,
            created=self._spool.memory.created(key),
            revision=self._patient_revision(key, found),
        )
        warnings: list[str] = []
        for number, series in enumerate(found.series):
            output = self._spool.folder("working", batch) / f"{number:03d}"
            apply_series(
                series, self._model(rule), output, settings, writing,
                progress=self._check_stop, notify=warnings.append,
            )  # fmt: skip
        return warnings

    def _patient_revision(self, key: str, found: Inventory[Series]) -> int:
        """Number of the patient identity under which these images came, among those of their series."""
        revision = self._spool.memory.patient_revision(key, patient_identity(found.series[0].slices[0].path))
        if revision:
            log.warning("%s: sent again with other patient data; its derived series gets new UIDs", key)
        return revision

    def _check_stop(self, done: int, total: int, name: str) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _model(self, rule: Rule) -> TrainedModel:
        name = rule.model or DEFAULT_MODEL
        if name not in self._models:
            self._models[name] = load_model(name)
        return self._models[name]

    def _route_without_series(self, batch: str, found: Inventory[Series]) -> None:
        """Ignore a batch whose images are all excluded on purpose; make any other a dead letter."""
        reasons = sorted({item.reason for item in found.skipped})
        if all(item.kind.is_intentional for item in found.skipped):
            self._ignore(batch, " and ".join(reasons))
        else:
            self._dead_letter(batch, "no CT image that can be denoised: " + "; ".join(reasons))

    def _ignore(self, batch: str, reason: str) -> None:
        self._spool.delete("ready", batch)
        self._counters.add("series", outcome="ignored")
        log.info("%s: ignored (%s)", batch, reason)

    def _dead_letter(self, batch: str, reason: str) -> None:
        """Set a batch aside. The reason may quote the images, so it is written to the spool, not to the log."""
        self._spool.dead_letter("ready", batch, reason)
        self._counters.add("series", outcome="dead letter")
        log.error("%s: cannot be denoised; the reason is in dead-letter/%s.json", batch, batch)

    def _requeue(self, batch: str, record: Record, error: Exception) -> None:
        """Schedule the next attempt after an error of the disk. A full disk does not count as an attempt."""
        wait_s = self._rules.retry.wait_s(record.attempts)
        is_full = _is_full_disk(error) or self._spool.is_tight()
        with self._spool.update_record(batch) as record:
            record.not_before = time.time() + wait_s
            record.attempts -= is_full
            record.reason = _reason(error)
        cause = "no room on the spool's disk" if is_full else type(error).__name__
        log.error("%s: %s while denoising; next attempt in %.0f s", batch, cause, wait_s)


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether a full disk is the cause of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    """Message of one of our own errors; of others also the type."""
    return str(error) if isinstance(error, LdctDenoiseError) else f"{type(error).__name__}: {error}"
