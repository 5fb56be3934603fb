"""Copy a dataset into Explicit VR Little Endian without changing its values.

Values that were never decoded are copied byte for byte (names in any alphabet, odd decimal strings, trailing
spaces); only the byte order of binary numbers changes. pydicom does not convert between byte orders by itself.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import STANDARD_VR

import ldct_denoise
from ldct_denoise.io.dicom.uids import IMPLEMENTATION_CLASS_UID

#: Bytes per number of the binary value representations (PS3.5 6.2); text and byte strings are not listed.
WORD_BYTES = {
    "AT": 2,
    "US": 2,
    "SS": 2,
    "OW": 2,
    "UL": 4,
    "SL": 4,
    "FL": 4,
    "OF": 4,
    "OL": 4,
    "FD": 8,
    "OD": 8,
    "OV": 8,
    "SV": 8,
    "UV": 8,
}
NUL_PADDED = {"UI", "OB", "UN"}
#: Text padded with spaces; a trailing NUL is no part of it (PS3.5 6.2).
SPACE_PADDED = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}
PIXEL_GROUP = 0x7FE0
TRAILING_PADDING = 0xFFFCFFFC
#: Deepest nesting of sequences; structured reports reach about twelve.
DEEPEST = 50


def explicit_little_endian(source: Dataset, *, keep_private: bool = True) -> Dataset:
    """Copy a dataset, without pixel data and file meta information, ready to be written.

    Parameters
    ----------
    source : Dataset
        As read from a file of any transfer syntax.
    keep_private : bool
        Whether private attributes are copied.

    Returns
    -------
    Dataset
        Independent of ``source``.

    Raises
    ------
    ValueError
        If sequences are nested deeper than in any IOD: pydicom would need unbounded time.
    """
    signed = source.get("PixelRepresentation", 0) == 1
    return _copy(source, keep_private, signed, DEEPEST)


def new_file_meta() -> FileMetaDataset:
    """File Meta Information of the files that this software writes (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"LDCTDENOISE{ldct_denoise.__version__}"[:16]
    return meta


def finalize(dataset: Dataset) -> None:
    """Allow pydicom to write undecoded values unchanged; call it just before writing."""
    for element in dataset.values():
        if isinstance(element, DataElement) and element.VR == "SQ":
            for item in element.value:
                finalize(item)
    names = dataset.get("SpecificCharacterSet")
    dataset.set_original_encoding(False, True, convert_encodings(names) if names else default_encoding)


def _copy(source: Dataset, keep_private: bool, signed: bool, depth: int) -> Dataset:
    if depth == 0:
        raise ValueError(f"sequences nested more than {DEEPEST} deep")
    copy = Dataset()
    for tag in source.keys():  # noqa: SIM118 - iterating a Dataset would decode its values
        if _is_structural(tag) or (tag.is_private and not keep_private):
            continue
        element = _element(source, tag)
        if element.VR == "SQ" or (isinstance(element, RawDataElement) and _value_type(element, source) == "SQ"):
            items = [_copy(item, keep_private, signed, depth - 1) for item in source[tag].value or []]
            copy[tag] = DataElement(tag, "SQ", Sequence(items))
        elif isinstance(element, RawDataElement):
            copy[tag] = _copy_raw(element, _settled(_value_type(element, source), tag, signed))
        else:
            copy[tag] = _copy_decoded(element, tag, signed, source.original_encoding[1] is False)
    return copy


def _element(source: Dataset, tag: BaseTag) -> DataElement | RawDataElement:
    try:
        return source.get_item(tag)
    except NotImplementedError:  # an empty element with an invalid VR
        return RawDataElement(tag, None, 0, b"", 0, False, True, True)


def _is_structural(tag: BaseTag) -> bool:
    """Group lengths, command and file meta groups, pixel data, trailing padding."""
    return tag.element == 0 or tag.group in (0x0000, 0x0002, PIXEL_GROUP) or tag == TRAILING_PADDING


def _value_type(element: RawDataElement, source: Dataset) -> str:
    """The element's VR, from the dictionaries where the file has none, an invalid one or UN."""
    if element.VR != "UN" and element.VR in STANDARD_VR:
        return str(element.VR)
    tag = element.tag
    if not tag.is_private:
        return str(dictionary_VR(tag)) if dictionary_has_tag(tag) else "UN"
    if element.VR is not None or tag.is_private_creator:
        return "LO" if tag.is_private_creator else "UN"
    try:
        creator = source.get((tag.group << 16) | (tag.element >> 8))
        return str(private_dictionary_VR(tag, creator.value))
    except (KeyError, AttributeError, TypeError, NotImplementedError):
        return "UN"


def _settled(value_type: str, tag: BaseTag, signed: bool) -> str:
    """Choose one VR where the dictionary allows several, by Pixel Representation (PS3.5 A.1, PS3.3 C.7.6.3.1)."""
    follows_pixels = dictionary_has_tag(tag) and dictionary_VR(tag) == "US or SS"
    if follows_pixels and value_type in ("US", "SS", "US or SS"):
        return "SS" if signed else "US"
    return value_type if len(value_type) == 2 else "OW"


def _copy_raw(element: RawDataElement, value_type: str) -> RawDataElement:
    value = element.value or b""
    if not element.is_little_endian and value_type in WORD_BYTES:
        value = _swapped(value, WORD_BYTES[value_type])
    if value_type in SPACE_PADDED and value.endswith(b"\0"):
        value = value.rstrip(b"\0")
    if len(value) % 2:
        value += b"\0" if value_type in NUL_PADDED or value_type in WORD_BYTES else b" "
    return RawDataElement(element.tag, value_type, len(value), value, 0, False, True, True)


def _copy_decoded(element: DataElement, tag: BaseTag, signed: bool, big_endian: bool) -> DataElement:
    copy = deepcopy(element)
    copy.VR = _settled(element.VR, tag, signed)
    if {element.VR, copy.VR} == {"US", "SS"}:
        copy.value = _other_signedness(element.value, signed)
    if big_endian and isinstance(copy.value, bytes) and copy.VR in WORD_BYTES:
        copy.value = _swapped(copy.value, WORD_BYTES[copy.VR])
    return copy


def _other_signedness(value: Any, signed: bool) -> Any:
    """Reinterpret the same 16 bits as SS (``signed``) or as US."""
    if isinstance(value, int):
        return (value + 0x8000) % 0x10000 - 0x8000 if signed else value % 0x10000
    if not isinstance(value, MultiValue):
        return value
    # The first of the three values of a LUT Descriptor, the number of entries, is always unsigned
    # (PS3.3 C.7.6.3.1.5).
    first = value[:1] if len(value) == 3 else []
    return [*first, *(_other_signedness(one, signed) for one in value[len(first) :])]


def _swapped(value: bytes, width: int) -> bytes:
    whole = len(value) // width * width
    return np.frombuffer(value[:whole], dtype=f"u{width}").byteswap().tobytes() + value[whole:]
