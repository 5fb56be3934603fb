"""What a DICOM node must know of an image before it is decoded: which it is, and the values that rules ask for."""

from __future__ import annotations

import json
import warnings
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
from ldct_denoise.io.dicom.filter import MULTI_FRAME
from ldct_denoise.io.dicom.multiframe import RENAMED, frame_values

#: What :func:`ldct_denoise.io.dicom.scan.scan.scan` reads.
STORAGE_CLASSES = (CTImageStorage, *MULTI_FRAME)
#: Encodings that can be decoded here. Deflated is left out: a small message may unpack to any size.
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
#: Where a multi-frame image says what all frames share, and what each has of its own.
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True)
class InstanceUIDs:
    """The UIDs of one image.

    Parameters
    ----------
    sop_uid, series_uid, study_uid : str
    """

    sop_uid: str
    series_uid: str
    study_uid: str


def read_instance_uids(file: bytes | Path) -> InstanceUIDs:
    """The UIDs of an image, as a file or its bytes; the pixels are not looked at.

    Raises
    ------
    InputError
        If it is no DICOM, or has no SOP or Series Instance UID.
    """
    wanted = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(
                BytesIO(file) if isinstance(file, bytes) else file, stop_before_pixels=True, specific_tags=wanted
            )
            found = [str(header.get(keyword) or "").strip("\0 ") for keyword in wanted]
    except Exception as error:  # a broken header can fail anywhere inside pydicom
        raise InputError(f"received image: header cannot be read ({type(error).__name__})") from None
    if not found[0] or not found[1]:
        raise InputError("received image: no SOP or Series Instance UID")
    return InstanceUIDs(*found)


def storage_uids(file: Path) -> tuple[str, str]:
    """SOP Class UID and Transfer Syntax UID of a file that we wrote.

    Raises
    ------
    InputError
        If it is no longer what we wrote.
    """
    try:
        meta = read_file_meta_info(file)
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except Exception as error:  # a broken header can fail anywhere inside pydicom
        raise InputError(f"{file}: file meta information cannot be read ({type(error).__name__})") from None


def stow_failure(answer: bytes) -> int | None:
    """Failure Reason (PS3.3 C.14) of the first image that a STOW-RS answer in DICOM JSON says was not stored.

    Returns
    -------
    int or None
        0 where it is not said; None where no image failed, or the answer is no DICOM JSON.
    """
    try:
        failed = json.loads(answer)["00081198"]["Value"]
        return int(failed[0].get("00081197", {"Value": [0]})["Value"][0]) if failed else None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def check_keywords(keywords: Iterable[str]) -> None:
    """Refuse names that are no DICOM attributes.

    Raises
    ------
    ConfigError
    """
    for keyword in keywords:
        if tag_for_keyword(keyword) is None:
            raise ConfigError(f"{keyword!r} is no DICOM attribute; give its keyword (PS3.6), as SeriesDescription")


def attribute_values(path: Path, keywords: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The values of attributes of an image, as text; what is absent or empty has none.

    Of a multi-frame image also those in the functional groups that all frames share, and in the first frame's.

    Raises
    ------
    InputError
        If the header cannot be read.
    """
    wanted = list(keywords)
    tags = [*wanted, *_GROUPS]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
            places = [header, *(_first_group(header, groups, wanted) for groups in _GROUPS)]
            return {keyword: _first_texts(places, keyword) for keyword in wanted}
    except Exception as error:
        raise InputError(f"{path}: header cannot be read ({type(error).__name__})") from None


def _first_group(header: Dataset, keyword: str, wanted: list[str]) -> dict[str, object]:
    """The values in the first item of functional groups, also under the names that they have in classic images."""
    found = frame_values((header.get(keyword) or [Dataset()])[0], wanted)
    return {RENAMED.get(name, name): value for name, value in found.items()} | found


def _first_texts(places: Iterable[Mapping[str, object] | Dataset], keyword: str) -> tuple[str, ...]:
    return next(filter(None, (_texts(place.get(keyword)) for place in places)), ())


def _texts(value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    return tuple(map(str, value)) if isinstance(value, MultiValue) else (str(value),)
