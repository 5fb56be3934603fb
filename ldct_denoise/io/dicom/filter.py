"""Decide by the header alone whether an image is a CT slice to denoise, and why not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from ldct_denoise.io.dicom.values import DERIVATION_SEPARATOR, PRODUCT, text, values
from ldct_denoise.io.inventory import Exclusion, ExclusionKind

MULTIFRAME_CLASSES = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
#: Words in Image Type that name a rendering; its values are not those of slices.
RENDERINGS = ("CPR", "CURVED", "MIP", "MINIP", "MNIP", "VRT", "SSD", "PROJECTION")
#: Values of Image Type, and beginnings of Series Description, of the pages that scanners write about a scan.
#: Values such as LOW_DOSE belong to slices.
PAGE = re.compile(r"(.* )?(PROT|SCREEN ?SAVE)( .*)?|(CT SOM\d+ )?(DOSE( (INFO|REPORT|RECORD|SUMMARY))?|SCREEN)")
PAGE_TITLES = ("dose report", "patient protocol", "dose info", "dose record", "screen save")
#: Series Description of DICOM-CT-PD projection data; a filtered back projection is an image.
PROJECTIONS = re.compile(r"(?<![a-z])(?<!back[ _-])projections?(?![a-z])")
#: Attributes of MR images that CT images never have.
MR_ONLY = ("EchoTime", "RepetitionTime", "MagneticFieldStrength", "ScanningSequence", "InversionTime", "FlipAngle")
#: Attributes that only CT images have; scanners write at least one of them.
CT_ONLY = ("KVP", "ConvolutionKernel", "XRayTubeCurrent", "Exposure", "CTDIvol", "GantryDetectorTilt")
#: Attributes that every slice needs.
REQUIRED = (
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "BitsAllocated",
)
#: A plane is axial if the cosine between its normal and the patient's axis is at least this (45°).
AXIAL_COSINE = np.cos(np.pi / 4)
#: Largest deviation of rounded direction cosines from perpendicular unit vectors.
DIRECTION_TOLERANCE = 0.02

#: Every attribute that scanning reads.
TAGS = (
    *REQUIRED, *MR_ONLY, *CT_ONLY,
    "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality", "ImageType", "PatientID", "PatientName",
    "StudyDate", "StudyTime", "AccessionNumber", "SeriesDescription", "SeriesNumber", "Manufacturer",
    "DerivationDescription", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "NumberOfFrames", "PixelPresentation",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "AcquisitionNumber", "AcquisitionTime", "InstanceNumber",
    "SliceThickness", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "TriggerTime",
    "ReconstructionDiameter", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


def file_exclusion(header: Dataset, include_derived: bool) -> Exclusion | None:
    """Reason to exclude a whole file, or None if it holds CT images.

    Parameters
    ----------
    header : Dataset
        Header of the file.
    include_derived : bool
        Accept images that this package denoised.
    """
    sop_class = UID(header.SOPClassUID)
    if sop_class not in (CTImageStorage, *MULTIFRAME_CLASSES):
        name = sop_class.name if sop_class.is_valid else "unknown SOP class"
        return Exclusion(ExclusionKind.OTHER_OBJECT, f"not a CT image ({name})")
    if PROJECTIONS.search(text(header, "SeriesDescription").lower()):
        return Exclusion(ExclusionKind.PROJECTIONS, "projection data, not an image")
    if is_denoised_image(header) and not include_derived:
        return Exclusion(ExclusionKind.ALREADY_DENOISED, "already denoised by ldct-denoise")
    is_color = text(header, "SamplesPerPixel") not in ("", "1") or text(header, "PixelPresentation") == "COLOR"
    if is_color or text(header, "PhotometricInterpretation") not in ("", "MONOCHROME1", "MONOCHROME2"):
        return Exclusion(ExclusionKind.COLOR, "colour, not HU")
    return None


def is_denoised_image(header: Dataset) -> bool:
    """Whether this package denoised the image; an image with a simulated dose counts as an original."""
    derivation = text(header, "DerivationDescription").split(DERIVATION_SEPARATOR)[0]
    return derivation.startswith(PRODUCT) and "simulated" not in derivation


def image_exclusion(header: Dataset) -> Exclusion | None:
    """Reason to exclude an image of a CT file, or None if it is an axial slice in HU.

    Parameters
    ----------
    header : Dataset
        Header of a classic image, or of one frame of a multi-frame image.
    """
    return (
        _other_content(header)
        or _missing_attribute(header)
        or _other_unit(header)
        or _impossible_values(header)
        or _other_plane(header)
    )


def _other_content(header: Dataset) -> Exclusion | None:
    """Localizers, pages about the scan, and MR images that are stored as CT."""
    image_type = values(header, "ImageType")
    if "LOCALIZER" in image_type:
        return Exclusion(ExclusionKind.LOCALIZER, "a localizer")
    title = text(header, "SeriesDescription").lower()
    if any(PAGE.fullmatch(value.replace("_", " ")) for value in image_type) or title.startswith(PAGE_TITLES):
        return Exclusion(ExclusionKind.DOSE_REPORT, "a dose report or screen, not a slice")
    found = [name for name in MR_ONLY if text(header, name)]
    if found or text(header, "Modality") == "MR":
        return Exclusion(ExclusionKind.MR, f"MR stored as CT (has {found[0] if found else 'modality MR'})")
    return None


def _missing_attribute(header: Dataset) -> Exclusion | None:
    missing = [keyword for keyword in REQUIRED if header.get(keyword) in (None, "")]
    return Exclusion(ExclusionKind.INVALID_HEADER, f"no {missing[0]}") if missing else None


def _other_unit(header: Dataset) -> Exclusion | None:
    unit = text(header, "RescaleType").upper()
    if unit not in ("HU", ""):
        doubt = "" if has_ct_attributes(header) else "; perhaps MR"
        return Exclusion(ExclusionKind.NOT_HU, f"values are not HU but '{unit}' (Rescale Type){doubt}")
    if "RescaleSlope" not in header:
        return Exclusion(ExclusionKind.NOT_HU, "values are not HU (no rescale to HU)")
    return None


def has_ct_attributes(header: Dataset) -> bool:
    """Whether the header has an attribute that only CT images have."""
    return text(header, "RescaleType").upper() == "HU" or any(text(header, keyword) for keyword in CT_ONLY)


def _impossible_values(header: Dataset) -> Exclusion | None:
    """Position, orientation, pixel spacing and rescale that no image can have."""
    problem = _impossible_value(header)
    return Exclusion(ExclusionKind.INVALID_HEADER, problem) if problem else None


def _impossible_value(header: Dataset) -> str:
    vectors = [header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing]
    if [len(one) if hasattr(one, "__len__") else 1 for one in vectors] != [3, 6, 2]:
        return "position, orientation or pixel spacing does not have 3, 6 and 2 values"
    numbers = [float(one) for vector in vectors for one in vector]
    position, orientation, spacing = numbers[:3], numbers[3:9], numbers[9:]
    rescale = [float(header.RescaleSlope), float(header.get("RescaleIntercept") or 0)]
    if not np.isfinite([*numbers, *rescale]).all():
        return "position, orientation, spacing or rescale is not a number"
    if max(map(abs, position)) > 1e5 or max(map(abs, rescale)) > 1e9:
        return "position or rescale is implausibly large"
    if not abs(rescale[0]) > 1e-9:
        return "rescale slope is zero"
    if not 1e-3 < min(spacing) <= max(spacing) < 1e3:
        return "pixel spacing is impossible"
    directions = np.array(orientation).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > DIRECTION_TOLERANCE:
        return "orientation is not two perpendicular unit vectors"
    return ""


def _other_plane(header: Dataset) -> Exclusion | None:
    """Renderings by Image Type; reformats by a plane that is not axial."""
    image_type = values(header, "ImageType")
    words = {word for value in image_type for word in value.replace("_", " ").split()}
    named = [name for name in RENDERINGS if name in words]
    if named:
        return Exclusion(ExclusionKind.RENDERING, f"a rendering ({named[0]}), not an axial image")
    normal = unit_directions(header.ImageOrientationPatient)[2]
    is_original = image_type[:1] == ("ORIGINAL",) or is_denoised_image(header)
    if abs(normal[2]) < AXIAL_COSINE and not is_original:
        plane = "coronal" if abs(normal[1]) > abs(normal[0]) else "sagittal"
        return Exclusion(ExclusionKind.REFORMAT, f"a {plane} reformat, not an axial image")
    return None


def unit_directions(orientation: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row direction, column direction and normal as unit vectors; stored ones are often rounded.

    The column is made perpendicular to the row in the way ITK does: normal = row × column, column = normal × row.
    """
    row, column = np.array([float(value) for value in orientation]).reshape(2, 3)
    normal = np.cross(row, column)
    row, normal = row / np.linalg.norm(row), normal / np.linalg.norm(normal)
    return row, np.cross(normal, row), normal
