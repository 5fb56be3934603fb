"""Enhanced CT in gives Enhanced CT out, or classic images on request."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from ldct_denoise.errors import OutputError
from ldct_denoise.io.derived.attributes import Derivation
from ldct_denoise.io.derived.conformance import check_derived
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.volume import Geometry

MODEL = Derivation("lir-ct", "ab" * 32)
FRAMES, ROWS, COLUMNS = 4, 32, 40
needs_dicom3tools = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dicom3tools (dciodvfy) is not installed"
)


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


class Frames:
    """The frames of one file as a series, read by pydicom alone; what DerivedWriter asks of a series."""

    def __init__(self, path: Path) -> None:
        self.image = dcmread(path)
        self.uid = str(self.image.SeriesInstanceUID)
        self.geometry = Geometry(
            [[0, 0, 3 * k] for k in range(FRAMES)], (1, 0, 0), (0, 1, 0), (0.7, 0.7), ROWS, COLUMNS
        )
        sop_uid = str(self.image.SOPInstanceUID)
        self.slices = tuple(
            SimpleNamespace(path=path, frame=k, sop_uid=sop_uid, slope=1 + k / 4, intercept=-1024 - k)
            for k in range(FRAMES)
        )

    def __len__(self) -> int:
        return FRAMES

    def header(self, index: int) -> Dataset:
        return dcmread(self.slices[index].path, stop_before_pixels=True)

    def read_stored(self, index: int) -> np.ndarray:
        return self.image.pixel_array[index]

    def padding(self, index: int) -> np.ndarray:
        return np.zeros((ROWS, COLUMNS), dtype=bool)

    def read_hu(self, index: int) -> np.ndarray:
        frame = self.slices[index]
        return (self.read_stored(index) * frame.slope + frame.intercept).astype(np.float32)


@pytest.fixture
def series(tmp_path: Path) -> Frames:
    return Frames(make_enhanced(tmp_path / "in" / "enhanced.dcm"))


def derive(series: Frames, output: Path, **options: object) -> Path:
    with DerivedWriter(series, output, MODEL, **options) as writer:
        for index in reversed(range(len(series))):
            writer.write(index, series.read_hu(index))
    return output


def errors(path: Path) -> set[str]:
    output = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False).stderr
    return {line for line in output.splitlines() if line.startswith("Error")}


@pytest.mark.parametrize("compress", [None, "jpegls", "j2k", "rle"])
def test_enhanced_stays_enhanced(series: Frames, tmp_path: Path, compress: str | None) -> None:
    (path,) = derive(series, tmp_path / "out", compress=compress).iterdir()
    image, source = dcmread(path), dcmread(series.slices[0].path)
    np.testing.assert_array_equal(image.pixel_array, source.pixel_array)
    assert image.SOPClassUID == EnhancedCTImageStorage
    assert image.SOPInstanceUID != source.SOPInstanceUID
    assert list(image.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "FILTERED"]
    frame_type = image.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType
    assert list(frame_type) == ["DERIVED", "PRIMARY", "VOLUME", "FILTERED"]
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence, start=1):
        (derivation,) = frame.DerivationImageSequence
        (reference,) = derivation.SourceImageSequence
        assert reference.ReferencedFrameNumber == number
        assert derivation.DerivationCodeSequence[0].CodingSchemeDesignator == "99LDCTDENOISE"
    assert check_derived(series, tmp_path / "out") == []


def test_one_frame_changes_by_its_own_slope(series: Frames, tmp_path: Path) -> None:
    with DerivedWriter(series, tmp_path / "out", MODEL) as writer:
        for index in range(len(series)):
            writer.write(index, series.read_hu(index) * (index != 2) + 7 * (index == 2))
    image = dcmread(tmp_path / "out" / "0001.dcm")
    source = dcmread(series.slices[0].path).pixel_array
    np.testing.assert_array_equal(image.pixel_array[[0, 1, 3]], source[[0, 1, 3]])
    assert np.all(image.pixel_array[2] == round((7 + 1026) / 1.5))


def test_classic_on_request(series: Frames, tmp_path: Path) -> None:
    files = sorted(derive(series, tmp_path / "out", classic=True).iterdir())
    assert len(files) == FRAMES
    source = dcmread(series.slices[0].path)
    for frame, path in enumerate(files):
        image = dcmread(path)
        np.testing.assert_array_equal(image.pixel_array, source.pixel_array[frame])
        assert image.SOPClassUID == CTImageStorage
        assert "PerFrameFunctionalGroupsSequence" not in image
        assert list(image.ImagePositionPatient) == [0, 0, 3 * frame]
        assert (image.RescaleSlope, image.RescaleIntercept) == (1 + frame / 4, -1024 - frame)
        assert (image.KVP, image.ConvolutionKernel, image.XRayTubeCurrent) == (120, "B30f", 100 + frame)
        assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert image.SourceImageSequence[0].ReferencedFrameNumber == frame + 1
    assert len({dcmread(path).SOPInstanceUID for path in files}) == FRAMES
    assert check_derived(series, tmp_path / "out") == []


@needs_dicom3tools
def test_dciodvfy_finds_no_error(series: Frames, tmp_path: Path) -> None:
    assert errors(Path(series.slices[0].path)) == set()
    assert errors(derive(series, tmp_path / "out") / "0001.dcm") == set()
    for path in derive(series, tmp_path / "classic", classic=True).iterdir():
        assert errors(path) == set()


def test_an_image_type_of_one_value(series: Frames, tmp_path: Path) -> None:
    path = Path(series.slices[0].path)
    image = dcmread(path)
    image.ImageType = "ORIGINAL"
    image.save_as(path)
    (output,) = derive(series, tmp_path / "out").iterdir()
    assert list(dcmread(output).ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "FILTERED"]
    first = sorted(derive(series, tmp_path / "classic", classic=True).iterdir())[0]
    assert list(dcmread(first).ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]


def test_a_disk_without_room_for_the_frames_is_told(
    series: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of a sparse file ended the process, with SIGBUS, where the disk became full."""
    asked = []

    def full(file: int, start: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match=f"^{tmp_path / 'out'}: .*No space left on device"):
        derive(series, tmp_path / "out")
    assert asked == [2 * FRAMES * ROWS * COLUMNS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_room_is_made_where_the_system_has_no_call_for_it(
    series: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    (output,) = derive(series, tmp_path / "out").iterdir()
    np.testing.assert_array_equal(dcmread(output).pixel_array, series.image.pixel_array)


def test_the_reader_and_the_writer_agree_on_frames(tmp_path: Path) -> None:
    path = make_enhanced(tmp_path / "in" / "enhanced.dcm")
    found = scan(path.parent).series
    if not found:
        pytest.skip("this reader sets Enhanced CT aside")
    (output,) = derive(found[0], tmp_path / "out").iterdir()
    np.testing.assert_array_equal(dcmread(output).pixel_array, dcmread(path).pixel_array)
