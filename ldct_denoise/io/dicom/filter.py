"""Which images are CT to denoise, and why the others are not; by their headers alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from ldct_denoise.io.dicom.values import EARLIER, PRODUCT, text, values

MULTI_FRAME = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
#: Words in Image Type that name a rendering, whose values are not those of slices.
RENDERINGS = ("CPR", "CURVED", "MIP", "MINIP", "MNIP", "VRT", "SSD", "PROJECTION")
#: Values of Image Type, and beginnings of Series Description, of pages that scanners write about a scan; LOW_DOSE
#: and the like are slices.
PAGE = re.compile(r"(.* )?(PROT|SCREEN ?SAVE)( .*)?|(CT SOM\d+ )?(DOSE( (INFO|REPORT|RECORD|SUMMARY))?|SCREEN)")
PAGE_TITLES = ("dose report", "patient protocol", "dose info", "dose record", "screen save")
#: Series Description of DICOM-CT-PD; a filtered back projection is an image.
PROJECTIONS = re.compile(r"(?<![a-z])(?<!back[ _-])projections?(?![a-z])")
#: Attributes that MR images have and CT images never.
MR_ONLY = ("EchoTime", "RepetitionTime", "MagneticFieldStrength", "ScanningSequence", "InversionTime", "FlipAngle")
#: Attributes that only CT images have, of which scanners write at least one.
CT_ONLY = ("KVP", "ConvolutionKernel", "XRayTubeCurrent", "Exposure", "CTDIvol", "GantryDetectorTilt")
#: What a slice cannot be placed without.
NEEDED = (
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "BitsAllocated",
)
#: Image normals further than this from the patient's axis are not axial (cosine of 45°).
AXIAL_COSINE = np.cos(np.pi / 4)
#: The rows and columns may deviate from perpendicular unit vectors by this, as rounded ones do.
DIRECTION_TOLERANCE = 0.02

#: Every attribute that scanning reads, for this module and for :mod:`ldct_denoise.io.dicom.scan.stacks`.
TAGS = (
    *NEEDED, *MR_ONLY, *CT_ONLY,
    "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality", "ImageType", "PatientID", "PatientName",
    "StudyDate", "StudyTime", "AccessionNumber", "SeriesDescription", "SeriesNumber", "Manufacturer",
    "DerivationDescription", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "NumberOfFrames", "PixelPresentation",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "AcquisitionNumber", "AcquisitionTime", "InstanceNumber",
    "SliceThickness", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "TriggerTime",
    "ReconstructionDiameter", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


def why_not_file(header: Dataset, include_derived: bool) -> str | None:
    """Why the file holds no image to denoise, or nothing."""
    kind = UID(header.SOPClassUID)
    if kind not in (CTImageStorage, *MULTI_FRAME):
        return f"not a CT image ({kind.name if kind.is_valid else 'no known kind'})"
    if PROJECTIONS.search(text(header, "SeriesDescription").lower()):
        return "projection data, not an image"
    if is_ours(header) and not include_derived:
        return "already denoised by ldct-denoise"
    if text(header, "SamplesPerPixel") not in ("", "1") or text(header, "PixelPresentation") == "COLOR":
        return "colour, not HU"
    if text(header, "PhotometricInterpretation") not in ("", "MONOCHROME1", "MONOCHROME2"):
        return "colour, not HU"
    return None


def is_ours(header: Dataset) -> bool:
    """Whether this package denoised the image; what it simulated counts as an original."""
    derived = text(header, "DerivationDescription").split(EARLIER)[0]
    return derived.startswith(PRODUCT) and "simulated" not in derived


def why_not_slice(header: Dataset) -> str | None:
    """Why this image, or frame taken for an image, is no CT slice at all, or nothing."""
    kind = values(header, "ImageType")
    if "LOCALIZER" in kind:
        return "a localizer"
    title = text(header, "SeriesDescription").lower()
    if any(PAGE.fullmatch(value.replace("_", " ")) for value in kind) or title.startswith(PAGE_TITLES):
        return "a dose report or screen, not a slice"
    found = [name for name in MR_ONLY if text(header, name)]
    if found or text(header, "Modality") == "MR":
        return f"MR under a CT label (has {found[0] if found else 'modality MR'})"
    return None


def why_not_image(header: Dataset) -> str | None:
    """Why this image, or frame taken for an image, cannot be denoised sensibly, or nothing."""
    other = why_not_slice(header)
    if other is not None:
        return other
    missing = [keyword for keyword in NEEDED if header.get(keyword) in (None, "")]
    if missing:
        return f"no {missing[0]}"
    unit = text(header, "RescaleType").upper()
    if unit not in ("HU", ""):
        return f"values are not HU but '{unit}' (Rescale Type){'' if has_ct_signs(header) else '; perhaps MR'}"
    if "RescaleSlope" not in header:
        return "values are not HU (no rescale to HU)"
    return _why_not_placed(header) or _why_not_axial(header, values(header, "ImageType"))


def _words(kind: tuple[str, ...]) -> set[str]:
    return {word for value in kind for word in value.replace("_", " ").split()}


def has_ct_signs(header: Dataset) -> bool:
    """Whether anything in the header is known of CT alone."""
    return text(header, "RescaleType").upper() == "HU" or any(text(header, keyword) for keyword in CT_ONLY)


def _why_not_placed(header: Dataset) -> str | None:
    lists = [header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing]
    if [len(one) if hasattr(one, "__len__") else 1 for one in lists] != [3, 6, 2]:
        return "position, orientation or spacing has not 3, 6 and 2 values"
    numbers = [float(one) for part in lists for one in part]
    rescale = [float(header.RescaleSlope), float(header.get("RescaleIntercept") or 0)]
    if not np.isfinite([*numbers, *rescale]).all():
        return "position, orientation, spacing or rescale is not a number"
    if max(map(abs, numbers[:3])) > 1e5 or max(map(abs, rescale)) > 1e9:
        return "position or rescale is out of all reason"
    if not abs(rescale[0]) > 1e-9:
        return "rescale slope is zero"
    if not 1e-3 < min(numbers[9:]) <= max(numbers[9:]) < 1e3:
        return "pixel spacing is impossible"
    directions = np.array(numbers[3:9]).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > DIRECTION_TOLERANCE:
        return "orientation is not two perpendicular unit vectors"
    return None


def _why_not_axial(header: Dataset, kind: tuple[str, ...]) -> str | None:
    """Renderings by Image Type, reformats by a plane that is not the scanner's."""
    named = [name for name in RENDERINGS if name in _words(kind)]
    if named:
        return f"a rendering ({named[0]}), not an axial image"
    normal = unit_directions(header.ImageOrientationPatient)[2]
    if abs(normal[2]) < AXIAL_COSINE and kind[:1] != ("ORIGINAL",) and not is_ours(header):
        return f"a {'coronal' if abs(normal[1]) > abs(normal[0]) else 'sagittal'} reformat, not an axial image"
    return None


def unit_directions(orientation: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and normal as unit vectors; rounded ones are often a little off.

    The column is made perpendicular to the row as ITK does it: normal = row × column, column = normal × row.
    """
    row, column = np.array([float(value) for value in orientation]).reshape(2, 3)
    normal = np.cross(row, column)
    row, normal = row / np.linalg.norm(row), normal / np.linalg.norm(normal)
    return row, np.cross(normal, row), normal
