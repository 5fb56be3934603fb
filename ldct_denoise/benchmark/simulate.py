"""Seconds that the simulation of a lower dose takes for a slice."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ldct_denoise.benchmark.figures import Benchmark, Figure, describe_machine, timed
from ldct_denoise.benchmark.subject import MATRIX, patient
from ldct_denoise.physics.simulate_series import Simulation, simulated_slices

#: Seconds a slice on two cores.
GOAL = 2.0


def benchmark_simulate(
    *, slices: int = 6, dose: float = 0.25, say: Callable[[str], None] = lambda line: None
) -> Benchmark:
    """Simulate a quarter of the dose of a synthetic patient.

    Parameters
    ----------
    slices : int
        At least 2: the first pays for what is measured and compiled once for the series.
    """
    cpu = torch.device("cpu")
    machine, source = describe_machine(cpu), patient(max(2, slices), dose=1.0)
    say(f"{len(source)} slices")
    made = simulated_slices(source, Simulation(dose))
    first = timed(lambda: next(made), cpu)
    before, count = time.process_time(), len(source) - 1
    rest = timed(lambda: [hu.shape for hu in made], cpu) / count
    processor = (time.process_time() - before) / count
    figures = [
        Figure(f"simulation of a {MATRIX}×{MATRIX} slice", rest, "s", GOAL, "at most", "after the first"),
        Figure("processor time of the same", processor, "s", note="of all cores together"),
        Figure(
            "the first slice", first, "s", note="with the series' own noise measured and the projectors compiled"
        ),
        Figure("slices a second", 1 / rest, "slices/s"),
    ]
    return Benchmark("simulate", figures, machine)
