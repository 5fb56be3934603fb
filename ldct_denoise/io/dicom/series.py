"""CT series in DICOM files, whose slices are read on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ldct_denoise.io.dicom.archive import ExtractedArchive
from ldct_denoise.io.dicom.encoding import Encoding
from ldct_denoise.io.dicom.header import read_header, read_shared_header
from ldct_denoise.io.dicom.pixel_data import read_frame
from ldct_denoise.io.dicom.values import text
from ldct_denoise.volume import Geometry, SeriesMetadata


@dataclass(frozen=True, slots=True)
class SliceRef:
    """Where one slice is stored, and its rescale. Kept small: a tree may hold 100 000 slices.

    Parameters
    ----------
    folder, file : str
        Folder and name of the file.
    frame : int, optional
        Index of the frame of a multi-frame file, from 0; None for a classic image.
    sop_uid : str
        SOP Instance UID; derived from the file's content where the file has none.
    slope, intercept : float
        ``HU = slope × stored + intercept``.
    encoding : Encoding
        One object shared by all slices that are encoded alike.
    pixel_offset : int
        Position of the Pixel Data element in the file, bytes.
    tube_current_ma : float, optional
        X-Ray Tube Current (0018,1151).
    copy_id : str
        Digest of the content where another file has the same SOP Instance UID but other pixels; else empty.
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
    copy_id: str = ""

    @property
    def unique_uid(self) -> str:
        """The SOP Instance UID; made unique where several files share it."""
        return f"{self.sop_uid}#{self.copy_id}" if self.copy_id else self.sop_uid

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
    archive : ExtractedArchive, optional
        The archive that the files were extracted from; they exist as long as something refers to it.
    """

    uid: str
    patient: str
    study_uid: str
    slices: tuple[SliceRef, ...]
    geometry: Geometry
    metadata: SeriesMetadata
    archive: ExtractedArchive | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Folder and kernel."""
        return f"{Path(self.slices[0].folder).name} {self.metadata.kernel}".strip()

    def __len__(self) -> int:
        return len(self.slices)

    def header(self, index: int) -> Dataset:
        """Read the whole header of a slice's file, without pixel data.

        UIDs, encoding attributes and rescale that the file lacks are filled in with the values in use. The frames
        of a multi-frame file share one header, which must not be changed.

        Raises
        ------
        InputError
            If the file is gone or has changed.
        """
        ref = self.slices[index]
        if ref.frame is None:
            dataset = read_header(ref.path).dataset
        else:
            dataset = read_shared_header(ref.path, _modified_ns(ref.path)).dataset
        uids = {"SOPInstanceUID": ref.sop_uid, "SeriesInstanceUID": self.uid, "StudyInstanceUID": self.study_uid}
        rescale = {"RescaleSlope": ref.slope, "RescaleIntercept": ref.intercept} if ref.frame is None else {}
        for keyword, value in (uids | ref.encoding.attributes | rescale).items():
            if not text(dataset, keyword):
                setattr(dataset, keyword, value)
        return dataset

    def read_stored(self, index: int) -> NDArray[np.integer[Any]]:
        """Read the stored integers of a slice, shape (rows, columns).

        Raises
        ------
        InputError
            If they cannot be decoded.
        """
        ref = self.slices[index]
        return read_frame(ref.path, ref.pixel_offset, ref.frame or 0, ref.encoding)

    def padding(self, index: int) -> NDArray[np.bool_]:
        """Mask of the padding pixels of a slice (Pixel Padding Value and Range Limit, PS3.3 C.7.5.1.1.2)."""
        limits = self.slices[index].encoding.padding
        if limits is None:
            return np.zeros(self.geometry.shape[1:], dtype=bool)
        stored = self.read_stored(index)
        return (stored >= limits[0]) & (stored <= limits[1])

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """Read one slice in HU, by its own slope and intercept, shape (rows, columns)."""
        ref = self.slices[index]
        return (self.read_stored(index) * ref.slope + ref.intercept).astype(np.float32)


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
