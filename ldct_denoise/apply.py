"""A model over patient series: read, restore, guard, write; one series, or a tree of thousands.

While the network works on one slice the next are read and the last are written; never more than a few are held.
A tree is taken up where an earlier run stopped, and shared by the processes that torchrun or Slurm started.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ldct_denoise.checkpoint import TrainedModel
from ldct_denoise.distributed import Share, gather, share_of_work
from ldct_denoise.errors import ConfigError, InputError, LdctDenoiseError, OutputError, PartialError
from ldct_denoise.io.deidentify import public_uid, refuse_burned_in
from ldct_denoise.io.derive import Derivation, DerivedWriter, holds_derived
from ldct_denoise.io.dicom import Inventory, Series
from ldct_denoise.io.files import FileSeries, is_volume_file, require_folder, volume_place, write_volume
from ldct_denoise.io.find import find_images
from ldct_denoise.io.read import one_line
from ldct_denoise.ledger import Entry, Ledger, count_files
from ldct_denoise.output import folders
from ldct_denoise.restore import DEFAULTS, ApplySettings, Progress, Slices, fits_told, restore_slices
from ldct_denoise.volume import SliceSource

__all__ = ["ApplySettings", "WriteSettings", "apply", "apply_series", "derivation_of", "restore_slices"]

#: Slices that wait to be written.
WRITE_BEHIND = 4
_log = logging.getLogger(__name__)


def _silent(done: int, total: int, name: str) -> None:
    pass


@dataclass(frozen=True)
class WriteSettings:
    """How a denoised series is written.

    Parameters
    ----------
    format : str, optional
        ``dicom`` or ``nifti``; by default what the output's name says, else the input's own.
    overwrite : bool
        Replace an output, and a report, that exist.
    report : bool
        Also measure input against output and write ``<output>-report.html`` beside the series.
    compress : str, optional
        Lossless transfer syntax for DICOM: ``jpegls``, ``j2k`` or ``rle``.
    private : str
        ``keep`` or ``drop`` private attributes.
    keep_scanner_equipment : bool
        Leave the scanner in General Equipment; we are then the contributing equipment.
    classic : bool
        Write Enhanced CT as classic CT images.
    deidentify : bool
        Take the patient out (PS3.15 E.2); of a DICOM series only.
    created : datetime, optional
        Time of creation that DICOM images carry; now without. A node gives it, so that a repeat is the same file.
    """

    format: Literal["dicom", "nifti"] | None = None
    overwrite: bool = False
    report: bool = False
    compress: Literal["jpegls", "j2k", "rle"] | None = None
    private: Literal["keep", "drop"] = "keep"
    keep_scanner_equipment: bool = False
    classic: bool = False
    deidentify: bool = False
    created: datetime | None = None


def apply_series(
    source: SliceSource,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings = DEFAULTS,
    writing: WriteSettings = WriteSettings(),
    progress: Progress = _silent,
) -> Path:
    """Denoise one series and write it.

    Returns
    -------
    Path
        The folder of the derived series, or the volume's file.

    Raises
    ------
    ConfigError, InputError, OutputError, ModelError
        If nothing was written.
    PartialError
        If the series was written, but not its report.
    """
    _refuse_idle(source.name, [(source, output)], writing)
    path = _write(source, model, output, settings, writing, progress)
    if writing.report:
        _write_report(source, path, model, settings)
    return path


def _write(
    source: SliceSource,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings,
    writing: WriteSettings,
    progress: Progress,
) -> Path:
    """The series without its report; what cannot be done is refused before anything is computed."""
    _refuse_settings(source, writing)
    _refuse_burned_in(source, output, writing)
    _refuse_report(_place(source, output, writing), writing)
    with fits_told([model], progress, (0, len(source), source.name)) as tell:
        slices = _counted(restore_slices(source, model, settings), source, tell)
        if isinstance(source, Series) and _is_dicom(source, output, writing):
            return _write_dicom(source, slices, output, derivation_of(model, settings), writing)
        return _write_file(source, slices, output, model.name, writing)


def _is_dicom(source: SliceSource, output: Path, writing: WriteSettings) -> bool:
    """Whether DICOM is written."""
    if not isinstance(source, Series) or writing.format == "nifti":
        return False
    return writing.format == "dicom" or not is_volume_file(output)


def _place(source: SliceSource, output: Path, writing: WriteSettings) -> Path:
    """Where the result lies: the folder of the derived series, or the volume's file."""
    return output if _is_dicom(source, output, writing) else volume_place(source, output, _uid(source, writing))


def _uid(source: SliceSource, writing: WriteSettings) -> str:
    """What files and folders are named by: where the patient is taken out, nothing that tells whose it was."""
    return public_uid(source.uid) if writing.deidentify else source.uid


def _refuse_settings(source: SliceSource, writing: WriteSettings) -> None:
    """Refuse of a volume what can only be done to DICOM, and would be believed."""
    if not isinstance(source, Series) and writing.format == "dicom":
        raise ConfigError(
            f"{source.name}: not DICOM, so no DICOM series can be derived from it; leave out --format"
        )
    if not isinstance(source, Series) and writing.deidentify:
        raise ConfigError(f"{source.name}: not DICOM, so --deidentify cannot tell what is in it; leave it out")


def _refuse_idle(name: str, jobs: Iterable[tuple[SliceSource, Path]], writing: WriteSettings) -> None:
    """Refuse settings of DICOM output where none of the series (each with its output) becomes DICOM."""
    given = {
        "--compress": writing.compress is not None,
        "--private drop": writing.private == "drop",
        "--keep-scanner-equipment": writing.keep_scanner_equipment,
        "--classic": writing.classic,
    }
    idle = [name for name, is_given in given.items() if is_given]
    if writing.format == "dicom":  # each volume is refused for that
        return
    if idle and not any(_is_dicom(source, output, writing) for source, output in jobs):
        raise ConfigError(f"{name}: {', '.join(idle)}: for DICOM output only; leave it out")


def _refuse_burned_in(source: SliceSource, output: Path, writing: WriteSettings) -> None:
    """Of volumes, whose writer sees no header; the DICOM writer looks for itself."""
    if writing.deidentify and isinstance(source, Series) and not _is_dicom(source, output, writing):
        for index in range(len(source)):
            refuse_burned_in(source.header(index))


def _refuse_report(place: Path, writing: WriteSettings) -> None:
    report = _report_path(place)
    if writing.report and report.exists() and not writing.overwrite:
        raise OutputError(f"{report}: exists; move it away, or give --overwrite or another output")


def _write_dicom(
    source: Series, slices: Slices, output: Path, derivation: Derivation, writing: WriteSettings
) -> Path:
    with (
        DerivedWriter(
            source,
            output,
            derivation,
            overwrite=writing.overwrite,
            compress=writing.compress,
            private=writing.private,
            keep_scanner_equipment=writing.keep_scanner_equipment,
            classic=writing.classic,
            deidentify=writing.deidentify,
            created=writing.created,
        ) as writer,
        ThreadPoolExecutor(1, thread_name_prefix="write") as pool,
    ):
        waiting: deque[Future[None]] = deque()
        for index, hu in slices:
            waiting.append(pool.submit(writer.write, index, hu))
            if len(waiting) > WRITE_BEHIND:
                waiting.popleft().result()
        for written in waiting:
            written.result()
    return output


def _write_file(
    source: SliceSource, slices: Slices, output: Path, model_name: str, writing: WriteSettings
) -> Path:
    path = _place(source, output, writing)
    like = source.path if isinstance(source, FileSeries) else None
    hu = (image for _, image in slices)
    write_volume(path, hu, source.geometry, like=like, denoised=model_name, overwrite=writing.overwrite)
    return path


def _write_report(source: SliceSource, written: Path, model: TrainedModel, settings: ApplySettings) -> None:
    """The report of a series that is there; whatever fails, the series stays."""
    from ldct_denoise.report.apply import write_apply_report

    told = {"model": model.name, "checksum": model.checksum[:16], "strength": settings.strength}
    told |= derivation_of(model, settings).settings
    try:
        restored = find_images(written, include_derived=True).series[0]
        write_apply_report(source, restored, _report_path(written), told)
    except (LdctDenoiseError, ValueError, OSError) as error:
        missing = f"{written}: written, but not its report ({one_line(error)}); mend that or leave out --report"
        raise PartialError(missing, (), (written,)) from error


def _report_path(written: Path) -> Path:
    return written.with_name(f"{written.name}-report.html")


def derivation_of(model: TrainedModel, settings: ApplySettings) -> Derivation:
    """What the derived series says of how it was made."""
    return Derivation(
        model_name=model.name,
        model_checksum=model.checksum,
        strength=settings.strength,
        low_hu=model.scale.low_hu,
        high_hu=model.scale.high_hu,
        neighbours=model.method.neighbours,
        settings={"precision": settings.precision, "seed": str(settings.seed)}
        | ({"ensemble": "mean of 8 flips and turns"} if settings.ensemble else {}),
    )


def _counted(slices: Slices, source: SliceSource, progress: Progress) -> Slices:
    for done, item in enumerate(slices, 1):
        yield item
        progress(done, len(source), source.name)


def apply(
    path: Path,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings = DEFAULTS,
    writing: WriteSettings = WriteSettings(),
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
    share = share_of_work()
    progress = progress if share.rank == 0 else _silent
    inventory = find_images(path, lambda done, total: progress(done, total, "files looked at"))
    series = inventory.series
    if not series:
        raise InputError(f"{path}: no CT series to denoise{_why_none(inventory)}")
    for note in inventory.notes(path) if share.rank == 0 else ():
        tell(note)
    if len(series) == 1:
        if share.rank:
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
    tree.failures = [] if share.rank else inventory.lost_slices
    return tree.run(share, progress, tell)


def _why_none(inventory: Inventory) -> str:
    aside = inventory.set_aside
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
        self.jobs = list(zip(series, folders(output, (_uid(source, writing) for source in series)), strict=True))
        self.ledger = Ledger.beside(output)
        self.written: list[Path] = []
        self.failures: list[str] = []

    def run(self, share: Share, progress: Progress, tell: Callable[[str], None]) -> list[Path]:
        """Do this process's share, wait for the others, and tell what failed."""
        mine = self.jobs[share.rank :: share.size]
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
        self._conclude(share, gather((len(there), len(mine), self.failures)), there)
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
        self, share: Share, outcomes: Sequence[tuple[int, int, list[str]]], there: Sequence[Path]
    ) -> None:
        """Raise what all processes together could not do; of several that know of each other, the first does."""
        if len(outcomes) > 1 and share.rank:
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
        if w.private != "keep" or w.keep_scanner_equipment:  # which the series itself does not tell
            return False
        if not holds_derived(
            place, source, derivation, compress=w.compress, classic=w.classic, deidentify=w.deidentify
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
