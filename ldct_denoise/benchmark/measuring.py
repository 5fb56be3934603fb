"""Seconds that measuring a pair of series takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ldct_denoise.benchmark.figures import Benchmark, Figure, describe_machine, timed
from ldct_denoise.benchmark.memory import peak_memory
from ldct_denoise.benchmark.subject import patient
from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.regions.parse import parse_region

#: Seconds for so many slices on two cores.
GOAL, SLICES = 60.0, 300
MEASURED = tuple(WINDOWS[name] for name in ("full", "abdomen", "lung", "bone"))
REGIONS = ("image", "body", "soft-tissue", "fat", "bone")


def benchmark_measuring(*, slices: int = SLICES, say: Callable[[str], None] = lambda line: None) -> Benchmark:
    """Measure a pair in 4 windows and 5 regions.

    Parameters
    ----------
    slices : int
        Length of the pair; the figure is stated for 300.
    """
    machine = describe_machine(torch.device("cpu"))
    say(f"{slices} slices")
    (seconds, processor), memory = peak_memory(prepare_measuring, slices)
    note = "" if slices == SLICES else f"from {slices} slices"
    name = f"a pair of {SLICES} slices in {len(MEASURED)} windows and {len(REGIONS)} regions"
    figures = [
        Figure(name, seconds * SLICES / slices, "s", GOAL, "at most", note),
        Figure("processor time of the same", processor * SLICES / slices, "s", note="of all cores together"),
        Figure("peak memory", memory, "GiB", note=f"over {slices} slices"),
    ]
    return Benchmark("measuring", figures, machine)


def prepare_measuring(slices: int) -> Callable[[], tuple[float, float]]:
    """Make the pair; gives the work, which tells seconds and processor seconds. Runs in a process of its own."""
    low, normal = patient(slices, dose=0.25), patient(slices, dose=1.0)
    plan = MeasurementPlan(MEASURED, [parse_region(name) for name in REGIONS])

    def work() -> tuple[float, float]:
        before = time.process_time()
        seconds = timed(lambda: evaluate(low, normal, plan=plan), torch.device("cpu"))
        return seconds, time.process_time() - before

    return work
