"""Headers of the frames of enhanced multi-frame images, in the form of classic images."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from pydicom.dataset import Dataset

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.filter import KEYWORDS, MULTIFRAME_CLASSES

#: Quantities that enhanced (FD) and classic (IS) images store under different keywords: enhanced → classic.
CLASSIC_KEYWORDS = {
    "ExposureTimeInms": "ExposureTime",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
    "ExposureInmAs": "Exposure",
    "FrameAcquisitionNumber": "AcquisitionNumber",
}
#: Attributes of a frame that scanning reads in addition to those of a classic image.
FRAME_TAGS = ("StackID", "TemporalPositionIndex", "FrameType")
#: Functional groups that all frames share, and those of each frame.
FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def has_frame_groups(image: Dataset) -> bool:
    """Whether frames have functional groups: by the class, also where a wrong class is stated."""
    return image.SOPClassUID in MULTIFRAME_CLASSES or bool(image.get("PerFrameFunctionalGroupsSequence"))


def frame_headers(image: Dataset) -> Iterator[Dataset]:
    """Header of every frame, with the attributes that scanning reads.

    Parameters
    ----------
    image : Dataset
        Header of a multi-frame image; not changed.

    Raises
    ------
    InputError
        If the number of functional groups is not that of frames. The message is the reason alone.
    """
    groups = image.get("PerFrameFunctionalGroupsSequence") or []
    count = int(image.get("NumberOfFrames") or 1)
    if len(groups) != count:
        raise InputError(f"{count} frames, but {len(groups)} per-frame functional groups")
    common = Dataset()
    common.file_meta = image.file_meta
    for keyword in KEYWORDS:
        if keyword in image and keyword not in FUNCTIONAL_GROUPS:
            common[keyword] = image[keyword]
    shared = [*(image.get("SharedFunctionalGroupsSequence") or []), Dataset()][0]
    _set_attributes(common, frame_values(shared))
    for number, group in enumerate(groups, start=1):
        header = Dataset()
        header.update(common)
        header.file_meta = image.file_meta
        _set_attributes(header, frame_values(group))
        header.InstanceNumber = number
        yield header


def frame_values(group: Dataset, unassigned: Container[str] = KEYWORDS) -> dict[str, Any]:
    """Attributes in the functional groups of a frame, by keyword.

    Parameters
    ----------
    group : Dataset
        Item of a functional groups sequence.
    unassigned : container of str
        Keywords to take from the unassigned attributes of legacy converted images.
    """
    found = group_values(group)
    for keyword in [name for name in found if name.startswith("Unassigned")]:
        for item in found.pop(keyword) or []:
            found.update({element.keyword: element.value for element in item if element.keyword in unassigned})
    return found


def group_values(group: Dataset) -> dict[str, Any]:
    """Attributes in the functional groups of a frame, by keyword; unassigned ones as sequences."""
    values: dict[str, Any] = {}
    for element in group:
        if element.VR != "SQ":
            continue
        if element.keyword.startswith("Unassigned"):
            values[element.keyword] = element.value
        elif element.value and element.keyword not in ("ReferencedImageSequence", "DerivationImageSequence"):
            values.update({inner.keyword: inner.value for inner in element.value[0]})
    return values


def _set_attributes(header: Dataset, values: dict[str, Any]) -> None:
    for keyword, value in values.items():
        name = CLASSIC_KEYWORDS.get(keyword, keyword)
        if value is not None and (name in KEYWORDS or name in FRAME_TAGS):
            setattr(header, name, round(float(value)) if name != keyword else value)
    if "FrameType" in values:
        header.ImageType = values["FrameType"]
