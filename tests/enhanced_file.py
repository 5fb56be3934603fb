"""A small Enhanced CT image for tests, made by the test itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from ldct_denoise.io.dicom.uids import derived_uid

FRAMES, ROWS, COLUMNS = 4, 32, 40


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def group(**attributes: object) -> list[Dataset]:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


def shared_groups() -> Dataset:
    shared = Dataset()
    shared.PixelMeasuresSequence = group(PixelSpacing=[0.7, 0.7], SliceThickness=3)
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.FrameAnatomySequence = group(
        FrameLaterality="U", AnatomicRegionSequence=[code("818981001", "SCT", "Abdomen")]
    )
    shared.FrameVOILUTSequence = group(WindowCenter=40, WindowWidth=400)
    shared.IrradiationEventIdentificationSequence = group(IrradiationEventUID="2.25.77")
    shared.CTAcquisitionTypeSequence = group(
        AcquisitionType="SEQUENCED", ConstantVolumeFlag="NO", FluoroscopyFlag="NO"
    )
    shared.CTAcquisitionDetailsSequence = group(
        RotationDirection="CW",
        RevolutionTime=0.5,
        SingleCollimationWidth=0.6,
        TotalCollimationWidth=38.4,
        TableHeight=150.0,
        GantryDetectorTilt=0.0,
        DataCollectionDiameter=500.0,
    )
    shared.CTTableDynamicsSequence = group(TableSpeed=10.0, TableFeedPerRotation=5.0, SpiralPitchFactor=1.0)
    shared.CTGeometrySequence = group(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=550.0)
    shared.CTReconstructionSequence = group(
        ReconstructionAlgorithm="FILTER_BACK_PROJ",
        ConvolutionKernel="B30f",
        ConvolutionKernelGroup="SOFT_TISSUE",
        ReconstructionDiameter=350.0,
        ReconstructionPixelSpacing=[0.7, 0.7],
        ReconstructionAngle=360.0,
        ImageFilter="NONE",
    )
    shared.CTXRayDetailsSequence = group(
        KVP=120.0,
        FocalSpots=1.2,
        FilterType="FLAT",
        FilterMaterial="ALUMINUM",
        CalciumScoringMassFactorPatient=0.7,
    )
    shared.CTImageFrameTypeSequence = group(
        FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    return shared


def frame_groups(frame: int) -> Dataset:
    own = Dataset()
    own.FrameContentSequence = group(
        FrameAcquisitionNumber=1,
        FrameReferenceDateTime="20260101120000",
        FrameAcquisitionDateTime="20260101120000",
        FrameAcquisitionDuration=500.0,
        StackID="1",
        InStackPositionNumber=frame + 1,
        DimensionIndexValues=[1, frame + 1],
    )
    own.PlanePositionSequence = group(ImagePositionPatient=[0, 0, 3 * frame])
    own.PixelValueTransformationSequence = group(
        RescaleIntercept=-1024 - frame, RescaleSlope=1 + frame / 4, RescaleType="HU"
    )
    own.CTExposureSequence = group(
        ExposureTimeInms=500.0,
        XRayTubeCurrentInmA=100.0 + frame,
        ExposureInmAs=50.0 + frame / 2,
        ExposureModulationType="NONE",
        EstimatedDoseSaving=None,
        CTDIvol=5.0,
        CTDIPhantomTypeCodeSequence=[code("113691", "DCM", "IEC Body Dosimetry Phantom")],
    )
    own.CTPositionSequence = group(
        TablePosition=3.0 * frame,
        DataCollectionCenterPatient=[0.0, 0.0, 0.0],
        ReconstructionTargetCenterPatient=[0.0, 0.0, 0.0],
    )
    return own


def make_enhanced(path: Path) -> Path:
    """An Enhanced CT image of four frames, each with its own position, slope and intercept."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = EnhancedCTImageStorage, derived_uid("enhanced")
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    image.StudyInstanceUID, image.SeriesInstanceUID = derived_uid("study"), derived_uid("series")
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = derived_uid("frame"), ""
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "A^B", "P1", "", "O"
    image.StudyDate = image.SeriesDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.ContentTime = "120000"
    image.AcquisitionDateTime, image.AcquisitionDuration = "20260101120000", 2000.0
    image.AccessionNumber, image.ReferringPhysicianName, image.StudyID = "", "", "1"
    image.SeriesNumber, image.InstanceNumber, image.Modality, image.PatientPosition = 5, 1, "CT", "HFS"
    image.BodyPartExamined = "ABDOMEN"
    image.Manufacturer, image.ManufacturerModelName = "SCANNERS Inc", "Fast"
    image.DeviceSerialNumber, image.SoftwareVersions = "4711", "v1"
    image.ContentQualification, image.BurnedInAnnotation, image.LossyImageCompression = "PRODUCT", "NO", "00"
    image.PixelPresentation, image.VolumetricProperties = "MONOCHROME", "VOLUME"
    image.VolumeBasedCalculationTechnique, image.PresentationLUTShape = "NONE", "IDENTITY"
    image.AcquisitionContextSequence = []
    organization = derived_uid("dimensions")
    image.DimensionOrganizationSequence = group(DimensionOrganizationUID=organization)
    image.DimensionIndexSequence = [
        group(
            DimensionOrganizationUID=organization, DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111
        )[0]
        for pointer in (0x00209056, 0x00209057)
    ]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.NumberOfFrames = 1, "MONOCHROME2", FRAMES
    image.Rows, image.Columns = ROWS, COLUMNS
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.SharedFunctionalGroupsSequence = [shared_groups()]
    image.PerFrameFunctionalGroupsSequence = [frame_groups(frame) for frame in range(FRAMES)]
    cells = np.random.default_rng(0).integers(0, 4096, (FRAMES, ROWS, COLUMNS), dtype=np.uint16)
    image.PixelData = cells.tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir()
    image.save_as(path, enforce_file_format=True)
    return path
