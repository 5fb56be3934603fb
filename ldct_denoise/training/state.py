"""Save and load the state from which a training run resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ldct_denoise.errors import ModelError
from ldct_denoise.output import atomic_write

STATE_FILE = "checkpoint.pt"


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write everything that an interrupted run needs to go on."""
    atomic_write(path, lambda part: torch.save(dict(state), part))


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; tensors and plain values only, nothing is executed.

    Raises
    ------
    ModelError
        If it cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch's own words advise to switch off what protects from code in the file
        raise ModelError(
            f"{path}: not a checkpoint, or damaged; put a copy of it back, or begin anew (--overwrite)"
        ) from None
    return state
