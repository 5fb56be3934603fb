"""``ldct-denoise node``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options, terminal

if TYPE_CHECKING:
    from ldct_denoise.node.operator import Action, BatchStatus

SPOOL = click.argument("spool", metavar="RULES", type=options.EXISTING)
TARGET = click.argument("target", required=False, default="")


@click.group(short_help="List, retry, resend and pull series of a DICOM node.")
def command() -> None:
    """List and handle the series in a DICOM node, also while it runs.

    RULES is the node's YAML file, or the folder of its spool. A batch is the images that the node processes
    together: a series, or late images of one. TARGET is the name of a batch or series as `list` prints it, a
    Study or Series Instance UID, or an accession number.
    """


@command.command("list")
@SPOOL
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(spool: Path, as_json: bool) -> None:
    """List what is waiting, for how long, and why."""
    from ldct_denoise.node import operator
    from ldct_denoise.node.pull import list_pulls

    batches = operator.list_batches(_root(spool))
    if as_json:
        click.echo(operator.as_json(batches))
        return
    pulls = list_pulls(_root(spool))
    if not batches and not pulls:
        click.echo("nothing is waiting")
        return
    from rich.table import Table

    table = Table(title_justify="left")
    for heading in ("state", "batch", "accession", "images", "age", "reason"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("images", "age") else "left")
    for batch in batches:
        table.add_row(
            batch.state, batch.batch, batch.accession_number, str(batch.images), _age(batch.age_s), _reason(batch)
        )
    for pull in pulls:
        state = "pull" if pull.state == "waiting" else "pull failed"
        age = _age(time.time() - pull.added)
        table.add_row(state, f"from {pull.source}", pull.accession_number, "", age, pull.reason)
    terminal.console().print(table)


@command.command(short_help="Print all details of a batch.")
@SPOOL
@click.argument("target")
def show(spool: Path, target: str) -> None:
    """Print all details of a batch as JSON. They may contain patient data from the headers."""
    from ldct_denoise.errors import InputError
    from ldct_denoise.node import operator

    found = [batch for batch in operator.list_batches(_root(spool)) if batch.is_meant_by(target)]
    if not found:
        raise InputError(f"nothing in the spool fits {target!r}; `node list` shows what is there")
    click.echo(operator.as_json(found))


@command.command()
@click.argument("rules", type=options.EXISTING)
@click.argument("source")
@click.argument("accession_numbers", metavar="ACCESSION...", nargs=-1)
@click.option("--file", type=options.EXISTING, help="Text file with one accession number on each line.")
def pull(rules: Path, source: str, accession_numbers: tuple[str, ...], file: Path | None) -> None:
    """Pull CT series from a source of RULES by accession number.

    A running node retrieves them one after the other, and processes them by its rules. Otherwise it does so at
    its next start. `list` shows the requests that are not finished. To repeat a failed request, give it again.
    """
    from ldct_denoise.errors import ConfigError
    from ldct_denoise.node.pull import add_pulls
    from ldct_denoise.node.rules import load_rules

    settings = load_rules(rules)
    if source not in settings.sources:
        raise ConfigError(f"{rules}: no source {source!r}; known: {', '.join(settings.sources) or 'none'}")
    lines = file.read_text().splitlines() if file else []
    numbers = [*accession_numbers, *filter(None, map(str.strip, lines))]
    if not numbers:
        raise click.UsageError("give accession numbers, or --file")
    add_pulls(settings.spool, source, numbers)
    click.echo(f"{len(numbers)} requests; ldct-denoise node list {rules} shows those that are not done")


@command.command(short_help="Try dead letters and waiting batches again.")
@SPOOL
@TARGET
def retry(spool: Path, target: str) -> None:
    """Try dead letters and waiting batches again now. Without TARGET: all of them."""
    _act(spool, "retry", target)


@command.command(short_help="Send a batch again to all its destinations.")
@SPOOL
@click.argument("target")
def resend(spool: Path, target: str) -> None:
    """Send a batch in the spool again, including images that its destinations already have."""
    _act(spool, "resend", target)


@command.command(short_help="Forget the delivery of a series.")
@SPOOL
@click.argument("target")
def forget(spool: Path, target: str) -> None:
    """Forget the delivery of a series, so that the node delivers it again when it receives it again."""
    _act(spool, "forget", target)


@command.command(short_help="Close series without waiting for more images.")
@SPOOL
@TARGET
def complete(spool: Path, target: str) -> None:
    """Close series without waiting for more images. Without TARGET: all of them."""
    _act(spool, "complete", target)


def _act(spool: Path, action: Action, target: str) -> None:
    from ldct_denoise.node import operator

    for line in operator.request(_root(spool), action, target) or ["nothing to do"]:
        click.echo(line)


def _root(path: Path) -> Path:
    """Folder of the spool, which a rules file names."""
    if path.is_dir():
        return path
    from ldct_denoise.node.rules import load_rules

    return load_rules(path).spool


def _reason(batch: BatchStatus) -> str:
    waiting = [f"{name} {state}" for name, state in batch.deliveries.items() if state != "sent"]
    return "; ".join(filter(None, [batch.reason, *waiting]))


def _age(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
