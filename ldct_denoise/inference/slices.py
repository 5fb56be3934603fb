"""A model over the slices of a series: read ahead, batched, guarded, blended; memory stays flat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldct_denoise.context_slices import StackReader
from ldct_denoise.distributed import choose_device, worker_from_environment
from ldct_denoise.errors import ConfigError, ModelError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Method
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.volume import SliceSource

Slices = Iterator[tuple[int, NDArray[np.float32]]]
#: Told (slices done, slices in all, note).
Progress = Callable[[int, int, str], None]
#: Slices read ahead of the network.
READ_AHEAD = 4
#: Slices that go through a GPU at once.
GPU_BATCH = 8
#: Largest mean absolute difference of bf16 from fp32 on a series' middle slice, HU.
BF16_LIMIT_HU = 0.5


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
        ``fp32``, or ``bf16`` for speed where the device gains from it; each series' middle slice is then restored
        in both, and refused where they differ by more than 0.5 HU on average.
    seed : int
        For models that draw random numbers.
    guard_range : bool
        Leave pixels outside the model's HU range as they are; off for noisy photographs, whose noise leaves it.
    tta : bool
        The mean over the eight flips and quarter turns of each slice, turned back: a little better, at eight times
        the cost (Timofte, Rothe, Van Gool, "Seven ways to improve example-based single image super resolution",
        CVPR 2016).

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
    tta: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strength {self.strength:g}: give a number from 0 (input) to 1 (model)")


#: The model as it was trained, on whatever device there is.
DEFAULTS = ApplySettings()


def restore_slices(
    source: SliceSource,
    model: TrainedModel,
    settings: ApplySettings = DEFAULTS,
    indices: Sequence[int] | None = None,
) -> Slices:
    """Every slice, restored, in order; memory stays flat.

    While the network works on one slice the next are read. A 2.5-D model sees the slices beside each as well
    (:mod:`ldct_denoise.context_slices`).

    Parameters
    ----------
    source : SliceSource
    model : TrainedModel
    settings : ApplySettings
    indices : sequence of int, optional
        Only these slices, in this order.

    Yields
    ------
    int
        Index of the slice.
    ndarray, shape (rows, columns), float32
        HU. Pixels outside the model's HU range, and those that are no numbers, are the input's own.

    Raises
    ------
    InputError
        If a slice cannot be read.
    ModelError
        If bf16 changes the result too much, or the model gives values that are no numbers.
    """
    wanted = range(len(source)) if indices is None else indices
    if settings.strength == 0:
        yield from ((index, source.read_hu(index)) for index in wanted)
        return
    device = choose_device(settings.device, worker_from_environment().local_rank)
    method = ready(model.method, device)
    scale, strength = model.scale, np.float32(settings.strength)
    if settings.precision == "bf16":
        _require_close(source, model, device, settings)
    stacks = _read_ahead(StackReader(source, method.context_slices), wanted)
    for group in _groups(stacks, GPU_BATCH if device.type == "cuda" else 1):
        read = np.stack([stack for _, stack in group])
        seen = _filled(scale, read)
        seen = _within(scale, seen) if settings.guard_range else seen
        own = read[:, method.context_slices]
        correction = _restore(method, scale, seen, device, settings) - seen[:, method.context_slices]
        correction[~(scale.covers(own) if settings.guard_range else np.isfinite(own))] = 0
        for (index, _), hu, change in zip(group, own, correction, strict=True):
            if not np.isfinite(change).all():
                raise ModelError(f"{source.name}: slice {index}: {model.name} gives no numbers; use another model")
            yield index, hu + strength * change


@contextmanager
def report_fit_progress(
    models: Sequence[TrainedModel], progress: Progress, begin: tuple[int, int, str]
) -> Iterator[Progress]:
    """Within: a method that is fitted to each slice tells how far its fit is, in the note.

    Parameters
    ----------
    models : sequence of TrainedModel
    progress : callable
    begin : tuple
        What holds until the first slice is done.

    Yields
    ------
    callable
        In the place of ``progress``.
    """
    now = begin

    def tell(done: int, total: int, note: str) -> None:
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
        yield tell


def ready(method: Method[Any], device: torch.device) -> Method[Any]:
    """For use: on its device, in the memory format that is fastest there (docs/speed.md)."""
    moved: Method[Any] = method.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return moved


def _within(scale: Scale, hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """HU clipped to what the model knows."""
    clipped: NDArray[np.float32] = np.clip(hu, scale.low_hu, scale.high_hu)
    return clipped


def _filled(scale: Scale, hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """The range's low where a file has no number: one alone would spread over all that a network sees."""
    return np.where(np.isfinite(hu), hu, np.float32(scale.low_hu))


def _require_close(
    source: SliceSource, model: TrainedModel, device: torch.device, settings: ApplySettings
) -> None:
    """Compare the precisions on the middle slice; without weights there is none: a fit in bf16 is another fit."""
    if next(model.method.parameters(), None) is None:
        return
    stack = StackReader(source, model.method.context_slices).read_hu(len(source) // 2)
    seen = _within(model.scale, _filled(model.scale, stack[None]))
    exact, fast = (
        _restore(model.method, model.scale, seen, device, replace(settings, precision=precision))
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
    """HU stacks (n, channels, rows, columns) through the method: (n, rows, columns)."""
    image = torch.from_numpy(scale.to_unit(hu).astype(np.float32)).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        once = partial(method.restore, seed=settings.seed)
        restored = _over_turns(once, image) if settings.tta else once(image)
    result: NDArray[np.float32] = scale.to_hu(restored.float())[:, 0].cpu().numpy()
    return result


def _over_turns(restore: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """The mean over eight flips and turns; summed in float64, so that eight equal views give just that view."""
    views = (_turned_back(restore(_turned(image, turn)), turn).double() for turn in range(8))
    total: Tensor = sum(views, start=torch.zeros((), dtype=torch.float64, device=image.device))
    return total / 8


def _turned(image: Tensor, turn: int) -> Tensor:
    """By ``turn % 4`` quarters, mirrored before that from 4 on; 0 is the image as it is."""
    return torch.rot90(image.flip(-1) if turn >= 4 else image, turn % 4, (-2, -1))


def _turned_back(image: Tensor, turn: int) -> Tensor:
    straight = torch.rot90(image, -turn % 4, (-2, -1))
    return straight.flip(-1) if turn >= 4 else straight


def _read_ahead(stacks: StackReader, indices: Iterable[int]) -> Slices:
    """Stacks in order, the next few being read while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        waiting: deque[tuple[int, Future[NDArray[np.float32]]]] = deque()
        for index in indices:
            waiting.append((index, pool.submit(stacks.read_hu, index)))
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
