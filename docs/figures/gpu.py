"""Measure what docs/how-to/gpu.md leaves open, on the GPU of whoever runs it; prints tables in Markdown.

python docs/figures/gpu.py --device cuda --output gpu.json
python docs/figures/gpu.py --device cpu  --output cpu.json --quick     # a trial of the script, minutes
python docs/figures/gpu.py --hours                                      # computed hours of the recipes; no GPU
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ldct_denoise.benchmark.apply import benchmark_apply
from ldct_denoise.benchmark.results import Benchmark, Result, describe_machine
from ldct_denoise.benchmark.simulate import benchmark_simulate
from ldct_denoise.benchmark.train import benchmark_train
from ldct_denoise.config import Config, load_config
from ldct_denoise.distributed import join_world
from ldct_denoise.models.trained import DEFAULT_MODEL
from ldct_denoise.training.duration import counted_operations, estimated_hours

#: Recipes whose hours are counted and measured.
RECIPES = ("lir-ct-gpu", "lir-paper", "redcnn-gpu")
#: Sustained rates of a step, TFLOP/s: a consumer GPU, and a data-centre GPU in bf16.
TFLOPS = (20.0, 100.0)


def stages_of(recipe: str, changes: Sequence[str] = ()) -> list[Config]:
    """Configurations of the stages of a recipe."""
    config = load_config(recipe, changes)
    first = config.pretraining_config()
    return [config] if first is None else [first, config]


def has_noise(config: Config) -> bool:
    """Whether noise is added to normal-dose patches."""
    return config.data.noise_model != "none"


def counted(recipe: str, changes: Sequence[str] = ()) -> tuple[int, float]:
    """Steps and operations (EFLOP) of all stages."""
    stages = stages_of(recipe, changes)
    steps = sum(stage.training.iterations for stage in stages)
    total = sum(counted_operations(stage, has_noise(stage)) * stage.training.iterations for stage in stages)
    return steps, total / 1e18


def hours_table(recipes: Sequence[str] = RECIPES, changes: Sequence[str] = ()) -> Iterator[str]:
    """Counted operations and computed hours of the recipes, a line each."""
    yield (
        "| recipe | steps | operations, EFLOP | " + " | ".join(f"h at {rate:g} TFLOP/s" for rate in TFLOPS) + " |"
    )
    yield "| --- | --- | --- |" + " --- |" * len(TFLOPS)
    for recipe in recipes:
        steps, exa = counted(recipe, changes)
        hours = " | ".join(f"{exa * 1e6 / rate / 3600:.1f}" for rate in TFLOPS)
        yield f"| `{recipe}` | {steps:,} | {exa:.2f} | {hours} |"


def measured_hours(device: str, recipes: Sequence[str] = RECIPES, changes: Sequence[str] = ()) -> Benchmark:
    """Hours of the recipes by timed steps on a device, and the rate that this is."""
    results = []
    with join_world(device) as world:
        for recipe in recipes:
            hours = sum(estimated_hours(stage, world, has_noise(stage)) for stage in stages_of(recipe, changes))
            exa = counted(recipe, changes)[1]
            results.append(Result(f"{recipe}, whole run", hours, "h", "without reading and validation"))
            results.append(Result(f"{recipe}, rate", exa * 1e6 / (hours * 3600), "TFLOP/s"))
        return Benchmark("recipes", results, describe_machine(world.device))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, help="JSON file of all results")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--hours", action="store_true", help="only compute hours from counted operations")
    parser.add_argument("--only", choices=("apply", "train", "simulate", "recipes"), action="append")
    given = parser.parse_args(arguments)
    if given.hours:
        print("\n".join(hours_table()))
        return
    quick = given.quick
    small = ("settings.channels=4", "training.batch_size=4", "training.precision=fp32") if quick else ()
    size = {"channels": 4, "batch_size": 1, "steps": 1} if quick else {"channels": 64, "steps": 10}
    parts = {
        "apply": partial(
            benchmark_apply, DEFAULT_MODEL, slices=2 if quick else 300, device=given.device, engines=not quick
        ),
        "train": partial(benchmark_train, device=given.device, **size),
        "simulate": partial(benchmark_simulate, slices=2 if quick else 50),
        "recipes": partial(measured_hours, given.device, ("redcnn-gpu",) if quick else RECIPES, small),
    }
    found = [measure() for name, measure in parts.items() if name in (given.only or parts)]
    for benchmark in found:
        machine = ", ".join(f"{key} {value}" for key, value in benchmark.machine.items() if value)
        print(f"\n{benchmark.name}, {benchmark.date}, {machine}\n")
        print("| result | value | unit | note |\n| --- | --- | --- | --- |")
        for result in benchmark.results:
            print(f"| {result.name} | {result.value:.3g} | {result.unit} | {result.note} |")
    if given.output:
        given.output.write_text(json.dumps([one.as_json() for one in found], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
