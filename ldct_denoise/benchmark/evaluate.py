"""Benchmark: seconds that the evaluation of a pair of series takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ldct_denoise.benchmark.memory import peak_memory
from ldct_denoise.benchmark.results import Benchmark, Progress, Result, describe_machine, no_progress, timed
from ldct_denoise.benchmark.synthetic import patient
from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.regions.parse import parse_region

#: Number of slices that the result is scaled to.
SLICES = 300
MEASURED_WINDOWS = tuple(WINDOWS[name] for name in ("full", "abdomen", "lung", "bone"))
REGIONS = ("image", "body", "soft-tissue", "fat", "bone")


def benchmark_evaluate(*, slices: int = SLICES, progress: Progress = no_progress) -> Benchmark:
    """Measure the evaluation of a pair of series in 4 windows and 5 regions.

    Parameters
    ----------
    slices : int
        Number of slices of the pair; results are scaled to 300.
    progress : callable
        Receives a line about what is being measured.

    Returns
    -------
    Benchmark
        The results.
    """
    machine = describe_machine(torch.device("cpu"))
    progress(f"{slices} slices")
    (seconds, processor), memory = peak_memory(_prepare_evaluation, slices)
    note = "" if slices == SLICES else f"from {slices} slices"
    name = f"a pair of {SLICES} slices in {len(MEASURED_WINDOWS)} windows and {len(REGIONS)} regions"
    results = [
        Result(name, seconds * SLICES / slices, "s", note),
        Result("processor time of the same", processor * SLICES / slices, "s", "sum over all cores"),
        Result("peak memory", memory, "GiB", f"over {slices} slices"),
    ]
    return Benchmark("evaluate", results, machine)


def _prepare_evaluation(slices: int) -> Callable[[], tuple[float, float]]:
    """Make the pair; return the task, which returns seconds and processor seconds."""
    low, normal = patient(slices, dose=0.25), patient(slices, dose=1.0)
    plan = MeasurementPlan(MEASURED_WINDOWS, [parse_region(name) for name in REGIONS])

    def task() -> tuple[float, float]:
        before = time.process_time()
        seconds = timed(lambda: evaluate(low, normal, plan=plan), torch.device("cpu"))
        return seconds, time.process_time() - before

    return task
