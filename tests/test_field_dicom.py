"""DICOM situations from public reports and from use: each gives the right result, or is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from ldct_denoise.cli.inspect import command
from pydicom import dcmread

from ldct_denoise.inference.batch import apply
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.inventory import ExclusionKind
from tests.dicom_files import cells, write_ct
from tests.enhanced_file import make_enhanced
from tests.synthetic import shift_model


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
