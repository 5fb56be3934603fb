"""Denoise one series and write it.

While the network processes one slice, the next are read and the last are written; only a few are in memory.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError, LdctDenoiseError, OutputError, PartialError
from ldct_denoise.inference.settings import DEFAULT_APPLY_SETTINGS, ApplySettings
from ldct_denoise.inference.slices import Progress, Slices, report_fit_progress, restore_slices
from ldct_denoise.inference.stage_times import StageTimes
from ldct_denoise.io.derived.derivation import ASSUMED_UNIT, Derivation
from ldct_denoise.io.quiet import short_message
from ldct_denoise.io.write_settings import DEFAULT_WRITE_SETTINGS, WriteSettings
from ldct_denoise.io.writer import check_dicom_settings, open_writer, output_location
from ldct_denoise.models.envelope import measure_series, outside
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.volume import SliceSource

#: Writes a report on a denoised series; called with the source, the result's location and the report's path.
WriteReport = Callable[[SliceSource, Path, Path], object]
#: Largest number of slices that wait to be written.
WRITE_BEHIND = 4

_log = logging.getLogger(__name__)


def _silent(done: int, total: int, note: str) -> None:
    pass


def apply_series(
    source: SliceSource,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings = DEFAULT_APPLY_SETTINGS,
    writing: WriteSettings = DEFAULT_WRITE_SETTINGS,
    *,
    write_report: WriteReport | None = None,
    progress: Progress = _silent,
    notify: Callable[[str], None] | None = None,
    on_image: Callable[[Path], None] | None = None,
) -> Path:
    """Check one series against the model, denoise it and write it.

    Parameters
    ----------
    source : SliceSource
    model : TrainedModel
    output : Path
        Folder of the derived DICOM series, or a volume file or its folder.
    settings : ApplySettings
        How the model is applied.
    writing : WriteSettings
        How the result is written.
    write_report : callable, optional
        Writes a report on the result to ``<result>-report.html``; called with the source, the result's location
        and the report's path.
    progress : callable
        Called with (slices done, number of slices, name of the series).
    notify : callable, optional
        Called with each warning; see :func:`input_warnings`. Without it and without ``settings.strict``, nothing
        is measured for them.
    on_image : callable, optional
        Called with every derived DICOM image of one slice as soon as it is complete, before it is in ``output``.

    Returns
    -------
    Path
        The folder of the derived series, or the volume file.

    Raises
    ------
    ConfigError, InputError, OutputError, ModelError
        If nothing was written.
    PartialError
        If the series was written, but not its report.
    """
    check_dicom_settings(source.name, [(source, output)], writing)
    if notify is not None or settings.strict:
        checked_warnings(source, model, settings, notify)
    if write_report is not None:
        check_report(output_location(source, output, writing), writing)
    location = denoise_series(source, model, output, settings, writing, progress, on_image)
    if write_report is not None:
        report_series(source, location, write_report)
    return location


def denoise_series(
    source: SliceSource,
    model: TrainedModel,
    output: Path,
    settings: ApplySettings,
    writing: WriteSettings,
    progress: Progress = _silent,
    on_image: Callable[[Path], None] | None = None,
) -> Path:
    """Denoise one series and write it, without a report.

    Parameters
    ----------
    source : SliceSource
    model : TrainedModel
    output : Path
    settings : ApplySettings
    writing : WriteSettings
    progress : callable
        Called with (slices done, number of slices, name of the series).
    on_image : callable, optional
        See :func:`apply_series`.

    Returns
    -------
    Path
        The folder of the derived series, or the volume file.

    Raises
    ------
    ConfigError, InputError, OutputError, ModelError
        If nothing was written.
    """
    total, times = len(source), StageTimes()
    with (
        open_writer(source, output, derivation_of(model, settings), writing) as writer,
        report_fit_progress([model], progress, (0, total, source.name)) as report,
    ):
        _write_slices(
            times.timed("write", writer.write),
            restore_slices(source, model, settings, times=times),
            lambda done: report(done, total, source.name),
            on_image,
        )
    _log.info("%d slices: %s, side by side", total, times)
    return writer.location


def input_warnings(source: SliceSource, model: TrainedModel, settings: ApplySettings) -> list[str]:
    """Problems of a series, and how it differs from the images that the model was trained on.

    Parameters
    ----------
    source : SliceSource
        A few slices are measured, unless the output is the input.
    model : TrainedModel
        Its card holds the envelope of its training images.
    settings : ApplySettings

    Returns
    -------
    list of str
        One line for each problem, and at most one about the model.
    """
    found = list(source.metadata.problems)
    if len(source) == 1:
        found.append("a series of one slice")
    if 0 in (settings.strength, settings.noise_reduction):
        return found
    envelope = model.card.get("envelope", {})
    differences = outside(envelope, measure_series(source)) if envelope else []
    if differences:
        found.append(f"outside what {model.name} was trained on: {'; '.join(differences)}")
    return found


def checked_warnings(
    source: SliceSource, model: TrainedModel, settings: ApplySettings, notify: Callable[[str], None] | None
) -> list[str]:
    """Report the warnings about a series, or refuse it for them where ``settings.strict`` is set.

    Parameters
    ----------
    source : SliceSource
    model : TrainedModel
    settings : ApplySettings
    notify : callable, optional
        Called with each warning.

    Returns
    -------
    list of str
        The warnings of :func:`input_warnings`.

    Raises
    ------
    InputError
        Naming the warnings, where ``settings.strict`` is set.
    """
    warnings = input_warnings(source, model, settings)
    if settings.strict and warnings:
        raise InputError(f"{source.name}: {'; '.join(warnings)}; refused by --strict")
    if notify is not None:
        for warning in warnings:
            notify(warning)
    return warnings


def derivation_of(model: TrainedModel, settings: ApplySettings) -> Derivation:
    """Description of how a model's result came about, for derived images and reports."""
    strength = settings.plain_strength(model.keeps_texture)
    amount = "" if strength is not None else amount_of(settings)
    return Derivation(
        model_name=model.name,
        model_checksum=model.checksum,
        strength=1.0 if strength is None else strength,
        amount=amount,
        low_hu=model.scale.low_hu,
        high_hu=model.scale.high_hu,
        context_slices=model.method.context_slices,
        settings={"precision": settings.precision, "seed": str(settings.seed)}
        | ({"tta": "mean of 8 flips and rotations"} if settings.tta else {})
        | ({"unit": ASSUMED_UNIT} if settings.assume_hu else {}),
    )


def amount_of(settings: ApplySettings) -> str:
    """How much noise is reduced where noise is blended by frequency and tissue, in words."""
    if settings.noise_reduction is None:
        return "normal-dose texture"
    return f"{settings.noise_reduction:g}% less noise"


def report_path(location: Path) -> Path:
    """Path of the report on the result at ``location``."""
    return location.with_name(f"{location.name}-report.html")


def check_report(location: Path, writing: WriteSettings) -> None:
    """Refuse a report that exists, before anything is computed.

    Raises
    ------
    OutputError
        If it exists and ``writing.overwrite`` is not set.
    """
    report = report_path(location)
    if report.exists() and not writing.overwrite:
        raise OutputError(f"{report}: already exists; use --overwrite, or choose another output")


def report_series(source: SliceSource, location: Path, write_report: WriteReport) -> None:
    """Write the report on a result that exists; whatever fails, the result stays.

    Parameters
    ----------
    source : SliceSource
    location : Path
        The folder of the derived series, or the volume file.
    write_report : callable
        Called with the source, ``location`` and the report's path.

    Raises
    ------
    PartialError
        If the report cannot be written.
    """
    try:
        write_report(source, location, report_path(location))
    except (LdctDenoiseError, ValueError, OSError) as error:
        missing = f"{location}: written, but not its report ({short_message(error)}); fix that or omit --report"
        raise PartialError(missing, (), (location,)) from error


def _write_slices(
    write: Callable[[int, NDArray[np.float32]], Path | None],
    slices: Slices,
    progress: Callable[[int], None],
    on_image: Callable[[Path], None] | None,
) -> None:
    """Write slices in a separate thread, at most :data:`WRITE_BEHIND` behind the network."""
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        waiting: deque[Future[Path | None]] = deque()

        def finish() -> None:
            image = waiting.popleft().result()
            if image is not None and on_image is not None:
                on_image(image)

        for done, (index, hu) in enumerate(slices, 1):
            waiting.append(pool.submit(write, index, hu))
            if len(waiting) > WRITE_BEHIND:
                finish()
            progress(done)
        while waiting:
            finish()
