"""A model over a patient series: read, restore, guard, write, slice by slice.

While the network works on one slice the next are read and the last is written, and never more than a few are held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ldct_denoise.checkpoint import TrainedModel
from ldct_denoise.distributed import choose_device
from ldct_denoise.errors import ConfigError, InputError, LdctDenoiseError, OutputError, PartialError
from ldct_denoise.intensity import Scale
from ldct_denoise.io.derive import Derivation, DerivedWriter
from ldct_denoise.io.dicom import Series
from ldct_denoise.io.files import FileSeries, write_volume
from ldct_denoise.io.find import find_images
from ldct_denoise.volume import SliceSource

Progress = Callable[[int, int, str], None]
Slices = Iterator[tuple[int, NDArray[np.float32]]]
#: Slices read ahead of the network.
READ_AHEAD = 4
#: Slices that go through a GPU at once.
GPU_BATCH = 8


@dataclass(frozen=True)
class ApplySettings:
    """How a model is used.

    Parameters
    ----------
    strength : float
        0 gives the input back, 1 the model's output; between, a blend of the two.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    precision : str
        ``fp32``, or ``bf16`` for speed where the device gains from it.
    seed : int
        For models that draw random numbers.
    guard_range : bool
        Leave pixels outside the model's HU range as they are; off for noisy photographs, whose noise leaves it.

    Raises
    ------
    ConfigError
        If the strength is not in 0…1.
    """

    strength: float = 1.0
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    guard_range: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strength {self.strength:g}: give a number from 0 (input) to 1 (model)")


def restore_slices(source: SliceSource, model: TrainedModel, settings: ApplySettings = ApplySettings()) -> Slices:
    """Every slice, restored, in order; memory stays flat.

    Parameters
    ----------
    source : SliceSource
    model : TrainedModel
    settings : ApplySettings

    Yields
    ------
    int
        Index of the slice.
    ndarray, shape (rows, columns), float32
        HU. Pixels outside the model's HU range are the input's own.
    """
    if settings.strength == 0:
        yield from ((index, source.read_hu(index)) for index in range(len(source)))
        return
    device = choose_device(settings.device)
    method = model.method.to(device).eval()
    scale, strength = model.scale, np.float32(settings.strength)
    for group in _groups(_read_ahead(source), GPU_BATCH if device.type == "cuda" else 1):
        stack = np.stack([hu for _, hu in group])
        seen = np.clip(stack, scale.low_hu, scale.high_hu) if settings.guard_range else stack
        correction = _restore(method, scale, seen, device, settings) - seen
        if settings.guard_range:
            correction[~scale.covers(stack)] = 0
        for (index, hu), change in zip(group, correction, strict=True):
            yield index, hu + strength * change


@torch.inference_mode()
def _restore(
    method: torch.nn.Module, scale: Scale, hu: NDArray[np.float32], device: torch.device, settings: ApplySettings
) -> NDArray[np.float32]:
    """HU stack (n, rows, columns) through the method."""
    image = torch.from_numpy(scale.to_unit(hu).astype(np.float32))[:, None].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        restored = method.restore(image, settings.seed)  # type: ignore[operator]
    result: NDArray[np.float32] = scale.to_hu(restored.float())[:, 0].cpu().numpy()
    return result


def _read_ahead(source: SliceSource) -> Slices:
    """Slices in order, the next few being read while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        waiting: deque[tuple[int, Future[NDArray[np.float32]]]] = deque()
        for index in range(len(source)):
            waiting.append((index, pool.submit(source.read_hu, index)))
            if len(waiting) > READ_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _groups(
    items: Iterable[tuple[int, NDArray[np.float32]]], size: int
) -> Iterator[list[tuple[int, NDArray[np.float32]]]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


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
    """

    format: Literal["dicom", "nifti"] | None = None
    overwrite: bool = False
    report: bool = False
    compress: Literal["jpegls", "j2k", "rle"] | None = None
    private: Literal["keep", "drop"] = "keep"
    keep_scanner_equipment: bool = False
    classic: bool = False
    deidentify: bool = False


def apply_series(
    source: SliceSource,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings = ApplySettings(),
    writing: WriteSettings = WriteSettings(),
    progress: Progress = lambda done, total, name: None,
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
    slices = _counted(restore_slices(source, model, settings), source, progress)
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
    with DerivedWriter(
        source,
        output,
        derivation,
        overwrite=writing.overwrite,
        compress=writing.compress,
        private=writing.private,
        keep_scanner_equipment=writing.keep_scanner_equipment,
        classic=writing.classic,
        deidentify=writing.deidentify,
    ) as writer:
        for index, hu in slices:
            writer.write(index, hu)
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
    write_apply_report(source, restored, written.with_name(f"{written.name}-report.html"), told)


def derivation_of(model: TrainedModel, settings: ApplySettings) -> Derivation:
    """What the derived series says of how it was made."""
    return Derivation(
        model_name=model.name,
        model_checksum=model.checksum,
        strength=settings.strength,
        low_hu=model.scale.low_hu,
        high_hu=model.scale.high_hu,
        settings={"precision": settings.precision, "seed": str(settings.seed)},
    )


def _counted(slices: Iterator[tuple[int, NDArray[np.float32]]], source: SliceSource, progress: Progress) -> Slices:
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
    settings: ApplySettings = ApplySettings(),
    writing: WriteSettings = WriteSettings(),
    progress: Progress = lambda done, total, name: None,
) -> list[Path]:
    """Denoise every CT series under ``path``.

    Parameters
    ----------
    path : Path
        A DICOM folder, file or tree, or a volume file.
    output : Path
        Where the series goes; with several, each gets a subfolder named by its Series Instance UID.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        If there is no CT series.
    PartialError
        If some series could not be denoised; the others were.
    """
    inventory = find_images(path)
    series = inventory.series
    if not series:
        reason = (
            f": {inventory.set_aside[0].path.name}: {inventory.set_aside[0].reason}" if inventory.set_aside else ""
        )
        raise InputError(f"{path}: no CT series to denoise{reason}")
    if len(series) == 1:
        return [apply_series(series[0], model, output, settings, writing, progress)]
    written, failures = [], []
    for source, place in zip(series, _places(series, output), strict=True):
        try:
            written.append(apply_series(source, model, place, settings, writing, progress))
        except LdctDenoiseError as error:
            failures.append(f"{source.name}: {error}")
    if failures and not written:
        raise (
            OutputError(failures[0])
            if len(failures) == 1
            else InputError(f"{path}: no series was denoised; {failures[0]}")
        )
    if failures:
        raise PartialError(f"{path}: {len(written)} of {len(series)} series denoised", failures)
    return written


def _places(series: Iterable[SliceSource], output: Path) -> Iterator[Path]:
    """A folder for each series; several stacks of one UID are numbered."""
    seen: dict[str, int] = {}
    for source in series:
        count = seen[source.uid] = seen.get(source.uid, 0) + 1
        yield output / (source.uid if count == 1 else f"{source.uid}-{count}")
