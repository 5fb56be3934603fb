"""Dose labels, patients and pairs: the layouts of the Mayo 2016 challenge and of TCIA's LDCT-and-Projection-data.

In the Mayo 2016 files the headers of both doses are alike (same mAs, patient "Anonymous", empty description), so
the dose is told by folder or file name and the patient by the folder. Every label says how it was told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from enum import StrEnum
from itertools import takewhile
from pathlib import Path

from ldct_denoise.io.volume_files import VOLUME_SUFFIXES, FileSeries
from ldct_denoise.slice_matching import match_slices
from ldct_denoise.volume import SliceSource


class Dose(StrEnum):
    """The pool that a series belongs to."""

    LOW = "low"
    NORMAL = "normal"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class LabelledSeries:
    """A series, whose it is, its dose, and how that was told."""

    series: SliceSource
    patient: str
    dose: Dose
    dose_source: str

    def relabelled(self, dose: Dose, dose_source: str) -> LabelledSeries:
        """The same series with a dose that the user gave."""
        return replace(self, dose=dose, dose_source=dose_source)


@dataclass(frozen=True)
class Pair:
    """A low- and a normal-dose series of one patient and kernel, and which of their slices lie at the same place.

    Parameters
    ----------
    indices : tuple of (int, int)
        (low slice, normal slice) at the same position and orientation.
    """

    patient: str
    kernel: str
    low: SliceSource
    normal: SliceSource
    indices: tuple[tuple[int, int], ...]


# What names a dose, as a word of its own: `quarter_3mm`, `L143_QD_3_1.CT…`, `1.000000-Low Dose Images-71581`.
_WORDS = {
    Dose.LOW: re.compile(r"(?<![a-z])(quarter|qd|low|ldct|lowdose|low[ _-]?dose)(?![a-z])", re.IGNORECASE),
    Dose.NORMAL: re.compile(
        r"(?<![a-z])(full|fd|normal|ndct|routine|fulldose|full[ _-]?dose|normal[ _-]?dose)(?![a-z])", re.IGNORECASE
    ),
}
_PATIENT = re.compile(r"^[A-Z]{1,2}\d{3,4}$")
_ANONYMOUS = {"", "anonymous", "anon", "unknown", "none", "0"}


def label_series(series: Iterable[SliceSource], root: Path) -> list[LabelledSeries]:
    """Tell each series' patient and dose.

    Parameters
    ----------
    series : iterable of SliceSource
    root : Path
        Where they were found: names above it tell nothing.
    """
    found = list(series)
    shared = _shared_ids(found, root)
    container = _container(found, root)
    labelled = []
    for source in found:
        dose, how = dose_label(source, root)
        patient = _patient(source, root, shared, container)
        if is_dataclass(source):
            source = replace(source, patient=patient)
        labelled.append(LabelledSeries(source, patient, dose, how))
    return labelled


def dose_label(source: SliceSource, root: Path) -> tuple[Dose, str]:
    """The dose and how it was told: description of a simulation, series description, folder, then file name."""
    described = source.metadata.derivation
    simulated = re.search(r"simulated (\d+(?:\.\d+)?) ?% dose", described)
    if simulated:
        return (Dose.LOW if float(simulated.group(1)) < 100 else Dose.NORMAL), f"derivation '{simulated.group()}'"
    for text, where in _clues(source, root):
        told = [dose for dose, words in _WORDS.items() if words.search(text)]
        if len(told) == 1:
            return told[0], f"{where} '{text}'"
    return Dose.UNKNOWN, "neither description nor path says"


def _clues(source: SliceSource, root: Path) -> list[tuple[str, str]]:
    """Texts that may name the dose, the surest first."""
    description = source.metadata.description
    clues = [(description, "series description")] if description else []
    names = _names_below(source, root)
    clues += [(name, "folder") for name in reversed(names[:-1])]
    return [*clues, *((name, "file name") for name in names[-1:])]


def _names_below(source: SliceSource, root: Path) -> list[str]:
    """Names of the folders from ``root`` (included) down to the first file (included)."""
    path = source.metadata.first_file
    if path is None:
        return []
    path, root = path.resolve(), root.resolve()
    below = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-3:]
    root_name = root.stem if root.is_file() else root.name  # an archive's name without its suffix
    return [*([root_name] if path != root else []), *(below or (path.name,))]


def _shared_ids(series: Sequence[SliceSource], root: Path) -> set[str]:
    """Patient IDs that stand in folders of different patients: they tell nothing."""
    folders: dict[str, set[str]] = {}
    for source in series:
        folder = _patient_folder(source, root)
        if folder:
            folders.setdefault(source.patient, set()).add(folder)
    return {patient for patient, names in folders.items() if len(names) > 1}


def _patient(source: SliceSource, root: Path, shared: set[str], container: int) -> str:
    folder = _patient_folder(source, root)
    if not folder and isinstance(source, FileSeries):
        return _file_patient(source, root, container)
    if source.patient.strip().lower() in _ANONYMOUS or source.patient in shared:
        return folder or _first_folder(source, root) or source.patient
    # The folder tells it where it is a case number of the two collections: it is what their papers cite.
    return folder or source.patient


def _file_patient(source: FileSeries, root: Path, container: int) -> str:
    """Whose a volume is: what its folder below the containers is called besides a dose, else the file."""
    stem = _without_dose(source.name)
    if source.path.resolve() == root.resolve():  # a file that was named, by folder and file
        return "/".join(filter(None, (_without_dose(source.patient), stem))) or source.patient
    named = _folders(source, root)[container:]
    return named[-1] if named else stem or source.patient


def _container(series: Iterable[SliceSource], root: Path) -> int:
    """How many folders below the root are no patient's, as `train` of train/low/A: all volumes share them."""
    volumes = [source for source in series if isinstance(source, FileSeries)]
    if len({_without_dose(source.name) for source in volumes}) < 2:
        return 0  # nor are they told apart by the files
    levels = zip(*(_folders(source, root) for source in volumes), strict=False)
    return sum(1 for _ in takewhile(lambda names: len({*names}) == 1, levels))


def _folders(source: FileSeries, root: Path) -> tuple[str, ...]:
    """A volume's folders below the root, less the words for a dose; what is then left of none is left out."""
    named = (_without_dose(name) for name in _names_below(source, root)[1:-1])
    return tuple(name for name in named if name)


def _without_dose(name: str) -> str:
    """What a folder or a volume file is called, less the words that tell a dose."""
    stem = next((name[: -len(end)] for end in VOLUME_SUFFIXES if name.lower().endswith(end)), name)
    for words in _WORDS.values():
        stem = words.sub("", stem)
    return re.sub(r"([ _.-])[ _.-]+", r"\1", stem).strip(" _.-")


def _patient_folder(source: SliceSource, root: Path) -> str:
    """The folder (or the root's name) that is a case number, as L096 or C002; nothing where none is."""
    names = _names_below(source, root)[:-1]
    return next((name for name in names if _PATIENT.match(name)), "")


def _first_folder(source: SliceSource, root: Path) -> str:
    names = _names_below(source, root)[1:-1]
    return names[0] if len(names) > 1 else ""


def _pair(low: LabelledSeries, normal: LabelledSeries) -> Pair | None:
    kernel = low.series.metadata.kernel
    if (low.patient, kernel) != (normal.patient, normal.series.metadata.kernel):
        return None
    indices = match_slices(low.series.geometry, normal.series.geometry)
    return Pair(low.patient, kernel, low.series, normal.series, indices) if indices else None


def names_match_except_dose(first: SliceSource, second: SliceSource) -> bool:
    """Whether two volumes are called alike besides the dose: A_low and A_full, not B_full."""
    both = isinstance(first, FileSeries) and isinstance(second, FileSeries)
    return both and _without_dose(first.name) == _without_dose(second.name)


def _named_alike(pair: Pair) -> bool:
    return names_match_except_dose(pair.low, pair.normal)


def find_pairs(labelled: Iterable[LabelledSeries]) -> tuple[Pair, ...]:
    """Low- and normal-dose series of the same patient, kernel and pixels, with slices at the same place.

    Where a patient has volumes that are called alike, only those.
    """
    items = list(labelled)
    lows, normals = ([item for item in items if item.dose is dose] for dose in (Dose.LOW, Dose.NORMAL))
    fitting = [pair for low in lows for normal in normals if (pair := _pair(low, normal))]
    alike = {pair.patient for pair in fitting if _named_alike(pair)}
    return tuple(pair for pair in fitting if pair.patient not in alike or _named_alike(pair))
