"""Derived series: stored values exact, identity new, everything else as in the source."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread, filewriter
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ldct_denoise.errors import InputError, LdctDenoiseError, ModelError, OutputError
from ldct_denoise.io.derived.attributes import set_derivation_attributes
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.derived.dose_attributes import scale_dose
from ldct_denoise.io.derived.pixel_values import PixelFormat
from ldct_denoise.io.dicom.padding import padding_range
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.write_settings import WriteSettings
from ldct_denoise.volume import Volume
from tests.conformance import check_derived
from tests.synthetic import axial_geometry

MODEL = Derivation("lir-ct", "ab" * 32, strength=0.75)
CREATED = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def make_source(folder: Path, slices: int = 3, **attributes: object) -> Path:
    """A small CT series of whole HU from −1000 up, with ``attributes`` set in every file."""
    geometry = axial_geometry(slices, 32, 40, (3.0, 0.7, 0.7), (-5, -6, 0))
    hu = np.random.default_rng(1).integers(-1000, 2000, geometry.shape).astype(np.float32)
    uid = derived_uid("study")
    write_series(
        Volume(hu, geometry),
        folder,
        SeriesAttributes(
            patient_id="P1", study_uid=uid, series_number=4, description="Abdomen", kernel="B30f", synthetic=False
        ),
    )
    for path in folder.iterdir():
        image = dcmread(path)
        image.Manufacturer, image.StationName, image.DeviceSerialNumber = "SCANNERS Inc", "CT1", "4711"
        set_attributes(image, attributes)
        image.save_as(path)
    return folder


def set_attributes(image: Dataset, attributes: dict[str, object]) -> None:
    for keyword, value in attributes.items():
        setattr(image, keyword, value)
        if image[keyword].VR == "US or SS":
            image[keyword].VR = "SS" if image.PixelRepresentation else "US"


def only_series(folder: Path) -> Series:
    (series,) = scan(folder).series
    return series


def derive(
    series: Series, output: Path, derivation: Derivation = MODEL, change: float = 0.0, **options: object
) -> Path:
    with DerivedWriter(series, output, derivation, WriteSettings(created=CREATED, **options)) as writer:
        for index in reversed(range(len(series))):
            writer.write(index, series.read_hu(index) + np.float32(change))
    return output


class Wrapped:
    """A series that a test changes in one point."""

    def __init__(self, series: Series) -> None:
        self.series = series

    def __getattr__(self, name: str) -> object:
        return getattr(self.series, name)

    def __len__(self) -> int:
        return len(self.series)


def stored(path: Path) -> np.ndarray:
    return dcmread(path).pixel_array


# Stored values ----------------------------------------------------------------------------------------------


def encode(path: Path, cells: np.ndarray, bits: int, slope: str, intercept: str, **attributes: object) -> None:
    """Give a CT file these pixel cells."""
    image = dcmread(path)
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.PixelRepresentation = int(cells.dtype.kind == "i")
    image.RescaleSlope, image.RescaleIntercept = slope, intercept
    image.Rows, image.Columns = cells.shape
    image.PixelData = cells.tobytes()
    set_attributes(image, attributes)
    image.save_as(path)


@pytest.mark.parametrize("bits", [12, 13, 14, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("slope", "intercept"), [("1", "-1024"), ("0.48832", "-1000.3"), ("-1", "512"), ("3", "0")]
)
def test_unchanged_hu_give_every_stored_value_back(
    tmp_path: Path, bits: int, signed: bool, slope: str, intercept: str
) -> None:
    form = PixelFormat(16, bits, signed, 1, 0)
    cells = np.linspace(form.lowest, form.highest, 32 * 40).round().astype(form.dtype).reshape(32, 40)
    source = make_source(tmp_path / "in", slices=1)
    encode(source / "1-001.dcm", cells, bits, slope, intercept)
    output = derive(only_series(source), tmp_path / "out")
    np.testing.assert_array_equal(stored(output / "0001.dcm"), cells)


@pytest.mark.parametrize(
    "lacking",
    [
        ["PixelRepresentation"],
        ["BitsStored", "HighBit"],
        ["HighBit"],
        ["SamplesPerPixel", "PhotometricInterpretation"],
        ["BitsStored", "HighBit", "PixelRepresentation"],
    ],
)
def test_how_pixels_are_stored_is_said_where_the_source_does_not(tmp_path: Path, lacking: list[str]) -> None:
    source = make_source(tmp_path / "in", slices=1)
    encode(source / "1-001.dcm", np.arange(32 * 40, dtype=np.uint16).reshape(32, 40), 16, "1", "-1024")
    image = dcmread(source / "1-001.dcm")
    for keyword in lacking:
        delattr(image, keyword)
    image.save_as(source / "1-001.dcm")
    derived = dcmread(derive(only_series(source), tmp_path / "out", change=5) / "0001.dcm")
    np.testing.assert_array_equal(derived.pixel_array, np.arange(32 * 40).reshape(32, 40) + 5)
    assert (derived.BitsStored, derived.HighBit, derived.PixelRepresentation) == (16, 15, 0)


@pytest.mark.parametrize("change", [0.0, 5.0])
def test_overlay_bits_above_the_stored_ones_stay(tmp_path: Path, change: float) -> None:
    cells = np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) | 0x8000
    source = make_source(tmp_path / "in", slices=1)
    encode(source / "1-001.dcm", cells, 12, "1", "-1024")
    output = derive(only_series(source), tmp_path / "out", change=change)
    after = np.frombuffer(dcmread(output / "0001.dcm").PixelData, np.uint16).reshape(32, 40)
    np.testing.assert_array_equal(after, cells + int(change))


def test_overlay_bits_cannot_be_compressed_to_jpegls(tmp_path: Path) -> None:
    cells = np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) | 0x8000
    source = make_source(tmp_path / "in", slices=1)
    encode(source / "1-001.dcm", cells, 12, "1", "-1024")
    with pytest.raises(InputError, match="choose rle"):
        derive(only_series(source), tmp_path / "out", compress="jpegls")
    assert not (tmp_path / "out").exists()


def test_computed_hu_round_to_nearest_and_clip_to_the_bits() -> None:
    form = PixelFormat(16, 12, signed=False, slope=0.5, intercept=-1024)
    hu = np.array([-5000, -1024, -1023.8, -1023.7, 0.2, 0.3, 1023.5, 9000])
    np.testing.assert_array_equal(form.to_stored(hu), [0, 0, 0, 1, 2048, 2049, 4095, 4095])


@pytest.mark.parametrize(
    ("padding", "computed", "expected"),
    [
        ((-2000, -2000), [-2000, -2001, -1999.6], [-1999, -2001, -1999]),
        ((-2000, -1000), [-1999, -1001, -1500, -3000], [-2001, -999, -999, -3000]),
        ((-32768, -2000), [-32768, -2000, -1999], [-1999, -1999, -1999]),
        ((2000, 32767), [2000, 32767], [1999, 1999]),
        ((-32768, 32767), [5], [5]),
    ],
)
def test_computed_values_stay_outside_the_padding_range(padding, computed, expected) -> None:
    form = PixelFormat(16, 16, signed=True, slope=1, intercept=0, padding=padding)
    np.testing.assert_array_equal(form.to_stored(np.array(computed)), expected)


def test_padding_written_with_the_wrong_signedness_is_understood() -> None:
    header = Dataset()
    header.BitsAllocated, header.PixelRepresentation = 16, 1
    header.add_new("PixelPaddingValue", "US", 63536)
    assert padding_range(header) == (-2000, -2000)


@pytest.mark.parametrize(
    ("kind", "written", "numbers", "expected", "read"),
    [
        (np.int16, "US", (63536, 63537), (-2000, -1999), "SS"),
        (np.uint16, "SS", (-2000, -1999), (63536, 63537), "US"),
        (np.int16, "SS", (-2000, -1999), (-2000, -1999), "SS"),
    ],
)
def test_padding_with_the_wrong_signedness_is_written_with_the_right_one(
    tmp_path: Path, kind: type, written: str, numbers: tuple[int, int], expected: tuple[int, int], read: str
) -> None:
    source = make_source(tmp_path / "in", slices=1)
    encode(source / "1-001.dcm", np.full((32, 40), 100, kind), 16, "1", "-1024")
    image = dcmread(source / "1-001.dcm")
    for keyword, number in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), numbers, strict=True):
        image.add_new(keyword, written, number)
    image.save_as(source / "1-001.dcm")
    derived = dcmread(derive(only_series(source), tmp_path / "out") / "0001.dcm")
    assert (derived.PixelPaddingValue, derived.PixelPaddingRangeLimit) == expected
    assert derived["PixelPaddingValue"].VR == derived["PixelPaddingRangeLimit"].VR == read


def test_padding_pixels_stay_and_computed_ones_do_not_become_padding(tmp_path: Path) -> None:
    cells = np.full((32, 40), 100, np.int16)
    cells[:, :5] = -2000
    source = make_source(tmp_path / "in", slices=1)
    encode(source / "1-001.dcm", cells, 16, "1", "-1024", SmallestImagePixelValue=-2000, PixelPaddingValue=-2000)
    image = dcmread(source / "1-001.dcm")
    assert image["PixelPaddingValue"].VR == "SS"
    series = only_series(source)
    with DerivedWriter(series, tmp_path / "out", MODEL) as writer:
        writer.write(0, np.full((32, 40), -3024, np.float32))  # stored −2000
    derived = dcmread(tmp_path / "out" / "0001.dcm")
    assert np.all(derived.pixel_array[:, :5] == -2000)
    assert np.all(derived.pixel_array[:, 5:] == -1999)
    assert derived.SmallestImagePixelValue == -1999
    assert derived["SmallestImagePixelValue"].VR == "SS"


@pytest.mark.parametrize("bad", [np.full((32, 40), np.nan, np.float32), np.zeros((31, 40), np.float32)])
def test_an_impossible_image_is_refused_and_nothing_is_kept(tmp_path: Path, bad: np.ndarray) -> None:
    series = only_series(make_source(tmp_path / "in"))
    with pytest.raises(ModelError), DerivedWriter(series, tmp_path / "out", MODEL) as writer:
        writer.write(0, bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


# What the image says ----------------------------------------------------------------------------------------


@pytest.fixture
def derived(tmp_path: Path) -> Dataset:
    source = make_source(
        tmp_path / "in", ReferencedPerformedProcedureStepSequence=[Dataset()], SmallestPixelValueInSeries=3
    )
    return dcmread(derive(only_series(source), tmp_path / "out") / "0001.dcm")


def test_identity_is_new_and_tells_where_it_comes_from(derived: Dataset, tmp_path: Path) -> None:
    source = dcmread(tmp_path / "in" / "1-001.dcm")
    assert derived.SOPInstanceUID.startswith("2.25.")
    assert derived.SOPInstanceUID != source.SOPInstanceUID
    assert derived.SeriesInstanceUID != source.SeriesInstanceUID
    assert derived.file_meta.MediaStorageSOPInstanceUID == derived.SOPInstanceUID
    assert derived.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert derived.StudyInstanceUID == source.StudyInstanceUID
    assert list(derived.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert (derived.SeriesNumber, derived.SeriesDescription) == (401, "Abdomen LDCT-denoised lir-ct 75%")
    (reference,) = derived.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    for part in ("model lir-ct", "ab" * 32, "strength 75%", "HU -1024..3072", "not for primary diagnosis"):
        assert part in derived.DerivationDescription
    assert derived.ContentQualification == "RESEARCH"


def test_equipment_is_ours_and_the_scanner_contributes(derived: Dataset) -> None:
    assert derived.Manufacturer == "ldct-denoise"
    assert "StationName" not in derived
    (item,) = derived.ContributingEquipmentSequence
    assert (item.Manufacturer, item.StationName, item.DeviceSerialNumber) == ("SCANNERS Inc", "CT1", "4711")
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"


def test_the_scanner_can_stay_in_general_equipment(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    image = dcmread(derive(series, tmp_path / "out", keep_manufacturer=True) / "0001.dcm")
    assert (image.Manufacturer, image.StationName) == ("SCANNERS Inc", "CT1")
    (item,) = image.ContributingEquipmentSequence
    assert item.Manufacturer == "ldct-denoise"
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert check_derived(series, tmp_path / "out") == []


def test_stale_attributes_go_and_dates_are_those_of_the_processing(derived: Dataset) -> None:
    for keyword in ("ReferencedPerformedProcedureStepSequence", "SmallestPixelValueInSeries"):
        assert keyword not in derived
    for part in ("InstanceCreation", "Content", "Series"):
        assert derived[f"{part}Date"].value == "20261121"


@pytest.mark.parametrize("kind", ["ORIGINAL", "DERIVED"])
def test_an_image_type_of_one_value_is_no_row_of_letters(tmp_path: Path, kind: str) -> None:
    source = make_source(tmp_path / "in", slices=1, ImageType=kind)
    image = dcmread(derive(only_series(source), tmp_path / "out") / "0001.dcm")
    assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    purpose = image.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue
    assert purpose == {"ORIGINAL": "109101", "DERIVED": "109102"}[kind]


def test_a_description_of_several_values_becomes_one(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in", slices=1, SeriesDescription=["Abd", "Thorax"])
    image = dcmread(derive(only_series(source), tmp_path / "out") / "0001.dcm")
    assert image.SeriesDescription == "Abd Thorax LDCT-denoised lir-ct 75%"


@pytest.mark.parametrize("zone", ["+2500", "+0299", "01300", "+²²²²"])
def test_a_time_zone_that_no_place_has_is_taken_for_none(zone: str) -> None:
    image = Dataset()
    image.TimezoneOffsetFromUTC = zone
    set_derivation_attributes(image, MODEL, CREATED, keep_manufacturer=False)
    assert (image.ContentDate, image.ContentTime) == ("20261121", "120000.000000")


def test_dates_follow_the_time_zone_of_the_source(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in", TimezoneOffsetFromUTC="-1300")
    image = dcmread(derive(only_series(source), tmp_path / "out") / "0001.dcm")
    assert (image.ContentDate, image.ContentTime) == ("20261120", "230000.000000")


def test_the_same_input_and_settings_give_the_same_uids_and_others_do_not(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    images = {
        name: dcmread(derive(series, tmp_path / name, derivation) / "0001.dcm")
        for name, derivation in {
            "first": MODEL,
            "again": MODEL,
            "weaker": Derivation("lir-ct", "ab" * 32, strength=0.5),
            "other": Derivation("lir-ct", "cd" * 32, strength=0.75),
            "range": Derivation("lir-ct", "ab" * 32, strength=0.75, high_hu=2000),
            "setting": Derivation("lir-ct", "ab" * 32, strength=0.75, settings={"tile": "512"}),
        }.items()
    }
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        uids = {name: image[keyword].value for name, image in images.items()}
        assert uids["again"] == uids["first"]
        assert len(set(uids.values())) == 5


def test_simulated_images_are_marked_as_synthetic(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    image = dcmread(
        derive(series, tmp_path / "out", Derivation("noise", kind="simulated", dose=0.25)) / "0001.dcm"
    )
    assert image.SyntheticData == "YES"
    assert image.SeriesDescription == "Abdomen simulated 25% dose"
    assert "25%" in image.DerivationDescription
    assert check_derived(series, tmp_path / "out") == []


@pytest.mark.parametrize("keep_manufacturer", [False, True])
def test_simulated_images_state_the_simulated_exposure(tmp_path: Path, keep_manufacturer: bool) -> None:
    """Everything that follows the dose, at any depth; what does not follow it stays."""
    inner = Dataset()
    inner.XRayTubeCurrentInuA, inner.KVP = "200000", "120"
    make_source(
        tmp_path / "in",
        XRayTubeCurrent=201, Exposure=1, ExposureTime=500, ExposureInuAs=100000, GeneratorPower=25, CTDIvol=13.6,
        KVP="120", ExposureDoseSequence=[inner],
    )  # fmt: skip
    simulated = Derivation("noise", kind="simulated", dose=0.25)
    settings = {"keep_manufacturer": keep_manufacturer}
    image = dcmread(derive(only_series(tmp_path / "in"), tmp_path / "out", simulated, **settings) / "0001.dcm")
    assert (image.XRayTubeCurrent, image.Exposure, image.ExposureTime) == (50, 1, 500)
    assert (image.ExposureInuAs, image.GeneratorPower, image.KVP) == (25000, 6, 120)
    assert image.CTDIvol == pytest.approx(3.4)
    assert image.ExposureDoseSequence[0].XRayTubeCurrentInuA == 50000
    assert "CTDIvol are scaled" in image.DerivationDescription
    assert "CTDIvol are scaled" in image.ContributingEquipmentSequence[-1].ContributionDescription
    plain = dcmread(derive(only_series(tmp_path / "in"), tmp_path / "plain", MODEL, **settings) / "0001.dcm")
    assert (plain.XRayTubeCurrent, plain.CTDIvol) == (201, 13.6)


@pytest.mark.parametrize(("representation", "value"), [("FD", None), ("LO", "no number")])
def test_an_exposure_that_is_no_number_stays(representation: str, value: str | None) -> None:
    image = Dataset()
    image.add_new("CTDIvol", representation, value)
    scale_dose(image, 0.5)
    assert image["CTDIvol"].value == value


def test_a_long_description_is_cut_and_a_derived_source_keeps_its_history(tmp_path: Path) -> None:
    source = make_source(
        tmp_path / "in",
        slices=1,
        SeriesDescription="x" * 64,
        ImageType=["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 SPI"],
        DerivationDescription="iterative",
        LossyImageCompression="01",
        BurnedInAnnotation="YES",
    )
    image = dcmread(derive(only_series(source), tmp_path / "out") / "0001.dcm")
    assert len(image.SeriesDescription) == 64
    assert image.SeriesDescription.endswith("LDCT-denoised lir-ct 75%")
    assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 SPI"]
    assert image.DerivationDescription.endswith("| before: iterative")
    assert "burned-in" in image.DerivationDescription
    assert image.LossyImageCompression == "01"
    assert image.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_names_numbers_and_private_attributes_come_through_every_encoding(tmp_path: Path, syntax: str) -> None:
    source = make_source(tmp_path / "in", slices=1)
    path = source / "1-001.dcm"
    image = dcmread(path)
    image.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    image.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    image.RedPaletteColorLookupTableDescriptor = [256, 0, 16]
    image.PixelPaddingValue = -2000
    image.private_block(0x0099, "OTHER", create=True).add_new(1, "FD", 2.5)
    item = Dataset()
    item.ReferencedSOPInstanceUID, item.InstanceNumber, item.RecommendedDisplayFrameRate = "1.2.3", 7, 3
    image.ReferencedImageSequence = [item]
    image.PixelData = image.pixel_array.astype(">i2" if syntax == ExplicitVRBigEndian else "<i2").tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta.TransferSyntaxUID = syntax
    decoded = Dataset()
    decoded.update({element.tag: element for element in image})
    decoded.file_meta = image.file_meta
    decoded.save_as(path, enforce_file_format=True)
    raw_name = dcmread(path).get_item("PatientName").value
    series = only_series(source)
    derived = dcmread(derive(series, tmp_path / "out") / "0001.dcm")
    assert derived.get_item("PatientName").value == raw_name
    assert derived.PixelPaddingValue == -2000
    assert list(derived.RedPaletteColorLookupTableDescriptor)[:2] == [256, 0]
    assert derived.ReferencedImageSequence[0].RecommendedDisplayFrameRate == 3
    if syntax != ImplicitVRLittleEndian:
        assert derived.private_block(0x0099, "OTHER")[1].value == 2.5
    np.testing.assert_array_equal(derived.pixel_array, series.read_stored(0))


def test_private_attributes_are_dropped_on_request(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in", slices=1)
    image = dcmread(source / "1-001.dcm")
    image.private_block(0x0099, "OTHER", create=True).add_new(1, "LO", "x")
    image.save_as(source / "1-001.dcm")
    image = dcmread(derive(only_series(source), tmp_path / "out", private_tags="remove") / "0001.dcm")
    assert not any(tag.is_private for tag in image.keys())  # noqa: SIM118


@pytest.mark.parametrize("compress", ["jpegls", "j2k", "rle"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_compression_is_lossless(tmp_path: Path, compress: str, signed: bool, bits: int) -> None:
    form = PixelFormat(16, bits, signed, 1, 0)
    cells = np.linspace(form.lowest, form.highest, 32 * 40).round().astype(form.dtype).reshape(32, 40)
    source = make_source(tmp_path / "in", slices=1)
    encode(source / "1-001.dcm", cells, bits, "1", "0")
    series = only_series(source)
    derived = dcmread(derive(series, tmp_path / "out", compress=compress) / "0001.dcm")
    assert derived.file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(derived.pixel_array, cells)
    assert check_derived(series, tmp_path / "out") == []


def test_a_localizer_is_refused(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    header = series.header(0)
    header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    class Localizer(Wrapped):
        def header(self, index: int) -> Dataset:
            return header

    with pytest.raises(InputError, match="localizer"):
        derive(Localizer(series), tmp_path / "out")


def test_a_header_with_a_nonsense_vr_still_comes_through(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in", slices=1)
    path = source / "1-001.dcm"
    content = path.read_bytes()
    at = content.index(b"\x18\x00\x10\x12SH")  # Convolution Kernel
    path.write_bytes(content[: at + 4] + b"S\xff" + content[at + 6 :])
    header = dcmread(path)

    class Broken(Wrapped):
        def header(self, index: int) -> Dataset:
            return header

    clean = make_source(tmp_path / "clean", slices=1)
    output = derive(Broken(only_series(clean)), tmp_path / "out")
    assert dcmread(output / "0001.dcm").ConvolutionKernel == "B30f"


# The folder -------------------------------------------------------------------------------------------------


def test_an_existing_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    derive(series, tmp_path / "out")
    with pytest.raises(OutputError, match="already exists"):
        derive(series, tmp_path / "out")
    derive(series, tmp_path / "out", change=3, overwrite=True)
    assert stored(tmp_path / "out" / "0001.dcm").mean() == pytest.approx(series.read_stored(0).mean() + 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_link_stands_for_the_folder_that_it_leads_to(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    derive(series, tmp_path / "link")
    derive(series, tmp_path / "link", change=3, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert stored(tmp_path / "disk" / "real" / "0001.dcm").mean() == pytest.approx(
        series.read_stored(0).mean() + 3
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "in", "link"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def test_a_mount_point_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = only_series(make_source(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path).endswith("out"))
    with pytest.raises(OutputError, match="mount point"):
        DerivedWriter(series, tmp_path / "out", MODEL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis\.doc"):
        derive(series, tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match="contains the input"):
        derive(series, tmp_path / "in", overwrite=True)
    assert len(list((tmp_path / "in").iterdir())) == 3


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    derive(only_series(make_source(tmp_path / "in")), tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_missing_slice_or_an_error_leaves_nothing(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    with (
        pytest.raises(OutputError, match="2 of 3 slices"),
        DerivedWriter(series, tmp_path / "out", MODEL) as writer,
    ):
        writer.write(0, series.read_hu(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pydicom wraps what the system says in an error of its own that has lost it."""
    series = only_series(make_source(tmp_path / "in", slices=1))

    def full(file: object, element: object, encoding: object = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(filewriter, "write_data_element", full)
    with pytest.raises(OutputError, match=f"^{tmp_path / 'out'}: .*No space left on device"):
        derive(series, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_what_cannot_be_encoded_names_the_source_and_the_cause(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in", slices=1))
    header = series.header(0)
    header.add_new("PlanarConfiguration", "US", 70_000)

    class Broken(Wrapped):
        def header(self, index: int) -> Dataset:
            return header

    with pytest.raises(InputError, match=r"1-001\.dcm: no image can be derived from it \(.*65535"):
        derive(Broken(series), tmp_path / "out")


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in")
    script = (
        "import sys, time; from pathlib import Path; from ldct_denoise.io.dicom.scan import scan;"
        "from ldct_denoise.io.derived.derived_series import DerivedWriter; from ldct_denoise.io.derived.attributes import Derivation; s = scan(Path(sys.argv[1])).series[0];"
        "w = DerivedWriter(s, Path(sys.argv[2]), Derivation('m')); w.write(0, s.read_hu(0)); print('half', flush=True);"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, source, tmp_path / "out"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    series = only_series(source)
    derive(series, tmp_path / "out")  # the other process lives: its folder is left alone
    assert (
        len([path for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith(".out.partial")]) == 1
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    derive(series, tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_settings_are_checked(tmp_path: Path) -> None:
    series = only_series(make_source(tmp_path / "in"))
    with pytest.raises(LdctDenoiseError, match="jpegls, j2k, rle"):
        derive(series, tmp_path / "out", compress="zip")
