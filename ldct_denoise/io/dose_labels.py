"""Dose labels, patients and low/normal pairs.

Supported layouts are the Mayo 2016 challenge, TCIA's LDCT-and-Projection-data, and folders or files whose names
contain ``low`` or ``normal``. In the Mayo 2016 files the headers of both doses are equal (same mAs, patient
"Anonymous", empty description), so the dose comes from the name of the folder or file, and the patient from the
folder. Every label states its source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from enum import StrEnum
from itertools import takewhile
from pathlib import Path

from ldct_denoise.io.volume_files import VOLUME_SUFFIXES, VolumeFile
from ldct_denoise.slice_matching import match_slices
from ldct_denoise.volume import SliceSource


class Dose(StrEnum):
    """Dose label of a series."""

    LOW = "low"
    NORMAL = "normal"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class LabelledSeries:
    """A series with its patient and dose.

    Parameters
    ----------
    series : SliceSource
    patient : str
        Patient ID, or a name from the path; see :func:`label_series`.
    dose : Dose
    dose_source : str
        Where the dose label comes from, in words.
    """

    series: SliceSource
    patient: str
    dose: Dose
    dose_source: str

    def relabelled(self, dose: Dose, dose_source: str) -> LabelledSeries:
        """Return the series with another dose label."""
        return replace(self, dose=dose, dose_source=dose_source)


@dataclass(frozen=True)
class Pair:
    """A low- and a normal-dose series of one patient and kernel, with the slices that they share.

    Parameters
    ----------
    patient : str
    kernel : str
    low, normal : SliceSource
    indices : tuple of (int, int)
        (low slice, normal slice) at the same position and orientation.
    """

    patient: str
    kernel: str
    low: SliceSource
    normal: SliceSource
    indices: tuple[tuple[int, int], ...]


#: Words that name a dose: `quarter_3mm`, `L143_QD_3_1.CT…`, `1.000000-Low Dose Images-71581`.
_DOSE_WORDS = {
    Dose.LOW: re.compile(r"(?<![a-z])(quarter|qd|low|ldct|lowdose|low[ _-]?dose)(?![a-z])", re.IGNORECASE),
    Dose.NORMAL: re.compile(
        r"(?<![a-z])(full|fd|normal|ndct|routine|fulldose|full[ _-]?dose|normal[ _-]?dose)(?![a-z])", re.IGNORECASE
    ),
}
#: Case numbers of the two collections: L096, C002.
_CASE_NUMBER = re.compile(r"^[A-Z]{1,2}\d{3,4}$")
_ANONYMOUS = {"", "anonymous", "anon", "unknown", "none", "0"}


def label_series(series: Iterable[SliceSource], root: Path) -> list[LabelledSeries]:
    """Label every series with its patient and dose.

    Parameters
    ----------
    series : iterable of SliceSource
    root : Path
        Path under which they were found; names above it are ignored.
    """
    found = list(series)
    shared = _shared_patient_ids(found, root)
    depth = _container_depth(found, root)
    labelled = []
    for source in found:
        dose, dose_source = dose_label(source, root)
        patient = _patient(source, root, shared, depth)
        if is_dataclass(source):
            source = replace(source, patient=patient)
        labelled.append(LabelledSeries(source, patient, dose, dose_source))
    return labelled


# Dose -------------------------------------------------------------------------------------------------------


def dose_label(source: SliceSource, root: Path) -> tuple[Dose, str]:
    """Dose of a series and where it comes from.

    The description of a simulation is searched first, then the series description, the folders and the file name.

    Parameters
    ----------
    source : SliceSource
    root : Path
        Path under which it was found; names above it are ignored.
    """
    simulated = re.search(r"simulated (\d+(?:\.\d+)?) ?% dose", source.metadata.derivation)
    if simulated:
        dose = Dose.LOW if float(simulated.group(1)) < 100 else Dose.NORMAL
        return dose, f"derivation '{simulated.group()}'"
    for text, origin in _dose_clues(source, root):
        doses = [dose for dose, words in _DOSE_WORDS.items() if words.search(text)]
        if len(doses) == 1:
            return doses[0], f"{origin} '{text}'"
    return Dose.UNKNOWN, "no dose in description or path"


def _dose_clues(source: SliceSource, root: Path) -> list[tuple[str, str]]:
    """Texts that may name the dose, the most reliable first, each with its origin."""
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


def _without_dose(name: str) -> str:
    """Name of a folder or a volume file, without its suffix and the words for a dose."""
    stem = next((name[: -len(end)] for end in VOLUME_SUFFIXES if name.lower().endswith(end)), name)
    for words in _DOSE_WORDS.values():
        stem = words.sub("", stem)
    return re.sub(r"([ _.-])[ _.-]+", r"\1", stem).strip(" _.-")


# Patient ----------------------------------------------------------------------------------------------------


def _patient(source: SliceSource, root: Path, shared: set[str], depth: int) -> str:
    """Patient of a series: the case number in its path, else the Patient ID, else a name from its path."""
    case_number = _case_number(source, root)
    if case_number:
        return case_number
    if isinstance(source, VolumeFile):
        return _patient_of_file(source, root, depth)
    if source.patient.strip().lower() in _ANONYMOUS or source.patient in shared:
        return _first_folder(source, root) or source.patient
    return source.patient


def _case_number(source: SliceSource, root: Path) -> str:
    """Name of the folder (or of the root) that is a case number; empty where none is."""
    names = _names_below(source, root)[:-1]
    return next((name for name in names if _CASE_NUMBER.match(name)), "")


def _first_folder(source: SliceSource, root: Path) -> str:
    names = _names_below(source, root)[1:-1]
    return names[0] if len(names) > 1 else ""


def _shared_patient_ids(series: Sequence[SliceSource], root: Path) -> set[str]:
    """Patient IDs found in the folders of several case numbers: they identify nobody."""
    case_numbers: dict[str, set[str]] = {}
    for source in series:
        case_number = _case_number(source, root)
        if case_number:
            case_numbers.setdefault(source.patient, set()).add(case_number)
    return {patient for patient, names in case_numbers.items() if len(names) > 1}


def _patient_of_file(source: VolumeFile, root: Path, depth: int) -> str:
    """Patient of a volume file: its innermost folder below the common ones, else the file; without dose words."""
    stem = _without_dose(source.name)
    if source.path.resolve() == root.resolve():  # the file itself was given
        return "/".join(filter(None, (_without_dose(source.patient), stem))) or source.patient
    folders = _folders(source, root)[depth:]
    return folders[-1] if folders else stem or source.patient


def _container_depth(series: Iterable[SliceSource], root: Path) -> int:
    """Number of folder levels that all volumes share, as `train` in train/low/A: they name no patient."""
    volumes = [source for source in series if isinstance(source, VolumeFile)]
    if len({_without_dose(source.name) for source in volumes}) < 2:
        return 0  # the file names do not distinguish the patients either
    levels = zip(*(_folders(source, root) for source in volumes), strict=False)
    return sum(1 for _ in takewhile(lambda names: len({*names}) == 1, levels))


def _folders(source: VolumeFile, root: Path) -> tuple[str, ...]:
    """Folders of a volume below the root, without dose words and without folders that name only a dose."""
    names = (_without_dose(name) for name in _names_below(source, root)[1:-1])
    return tuple(name for name in names if name)


# Pairs ------------------------------------------------------------------------------------------------------


def find_pairs(labelled: Iterable[LabelledSeries]) -> tuple[Pair, ...]:
    """Find low- and normal-dose series of the same patient, kernel and pixel grid that share slices.

    Where the names of some volumes of a patient match except for the dose, only these are paired.
    """
    items = list(labelled)
    lows, normals = ([item for item in items if item.dose is dose] for dose in (Dose.LOW, Dose.NORMAL))
    pairs = [pair for low in lows for normal in normals if (pair := _pair(low, normal))]
    matched = {pair.patient for pair in pairs if names_match_except_dose(pair.low, pair.normal)}
    return tuple(
        pair for pair in pairs if pair.patient not in matched or names_match_except_dose(pair.low, pair.normal)
    )


def _pair(low: LabelledSeries, normal: LabelledSeries) -> Pair | None:
    kernel = low.series.metadata.kernel
    if (low.patient, kernel) != (normal.patient, normal.series.metadata.kernel):
        return None
    indices = match_slices(low.series.geometry, normal.series.geometry)
    return Pair(low.patient, kernel, low.series, normal.series, indices) if indices else None


def names_match_except_dose(first: SliceSource, second: SliceSource) -> bool:
    """Whether the names of two volume files are equal but for the dose: A_low and A_full, not B_full."""
    are_files = isinstance(first, VolumeFile) and isinstance(second, VolumeFile)
    return are_files and _without_dose(first.name) == _without_dose(second.name)
