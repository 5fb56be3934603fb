"""Correct decimal numbers in headers where their meaning is certain, so that reading and writing agree on them.

Nothing is guessed: a value that could mean two things is left, and the filter names it.
"""

from __future__ import annotations

import re
from contextlib import suppress

import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import format_number_as_ds

from ldct_denoise.io.dicom.values import number

#: Decimal Strings (PS3.3 C.7.6.2, C.8.2.1) that some writers store under another VR.
DECIMALS = frozenset(
    Tag(keyword)
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
        "SliceThickness",
    )
)
PIXEL_SPACING = Tag("PixelSpacing")
RESCALE = (Tag("RescaleSlope"), Tag("RescaleIntercept"))
NUMBERS = {"FL": "f4", "FD": "f8", "SS": "i2", "SL": "i4"}
TEXTS = ("DS", "IS", "LO", "SH", "ST", "LT", "UT", "UC", "CS", "AE", "UN", "OB")
#: A comma as decimal separator.
DECIMAL_COMMA = re.compile(rb"[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?")
#: In a rescale it may as well separate thousands: -1,024.
THOUSANDS = re.compile(rb"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
#: Pixel spacing times matrix equals the reconstruction diameter within this ratio.
DIAMETER_TOLERANCE = 0.01


def repair_decimals(header: Dataset) -> None:
    """Replace decimal commas by points, other VRs of decimals by DS, and one or three pixel spacings by two.

    Parameters
    ----------
    header : Dataset
        As read, not decoded yet; changed in place, together with the items of its sequences.
    """
    _repair_elements(header)
    with suppress(Exception):
        _repair_spacing_count(header)


def _repair_elements(header: Dataset) -> None:
    for tag, element in list(header.items()):
        if tag not in DECIMALS and tag.is_private:
            continue
        with suppress(Exception):  # a damaged element is left to whoever needs it
            if isinstance(element, RawDataElement):
                if element.value:
                    _repair(header, element)
            elif element.VR == "SQ":
                for item in element.value:
                    _repair_elements(item)


def _repair(header: Dataset, element: RawDataElement) -> None:
    value_type = element.VR or (dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "UN")
    if value_type == "SQ":
        if b"," in element.value:
            for item in header[element.tag].value:
                _repair_elements(item)
        return
    if value_type == "DS" and b"," not in element.value:
        return
    if value_type == "DS" or element.tag in DECIMALS:
        decimals = _decimals(element, str(value_type))
        if decimals is not None:
            _set(header, element.tag, decimals, element)


def _decimals(element: RawDataElement, value_type: str) -> bytes | None:
    """The numbers as the value of a Decimal String; None where they are not certain."""
    value = bytes(element.value or b"")
    if value_type in NUMBERS:
        order = "<" if element.is_little_endian else ">"
        numbers = np.frombuffer(value, f"{order}{NUMBERS[value_type]}")
        return "\\".join(format_number_as_ds(float(str(one))) for one in numbers).encode()
    if value_type not in TEXTS:
        return None
    parts = [part.strip(b" \0") for part in value.strip(b"\0").split(b"\\")]
    if any(not _is_certain(part, element.tag) for part in parts):
        return None
    return b"\\".join(part.replace(b",", b".") for part in parts)


def _is_certain(part: bytes, tag: BaseTag) -> bool:
    if b"," not in part:
        return True
    is_thousands = tag in RESCALE and THOUSANDS.fullmatch(part)
    return DECIMAL_COMMA.fullmatch(part) is not None and not is_thousands


def _set(header: Dataset, tag: BaseTag, value: bytes, like: RawDataElement) -> None:
    value += b" " * (len(value) % 2)
    header[tag] = RawDataElement(tag, "DS", len(value), value, 0, like.is_implicit_VR, like.is_little_endian, True)


def _repair_spacing_count(header: Dataset) -> None:
    """One or three pixel spacings, where Reconstruction Diameter shows which is the one of square pixels."""
    element = header.get_item(PIXEL_SPACING) if PIXEL_SPACING in header else None
    if not isinstance(element, RawDataElement) or not element.value:
        return
    parts = [part.strip(b" \0") for part in element.value.split(b"\\")]
    pairs = {1: [(parts[0], parts[0])], 3: [(parts[0], parts[1]), (parts[1], parts[2])] if len(parts) == 3 else []}
    fitting = {pair for pair in pairs.get(len(parts), []) if pair[0] == pair[1] and _fits(header, float(pair[0]))}
    if len(fitting) == 1:
        _set(header, PIXEL_SPACING, b"\\".join(fitting.pop()), element)


def _fits(header: Dataset, spacing_mm: float) -> bool:
    diameter = number(header, "ReconstructionDiameter")
    side = max(int(header.get("Rows") or 0), int(header.get("Columns") or 0))
    return bool(diameter) and abs(spacing_mm * side / float(diameter or 1) - 1) < DIAMETER_TOLERANCE
