"""The step of a router: an input folder, an output folder, an exit status.

The contract of mercure's processing modules: images lie flat in one folder beside ``task.json``, whose
``process.settings`` an administrator wrote; results are to lie flat in the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ldct_denoise.errors import ConfigError, InputError, LdctDenoiseError, OutputError, PartialError
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.staging import StagedFolder
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.models.trained import DEFAULT_MODEL, load_model
from ldct_denoise.node.log_privacy import suppress_library_logs

TASK_FILE = "task.json"


class StepSettings(BaseModel):
    """What a router's administrator may set."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = DEFAULT_MODEL
    strength: float = Field(1.0, ge=0, le=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    compress: Literal["jpegls", "j2k", "rle"] | None = None


def step_settings(folder: Path, **given: object) -> StepSettings:
    """Settings from the folder's ``task.json``; what is given (and not None) goes before it.

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
    settings.update({name: value for name, value in given.items() if value is not None})
    try:
        return StepSettings(**settings)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(StepSettings.model_fields)
        raise ConfigError(f"{path}: process.settings.{key}: {first['msg']} (known: {known})") from None


@suppress_library_logs()
def denoise_folder(source: Path, output: Path, settings: StepSettings) -> list[Path]:
    """Denoise every CT series of a folder; the derived images lie flat in ``output``.

    Parameters
    ----------
    source, output : Path
        ``output`` exists, as routers make it, or is made. Other files in it are left alone.
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
        If some could not be denoised; the others were.
    OutputError
        If ``output`` cannot be written.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder")
    found = scan(source)
    series = [item for item in found.series if isinstance(item, Series)]
    if not series:
        why = sorted({item.reason for item in found.skipped if item.path.name != TASK_FILE})
        raise InputError(f"{source}: no CT series to denoise" + (f" ({'; '.join(why)})" if why else ""))
    model = load_model(settings.model)
    applying = ApplySettings(settings.strength, settings.device, settings.precision)
    written: list[Path] = []
    failures: list[str] = []
    with _inside(output) as place:
        for number, item in enumerate(series, 1):
            folder = place / str(number)
            try:
                apply_series(item, model, folder, applying, WriteSettings(compress=settings.compress))
                written += _flat(folder, output, item.uid, len(written))
            except LdctDenoiseError as error:
                failures.append(str(error))
    if failures and not written:
        raise InputError(f"{source}: no series was denoised; {failures[0]}")
    if failures:
        done = f"{len(series) - len(failures)} of {len(series)} series denoised"
        raise PartialError(f"{source}: {done}", failures, written)
    return written


@contextmanager
def _inside(output: Path) -> Iterator[Path]:
    """A hidden folder on the output's disk, so that images appear by renaming; what a killed step left goes."""
    if any(output.glob("*-denoised#*.dcm")):
        raise OutputError(f"{output}: holds denoised images already; give an empty folder")
    staged = StagedFolder(output / "step", overwrite=False)
    try:
        yield staged.path
    finally:
        staged.discard()


def _flat(folder: Path, output: Path, uid: str, before: int) -> list[Path]:
    """Routers group files by what stands before ``#``: the series."""
    files = sorted(folder.glob("*.dcm"))
    return [
        file.rename(output / f"{uid}-denoised#{number:05d}.dcm") for number, file in enumerate(files, before + 1)
    ]
