"""Decide by the header alone whether an image is a CT slice to denoise, and why not."""

from __future__ import annotations

import re
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from ldct_denoise.io.dicom.unit import CT_ONLY, MR_ONLY, REMEDY, unit_exclusion
from ldct_denoise.io.dicom.values import DERIVATION_SEPARATOR, PRODUCT, as_list, text, values
from ldct_denoise.io.inventory import Exclusion, ExclusionKind

MULTIFRAME_CLASSES = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
#: Words in Image Type that name a rendering; its values are not those of slices.
RENDERINGS = ("CPR", "CURVED", "MIP", "MINIP", "MNIP", "VRT", "SSD", "PROJECTION")
#: Values of Image Type of the pages that scanners write about a scan. Values such as LOW_DOSE belong to slices.
PAGE = re.compile(r"(.* )?(PROT|SCREEN ?SAVE)( .*)?|(CT SOM\d+ )?(DOSE( (INFO|REPORT|RECORD|SUMMARY))?|SCREEN)")
#: Beginnings of their Series Description. It decides only together with an Image Type that is not ORIGINAL.
PAGE_TITLES = ("dose report", "patient protocol", "dose info", "dose record", "screen save")
#: Series Description of projection data. It decides only where a slice's geometry is missing.
PROJECTIONS = re.compile(r"(?<![a-z])(?<!back[ _-])projections?(?![a-z])")
#: Number of detector rows and columns, and focal spot angle, of DICOM-CT-PD projection data.
PROJECTION_TAGS = (Tag(0x7029, 0x1010), Tag(0x7029, 0x1011), Tag(0x7031, 0x1001))
#: Compression of private pixel data by Philips (ELSCINT1).
PRIVATE_COMPRESSION = Tag(0x07A1, 0x1011)
#: Beginning of our Derivation Description of a simulated dose.
SIMULATION = re.compile(rf"{PRODUCT} [^:]*: low dose simulated")
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

#: Every attribute that scanning reads: keywords, and tags of private attributes.
KEYWORDS = (
    *REQUIRED, *MR_ONLY, *CT_ONLY,
    "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality", "ImageType", "PatientID", "PatientName",
    "StudyDate", "StudyTime", "AccessionNumber", "SeriesDescription", "SeriesNumber", "Manufacturer",
    "DerivationDescription", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "NumberOfFrames", "PixelPresentation",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "AcquisitionNumber", "AcquisitionTime", "InstanceNumber",
    "SliceThickness", "ExposureTime", "RevolutionTime", "SpiralPitchFactor", "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase", "TriggerTime", "ReconstructionDiameter", *PROJECTION_TAGS,
    PRIVATE_COMPRESSION, "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
TAGS = tuple(Tag(keyword) for keyword in KEYWORDS)


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
    if _is_projection(header):
        return Exclusion(ExclusionKind.PROJECTIONS, "projection data, not an image")
    if is_denoised_image(header) and not include_derived:
        return Exclusion(ExclusionKind.ALREADY_DENOISED, "already denoised by ldct-denoise")
    is_color = text(header, "SamplesPerPixel") not in ("", "1") or text(header, "PixelPresentation") == "COLOR"
    if is_color or text(header, "PhotometricInterpretation") not in ("", "MONOCHROME1", "MONOCHROME2"):
        return Exclusion(ExclusionKind.COLOR, "colour, not HU")
    return None


def _is_projection(header: Dataset) -> bool:
    """Projection data by its own attributes, or by its name where a slice's geometry is missing."""
    if any(tag in header for tag in PROJECTION_TAGS):
        return True
    lacks_geometry = header.get("ImagePositionPatient") in (None, "") or header.get("PixelSpacing") in (None, "")
    is_multiframe = "PerFrameFunctionalGroupsSequence" in header
    named = PROJECTIONS.search(text(header, "SeriesDescription").lower()) is not None
    return named and lacks_geometry and not is_multiframe


def is_denoised_image(header: Dataset) -> bool:
    """Whether this package denoised the image; an image with a simulated dose counts as an original."""
    derivation = text(header, "DerivationDescription").split(DERIVATION_SEPARATOR)[0]
    return derivation.startswith(PRODUCT) and SIMULATION.match(derivation) is None


def image_exclusion(header: Dataset, assume_hu: bool = False) -> Exclusion | None:
    """Reason to exclude an image of a CT file, or None if it is an axial slice in HU.

    Parameters
    ----------
    header : Dataset
        Header of a classic image, or of one frame of a multi-frame image.
    assume_hu : bool
        Take the values, after the rescale that there is, for HU.
    """
    return (
        _other_content(header)
        or (None if assume_hu else unit_exclusion(header))
        or _missing_attribute(header)
        or (None if assume_hu else _missing_rescale(header))
        or _impossible_values(header)
        or _other_plane(header)
    )


def _other_content(header: Dataset) -> Exclusion | None:
    """Localizers and pages about the scan."""
    image_type = values(header, "ImageType")
    if "LOCALIZER" in image_type:
        return Exclusion(ExclusionKind.LOCALIZER, "a localizer")
    title = text(header, "SeriesDescription").lower()
    is_titled = title.startswith(PAGE_TITLES) and image_type[:1] != ("ORIGINAL",)
    if is_titled or any(PAGE.fullmatch(value.replace("_", " ")) for value in image_type):
        return Exclusion(ExclusionKind.DOSE_REPORT, "a dose report or screen, not a slice")
    return None


def _missing_attribute(header: Dataset) -> Exclusion | None:
    missing = [keyword for keyword in REQUIRED if header.get(keyword) in (None, "")]
    return Exclusion(ExclusionKind.INVALID_HEADER, f"no {missing[0]}") if missing else None


def _missing_rescale(header: Dataset) -> Exclusion | None:
    """A rescale that is absent or empty does not count as 1 or 0: HU are unknown (PS3.3 C.8.2.1, Type 1)."""
    if "RescaleSlope" not in header and "RescaleIntercept" not in header:
        return Exclusion(ExclusionKind.NOT_HU, f"values are not HU (no rescale to HU){REMEDY}")
    for keyword, name in (("RescaleSlope", "Rescale Slope"), ("RescaleIntercept", "Rescale Intercept")):
        if header.get(keyword) in (None, ""):
            state = "is empty" if keyword in header else "is missing"
            reason = f"{name} {state}, so that HU are unknown; write it, or give --assume-hu if values are HU"
            return Exclusion(ExclusionKind.INVALID_HEADER, reason)
    return None


def private_pixel_data(header: Dataset) -> Exclusion | None:
    """Pixel data in a private element, in a compression of the vendor, or None."""
    if PRIVATE_COMPRESSION not in header:
        return None
    value = header[PRIVATE_COMPRESSION].value
    name = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    reason = f"private Philips compression {name.strip()} (07A1,100A); export the images uncompressed"
    return Exclusion(ExclusionKind.LOST_SLICE, reason)


def _impossible_values(header: Dataset) -> Exclusion | None:
    """Position, orientation, pixel spacing and rescale that no image can have."""
    problem = _impossible_value(header)
    return Exclusion(ExclusionKind.INVALID_HEADER, problem) if problem else None


def _impossible_value(header: Dataset) -> str:
    expected = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    vectors = {
        keyword: as_list(header.get(keyword)) for keyword in (*expected, "RescaleSlope", "RescaleIntercept")
    }
    for keyword, numbers in vectors.items():
        count = len(numbers)
        if count != expected.get(keyword, 1) and (count or keyword in expected):
            return f"{keyword} has {count} value{'s' * (count != 1)}, not {expected.get(keyword, 1)}; correct it"
        if not _are_finite(numbers):
            shown = "\\".join(map(str, numbers))[:40]
            return f"{keyword} '{shown}' is not a number, or not certain; correct it"
    rescale = [*vectors["RescaleSlope"], *vectors["RescaleIntercept"]]
    if max(abs(float(one)) for one in vectors["ImagePositionPatient"]) > 1e5 or any(
        abs(float(one)) > 1e9 for one in rescale
    ):
        return "position or rescale is implausibly large"
    if any(not abs(float(one)) > 1e-9 for one in vectors["RescaleSlope"]):
        return "rescale slope is zero"
    spacing = [float(one) for one in vectors["PixelSpacing"]]
    if not 1e-3 < min(spacing) <= max(spacing) < 1e3:
        return "pixel spacing is impossible"
    if not _are_perpendicular_units(tuple(float(one) for one in vectors["ImageOrientationPatient"])):
        return "orientation is not two perpendicular unit vectors"
    return ""


def _are_finite(numbers: list[Any]) -> bool:
    try:
        return all(isfinite(float(one)) for one in numbers)
    except (TypeError, ValueError):
        return False


@lru_cache(maxsize=256)  # the slices of a series share it
def _are_perpendicular_units(orientation: tuple[float, ...]) -> bool:
    directions = np.array(orientation).reshape(2, 3)
    return bool(np.abs(directions @ directions.T - np.eye(2)).max() <= DIRECTION_TOLERANCE)


def _other_plane(header: Dataset) -> Exclusion | None:
    """Renderings by Image Type; reformats by a plane that is not axial."""
    image_type = values(header, "ImageType")
    words = {word for value in image_type for word in value.replace("_", " ").split()}
    named = [name for name in RENDERINGS if name in words]
    if named:
        return Exclusion(ExclusionKind.RENDERING, f"a rendering ({named[0]}), not an axial image")
    normal = unit_directions(tuple(map(float, header.ImageOrientationPatient)))[2]
    is_original = image_type[:1] == ("ORIGINAL",) or is_denoised_image(header)
    if abs(normal[2]) < AXIAL_COSINE and not is_original:
        plane = "coronal" if abs(normal[1]) > abs(normal[0]) else "sagittal"
        return Exclusion(ExclusionKind.REFORMAT, f"a {plane} reformat, not an axial image")
    return None


@lru_cache(maxsize=256)  # the slices of a series share it
def unit_directions(orientation: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row direction, column direction and normal as unit vectors; stored ones are often rounded.

    The column is made perpendicular to the row in the way ITK does: normal = row × column, column = normal × row.

    Parameters
    ----------
    orientation : tuple of 6 floats
        Image Orientation (Patient).

    Returns
    -------
    tuple of 3 ndarrays, shape (3,), float64
        Read-only.
    """
    row, column = np.array(orientation).reshape(2, 3)
    normal = np.cross(row, column)
    row, normal = row / np.linalg.norm(row), normal / np.linalg.norm(normal)
    directions = row, np.cross(normal, row), normal
    for direction in directions:
        direction.setflags(write=False)
    return directions
