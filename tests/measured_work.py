"""Work whose memory is measured in a process of its own; it imports little, so that the process starts quickly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ldct_denoise.errors import InputError


def allocate(mebibytes: int) -> Callable[[], int]:
    """Work that needs so much memory, and before it a lot more."""
    np.ones(400 * 2**17).sum()
    return lambda: int(np.ones(mebibytes * 2**17).sum())


def fail() -> Callable[[], int]:
    """Work that cannot begin."""
    raise InputError("nothing here")
