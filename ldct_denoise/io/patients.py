"""Which patient a series is of: the Patient ID where it identifies one, else the folder that differs."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ldct_denoise.io.dose_words import Dose, has_dose, tokens, without_dose, word_set
from ldct_denoise.io.volume_files import VolumeFile
from ldct_denoise.volume import SliceSource

#: Patient IDs that anonymisers and scanners write for everybody; compared in lower case, letters and digits only.
PLACEHOLDER_IDS = word_set(
    "anon anonym anonymised anonymisedpatient anonymized anonymizedpatient anonymous anonymouspatient "
    "anonymouspatientid blank confidential default deidentified deleted dummy empty hidden id idremoved "
    "masked na name nil noid noname none notavailable notprovided null patient patientid patientname "
    "patientsname phi private pseudonym pseudonymised pseudonymized redacted removed subject test "
    "testpatient undefined unidentified unknown unknownid unnamed unspecified void"
)
#: Case numbers of the public collections: L096, C002.
_CASE_NUMBER = re.compile(r"^(?!(?:ST|SE|SR|CT|IM|S|I)\d)[A-Z]{1,2}\d{3,4}$")
#: Folders that exports name after a study, series or visit: ST001, S2010, SE001, SER3, EXAM1, ses-01.
_STUDY_OR_SERIES = re.compile(
    r"^(?:st|std|stu|study|studies|se|ser|series|srs|s|sr|im|img|image|images|exam|exp|ses|session|visit|scan|acq|recon|"
    r"phase|stack|run|timepoint|tp|v)[ _.-]*\d*$",
    re.IGNORECASE,
)
#: Folders of NBIA (TCIA): 01-01-2000-CT ABDOMEN-12345 and 2.000000-Low Dose Images-71581; dates and UIDs.
_DATED_STUDY = re.compile(r"^(\d{1,2}-\d{1,2}-\d{4})-.*$")
_NUMBERED_SERIES = re.compile(r"^\d+\.\d+-.*$")
_DATE_OR_UID = re.compile(r"^(?:\d{4}[-_.]?\d{2}[-_.]?\d{2}.*|\d+(?:\.\d+){3,})$")
#: Words of folders that name no patient, unless a word of :data:`_PERSON_WORDS` is next to them.
_COMMON_WORDS = word_set(
    "abdomen abdominal all arterial axial baseline body bone brain case cases center centre chest cm "
    "cohort contrast ct data dataset datasets dcm derived dicom dicoms download downloads export exports "
    "files fold followup group head hires hospital image images imaging img imgs institution kernel liver "
    "lung medium mm native neck nifti nii original part patient patients pelvis phase pool pools portal "
    "post pre public raw recon reconstruction scan scans series session sharp sim simulated site slices "
    "smooth soft spine split studies study subject subjects test testing thick thin thorax train training "
    "val valid validation venous visit volume volumes"
)
_PERSON_WORDS = word_set("case pat patient person proband pt sub subj subject")


class PatientName(NamedTuple):
    """The patient of a series.

    Parameters
    ----------
    name : str
    source : str
        What it was read from, in words.
    """

    name: str
    source: str


def is_placeholder(patient_id: str) -> bool:
    """Whether a Patient ID identifies nobody: empty, "Anonymous", "0", "XXXX"."""
    letters = re.sub(r"[\W_]", "", patient_id).lower()
    return letters in PLACEHOLDER_IDS or len(letters) == 0 or (letters[0] in "0x" and len({*letters}) == 1)


def is_unnamed(patient: str) -> bool:
    """Whether the name of a patient is that of a placeholder, perhaps with its study: it can be anybody's."""
    return is_placeholder(re.sub(r" \(study [0-9a-f]{8}\)$", "", patient))


def identify_patients(series: Sequence[SliceSource], doses: Sequence[Dose], root: Path) -> list[PatientName]:
    """Find the patient of every series.

    For DICOM, the Patient ID; where it is a placeholder, or one ID for everything in folders of several patients,
    a case number in the path, else the innermost folder that can name a patient. Folders named after studies,
    series, doses, kernels, body parts or dates never do. Where no folder does, patients are separated by study.

    For volume files, the innermost folder below the common ones; where it names only a dose, the file's name.

    Parameters
    ----------
    series : sequence of SliceSource
    doses : sequence of Dose
        Their dose labels.
    root : Path
        Path under which they were found. Names above it are ignored, unless its own name is only that of a dose.

    Returns
    -------
    list of PatientName
    """
    depth = _container_depth(series, root)
    names: dict[int, PatientName] = {}
    candidates: dict[int, tuple[str, ...]] = {}
    for index, source in enumerate(series):
        if isinstance(source, VolumeFile):
            names[index] = _patient_of_file(source, root, depth)
        else:
            candidates[index] = _candidates(source, root)
    shared = _shared_ids({index: series[index] for index in candidates}, candidates)
    nameless = {
        index: found
        for index, found in candidates.items()
        if is_placeholder(series[index].patient) or series[index].patient in shared
    }
    for index in candidates.keys() - nameless.keys():
        names[index] = PatientName(series[index].patient.strip(), "Patient ID")
    names |= _by_folder(series, doses, root, nameless)
    return [names[index] for index in range(len(series))]


def scan_path(source: SliceSource, root: Path) -> tuple[tuple[str, ...], bool]:
    """Folders of a series without the words for a dose, and whether there was such a word.

    Two series with equal paths are two doses of one scan: L096/full_3mm and L096/quarter_3mm.
    """
    folders = names_below(source, root)[1:-1]
    found = tuple(_scan_name(name) for name in folders)
    return tuple(name for name in found if name), any(has_dose(name) for name in folders)


def names_below(source: SliceSource, root: Path) -> list[str]:
    """Names of the folders from ``root`` (included) down to the first file (included)."""
    path = source.metadata.first_file
    if path is None:
        return []
    path, root = path.resolve(), root.resolve()
    below = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-3:]
    root_name = root.stem if root.is_file() else root.name  # an archive's name without its suffix
    return [*([root_name] if path != root else []), *(below or (path.name,))]


def _scan_name(name: str) -> str:
    dated = _DATED_STUDY.match(name)
    if dated:  # its last digits are those of the Study Instance UID
        return dated.group(1)
    found = re.sub(r"^\d+\.\d+-|-\d+$", "", name) if _NUMBERED_SERIES.match(name) else name
    return without_dose(found).lower()


def _candidates(source: SliceSource, root: Path) -> tuple[str, ...]:
    """Folders below the root that can name a patient, from the outermost; without the words for a dose."""
    folders = [without_dose(name) for name in names_below(source, root)[1:-1]]
    named = tuple(name for name in folders if _can_be_patient(name, source.metadata.kernel))
    if named:
        return named
    return tuple(name for name in folders if name.isdigit())[:1]


def _can_be_patient(name: str, kernel: str) -> bool:
    if _CASE_NUMBER.match(name):
        return True
    impossible = (_STUDY_OR_SERIES, _DATED_STUDY, _NUMBERED_SERIES, _DATE_OR_UID)
    if not name or name.isdigit() or any(form.match(name) for form in impossible):
        return False
    if len(name) > 1 and kernel.lower().startswith(name.lower()):
        return False
    words = tokens(name)
    if len(words) > 1 and any(word.text in _PERSON_WORDS for word in words):
        return True
    common = [word for word in words if word.text in _COMMON_WORDS]
    neutral = [word for word in words if word.is_number or len(word.text) == 1 or word in common]
    return not common or len(neutral) < len(words)


def _shared_ids(series: Mapping[int, SliceSource], candidates: Mapping[int, tuple[str, ...]]) -> set[str]:
    """Patient IDs that identify nobody: in folders of several case numbers, or one for all in several folders."""
    folders: dict[str, set[str]] = defaultdict(set)
    cases: dict[str, set[str]] = defaultdict(set)
    studies: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for index, source in series.items():
        found = candidates[index]
        cases[source.patient] |= {name for name in found if _CASE_NUMBER.match(name)}
        name = found[-1] if found and not found[-1].isdigit() else ""
        folders[source.patient].add(name)
        studies[source.patient][study_uid(source)].add(name)
    shared = {patient for patient, numbers in cases.items() if len(numbers) > 1}
    if len(folders) == 1:  # one ID for everything
        ((patient, names),) = folders.items()
        one_folder_each = all(len(found) == 1 for found in studies[patient].values())
        if len(names) > 1 and "" not in names and one_folder_each:
            shared.add(patient)
    return shared


def _by_folder(
    series: Sequence[SliceSource], doses: Sequence[Dose], root: Path, nameless: Mapping[int, tuple[str, ...]]
) -> dict[int, PatientName]:
    """Patients of series whose Patient ID identifies nobody."""
    common: dict[str, set[str]] = {}
    for index, found in nameless.items():  # what differs within a study names no patient
        study = study_uid(series[index])
        if study:
            common[study] = common.get(study, {*found}) & {*found}
    reduced = {
        index: tuple(name for name in found if name in common.get(study_uid(series[index]), found))
        for index, found in nameless.items()
    }
    parents: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for found in reduced.values():
        parents[found[-1] if found else ""].add(found[:-1])
    names: dict[int, PatientName] = {}
    for index, found in reduced.items():
        case = next((name for name in found if _CASE_NUMBER.match(name)), "")
        if found:
            name = case or (found[-1] if len(parents[found[-1]]) == 1 else "/".join(found))
            names[index] = PatientName(name, f"folder '{name}'")
    rest = {index: series[index] for index in reduced if not reduced[index]}
    return names | _by_study(rest, doses, root)


def _by_study(series: Mapping[int, SliceSource], doses: Sequence[Dose], root: Path) -> dict[int, PatientName]:
    """Patients of series that neither an ID nor a folder names: one, where there is one study of each dose."""
    studies: dict[Dose, set[str]] = defaultdict(set)
    for index, source in series.items():
        studies[doses[index]].add(study_uid(source))
    outer = _outer_name(root)
    if all(len(found) == 1 for found in studies.values()):
        source_text = f"folder '{outer}'" if outer else "Patient ID, a placeholder"
        return {index: PatientName(outer or source.patient, source_text) for index, source in series.items()}
    names = {}
    for index, source in series.items():
        digest = hashlib.sha256((study_uid(source) or source.uid).encode()).hexdigest()[:8]
        name = f"{outer or source.patient or 'unknown'} (study {digest})"
        names[index] = PatientName(name, "Study Instance UID; the Patient ID is a placeholder")
    return names


def _outer_name(root: Path) -> str:
    """Name of the root if it is a case number; of the folder around a root that is named after a dose."""
    root = root.resolve()
    folder = root.parent if root.is_file() else root
    if _CASE_NUMBER.match(without_dose(folder.name)):
        return without_dose(folder.name)
    inner = without_dose(folder.name)
    if has_dose(folder.name) and not _can_be_patient(inner, ""):
        outer = without_dose(folder.parent.name)
        return outer if _can_be_patient(outer, "") else ""
    return ""


def study_uid(source: SliceSource) -> str:
    """Study Instance UID of a DICOM series; empty for other sources."""
    return str(getattr(source, "study_uid", ""))


# Volume files -----------------------------------------------------------------------------------------------


def _patient_of_file(source: VolumeFile, root: Path, depth: int) -> PatientName:
    """Patient of a volume file: its innermost folder below the common ones, else the file; without dose words."""
    folders_and_root = names_below(source, root)[:-1]
    case = next((name for name in map(without_dose, folders_and_root) if _CASE_NUMBER.match(name)), "")
    if case:
        return PatientName(case, f"folder '{case}'")
    stem = without_dose(source.name)
    if source.path.resolve() == root.resolve():  # the file itself was given
        name = "/".join(filter(None, (without_dose(source.patient), stem))) or source.patient
        return PatientName(name, "folder and file name")
    folders = _folders(source, root)[depth:]
    if folders:
        name = next(
            (name for name in reversed(folders) if _can_be_patient(name, "") or name.isdigit()), folders[-1]
        )
        return PatientName(name, f"folder '{name}'")
    return PatientName(stem or source.patient, "file name" if stem else "folder")


def _container_depth(series: Iterable[SliceSource], root: Path) -> int:
    """Number of folder levels that all volumes share, as `train` in train/low/A: they name no patient."""
    volumes = [source for source in series if isinstance(source, VolumeFile)]
    if len({without_dose(source.name) for source in volumes}) < 2:
        return 0  # the file names do not distinguish the patients either
    levels = zip(*(_folders(source, root) for source in volumes), strict=False)
    return sum(1 for _ in takewhile(lambda names: len({*names}) == 1, levels))


def _folders(source: VolumeFile, root: Path) -> tuple[str, ...]:
    """Folders of a volume below the root, without dose words and without folders that name only a dose."""
    names = (without_dose(name) for name in names_below(source, root)[1:-1])
    return tuple(name for name in names if name)
