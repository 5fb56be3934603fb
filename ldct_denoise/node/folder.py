"""One step of a DICOM router: an input folder, an output folder, an exit status.

The contract of mercure's processing modules: images lie flat in one folder together with ``task.json``, whose
``process.settings`` an administrator wrote; results must lie flat in the other folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, ValidationError

from ldct_denoise.errors import (
    ConfigError,
    InputError,
    LdctDenoiseError,
    OutputError,
    PartialError,
)
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import DEVICE_PATTERN
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.staging import StagedFolder
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.models.trained import DEFAULT_MODEL, load_model
from ldct_denoise.node.log_privacy import log, suppress_library_logs
from ldct_denoise.node.rules import DenoiseSettings
from ldct_denoise.setting_errors import setting_problem

TASK_FILE = "task.json"


class StepSettings(DenoiseSettings):
    """Settings that a router's administrator may give."""

    device: str = Field("auto", pattern=DEVICE_PATTERN, description="where to compute")


def step_settings(folder: Path, **overrides: object) -> StepSettings:
    """Read the settings in the folder's ``task.json``.

    Parameters
    ----------
    folder : Path
        The input folder.
    **overrides : object
        Settings that replace those of the file, unless they are None.

    Raises
    ------
    ConfigError
        If the file is no such task, or a setting is unknown or impossible.
    """
    path = folder / TASK_FILE
    settings: dict[str, object] = {}
    if path.is_file():
        try:
            task = json.loads(path.read_text(encoding="utf-8"))
            settings = dict((task.get("process") or {}).get("settings") or {})
        except (ValueError, AttributeError, TypeError, OSError):
            raise ConfigError(f"{path}: no task as mercure writes it") from None
    settings.update({name: value for name, value in overrides.items() if value is not None})
    try:
        return StepSettings(**settings)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(f"{path}: {setting_problem(error, StepSettings, prefix='process.settings')}") from None


@suppress_library_logs()
def denoise_folder(source: Path, output: Path, settings: StepSettings) -> list[Path]:
    """Denoise every CT series of a folder; the derived images lie flat in ``output``.

    Parameters
    ----------
    source : Path
        The input folder.
    output : Path
        The output folder; created where it is missing. Other files in it are left alone.
    settings : StepSettings

    Returns
    -------
    list of Path
        The images written.

    Raises
    ------
    InputError
        If there is no CT series, or none could be denoised.
    PartialError
        If some series could not be denoised, and others were.
    OutputError
        If ``output`` cannot be written, or holds denoised images already.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    found = scan(source, assume_hu=settings.assume_hu)
    if not found.series:
        reasons = sorted({item.reason for item in found.skipped if item.path.name != TASK_FILE})
        detail = f" ({'; '.join(reasons)})" if reasons else ""
        raise InputError(f"{source}: no CT series to denoise{detail}")
    model = load_model(settings.model or DEFAULT_MODEL)
    apply_settings = settings.apply_settings(settings.device)
    write_settings = WriteSettings(compress=settings.compress)
    written: list[Path] = []
    failures: list[str] = []
    with _staging_folder(output) as staging:
        for number, series in enumerate(found.series, 1):
            folder = staging / str(number)
            try:
                apply_series(
                    series, model, folder, apply_settings, write_settings,
                    notify=lambda warning, uid=series.uid: log.warning("series %s: %s", uid, warning),  # type: ignore[misc]
                )  # fmt: skip
                written += _move_flat(folder, output, series.uid, len(written))
            except LdctDenoiseError as error:
                failures.append(str(error))
    if failures and not written:
        raise InputError(f"{source}: no series was denoised; {failures[0]}")
    if failures:
        done = f"{len(found.series) - len(failures)} of {len(found.series)} series denoised"
        raise PartialError(f"{source}: {done}", failures, written)
    return written


@contextmanager
def _staging_folder(output: Path) -> Iterator[Path]:
    """Context manager: a hidden folder on the output's disk, so that images appear in the output by renaming."""
    if any(output.glob("*-denoised#*.dcm")):
        raise OutputError(f"{output}: holds denoised images already; give an empty folder")
    staged = StagedFolder(output / "step", overwrite=False)
    try:
        yield staged.path
    finally:
        staged.discard()


def _move_flat(folder: Path, output: Path, uid: str, count: int) -> list[Path]:
    """Move a series' images to ``output``; routers group files by the part before ``#``, here the series.

    Parameters
    ----------
    folder, output : Path
    uid : str
        UID of the source series.
    count : int
        Number of images moved before.
    """
    files = sorted(folder.glob("*.dcm"))
    return [
        file.rename(output / f"{uid}-denoised#{number:05d}.dcm") for number, file in enumerate(files, count + 1)
    ]
