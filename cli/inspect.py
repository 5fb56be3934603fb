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

#: Columns of the table of series; a series has its path, and what else is to be known, on lines below its row.
COLUMNS = ("patient", "dose", "kernel", "thick mm", "slices", "matrix", "pixel mm", "encoding")
#: Columns are not wider than this, so that a row fits into 80 characters.
WIDEST = (16, 7, 8, 8, 6, 9, 13, 12)
#: Short names of encodings, by the beginning of the transfer syntax's name.
ENCODINGS = {
    "JPEG 2000": "JPEG 2000",
    "JPEG-LS": "JPEG-LS",
    "JPEG XL": "JPEG XL",
    "JPEG": "JPEG",
    "High-Throughput": "HTJ2K",
    "RLE": "RLE",
    "Deflated": "deflated",
    "Explicit VR": "plain",
    "Implicit VR": "plain",
}


@click.command(short_help="List series, doses, pairs and skipped files.")
@click.argument("path", type=options.EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/reference/input.md).")
@click.option(
    "--write-manifest",
    type=options.PATH,
    metavar="FILE.csv",
    help="Write a table of the series. After editing, give it to train or compare as --manifest.",
)
@options.dose_patterns
@click.option("--files", is_flag=True, help="Also list every skipped file.")
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
    """List every CT series in PATH with its patient, dose, kernel, size and gaps, and all low/normal pairs.

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
    rows = [COLUMNS, *map(_row, series)]
    longest = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths = [min(both) for both in zip(longest, WIDEST, strict=True)]
    cut = [[_cut(text, width) for text, width in zip(row, widths, strict=True)] for row in rows]
    heading, *lines = map("  ".join, cut)
    click.echo(f"{len(series)} series")
    if series:
        click.echo(heading.rstrip())
    for one, line in zip(series, lines, strict=True):
        click.echo(terminal.plain(line.rstrip()))
        click.echo(f"  {terminal.plain(one['folder'])}")
        if one["dose_source"]:
            how = "dose unknown:" if one["dose"] == "unknown" else "dose from"
            click.echo(f"  {how} {terminal.plain(one['dose_source'])}")
        for problem in one["problems"]:
            click.echo(f"  problem: {terminal.plain(problem)}")
    if series:
        click.echo("Give the path below a row to `ldct-denoise apply`.")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    rows_mm, columns_mm = one["spacing_mm"][1:]
    pixel = f"{rows_mm:.3g}" if rows_mm == columns_mm else f"{rows_mm:.3g}×{columns_mm:.3g}"
    matrix = f"{one['rows']}×{one['columns']}"
    return (
        one["patient"], one["dose"], one["kernel"], _thickness(one), str(one["slices"]), matrix, pixel,
        _encoding(one["transfer_syntax"]),
    )  # fmt: skip


def _encoding(transfer_syntax: str) -> str:
    short = (name for start, name in ENCODINGS.items() if transfer_syntax.startswith(start))
    return next(short, transfer_syntax)


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def _print_pairs(pairs: list[dict[str, Any]]) -> None:
    click.echo(f"{len(pairs)} low/normal pairs of series, {sum(pair['slices'] for pair in pairs)} slice pairs")
    for pair in pairs:
        thickness = f" {_thickness(pair)} mm" if pair["slice_thickness_mm"] else ""
        click.echo(terminal.plain(f"  {pair['patient']} {pair['kernel']}{thickness}: {pair['slices']} slices"))


def _thickness(entry: dict[str, Any]) -> str:
    return f"{entry['slice_thickness_mm']:g}" if entry["slice_thickness_mm"] else ""


def _print_skipped(skipped: list[dict[str, Any]], every_file: bool) -> None:
    if skipped:
        click.echo(f"{len(skipped)} files skipped")
    if every_file:
        for item in skipped:
            click.echo(terminal.plain(f"  {item['file']}: {item['reason']}"))
    else:
        for reason, count in Counter(item["reason"] for item in skipped).most_common(12):
            click.echo(terminal.plain(f"  {count} × {reason}"))
