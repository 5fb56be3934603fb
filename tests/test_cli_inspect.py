"""``ldct-denoise inspect`` from the outside; its JSON is what docs/reference/input.md says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.volume import Volume
from tests.dicom_files import write_ct
from tests.enhanced_file import make_enhanced
from tests.fuzz_dicom import named_seeds
from tests.synthetic import run_cli

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/reference/input.md"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Both doses of a patient, a multi-frame file, a volume, and files that are skipped."""
    root = tmp_path / "tree"
    for dose in ("quarter_3mm", "full_3mm"):
        for number in range(3):
            write_ct(root / "L096" / dose / f"{number}.IMA", number, SeriesInstanceUID=f"1.2.{len(dose)}")
    write_ct(root / "other" / "scout", 7, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_ct(root / "other" / "bad\nname", 8, Rows=60000)
    (root / "other" / "notes.txt").write_text("nothing\n" * 50)
    make_enhanced(root / "enhanced" / "x.dcm")
    series = find_images(root / "L096" / "full_3mm").series[0]
    write_volume(root / "v.nii.gz", Volume.of(series), series.geometry)
    return root


def test_json_has_the_fields_of_the_document(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_cli(capsys, "inspect", tree, "--json")
    found = json.loads(out)
    assert (code, err.strip()) == (0, "")
    (example,) = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    documented = json.loads(example)
    assert list(found) == list(documented)
    for one in found["series"]:
        assert list(one) == list(documented["series"][0])
    assert list(found["skipped"][0]) == list(documented["skipped"][0])
    assert list(found["pairs"][0]) == [
        "patient", "kernel", "slice_thickness_mm", "slices", "low", "normal",
    ]  # fmt: skip


def test_the_fields_of_series_and_pairs(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run_cli(capsys, "inspect", tree, "--json")[1])
    doses = {(one["patient"], one["dose"], one["slices"]) for one in found["series"] if one["dose"] != "unknown"}
    assert doses == {("P1", "low", 3), ("P1", "normal", 3)}
    (enhanced,) = (one for one in found["series"] if one["multiframe"])
    assert enhanced["first_position_mm"] == [0, 0, 0]
    assert enhanced["last_position_mm"] == [0, 0, 9]
    assert [(pair["slices"], pair["patient"]) for pair in found["pairs"]] == [(3, "P1")]
    low = next(one for one in found["series"] if one["dose"] == "low")
    assert low["dose_source"] == "folder 'quarter_3mm'"
    assert (low["patient_source"], low["slice_thickness_mm"]) == ("Patient ID", 3)
    assert low["spacing_mm"] == [3, 0.7, 0.8]
    assert low["orientation"] == [1, 0, 0, 0, 1, 0]


def test_reasons_are_those_of_the_document(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run_cli(capsys, "inspect", tree, "--json")[1])
    reasons = {Path(item["file"]).name: item["reason"] for item in found["skipped"]}
    assert reasons == {
        "scout": "a localizer",
        "bad\nname": "impossible size of 60000×8 pixels",
        "notes.txt": "not DICOM",
    }
    text = DOCUMENT.read_text()
    for beginning in ("`a localizer`", "`impossible size", "`not DICOM`"):
        assert beginning in text


def test_the_table_and_every_file_by_name(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_cli(capsys, "inspect", tree, "--files")
    assert code == 0
    assert "quarter_3mm" in out
    assert "1 low/normal pairs of series, 3 slice pairs" in out
    assert "3 files skipped" in out
    assert any("bad name: impossible size" in line for line in out.splitlines())


def test_a_row_fits_into_80_columns_and_the_path_below_is_that_for_apply(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run_cli(capsys, "inspect", tree)
    lines = out.splitlines()
    rows = [number for number, line in enumerate(lines) if re.match(r"\S+ +(low|normal|unknown) ", line)]
    assert len(rows) == 4
    assert max(len(lines[number]) for number in rows) <= 80
    for number in rows:
        assert Path(lines[number + 1].strip()).exists()
    low = next(number for number in rows if " low " in lines[number])
    assert lines[low].split() == ["P1", "low", "B30f", "3", "3", "6×8", "0.7×0.8", "plain"]
    assert lines[low + 1].strip() == str(tree / "L096" / "quarter_3mm")
    assert lines[low + 2].strip() == "dose from folder 'quarter_3mm'"


def test_a_zip_of_the_study_gives_the_same(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "tree"), "zip", tree))
    there = json.loads(run_cli(capsys, "inspect", tree, "--json")[1])
    here = json.loads(run_cli(capsys, "inspect", archive, "--json")[1])
    for one in (*here["series"], *there["series"]):
        one["folder"] = str(Path(one["folder"])).replace(str(archive), str(tree))
        if one["folder"].endswith(".nii.gz"):
            del one["uid"]
    assert sorted(map(str, here["series"])) == sorted(map(str, there["series"]))
    assert len(here["skipped"]) == len(there["skipped"])


@pytest.mark.parametrize("make", ["nothing", "empty", "bad.zip"])
def test_a_path_that_cannot_be_read_gives_one_line(
    tmp_path: Path, make: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / make
    if make == "empty":
        path.mkdir()
    elif make == "bad.zip":
        path.write_bytes(b"PK\x03\x04" + b"x" * 100)
    code, out, err = run_cli(capsys, "inspect", path)
    assert code == 2
    assert out == ""
    assert str(path) in err


def test_every_file_is_a_slice_a_volume_or_skipped(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tree of real files, chosen by name, each in the folder that it has in the shared data."""
    paths = [path for _, path in named_seeds() if path.is_relative_to(shared_data)]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        pytest.skip(f"{len(absent)} of the files are absent, such as {absent[0]}")
    for path in paths:
        copy = tmp_path / path.relative_to(shared_data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    code, out, _ = run_cli(capsys, "inspect", tmp_path, "--json")
    found = json.loads(out)
    assert code == 0
    slices = sum(one["slices"] for one in found["series"] if not one["folder"].endswith(".nii.gz"))
    volumes = sum(one["folder"].endswith(".nii.gz") for one in found["series"])
    assert slices + volumes + len(found["skipped"]) == len(paths)
