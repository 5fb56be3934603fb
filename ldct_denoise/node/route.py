"""Route complete series: choose the rule, the priority, and send the received images on where the rule says so."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.instance import attribute_values
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.inventory import Inventory
from ldct_denoise.node.records import MAX_ATTEMPTS, Record, RememberedRule
from ldct_denoise.node.rules import Rule, Rules
from ldct_denoise.node.spool import Spool

log = logging.getLogger("ldct_denoise.node")

#: Number of a priority in a record, by its name in a rule.
PRIORITIES = {"high": 0, "medium": 1, "low": 2}


class Router:
    """Routes batches before they are denoised, so that received images do not wait for other series.

    Parameters
    ----------
    rules : Rules
    spool : Spool
    """

    def __init__(self, rules: Rules, spool: Spool) -> None:
        self._rules, self._spool = rules, spool
        self._lock = threading.Lock()
        #: Called with each batch that is routed for the first time.
        self.on_batch: Callable[[str], None] = lambda batch: None
        #: Batches that cannot be routed; the worker gives the reason.
        self._failed: set[str] = set()

    def use(self, rules: Rules) -> None:
        """Route by these rules from the next batch on."""
        with self._lock:
            self._rules = rules
            self._failed.clear()

    def run_once(self) -> bool:
        """Route the oldest batch that is not routed; return whether there was one."""
        for batch in self._spool.batches("ready"):
            with self._lock:
                if self._is_routed(batch) or batch in self._failed:
                    continue
                # Counted first: an image that kills the node must not do so for ever.
                self._count(batch, 1)
                try:
                    self._route(batch, self._scan(batch))
                except InputError:
                    self._failed.add(batch)
                self._count(batch, -1)
            return True
        return False

    def route(self, batch: str, found: Inventory[Series]) -> Record:
        """Choose the rule of a batch, unless that was done under the same rules.

        Parameters
        ----------
        batch : str
            Name of a batch in ``ready``.
        found : Inventory
            Its images.

        Returns
        -------
        Record
            Its record, with rule and priority.

        Raises
        ------
        InputError
            If no header can be read.
        """
        with self._lock:
            if not self._is_routed(batch):
                self._route(batch, found)
            return self._spool.record(batch)

    def _is_routed(self, batch: str) -> bool:
        record = self._spool.peek(batch)
        return record.rules_digest == self._rules.rules_digest or record.attempts > MAX_ATTEMPTS

    def _count(self, batch: str, attempts: int) -> None:
        with self._spool.update_record(batch) as record:
            record.attempts += attempts

    def _route(self, batch: str, found: Inventory[Series] | None) -> None:
        index = self._choose_rule(batch.partition(".")[0], found, batch)
        rule = None if index is None else self._rules.rules[index]
        priority = self._priority(batch, rule)
        if rule is not None and rule.originals_to:
            self._spool.forward_originals(batch, rule.originals_to, priority)
            log.info("%s: received images go to %s", batch, ", ".join(rule.originals_to))
        if not self._spool.peek(batch).rules_digest:
            self.on_batch(batch)
        with self._spool.update_record(batch) as record:
            record.rule = 0 if index is None else index + 1
            record.rules_digest, record.priority = self._rules.rules_digest, priority

    def _priority(self, batch: str, rule: Rule | None) -> int:
        if rule is not None and rule.priority is not None:
            return PRIORITIES[rule.priority]
        return PRIORITIES["high" if self._spool.memory.is_urgent(batch.partition(".")[0]) else "medium"]

    def _scan(self, batch: str) -> Inventory[Series] | None:
        """The images of a batch; None if they cannot be scanned, which keeps no received image from going on."""
        folder = self._spool.folder("ready", batch)
        try:
            return scan(folder, registry=self._spool.memory.stack_registry(batch.partition(".")[0]))
        except Exception:  # a hostile image can fail anywhere inside a decoder; the worker gives the reason
            return None

    def _choose_rule(self, key: str, found: Inventory[Series] | None, batch: str) -> int | None:
        """Choose the rule of a series by the images that can be denoised, and remember it for late images.

        Localizers and other images that the scan excludes decide only where nothing else remains. If images fit
        different rules, the rule of most of them decides.

        Parameters
        ----------
        key : str
            Key of the series.
        found : Inventory or None
            The images of the batch.
        batch : str

        Returns
        -------
        int or None
            Index of the rule; None if none fits.
        """
        series = found.series if found else ()
        remembered = self._spool.memory.rule(key, self._rules.rules_digest) if series else None
        if remembered is not None:
            return remembered.index
        files = sorted({ref.path for one in series for ref in one.slices})
        files = files or sorted(self._spool.folder("ready", batch).iterdir())
        keywords = self._rules.keywords
        votes = Counter(self._rules.rule_for(attribute_values(file, keywords)) for file in files)
        last = len(self._rules.rules)
        index = min(votes, key=lambda rule: (-votes[rule], last if rule is None else rule))
        if series:
            if len(votes) > 1:
                log.warning("%s: its images fit %d rules; that of most images decides", key, len(votes))
            send_to = () if index is None else self._rules.rules[index].send_to
            self._spool.memory.remember_rule(key, RememberedRule(self._rules.rules_digest, index, send_to))
        return index
