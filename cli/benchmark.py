"""``ldct-denoise benchmark``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import completion, options, terminal

if TYPE_CHECKING:
    from ldct_denoise.benchmark.results import Benchmark

json_option = click.option("--json", "json_path", type=options.PATH, help="Also write the results to this file.")


def json_file(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the JSON file."""
    return json_option(options.overwrite(function))


@click.group(short_help="Measure how fast this machine applies, trains, simulates and evaluates.")
def command() -> None:
    """Measure the speed of this machine, and of published networks in the same run."""


@command.command("apply", short_help="Measure slices per second of denoising.")
@click.option(
    "--model",
    shell_complete=completion.models,
    default=None,
    help="A shipped model, a file or a run folder.  [default: lir-ct]",
)
@click.option("--slices", type=click.IntRange(2), default=8, show_default=True, help="Number of slices.")
@click.option(
    "--rounds", type=click.IntRange(1), default=2, show_default=True, help="Timed rounds; the fastest is reported."
)
@options.device
@click.option("--engines", is_flag=True, help="Also measure channels-last, torch.compile and ONNX Runtime.")
@json_file
def apply_(model: str | None, json_path: Path | None, overwrite: bool, **how: Any) -> None:
    """Measure slices per second of a model, RED-CNN, LIR and CNN-10, with memory, bf16, and DICOM to DICOM.

    Peak memory is extrapolated to 1000 slices; --slices 1000 measures it.
    """
    from ldct_denoise.benchmark.apply import benchmark_apply
    from ldct_denoise.models.trained import DEFAULT_MODEL

    _show(partial(benchmark_apply, model or DEFAULT_MODEL, **how), json_path, overwrite)


@command.command("train", short_help="Measure training steps per second.")
@click.option(
    "--channels",
    type=click.IntRange(4),
    default=32,
    show_default=True,
    help="Channels of the networks; published: 64.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Patches of each pool in a step."
)
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="Timed training steps.")
@options.device
@json_file
def train(json_path: Path | None, overwrite: bool, **how: Any) -> None:
    """Measure training steps per second, also of the published training loop, and patches per second."""
    from ldct_denoise.benchmark.train import benchmark_train

    _show(partial(benchmark_train, **how), json_path, overwrite)


@command.command("simulate", short_help="Measure seconds per slice of a dose simulation.")
@click.option("--slices", type=click.IntRange(2), default=6, show_default=True, help="Number of slices.")
@json_file
def simulate(slices: int, json_path: Path | None, overwrite: bool) -> None:
    """Measure seconds per slice of the simulation of quarter dose."""
    from ldct_denoise.benchmark.simulate import benchmark_simulate

    _show(partial(benchmark_simulate, slices=slices), json_path, overwrite)


@command.command("evaluate", short_help="Measure the time of an evaluation.")
@click.option("--slices", type=click.IntRange(1), default=300, show_default=True, help="Slices of each series.")
@json_file
def evaluate(slices: int, json_path: Path | None, overwrite: bool) -> None:
    """Measure the time to evaluate a pair of series in 4 windows and 5 regions."""
    from ldct_denoise.benchmark.evaluate import benchmark_evaluate

    _show(partial(benchmark_evaluate, slices=slices), json_path, overwrite)


def _show(measure: Callable[..., Benchmark], json_path: Path | None, overwrite: bool) -> None:
    """Run a benchmark, print its results as a table, and write the file."""
    import json

    from rich.table import Table

    from ldct_denoise.output import atomic_write, check_writable

    if json_path is not None:
        check_writable(json_path, overwrite)
    benchmark = measure(progress=terminal.say)
    machine = ", ".join(f"{key} {value}" for key, value in benchmark.machine.items() if value)
    table = Table(title=f"{benchmark.name}: {benchmark.date}; {machine}", title_justify="left")
    for heading in ("result", "value", "unit", "note"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for result in benchmark.results:
        table.add_row(result.name, f"{result.value:.3g}", result.unit, result.note)
    terminal.console().print(table)
    if json_path is not None:
        text = json.dumps(benchmark.as_json(), indent=2, allow_nan=False)
        atomic_write(json_path, lambda part: part.write_text(text, encoding="utf-8"))
