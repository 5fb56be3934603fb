"""Reading DICOM: stacks are found, split and placed correctly; other files are skipped with a reason."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    XRayRadiationDoseSRStorage,
)

from ldct_denoise.errors import InputError
from ldct_denoise.inference.batch import apply
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.dicom.stack_identity import StackRegistry
from ldct_denoise.io.inventory import ExclusionKind, Inventory
from ldct_denoise.io.write_settings import WriteSettings
from tests.dicom_files import ROWS, cells, ct_image, write_ct
from tests.enhanced_file import FRAMES, frame_groups, make_enhanced
from tests.fuzz_dicom import named_seeds
from tests.synthetic import series_of, shift_model


def reasons(inventory: Inventory[Any]) -> list[str]:
    return [item.reason for item in inventory.skipped]


def z_of(series: Series) -> list[float]:
    return series.geometry.positions_mm[:, 2].tolist()


# What is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.dcm", "a.IMA", "a", "ünï\ncode.dcm"])
@pytest.mark.parametrize(
    "syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_name_and_native_encoding(tmp_path: Path, name: str, syntax: str | None) -> None:
    path = tmp_path / name
    image = ct_image(2)
    if syntax:
        image.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<u2").byteswap().tobytes()
            image["PixelData"].VR = "OW"
    image.save_as(path, enforce_file_format=True)
    (series,) = series_of(tmp_path)
    np.testing.assert_array_equal(series.read_stored(0), cells(2))
    np.testing.assert_array_equal(series.read_hu(0), cells(2).astype(np.float32) - 1024)


@pytest.mark.parametrize("implicit", [True, False])
def test_no_preamble_and_no_meta_information(tmp_path: Path, implicit: bool) -> None:
    image = ct_image(1)
    del image.file_meta
    image.save_as(tmp_path / "bare", implicit_vr=implicit, little_endian=True)
    (series,) = series_of(tmp_path)
    np.testing.assert_array_equal(series.read_stored(0), cells(1))
    assert series.header(0).Rows == ROWS


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    for number in range(3):
        write_ct(tmp_path / str(number), number, RescaleSlope=1 + number / 4, RescaleIntercept=-1000 - number)
    (series,) = series_of(tmp_path)
    for number in range(3):
        hu = cells(number) * (1 + number / 4) - 1000 - number
        np.testing.assert_array_equal(series.read_hu(number), hu.astype(np.float32))


# Stacks ------------------------------------------------------------------------------------------------------


def test_slices_in_order_along_the_normal(tmp_path: Path) -> None:
    for number in (2, 0, 3, 1):
        write_ct(tmp_path / f"{9 - number}", number, InstanceNumber=7 - number)
    (series,) = series_of(tmp_path)
    assert z_of(series) == [0, 3, 6, 9]
    assert series.metadata.problems == ()


@pytest.mark.parametrize(
    ("attribute", "first", "second", "how"),
    [
        ("AcquisitionNumber", 1, 2, "acquisition number"),
        ("NominalPercentageOfCardiacPhase", 30, 70, "phase"),
        ("TemporalPositionIdentifier", 1, 2, "phase"),
        ("TriggerTime", 100, 500, "trigger time"),
        ("KVP", 80, 140, "tube voltage"),
        ("SliceThickness", 1, 5, "slice thickness"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL", "A"], ["ORIGINAL", "PRIMARY", "AXIAL", "B"], "image type"),
    ],
)
def test_two_stacks_at_the_same_places(
    tmp_path: Path, attribute: str, first: object, second: object, how: str
) -> None:
    for number in range(4):
        write_ct(tmp_path / f"a{number}", number, **{attribute: first})
        write_ct(tmp_path / f"b{number}", number, **{attribute: second})
    one, other = series_of(tmp_path)
    assert z_of(one) == z_of(other) == [0, 3, 6, 9]
    for series in (one, other):
        assert len({str(series.header(index).get(attribute)) for index in range(4)}) == 1
        assert f"of 2 with one Series Instance UID, separated by {how}" in series.metadata.problems[0]
    assert len({one.uid, other.uid, ct_image().SeriesInstanceUID}) == 2


def late_scans(
    folder: Path, batches: list[list[tuple[int, dict[str, object]]]]
) -> list[list[tuple[str, list[int]]]]:
    """UID and places of the stacks of every batch, each scanned alone with what is remembered of those before."""
    remembered, found = StackRegistry(), []
    for count, batch in enumerate(batches):
        for number, attributes in batch:
            write_ct(folder / str(count) / f"{number}-{attributes}", number, **attributes)
        series = scan(folder / str(count), registry=remembered).series
        found.append([(one.uid, z_of(one)) for one in series])
        assert "P1" not in remembered.to_json()
        remembered = StackRegistry.from_json(remembered.to_json())
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
        ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}),
        ({"PatientID": "P1"}, {"PatientID": "P2"}),
        ({"AcquisitionTime": "120001"}, {"AcquisitionTime": "120002"}),
    ],
    ids=str,
)
def test_late_images_join_their_own_stack(
    tmp_path: Path, one: dict[str, object], other: dict[str, object]
) -> None:
    first = [(n, one) for n in range(3)] + [(n, other) for n in range(2)]
    both, late, last = late_scans(tmp_path, [first, [(2, other)], [(3, one), (3, other)]])
    uids = {places[-1]: uid for uid, places in both}  # the first stack reaches 6 mm, the second 3 mm
    assert len(set(uids.values())) == 2
    assert late == [(uids[3], [6])]
    assert sorted(last) == sorted((uid, [9]) for uid in uids.values())
    (alone,) = late_scans(tmp_path / "alone", [first])
    assert sorted(alone) == sorted(both)  # the memory changes no UID of what comes at once


def test_a_stack_that_arrives_late_is_a_stack_of_its_own(tmp_path: Path) -> None:
    one, other = {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}
    batches = [
        [(n, one) for n in range(3)],
        [(n, other) for n in range(3)],
        [(3, other)],
        [(n, one) for n in range(4)],
    ]
    (first,), (second,), (third,), (again,) = late_scans(tmp_path, batches)
    assert first[0] == ct_image().SeriesInstanceUID
    assert second[0] == third[0] != first[0]
    assert again == (first[0], [0, 3, 6, 9])


def test_no_two_stacks_share_a_uid_although_a_late_batch_parts_them(tmp_path: Path) -> None:
    """The first batch looks like one stack; what comes later shows that it was two."""
    one, other = {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}
    first, late = late_scans(
        tmp_path, [[(0, one), (1, one), (3, other)], [(n, other) for n in range(3)] + [(2, one)]]
    )
    ((uid, _),) = first
    assert dict(late)[uid] == [6]
    assert len({uid for uid, _ in late}) == 2


def test_a_broken_memory_is_none() -> None:
    for text in ("", "{", "[1]", '[{"uid": "1.2"}]', "null"):
        assert StackRegistry.from_json(text).uids == {}


def test_an_acquisition_number_for_each_slice_splits_nothing(tmp_path: Path) -> None:
    """Step-and-shoot scans count every rotation."""
    for number in range(5):
        write_ct(tmp_path / str(number), number, AcquisitionNumber=number)
    (series,) = series_of(tmp_path)
    assert len(series) == 5


def test_images_without_a_separating_attribute_are_split_by_acquisition_order(tmp_path: Path) -> None:
    for number in range(3):
        for time in (1, 2):
            write_ct(tmp_path / f"{number}-{time}", number, AcquisitionTime=f"12000{time}")
    one, other = series_of(tmp_path)
    assert z_of(one) == z_of(other) == [0, 3, 6]
    assert {one.header(index).AcquisitionTime for index in range(3)} == {"120001"}
    assert "acquisition order" in one.metadata.problems[0]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("ConvolutionKernel", "B70f"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0.9689124, -0.247404]),
        ("PixelSpacing", [0.5, 0.5]),
        ("PatientID", "P2"),
    ],
)
def test_other_reconstructions_and_patients_are_other_series(
    tmp_path: Path, attribute: str, value: object
) -> None:
    for number in range(4):
        write_ct(tmp_path / str(number), number, **({attribute: value} if number >= 2 else {}))
    assert [len(series) for series in series_of(tmp_path)] == [2, 2]


def test_rounded_orientations_are_one_stack_with_unit_vectors(tmp_path: Path) -> None:
    for number in range(4):
        rounded = [1, 0, 0, 0, 0.9272, -0.3746] if number % 2 else [1, 0, 0, 0, 0.927184, -0.374607]
        write_ct(tmp_path / str(number), number, ImageOrientationPatient=rounded)
    (series,) = series_of(tmp_path)
    for direction in (series.geometry.row_direction, series.geometry.column_direction):
        assert abs(np.linalg.norm(direction) - 1) < 1e-12
    assert abs(np.dot(series.geometry.row_direction, series.geometry.column_direction)) < 1e-12


def test_duplicates_are_skipped(tmp_path: Path) -> None:
    for number in range(3):
        write_ct(tmp_path / "a" / str(number), number)
        write_ct(tmp_path / "b" / str(number), number)
    inventory = scan(tmp_path)
    assert len(inventory.series[0]) == 3
    assert (
        reasons(inventory)
        == ["duplicate of an image already found (same SOP Instance UID, position and pixels)"] * 3
    )
    assert {item.path.parent.name for item in inventory.skipped} == {"b"}


def test_a_series_spread_over_numbered_folders_is_one(tmp_path: Path) -> None:
    for number in range(6):
        write_ct(tmp_path / f"DIR{number // 2:03d}" / str(number), number)
    assert [len(series) for series in series_of(tmp_path)] == [6]


def test_named_folders_keep_doses_apart(tmp_path: Path) -> None:
    for number in range(4):
        write_ct(tmp_path / ("quarter" if number % 2 else "full") / str(number), number)
    assert [len(series) for series in series_of(tmp_path)] == [2, 2]


@pytest.mark.parametrize(
    ("places", "problem"),
    [
        ([0, 1, 2, 5, 6], "slices are 3 to 9 mm apart; 2 missing"),
        ([0, 1, 2.3, 3], "slices are 2.1 to 3.9 mm apart"),
    ],
)
def test_gaps_are_reported(tmp_path: Path, places: list[float], problem: str) -> None:
    for number, place in enumerate(places):
        write_ct(tmp_path / str(number), number, ImagePositionPatient=[0, 0, 3 * place])
    (series,) = series_of(tmp_path)
    assert series.metadata.problems == (problem,)


# Enhanced CT -------------------------------------------------------------------------------------------------


def test_frames_have_their_own_position_and_rescale(tmp_path: Path) -> None:
    path = make_enhanced(tmp_path / "in" / "enhanced")
    (series,) = series_of(tmp_path)
    stored = dcmread(path).pixel_array
    assert [ref.frame for ref in series.slices] == [0, 1, 2, 3]
    assert z_of(series) == [0, 3, 6, 9]
    assert series.metadata.kernel == "B30f"
    assert series.metadata.tube_current_ma == (100, 101, 102, 103)
    for frame in range(FRAMES):
        np.testing.assert_array_equal(series.read_stored(frame), stored[frame])
        expected = stored[frame] * (1 + frame / 4) - 1024 - frame
        np.testing.assert_allclose(series.read_hu(frame), expected, rtol=1e-6)


@pytest.mark.parametrize("compress", [None, "jpegls", "j2k", "rle"])
@pytest.mark.parametrize("strength", [0, 1])
def test_enhanced_in_enhanced_out_through_apply(
    tmp_path: Path, compress: Literal["jpegls", "j2k", "rle"] | None, strength: float
) -> None:
    make_enhanced(tmp_path / "in" / "enhanced")
    (series,) = series_of(tmp_path / "in")
    apply_series(
        series, shift_model(), tmp_path / "out", ApplySettings(strength), WriteSettings(compress=compress)
    )
    (path,) = (tmp_path / "out").iterdir()
    assert dcmread(path).SOPClassUID == EnhancedCTImageStorage
    (back,) = scan(tmp_path / "out", include_derived=True).series
    for index in range(len(series)):
        np.testing.assert_array_equal(back.read_stored(index), series.read_stored(index))
    assert reasons(scan(tmp_path / "out")) == ["already denoised by ldct-denoise"]


def test_enhanced_in_classic_out_through_apply(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "in" / "enhanced")
    (series,) = series_of(tmp_path / "in")
    apply_series(series, shift_model(), tmp_path / "out", ApplySettings(0), WriteSettings(convert_enhanced=True))
    (back,) = scan(tmp_path / "out", include_derived=True).series
    assert [ref.frame for ref in back.slices] == [None] * FRAMES
    np.testing.assert_array_equal(back.geometry.positions_mm, series.geometry.positions_mm)
    for index in range(len(series)):
        np.testing.assert_array_equal(back.read_hu(index), series.read_hu(index))


def test_phases_and_localizer_frames_of_one_file(tmp_path: Path) -> None:
    path = make_enhanced(tmp_path / "in" / "enhanced")
    image = dcmread(path)
    groups = [frame_groups(frame % 2) for frame in range(FRAMES)]
    for frame, group in enumerate(groups):
        group.FrameContentSequence[0].TemporalPositionIndex = 1 + frame // 2
    image.PerFrameFunctionalGroupsSequence = groups
    image.save_as(path)
    one, other = series_of(tmp_path)
    assert [ref.frame for ref in one.slices] == [0, 1]
    assert [ref.frame for ref in other.slices] == [2, 3]
    groups[3].CTImageFrameTypeSequence = image.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence
    del image.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence
    groups[3].CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    image.PerFrameFunctionalGroupsSequence = groups
    image.save_as(path)
    inventory = scan(tmp_path)
    assert sum(len(series) for series in inventory.series) == 3
    assert reasons(inventory) == ["a localizer (frame 4)"]


def test_legacy_converted_becomes_classic(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    assert highdicom
    originals = []
    for number in range(3):
        image = ct_image(number, RescaleSlope=1 + number, FrameOfReferenceUID="1.2.3", AccessionNumber="")
        for keyword in ("StudyDate", "StudyTime", "SeriesDate", "SeriesTime", "PatientBirthDate", "PatientSex",
                        "ReferringPhysicianName", "StudyID", "SeriesNumber", "PositionReferenceIndicator",
                        "PatientPosition", "BodyPartExamined", "ContentDate", "ContentTime"):  # fmt: skip
            setattr(image, keyword, None if keyword != "SeriesNumber" else 1)
        image.ContentDate = image.StudyDate = "20260101"
        image.ContentTime = image.StudyTime = "120000"
        originals.append(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = LegacyConvertedEnhancedCTImage(originals, "1.2.3.4", 2, "1.2.3.4.5", 1)
    converted.save_as(tmp_path / "legacy.dcm")
    (series,) = series_of(tmp_path)
    assert z_of(series) == [0, 3, 6]
    assert series.metadata.kernel == "B30f"
    assert [ref.slope for ref in series.slices] == [1, 2, 3]
    with DerivedWriter(series, tmp_path / "out", Derivation("identity")) as writer:
        for index in range(len(series)):
            np.testing.assert_array_equal(series.read_stored(index), cells(index))
            writer.write(index, series.read_hu(index))
    (back,) = scan(tmp_path / "out", include_derived=True).series
    assert [ref.frame for ref in back.slices] == [None] * 3
    for index in range(3):
        np.testing.assert_array_equal(back.read_stored(index), cells(index))


# Skipped -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "reason", "kind"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer", ExclusionKind.LOCALIZER),
        (
            {"SeriesDescription": "Dose Report", "ImageType": ["DERIVED", "SECONDARY"]},
            "a dose report or screen, not a slice",
            ExclusionKind.DOSE_REPORT,
        ),
        (
            {"SeriesDescription": "Patient Protocol", "ImageType": ["DERIVED", "SECONDARY", "OTHER"]},
            "a dose report or screen, not a slice",
            ExclusionKind.DOSE_REPORT,
        ),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]},
            "a dose report or screen, not a slice",
            ExclusionKind.DOSE_REPORT,
        ),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]},
            "a dose report or screen, not a slice",
            ExclusionKind.DOSE_REPORT,
        ),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
            "a dose report or screen, not a slice",
            ExclusionKind.DOSE_REPORT,
        ),
        (
            {"EchoTime": 30, "RescaleType": None, "KVP": None, "ConvolutionKernel": None, "XRayTubeCurrent": None},
            "MR stored as CT (has EchoTime); give --assume-hu if they are HU",
            ExclusionKind.MR,
        ),
        (
            {"RescaleType": "OD"},
            "values are not HU but 'OD' (Rescale Type); give --assume-hu if they are HU",
            ExclusionKind.NOT_HU,
        ),
        (
            {"RescaleSlope": None, "RescaleIntercept": None},
            "values are not HU (no rescale to HU); give --assume-hu if they are HU",
            ExclusionKind.NOT_HU,
        ),
        ({"SOPClassUID": MRImageStorage}, "not a CT image (MR Image Storage)", ExclusionKind.OTHER_OBJECT),
        (
            {"SOPClassUID": XRayRadiationDoseSRStorage},
            "not a CT image (X-Ray Radiation Dose SR Storage)",
            ExclusionKind.OTHER_OBJECT,
        ),
        ({"SamplesPerPixel": 3}, "colour, not HU", ExclusionKind.COLOR),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour, not HU", ExclusionKind.COLOR),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]},
            "a rendering (MIP), not an axial image",
            ExclusionKind.RENDERING,
        ),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "MPR"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
            "a coronal reformat, not an axial image",
            ExclusionKind.REFORMAT,
        ),
        (
            {"ImageType": ["DERIVED", "SECONDARY"], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
            "a sagittal reformat, not an axial image",
            ExclusionKind.REFORMAT,
        ),
        (
            {"SeriesDescription": "DICOM-CT-PD Projection", "PixelSpacing": None},
            "projection data, not an image",
            ExclusionKind.PROJECTIONS,
        ),
        (
            {"SeriesDescription": "Low_dose_projections", "ImagePositionPatient": None},
            "projection data, not an image",
            ExclusionKind.PROJECTIONS,
        ),
        (
            {
                "DerivationDescription": "ldct-denoise 0.1: noise reduced | before: ldct-denoise 0.1: low dose simulated"
            },
            "already denoised by ldct-denoise",
            ExclusionKind.ALREADY_DENOISED,
        ),
        ({"Rows": 65535}, "impossible size of 65535×8 pixels", ExclusionKind.LOST_SLICE),
        (
            {"HighBit": 15},
            "values that are not in the low bits (Bits Stored 12, High Bit 15)",
            ExclusionKind.LOST_SLICE,
        ),
        ({"PixelSpacing": [0, 1]}, "pixel spacing is impossible", ExclusionKind.INVALID_HEADER),
        (
            {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
            "orientation is not two perpendicular unit vectors",
            ExclusionKind.INVALID_HEADER,
        ),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient", ExclusionKind.INVALID_HEADER),
        ({"Rows": ROWS + 1}, "truncated: 96 of 112 bytes of pixel data", ExclusionKind.LOST_SLICE),
        ({"PixelData": None}, "no pixel data", ExclusionKind.LOST_SLICE),
    ],
)
def test_skipped_files_by_reason(
    tmp_path: Path, attributes: dict[str, object], reason: str, kind: ExclusionKind
) -> None:
    good, bad = write_ct(tmp_path / "good"), tmp_path / "bad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_ct(bad, 1, **attributes)
    inventory = scan(tmp_path)
    assert [(item.path, item.reason, item.kind) for item in inventory.skipped] == [(bad, reason, kind)]
    assert [ref.path for ref in inventory.series[0].slices] == [good]  # type: ignore[attr-defined]


def test_original_coronal_ct_and_simulated_doses_are_read(tmp_path: Path) -> None:
    write_ct(tmp_path / "a", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    write_ct(tmp_path / "b", 1, DerivationDescription="ldct-denoise 0.1: low dose simulated (25% of the source's)")
    assert [len(series) for series in series_of(tmp_path)] == [1, 1]


@pytest.mark.parametrize(
    "attributes",
    [
        {"SeriesDescription": "Thorax Filtered Backprojection"},
        {"SeriesDescription": "Thorax filtered back-projection"},
        {"SeriesDescription": "FILTERED BACK PROJECTION"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "LOW_DOSE"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "LOW DOSE SCREEN"]},
        {"ImageType": "ORIGINAL"},
        {"SeriesDescription": ["Abd", "Thorax"]},
    ],
)
def test_slices_whose_words_are_those_of_pages_are_read(tmp_path: Path, attributes: dict[str, object]) -> None:
    write_ct(tmp_path / "a", **attributes)
    (series,) = series_of(tmp_path)
    assert "[" not in series.metadata.description


def test_mr_without_mr_attributes_is_recognised_by_its_values(tmp_path: Path) -> None:
    bare: dict[str, object] = dict.fromkeys(("KVP", "ConvolutionKernel", "XRayTubeCurrent", "RescaleType"))
    for number in range(3):
        write_ct(tmp_path / "mr" / str(number), number, **bare, RescaleIntercept=0, SeriesInstanceUID="1.2.3")
        write_ct(tmp_path / "ct" / str(number), number, **bare, SeriesInstanceUID="1.2.4")
    inventory = scan(tmp_path)
    assert [series.uid for series in inventory.series] == ["1.2.4"]
    assert all("perhaps MR" in reason for reason in reasons(inventory))
    assert len(inventory.skipped) == 3


# UIDs --------------------------------------------------------------------------------------------------------


def test_replaced_uids_do_not_depend_on_the_folder(tmp_path: Path) -> None:
    for number in range(3):
        image = ct_image(number, SOPInstanceUID="", SeriesInstanceUID="", StudyInstanceUID="")
        (tmp_path / "here").mkdir(exist_ok=True)
        del image.file_meta
        image.save_as(tmp_path / "here" / str(number), implicit_vr=False, little_endian=True)
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere" / "deep" / "x")
    (one,), (other,) = series_of(tmp_path / "here"), series_of(tmp_path / "elsewhere")
    assert (one.uid, one.study_uid) == (other.uid, other.study_uid)
    assert one.uid.startswith("2.25.")
    assert len({ref.sop_uid for ref in one.slices}) == 3
    for index in range(3):
        header, twin = one.header(index), other.header(index)
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            assert header[keyword].value == twin[keyword].value
        assert (header.SOPInstanceUID, header.SeriesInstanceUID) == (one.slices[index].sop_uid, one.uid)


# Real files --------------------------------------------------------------------------------------------------


def test_the_real_encodings_are_all_found(shared_data: Path) -> None:
    inventory = scan(shared_data / "dicom_cases" / "ct_syntaxes")
    retired = [item for item in inventory.skipped if "no decoder" in item.reason]
    assert {item.path.name.split("Process")[1][:4] for item in retired} == {"6_8T", "10_1"}
    assert sum(len(series) for series in inventory.series) == 7
    for series in inventory.series:
        assert series.read_hu(0).min() < -900


def test_every_real_ct_image_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Every CT image among the named base files of the fuzzing, one by one."""
    paths = [path for kind, path in named_seeds() if kind == "ct"]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        pytest.skip(f"{len(absent)} of the images are absent, such as {absent[0]}")
    assert len(paths) >= 60
    for number, path in enumerate(paths):
        found = scan(path).series
        assert found
        for series in found:
            output = tmp_path / str(number)
            apply_series(series, shift_model(), output, ApplySettings(strength=0))
            (back,) = scan(output, include_derived=True).series
            np.testing.assert_array_equal(back.read_stored(0), series.read_stored(0), err_msg=path.name)
            shutil.rmtree(output)


def test_reading_errors_name_the_file(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a")
    (series,) = series_of(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{path}: .*changed"):
        series.read_hu(0)
    os.unlink(path)
    with pytest.raises(InputError, match=str(path)):
        series.header(0)


def test_a_zip_and_a_disc_through_apply(tmp_path: Path) -> None:
    for number in range(3):
        write_ct(tmp_path / "in" / str(number), number)
    archive = Path(shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "in"))
    apply(archive, shift_model(), tmp_path / "out", ApplySettings(0))
    (back,) = scan(tmp_path / "out", include_derived=True).series
    for number in range(3):
        np.testing.assert_array_equal(back.read_stored(number), cells(number))
