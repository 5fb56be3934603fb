"""Benchmark: seconds that the simulation of a lower dose takes for a slice."""

from __future__ import annotations

import time

import torch

from ldct_denoise.benchmark.results import Benchmark, Progress, Result, describe_machine, no_progress, timed
from ldct_denoise.benchmark.synthetic import MATRIX, patient
from ldct_denoise.physics.simulate_series import Simulation, simulated_slices


def benchmark_simulate(*, slices: int = 6, dose: float = 0.25, progress: Progress = no_progress) -> Benchmark:
    """Measure the simulation of a lower dose of a synthetic patient.

    Parameters
    ----------
    slices : int
        Number of slices, at least 2: the first includes what is measured and compiled once for a series.
    dose : float
        Fraction of the normal dose.
    progress : callable
        Receives a line about what is being measured.

    Returns
    -------
    Benchmark
        The results.
    """
    cpu = torch.device("cpu")
    machine, source = describe_machine(cpu), patient(max(2, slices), dose=1.0)
    progress(f"{len(source)} slices")
    simulated = simulated_slices(source, Simulation(dose))
    first = timed(lambda: next(simulated), cpu)
    before, count = time.process_time(), len(source) - 1
    rest = timed(lambda: [hu.shape for hu in simulated], cpu) / count
    processor = (time.process_time() - before) / count
    results = [
        Result(f"simulation of a {MATRIX}×{MATRIX} slice", rest, "s", "after the first"),
        Result("processor time of the same", processor, "s", "sum over all cores"),
        Result(
            "the first slice", first, "s", "includes measuring the noise of the series and compiling projectors"
        ),
        Result("slices per second", 1 / rest, "slices/s"),
    ]
    return Benchmark("simulate", results, machine)
