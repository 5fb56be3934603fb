"""Folders of ``.npy`` slices as RED-CNN's ``prep.py`` writes them: ``L067_0_input.npy``, ``L067_0_target.npy``."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.intensity import Scale
from ldct_denoise.io.dicom.archive import ExtractedArchive
from ldct_denoise.io.dicom.scan import ASSUMED_HU
from ldct_denoise.io.inventory import Exclusion, ExclusionKind, SkippedFile
from ldct_denoise.io.volumes.guards import values_exclusion
from ldct_denoise.volume import Geometry, SeriesMetadata, spread_indices

#: Patient, number of the slice, and role: ``input`` is low dose, ``target`` normal dose.
NAME = re.compile(r"(?P<patient>.+)_(?P<number>\d+)_(?P<role>input|target)\.npy", re.IGNORECASE)
#: Values from 0 to 1 are those of this HU range, the default of ``prep.py``.
NORMALISED = Scale(-1024.0, 3072.0)
#: Lowest and highest value of normalised images: metal exceeds 3072 HU.
UNIT_LIMITS = (-0.5, 2.0)
#: Assumed pixel spacing and slice spacing, mm: the files state none.
ASSUMED_SPACING_MM, ASSUMED_STEP_MM = 0.8, 3.0


@dataclass(frozen=True)
class NpySlices:
    """Slices of one patient and role in ``.npy`` files.

    Parameters
    ----------
    paths : tuple of Path
        One file per slice, shape (rows, columns).
    patient : str
        From the names of the files.
    role : {"input", "target"}
    geometry : Geometry
        Assumed; equal slice numbers have equal positions.
    metadata : SeriesMetadata
    scale : Scale, optional
        HU range of normalised values; None where the values are HU.
    archive : ExtractedArchive, optional
        The archive that the files were extracted from; it exists as long as something refers to it.
    """

    paths: tuple[Path, ...]
    patient: str
    role: str
    geometry: Geometry
    metadata: SeriesMetadata
    scale: Scale | None = None
    archive: ExtractedArchive | None = field(default=None, compare=False, repr=False)

    @property
    def uid(self) -> str:
        """Digest of folder, patient and role, in the form of a UID."""
        identity = f"{self.metadata.path}\n{self.patient}\n{self.role}"
        return f"2.25.{int(hashlib.sha256(identity.encode()).hexdigest()[:32], 16)}"

    @property
    def name(self) -> str:
        """Patient and role."""
        return f"{self.patient} {self.role}"

    def __len__(self) -> int:
        return len(self.paths)

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one slice in HU, shape (rows, columns).

        Raises
        ------
        InputError
            If it cannot be read.
        """
        values = _read(self.paths[index]).astype(np.float32)
        return values if self.scale is None else self.scale.to_hu(values)


def is_npy_slice(path: str | Path) -> bool:
    """Whether the name is that of a slice that :func:`open_npy_slices` reads."""
    return NAME.fullmatch(Path(path).name) is not None


def open_npy_slices(
    paths: Iterable[Path], archive: ExtractedArchive | None = None, *, assume_hu: bool = False
) -> tuple[list[NpySlices], list[SkippedFile]]:
    """Group ``.npy`` files into series.

    Parameters
    ----------
    paths : iterable of Path
        Files for which :func:`is_npy_slice` holds.
    archive : ExtractedArchive, optional
        The archive that the files were extracted from.
    assume_hu : bool
        Take values for HU that are neither HU by their looks nor normalised.

    Returns
    -------
    series : list of NpySlices
    skipped : list of SkippedFile
        Files that cannot be read, are not 2-D, differ in size from the first slice, or do not hold HU.
    """
    groups: dict[tuple[Path, str, str], dict[int, Path]] = defaultdict(dict)
    skipped: list[SkippedFile] = []
    for path in sorted(paths):
        found = NAME.fullmatch(path.name)
        assert found is not None
        groups[path.parent, found["patient"], found["role"].lower()][int(found["number"])] = path
    series = []
    for (_, patient, role), slices in groups.items():
        read, lost = _readable(slices)
        original = archive.original_path if archive else Path
        skipped += [SkippedFile(original(path), reason) for path, reason in lost]
        if read:
            made = _series(read, patient, role, archive, assume_hu)
            if isinstance(made, NpySlices):
                series.append(made)
            else:
                skipped += [SkippedFile(original(path), made) for path in read.values()]
    return series, skipped


def _readable(slices: dict[int, Path]) -> tuple[dict[int, Path], list[tuple[Path, Exclusion]]]:
    """Files that hold an image of one size, by slice number, and the others with the reason."""
    good: dict[int, Path] = {}
    lost, size = [], None
    for number, path in sorted(slices.items()):
        try:
            shape = _read(path, "r").shape
        except InputError as error:
            lost.append((path, Exclusion(ExclusionKind.UNREADABLE, str(error).removeprefix(f"{path}: "))))
            continue
        size = size or shape
        if shape == size:
            good[number] = path
        else:
            words = f"{shape[0]}×{shape[1]} pixels, other slices have {size[0]}×{size[1]}"
            lost.append((path, Exclusion(ExclusionKind.UNREADABLE, words)))
    return good, lost


def _series(
    slices: dict[int, Path], patient: str, role: str, archive: ExtractedArchive | None, assume_hu: bool
) -> NpySlices | Exclusion:
    paths = tuple(slices.values())
    problems = [
        f"the files state no geometry: pixels of {ASSUMED_SPACING_MM:g} mm and slices {ASSUMED_STEP_MM:g} mm "
        "apart are assumed"
    ]
    scale, read = None, partial(_read_index, paths)
    exclusion = values_exclusion(read, len(paths))
    if exclusion is not None:
        if _is_normalised(paths):
            scale = NORMALISED
            problems.append(f"values 0 to 1 are taken for {scale.low_hu:g} to {scale.high_hu:g} HU")
        elif assume_hu and exclusion.kind is ExclusionKind.NOT_HU:
            problems.append(ASSUMED_HU)
        else:
            return exclusion
    rows, columns = _read(paths[0]).shape
    positions = np.array([[0.0, 0.0, ASSUMED_STEP_MM * number] for number in slices])
    spacing_mm = (ASSUMED_SPACING_MM, ASSUMED_SPACING_MM)
    geometry = Geometry(positions, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), spacing_mm, rows, columns)
    first = archive.original_path(paths[0]) if archive else paths[0]
    metadata = SeriesMetadata(path=first.parent, first_file=first, problems=tuple(problems))
    return NpySlices(paths, patient, role, geometry, metadata, scale, archive)


def _read_index(paths: tuple[Path, ...], index: int) -> NDArray[np.float32]:
    return _read(paths[index]).astype(np.float32)


def _is_normalised(paths: tuple[Path, ...]) -> bool:
    """Whether the values of some slices are fractions of a range."""
    sampled = [_read(paths[index]) for index in spread_indices(len(paths), 5)]
    low, high = min(float(image.min()) for image in sampled), max(float(image.max()) for image in sampled)
    are_fractions = all(image.dtype.kind == "f" for image in sampled)
    return are_fractions and low < high and low >= UNIT_LIMITS[0] and high <= UNIT_LIMITS[1]


def _read(path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[np.generic]:
    """The array of a file, or with ``r`` its shape and type alone; no code is executed.

    Raises
    ------
    InputError
        If it cannot be read, or is not a 2-D array of real numbers.
    """
    try:
        image: NDArray[np.generic] = np.load(path, mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not an array that can be read ({type(error).__name__})") from None
    if image.ndim != 2 or image.dtype.kind not in "iuf" or not image.size:
        raise InputError(
            f"{path}: holds {image.dtype} of shape {image.shape}; a slice is a 2-D array of real numbers"
        )
    return image
