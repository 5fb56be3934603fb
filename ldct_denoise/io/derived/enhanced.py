"""Derive Enhanced CT images as multi-frame images, or convert their frames to classic CT images.

The rules are in PS3.3 A.38.1 (Enhanced CT Image IOD), C.7.6.16 (functional groups) and C.8.15 (CT).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage

from ldct_denoise.io.derived.attributes import source_image_item
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.dicom.multiframe import CLASSIC_KEYWORDS, group_values
from ldct_denoise.io.dicom.values import as_list

#: Functional-group attributes with the same name and meaning in a classic CT image (PS3.3 C.8.2.1).
CLASSIC_ATTRIBUTES = (
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "VOILUTFunction",
    "KVP",
    "FocalSpots",
    "FilterType",
    "ConvolutionKernel",
    "ReconstructionDiameter",
    "ReconstructionTargetCenterPatient",
    "DataCollectionDiameter",
    "DataCollectionCenterPatient",
    "DistanceSourceToDetector",
    "GantryDetectorTilt",
    "TableHeight",
    "RotationDirection",
    "RevolutionTime",
    "SingleCollimationWidth",
    "TotalCollimationWidth",
    "TableSpeed",
    "TableFeedPerRotation",
    "SpiralPitchFactor",
    "ExposureModulationType",
    "EstimatedDoseSaving",
    "CTDIvol",
    "CTDIPhantomTypeCodeSequence",
    "IrradiationEventUID",
)
#: Attributes that only multi-frame images have.
MULTIFRAME_ONLY = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "NumberOfFrames",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationType",
    "VolumetricProperties",
    "VolumeBasedCalculationTechnique",
    "PixelPresentation",
    "PresentationLUTShape",
    "AcquisitionDuration",
    "AcquisitionContextSequence",
    "SourceImageEvidenceSequence",
    "ReferencedImageEvidenceSequence",
    "ReferencedRawDataSequence",
    "ReferencedSeriesSequence",
    "ConversionSourceAttributesSequence",
)
PER_FRAME = 0x52009230
CHUNK_BYTES = 1 << 20
CONCATENATION = (
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
    "SOPInstanceUIDOfConcatenationSource",
)


class FrameStack:
    """Derived frames of one multi-frame file, collected in a scratch file until all are written.

    Parameters
    ----------
    header : Dataset
        The source image.
    frames : iterable of int
        Frames that are derived, counted from 0.
    scratch : Path
        Scratch file for the pixel cells; must not exist.
    like : ndarray, shape (rows, columns)
        Cells of any frame, for shape and type.

    Raises
    ------
    OSError
        If there is no disk space for the frames.
    """

    def __init__(self, header: Dataset, frames: Iterable[int], scratch: Path, like: NDArray[np.integer]) -> None:
        self.header = header
        self.frames = sorted(frames)
        self._scratch = scratch
        shape = (len(self.frames), *like.shape)
        _reserve(scratch, len(self.frames) * like.nbytes)
        self.cells: NDArray[np.integer] = np.memmap(scratch, dtype=like.dtype, mode="r+", shape=shape)

    @property
    def identity(self) -> str:
        """Source identity for the UIDs: the instance, and the frames where not all are derived."""
        all_frames = self.frames == list(range(int(self.header.NumberOfFrames)))
        uid = str(self.header.SOPInstanceUID)
        return uid if all_frames else f"{uid}/{','.join(map(str, self.frames))}"

    def put(self, frame: int, cells: NDArray[np.integer]) -> None:
        """Store the cells of ``frame``."""
        self.cells[self.frames.index(frame)] = cells

    def close(self) -> None:
        """Remove the scratch file."""
        self._scratch.unlink()


def _reserve(path: Path, size: int) -> None:
    """Create a file of ``size`` allocated bytes: a full disk under a memory map would kill the process."""
    with path.open("xb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for start in range(0, size, CHUNK_BYTES):
            file.write(bytes(min(CHUNK_BYTES, size - start)))


def is_enhanced(header: Dataset) -> bool:
    """Whether the image is Enhanced CT; Legacy Converted Enhanced CT is not, and is converted to classic CT."""
    return bool(header.get("SOPClassUID") == EnhancedCTImageStorage)


def set_frame_attributes(
    image: Dataset,
    source: Dataset,
    frames: Iterable[int],
    derivation: Derivation,
    sources: Mapping[int, Iterable[int]],
) -> None:
    """Set the functional groups and the references of a derived Enhanced CT image.

    Parameters
    ----------
    image : Dataset
        The derived image, copied from ``source``; changed in place.
    source : Dataset
        The source image.
    frames : iterable of int
        Frames of the source that it contains, counted from 0, ascending.
    derivation : Derivation
        How the pixels came about.
    sources : mapping of int to iterable of int
        For each frame, the frames of the source that contribute to it, its own first.
    """
    kept = list(frames)
    image.NumberOfFrames = len(kept)
    groups = image.PerFrameFunctionalGroupsSequence
    image.PerFrameFunctionalGroupsSequence = Sequence([groups[frame] for frame in kept])
    shared = image.SharedFunctionalGroupsSequence[0]
    if "DerivationImageSequence" in shared:
        del shared.DerivationImageSequence
    for frame, group in zip(kept, image.PerFrameFunctionalGroupsSequence, strict=True):
        group.DerivationImageSequence = Sequence([_derivation_item(source, sources[frame], derivation)])
    contrasts = []
    for group in (shared, *image.PerFrameFunctionalGroupsSequence):
        for item in group.get("CTImageFrameTypeSequence") or []:
            item.FrameType = _frame_type(item, "FrameType")
            contrasts.append(item.FrameType[3])
    image.ImageType = _frame_type(source, "ImageType")
    if contrasts:  # MIXED only where the frames differ
        image.ImageType[3] = contrasts[0] if len(set(contrasts)) == 1 else "MIXED"
    for keyword in CONCATENATION:
        if keyword in image:
            delattr(image, keyword)
    _refer_to(image, source)


def _frame_type(source: Dataset, keyword: str) -> list[str]:
    """DERIVED, PRIMARY, flavour, contrast (PS3.3 C.8.16.1): value 2 must be PRIMARY here.

    Value 4 becomes FILTERED (C.8.15.2.1.1.4) where it was NONE, and stays for parametric maps. A fifth value
    (multi-energy) stays.
    """
    kind = as_list(source.get(keyword))
    flavour = kind[2] if len(kind) > 2 else "VOLUME"
    contrast = kind[3] if len(kind) > 3 and kind[3] not in ("", "NONE") else "FILTERED"
    return ["DERIVED", "PRIMARY", flavour, contrast, *kind[4:]]


def _derivation_item(source: Dataset, frames: Iterable[int], derivation: Derivation) -> Dataset:
    """Derivation Image functional group (PS3.3 C.7.6.16.2.6); it requires a code, so a private one is used."""
    code = Dataset()
    simulated = derivation.kind == "simulated"
    code.CodeValue = "SIMULATED" if simulated else "DENOISED"
    code.CodingSchemeDesignator = "99LDCTDENOISE"
    code.CodeMeaning = "Dose reduction simulated" if simulated else "Noise reduction by a trained model"
    item = Dataset()
    item.DerivationDescription = derivation.text
    item.DerivationCodeSequence = Sequence([code])
    item.SourceImageSequence = Sequence(
        [source_image_item(source.SOPClassUID, source.SOPInstanceUID, frame + 1) for frame in frames]
    )
    return item


def _refer_to(image: Dataset, source: Dataset) -> None:
    """List the source instance that the frames refer to (PS3.3 C.8.16.1, C.12.2)."""
    instance = Dataset()
    instance.ReferencedSOPClassUID = source.SOPClassUID
    instance.ReferencedSOPInstanceUID = source.SOPInstanceUID
    evidence, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = evidence.SeriesInstanceUID = source.SeriesInstanceUID
    evidence.ReferencedSOPSequence = Sequence([instance])
    study.StudyInstanceUID = source.StudyInstanceUID
    study.ReferencedSeriesSequence = Sequence([evidence])
    image.SourceImageEvidenceSequence = Sequence([study])
    series.ReferencedInstanceSequence = Sequence([instance])
    others = [
        item
        for item in image.get("ReferencedSeriesSequence") or []
        if item.get("SeriesInstanceUID") != source.SeriesInstanceUID
    ]
    image.ReferencedSeriesSequence = Sequence([*others, series])


def one_frame(image: Dataset, frame: int) -> Dataset:
    """Shallow copy of a multi-frame header with the functional groups of one frame only."""
    single = Dataset()
    for tag in image.keys():  # noqa: SIM118 - iterating a Dataset would decode its values
        if tag != PER_FRAME:
            single[tag] = image.get_item(tag)
    single.PerFrameFunctionalGroupsSequence = Sequence([image.PerFrameFunctionalGroupsSequence[frame]])
    single.set_original_encoding(*image.original_encoding, image.original_character_set)
    return single


def classic_header(image: Dataset, frame: int) -> Dataset:
    """Convert a single-frame header to a classic CT header, which keeps the UIDs of the multi-frame image.

    Parameters
    ----------
    image : Dataset
        Result of :func:`one_frame`; not changed.
    frame : int
        Number of the frame, counted from 0.

    Returns
    -------
    Dataset
    """
    shared = (image.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    values = {**group_values(shared), **group_values(image.PerFrameFunctionalGroupsSequence[0])}
    classic = Dataset()
    for tag in image.keys():  # noqa: SIM118 - iterating a Dataset would decode its values
        classic[tag] = image.get_item(tag)
    for keyword in {*MULTIFRAME_ONLY, *CONCATENATION}:
        if keyword in classic:
            delattr(classic, keyword)
    for keyword in (
        "UnassignedSharedConvertedAttributesSequence",
        "UnassignedPerFrameConvertedAttributesSequence",
    ):
        for item in values.pop(keyword, None) or []:
            classic.update(item)
    for keyword in CLASSIC_ATTRIBUTES:
        if values.get(keyword) is not None:
            setattr(classic, keyword, values[keyword])
    for enhanced, name in CLASSIC_KEYWORDS.items():
        if values.get(enhanced) is not None:
            setattr(classic, name, round(float(values[enhanced])))
    for keyword in ("KVP", "AcquisitionNumber"):  # Type 2
        if keyword not in classic:
            setattr(classic, keyword, None)
    classic.SOPClassUID = CTImageStorage
    classic.ImageType = _classic_type(image)
    classic.InstanceNumber = frame + 1
    return classic


def _classic_type(image: Dataset) -> list[str]:
    """Value 3 of a classic CT image is AXIAL or LOCALIZER (PS3.3 C.8.2.1.1.1), not a flavour like VOLUME."""
    kind = as_list(image.get("ImageType")) or ["ORIGINAL", "PRIMARY"]
    return [*kind[:2], "LOCALIZER" if "LOCALIZER" in kind else "AXIAL"]
