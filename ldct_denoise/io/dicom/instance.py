"""Attributes of single DICOM instances that a node needs: UIDs, storage class, values that rules match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.io.dicom.filter import MULTIFRAME_CLASSES
from ldct_denoise.io.dicom.multiframe import CLASSIC_KEYWORDS, FUNCTIONAL_GROUPS, frame_values
from ldct_denoise.io.quiet import suppress_warnings

#: SOP classes that :func:`ldct_denoise.io.dicom.scan.scan` reads.
STORAGE_CLASSES = (CTImageStorage, *MULTIFRAME_CLASSES)
#: Transfer syntaxes that can be decoded. Deflated is excluded: a small message may inflate to any size.
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)


@dataclass(frozen=True)
class InstanceUIDs:
    """The UIDs of one image.

    Parameters
    ----------
    sop_uid, series_uid, study_uid : str
        SOP, Series and Study Instance UID; the last is empty where there is none.
    """

    sop_uid: str
    series_uid: str
    study_uid: str


def read_instance_uids(file: bytes | Path) -> InstanceUIDs:
    """Read the UIDs of an image from a file or its bytes; pixels are not read.

    Raises
    ------
    InputError
        If it is not DICOM, or has no SOP or Series Instance UID.
    """
    keywords = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]
    try:
        with suppress_warnings():
            header = pydicom.dcmread(
                BytesIO(file) if isinstance(file, bytes) else file, stop_before_pixels=True, specific_tags=keywords
            )
            uids = [str(header.get(keyword) or "").strip("\0 ") for keyword in keywords]
    except Exception as error:  # a damaged header can fail anywhere inside pydicom
        raise InputError(f"received image: header cannot be read ({type(error).__name__})") from None
    if not uids[0] or not uids[1]:
        raise InputError("received image: no SOP or Series Instance UID")
    return InstanceUIDs(*uids)


def storage_uids(file: Path) -> tuple[str, str]:
    """SOP Class UID and Transfer Syntax UID of a file that this package wrote.

    Raises
    ------
    InputError
        If its file meta information cannot be read any more.
    """
    try:
        meta = read_file_meta_info(file)
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except Exception as error:  # a damaged header can fail anywhere inside pydicom
        raise InputError(f"{file}: file meta information cannot be read ({type(error).__name__})") from None


def read_uncompressed(file: Path) -> Dataset:
    """Read an image that this package wrote, with its pixels decoded; the same image, so the UID stays.

    Returns
    -------
    Dataset
        In Explicit VR Little Endian, or as it is in the file where that is not compressed.

    Raises
    ------
    InputError
        If its pixels cannot be decoded.
    """
    try:
        with suppress_warnings():
            image = pydicom.dcmread(file)
            if image.file_meta.TransferSyntaxUID.is_compressed:
                image.decompress(as_rgb=False, generate_instance_uid=False)
            return image
    except Exception as error:  # a damaged codestream can fail anywhere inside a decoder
        raise InputError(f"{file}: pixels cannot be decoded ({type(error).__name__})") from None


#: Attributes that say whose image it is, and of which order.
_PATIENT_KEYWORDS = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "AccessionNumber")


def patient_identity(file: Path) -> str:
    """Attributes that say whose image it is, in one text; two texts differ where the patient was corrected.

    Raises
    ------
    InputError
        If the header cannot be read.
    """
    values = attribute_values(file, _PATIENT_KEYWORDS)
    return "\0".join("\\".join(values[keyword]).strip() for keyword in _PATIENT_KEYWORDS)


def check_keywords(keywords: Iterable[str]) -> None:
    """Check that names are keywords of DICOM attributes.

    Raises
    ------
    ConfigError
        If one is not.
    """
    for keyword in keywords:
        if tag_for_keyword(keyword) is None:
            raise ConfigError(f"{keyword!r} is no DICOM attribute; give its keyword (PS3.6), as SeriesDescription")


def attribute_values(path: Path, keywords: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read attributes of an image as text.

    For a multi-frame image the functional groups that all frames share, and those of the first frame, are searched
    too.

    Parameters
    ----------
    path : Path
    keywords : iterable of str

    Returns
    -------
    dict from str to tuple of str
        The values of each keyword; an empty tuple where it is absent or empty.

    Raises
    ------
    InputError
        If the header cannot be read.
    """
    keywords = list(keywords)
    try:
        with suppress_warnings():
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=[*keywords, *FUNCTIONAL_GROUPS], force=True
            )
            sources = [header, *(_first_group(header, groups, keywords) for groups in FUNCTIONAL_GROUPS)]
            return {keyword: _first_texts(sources, keyword) for keyword in keywords}
    except Exception as error:  # a damaged header can fail anywhere inside pydicom
        raise InputError(f"{path}: header cannot be read ({type(error).__name__})") from None


def _first_group(header: Dataset, groups: str, keywords: list[str]) -> dict[str, object]:
    """Values in the first item of functional groups, under their enhanced and their classic keywords."""
    values = frame_values((header.get(groups) or [Dataset()])[0], keywords)
    return {CLASSIC_KEYWORDS.get(name, name): value for name, value in values.items()} | values


def _first_texts(sources: Iterable[Mapping[str, object] | Dataset], keyword: str) -> tuple[str, ...]:
    return next(filter(None, (_texts(source.get(keyword)) for source in sources)), ())


def _texts(value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    return tuple(map(str, value)) if isinstance(value, MultiValue) else (str(value),)
