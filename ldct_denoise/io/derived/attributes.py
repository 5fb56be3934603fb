"""Attributes of a derived CT image.

``docs/reference/derived-series.md`` gives the reason and the clause of the standard for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from datetime import datetime, timedelta, timezone

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

import ldct_denoise
from ldct_denoise.io.derived.cut_text import cut_text
from ldct_denoise.io.derived.derivation import MAX_DESCRIPTION, Derivation, ascii_text
from ldct_denoise.io.derived.dose_attributes import SCALED, scale_dose
from ldct_denoise.io.derived.transcode import SPACE_PADDED as TEXT
from ldct_denoise.io.dicom.values import DERIVATION_SEPARATOR, PRODUCT, as_list

MAX_LABEL = 64  # characters of a Long String
#: Transfer syntaxes that are always lossy, and their Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1).
LOSSY_METHODS = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
}
MAX_SERIES_NUMBER = 2**31 - 1
#: Offsets from UTC that occur on Earth; others are ignored.
ZONE = re.compile(r"[+-](0[0-9]|1[0-4])[0-5][0-9]")

#: General Equipment (PS3.3 C.7.5.1) that an item of Contributing Equipment may contain (C.12.1, Table C.12-1).
EQUIPMENT = (
    "Manufacturer",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "InstitutionalDepartmentName",
    "InstitutionalDepartmentTypeCodeSequence",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "DeviceUID",
    "UDISequence",
    "SpatialResolution",
    "DateOfLastCalibration",
    "TimeOfLastCalibration",
)
#: The institution, which the processing shares with the scanner: it also stays at the top level.
SHARED_EQUIPMENT = ("InstitutionName", "InstitutionAddress")
#: General Equipment of the scanner that has no attribute in the item.
SCANNER_ONLY = ("GantryID", "DateOfManufacture", "DateOfInstallation")

#: Attributes that describe the source image only, or that new pixels make wrong.
STALE = (
    "InstanceCreatorUID",
    "InstanceCoercionDateTime",
    "AvailableTransferSyntaxUID",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "SmallestImagePixelValueInPlane",
    "LargestImagePixelValueInPlane",
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "EncryptedAttributesSequence",
    "SOPInstanceStatus",
    "SOPAuthorizationDateTime",
    "SOPAuthorizationComment",
    "AuthorizationEquipmentCertificationNumber",
    "StorageMediaFileSetID",
    "StorageMediaFileSetUID",
    "ReferencedPerformedProcedureStepSequence",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepEndDate",
    "PerformedProcedureStepEndTime",
    "PerformedProcedureStepID",
    "PerformedProcedureStepDescription",
)


def code_item(value: str, meaning: str) -> Dataset:
    """A code of the DICOM Controlled Terminology (PS3.16 Annex D)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def set_derivation_attributes(
    image: Dataset, derivation: Derivation, created: datetime, *, keep_manufacturer: bool
) -> None:
    """Set all attributes of a derived image except its UIDs, sources and pixels.

    Parameters
    ----------
    image : Dataset
        Copy of the source's header; changed in place.
    derivation : Derivation
        How the new pixels came about.
    created : datetime
        Creation time.
    keep_manufacturer : bool
        Keep the scanner in General Equipment; this software then becomes the contributing equipment.
    """
    for keyword in STALE:
        if keyword in image:
            delattr(image, keyword)
    _set_derivation(image, derivation)
    _set_equipment(image, derivation, keep_manufacturer)
    _set_dates(image, created)
    _set_unknown_laterality(image)
    image.ContentQualification = "RESEARCH"
    if derivation.kind == "simulated":
        image.SyntheticData = "YES"
        scale_dose(image, derivation.dose)


def derived_series_number(source: object, number: int = 0) -> int:
    """The source's Series Number × 100 + 1 + ``number`` (0 to 98); without the source's where that is too long."""
    own = 1 + min(number, 98)
    total = 100 * abs(source if isinstance(source, int) else 0) + own
    return total if total <= MAX_SERIES_NUMBER else own


def series_description(source: Dataset, label: str) -> str:
    """The source's Series Description and ``label``, which is ASCII, in 64 characters; the description is cut."""
    description = " ".join(map(str, as_list(source.get("SeriesDescription")))).strip(" \0")
    room = MAX_LABEL - len(label) - 1
    return f"{cut_text(description, max(room, 0), source).rstrip()} {label}".strip()[:MAX_LABEL]


def source_image_item(class_uid: str, instance_uid: str, frame: int | None = None) -> Dataset:
    """Item of Source Image Sequence (PS3.3 C.12.4.1.2).

    Parameters
    ----------
    class_uid : str
        SOP Class UID of the source image.
    instance_uid : str
        SOP Instance UID of the source image.
    frame : int, optional
        Frame number, counted from 1.

    Returns
    -------
    Dataset
    """
    item = Dataset()
    item.ReferencedSOPClassUID = class_uid
    item.ReferencedSOPInstanceUID = instance_uid
    if frame is not None:
        item.ReferencedFrameNumber = frame
    item.PurposeOfReferenceCodeSequence = Sequence(
        [code_item("121322", "Source image for image processing operation")]
    )
    item.SpatialLocationsPreserved = "YES"
    return item


def assign_uids(
    image: Dataset, derivation: Derivation, source: str, series: str, *, number: int = 0, suffix: str = ""
) -> None:
    """Set SOP Instance UID, Series Instance UID, Series Number and Series Description.

    Parameters
    ----------
    image : Dataset
        Changed in place; still has the source's series number and description.
    derivation : Derivation
        How the new pixels came about.
    source, series : str
        Identity of the source image and of the source series; equal ones give equal UIDs.
    number : int
        Added to the Series Number, for several derived series of one source series.
    suffix : str
        ASCII text at the end of the Series Description, for the same purpose.
    """
    image.SOPInstanceUID = derivation.uid(source)
    image.SeriesInstanceUID = derivation.uid(series)
    image.SeriesNumber = derived_series_number(image.get("SeriesNumber"), number)
    image.SeriesDescription = series_description(image, f"{derivation.label} {suffix}".strip())


def set_source_images(image: Dataset, class_uid: str, sources: Iterable[tuple[str, int | None]]) -> None:
    """List the source images in Source Image Sequence, or in the description where the first UID is invalid.

    Parameters
    ----------
    image : Dataset
        The derived image; changed in place.
    class_uid : str
        SOP class of the source images.
    sources : iterable of (str, int or None)
        SOP Instance UID, and frame counted from 0: the image's own slice, then its context slices.
    """
    listed = list(sources)
    source_uid = listed[0][0]
    if UID(source_uid).is_valid:
        valid = [(uid, frame) for uid, frame in listed if UID(uid).is_valid]
        image.SourceImageSequence = Sequence(
            [source_image_item(class_uid, uid, None if frame is None else frame + 1) for uid, frame in valid]
        )
        return
    if "SourceImageSequence" in image:
        del image.SourceImageSequence
    text, *previous = str(image.DerivationDescription).split(DERIVATION_SEPARATOR)
    text = DERIVATION_SEPARATOR.join([f"{text}; source instance {ascii_text(source_uid)};", *previous])
    image.DerivationDescription = cut_text(text, MAX_DESCRIPTION, image)


def set_lossy_compression(image: Dataset, syntax: UID, ratio: float) -> None:
    """State that the source was compressed with loss, unless its header already does (PS3.3 C.7.6.1.1.5).

    Parameters
    ----------
    image : Dataset
        The derived image; changed in place.
    syntax : UID
        Transfer syntax of the source.
    ratio : float
        Compression ratio of the source.
    """
    if syntax not in LOSSY_METHODS or image.get("LossyImageCompression") == "01":
        return
    image.LossyImageCompression = "01"
    image.LossyImageCompressionRatio = f"{ratio:.2f}"
    image.LossyImageCompressionMethod = LOSSY_METHODS[syntax]


def _set_derivation(image: Dataset, derivation: Derivation) -> None:
    previous = str(image.get("DerivationDescription") or "").strip(" \0")
    text = derivation.text
    if image.get("BurnedInAnnotation") == "YES":
        text += "; the source has burned-in annotation, which was processed like the image"
    text = f"{text}{DERIVATION_SEPARATOR}{previous}" if previous else text
    image.DerivationDescription = cut_text(text, MAX_DESCRIPTION, image)


def _set_equipment(image: Dataset, derivation: Derivation, keep_scanner: bool) -> None:
    """PS3.3 C.12.1.1.5: our equipment at the top level and the scanner as contributor; on request the reverse."""
    ours = _our_equipment(derivation)
    if keep_scanner:
        contributor = deepcopy(ours)
        contributor.PurposeOfReferenceCodeSequence = Sequence([code_item("109102", "Processing Equipment")])
        contributor.ContributionDescription = derivation.label
    else:
        contributor = _scanner_equipment(image)
        if derivation.kind == "simulated":
            contributor.ContributionDescription = f"images at full dose, before {derivation.label}"
        for keyword in (*EQUIPMENT, *SCANNER_ONLY):
            if keyword in image and keyword not in SHARED_EQUIPMENT:
                delattr(image, keyword)
        image.update(ours)
    previous = list(image.get("ContributingEquipmentSequence") or [])
    if derivation.kind == "simulated":
        contributor.ContributionDescription += f"; {SCALED}"
    image.ContributingEquipmentSequence = Sequence([*previous, contributor])


def _our_equipment(derivation: Derivation) -> Dataset:
    ours = Dataset()
    ours.Manufacturer = PRODUCT
    ours.ManufacturerModelName = ascii_text(derivation.model_name)[:MAX_LABEL]
    checksum = derivation.model_checksum[:32] or "none"
    ours.DeviceSerialNumber = derivation.model_checksum[:MAX_LABEL] or "none"
    ours.SoftwareVersions = [f"{PRODUCT} {ldct_denoise.__version__}", f"model sha256 {checksum}"]
    return ours


def _scanner_equipment(image: Dataset) -> Dataset:
    """The source's complete General Equipment as an item of Contributing Equipment."""
    item = Dataset()
    for keyword in EQUIPMENT:
        if keyword in image:
            tag = Tag(keyword)
            item[tag] = _without_nul(deepcopy(image.get_item(tag)))  # not decoded: byte for byte
    if not str(image.get("Manufacturer") or "").split("\0")[0].strip():
        item.Manufacturer = "UNKNOWN"
    original = as_list(image.get("ImageType"))[:1] != ["DERIVED"]
    purpose = ("109101", "Acquisition Equipment") if original else ("109102", "Processing Equipment")
    item.PurposeOfReferenceCodeSequence = Sequence([code_item(*purpose)])
    return item


def _without_nul(element: DataElement | RawDataElement) -> DataElement | RawDataElement:
    """The element with text that ends at its first NUL: some writers pad fixed buffers with NUL (PS3.5 6.2)."""
    if not isinstance(element, RawDataElement) or element.VR not in TEXT or b"\0" not in (element.value or b""):
        return element
    parts = [part.split(b"\0")[0].rstrip(b" ") for part in (element.value or b"").split(b"\\")]
    value = b"\\".join(parts)
    value += b" " * (len(value) % 2)
    return element._replace(value=value, length=len(value))


def _set_unknown_laterality(image: Dataset) -> None:
    """Laterality is Type 2C (PS3.3 C.7.3.1): empty where it is unknown whether the body part is paired."""
    if any(k in image for k in ("Laterality", "ImageLaterality", "PerFrameFunctionalGroupsSequence")):
        return
    if str(image.get("BodyPartExamined") or "PARTIALBODY").strip() == "PARTIALBODY":
        image.Laterality = ""


def _set_dates(image: Dataset, created: datetime) -> None:
    """Set creation, content and series times, in the time zone of the image's other times (PS3.3 C.12.1)."""
    offset = str(image.get("TimezoneOffsetFromUTC") or "").strip()
    if ZONE.fullmatch(offset):
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        created = created.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
    for part in ("InstanceCreation", "Content", "Series"):
        setattr(image, f"{part}Date", created.strftime("%Y%m%d"))
        setattr(image, f"{part}Time", created.strftime("%H%M%S.%f"))
