"""Results of a benchmark, the machine they were measured on, and timing."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

#: Instruction sets on which the speed of bf16 on a CPU depends.
MATRIX_FLAGS = ("avx512f", "avx512_bf16", "amx_bf16")
#: Receives a line about the progress of a benchmark.
Progress = Callable[[str], None]


def no_progress(line: str) -> None:
    """Discard a line of progress."""


@dataclass(frozen=True)
class Result:
    """One measured number.

    Parameters
    ----------
    name : str
        What was measured.
    value : float
        The number.
    unit : str
        Its unit.
    note : str
        Conditions of the measurement.
    """

    name: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """All results of one benchmark.

    Parameters
    ----------
    name : str
        Name of the benchmark.
    results : sequence of Result
        What was measured.
    machine : mapping
        Output of :func:`describe_machine`.
    date : str
        ISO 8601, UTC.
    """

    name: str
    results: Sequence[Result]
    machine: Mapping[str, Any]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="minutes"))

    def as_json(self) -> dict[str, Any]:
        """Return plain values; NaN and infinite values, which JSON cannot represent, become null."""
        results = [
            asdict(result) | {"value": result.value if math.isfinite(result.value) else None}
            for result in self.results
        ]
        return {"name": self.name, "date": self.date, "machine": dict(self.machine), "results": results}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return processor, cores, threads, instruction sets, GPU, torch version, and load average."""
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
    """Read the first processor of ``/proc/cpuinfo``; empty on systems other than Linux."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def fastest(runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the seconds of the fastest round of each run.

    The runs take turns, so that other load on the machine slows all of them equally. A first round is not timed.

    Parameters
    ----------
    runs : mapping of callable
        What to time, by name.
    rounds : int
        Number of timed rounds.
    device : torch.device
        Device that the runs use; its queue is drained before and after each run.

    Returns
    -------
    dict
        Seconds by name.
    """
    best = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 1):
        for name, run in runs.items():
            seconds = timed(run, device)
            best[name] = min(best[name], seconds) if number else best[name]
    return best


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, including its work on the device."""
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
