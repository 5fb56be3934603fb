"""``ldct-denoise benchmark``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ldct_denoise.benchmark.figures import Benchmark

json_option = click.option("--json", "json_path", type=options.PATH, help="Also write the figures to this file.")


def json_file(function: Callable[..., None]) -> Callable[..., None]:
    """Where the figures go as well."""
    return json_option(options.overwrite(function))


@click.group(short_help="How fast this machine applies, trains, simulates and measures.")
def command() -> None:
    """Measure this machine, as ratios in one run, beside the peers' published networks."""


@command.command("apply")
@click.option("--model", default=None, help="A shipped model, a file or a run.  [default: the model that ships]")
@click.option("--slices", type=click.IntRange(2), default=8, show_default=True, help="Length of the series.")
@click.option(
    "--rounds", type=click.IntRange(1), default=2, show_default=True, help="Of which the fastest counts."
)
@options.device
@click.option("--engines", is_flag=True, help="Also channels-last, torch.compile and ONNX Runtime.")
@json_file
def apply_(model: str | None, json_path: Path | None, overwrite: bool, **how: Any) -> None:
    """Slices a second beside RED-CNN, the paper's network and CNN-10; DICOM to DICOM; memory; bf16.

    Peak memory is stated for 1000 slices; --slices 1000 denoises them all.
    """
    from ldct_denoise.benchmark.apply import benchmark_apply
    from ldct_denoise.models.trained import DEFAULT_MODEL

    _show(partial(benchmark_apply, model or DEFAULT_MODEL, **how), json_path, overwrite)


@command.command("training")
@click.option(
    "--width", type=click.IntRange(4), default=32, show_default=True, help="Of the networks; published: 64."
)
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Published: 16.")
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="That are timed.")
@options.device
@json_file
def training(json_path: Path | None, overwrite: bool, **how: Any) -> None:
    """Steps a second of our schedule and the published one at the same networks, and patches a second."""
    from ldct_denoise.benchmark.training import benchmark_training

    _show(partial(benchmark_training, **how), json_path, overwrite)


@command.command("simulate")
@click.option("--slices", type=click.IntRange(2), default=6, show_default=True)
@json_file
def simulate(slices: int, json_path: Path | None, overwrite: bool) -> None:
    """Seconds that the simulation of a quarter of the dose takes for a slice."""
    from ldct_denoise.benchmark.simulate import benchmark_simulate

    _show(partial(benchmark_simulate, slices=slices), json_path, overwrite)


@command.command("measuring")
@click.option("--slices", type=click.IntRange(1), default=300, show_default=True, help="Length of the pair.")
@json_file
def measuring(slices: int, json_path: Path | None, overwrite: bool) -> None:
    """Seconds that measuring a pair of series in 4 windows and 5 regions takes."""
    from ldct_denoise.benchmark.measuring import benchmark_measuring

    _show(partial(benchmark_measuring, slices=slices), json_path, overwrite)


def _show(measure: Callable[..., Benchmark], json_path: Path | None, overwrite: bool) -> None:
    """What is measured: the table on standard output, and the file."""
    import json

    from rich.table import Table

    from ldct_denoise.output import atomic_write, check_writable

    if json_path is not None:
        check_writable(json_path, overwrite)
    measured = measure(say=partial(click.echo, err=True))
    machine = ", ".join(f"{key} {value}" for key, value in measured.machine.items() if value)
    table = Table(title=f"{measured.what}: {measured.when}; {machine}", title_justify="left")
    for heading in ("figure", "value", "unit", "goal", "met", "note"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for figure in measured.figures:
        goal = "" if figure.goal is None else f"{'≥' if figure.sense == 'at least' else '≤'} {figure.goal:g}"
        met = {None: "", True: "yes", False: "no"}[figure.met]
        table.add_row(figure.name, f"{figure.value:.3g}", figure.unit, goal, met, figure.note)
    options.console().print(table)
    if json_path is not None:
        text = json.dumps(measured.as_json(), indent=2, allow_nan=False)
        atomic_write(json_path, lambda part: part.write_text(text, encoding="utf-8"))
