"""A model over patient series: read, restore, guard, write; one series, or a tree of thousands.

While the network works on one slice the next are read and the last are written; never more than a few are held.
A tree is taken up where an earlier run stopped, and shared by the processes that torchrun or Slurm started.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ldct_denoise.checkpoint import TrainedModel
from ldct_denoise.distributed import Share, gather, share_of_work
from ldct_denoise.errors import ConfigError, InputError, LdctDenoiseError, PartialError
from ldct_denoise.io.derive import Derivation, DerivedWriter, holds_derived
from ldct_denoise.io.dicom import Inventory, Series
from ldct_denoise.io.files import FileSeries, write_volume
from ldct_denoise.io.find import find_images
from ldct_denoise.ledger import Entry, Ledger, count_files
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
        ``dicom`` or ``nifti``; by default the input's own.
    overwrite : bool
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
        Take the patient out (PS3.15 E.2).
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
    InputError, OutputError, ModelError
    """
    with fits_told([model], progress, (0, len(source), source.name)) as tell:
        slices = _counted(restore_slices(source, model, settings), source, tell)
        if isinstance(source, Series) and writing.format != "nifti":
            path = _write_dicom(source, slices, output, derivation_of(model, settings), writing)
        else:
            path = _write_file(source, slices, output, writing)
    if writing.report:
        _write_report(source, path, model, settings)
    return path


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


def _write_file(source: SliceSource, slices: Slices, output: Path, writing: WriteSettings) -> Path:
    if writing.format == "dicom":
        raise ConfigError(
            f"{source.name}: not DICOM, so no DICOM series can be derived from it; leave out --format"
        )
    path = _volume_path(source, output)
    like = source.path if isinstance(source, FileSeries) else None
    write_volume(path, (hu for _, hu in slices), source.geometry, like=like, overwrite=writing.overwrite)
    return path


def _write_report(source: SliceSource, written: Path, model: TrainedModel, settings: ApplySettings) -> None:
    from ldct_denoise.report.apply import write_apply_report

    restored = find_images(written, include_derived=True).series[0]
    told = {"model": model.name, "checksum": model.checksum[:16], "strength": settings.strength}
    told |= derivation_of(model, settings).settings
    write_apply_report(source, restored, _report_path(written), told)


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
        settings={"precision": settings.precision, "seed": str(settings.seed)}
        | ({"ensemble": "mean of 8 flips and turns"} if settings.ensemble else {}),
    )


def _counted(slices: Slices, source: SliceSource, progress: Progress) -> Slices:
    for done, item in enumerate(slices, 1):
        yield item
        progress(done, len(source), source.name)


def _volume_path(source: SliceSource, output: Path) -> Path:
    """A volume's output: ``output`` itself where it names a volume file, else a file in it named as the input."""
    suffixes = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
    if output.name.lower().endswith(suffixes):
        return output
    name = source.path.name if isinstance(source, FileSeries) else f"{source.uid}.nii.gz"
    return output / name


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
        Where the series goes; with several, each gets a subfolder named by its Series Instance UID.
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
        If some series could not be denoised; the others were.
    """
    share = share_of_work()
    progress = progress if share.rank == 0 else _silent
    inventory = find_images(path, lambda done, total: progress(done, total, "files looked at"))
    series = inventory.series
    if not series:
        raise InputError(f"{path}: no CT series to denoise{_why_none(inventory)}")
    if inventory.set_aside and share.rank == 0:
        tell(f"{len(inventory.set_aside)} files are left out; `ldct-denoise inspect {path}` says why")
    if len(series) == 1:
        if share.rank:
            return []
        return [apply_series(series[0], model, output, settings, writing, progress)]
    return _Tree(path, series, model, output, settings, writing).run(share, progress, tell)


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
        self.jobs = list(zip(series, _places(series, output), strict=True))
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
        self._conclude(share, gather((len(mine) - len(self.failures), self.failures)))
        places = {place for _, place, _ in todo}
        return [self._written(*job) for job in mine if job[1] not in places] + self.written

    def _try(self, source: SliceSource, place: Path, done: bool, progress: Progress) -> None:
        """One series; a failure is kept for the end, whatever it is, so that the others are done."""
        try:
            if not done:
                written = apply_series(source, self.model, place, self.settings, self.writing, progress)
                self.ledger.add(self._entry(source, written))
            else:
                written = self._written(source, place)
                _write_report(source, written, self.model, self.settings)
        except LdctDenoiseError as error:
            self.failures.append(f"{source.name}: {error}")
        except Exception as error:
            _log.debug("series %s", source.uid, exc_info=True)
            reason = (str(error).splitlines() or [""])[0]
            self.failures.append(f"{source.name}: {type(error).__name__} {reason}")
        else:
            self.written.append(written)

    def _conclude(self, share: Share, outcomes: Sequence[tuple[int, list[str]]]) -> None:
        """Raise what all processes together could not do; of several that know of each other, the first does."""
        if len(outcomes) > 1 and share.rank:
            return
        done = sum(count for count, _ in outcomes)
        failures = [line for _, lines in outcomes for line in lines]
        if failures and not done:
            error = InputError(f"{self.path}: none of {len(failures)} series was denoised")
            error.failures = tuple(failures)
            raise error
        if failures:
            raise PartialError(f"{self.path}: {done} of {done + len(failures)} series denoised", failures)

    # ---- what is done ---------------------------------------------------------------------------------------

    def _is_wanted(self, source: SliceSource, place: Path, done: bool) -> bool:
        """Whether there is something to do."""
        if not done:
            return True
        return self.writing.report and not _report_path(self._written(source, place)).is_file()

    def _is_done(self, source: SliceSource, place: Path) -> bool:
        """By the ledger, or the derived series itself where the ledger does not know; never with --overwrite."""
        if self.writing.overwrite:
            return False
        if self.ledger.is_done(self._key(source)):
            return True
        if not isinstance(source, Series) or self.writing.format == "nifti":
            return False
        w, derivation = self.writing, derivation_of(self.model, self.settings)
        if not holds_derived(
            place, source, derivation, compress=w.compress, classic=w.classic, deidentify=w.deidentify
        ):
            return False
        self.ledger.add(self._entry(source, place))
        return True

    def _written(self, source: SliceSource, place: Path) -> Path:
        """Where the result lies."""
        is_dicom = isinstance(source, Series) and self.writing.format != "nifti"
        return place if is_dicom else _volume_path(source, place)

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

    def _entry(self, source: SliceSource, written: Path) -> Entry:
        place = Path(written).absolute().relative_to(self.ledger.path.parent)
        return Entry(
            key=self._key(source),
            series=source.uid,
            model=self.model.name,
            checksum=self.model.checksum,
            settings=self._told(),
            output=str(place),
            files=count_files(written),
        )


def _part(progress: Progress, before: int, total: int, name: str) -> Progress:
    """Progress of one series as part of the whole."""
    return lambda done, _, what: progress(before + done, total, f"{name} {what}")


def _places(series: Iterable[SliceSource], output: Path) -> Iterator[Path]:
    """A folder for each series; several stacks of one UID are numbered."""
    seen: dict[str, int] = {}
    for source in series:
        count = seen[source.uid] = seen.get(source.uid, 0) + 1
        yield output / (source.uid if count == 1 else f"{source.uid}-{count}")
