"""Denoise complete series: from the received images of a batch to its derived images."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from ldct_denoise.errors import LdctDenoiseError, OutputError
from ldct_denoise.inference.series import apply_series
from ldct_denoise.io.dicom.instance import patient_identity
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.dicom.stack_identity import StackRegistry
from ldct_denoise.io.inventory import ExclusionKind, Inventory
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.models.trained import DEFAULT_MODEL, TrainedModel, load_model
from ldct_denoise.node.audit import AuditTrail
from ldct_denoise.node.clock import Waits
from ldct_denoise.node.counters import Counters
from ldct_denoise.node.durable_files import FULL
from ldct_denoise.node.early import EarlyDelivery
from ldct_denoise.node.records import MAX_ATTEMPTS, Delivery, Record
from ldct_denoise.node.route import Router
from ldct_denoise.node.rules import Output, Rule, Rules
from ldct_denoise.node.spool import Spool

log = logging.getLogger("ldct_denoise.node")

#: Kinds of received images that leave a gap in the derived series.
_MISSING = frozenset({ExclusionKind.UNREADABLE, ExclusionKind.INVALID_HEADER, ExclusionKind.LOST_SLICE})


class _Interrupted(Exception):
    """The node is stopping, or a more urgent batch waits; this one is denoised later."""


class Worker:
    """Denoises batches one after the other.

    Parameters
    ----------
    rules : Rules
    spool : Spool
    counters : Counters
    stop : threading.Event
        Interrupts the work between two slices when set.
    audit : AuditTrail, optional
        By default as the rules say.
    """

    def __init__(
        self,
        rules: Rules,
        spool: Spool,
        counters: Counters,
        stop: threading.Event,
        audit: AuditTrail | None = None,
    ) -> None:
        self._audit = audit or AuditTrail(rules, spool, counters)
        self._rules, self._spool, self._counters, self._stop = rules, spool, counters, stop
        self.router = Router(rules, spool)
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
        self.router.use(rules)

    def load_models(self) -> None:
        """Load every model that a rule names, so that a wrong name is found at the start of the node.

        Raises
        ------
        ModelError
            If a model cannot be loaded.
        """
        self._load(self._rules)

    def _load(self, rules: Rules) -> None:
        self._models = load_models(rules, self._models)

    def run_once(self) -> bool:
        """Process the most urgent batch that is due; return whether there was one."""
        for batch in self._spool.by_priority("ready"):
            if self._is_due(batch):
                self._waits.forget(batch)
                self._process(batch)
                return True
        return False

    def _is_due(self, batch: str) -> bool:
        return self._waits.is_over(batch, self._spool.peek(batch).not_before, self._rules.retry.longest_s)

    def _process(self, batch: str) -> None:
        with self._spool.update_record(batch) as record:
            record.attempts += 1
        try:
            self._attempt(batch, record)
        except _Interrupted:
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
        rules, record = self._rules, self.router.route(batch, found)
        if record.rule == 0:
            self._ignore(batch, "no rule")
            return
        rule = rules.rules[record.rule - 1]
        if rule.ignore:
            self._ignore(batch, f"rule {record.rule}")
            return
        if rule.assume_hu:
            registry = self._spool.memory.stack_registry(key)
            found = scan(folder, assume_hu=True, registry=registry)
        if not found.series:
            self._route_without_series(batch, found)
            return
        record.warnings = self._write(batch, found, rule, registry)
        self._spool.memory.save_stack_registry(key, registry)
        checksums = {model.name: model.checksum for model in map(self._model, rule.made)}
        record.model, record.checksum = ", ".join(checksums), ", ".join(checksums.values())
        record.keep_received = rules.keeps_received(rule)
        record.images, record.skipped = sum(map(len, found.series)), len(found.skipped)
        record.incomplete = self._report_missing(batch, found)
        record.deliveries = {name: Delivery() for name in rule.send_to}
        record.attempts = 0
        self._spool.set_record(batch, record)
        self._audit.denoised(batch, self._spool.folder("working", batch), record.model, record.checksum)
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

    def _write(self, batch: str, found: Inventory[Series], rule: Rule, registry: StackRegistry) -> list[str]:
        """Write the derived images, one folder for each stack and output; return the warnings about them."""
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
        stacks = list(dict.fromkeys(registry.uids.values()))
        early = EarlyDelivery(batch, rule.send_to, self._rules, self._spool, self._counters)
        try:
            with early:
                for series in found.series:
                    stack = stacks.index(series.uid) if series.uid in stacks else 0
                    for made, output in enumerate(rule.made):
                        number = stack * len(rule.made) + made
                        apply_series(
                            series,
                            self._model(output),
                            self._spool.folder("working", batch) / f"{number:03d}",
                            rule.apply_settings(self._rules.device, output),
                            replace(writing, number=number, suffix=f"#{stack + 1}" if stack else ""),
                            progress=lambda done, total, name: self._check_stop(batch, done, total),
                            notify=warnings.append,
                            on_image=early.add,
                        )
        except Exception as error:
            for name, count in early.sent.items():
                error.add_note(f"{name} has {count} images of the unfinished series")
            raise
        return list(dict.fromkeys(warnings))

    def _patient_revision(self, key: str, found: Inventory[Series]) -> int:
        """Number of the patient identity under which these images came, among those of their series."""
        revision = self._spool.memory.patient_revision(key, patient_identity(found.series[0].slices[0].path))
        if revision:
            log.warning("%s: sent again with other patient data; its derived series gets new UIDs", key)
        return revision

    def _check_stop(self, batch: str, done: int, total: int) -> None:
        """Interrupt a series when the node stops, and in its first half also for a more urgent batch."""
        if self._stop.is_set():
            raise _Interrupted
        if 2 * done < total:
            priority = self._spool.peek(batch).priority
            for other in self._spool.by_priority("ready"):
                if self._spool.peek(other).priority >= priority:
                    break
                if self._is_due(other):
                    log.info("%s: waits for %s, which is more urgent", batch, other)
                    raise _Interrupted

    def _model(self, output: Output) -> TrainedModel:
        name = output.model or DEFAULT_MODEL
        if name not in self._models:
            self._models[name] = load_model(name)
        return self._models[name]

    def _route_without_series(self, batch: str, found: Inventory[Series]) -> None:
        """Ignore a batch whose images are all excluded on purpose; make any other a dead letter."""
        reasons = sorted({item.reason for item in found.skipped})
        others_pass = self._rules.other_objects == "forward"
        if all(
            item.kind.is_intentional or (others_pass and item.kind is ExclusionKind.OTHER_OBJECT)
            for item in found.skipped
        ):
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


def load_models(rules: Rules, known: Mapping[str, TrainedModel] | None = None) -> dict[str, TrainedModel]:
    """Load every model that a rule names.

    Parameters
    ----------
    rules : Rules
    known : mapping from str to TrainedModel, optional
        Models that are loaded already.

    Returns
    -------
    dict from str to TrainedModel
        The known and the loaded models, by name.

    Raises
    ------
    ModelError
        If a model cannot be loaded.
    """
    models = dict(known or {})
    for rule in rules.rules:
        for output in rule.made if not rule.ignore else ():
            name = output.model or DEFAULT_MODEL
            if name not in models:
                models[name] = load_model(name)
    return models


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether a full disk is the cause of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    """Message of one of our own errors, of others also the type; then its notes."""
    message = str(error) if isinstance(error, LdctDenoiseError) else f"{type(error).__name__}: {error}"
    return "; ".join([message, *getattr(error, "__notes__", ())])
