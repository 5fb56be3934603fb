"""Apply a model to the slices of a series, with read-ahead, batching, range guard and blending."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldct_denoise.context_slices import StackReader
from ldct_denoise.distributed import choose_device, worker_from_environment
from ldct_denoise.errors import ModelError
from ldct_denoise.inference.noise_blend import MEASURED_SLICES, blend_slice, measure_noise_transfer
from ldct_denoise.inference.settings import DEFAULT_APPLY_SETTINGS, ApplySettings
from ldct_denoise.inference.stage_times import StageTimes
from ldct_denoise.intensity import Scale
from ldct_denoise.io.process_limits import keep_freed_memory
from ldct_denoise.methods.base import Method
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.volume import SliceSource, spread_indices

#: Slice indices and images in HU.
Slices = Iterator[tuple[int, NDArray[np.float32]]]
#: Called with (slices done, number of slices, note).
Progress = Callable[[int, int, str], None]
#: Slices read ahead of the network.
READ_AHEAD = 4
#: Slices that wait to be blended with their input.
BLEND_BEHIND = 1
#: Slices in one batch on a GPU.
GPU_BATCH = 8
#: Largest accepted mean absolute difference of bf16 from fp32 on a series' middle slice, HU.
BF16_LIMIT_HU = 0.5


def restore_slices(
    source: SliceSource,
    model: TrainedModel,
    settings: ApplySettings = DEFAULT_APPLY_SETTINGS,
    indices: Sequence[int] | None = None,
    times: StageTimes | None = None,
) -> Slices:
    """Restore the slices of a series, in order, with constant memory use.

    The next slices are read while the network processes one. A 2.5-D model also sees the context slices of each
    (:mod:`ldct_denoise.context_slices`). Where the output keeps texture, the transfer of noise is measured first,
    in a few slices of the series (:mod:`ldct_denoise.inference.noise_blend`).

    Parameters
    ----------
    source : SliceSource
    model : TrainedModel
    settings : ApplySettings
    indices : sequence of int, optional
        Slices to restore, in this order; by default all.
    times : StageTimes, optional
        Receives how long reading, the network and blending take.

    Yields
    ------
    int
        Index of the slice.
    ndarray, shape (rows, columns), float32
        HU. Pixels outside the model's HU range and non-finite pixels keep the input's value.

    Raises
    ------
    InputError
        If a slice cannot be read.
    ModelError
        If bf16 changes the result too much, or the model returns non-finite values.
    """
    wanted = range(len(source)) if indices is None else indices
    times = StageTimes() if times is None else times
    strength = settings.plain_strength(model.keeps_texture)
    if strength == 0 or settings.noise_reduction == 0:
        yield from ((index, source.read_hu(index)) for index in wanted)
        return
    if strength is not None:
        for index, hu, change in _network_changes(source, model, settings, wanted, times):
            yield index, hu + np.float32(strength) * change
        return
    spacing_mm = source.geometry.pixel_spacing_mm
    measured = spread_indices(len(source), MEASURED_SLICES)
    known = {
        index: (hu, change) for index, hu, change in _network_changes(source, model, settings, measured, times)
    }
    transfer = measure_noise_transfer(
        ((hu, hu + change) for hu, change in known.values()), spacing_mm, source.metadata.slice_thickness_mm
    )
    position = 0.0 if settings.noise_reduction is None else transfer.position(settings.noise_reduction / 100)
    unknown = [index for index in wanted if index not in known]
    others = _network_changes(source, model, settings, unknown, times)
    changes = ((index, *known[index]) if index in known else next(others) for index in wanted)

    def blend(_: int, hu: NDArray[np.float32], change: NDArray[np.float32]) -> NDArray[np.float32]:
        blended = blend_slice(hu, hu + change, transfer, spacing_mm, position)
        # The network changes no pixel outside its HU range; neither does the blend.
        return np.where(_may_change(model.scale, hu, settings), blended, hu)

    # The next slice is in the network while one is blended, which uses a single core.
    yield from _in_thread("blend", times.timed("blend", blend), changes, BLEND_BEHIND)


def _network_changes(
    source: SliceSource, model: TrainedModel, settings: ApplySettings, wanted: Sequence[int], times: StageTimes
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """Index, HU and change of each slice by the network at full strength; 0 where it may not change a pixel."""
    device = choose_device(settings.device, worker_from_environment().local_rank)
    method = ready(model.method.for_spacing(source.geometry.pixel_spacing_mm), device)
    scale = model.scale
    if settings.precision == "bf16":
        _check_bf16(source, method, model, device, settings)
    read_hu, restore = StackReader(source, method.context_slices).read_hu, times.timed("network", _restore)
    # The next few slices are read while one is used.
    stacks = _in_thread("read", times.timed("read", read_hu), ((index,) for index in wanted), READ_AHEAD)
    for group in _groups(stacks, GPU_BATCH if device.type == "cuda" else 1):
        read = np.stack([stack for _, stack in group])
        center = read[:, method.context_slices]
        correction = restore(method, scale, read, device, settings) - scale.clip(center, settings.guard_range)
        correction[~_may_change(scale, center, settings)] = 0
        for (index, _), hu, change in zip(group, center, correction, strict=True):
            if not np.isfinite(change).all():
                raise ModelError(
                    f"{source.name}: slice {index}: {model.name} returns non-finite values; use another model"
                )
            yield index, hu, change


def _may_change(scale: Scale, hu: NDArray[np.float32], settings: ApplySettings) -> NDArray[np.bool_]:
    """Mask of pixels that the model may change: finite, and inside its HU range where the range is guarded."""
    return scale.covers(hu) if settings.guard_range else np.isfinite(hu)


@contextmanager
def report_fit_progress(
    models: Sequence[TrainedModel], progress: Progress, begin: tuple[int, int, str]
) -> Iterator[Progress]:
    """Context manager: methods that are fitted to each slice report their iteration in the note.

    Parameters
    ----------
    models : sequence of TrainedModel
    progress : callable
        Called with (slices done, number of slices, note).
    begin : tuple of (int, int, str)
        Arguments of ``progress`` until the first slice is done.

    Yields
    ------
    callable
        To be called instead of ``progress``.
    """
    now = begin

    def report(done: int, total: int, note: str) -> None:
        nonlocal now
        now = done, total, note
        progress(done, total, note)

    def fitted(name: str, iteration: int, iterations: int) -> None:
        done, total, note = now
        progress(done, total, f"{note or name}: fit {iteration}/{iterations}")

    with ExitStack() as after:
        for model in models:
            method: Any = model.method
            if hasattr(method, "on_iteration"):
                after.callback(setattr, method, "on_iteration", method.on_iteration)
                method.on_iteration = partial(fitted, model.name)
        yield report


def ready(method: Method[Any], device: torch.device) -> Method[Any]:
    """Move a method to its device, in the memory format that is fastest there (docs/explanation/speed.md)."""
    if device.type == "cpu":
        keep_freed_memory()
    moved: Method[Any] = method.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return moved


def _check_bf16(
    source: SliceSource, method: Method[Any], model: TrainedModel, device: torch.device, settings: ApplySettings
) -> None:
    """Raise if bf16 differs too much from fp32 on the middle slice.

    Methods without weights are not checked: a fit in bf16 is another fit.
    """
    if next(method.parameters(), None) is None:
        return
    stack = StackReader(source, method.context_slices).read_hu(len(source) // 2)[None]
    exact, fast = (
        _restore(method, model.scale, stack, device, replace(settings, precision=precision))
        for precision in ("fp32", "bf16")
    )
    difference = float(np.abs(fast - exact).mean())
    if difference > BF16_LIMIT_HU:
        raise ModelError(
            f"precision bf16: changes {source.name} by {difference:.2f} HU on average (limit {BF16_LIMIT_HU} HU);"
            " use fp32"
        )


@torch.inference_mode()
def _restore(
    method: Method[Any], scale: Scale, hu: NDArray[np.float32], device: torch.device, settings: ApplySettings
) -> NDArray[np.float32]:
    """Restore a batch of HU stacks, shape (n, channels, rows, columns); returns shape (n, rows, columns)."""
    image = torch.from_numpy(scale.to_input(hu, settings.guard_range).astype(np.float32)).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        once = partial(method.restore, seed=settings.seed)
        restored = _average_over_flips(once, image) if settings.tta else once(image)
    result: NDArray[np.float32] = scale.to_hu(restored.float())[:, 0].cpu().numpy()
    return result


def _average_over_flips(restore: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Mean over eight flips and rotations, summed in float64 so that eight equal views give exactly that view."""
    # On the CPU: Apple's GPUs have no float64.
    views = (_flip_back(restore(_flip(image, number)), number).cpu().double() for number in range(8))
    total: Tensor = sum(views, start=torch.zeros((), dtype=torch.float64))
    return total / 8


def _flip(image: Tensor, number: int) -> Tensor:
    """Rotate by ``number % 4`` quarter turns, after a flip where ``number`` is 4 or more; 0 is the identity."""
    return torch.rot90(image.flip(-1) if number >= 4 else image, number % 4, (-2, -1))


def _flip_back(image: Tensor, number: int) -> Tensor:
    """Inverse of :func:`_flip`."""
    upright = torch.rot90(image, -number % 4, (-2, -1))
    return upright.flip(-1) if number >= 4 else upright


def _in_thread(
    name: str, function: Callable[..., NDArray[np.float32]], calls: Iterable[tuple[Any, ...]], ahead: int
) -> Slices:
    """Results of a function in order, computed in another thread.

    Parameters
    ----------
    name : str
        Prefix of the thread's name.
    function : callable
        Returns the image of one slice.
    calls : iterable of tuple
        Arguments of each call; the first is the index of the slice.
    ahead : int
        Largest number of calls that are submitted before a result is taken.

    Yields
    ------
    int
        Index of the slice.
    ndarray
        Result of the call.
    """
    with ThreadPoolExecutor(1, thread_name_prefix=name) as pool:
        waiting: deque[tuple[int, Future[NDArray[np.float32]]]] = deque()
        for arguments in calls:
            waiting.append((arguments[0], pool.submit(function, *arguments)))
            if len(waiting) > ahead:
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
