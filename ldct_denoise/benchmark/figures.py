"""Figures of a benchmark, what they are measured against, and where they were measured."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

#: Instruction sets that decide what bf16 gains on a CPU.
MATRIX_FLAGS = ("avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Parameters
    ----------
    name, unit : str
    value : float
    goal : float, optional
        What is wanted.
    sense : {"at least", "at most"}
        Of the goal.
    note : str
        What limits it, or how it was measured.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    sense: Literal["at least", "at most"] = "at least"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.sense == "at least" else self.value <= self.goal


@dataclass(frozen=True)
class Benchmark:
    """The figures of one run.

    Parameters
    ----------
    what : str
    figures : sequence of Figure
    machine : mapping
        As :func:`describe_machine` says.
    when : str
        ISO 8601, UTC.
    """

    what: str
    figures: Sequence[Figure]
    machine: Mapping[str, Any]
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="minutes"))

    def as_json(self) -> dict[str, Any]:
        """Plain values; null for a figure that is no number, which JSON has no word for."""
        figures = [
            asdict(figure) | {"value": figure.value if math.isfinite(figure.value) else None, "met": figure.met}
            for figure in self.figures
        ]
        return {"what": self.what, "when": self.when, "machine": dict(self.machine), "figures": figures}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores and threads, instruction sets, GPU, versions, and how busy it was."""
    info = _cpu_info()
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": [flag for flag in MATRIX_FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu_info() -> dict[str, str]:
    """The first processor of ``/proc/cpuinfo``; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def fastest(runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of each run's fastest round.

    All runs take turns, so that a busy machine slows them alike, and each runs once before.

    Parameters
    ----------
    runs : mapping of callable
    rounds : int
    device : torch.device
        Waited for, where it works on its own.
    """
    best = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 1):
        for name, run in runs.items():
            seconds = timed(run, device)
            best[name] = min(best[name], seconds) if number else best[name]
    return best


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, its work on the device included."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
