"""Memory of this process: its peak and its limit, where the system has the ``resource`` module (not Windows)."""

from __future__ import annotations

import sys

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


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
