"""DICOM situations from public reports and from use: each gives the right result, or is refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import unicodedata
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from click.testing import CliRunner
from ldct_denoise.cli.inspect import command
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from ldct_denoise.inference.batch import apply
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.derived.cut_text import cut_text
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.inventory import ExclusionKind
from ldct_denoise.io.write_settings import WriteSettings
from tests.dicom_files import cells, write_ct
from tests.enhanced_file import make_enhanced
from tests.synthetic import run_cli, shift_model


@pytest.fixture(scope="session")
def field(shared_data: Path) -> Path:
    """Small inputs, one folder for each reported situation."""
    return shared_data / "field"


def inspected(path: Path) -> dict[str, Any]:
    """What ``inspect --json`` reports."""
    result = CliRunner().invoke(command, [str(path), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def derived_headers(output: Path) -> list[Any]:
    return [dcmread(path, stop_before_pixels=True) for path in sorted(output.rglob("*.dcm"))]


# Images that share UIDs --------------------------------------------------------------------------------------


def check_one_uid_for_all(source: Path, output: Path) -> None:
    (found,) = inspected(source)["series"]
    assert found["slices"] == 6
    assert "5 of 6 slices have the SOP Instance UID of another image" in found["problems"][0]
    apply(source, shift_model(), output, ApplySettings(0))
    headers = derived_headers(output)
    assert len({header.SOPInstanceUID for header in headers}) == 6
    assert len({header.SeriesInstanceUID for header in headers}) == 1
    (series,), (back,) = scan(source).series, scan(output, include_derived=True).series
    for index in range(6):
        np.testing.assert_array_equal(back.read_stored(index), series.read_stored(index))


def test_f07_one_sop_uid_for_all_slices(field: Path, tmp_path: Path) -> None:
    check_one_uid_for_all(field / "F07_same_sop_uid", tmp_path / "out")


def test_one_sop_uid_for_all_slices(tmp_path: Path) -> None:
    for number in range(6):
        write_ct(tmp_path / "in" / str(number), number, SOPInstanceUID="1.2.3.4")
    check_one_uid_for_all(tmp_path / "in", tmp_path / "out")


def check_two_doses(source: Path, output: Path, pairs: int) -> None:
    result = inspected(source)
    assert len(result["series"]) == 2 * pairs
    assert len(result["pairs"]) == pairs
    assert not [item for item in result["skipped"] if item["kind"] == "duplicate"]
    written = apply(source, shift_model(), output, ApplySettings(0))
    assert len(written) == 2 * pairs
    headers = derived_headers(output)
    slices = sum(found["slices"] for found in result["series"])
    assert len({header.SOPInstanceUID for header in headers}) == len(headers) == slices
    assert len({header.SeriesInstanceUID for header in headers}) == 2 * pairs
    assert apply(source, shift_model(), output, ApplySettings(0)) == written  # finished already, by their UIDs


def test_f08_low_dose_with_the_uids_of_full_dose(field: Path, tmp_path: Path) -> None:
    check_two_doses(field / "F08_low_full_same_uids", tmp_path / "out", pairs=2)


def test_low_dose_with_the_uids_of_full_dose(tmp_path: Path) -> None:
    for number in range(3):
        for dose in ("full_dose", "low_dose"):
            pixels = cells(number) + 5 * (dose == "low_dose")
            write_ct(
                tmp_path / "in" / dose / str(number),
                number,
                SOPInstanceUID=f"1.2.{number}",
                PixelData=pixels.tobytes(),
            )
    check_two_doses(tmp_path / "in", tmp_path / "out", pairs=1)


def test_enhanced_low_dose_with_the_uids_of_full_dose(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = make_enhanced(tmp_path / "in" / "full_dose" / "a.dcm")
    image = dcmread(path)
    image.PixelData = (image.pixel_array + 1).tobytes()
    (tmp_path / "in" / "low_dose").mkdir()
    image.save_as(tmp_path / "in" / "low_dose" / "a.dcm")
    assert len(scan(tmp_path / "in").series) == 2
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0))
    headers = derived_headers(tmp_path / "out")
    assert len({header.SOPInstanceUID for header in headers}) == len(headers) == 2


def test_both_doses_in_one_folder_are_two_series(tmp_path: Path) -> None:
    for number in range(3):
        for offset in (0, 5):
            pixels = (cells(number) + offset).tobytes()
            write_ct(tmp_path / f"{offset}-{number}", number, SOPInstanceUID=f"1.2.{number}", PixelData=pixels)
    first, second = scan(tmp_path).series
    assert len(first) == len(second) == 3
    assert first.uid != second.uid
    for index in range(3):
        np.testing.assert_array_equal(first.read_stored(index), cells(index))
        np.testing.assert_array_equal(second.read_stored(index), cells(index) + 5)


def test_copies_in_another_encoding_are_duplicates(tmp_path: Path) -> None:
    for number in range(2):
        path = write_ct(tmp_path / "a" / str(number), number)
        image = dcmread(path)
        image.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
        (tmp_path / "b").mkdir(exist_ok=True)
        image.save_as(tmp_path / "b" / str(number))
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    inventory = scan(tmp_path)
    assert [len(series) for series in inventory.series] == [2]
    assert [item.kind for item in inventory.skipped] == [ExclusionKind.DUPLICATE] * 4


# CT or not, HU or not ----------------------------------------------------------------------------------------

NO_CT_ATTRIBUTES: dict[str, object] = dict.fromkeys(("KVP", "ConvolutionKernel", "XRayTubeCurrent"))
MR_VALUES = {"PixelData": (cells(0) // 4).tobytes(), "RescaleIntercept": 0}


def skipped(path: Path) -> list[tuple[ExclusionKind, str]]:
    return [(item.kind, item.reason) for item in scan(path).skipped if item.path.name != "README"]


def test_f01_written_by_simpleitk(field: Path) -> None:
    (series,) = scan(field / "F01_simpleitk_written").series
    assert len(series) == 4
    assert series.read_hu(0).min() == -1029
    assert series.read_hu(0).max() == 760


@pytest.mark.parametrize(
    "unit", ["US", "Hounsfield", "HOUNSFIELD UNIT", "HOUNSFIELD UNIT(S)", "hounsfield units", "H.U."]
)
@pytest.mark.parametrize("attributes", [{}, NO_CT_ATTRIBUTES], ids=["ct", "bare"])
def test_spellings_of_hu_and_unspecified_units(tmp_path: Path, unit: str, attributes: dict[str, object]) -> None:
    for number in range(3):
        write_ct(tmp_path / str(number), number, RescaleType=unit, **attributes)
    (series,) = scan(tmp_path).series
    assert len(series) == 3


@pytest.mark.parametrize("unit", ["US", None])
@pytest.mark.parametrize("attributes", [{}, NO_CT_ATTRIBUTES], ids=["ct", "bare"])
def test_values_of_mr_without_a_unit_are_refused(
    tmp_path: Path, unit: object, attributes: dict[str, object]
) -> None:
    for number in range(3):
        write_ct(tmp_path / str(number), number, RescaleType=unit, **attributes, **MR_VALUES)
    found = skipped(tmp_path)
    assert [kind for kind, _ in found] == [ExclusionKind.POSSIBLY_MR] * 3
    assert "perhaps MR" in found[0][1]
    assert "--assume-hu" in found[0][1]


@pytest.mark.parametrize("unit", ["OD", "HU_MOD", "Z_EFF", "MGML", "PCT"])
def test_other_units_are_refused(tmp_path: Path, unit: str) -> None:
    write_ct(tmp_path / "a", RescaleType=unit)
    ((kind, reason),) = skipped(tmp_path)
    assert kind is ExclusionKind.NOT_HU
    assert unit in reason
    assert "--assume-hu" in reason


def test_real_mr_under_a_ct_label_is_refused(shared_data: Path) -> None:
    path = shared_data / "dicom_cases" / "mr_tagged_ct"
    assert not scan(path).series
    (series,) = scan(path, assume_hu=True).series
    assert "--assume-hu" in series.metadata.problems[0]


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "RCBF"], "RescaleType": None},
        {"ImageType": ["DERIVED", "SECONDARY", "CT_SOM5 CBF"], "RescaleType": "HU"},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "RescaleType": None, **MR_VALUES},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "RescaleType": None, **MR_VALUES},
        {  # a constant background below the blood flow, with the rescale of CT
            "RescaleType": None,
            "PixelData": np.where(cells(0) > 1200, cells(0) // 25 + 1024, 1024).astype(np.uint16).tobytes(),
        },
    ],
)
def test_perfusion_maps_without_a_unit_are_refused(tmp_path: Path, attributes: dict[str, object]) -> None:
    write_ct(tmp_path / "a", **attributes)
    assert not scan(tmp_path).series
    assert "--assume-hu" in skipped(tmp_path)[0][1]


def test_a_crop_of_bone_without_rescale_type_is_read(tmp_path: Path) -> None:
    write_ct(tmp_path / "a", RescaleType=None, PixelData=(cells(0) // 5 + 1200).astype(np.uint16).tobytes())
    assert len(scan(tmp_path).series) == 1


def test_f45_scanning_sequence_in_ct(field: Path) -> None:
    (series,) = scan(field / "F45_scanning_sequence_in_ct").series
    assert len(series) == 4


@pytest.mark.parametrize(
    "attributes", [{"ScanningSequence": "RM"}, {"EchoTime": 30}, {"FlipAngle": 90}, {"Modality": "MR"}]
)
@pytest.mark.parametrize("unit", ["HU", None])
def test_one_attribute_of_mr_does_not_decide(tmp_path: Path, attributes: dict[str, object], unit: object) -> None:
    write_ct(tmp_path / "a", RescaleType=unit, **attributes)
    assert len(scan(tmp_path).series) == 1


def test_several_attributes_of_mr_decide(tmp_path: Path) -> None:
    mr = {"ScanningSequence": "SE", "EchoTime": 30, "RepetitionTime": 500, "MagneticFieldStrength": 1.5}
    write_ct(tmp_path / "a", **mr, **NO_CT_ATTRIBUTES)
    ((kind, reason),) = skipped(tmp_path)
    assert kind is ExclusionKind.MR
    assert "EchoTime, RepetitionTime" in reason


def test_assumed_hu_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write_ct(tmp_path / "in" / str(number), number, RescaleType="OD")
    code, _, error = run_cli(capsys, "apply", tmp_path / "in", "-o", tmp_path / "no", "--model", "bilateral")
    assert code == 2
    assert "--assume-hu" in error
    arguments = ("apply", tmp_path / "in", "-o", tmp_path / "out", "--model", "bilateral", "--assume-hu")
    assert run_cli(capsys, *arguments)[0] == 0
    headers = derived_headers(tmp_path / "out")
    assert len(headers) == 3
    assert "unit=HU assumed on request" in headers[0].DerivationDescription


@pytest.fixture(scope="module")
def not_hu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two doses of one scan whose Rescale Type speaks against HU."""
    tree = tmp_path_factory.mktemp("not-hu")
    for number in range(3):
        for dose, offset in (("low", 3), ("full", 0)):
            pixels = np.tile(cells(number) + offset, (4, 4))
            size = {"Rows": pixels.shape[0], "Columns": pixels.shape[1]}
            write_ct(
                tree / dose / str(number),
                number,
                RescaleType="OD",
                PixelData=pixels.astype("<u2").tobytes(),
                **size,
            )
    return tree


READING = {
    "simulate": "{tree}/full --dose 0.5 --output {out}",
    "train": "--dicom-root {tree} --output {out} --dry-run",
    "compare": "--dicom-root {tree} --model bilateral --output {out} --overwrite",
    "evaluate": "{tree}/low --reference {tree}/full --output {out} --overwrite",
    "view": "{tree}/low",
    "serve": "--folder {tree}/low {out} --model bilateral",
}


@pytest.mark.parametrize("name", READING)
def test_every_command_that_reads_images_takes_assumed_hu(
    not_hu: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    viewed: list[int] = []
    monkeypatch.setattr("ldct_denoise.view.serve_view", lambda sources, *_, **__: viewed.append(len(sources[0])))
    arguments = READING[name].format(tree=not_hu, out=tmp_path / "out").split()
    assert run_cli(capsys, name, *arguments)[0] == 2
    code, _, error = run_cli(capsys, name, *arguments, "--assume-hu")
    if name == "simulate":  # the images are noise alone, without a tissue to measure it in
        assert "no soft tissue with noise to measure" in error
    else:
        assert code == 0, error
    assert viewed == ([3] if name == "view" else [])


# Rescale and geometry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "name"), [("RescaleIntercept", "Rescale Intercept"), ("RescaleSlope", "Rescale Slope")]
)
@pytest.mark.parametrize("value", ["", None])
def test_an_empty_rescale_is_not_zero(tmp_path: Path, keyword: str, name: str, value: object) -> None:
    write_ct(tmp_path / "in" / "a", **{keyword: value})
    ((kind, reason),) = skipped(tmp_path)
    assert kind is ExclusionKind.INVALID_HEADER
    assert reason.startswith(f"{name} is {'missing' if value is None else 'empty'}")
    assert "--assume-hu" in reason
    (series,) = scan(tmp_path, assume_hu=True).series
    stored = cells(0) * 1.0 + (0 if keyword == "RescaleIntercept" else -1024)
    np.testing.assert_array_equal(series.read_hu(0), stored)
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0, assume_hu=True))
    (header,) = derived_headers(tmp_path / "out")
    assert header[keyword].value == {"RescaleSlope": 1, "RescaleIntercept": 0}[keyword]


def test_f02_decimal_commas(field: Path, tmp_path: Path) -> None:
    (series,) = scan(field / "F02_decimal_comma").series
    assert series.geometry.pixel_spacing_mm == (3.125, 3.125)
    assert series.metadata.slice_thickness_mm == 2.5
    apply(field / "F02_decimal_comma", shift_model(), tmp_path / "out", ApplySettings(0))
    header = derived_headers(tmp_path / "out")[0]
    assert (header.PixelSpacing, header.SliceThickness, header.WindowCenter) == ([3.125, 3.125], 2.5, 40)


def replaced(path: Path, keyword: str, vr: str, value: bytes) -> None:
    """Replace an element of a file by one with this VR and these bytes."""
    image = dcmread(path)
    tag = Tag(keyword)
    padded = value + b" " * (len(value) % 2)
    image[tag] = RawDataElement(tag, vr, len(padded), padded, 0, False, True, True)
    image.save_as(path)


@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("DS", b"0,7\\0,8"),
        ("DS", b"0.7\\0.8\0"),
        ("LO", b"0.7\\0.8"),
        ("LT", b"0.7\\0.8"),
        ("UN", b"0.7\\0.8"),
        ("FD", np.array([0.7, 0.8]).tobytes()),
        ("FL", np.array([0.7, 0.8], "<f4").tobytes()),
    ],
)
def test_pixel_spacing_under_another_vr(tmp_path: Path, vr: str, value: bytes) -> None:
    replaced(write_ct(tmp_path / "in" / "a"), "PixelSpacing", vr, value)
    (series,) = scan(tmp_path / "in").series
    assert series.geometry.pixel_spacing_mm == (0.7, 0.8)
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0))
    (header,) = derived_headers(tmp_path / "out")
    assert header["PixelSpacing"].VR == "DS"
    assert header.PixelSpacing == [0.7, 0.8]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_decimal_commas_in_functional_groups(tmp_path: Path, syntax: UID) -> None:
    """Pixel spacing, position, rescale and window of Enhanced CT, in nested items and an ordinary sequence."""
    path = make_enhanced(tmp_path / "in" / "a.dcm")
    (before,) = scan(tmp_path / "in").series
    hu = [before.read_hu(index) for index in range(len(before))]
    image = dcmread(path)
    shared, *frames = image.SharedFunctionalGroupsSequence[0], *image.PerFrameFunctionalGroupsSequence
    for item, keyword, value in (
        (shared.PixelMeasuresSequence[0], "PixelSpacing", b"0,7\\0,7"),
        (shared.FrameVOILUTSequence[0], "WindowCenter", b"40,5"),
        (frames[1].PlanePositionSequence[0], "ImagePositionPatient", b"0\\0,0\\3,0"),
        (frames[2].PixelValueTransformationSequence[0], "RescaleSlope", b"1,5"),
    ):
        item[keyword] = RawDataElement(Tag(keyword), "DS", len(value), value, 0, False, True, True)
    image.file_meta.TransferSyntaxUID = syntax
    image.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    (series,) = scan(tmp_path / "in").series
    np.testing.assert_allclose(series.geometry.affine, before.geometry.affine)
    for index in range(len(series)):
        np.testing.assert_array_equal(series.read_hu(index), hu[index])
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0))
    (header,) = derived_headers(tmp_path / "out")
    groups = header.SharedFunctionalGroupsSequence[0]
    assert groups.PixelMeasuresSequence[0].PixelSpacing == [0.7, 0.7]
    assert groups.FrameVOILUTSequence[0].WindowCenter == 40.5


@pytest.mark.parametrize("value", [b"0.7", b"0.7\\0.7\\2.5", b"2.5\\0.7\\0.7"])
def test_one_or_three_pixel_spacings(tmp_path: Path, value: bytes) -> None:
    replaced(write_ct(tmp_path / "a"), "PixelSpacing", "DS", value)
    ((kind, reason),) = skipped(tmp_path)
    assert kind is ExclusionKind.INVALID_HEADER
    assert "PixelSpacing has" in reason
    replaced(write_ct(tmp_path / "a", ReconstructionDiameter=0.7 * 8), "PixelSpacing", "DS", value)
    (series,) = scan(tmp_path).series
    assert series.geometry.pixel_spacing_mm == (0.7, 0.7)


def test_a_comma_that_may_separate_thousands_is_refused(tmp_path: Path) -> None:
    replaced(write_ct(tmp_path / "a"), "RescaleIntercept", "DS", b"-1,024")
    assert "RescaleIntercept '-1,024' is not a number, or not certain" in skipped(tmp_path)[0][1]


# Encodings ---------------------------------------------------------------------------------------------------


def test_f14_native_pixels_under_a_compressed_syntax(field: Path, tmp_path: Path) -> None:
    (series,) = scan(field / "F14_wrong_transfer_syntax").series
    assert len(series) == 3
    assert series.metadata.transfer_syntax == "Explicit VR Little Endian"
    apply(field / "F14_wrong_transfer_syntax", shift_model(), tmp_path / "out", ApplySettings(0))
    (back,) = scan(tmp_path / "out", include_derived=True).series
    np.testing.assert_array_equal(back.read_stored(0), series.read_stored(0))


@pytest.mark.parametrize("stated", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.5"])
@pytest.mark.parametrize("actual", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"])
def test_compressed_pixels_under_another_syntax(tmp_path: Path, stated: str, actual: str) -> None:
    stored = np.tile(cells(1), (8, 8))  # JPEG 2000 needs more than 8×6 pixels
    path = write_ct(tmp_path / "a", 1, Rows=48, Columns=64, PixelData=stored.tobytes())
    image = dcmread(path)
    image.compress(actual, generate_instance_uid=False)
    image.save_as(path)
    path.write_bytes(path.read_bytes().replace(padded_uid(actual), padded_uid(stated), 1))
    (series,) = scan(tmp_path).series
    np.testing.assert_array_equal(series.read_stored(0), stored)


def padded_uid(uid: str) -> bytes:
    """Transfer Syntax UID element padded to the same length, so that no other length changes."""
    return uid.encode().ljust(24, b"\0")


def test_f36_private_compression_is_named(field: Path) -> None:
    ((kind, reason),) = skipped(field / "F36_philips_private_rle")
    assert kind is ExclusionKind.LOST_SLICE
    assert reason == "private Philips compression PMSCT_RLE1 (07A1,100A); export the images uncompressed"


@pytest.mark.parametrize("command", ["apply", "simulate"])
def test_a_refusal_names_the_reason_and_not_the_readme(
    field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = {"apply": ("--model", "bilateral"), "simulate": ("--dose", "0.25")}[command]
    source = field / "F36_philips_private_rle"
    code, _, error = run_cli(capsys, command, source, "-o", tmp_path / "out", *arguments)
    assert code == 2
    assert "private Philips compression PMSCT_RLE1" in error
    assert "README" not in error


def test_frames_without_positions_name_the_attribute_and_the_remedy(tmp_path: Path) -> None:
    write_ct(tmp_path / "a", NumberOfFrames=2, PixelData=cells(0).tobytes() * 2)
    ((kind, reason),) = skipped(tmp_path)
    assert kind is ExclusionKind.LOST_SLICE
    assert "Number of Frames is 2" in reason
    assert "Enhanced CT" in reason


def test_enhanced_frames_under_the_classic_class_are_read(tmp_path: Path) -> None:
    path = make_enhanced(tmp_path / "in" / "a.dcm")
    image = dcmread(path)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.save_as(path)
    (series,) = scan(tmp_path / "in").series
    assert len(series) == 4
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0))
    (back,) = scan(tmp_path / "out", include_derived=True).series
    np.testing.assert_array_equal(back.geometry.positions_mm, series.geometry.positions_mm)
    for index in range(4):
        np.testing.assert_array_equal(back.read_hu(index), series.read_hu(index))


# Nested DICOMDIR ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DICOMDIR", "S21610/DIRFILE", "S21610/S3010/DIRFILE", ""])
def test_f30_nested_dicomdir(field: Path, name: str) -> None:
    found = inspected(field / "F30_nested_dicomdir" / name)
    assert [one["slices"] for one in found["series"]] == [1]
    if name:
        assert {item["reason"] for item in found["skipped"]} == {"listed in the DICOMDIR but missing"}


def dicomdir(path: Path, *references: list[str]) -> None:
    """A DICOMDIR with only the records that reading needs."""
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    directory.file_meta.MediaStorageSOPClassUID = directory.SOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    records = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that no disc may have
        for parts in references:
            record = Dataset()
            record.ReferencedFileID = parts
            records.append(record)
        directory.DirectoryRecordSequence = records
        directory.save_as(path, enforce_file_format=True)


def test_nested_directories_in_a_circle_and_out_of_the_disc(tmp_path: Path) -> None:
    disc = tmp_path / "disc"
    write_ct(disc / "A" / "1", 1)
    write_ct(disc / "A" / "2", 2)
    write_ct(tmp_path / "secret", 3)
    (disc / "A" / "out").symlink_to(tmp_path / "secret")
    dicomdir(disc / "DICOMDIR", ["A", "DIRFILE"], ["A", "1"])
    dicomdir(disc / "A" / "DIRFILE", ["DICOMDIR"], ["A", "DIRFILE"], ["2"], ["A", "out"], ["..", "secret"])
    inventory = scan(disc / "DICOMDIR")
    assert [len(series) for series in inventory.series] == [2]
    assert [item.reason for item in inventory.skipped] == ["the DICOMDIR leads out of its folder"] * 2


# Words and localizers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "description",
    [
        "Projection of chest",
        "AP projection 5 mm",
        "Low_dose_projections",
        "Dose Report follow-up",
        "Screen save lung",
    ],
)
def test_words_alone_exclude_nothing(tmp_path: Path, description: str) -> None:
    for number in range(3):
        write_ct(tmp_path / str(number), number, SeriesDescription=description)
    (series,) = scan(tmp_path).series
    assert len(series) == 3


def test_projection_data_are_known_by_their_own_attributes(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a", SeriesDescription="chest")
    image = dcmread(path)
    image.add_new((0x7029, 0x0010), "LO", "DICOM-CT-PD")
    image.add_new((0x7029, 0x1010), "US", 64)
    image.save_as(path)
    assert [kind for kind, _ in skipped(tmp_path)] == [ExclusionKind.PROJECTIONS]


def test_a_model_named_after_simulation_is_not_denoised_again(tmp_path: Path) -> None:
    text = "ldct-denoise 0.1: noise reduced by a model, strength 100%; model lir-simulated sha256 none"
    write_ct(tmp_path / "a", DerivationDescription=text)
    assert [kind for kind, _ in skipped(tmp_path)] == [ExclusionKind.ALREADY_DENOISED]


def test_f13_an_unlabelled_scout_is_no_second_output(
    field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = field / "F13_unlabelled_scout"
    code, _, error = run_cli(capsys, "apply", source, "-o", tmp_path / "out", "--model", "bilateral")
    assert code == 0
    assert "1 localizer" in error
    headers = derived_headers(tmp_path / "out")
    assert len(headers) == 6
    assert len({header.SeriesInstanceUID for header in headers}) == 1


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]], ids=["coronal", "sagittal"])
@pytest.mark.parametrize(
    "attributes", [{}, {"SeriesInstanceUID": "1.2.3"}, {"ImageType": ["ORIGINAL", "PRIMARY"]}]
)
def test_scouts_of_every_label(tmp_path: Path, orientation: list[int], attributes: dict[str, object]) -> None:
    for number in range(4):
        write_ct(tmp_path / str(number), number)
    write_ct(tmp_path / "scout", 9, ImageOrientationPatient=orientation, **attributes)
    assert [len(series) for series in scan(tmp_path).series] == [4]
    ((kind, reason),) = skipped(tmp_path)
    assert kind is ExclusionKind.LOCALIZER
    assert "next to an axial series" in reason


def test_f22_one_series_with_its_gap(field: Path) -> None:
    (found,) = inspected(field / "F22_exposure_varies")["series"]
    assert found["slices"] == 12
    assert found["problems"] == ["slices are 2.5 to 17.5 mm apart; 6 missing"]


# Text and private elements -----------------------------------------------------------------------------------


def dciodvfy_lines(path: Path) -> set[str]:
    """Complaints of dciodvfy, without the values."""
    validator = shutil.which("dciodvfy")
    if validator is None:
        pytest.skip("dciodvfy is not installed")
    done = subprocess.run([validator, "-new", path], capture_output=True, check=False)
    return {line.split(" = <")[0] for line in done.stderr.decode("latin-1").splitlines()}


@pytest.mark.parametrize("padding", [b"\0", b"\0\0\0\0", b"\0left over"])
def test_nul_padded_text_is_not_copied_into_the_equipment(tmp_path: Path, padding: bytes) -> None:
    path = write_ct(tmp_path / "in" / "a")
    for keyword in ("Manufacturer", "StationName", "ManufacturerModelName"):
        replaced(path, keyword, "SH" if keyword == "StationName" else "LO", b"ACME" + padding)
    replaced(path, "SeriesDescription", "LO", b"Chest\0\0\0")
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0))
    (output,) = (tmp_path / "out").glob("*.dcm")
    header = dcmread(output)
    item = header.ContributingEquipmentSequence[-1]
    for keyword in ("Manufacturer", "StationName", "ManufacturerModelName"):
        assert item[keyword].value == "ACME"
    assert header.SeriesDescription.startswith("Chest LDCT")
    new = dciodvfy_lines(output) - dciodvfy_lines(path)
    assert not [line for line in new if "ContributingEquipment" in line or "SeriesDescription" in line]


def test_a_manufacturer_of_nothing_but_nul_is_unknown(tmp_path: Path) -> None:
    replaced(write_ct(tmp_path / "in" / "a"), "Manufacturer", "LO", b"\0junk\0")
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0))
    (header,) = derived_headers(tmp_path / "out")
    assert header.ContributingEquipmentSequence[-1].Manufacturer == "UNKNOWN"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.5"])
@pytest.mark.parametrize("private_tags", ["keep", "remove"])
def test_private_elements_after_the_pixel_data(
    tmp_path: Path, syntax: str, private_tags: Literal["keep", "remove"]
) -> None:
    path = write_ct(tmp_path / "in" / "a")
    image = dcmread(path)
    image.add_new((0x7FE1, 0x0010), "LO", "ACME SHADOW")
    image.add_new((0x7FE1, 0x1010), "OB", b"after the pixels")
    item = Dataset()
    item.add_new((0x7FE3, 0x0010), "LO", "ACME DEEP")
    item.add_new((0x7FE3, 0x1001), "LO", "nested")
    image.add_new((0x7FE3, 0x0010), "LO", "ACME DEEP")
    image.add_new((0x7FE3, 0x1000), "SQ", [item])
    if syntax.endswith(".5"):
        image.compress(syntax, generate_instance_uid=False)
    else:
        image.file_meta.TransferSyntaxUID = syntax
    image.save_as(path, implicit_vr=syntax.endswith("1.2"), little_endian=True)
    with path.open("ab") as file:
        file.write(bytes(32))  # padding that no element announces
    apply(
        tmp_path / "in",
        shift_model(),
        tmp_path / "out",
        ApplySettings(0),
        WriteSettings(private_tags=private_tags),
    )
    header = dcmread(next((tmp_path / "out").glob("*.dcm")))
    assert ((0x7FE1, 0x1010) in header) == (private_tags == "keep")
    if private_tags == "keep":
        assert header[0x7FE1, 0x1010].value == b"after the pixels"
        assert (0x7FE3, 0x1000) in header
    assert len(header.PixelData) == cells(0).nbytes


@pytest.mark.parametrize("spaces", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("charset", "text", "codec", "escape"),
    [
        (["", "ISO 2022 IR 87"], "胸部造影検査", "iso2022_jp", b""),
        (["", "ISO 2022 IR 149"], "흉부조영", "euc_kr", b"\x1b$)C"),
        (["", "ISO 2022 IR 58"], "胸部增强扫描", "gb2312", b"\x1b$)A"),
        ("GB18030", "胸部增强扫描", "gb18030", b""),
        ("ISO_IR 192", "胸部e\u0301", "utf-8", b""),
        (None, "胸部造影検査", "iso2022_jp", b""),
        (None, "胸部增强扫描", "gbk", b""),
        (None, "胸部增强扫描", "utf-8", b""),
    ],
)
def test_cut_text_has_whole_characters(
    tmp_path: Path, charset: object, text: str, codec: str, escape: bytes, spaces: int
) -> None:
    path = write_ct(tmp_path / "in" / "a", **({"SpecificCharacterSet": charset} if charset else {}))
    # Within the limit of bytes in the source: the derived series must not exceed it.
    whole = "x" * spaces + text * 8
    while len(escape + whole.encode(codec)) > 62:
        whole = whole[:-1]
    replaced(path, "SeriesDescription", "LO", escape + whole.encode(codec))
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0))
    output = next((tmp_path / "out").glob("*.dcm"))
    raw = dcmread(output).get_item("SeriesDescription").value
    assert len(raw) <= 64
    cut, label = raw.removeprefix(escape).split(b" LDCT-denoised")
    assert label.strip() == b"shift 0%"
    decoded = cut.decode(codec)  # fails on half a character
    assert whole.startswith(decoded)
    assert not unicodedata.combining(whole[len(decoded) : len(decoded) + 1] or "x")
    if charset:
        assert decoded in dcmread(output).SeriesDescription
    assert not [line for line in dciodvfy_lines(output) - dciodvfy_lines(path) if "SeriesDescription" in line]


@pytest.mark.parametrize("pairs", [3, 20])
def test_an_escape_that_cannot_be_decoded_is_closed(pairs: int) -> None:
    image = Dataset()
    image.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    cut = cut_text("\x1b$B" + "J#It" * pairs, 40, image)
    assert len(cut) <= 40
    assert cut.startswith("\x1b$BJ#It")
    assert cut.endswith("\x1b(B")
    assert (len(cut) - 6) % 2 == 0


def test_a_long_derivation_description_has_whole_characters(tmp_path: Path) -> None:
    write_ct(tmp_path / "in" / "a", SpecificCharacterSet="ISO_IR 192", DerivationDescription="胸部" * 500)
    apply(tmp_path / "in", shift_model(), tmp_path / "out", ApplySettings(0))
    raw = dcmread(next((tmp_path / "out").glob("*.dcm"))).get_item("DerivationDescription").value
    assert len(raw) <= 1024
    assert raw.decode().rstrip().endswith(("胸", "部"))
