"""Read CT series: find them by header, put their slices in order, give HU.

``scan`` looks at headers only; pixels are read when a slice is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

from ldct_denoise.errors import InputError
from ldct_denoise.io.stored import padding_range
from ldct_denoise.io.uids import derived_uid
from ldct_denoise.volume import POSITION_TOLERANCE_MM, Geometry, SliceSource

#: No CT slice has more rows or columns; what says so is broken or hostile.
LARGEST_SIDE = 8192
_NEEDED = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)


@dataclass(frozen=True)
class SetAside:
    """A file that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class SliceRef:
    """Where one slice is stored, and its own rescale."""

    path: Path
    frame: int | None
    sop_uid: str
    slope: float
    intercept: float
    position_mm: tuple[float, float, float]
    tube_current_ma: float | None = None


@dataclass(frozen=True)
class Series:
    """One stack of CT images of one Series Instance UID, read on demand."""

    uid: str
    patient: str
    study_uid: str
    description: str
    kernel: str
    manufacturer: str
    transfer_syntax: str
    derivation: str
    slices: tuple[SliceRef, ...]
    geometry: Geometry
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Folder and kernel."""
        return f"{self.slices[0].path.parent.name} {self.kernel}".strip()

    @property
    def tube_current_ma(self) -> tuple[float | None, ...]:
        """Per slice."""
        return tuple(ref.tube_current_ma for ref in self.slices)

    def __len__(self) -> int:
        return len(self.slices)

    def header(self, index: int) -> Dataset:
        """Whole dataset of the slice's file, without pixel data."""
        return _dataset(self.slices[index].path, stop_before_pixels=True)

    def read_stored(self, index: int) -> NDArray[np.integer[Any]]:
        """Stored integers."""
        ref = self.slices[index]
        try:
            stored = pixel_array(_dataset(ref.path), index=ref.frame, raw=True)
        except Exception as error:
            raise InputError(f"{ref.path}: pixels cannot be decoded ({_line(error)})") from None
        return stored

    def padding(self, index: int) -> NDArray[np.bool_]:
        """Pixels that are padding (Pixel Padding Value and Range Limit, PS3.3 C.7.5.1.1.2)."""
        stored = self.read_stored(index)
        limits = padding_range(self.header(index))
        if limits is None:
            return np.zeros(stored.shape, dtype=bool)
        return (stored >= limits[0]) & (stored <= limits[1])

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """HU by the slice's own slope and intercept."""
        ref = self.slices[index]
        return (self.read_stored(index) * ref.slope + ref.intercept).astype(np.float32)


@dataclass(frozen=True)
class Inventory:
    """What a path holds."""

    series: tuple[SliceSource, ...]
    set_aside: tuple[SetAside, ...] = ()
    problems: tuple[str, ...] = ()


def scan(
    path: Path, progress: Callable[[int, int], None] | None = None, *, include_derived: bool = False
) -> Inventory:
    """Find every CT series at or below ``path``."""
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    headers: dict[tuple[Any, ...], list[tuple[Path, Dataset]]] = {}
    aside: list[SetAside] = []
    seen: set[str] = set()
    for number, file in enumerate(files):
        if progress:
            progress(number + 1, len(files))
        try:
            header = _dataset(file, stop_before_pixels=True)
        except InputError as error:
            aside.append(SetAside(file, str(error).split(": ", 1)[-1]))
            continue
        try:
            reason = _not_ct(header, include_derived)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"broken header ({_line(error)})"
        if reason is None and str(header.SOPInstanceUID) in seen:
            reason = "duplicate of an image already found (same SOP Instance UID)"
        if reason is not None:
            aside.append(SetAside(file, reason))
            continue
        seen.add(str(header.SOPInstanceUID))
        headers.setdefault(_stack_of(file, header), []).append((file, header))
    series = tuple(_series(items) for items in headers.values())
    return Inventory(series, tuple(aside))


def _dataset(path: Path, stop_before_pixels: bool = False) -> Dataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=True)
            if "SOPClassUID" not in dataset:
                raise InputError(f"{path}: not DICOM")
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            _repair_identity(dataset, path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: unreadable ({_line(error)})") from None
    return dataset


def _repair_identity(dataset: Dataset, path: Path) -> None:
    """Fill UIDs that an anonymiser emptied: from the file meta, or derived from where the file lies."""
    meta = dataset.file_meta
    for keyword, substitute in (
        ("SOPClassUID", meta.get("MediaStorageSOPClassUID")),
        ("SOPInstanceUID", meta.get("MediaStorageSOPInstanceUID") or derived_uid(str(path.resolve()))),
        ("SeriesInstanceUID", derived_uid(str(path.resolve().parent))),
        ("StudyInstanceUID", derived_uid(str(path.resolve().parent), "study")),
    ):
        if not dataset.get(keyword) and substitute:
            setattr(dataset, keyword, substitute)


def _not_ct(header: Dataset, include_derived: bool) -> str | None:
    """Why this is not an image to denoise, or nothing."""
    if header.SOPClassUID != CTImageStorage:
        return f"not a CT image ({pydicom.uid.UID(header.SOPClassUID).name})"
    if "LOCALIZER" in [str(value).upper() for value in header.get("ImageType") or ()]:
        return "a localizer"
    if "projection" in str(header.get("SeriesDescription", "")).lower():
        return "projection data, not an image"
    derived = str(header.get("DerivationDescription", ""))
    if derived.startswith("ldct-denoise") and "simulated" not in derived and not include_derived:
        return "already denoised by ldct-denoise"
    missing = [keyword for keyword in _NEEDED if header.get(keyword) in (None, "")]
    if missing:
        return f"no {missing[0]}"
    if header.get("SamplesPerPixel", 1) != 1:
        return "colour, not HU"
    if "RescaleSlope" not in header or str(header.get("RescaleType", "HU")).upper() not in ("HU", ""):
        return "values are not in HU (no rescale to HU)"
    return _broken(header)


def _broken(header: Dataset) -> str | None:
    """Why the image cannot be placed or decoded, as far as its header tells."""
    rows, columns = int(header.Rows), int(header.Columns)
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE):
        return f"impossible size of {rows}×{columns} pixels"
    numbers = [*header.ImagePositionPatient, *header.ImageOrientationPatient, *header.PixelSpacing]
    numbers += [header.RescaleSlope, header.get("RescaleIntercept", 0)]
    counts = (len(header.ImagePositionPatient), len(header.ImageOrientationPatient), len(header.PixelSpacing))
    if counts != (3, 6, 2) or not np.isfinite([float(number) for number in numbers]).all():
        return "position, orientation, spacing or rescale is not a number"
    if float(header.RescaleSlope) == 0 or min(map(float, header.PixelSpacing)) <= 0:
        return "rescale slope or pixel spacing is zero"
    return None


def _problems(geometry: Geometry) -> list[str]:
    """What is odd about where the slices are: told, not fatal."""
    steps = np.diff(geometry.offsets_mm)
    found = []
    if len(steps) and steps.min() < POSITION_TOLERANCE_MM:
        found.append(f"{int((steps < POSITION_TOLERANCE_MM).sum()) + 1} slices at the same position")
    if len(steps) > 1 and not geometry.is_even:
        found.append(f"slices are {steps.min():g} to {steps.max():g} mm apart")
    tilt = np.degrees(np.arccos(np.clip(abs(geometry.normal[2]), 0, 1)))
    if 0.5 < tilt < 45:
        found.append(f"gantry tilt of {tilt:.1f}°")
    return found


def _stack_of(file: Path, header: Dataset) -> tuple[Any, ...]:
    kernel = header.get("ConvolutionKernel", "")
    return (
        str(header.SeriesInstanceUID), str(file.parent), int(header.Rows), int(header.Columns),
        tuple(round(float(v), 4) for v in header.ImageOrientationPatient),
        tuple(round(float(v), 5) for v in header.PixelSpacing),
        str(kernel),
    )  # fmt: skip


def _series(items: Sequence[tuple[Path, Dataset]]) -> Series:
    first = items[0][1]
    a, b, c, d, e, f = (float(value) for value in first.ImageOrientationPatient)
    normal = np.cross((a, b, c), (d, e, f))
    ordered = sorted(
        items, key=lambda item: float(np.dot(normal, [float(v) for v in item[1].ImagePositionPatient]))
    )
    refs = tuple(_ref(path, header) for path, header in ordered)
    geometry = Geometry(
        np.array([ref.position_mm for ref in refs]), (a, b, c), (d, e, f),
        (float(first.PixelSpacing[0]), float(first.PixelSpacing[1])), int(first.Rows), int(first.Columns),
    )  # fmt: skip
    kernel = first.get("ConvolutionKernel", "")
    return Series(
        uid=str(first.SeriesInstanceUID),
        patient=str(first.get("PatientID", "") or first.get("PatientName", "")),
        study_uid=str(first.get("StudyInstanceUID", "")),
        description=str(first.get("SeriesDescription", "")),
        kernel=str(kernel[0] if isinstance(kernel, pydicom.multival.MultiValue) else kernel or ""),
        manufacturer=str(first.get("Manufacturer", "")),
        derivation=str(first.get("DerivationDescription", "")),
        transfer_syntax=pydicom.uid.UID(first.file_meta.TransferSyntaxUID).name,
        slices=refs,
        geometry=geometry,
        problems=tuple(_problems(geometry)),
    )


def _ref(path: Path, header: Dataset) -> SliceRef:
    x, y, z = (float(value) for value in header.ImagePositionPatient)
    current = header.get("XRayTubeCurrent")
    return SliceRef(
        path, None, str(header.SOPInstanceUID), float(header.get("RescaleSlope", 1)),
        float(header.get("RescaleIntercept", 0)), (x, y, z), float(current) if current else None,
    )  # fmt: skip


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
