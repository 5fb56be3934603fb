"""Denoise every series of a tree: skip finished series, share the rest between processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldct_denoise.distributed import WorkerInfo, gather, worker_from_environment
from ldct_denoise.errors import InputError, LdctDenoiseError, PartialError
from ldct_denoise.inference.ledger import Entry, Ledger, count_files, job_key
from ldct_denoise.inference.series import (
    WriteReport,
    apply_series,
    check_report,
    checked_warnings,
    denoise_series,
    derivation_of,
    report_path,
    report_series,
)
from ldct_denoise.inference.settings import DEFAULT_APPLY_SETTINGS, ApplySettings
from ldct_denoise.inference.slices import Progress
from ldct_denoise.io.find import find_images
from ldct_denoise.io.inventory import Inventory
from ldct_denoise.io.write_settings import DEFAULT_WRITE_SETTINGS, WriteSettings
from ldct_denoise.io.writer import (
    check_dicom_settings,
    holds_result,
    output_location,
    output_uid,
    series_subfolders,
)
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.volume import SliceSource

#: Settings that do not change what is written.
_NEUTRAL_SETTINGS = ("device", "overwrite", "created", "strict", "number", "suffix")
_log = logging.getLogger(__name__)


def _silent(*arguments: object) -> None:
    pass


def apply(
    path: Path,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings = DEFAULT_APPLY_SETTINGS,
    writing: WriteSettings = DEFAULT_WRITE_SETTINGS,
    *,
    write_report: WriteReport | None = None,
    progress: Progress = _silent,
    notify: Callable[[str], None] = _silent,
) -> list[Path]:
    """Denoise every CT series under ``path``.

    With several series, those that an earlier run finished with the same model and settings are skipped;
    ``<output>-ledger.jsonl`` lists what is done. Processes started by torchrun or Slurm share the series.

    Parameters
    ----------
    path : Path
        A DICOM folder, file or tree, or a volume file.
    model : TrainedModel
    output : Path
        Where the result goes. With several series, each gets a subfolder named by its Series Instance UID, or with
        ``deidentify`` by the UID that replaces it.
    settings : ApplySettings
        How the model is applied.
    writing : WriteSettings
        How the results are written.
    write_report : callable, optional
        Writes a report on each result, as for :func:`ldct_denoise.inference.series.apply_series`.
    progress : callable
        Called with (files or slices done, their number, note).
    notify : callable
        Called with a line about files that are excluded, series that are skipped, and warnings about a series.

    Returns
    -------
    list of Path
        Results that this process wrote or skipped.

    Raises
    ------
    InputError
        If there is no CT series, or none could be denoised.
    PartialError
        If some series could not be denoised or lack unreadable slices, and the others were denoised; or if a
        report could not be written.
    """
    worker = worker_from_environment()
    progress = progress if worker.rank == 0 else _silent
    inventory = find_images(
        path, lambda done, total: progress(done, total, "files looked at"), assume_hu=settings.assume_hu
    )
    if not inventory.series:
        reason = f": {inventory.main_exclusion}" if inventory.skipped else ""
        raise InputError(f"{path}: no CT series to denoise{reason}")
    for note in inventory.notes(path) if worker.rank == 0 else ():
        notify(note)
    if len(inventory.series) > 1:
        batch = _Batch(path, inventory, model, output, settings, writing, write_report)
        return batch.run(worker, progress, notify)
    if worker.rank:
        return []
    (source,) = inventory.series
    try:
        location = apply_series(
            source, model, output, settings, writing, write_report=write_report, progress=progress,
            notify=lambda warning: notify(f"{source.name}: {warning}"),
        )  # fmt: skip
    except PartialError as error:  # its report is missing; slices may be too
        error.failures += tuple(inventory.lost_slices)
        raise
    inventory.require_all_slices(location)
    return [location]


@dataclass(frozen=True)
class _Job:
    """One series of a batch: its source, its output folder and where the result will be."""

    source: SliceSource
    output: Path
    location: Path


class _Batch:
    """Several series: those that are done, those to do, and those that failed."""

    def __init__(
        self,
        path: Path,
        inventory: Inventory[SliceSource],
        model: TrainedModel,
        output: Path,
        settings: ApplySettings,
        writing: WriteSettings,
        write_report: WriteReport | None,
    ) -> None:
        sources = inventory.series
        folders = series_subfolders(output, sources, writing)
        check_dicom_settings(str(path), zip(sources, folders, strict=True), writing)
        self.path, self.model, self.settings, self.writing = path, model, settings, writing
        self.write_report = write_report
        self.lost_slices = inventory.lost_slices
        self.jobs = [
            _Job(source, folder, output_location(source, folder, writing))
            for source, folder in zip(sources, folders, strict=True)
        ]
        self.ledger = Ledger.of_output(output)
        self.written: list[Path] = []
        self.failures: list[str] = []

    def run(self, worker: WorkerInfo, progress: Progress, notify: Callable[[str], None]) -> list[Path]:
        """Process this worker's share, wait for the other workers, and raise the failures."""
        self.failures = [] if worker.rank else list(self.lost_slices)
        jobs = self.jobs[worker.rank :: worker.size]
        finished = {job.location for job in jobs if self._is_finished(job)}
        todo = [job for job in jobs if job.location not in finished or self._lacks_report(job)]
        if len(todo) < len(jobs):
            notify(f"{len(jobs) - len(todo)} of {len(jobs)} series are done already; --overwrite repeats them")
        total, before = sum(len(job.source) for job in todo), 0
        for number, job in enumerate(todo, 1):
            part = _part_of(progress, before, total, f"series {number}/{len(todo)}")
            self._process(job, job.location in finished, part, notify)
            before += len(job.source)
        results = [job.location for job in jobs if job not in todo] + self.written
        self._raise_failures(worker, gather((len(results), len(jobs), self.failures)), results)
        return results

    def _process(self, job: _Job, finished: bool, progress: Progress, notify: Callable[[str], None]) -> None:
        """Denoise one series; any failure is collected, so that the others are done."""
        try:
            if not finished:
                if self.write_report is not None:
                    check_report(job.location, self.writing)
                warnings = checked_warnings(
                    job.source, self.model, self.settings, lambda text: notify(f"{job.source.name}: {text}")
                )
                denoise_series(job.source, self.model, job.output, self.settings, self.writing, progress)
                self.ledger.add(self._entry(job, warnings))
            if self.write_report is not None:
                report_series(job.source, job.location, self.write_report)
        except PartialError as error:  # its report failed
            self.written.append(job.location)
            self.failures.append(f"{job.source.name}: {error}")
        except LdctDenoiseError as error:
            self.failures.append(f"{job.source.name}: {error}")
        except Exception as error:
            _log.debug("series %s", job.source.uid, exc_info=True)
            reason = (str(error).splitlines() or [""])[0]
            self.failures.append(f"{job.source.name}: {type(error).__name__} {reason}")
        else:
            self.written.append(job.location)

    def _raise_failures(
        self, worker: WorkerInfo, outcomes: Sequence[tuple[int, int, list[str]]], results: Sequence[Path]
    ) -> None:
        """Raise the failures of all processes; where they communicate, only the first process raises."""
        if len(outcomes) > 1 and worker.rank:
            return
        done, total = sum(count for count, _, _ in outcomes), sum(count for _, count, _ in outcomes)
        failures = [line for _, _, lines in outcomes for line in lines]
        if failures and not done:
            error = InputError(f"{self.path}: none of {total} series was denoised")
            error.failures = tuple(failures)
            raise error
        if failures:
            raise PartialError(f"{self.path}: {done} of {total} series denoised", failures, results)

    # ---- finished series ------------------------------------------------------------------------------------

    def _is_finished(self, job: _Job) -> bool:
        """By the ledger, or by the derived series where the ledger has no entry; never with ``overwrite``."""
        if self.writing.overwrite:
            return False
        if self.ledger.has_entry(job.location):
            return self.ledger.is_done(self._key(job.source), job.location)
        if not holds_result(job.source, job.output, derivation_of(self.model, self.settings), self.writing):
            return False
        self.ledger.add(self._entry(job))
        return True

    def _lacks_report(self, job: _Job) -> bool:
        return self.write_report is not None and not report_path(job.location).is_file()

    def _written_settings(self) -> dict[str, Any]:
        """The settings that determine what is written."""
        settings = asdict(self.settings) | asdict(self.writing)
        return {name: value for name, value in settings.items() if name not in _NEUTRAL_SETTINGS}

    def _key(self, source: SliceSource) -> str:
        return job_key(source, self.model.checksum, self._written_settings())

    def _entry(self, job: _Job, warnings: Sequence[str] = ()) -> Entry:
        return Entry(
            key=self._key(job.source),
            series=output_uid(job.source, self.writing),
            model=self.model.name,
            checksum=self.model.checksum,
            settings=self._written_settings(),
            output=self.ledger.relative(job.location),
            files=count_files(job.location),
            warnings=list(warnings),
        )


def _part_of(progress: Progress, before: int, total: int, name: str) -> Progress:
    """Progress of one series as part of the whole batch."""
    return lambda done, _, note: progress(before + done, total, f"{name} {note}")
