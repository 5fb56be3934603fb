"""Enhanced CT: multi-frame images derived as multi-frame images, or taken apart into classic ones.

The rules are those of PS3.3 A.38.1 (Enhanced CT Image IOD), C.7.6.16 (functional groups) and C.8.15 (CT).
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

from ldct_denoise.io.derived.attributes import Derivation, source_image_item
from ldct_denoise.io.dicom.multiframe import RENAMED, group_values
from ldct_denoise.io.dicom.values import several

#: Functional-group attributes that have the same place and meaning in a classic CT image (PS3.3 C.8.2.1).
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


#: What only a multi-frame image has.
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
#: Bytes written at once.
CHUNK = 1 << 20
CONCATENATION = (
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
    "SOPInstanceUIDOfConcatenationSource",
)


class FrameStack:
    """Frames of one multi-frame file, kept on disk until all are there.

    Parameters
    ----------
    header : Dataset
        The source image.
    frames : iterable of int
        Which of its frames are derived, counted from 0.
    scratch : Path
        File that holds the cells meanwhile.
    like : ndarray, shape (rows, columns)
        Any frame's cells.

    Raises
    ------
    OSError
        If the disk has no room for the frames.
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
        """What tells the derived image from those of other frames of the same file."""
        every = self.frames == list(range(int(self.header.NumberOfFrames)))
        uid = str(self.header.SOPInstanceUID)
        return uid if every else f"{uid}/{','.join(map(str, self.frames))}"

    def put(self, frame: int, cells: NDArray[np.integer]) -> None:
        """Keep the cells of ``frame``."""
        self.cells[self.frames.index(frame)] = cells

    def close(self) -> None:
        """Remove the scratch file."""
        self._scratch.unlink()


def _reserve(path: Path, size: int) -> None:
    """A new file of ``size`` bytes with its room on the disk: a full disk under a map would end the process."""
    with path.open("xb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for start in range(0, size, CHUNK):
            file.write(bytes(min(CHUNK, size - start)))


def is_enhanced(header: Dataset) -> bool:
    """Whether the image is Enhanced CT, which is derived as such; Legacy Converted becomes classic."""
    return bool(header.get("SOPClassUID") == EnhancedCTImageStorage)


def set_frame_attributes(
    image: Dataset,
    source: Dataset,
    frames: Iterable[int],
    derivation: Derivation,
    sources: Mapping[int, Iterable[int]],
) -> None:
    """Functional groups and evidence of a derived Enhanced CT image.

    Parameters
    ----------
    image : Dataset
        The derived image, copied from ``source``; changed in place.
    source : Dataset
        The source image.
    frames : iterable of int
        Which frames of the source it holds, counted from 0, ascending.
    derivation : Derivation
        How the pixels came about.
    sources : dict
        For each frame the frames of the source that it comes of, its own first.
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
    kinds = []
    for group in (shared, *image.PerFrameFunctionalGroupsSequence):
        for item in group.get("CTImageFrameTypeSequence") or []:
            item.FrameType = _frame_type(item, "FrameType")
            kinds.append(item.FrameType[3])
    image.ImageType = _frame_type(source, "ImageType")
    if kinds:  # MIXED only where the frames differ
        image.ImageType[3] = kinds[0] if len(set(kinds)) == 1 else "MIXED"
    for keyword in CONCATENATION:
        if keyword in image:
            delattr(image, keyword)
    _refer_to(image, source)


def _frame_type(source: Dataset, keyword: str) -> list[str]:
    """DERIVED, PRIMARY, flavour, contrast (PS3.3 C.8.16.1): value 2 must be PRIMARY here.

    Value 4 is FILTERED (C.8.15.2.1.1.4) where it was NONE; a map stays the map that it is. A fifth value
    (multi-energy) stays.
    """
    kind = several(source.get(keyword))
    flavour = kind[2] if len(kind) > 2 else "VOLUME"
    contrast = kind[3] if len(kind) > 3 and kind[3] not in ("", "NONE") else "FILTERED"
    return ["DERIVED", "PRIMARY", flavour, contrast, *kind[4:]]


def _derivation_item(source: Dataset, frames: Iterable[int], derivation: Derivation) -> Dataset:
    """Derivation Image functional group (PS3.3 C.7.6.16.2.6); its code is required, so it is a private one."""
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
    """Name the source instance where frames refer to it (PS3.3 C.8.16.1, C.12.2)."""
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
    """A multi-frame image as if it told of one of its frames alone, which is quick to copy; values are shared."""
    lean = Dataset()
    for tag in image.keys():  # noqa: SIM118 - iterating a Dataset would decode its values
        if tag != PER_FRAME:
            lean[tag] = image.get_item(tag)
    lean.PerFrameFunctionalGroupsSequence = Sequence([image.PerFrameFunctionalGroupsSequence[frame]])
    lean.set_original_encoding(*image.original_encoding, image.original_character_set)
    return lean


def classic_header(image: Dataset, frame: int) -> Dataset:
    """A frame as a classic CT image, still with the identity of the whole.

    Parameters
    ----------
    image : Dataset
        Of :func:`one_frame`; left as it is.
    frame : int
        Which frame this was, counted from 0.
    """
    shared = (image.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    own = image.PerFrameFunctionalGroupsSequence[0]
    values = {**group_values(shared), **group_values(own)}
    classic = Dataset()
    drop = {*MULTIFRAME_ONLY, *CONCATENATION}
    for tag in image.keys():  # noqa: SIM118 - iterating a Dataset would decode its values
        classic[tag] = image.get_item(tag)
    for keyword in drop:
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
    for enhanced, name in RENAMED.items():
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
    kind = several(image.get("ImageType")) or ["ORIGINAL", "PRIMARY"]
    return [*kind[:2], "LOCALIZER" if "LOCALIZER" in kind else "AXIAL"]
