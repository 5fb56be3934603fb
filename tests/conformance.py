"""Find what general DICOM checkers pass over in silence in a derived series.

``dciodvfy`` does not notice an image that still says ORIGINAL, one without any derivation data, a broken
equipment chain, stale pixel statistics or a changed frame of reference; ``docs/reference/derived-series.md`` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, EnhancedCTImageStorage

from ldct_denoise.io.derived.attributes import STALE
from ldct_denoise.io.dicom.padding import padding_range
from ldct_denoise.io.dicom.values import DERIVATION_SEPARATOR, PRODUCT

if TYPE_CHECKING:
    from ldct_denoise.io.dicom.series import Series


#: Attributes of patient, study, space and acquisition that the derived image shares with its source.
KEPT = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "SpecificCharacterSet",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SliceLocation",
    "PatientPosition",
    "InstanceNumber",
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "ConvolutionKernel",
    "KVP",
    "XRayTubeCurrent",
    "Exposure",
    "CTDIvol",
    "IrradiationEventUID",
    "RescaleSlope",
    "RescaleIntercept",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "WindowCenter",
    "WindowWidth",
)
#: What is one for all images of a series.
SHARED = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime", "Manufacturer")
US_OR_SS = (
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
)


def check_derived(source: Series, output: Path) -> list[str]:
    """Compare a derived series with its source.

    Parameters
    ----------
    source : Series
        What was derived from.
    output : Path
        Folder of the derived files.

    Returns
    -------
    list of str
        One line for each breach, with the file's name; empty where there is none.
    """
    breaches: list[str] = []
    images: list[Dataset] = []
    for path in sorted(output.iterdir()):
        try:
            image = dcmread(path)
        except (InvalidDicomError, OSError) as error:
            breaches.append(f"{path.name}: cannot be read ({error})")
            continue
        images.append(image)
        index = _source_index(source, image)
        if index is None:
            breaches.append(f"{path.name}: does not name an image of the source series")
            continue
        header = source.header(index)
        for check in (_check_identity, _check_kept, _check_derivation, _check_equipment, _check_pixels):
            breaches += [f"{path.name}: {breach}" for breach in check(image, header)]
    return breaches + list(_check_series(images, source))


def _source_index(source: Series, image: Dataset) -> int | None:
    items = image.get("SourceImageSequence") or _frame_sources(image)
    named = {str(item.ReferencedSOPInstanceUID) for item in items[:1]}  # those beside it follow
    described = str(image.get("DerivationDescription") or "")
    for index, slice_ in enumerate(source.slices):
        if slice_.sop_uid in named or (not named and f"source instance {slice_.sop_uid};" in described):
            return index
    return None


def _frame_sources(image: Dataset) -> list[Dataset]:
    return [
        item
        for frame in image.get("PerFrameFunctionalGroupsSequence") or []
        for derivation in frame.get("DerivationImageSequence") or []
        for item in derivation.get("SourceImageSequence") or []
    ]


def _check_identity(image: Dataset, header: Dataset) -> Iterator[str]:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        uid = UID(str(image.get(keyword) or ""))
        if not uid.is_valid or not uid:
            yield f"{keyword} {uid} is no UID"
        if uid == header.get(keyword):
            yield f"{keyword} is the source's"
    if image.file_meta.MediaStorageSOPInstanceUID != image.SOPInstanceUID:
        yield "file meta names another SOP instance"
    kept = header.get("SOPClassUID") or image.SOPClassUID
    if image.SOPClassUID != kept and header.get("NumberOfFrames") is None:
        yield f"SOPClassUID {image.SOPClassUID.name} instead of {kept.name}"


def _check_kept(image: Dataset, header: Dataset) -> Iterator[str]:
    apart = "NumberOfFrames" in header and "NumberOfFrames" not in image
    for keyword in KEPT:
        if apart and keyword == "InstanceNumber":
            continue  # a frame taken out is numbered by its frame
        before, after = header.get(keyword), image.get(keyword)
        if before not in (None, "") and before != after and not _same_bits(keyword, before, after, image):
            yield f"{keyword} changed from {before!r} to {after!r}"
    if header.get("LossyImageCompression") == "01" and image.get("LossyImageCompression") != "01":
        yield "the source's lossy compression is not told"


def _same_bits(keyword: str, before: Any, after: Any, image: Dataset) -> bool:
    """Whether a value was only read with the other signedness."""
    whole = isinstance(before, int) and isinstance(after, int) and keyword in US_OR_SS
    return whole and (before - after) % (1 << int(image.BitsAllocated)) == 0


def _check_derivation(image: Dataset, header: Dataset) -> Iterator[str]:
    kind = list(image.get("ImageType") or [])
    second = "PRIMARY" if image.SOPClassUID == EnhancedCTImageStorage else "SECONDARY"
    if kind[:2] != ["DERIVED", second]:
        yield f"ImageType {kind} does not begin with DERIVED, {second}"
    text = str(image.get("DerivationDescription") or "")
    if image.SOPClassUID != EnhancedCTImageStorage and PRODUCT not in text:
        yield "DerivationDescription does not say how the image was made"
    if not text.split(DERIVATION_SEPARATOR)[0].isascii():
        yield "DerivationDescription is not plain ASCII"
    if image.get("ContentQualification") != "RESEARCH":
        yield "ContentQualification is not RESEARCH"
    for keyword in STALE:
        if keyword in image:
            yield f"{keyword} of the source was left in"


def _check_equipment(image: Dataset, header: Dataset) -> Iterator[str]:
    items = image.get("ContributingEquipmentSequence") or []
    if not items:
        yield "ContributingEquipmentSequence is missing"
        return
    makers = {str(item.get("Manufacturer") or "") for item in items} | {str(image.get("Manufacturer") or "")}
    if PRODUCT not in makers:
        yield "no equipment item names us"
    scanner = str(header.get("Manufacturer") or "").strip() or "UNKNOWN"
    if scanner not in {maker.strip() for maker in makers} and "UNKNOWN" not in makers:
        yield f"no equipment item names the scanner ({scanner})"


def _check_pixels(image: Dataset, header: Dataset) -> Iterator[str]:
    signed = image.PixelRepresentation == 1
    for keyword in US_OR_SS:
        if keyword in image and ("SS" if signed else "US") != image[keyword].VR:
            yield f"{keyword} has VR {image[keyword].VR} against Pixel Representation"
    if "SmallestImagePixelValue" not in image and "LargestImagePixelValue" not in image:
        return
    values = image.pixel_array
    limits = padding_range(image)
    if limits is not None:
        native = values[(values < limits[0]) | (values > limits[1])]
        values = native if native.size else values
    reductions: tuple[tuple[str, Callable[..., Any]], ...] = (
        ("SmallestImagePixelValue", np.min),
        ("LargestImagePixelValue", np.max),
    )
    for keyword, reduce in reductions:
        if keyword in image and image[keyword].value != int(reduce(values)):
            yield f"{keyword} is {image[keyword].value}, the pixels say {int(reduce(values))}"


def _check_series(images: list[Dataset], source: Series) -> Iterator[str]:
    frames = sum(int(image.get("NumberOfFrames") or 1) for image in images)
    if frames != len(source):
        yield f"{frames} derived images for {len(source)} source images"
    uids = [image.SOPInstanceUID for image in images]
    if len(set(uids)) != len(uids):
        yield "a SOP instance UID occurs twice"
    for keyword in SHARED:
        if len({str(image.get(keyword)) for image in images}) > 1:
            yield f"{keyword} is not the same in the whole series"
