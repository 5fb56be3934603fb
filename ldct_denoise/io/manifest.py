"""A table of series for training and comparison: patient, dose, split and pair of each, edited by hand."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path

from ldct_denoise.errors import InputError
from ldct_denoise.io.dose_labels import LabelledSeries, Pair, find_pairs, match_pair
from ldct_denoise.io.dose_words import Dose
from ldct_denoise.io.find import find_images
from ldct_denoise.io.manifest_rows import SPLITS, ManifestRow, read_decathlon
from ldct_denoise.output import atomic_write
from ldct_denoise.volume import SliceSource

#: Columns of the table; ``path`` and ``dose`` are required.
COLUMNS = ("patient", "path", "series_uid", "dose", "kernel", "split", "pair")


@dataclass(frozen=True)
class Manifest:
    """The series of a manifest.

    Parameters
    ----------
    file : Path
    series : tuple of (LabelledSeries, ManifestRow)
    """

    file: Path
    series: tuple[tuple[LabelledSeries, ManifestRow], ...]

    def labelled(self, *splits: str) -> list[LabelledSeries]:
        """Series of these splits; of all where none is given."""
        return [item for item, row in self.series if not splits or row.split in splits]

    def pairs(self, *splits: str) -> tuple[Pair, ...]:
        """Pairs of these splits: those that rows name, then those found among the other rows.

        Raises
        ------
        InputError
            If two rows that name a pair share no slice position.
        """
        chosen = [(item, row) for item, row in self.series if not splits or row.split in splits]
        named: dict[str, dict[Dose, tuple[LabelledSeries, ManifestRow]]] = defaultdict(dict)
        for item, row in chosen:
            if row.pair:
                named[row.pair][row.dose] = (item, row)
        found = [self._named_pair(name, both) for name, both in named.items() if len(both) == 2]
        return (*found, *find_pairs([item for item, row in chosen if not row.pair]))

    def _named_pair(self, name: str, both: dict[Dose, tuple[LabelledSeries, ManifestRow]]) -> Pair:
        (low, row), (normal, other) = both[Dose.LOW], both[Dose.NORMAL]
        pair = match_pair(low, normal)
        if pair is None:
            raise InputError(
                f"{self.file}, lines {row.line} and {other.line}: the series of pair {name!r} share no slice "
                "position"
            )
        return pair


def read_manifest(file: Path) -> list[ManifestRow]:
    """Read the rows of a manifest, without opening the images.

    Parameters
    ----------
    file : Path
        CSV in UTF-8 with a header; separated by commas, semicolons or tabs. Or JSON in the form of the Medical
        Segmentation Decathlon (``dataset.json`` of MONAI). Relative paths start at its folder.

    Returns
    -------
    list of ManifestRow

    Raises
    ------
    InputError
        If it cannot be read; if a column, dose or split is unknown; if a patient is in two splits; or if a pair is
        not one low-dose and one normal-dose series.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({type(error).__name__}); give a CSV file in UTF-8") from None
    if file.suffix.lower() == ".json":
        rows = read_decathlon(file, text)
        _check(file, rows)
        return rows
    first = (text.splitlines() or [""])[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    unknown = [name for name in names if name not in COLUMNS]
    missing = [name for name in ("path", "dose") if name not in names]
    if unknown or missing:
        problem = f"unknown column {unknown[0]!r}" if unknown else f"no column {missing[0]!r}"
        raise InputError(f"{file}: {problem}; the columns are {', '.join(COLUMNS)}")
    reader.fieldnames = names
    rows = [
        _row(file, reader.line_num, values)
        for values in reader
        if any((text or "").strip() for text in _texts(values))
    ]
    if not rows:
        raise InputError(f"{file}: no row")
    _check(file, rows)
    return rows


def _texts(values: dict[str, str | None]) -> list[str | None]:
    return [text for key, text in values.items() if key is not None and not isinstance(text, list)]


def _row(file: Path, line: int, values: dict[str, str | None]) -> ManifestRow:
    if None in values:
        raise InputError(f"{file}, line {line}: more fields than columns; quote texts that contain the separator")
    cells = {name: (values.get(name) or "").strip() for name in COLUMNS}
    doses = {"low": Dose.LOW, "normal": Dose.NORMAL}
    if not cells["path"]:
        raise InputError(f"{file}, line {line}: no path")
    if cells["dose"].lower() not in doses:
        raise InputError(f"{file}, line {line}: dose {cells['dose']!r}; write low or normal, or delete the row")
    split = cells["split"].lower()
    split = {"val": "validation", "training": "train"}.get(split, split)
    if split and split not in SPLITS:
        raise InputError(f"{file}, line {line}: split {split!r}; write {', '.join(SPLITS)}, or nothing")
    path = file.parent / Path(cells["path"]).expanduser()
    if not path.exists():
        raise InputError(
            f"{file}, line {line}: {path} does not exist; relative paths start at the manifest's folder"
        )
    return ManifestRow(
        line, path, doses[cells["dose"].lower()], cells["patient"], cells["series_uid"], cells["kernel"], split,
        cells["pair"],
    )  # fmt: skip


def _check(file: Path, rows: Sequence[ManifestRow]) -> None:
    """Refuse a patient in two splits, and pairs that are not one low-dose and one normal-dose series."""
    splits: dict[str, ManifestRow] = {}
    for row in rows:
        known = splits.setdefault(row.patient, row) if row.patient else row
        if known.split != row.split:
            raise InputError(
                f"{file}, lines {known.line} and {row.line}: patient {row.patient!r} is in two splits, "
                f"{known.split or 'none'} and {row.split or 'none'}; a patient belongs to one"
            )
    pairs: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        if row.pair:
            pairs[row.pair].append(row)
    for name, members in pairs.items():
        if sorted(row.dose for row in members) != sorted((Dose.LOW, Dose.NORMAL)):
            lines = ", ".join(str(row.line) for row in members)
            raise InputError(f"{file}, lines {lines}: pair {name!r} needs one row of low and one of normal dose")


def open_manifest(file: Path, *, assume_hu: bool = False) -> Manifest:
    """Read a manifest and find its series.

    Parameters
    ----------
    file : Path
    assume_hu : bool
        Take the values of images for HU where header or values speak against it.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        As :func:`read_manifest`; or if a row fits no series, or a row of a pair more than one.
    """
    rows = read_manifest(file)
    found: dict[Path, Sequence[SliceSource]] = {}
    series: list[tuple[LabelledSeries, ManifestRow]] = []
    for row in rows:
        if row.path not in found:
            found[row.path] = find_images(row.path, assume_hu=assume_hu).series
        chosen = [source for source in found[row.path] if _fits(source, row)]
        if not chosen or (row.pair and len(chosen) > 1):
            problem = f"{len(chosen)} of {len(found[row.path])} series at {row.path} fit"
            raise InputError(f"{file}, line {row.line}: {problem}; series_uid and kernel choose one")
        series += [(_labelled(source, row, file), row) for source in chosen]
    return Manifest(file, tuple(series))


def _fits(source: SliceSource, row: ManifestRow) -> bool:
    is_series = row.series_uid in ("", source.uid)
    return is_series and row.kernel in ("", source.metadata.kernel)


def _labelled(source: SliceSource, row: ManifestRow, file: Path) -> LabelledSeries:
    if row.patient and is_dataclass(source):
        source = replace(source, patient=row.patient)
    patient, where = row.patient or source.patient, f"{file.name}, line {row.line}"
    return LabelledSeries(source, patient, row.dose, where, where, names_dose=True)


def write_manifest(labelled: Iterable[LabelledSeries], pairs: Iterable[Pair], file: Path) -> int:
    """Write a manifest of series, to be edited by hand.

    Parameters
    ----------
    labelled : iterable of LabelledSeries
    pairs : iterable of Pair
        Found among them.
    file : Path
        Replaced where it exists. Paths below its folder are written relative to it.

    Returns
    -------
    int
        Number of series without a dose, whose rows need one.
    """
    numbers: dict[str, str] = {}
    for number, pair in enumerate(pairs, 1):
        for source in (pair.low, pair.normal):
            key = _key(source)
            numbers[key] = "" if key in numbers else str(number)  # in two pairs: found anew when it is read
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    unknown = 0
    for item in labelled:
        source, metadata = item.series, item.series.metadata
        dose = "" if item.dose is Dose.UNKNOWN else item.dose.value
        unknown += not dose
        path = _relative(Path(str(metadata.path)).absolute(), file.absolute().parent)
        writer.writerow([item.patient, path, source.uid, dose, metadata.kernel, "", numbers.get(_key(source), "")])
    atomic_write(file, lambda part: part.write_text(buffer.getvalue(), encoding="utf-8"))
    return unknown


def _key(source: SliceSource) -> str:
    return f"{source.uid}\0{source.metadata.path}"


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
