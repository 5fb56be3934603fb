"""Peak memory of a piece of work, measured in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from ldct_denoise.errors import LdctDenoiseError, TrainingError

T = TypeVar("T")
GIB = 2**30


def peak_memory(prepare: Callable[..., Callable[[], T]], *arguments: Any) -> tuple[T, float]:
    """Run in a fresh process, and tell how far its memory rose above what it held when all was prepared.

    Parameters
    ----------
    prepare : callable
        Of a module; gives the work.
    arguments
        Of ``prepare``.

    Returns
    -------
    (result, float)
        What the work gave, and the rise of its resident memory in GiB.

    Raises
    ------
    LdctDenoiseError
        What the work raised.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, prepare, arguments))
    process.start()
    theirs.close()
    try:
        told = ours.recv()
    except EOFError:
        raise TrainingError("the measured process died; was there memory enough?") from None
    finally:
        process.join()
    if isinstance(told, LdctDenoiseError):
        raise told
    result: tuple[T, float] = told
    return result


def _child(pipe: Connection, prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    try:
        work = prepare(*arguments)
        _forget_peak()
        before = _resident("VmRSS")
        result = work()
        pipe.send((result, (_resident("VmHWM") - before) / GIB))
    except LdctDenoiseError as error:
        pipe.send(error)
    finally:
        pipe.close()


def _forget_peak() -> None:
    """Let the kernel count the peak anew (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident(name: str) -> int:
    """Bytes, as Linux tells; the process's peak elsewhere."""
    path = Path("/proc/self/status")
    if not path.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0]) * 1024
