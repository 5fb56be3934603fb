"""Frames of enhanced multi-frame images."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from pydicom.dataset import Dataset

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.filter import TAGS

#: The same quantities under two attributes: enhanced (FD) and classic (IS).
RENAMED = {
    "ExposureTimeInms": "ExposureTime",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
    "ExposureInmAs": "Exposure",
    "FrameAcquisitionNumber": "AcquisitionNumber",
}


def group_values(group: Dataset) -> dict[str, Any]:
    """The attributes in a frame's functional groups, by keyword."""
    values: dict[str, Any] = {}
    for element in group:
        if element.VR != "SQ":
            continue
        if element.keyword.startswith("Unassigned"):
            values[element.keyword] = element.value
        elif element.value and element.keyword not in ("ReferencedImageSequence", "DerivationImageSequence"):
            values.update({inner.keyword: inner.value for inner in element.value[0]})
    return values


#: What is asked of a frame beside the attributes of a classic image.
FRAME_TAGS = ("StackID", "TemporalPositionIndex", "FrameType")
_SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def frame_headers(image: Dataset) -> Iterator[Dataset]:
    """What scanning asks of an image, for every frame of a multi-frame image.

    Parameters
    ----------
    image : Dataset
        Its head; left as it is.

    Raises
    ------
    InputError
        With the reason alone, if it tells of more or fewer frames than it says.
    """
    groups = image.get("PerFrameFunctionalGroupsSequence") or []
    count = int(image.get("NumberOfFrames") or 1)
    if len(groups) != count:
        raise InputError(f"{count} frames, but {len(groups)} items tell about them")
    common = Dataset()
    common.file_meta = image.file_meta
    for keyword in TAGS:
        if keyword in image and keyword not in _SEQUENCES:
            common[keyword] = image[keyword]
    shared = [*(image.get("SharedFunctionalGroupsSequence") or []), Dataset()][0]
    _fill(common, frame_values(shared))
    for number, group in enumerate(groups, start=1):
        header = Dataset()
        header.update(common)
        header.file_meta = image.file_meta
        _fill(header, frame_values(group))
        header.InstanceNumber = number
        yield header


def frame_values(group: Dataset, unassigned: Container[str] = TAGS) -> dict[str, Any]:
    """Attributes in functional groups by keyword; of the unassigned ones (Legacy Converted) those asked for."""
    found = group_values(group)
    for keyword in [name for name in found if name.startswith("Unassigned")]:
        for item in found.pop(keyword) or []:
            found.update({element.keyword: element.value for element in item if element.keyword in unassigned})
    return found


def _fill(header: Dataset, found: dict[str, Any]) -> None:
    for keyword, value in found.items():
        name = RENAMED.get(keyword, keyword)
        if value is not None and (name in TAGS or name in FRAME_TAGS):
            setattr(header, name, round(float(value)) if name != keyword else value)
    if "FrameType" in found:
        header.ImageType = found["FrameType"]
