"""The terminal: one rich console on standard error owns log lines and progress; tables go to standard output."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as Bars

    from ldct_denoise.training.progress import Progress

#: Validations of a run that its table shows, besides the latest losses.
SHOWN_VALIDATIONS = 3


def plain(text: str) -> str:
    """Text from files without control characters, which could break the line or drive the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def print_paragraph(text: str) -> None:
    """Print a text to standard output; on a terminal its lines break between words."""
    one_line = plain(text)
    width = shutil.get_terminal_size().columns
    click.echo(click.wrap_text(one_line, width) if sys.stdout.isatty() else one_line)


def console() -> Console:
    """Standard output for tables; wide where it is not a terminal, so that files and pipes get unwrapped lines."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 180)


@cache
def stderr() -> Console:
    """The only writer to standard error while a progress bar is shown, so that lines stand above the bar."""
    from rich.console import Console

    return Console(stderr=True)


def say(line: str) -> None:
    """Print a line on standard error, above a progress bar where one is shown."""
    stderr().print(plain(line), markup=False, highlight=False, emoji=False, soft_wrap=True)


def log_to_stderr(verbose: bool) -> None:
    """Send the package's log to standard error: warnings, and with ``verbose`` also information."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", handlers=[_Lines()])
    logging.getLogger("ldct_denoise").setLevel(logging.INFO if verbose else logging.WARNING)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            say(line)


class Bar:
    """Progress of one command: a function of (done, total, note), and a name for what is being done.

    Parameters
    ----------
    bars : rich.progress.Progress
    label : str
        What is being done first.
    """

    def __init__(self, bars: Bars, label: str) -> None:
        self._bars, self._label = bars, label
        self._task = bars.add_task(label, total=None, note="")

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show how much is done."""
        self._bars.update(self._task, completed=done, total=total, note=plain(note))

    def counting(self, label: str) -> Callable[..., None]:
        """A function of (done, total, note) that names the stage with its first call."""

        def count(done: int, total: int, note: str = "") -> None:
            self.stage(label)
            self(done, total, note)

        return count

    def stage(self, label: str) -> None:
        """Name what is being done from here; its time begins at 0."""
        if label == self._label:
            return
        self._bars.remove_task(self._task)
        self._label, self._task = label, self._bars.add_task(label, total=None, note="")


@contextmanager
def progress_bar(label: str, below: Callable[[], RenderableType | None] = lambda: None) -> Iterator[Bar]:
    """Show what is being done, how much is done, and the elapsed and remaining time.

    Parameters
    ----------
    label : str
        What is being done first; see :meth:`Bar.stage`.
    below : callable
        Returns what is shown below the bar, such as a table.

    Yields
    ------
    Bar
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Elapsed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{duration(task.elapsed or 0)} elapsed")

    class Remaining(ProgressColumn):
        max_refresh = 1.0

        def render(self, task: Task) -> Text:
            known = task.total is not None and task.time_remaining is not None and task.completed < task.total
            return Text(f"{duration(task.time_remaining or 0)} left" if known else "")

    class Count(MofNCompleteColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total is not None else Text("")

    class Shown(Progress):
        def get_renderables(self) -> Iterator[Any]:
            yield self.make_tasks_table(self.tasks)
            extra = below()
            if extra is not None:
                yield extra

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=16), Count(),
        Elapsed(), Remaining(),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )  # fmt: skip
    with Shown(*columns, console=stderr(), transient=True, refresh_per_second=4, expand=True) as bars:
        yield Bar(bars, label)


def duration(seconds: float) -> str:
    """A duration as 1:02 (minutes and seconds) or 3:01:02."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TrainingDisplay:
    """Progress of a training run: stages, steps, and one table of losses and validations.

    Where standard error is no terminal, each validation is a line.
    """

    def __init__(self) -> None:
        self._losses: dict[str, float] = {}
        self._validations: list[tuple[int, dict[str, float]]] = []
        self._step = 0

    @contextmanager
    def shown(self) -> Iterator[TrainingDisplay]:
        """Show the bar and the table; the table stays on the terminal when the run ends."""
        with progress_bar("starting", below=self.table) as self.bar:
            yield self
        if stderr().is_terminal and self._validations:
            stderr().print(self.table())

    def __call__(self, progress: Progress) -> None:
        """Show the progress; ``report`` of :func:`ldct_denoise.training.loop.train`."""
        stage = f"{progress.stage}: " if progress.stage else ""
        self.bar.stage(f"{stage}{progress.activity}")
        if progress.validation:
            self._validations.append((progress.step, dict(progress.validation)))
        if progress.message and not (progress.validation and stderr().is_terminal):
            say(f"{stage}step {progress.step}: {progress.message}")
        if progress.losses:
            self._losses |= {f"loss: {name}": value for name, value in progress.losses.items()}
            self._step = progress.step
            if self._validations and self._validations[-1][0] == progress.step:
                self._validations[-1][1].update(self._losses)
        if progress.activity == "training":
            self.bar(progress.step, progress.steps)

    def table(self) -> RenderableType | None:
        """Losses and validation metrics: a column for each of the last validations and one for the latest step."""
        if not self._losses and not self._validations:
            return None
        from rich.table import Table

        shown = self._validations[-SHOWN_VALIDATIONS:]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("step", no_wrap=True)
        for step, _ in shown:
            table.add_column(str(step), justify="right")
        columns = [values for _, values in shown]
        if not shown or self._step > shown[-1][0]:
            table.add_column(f"{self._step} (latest)", justify="right")
            columns.append(self._losses)
        names = dict.fromkeys(name for values in columns for name in values)
        for name in sorted(names, key=lambda name: name.startswith("loss: ")):  # validation first
            table.add_row(name, *(f"{values[name]:.4g}" if name in values else "" for values in columns))
        return table
