"""Options that several commands share, and how progress is shown: on standard error, never on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

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
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
output = click.option("--output", "-o", type=PATH, required=True, help="Where the result goes.")


@contextmanager
def progress_bar(what: str) -> Iterator[Bar]:
    """A bar with time left; gives a function of (done, total, note)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[Any] = [
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    ]  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)
