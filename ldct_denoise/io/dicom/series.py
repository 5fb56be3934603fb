"""What is found in DICOM files: series of slices that are read on demand, and files that are set aside."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ldct_denoise.errors import PartialError
from ldct_denoise.io.dicom.encoding import Encoding
from ldct_denoise.io.dicom.reader import read_frame, read_header, read_shared_header
from ldct_denoise.io.dicom.values import text
from ldct_denoise.volume import Geometry, SeriesMetadata, SliceSource


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not used, and why.

    Parameters
    ----------
    is_slice : bool
        It is a CT image that cannot be read, and its series lacks it; not so what is left out by right
        (localizers, reports, other modalities, duplicates), and what cannot be told for a CT image.
    """

    path: Path
    reason: str
    is_slice: bool = False


@dataclass(frozen=True, slots=True)
class SliceRef:
    """Where one slice is stored, and its own rescale; small, because a tree may hold 100 000.

    Parameters
    ----------
    folder, file : str
        Folder and name of the file.
    frame : int, optional
        Which frame of a multi-frame file, counted from 0; None for a classic image.
    sop_uid : str
        SOP Instance UID; made from the file's content where the file has none.
    slope, intercept : float
        ``HU = slope × stored + intercept``.
    encoding : Encoding
        Shared by slices that are stored alike.
    pixel_offset : int
        Where Pixel Data begins in the file, in bytes.
    tube_current_ma : float, optional
    """

    folder: str
    file: str
    frame: int | None
    sop_uid: str
    slope: float
    intercept: float
    encoding: Encoding
    pixel_offset: int
    tube_current_ma: float | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.folder, self.file)


@dataclass(frozen=True)
class Series:
    """One stack of CT images with one Series Instance UID, read on demand.

    Parameters
    ----------
    uid : str
        Series Instance UID. Where several stacks (phases, reconstructions, orientations) share it, the first keeps
        it and the others get a UID derived from their images. So do files without one, and with one that cannot
        name a folder.
    patient : str
        Patient ID, or the patient's name where there is none.
    study_uid : str
        Study Instance UID, or one derived from patient and time of the study.
    slices : tuple of SliceRef
        In order along the slice normal.
    geometry : Geometry
    metadata : SeriesMetadata
    keeper : object
        Keeps extracted files until the series is no longer used.
    """

    uid: str
    patient: str
    study_uid: str
    slices: tuple[SliceRef, ...]
    geometry: Geometry
    metadata: SeriesMetadata
    keeper: Any = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Folder and kernel."""
        return f"{Path(self.slices[0].folder).name} {self.metadata.kernel}".strip()

    def __len__(self) -> int:
        return len(self.slices)

    def header(self, index: int) -> Dataset:
        """Whole dataset of the slice's file, without pixel data.

        UIDs that it lacks are filled in, and how pixels are stored, with what was read in their place.

        All frames of a multi-frame file share it: not to be changed.

        Raises
        ------
        InputError
            If the file has gone or changed.
        """
        ref = self.slices[index]
        if ref.frame is None:
            dataset = read_header(ref.path).dataset
        else:
            dataset = read_shared_header(ref.path, _changed_ns(ref.path)).dataset
        uids = {"SOPInstanceUID": ref.sop_uid, "SeriesInstanceUID": self.uid, "StudyInstanceUID": self.study_uid}
        for keyword, value in (uids | ref.encoding.attributes).items():
            if not text(dataset, keyword):
                setattr(dataset, keyword, value)
        return dataset

    def read_stored(self, index: int) -> NDArray[np.integer[Any]]:
        """Stored integers.

        Raises
        ------
        InputError
            If they cannot be decoded.
        """
        ref = self.slices[index]
        return read_frame(ref.path, ref.pixel_offset, ref.frame or 0, ref.encoding)

    def padding(self, index: int) -> NDArray[np.bool_]:
        """Pixels that are padding (Pixel Padding Value and Range Limit, PS3.3 C.7.5.1.1.2)."""
        limits = self.slices[index].encoding.padding
        if limits is None:
            return np.zeros(self.geometry.shape[1:], dtype=bool)
        stored = self.read_stored(index)
        return (stored >= limits[0]) & (stored <= limits[1])

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """HU by the slice's own slope and intercept."""
        ref = self.slices[index]
        return (self.read_stored(index) * ref.slope + ref.intercept).astype(np.float32)


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@dataclass(frozen=True)
class Inventory:
    """What a path holds."""

    series: tuple[SliceSource, ...]
    skipped: tuple[SkippedFile, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def lost_slices(self) -> list[str]:
        """A line for each slice that a series lacks because it cannot be read."""
        return [f"{item.path}: {item.reason}; its series lacks it" for item in self.skipped if item.is_slice]

    def notes(self, path: Path) -> list[str]:
        """What whoever takes the series under ``path`` should know: that files are left out, where some are."""
        count = len(self.skipped)
        return [f"{count} files are left out; `ldct-denoise inspect {path}` says why"] if count else []

    def require_all_slices(self, written: Path) -> None:
        """Raise PartialError, once the only series is written, if it lacks slices that cannot be read."""
        if self.lost_slices:
            told = f"{written}: written, but slices that cannot be read are missing; mend them"
            raise PartialError(told, self.lost_slices, (written,))
