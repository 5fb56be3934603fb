"""Memory and waiting threads of this process, where the system allows to set them."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: Parameters of glibc's ``mallopt`` (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: Freed memory that the process keeps, bytes: more than the feature maps of one slice of 512×512 need.
KEPT_BYTES = 256 * 1024**2


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far; 0 where it is unknown."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def limit_memory(limit_bytes: int) -> bool:
    """Limit the address space of this process, and switch core dumps off.

    Returns
    -------
    bool
        Whether the limit is set: not on Windows, and not where the system refuses it (macOS).
    """
    if resource is None:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    except (ValueError, OSError):
        return False
    return True


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory, which saves a fifth of a network's time on a CPU.

    By default glibc returns each large block to the system, so that every feature map is made of new pages, and
    the system clears them. The resident memory of the process stays up to :data:`KEPT_BYTES` higher.

    Returns
    -------
    bool
        Whether the C library keeps it: on Linux with glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 4 * KEPT_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


def let_waiting_threads_sleep() -> None:
    """Let OpenMP threads that wait for work sleep, where the user has not chosen (``OMP_WAIT_POLICY``).

    By default they wait in a loop, which takes their core from the threads that read, blend and write slices. With
    two cores, a series then takes 9 to 27 % longer. Call this before torch is imported: its OpenMP library reads
    the variable once.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
