"""``ldct-denoise inspect``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from . import options

COLUMNS = ("patient", "dose", "dose from", "kernel", "slices", "matrix", "spacing mm", "encoding", "notes")


@click.command(short_help="What is there: series, doses, pairs, and skipped files.")
@click.argument("path", type=options.EXISTING)
@click.option("--json", "as_json", is_flag=True, help="For machines: one object (docs/inspect.md).")
@click.option("--files", is_flag=True, help="List every skipped file.")
def command(path: Path, as_json: bool, files: bool) -> None:
    """Show every CT series at or below PATH: patient, dose and how it was told, kernel, size, gaps, pairs.

    PATH is a file, a folder or tree, a zip archive, or a DICOMDIR. docs/inspect.md says what is read, and why
    files are skipped.
    """
    from ldct_denoise.io.inspect import inspect

    with options.progress_bar("looking") as bar:
        found = inspect(path, lambda done, total: bar(done, total, ""))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    _print(found, files)


def _print(found: dict[str, Any], files: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = options.console()
    table = Table(title=f"{len(found['series'])} series", title_justify="left")
    for heading in COLUMNS:
        table.add_column(heading, overflow="fold")
    for one in found["series"]:
        spacing = "×".join(f"{value:g}" for value in one["spacing_mm"])
        row = [one["patient"], one["dose"], one["dose_source"], one["kernel"], str(one["slices"])]
        row += [f"{one['rows']}×{one['columns']}", spacing, one["transfer_syntax"], "; ".join(one["problems"])]
        table.add_row(*(escape(options.plain(text)) for text in row))
    console.print(table)
    pairs = found["pairs"]
    console.print(f"{len(pairs)} low/normal pairs of series, {sum(pair['slices'] for pair in pairs)} slice pairs")
    for pair in pairs:
        console.print(escape(options.plain(f"  {pair['patient']} {pair['kernel']}: {pair['slices']} slices")))
    aside = found["skipped"]
    if aside:
        console.print(f"{len(aside)} files skipped")
    if files:
        for item in aside:
            console.print(escape(options.plain(f"  {item['file']}: {item['reason']}")))
    else:
        for reason, count in Counter(item["reason"] for item in aside).most_common(12):
            console.print(escape(options.plain(f"  {count} × {reason}")))
