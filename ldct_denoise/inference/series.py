"""A model over patient series: read, restore, guard, write; one series, or a tree of thousands.

While the network works on one slice the next are read and the last are written; never more than a few are held.
A tree is taken up where an earlier run stopped, and shared by the processes that torchrun or Slurm started.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from ldct_denoise.errors import ConfigError, LdctDenoiseError, OutputError, PartialError
from ldct_denoise.inference.slices import (
    DEFAULTS,
    ApplySettings,
    Progress,
    Slices,
    report_fit_progress,
    restore_slices,
)
from ldct_denoise.io.derived.attributes import Derivation
from ldct_denoise.io.derived.deidentify import public_uid, refuse_burned_in
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.quiet import short_message
from ldct_denoise.io.volume_files import FileSeries, is_volume_file, volume_place, write_volume
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.volume import SliceSource

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
    private_tags : str
        ``keep`` or ``remove`` private attributes.
    keep_manufacturer : bool
        Leave the scanner in General Equipment; we are then the contributing equipment.
    convert_enhanced : bool
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
    private_tags: Literal["keep", "remove"] = "keep"
    keep_manufacturer: bool = False
    convert_enhanced: bool = False
    deidentify: bool = False
    created: datetime | None = None


DEFAULT_WRITING = WriteSettings()


def apply_series(
    source: SliceSource,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings = DEFAULTS,
    writing: WriteSettings = DEFAULT_WRITING,
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
    with report_fit_progress([model], progress, (0, len(source), source.name)) as tell:
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
        "--private-tags remove": writing.private_tags == "remove",
        "--keep-manufacturer": writing.keep_manufacturer,
        "--convert-enhanced": writing.convert_enhanced,
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
            private_tags=writing.private_tags,
            keep_manufacturer=writing.keep_manufacturer,
            convert_enhanced=writing.convert_enhanced,
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
        missing = (
            f"{written}: written, but not its report ({short_message(error)}); mend that or leave out --report"
        )
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
        neighbours=model.method.context_slices,
        settings={"precision": settings.precision, "seed": str(settings.seed)}
        | ({"tta": "mean of 8 flips and rotations"} if settings.tta else {}),
    )


def _counted(slices: Slices, source: SliceSource, progress: Progress) -> Slices:
    for done, item in enumerate(slices, 1):
        yield item
        progress(done, len(source), source.name)
