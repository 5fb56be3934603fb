"""Peak memory of a task, measured in a separate process."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from ldct_denoise.errors import LdctDenoiseError, TrainingError
from ldct_denoise.io.process_limits import peak_memory_bytes

T = TypeVar("T")
GIB = 2**30


def peak_memory(prepare: Callable[..., Callable[[], T]], *arguments: Any) -> tuple[T, float]:
    """Run a task in a new process and measure by how much its memory grew after preparation.

    Parameters
    ----------
    prepare : callable
        Function of a module that prepares the task and returns it.
    *arguments
        Arguments of ``prepare``.

    Returns
    -------
    (result, float)
        Result of the task, and the growth of its resident memory, GiB.

    Raises
    ------
    LdctDenoiseError
        The error that the task raised.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, prepare, arguments))
    process.start()
    theirs.close()
    try:
        received = ours.recv()
    except EOFError:
        raise TrainingError("the measured process died; probably it ran out of memory") from None
    finally:
        process.join()
    if isinstance(received, LdctDenoiseError):
        raise received
    result: tuple[T, float] = received
    return result


def _child(pipe: Connection, prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    try:
        task = prepare(*arguments)
        _reset_peak()
        before = _resident("VmRSS")
        result = task()
        pipe.send((result, (_resident("VmHWM") - before) / GIB))
    except LdctDenoiseError as error:
        pipe.send(error)
    finally:
        pipe.close()


def _reset_peak() -> None:
    """Reset the kernel's record of peak memory (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident(name: str) -> int:
    """Bytes of resident memory from ``/proc``; on other systems the peak of the process."""
    path = Path("/proc/self/status")
    if not path.exists():
        return peak_memory_bytes()
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0]) * 1024
