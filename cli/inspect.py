"""``ldct-denoise inspect``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ldct_denoise.io.dose_words import DosePatterns
    from ldct_denoise.volume import SliceSource

COLUMNS = (
    "patient", "dose", "dose from", "kernel", "thickness mm", "slices", "matrix", "spacing mm", "encoding",
    "notes",
)  # fmt: skip


@click.command(short_help="List series, doses, pairs and skipped files.")
@click.argument("path", type=options.EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs (docs/reference/input.md).")
@click.option(
    "--write-manifest",
    type=options.PATH,
    metavar="FILE.csv",
    help="Write a table of the series, to be edited and given to train and compare as --manifest.",
)
@options.dose_patterns
@click.option("--files", is_flag=True, help="List every skipped file.")
@options.assume_hu
def command(
    path: Path,
    as_json: bool,
    write_manifest: Path | None,
    files: bool,
    assume_hu: bool,
    low_patterns: tuple[str, ...],
    normal_patterns: tuple[str, ...],
) -> None:
    """List every CT series at or below PATH: patient, dose and its source, kernel, size, gaps, low/normal pairs.

    PATH is a file, a folder or tree, a zip archive, or a DICOMDIR. docs/reference/input.md describes what is read
    and why files are skipped.
    """
    from ldct_denoise.io.dose_words import DosePatterns
    from ldct_denoise.io.inspect import describe_inventory, scan_for_inspect

    with terminal.progress_bar("examining files") as bar:
        patterns = DosePatterns(low_patterns, normal_patterns)
        inventory = scan_for_inspect(path, bar, assume_hu=assume_hu)
        found = describe_inventory(inventory, path, patterns)
    if write_manifest:
        _write_manifest(inventory.series, path, patterns, write_manifest)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    _print_series(found["series"])
    _print_pairs(found["pairs"])
    _print_skipped(found["skipped"], every_file=files)


def _write_manifest(series: Sequence[SliceSource], root: Path, patterns: DosePatterns, file: Path) -> None:
    from ldct_denoise.io.dose_labels import find_pairs, label_series
    from ldct_denoise.io.manifest import write_manifest
    from ldct_denoise.output import check_writable

    check_writable(file, overwrite=False)
    labelled = label_series(series, root, patterns)
    unknown = write_manifest(labelled, find_pairs(labelled), file)
    note = f"; {unknown} rows need a dose, or are to be deleted" if unknown else ""
    click.echo(f"{file}: {len(labelled)} series{note}", err=True)


def _print_series(series: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{len(series)} series", title_justify="left")
    for heading in COLUMNS:
        table.add_column(heading, overflow="fold")
    for one in series:
        spacing = "×".join(f"{value:g}" for value in one["spacing_mm"])
        row = [one["patient"], one["dose"], one["dose_source"], one["kernel"], _thickness(one), str(one["slices"])]
        row += [f"{one['rows']}×{one['columns']}", spacing, one["transfer_syntax"], "; ".join(one["problems"])]
        table.add_row(*(escape(terminal.plain(text)) for text in row))
    terminal.console().print(table)


def _print_pairs(pairs: list[dict[str, Any]]) -> None:
    _print(f"{len(pairs)} low/normal pairs of series, {sum(pair['slices'] for pair in pairs)} slice pairs")
    for pair in pairs:
        thickness = f" {_thickness(pair)} mm" if pair["slice_thickness_mm"] else ""
        _print(f"  {pair['patient']} {pair['kernel']}{thickness}: {pair['slices']} slices")


def _thickness(entry: dict[str, Any]) -> str:
    return f"{entry['slice_thickness_mm']:g}" if entry["slice_thickness_mm"] else ""


def _print_skipped(skipped: list[dict[str, Any]], every_file: bool) -> None:
    if skipped:
        _print(f"{len(skipped)} files skipped")
    if every_file:
        for item in skipped:
            _print(f"  {item['file']}: {item['reason']}")
    else:
        for reason, count in Counter(item["reason"] for item in skipped).most_common(12):
            _print(f"  {count} × {reason}")


def _print(line: str) -> None:
    from rich.markup import escape

    terminal.console().print(escape(terminal.plain(line)))
