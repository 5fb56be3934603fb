"""Dose labels, patients and low/normal pairs of the series of a tree.

Supported layouts are the Mayo 2016 challenge, TCIA's LDCT-and-Projection-data, and folders or files whose names
contain a dose (:mod:`~ldct_denoise.io.dose_words`). In the Mayo 2016 files the headers of both doses are equal
(same mAs, patient "Anonymous", empty description), so the dose and the patient come from the folders. Every label
states its source.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ldct_denoise.io.dose_words import (
    DEFAULT_PATTERNS,
    Dose,
    DosePatterns,
    dose_of,
    paired_patterns,
    without_dose,
)
from ldct_denoise.io.orientation import oriented_like
from ldct_denoise.io.patients import identify_patients, names_below, scan_path, study_uid
from ldct_denoise.io.slice_matching import match_slices, same_thickness
from ldct_denoise.io.volume_files import VolumeFile
from ldct_denoise.volume import SliceSource


@dataclass(frozen=True)
class LabelledSeries:
    """A series with its patient and dose.

    Parameters
    ----------
    series : SliceSource
    patient : str
        See :func:`~ldct_denoise.io.patients.identify_patients`.
    dose : Dose
    dose_source : str
        Where the dose label comes from, in words.
    patient_source : str
        Where the patient comes from, in words.
    scan_path : tuple of str
        Folders below the root without the words for a dose.
    names_dose : bool
        Whether a folder, or the user, states the dose: then equal scan paths are two doses of one scan.
    """

    series: SliceSource
    patient: str
    dose: Dose
    dose_source: str
    patient_source: str = ""
    scan_path: tuple[str, ...] = ()
    names_dose: bool = False

    def relabelled(self, dose: Dose, dose_source: str) -> LabelledSeries:
        """Return the series with the dose label that the user gave."""
        return replace(self, dose=dose, dose_source=dose_source, names_dose=True)


@dataclass(frozen=True)
class Pair:
    """A low- and a normal-dose series of one patient and kernel, with the slices that they share.

    Parameters
    ----------
    patient : str
    kernel : str
    low, normal : SliceSource
        The normal-dose series is presented with the axes of the low-dose one; see
        :func:`~ldct_denoise.io.orientation.oriented_like`.
    indices : tuple of (int, int)
        (low slice, normal slice) at the same position and orientation.
    """

    patient: str
    kernel: str
    low: SliceSource
    normal: SliceSource
    indices: tuple[tuple[int, int], ...]


def label_series(
    series: Iterable[SliceSource], root: Path, patterns: DosePatterns = DEFAULT_PATTERNS
) -> list[LabelledSeries]:
    """Label every series with its patient and dose.

    Parameters
    ----------
    series : iterable of SliceSource
    root : Path
        Path under which they were found; names above it are ignored.
    patterns : DosePatterns
        The user's own words for the doses.

    Returns
    -------
    list of LabelledSeries
        In the order of ``series``.
    """
    found = list(series)
    doses = label_doses(found, root, patterns)
    patients = identify_patients(found, [dose for dose, _ in doses], root)
    labelled = []
    for source, (dose, dose_source), patient in zip(found, doses, patients, strict=True):
        path, names_dose = scan_path(source, root)
        if is_dataclass(source):
            source = replace(source, patient=patient.name)
        labelled.append(LabelledSeries(source, patient.name, dose, dose_source, patient.source, path, names_dose))
    return labelled


# Dose -------------------------------------------------------------------------------------------------------


class _Clue(NamedTuple):
    """A text that states a dose; ``folder`` is the path of a folder below the root, else None."""

    dose: Dose
    origin: str
    text: str
    folder: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.origin} '{self.text}'"


def label_doses(
    series: Sequence[SliceSource], root: Path, patterns: DosePatterns = DEFAULT_PATTERNS
) -> list[tuple[Dose, str]]:
    """Dose of every series and where it comes from.

    The user's patterns decide first, then the description of a simulation, the folders from the innermost, the
    file name, and the series description. A folder that holds series of both doses, by their descriptions or inner
    folders, states none.

    Parameters
    ----------
    series : sequence of SliceSource
    root : Path
        Path under which they were found; names above it are ignored.
    patterns : DosePatterns
        The user's own words for the doses.

    Returns
    -------
    list of (Dose, str)
    """
    every_name = {name for source in series for name in names_below(source, root)}
    paired = paired_patterns(every_name)
    clues = [_clues(source, root, paired) for source in series]
    containers = _containers(series, root, clues)
    return [
        _by_pattern(source, root, patterns) or _simulated(source) or _decide(found, containers)
        for source, found in zip(series, clues, strict=True)
    ]


def _by_pattern(source: SliceSource, root: Path, patterns: DosePatterns) -> tuple[Dose, str] | None:
    names, description = names_below(source, root), source.metadata.description
    texts = [("folder", name) for name in reversed(names[:-1])]
    texts = [*(("file name", name) for name in names[-1:]), *texts, ("series description", description)]
    for origin, text in (*texts, ("path", "/".join(names))):
        matched = patterns.match(text)
        if matched:
            dose, pattern = matched
            return dose, f"--{dose}-pattern '{pattern}' in {origin} '{text}'"
    return None


def _simulated(source: SliceSource) -> tuple[Dose, str] | None:
    simulated = re.search(r"simulated (\d+(?:\.\d+)?) ?% dose", source.metadata.derivation)
    if not simulated:
        return None
    dose = Dose.LOW if float(simulated.group(1)) < 100 else Dose.NORMAL
    return dose, f"derivation '{simulated.group()}'"


def _clues(source: SliceSource, root: Path, paired: frozenset[str]) -> list[_Clue]:
    """Texts that state a dose, the most reliable first."""
    names = names_below(source, root)
    found = []
    for depth in reversed(range(len(names) - 1)):
        dose = dose_of(names[depth], paired, is_root=depth == 0)
        found.append(_Clue(dose, "folder", names[depth], tuple(names[: depth + 1])))
    found += [_Clue(dose_of(name, paired), "file name", name) for name in names[-1:]]
    description = source.metadata.description
    found.append(_Clue(dose_of(description, is_description=True), "series description", description))
    return [clue for clue in found if clue.dose is not Dose.UNKNOWN]


def _containers(
    series: Sequence[SliceSource], root: Path, clues: Sequence[Sequence[_Clue]]
) -> set[tuple[str, ...]]:
    """Folders that state one dose but hold series of both, by what is inside them."""
    inside: dict[tuple[str, ...], set[Dose]] = defaultdict(set)
    for source, found in zip(series, clues, strict=True):
        names = names_below(source, root)
        for depth in range(1, len(names)):
            folder = tuple(names[:depth])
            inner = [clue for clue in found if clue.folder is None or len(clue.folder) > depth]
            if inner:
                inside[folder].add(inner[0].dose)
    return {folder for folder, doses in inside.items() if len(doses) > 1}


def _decide(clues: Sequence[_Clue], containers: set[tuple[str, ...]]) -> tuple[Dose, str]:
    left = [clue for clue in clues if clue.folder not in containers]
    if not left:
        return Dose.UNKNOWN, "no dose in description or path"
    other = next((clue for clue in left[1:] if clue.dose is not left[0].dose), None)
    return left[0].dose, f"{left[0]}, against {other}" if other else str(left[0])


# Pairs ------------------------------------------------------------------------------------------------------


def find_pairs(labelled: Iterable[LabelledSeries]) -> tuple[Pair, ...]:
    """Find low- and normal-dose series of the same scan and reconstruction that share slices.

    They have the same patient, kernel, slice thickness and voxel grid, whose axes may run in another order. Series
    of different studies are paired only where their folders differ only in the dose. Of several partners, the
    best are used: of the same study, then with the same name except for the dose, then with the same spacing.
    """
    items = list(labelled)
    lows, normals = ([item for item in items if item.dose is dose] for dose in (Dose.LOW, Dose.NORMAL))
    found = [(low, normal, pair) for low in lows for normal in normals if (pair := _pair(low, normal)) is not None]
    for is_better in (_is_same_study, _has_same_name, _has_same_spacing):
        found = _best_partners(found, is_better)
    return tuple(pair for _, _, pair in found)


_Found = tuple[LabelledSeries, LabelledSeries, Pair]


def _best_partners(found: Sequence[_Found], is_better: Callable[[_Found], bool]) -> list[_Found]:
    """Drop the pairs of series that also have a better partner."""
    better = [is_better(one) for one in found]
    matched = {id(item) for one, good in zip(found, better, strict=True) if good for item in one[:2]}
    return [
        one
        for one, good in zip(found, better, strict=True)
        if good or matched.isdisjoint({id(one[0]), id(one[1])})
    ]


def _is_same_study(found: _Found) -> bool:
    first, second = (study_uid(item.series) for item in found[:2])
    return first != "" and first == second


def _has_same_name(found: _Found) -> bool:
    low, normal, _ = found
    equal_paths = low.names_dose and normal.names_dose and low.scan_path == normal.scan_path
    are_files = isinstance(low.series, VolumeFile) and isinstance(normal.series, VolumeFile)
    return names_match_except_dose(low.series, normal.series) if are_files else equal_paths


def _has_same_spacing(found: _Found) -> bool:
    pair = found[2]
    return math.isclose(pair.low.geometry.slice_spacing_mm, pair.normal.geometry.slice_spacing_mm, rel_tol=0.01)


def _pair(low: LabelledSeries, normal: LabelledSeries) -> Pair | None:
    kernel = low.series.metadata.kernel
    if (low.patient, kernel) != (normal.patient, normal.series.metadata.kernel):
        return None
    if not same_thickness(low.series, normal.series) or not _may_be_one_scan(low, normal):
        return None
    return match_pair(low, normal)


def match_pair(low: LabelledSeries, normal: LabelledSeries) -> Pair | None:
    """Match the slices of two series that are known to be a pair; None if they share no position."""
    oriented = oriented_like(normal.series, low.series.geometry)
    indices = match_slices(low.series.geometry, oriented.geometry)
    return Pair(low.patient, low.series.metadata.kernel, low.series, oriented, indices) if indices else None


def _may_be_one_scan(low: LabelledSeries, normal: LabelledSeries) -> bool:
    """Whether two series of a patient can be one scan: of one study, or in folders equal except for the dose."""
    studies = study_uid(low.series), study_uid(normal.series)
    if "" in studies or studies[0] == studies[1]:
        return True
    return low.names_dose and normal.names_dose and low.scan_path == normal.scan_path


def names_match_except_dose(first: SliceSource, second: SliceSource) -> bool:
    """Whether the names of two volume files are equal except for the dose: A_low and A_full, not B_full."""
    are_files = isinstance(first, VolumeFile) and isinstance(second, VolumeFile)
    return are_files and without_dose(first.name) == without_dose(second.name)
