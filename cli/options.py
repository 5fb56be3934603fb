"""Options that several commands share, and how progress is shown: on standard error, never on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ldct_denoise.training import Progress

#: A function of (done, total, note).
Bar = Callable[[int, int, str], None]
PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True)

device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
precision = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="bf16 is faster where the device has it.",
)
ensemble = click.option(
    "--ensemble", is_flag=True, help="Mean over eight flips and turns: a little better, eight times slower."
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
output = click.option("--output", "-o", type=PATH, required=True, help="Where the result goes.")


@contextmanager
def progress_bar(what: str) -> Iterator[Bar]:
    """A bar with time left; gives a function of (done, total, note)."""
    import rich.progress
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[Any] = [
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    ]  # fmt: skip
    with rich.progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


def show_training(progress: Progress, bar: Bar) -> None:
    """A training run's messages as lines, its steps and losses in the bar."""
    if progress.message:
        click.echo(f"step {progress.step}: {progress.message}", err=True)
    losses = "  ".join(f"{name} {value:.3g}" for name, value in progress.losses.items())
    bar(progress.step, progress.steps, losses)


def plain(text: str) -> str:
    """Text from files, so that it cannot break the line or drive the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def console() -> Console:
    """Standard output for tables; wide where it is no terminal, so that a file or a pipe gets whole lines."""
    import sys

    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 180)
