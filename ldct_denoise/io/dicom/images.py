"""CT images as found by a scan: the slice, and the attributes that sort it into a stack."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydicom.dataset import Dataset

from ldct_denoise.io.dicom.encoding import Encoding
from ldct_denoise.io.dicom.filter import unit_directions
from ldct_denoise.io.dicom.series import SliceRef
from ldct_denoise.io.dicom.stack_identity import ImageId, StackKey, is_same_plane
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.dicom.unit import HuEvidence, hu_evidence
from ldct_denoise.io.dicom.values import number, text

#: Attributes that separate images at the same position, the most reliable first: (name for people, keyword).
SPLIT_ATTRIBUTES = (
    ("acquisition number", "AcquisitionNumber"),
    ("stack", "StackID"),
    ("phase", "NominalPercentageOfCardiacPhase"),
    ("phase", "TemporalPositionIdentifier"),
    ("phase", "TemporalPositionIndex"),
    ("trigger time", "TriggerTime"),
    ("image type", "ImageType"),
    ("tube voltage", "KVP"),
    ("slice thickness", "SliceThickness"),
    ("field of view", "ReconstructionDiameter"),
)
#: Plausible rotation times (s) and pitches; a value outside is another quantity or an error.
ROTATION_S, PITCH = (0.1, 5.0), (0.1, 3.5)
T = TypeVar("T", bound=Hashable)


class SeriesAttributes(NamedTuple):
    """Attributes that may differ within a stack; a series takes those of its first image.

    Parameters
    ----------
    study_uid : str
        Study Instance UID, or its replacement.
    description, manufacturer, scanner_model, derivation : str
    slice_thickness_mm : float, optional
    kvp : float, optional
        KVP, kV.
    mas_per_ma : float, optional
        Effective mAs per mA, s; see :func:`mas_per_ma`.
    hu_evidence : HuEvidence
        How well the header shows that values are HU.
    """

    study_uid: str
    description: str
    manufacturer: str
    scanner_model: str
    derivation: str
    slice_thickness_mm: float | None
    kvp: float | None
    mas_per_ma: float | None
    hu_evidence: HuEvidence


@dataclass(frozen=True, slots=True)
class Image:
    """One CT image.

    Parameters
    ----------
    ref : SliceRef
        Where the slice is stored.
    stack_key : StackKey
    attributes : SeriesAttributes
    position_mm : tuple of 3 floats
        LPS position of the first pixel.
    split_key : tuple of str
        Values of :data:`SPLIT_ATTRIBUTES`.
    acquisition_order : tuple of (str, float)
        Acquisition time and instance number.
    """

    ref: SliceRef
    stack_key: StackKey
    attributes: SeriesAttributes
    position_mm: tuple[float, float, float]
    split_key: tuple[str, ...]
    acquisition_order: tuple[str, float]

    @property
    def image_id(self) -> ImageId:
        """Identity of the image."""
        return self.ref.unique_uid, self.ref.frame or 0


class ImageFactory:
    """Create images that share equal values, so that a large tree needs little memory."""

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}
        self._planes: dict[tuple[Any, ...], list[np.ndarray]] = defaultdict(list)
        self._stored_planes: dict[tuple[tuple[Any, ...], tuple[float, ...]], np.ndarray] = {}

    def create(
        self, path: str, frame: int | None, header: Dataset, encoding: Encoding, sop_uid: str, pixel_offset: int
    ) -> Image:
        """Create an image from its header.

        Parameters
        ----------
        path : str
            The file.
        frame : int, optional
            Index of the frame of a multi-frame file; None for a classic image.
        header : Dataset
            Header of a classic image, or of a frame in that form, with the attributes in `filter.KEYWORDS`.
        encoding : Encoding
            Of the header.
        sop_uid : str
            SOP Instance UID, or its replacement.
        pixel_offset : int
            Position of the Pixel Data element, bytes.
        """
        folder, file = os.path.split(path)
        folder = self._share(folder)
        slope, intercept = number(header, "RescaleSlope") or 1.0, number(header, "RescaleIntercept") or 0.0
        current_ma = number(header, "XRayTubeCurrent")
        ref = SliceRef(
            folder, file, frame, sop_uid, self._share(slope), self._share(intercept),
            self._share(encoding), self._share(pixel_offset), self._share(current_ma),
        )  # fmt: skip
        x, y, z = (float(value) for value in header.ImagePositionPatient)
        split_key = tuple(sys.intern(text(header, keyword)) for _, keyword in SPLIT_ATTRIBUTES)
        order = (sys.intern(text(header, "AcquisitionTime")), number(header, "InstanceNumber") or 0.0)
        stack_key, attributes = self._share(self._stack_key(header, folder)), self._share(_attributes(header))
        return Image(ref, stack_key, attributes, (x, y, z), self._share(split_key), order)

    def _share(self, value: T) -> T:
        """The first equal value seen."""
        return self._shared.setdefault((type(value), value), value)  # type: ignore[no-any-return]

    def _stack_key(self, header: Dataset, folder: str) -> StackKey:
        uid = text(header, "SeriesInstanceUID")
        size = int(header.Rows), int(header.Columns)
        orientation = tuple(map(float, header.ImageOrientationPatient))
        plane = self._known_plane((uid, folder, size), (*orientation, *map(float, header.PixelSpacing)))
        return StackKey(
            uid=uid,
            folder=folder,
            patient=text(header, "PatientID") or text(header, "PatientName"),
            kernel=tuple(value for value in _kernel(header) if value),
            rows=size[0],
            columns=size[1],
            orientation=tuple(float(value) for value in plane[:6]),
            spacing_mm=(float(plane[6]), float(plane[7])),
        )

    def _known_plane(self, group: tuple[Any, ...], stored: tuple[float, ...]) -> np.ndarray:
        """Unit directions and spacing, or those of a known plane of the group that is equal within rounding."""
        if (group, stored) in self._stored_planes:
            return self._stored_planes[group, stored]
        row, column, _ = unit_directions(stored[:6])
        plane = np.array([*row, *column, *stored[6:]])
        for known in self._planes[group]:
            if is_same_plane(known, plane):
                plane = known
                break
        else:
            self._planes[group].append(plane)
        self._stored_planes[group, stored] = plane
        return plane


def _attributes(header: Dataset) -> SeriesAttributes:
    thickness_mm, kvp = number(header, "SliceThickness"), number(header, "KVP")
    return SeriesAttributes(
        study_uid=text(header, "StudyInstanceUID") or _study_uid(header),
        description=text(header, "SeriesDescription"),
        manufacturer=text(header, "Manufacturer"),
        scanner_model=text(header, "ManufacturerModelName"),
        derivation=text(header, "DerivationDescription"),
        slice_thickness_mm=thickness_mm if thickness_mm and thickness_mm > 0 else None,
        kvp=kvp if kvp and kvp > 0 else None,
        mas_per_ma=mas_per_ma(header),
        hu_evidence=hu_evidence(header),
    )


def mas_per_ma(header: Dataset) -> float | None:
    """Effective mAs per mA of tube current: rotation time over pitch, in seconds.

    Exposure (0018,1152) is the effective mAs with some manufacturers and something else with others, so it is used
    only where rotation time and pitch are missing, or to find the pitch if it fits the rotation time.
    """
    milliseconds = number(header, "ExposureTime")
    rotation_s = _within(number(header, "RevolutionTime"), ROTATION_S) or _within(
        None if milliseconds is None else milliseconds / 1000, ROTATION_S
    )
    pitch = _within(number(header, "SpiralPitchFactor"), PITCH)
    if rotation_s and pitch:
        return round(rotation_s / pitch, 2)
    exposure_mas, current_ma = number(header, "Exposure"), number(header, "XRayTubeCurrent")
    stated = exposure_mas / current_ma if exposure_mas and current_ma and current_ma > 0 else None
    if rotation_s is None:
        return None if _within(stated, ROTATION_S) is None else round(stated or 0, 2)
    if stated and PITCH[0] <= rotation_s / stated <= PITCH[1]:
        return round(stated, 2)
    return round(rotation_s, 2)


def _within(value: float | None, limits: tuple[float, float]) -> float | None:
    """The value if it is plausible, else None."""
    return value if value is not None and limits[0] <= value <= limits[1] else None


def _kernel(header: Dataset) -> tuple[str, ...]:
    try:
        value = header.get("ConvolutionKernel") or ()
        return (value,) if isinstance(value, str) else tuple(str(one) for one in value)
    except Exception:  # pydicom may fail in any way on damaged bytes
        return ()


def _study_uid(header: Dataset) -> str:
    """Derive a Study Instance UID for a file without one; empty where nothing identifies its study."""
    identifiers = [text(header, keyword) for keyword in ("PatientID", "StudyDate", "StudyTime", "AccessionNumber")]
    return derived_uid("study", *identifiers) if any(identifiers) else ""
