"""Denoise every series of a tree: skip finished series, share the rest between processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ldct_denoise.distributed import WorkerInfo, gather, worker_from_environment
from ldct_denoise.errors import InputError, LdctDenoiseError, PartialError
from ldct_denoise.inference.ledger import Entry, Ledger, count_files
from ldct_denoise.inference.series import (
    DEFAULT_WRITING,
    WriteSettings,
    _is_dicom,
    _log,
    _place,
    _refuse_idle,
    _report_path,
    _silent,
    _uid,
    _write,
    _write_report,
    apply_series,
    derivation_of,
)
from ldct_denoise.inference.slices import DEFAULTS, ApplySettings, Progress
from ldct_denoise.io.derived.derived_series import holds_derived
from ldct_denoise.io.dicom.series import Inventory, Series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_files import require_folder
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.output import series_subfolders
from ldct_denoise.volume import SliceSource


def apply(
    path: Path,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings = DEFAULTS,
    writing: WriteSettings = DEFAULT_WRITING,
    progress: Progress = _silent,
    tell: Callable[[str], None] = lambda message: None,
) -> list[Path]:
    """Denoise every CT series under ``path``.

    Of several series, those that an earlier run finished with the same model and settings are left as they are;
    what is done stands in ``<output>-ledger.jsonl``. Where torchrun or Slurm started several processes, each takes
    its share of the series.

    Parameters
    ----------
    path : Path
        A DICOM folder, file or tree, or a volume file.
    output : Path
        Where the series goes; with several, each gets a subfolder named by its Series Instance UID (with
        ``deidentify`` by the one that replaces it).
    progress : callable
        Told (files or slices done, how many there are, what).
    tell : callable
        Told in a line what is left out, or not done again.

    Returns
    -------
    list of Path
        The series that this process wrote, and those of its share that were there already.

    Raises
    ------
    InputError
        If there is no CT series, or none could be denoised.
    PartialError
        If some series could not be denoised, or lack slices that cannot be read, the others were denoised; or a
        report could not be written.
    """
    worker = worker_from_environment()
    progress = progress if worker.rank == 0 else _silent
    inventory = find_images(path, lambda done, total: progress(done, total, "files looked at"))
    series = inventory.series
    if not series:
        raise InputError(f"{path}: no CT series to denoise{_why_none(inventory)}")
    for note in inventory.notes(path) if worker.rank == 0 else ():
        tell(note)
    if len(series) == 1:
        if worker.rank:
            return []
        try:
            written = apply_series(series[0], model, output, settings, writing, progress)
        except PartialError as error:  # its report is missing; slices may be too
            error.failures += tuple(inventory.lost_slices)
            raise
        inventory.require_all_slices(written)
        return [written]
    require_folder(output, len(series))
    tree = _Tree(path, series, model, output, settings, writing)
    _refuse_idle(str(path), tree.jobs, writing)
    tree.failures = [] if worker.rank else inventory.lost_slices
    return tree.run(worker, progress, tell)


def _why_none(inventory: Inventory) -> str:
    aside = inventory.skipped
    return f": {aside[0].path.name}: {aside[0].reason}" if aside else ""


class _Tree:
    """Many series: which are done, which are to do, which failed."""

    def __init__(
        self,
        path: Path,
        series: Sequence[SliceSource],
        model: TrainedModel,
        output: Path,
        settings: ApplySettings,
        writing: WriteSettings,
    ) -> None:
        self.path, self.model, self.output, self.settings, self.writing = path, model, output, settings, writing
        self.jobs = list(
            zip(series, series_subfolders(output, (_uid(source, writing) for source in series)), strict=True)
        )
        self.ledger = Ledger.beside(output)
        self.written: list[Path] = []
        self.failures: list[str] = []

    def run(self, worker: WorkerInfo, progress: Progress, tell: Callable[[str], None]) -> list[Path]:
        """Do this process's share, wait for the others, and tell what failed."""
        mine = self.jobs[worker.rank :: worker.size]
        standing = [(source, place, self._is_done(source, place)) for source, place in mine]
        todo = [job for job in standing if self._is_wanted(*job)]
        if len(todo) < len(mine):
            tell(f"{len(mine) - len(todo)} of {len(mine)} series are done already; --overwrite does them again")
        total, before = sum(len(source) for source, _, _ in todo), 0
        for number, (source, place, done) in enumerate(todo, 1):
            name = f"series {number}/{len(todo)}"
            self._try(source, place, done, _part(progress, before, total, name))
            before += len(source)
        places = {place for _, place, _ in todo}
        there = [_place(*job, self.writing) for job in mine if job[1] not in places] + self.written
        self._conclude(worker, gather((len(there), len(mine), self.failures)), there)
        return there

    def _try(self, source: SliceSource, place: Path, done: bool, progress: Progress) -> None:
        """One series; a failure is kept for the end, whatever it is, so that the others are done."""
        written = _place(source, place, self.writing)
        try:
            if not done:
                _write(source, self.model, place, self.settings, self.writing, progress)
                self.ledger.add(self._entry(source, place))
            if self.writing.report:
                _write_report(source, written, self.model, self.settings)
        except PartialError as error:  # its report is what failed
            self.written.append(written)
            self.failures.append(f"{source.name}: {error}")
        except LdctDenoiseError as error:
            self.failures.append(f"{source.name}: {error}")
        except Exception as error:
            _log.debug("series %s", source.uid, exc_info=True)
            reason = (str(error).splitlines() or [""])[0]
            self.failures.append(f"{source.name}: {type(error).__name__} {reason}")
        else:
            self.written.append(written)

    def _conclude(
        self, worker: WorkerInfo, outcomes: Sequence[tuple[int, int, list[str]]], there: Sequence[Path]
    ) -> None:
        """Raise what all processes together could not do; of several that know of each other, the first does."""
        if len(outcomes) > 1 and worker.rank:
            return
        done, total = sum(count for count, _, _ in outcomes), sum(count for _, count, _ in outcomes)
        failures = [line for _, _, lines in outcomes for line in lines]
        if failures and not done:
            error = InputError(f"{self.path}: none of {total} series was denoised")
            error.failures = tuple(failures)
            raise error
        if failures:
            raise PartialError(f"{self.path}: {done} of {total} series denoised", failures, there)

    # ---- what is done ---------------------------------------------------------------------------------------

    def _is_wanted(self, source: SliceSource, place: Path, done: bool) -> bool:
        """Whether there is something to do."""
        if not done:
            return True
        return self.writing.report and not _report_path(_place(source, place, self.writing)).is_file()

    def _is_done(self, source: SliceSource, place: Path) -> bool:
        """By the ledger, or the derived series itself where the ledger does not know; never with --overwrite."""
        if self.writing.overwrite:
            return False
        written = _place(source, place, self.writing)
        if self.ledger.knows(written):
            return self.ledger.is_done(self._key(source), written)
        w, derivation = self.writing, derivation_of(self.model, self.settings)
        if not isinstance(source, Series) or not _is_dicom(source, place, w):
            return False
        if w.private_tags != "keep" or w.keep_manufacturer:  # which the series itself does not tell
            return False
        if not holds_derived(
            place,
            source,
            derivation,
            compress=w.compress,
            convert_enhanced=w.convert_enhanced,
            deidentify=w.deidentify,
        ):
            return False
        self.ledger.add(self._entry(source, place))
        return True

    def _told(self) -> dict[str, Any]:
        """The settings that decide what is written."""
        how = asdict(self.settings) | asdict(self.writing)
        return {
            name: value for name, value in how.items() if name not in ("device", "overwrite", "report", "created")
        }

    def _key(self, source: SliceSource) -> str:
        images = [ref.sop_uid for ref in source.slices] if isinstance(source, Series) else []
        told = [source.uid, images, self.model.checksum, self._told()]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _entry(self, source: SliceSource, place: Path) -> Entry:
        written = _place(source, place, self.writing)
        return Entry(
            key=self._key(source),
            series=_uid(source, self.writing),
            model=self.model.name,
            checksum=self.model.checksum,
            settings=self._told(),
            output=self.ledger.told(written),
            files=count_files(written),
        )


def _part(progress: Progress, before: int, total: int, name: str) -> Progress:
    """Progress of one series as part of the whole."""
    return lambda done, _, what: progress(before + done, total, f"{name} {what}")
