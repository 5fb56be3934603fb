"""The commands ``evaluate`` and ``compare``."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from ldct_denoise.io.volume_files import open_volume_file
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import run_cli


@pytest.fixture
def files(tmp_path):
    place = Geometry(
        np.arange(4)[:, None] * np.array([0, 0, 3.0]) + [-48, -48, 7], (1, 0, 0), (0, 1, 0), (1.0, 1.0), 96, 96
    )
    rows, columns = np.mgrid[:96, :96]
    clean = np.where((rows - 48) ** 2 + (columns - 48) ** 2 < 40**2, 40.0, -1000.0)
    clean = np.repeat(clean[None], 4, axis=0).round()
    noise = np.random.default_rng(0).normal(0, 30, clean.shape).round()
    for name, hu in (("normal", clean), ("low", clean + noise), ("out", clean + (noise / 2).round())):
        write_volume(tmp_path / f"{name}.nii.gz", Volume(hu, place), place)
    return tmp_path


def test_evaluate_writes_the_contract_files(files, capsys):
    code, out, err = run_cli(
        capsys, "evaluate", files / "out.nii.gz", "--reference", files / "normal.nii.gz", "--input", files / "low.nii.gz",
        "--output", files / "e", "--window", "abdomen", "--window", "0,2000", "--roi", "0,0,10,12", "--pdf",
    )  # fmt: skip
    assert code == 0, err
    assert "report.html" in out
    assert (files / "e" / "summary.pdf").read_bytes().startswith(b"%PDF")
    with (files / "e" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["window"] for row in rows} == {"abdomen", "0,2000", "none"}
    assert {row["region"] for row in rows} == {"image", "body", "sphere(0 0 10 r12)"}
    assert len(json.loads((files / "e" / "summary.json").read_text())["summary"]) > 50
    noise = [float(r["value"]) for r in rows if (r["model"], r["window"], r["region"], r["metric"]) ==
             ("candidate", "0,2000", "body", "noise_std")]  # fmt: skip
    assert noise == pytest.approx([15] * 4, rel=0.05)


def volumes(files, names, apart_mm):
    """One volume per name in ref/, low/ and den/; patients are ``apart_mm`` apart along z."""
    for number, name in enumerate(names):
        for folder, given in (("ref", "normal"), ("low", "low"), ("den", "out")):
            (files / folder).mkdir(exist_ok=True)
            image = open_volume_file(files / f"{given}.nii.gz")
            above = np.array([0, 0, number * apart_mm])
            place = replace(image.geometry, positions_mm=image.geometry.positions_mm + above)
            write_volume(files / folder / f"{name}.nii.gz", Volume.of(image).hu + number, place)


def measured(files, capsys, *, reference="ref"):
    code, _, err = run_cli(
        capsys, "evaluate", files / "den", "--reference", files / reference, "--input", files / "low",
        "--output", files / "e", "--window", "full", "--overwrite", "--include-patient-ids",
    )  # fmt: skip
    assert code == 0, err
    assert "not measured" not in err
    return json.loads((files / "e" / "summary.json").read_text())


@pytest.mark.slow
def test_each_volume_of_a_folder_is_a_patient_as_in_inspect(files, capsys):
    volumes(files, "ABC", 500)
    summary = measured(files, capsys)
    assert (summary["patients"], summary["series"]) == (3, 3)
    assert {entry["patient"] for entry in summary["per_patient"]} == {"A", "B", "C"}


def test_volumes_at_the_same_position_are_matched_by_file_name(files, capsys):
    volumes(files, ("A_low", "B_low"), 0)
    for name in "AB":
        (files / "ref" / f"{name}_low.nii.gz").rename(files / "ref" / f"{name}_full.nii.gz")
        (files / "den" / f"of-{name}").mkdir()  # as `apply` writes a tree: a folder for each
        (files / "den" / f"{name}_low.nii.gz").rename(files / "den" / f"of-{name}" / f"{name}_low.nii.gz")
    summary = measured(files, capsys)
    assert summary["patients"] == 2
    bias = [e["mean"] for e in summary["summary"] if (e["model"], e["metric"], e["region"]) ==
            ("candidate", "hu_bias", "image")]  # fmt: skip
    assert bias == pytest.approx([0], abs=0.5)
    (files / "ref" / "B_full.nii.gz").rename(files / "ref" / "C.nii.gz")
    (files / "ref" / "A_full.nii.gz").rename(files / "ref" / "D.nii.gz")
    code, _, err = run_cli(
        capsys, "evaluate", files / "den", "--reference", files / "ref", "--output", files / "e", "--overwrite"
    )
    assert code == 2
    assert "fit equally well; name the file" in err


def test_a_folder_with_both_doses_can_be_reference_and_input(files, capsys):
    """Reference and input use the series of their dose: the input's error is larger than the candidate's."""
    (files / "tree").mkdir()
    for name, as_ in (("normal", "full"), ("low", "low")):
        (files / f"{name}.nii.gz").rename(files / "tree" / f"{as_}.nii.gz")
    tree = files / "tree"
    code, _, err = run_cli(
        capsys, "evaluate", files / "out.nii.gz", "--reference", tree, "--input", tree, "--output", files / "e"
    )
    assert code == 0, err
    found = json.loads((files / "e" / "summary.json").read_text())["summary"]
    rmse = {
        e["model"]: e["mean"] for e in found if (e["metric"], e["region"], e["window"]) == ("rmse", "body", "full")
    }
    assert rmse == pytest.approx({"input": 30, "candidate": 15}, rel=0.05)


def test_evaluate_does_not_overwrite_and_reports_errors(files, capsys):
    arguments = ["evaluate", files / "out.nii.gz", "--reference", files / "normal.nii.gz", "--output", files / "e"]
    assert run_cli(capsys, *arguments)[0] == 0
    code, _, err = run_cli(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert "--overwrite" in err
    assert run_cli(capsys, *arguments, "--overwrite")[0] == 0
    for extra, word in (
        (["--window", "belly"], "belly"),
        (["--roi", "1,2"], "1,2"),
        (["--protocol", "x"], "corediff"),
    ):
        code, _, err = run_cli(capsys, *arguments, "--overwrite", *extra)
        assert code == 2
        assert word in err
        assert err.count("\n") == 1


def test_a_protocol_names_its_numbers(files, capsys):
    code, out, err = run_cli(
        capsys, "evaluate", files / "out.nii.gz", "--reference", files / "normal.nii.gz", "--output", files / "e",
        "--protocol", "corediff",
    )  # fmt: skip
    assert code == 0, err
    assert "corediff" in out
    assert "Gao" in err


def test_compare_measures_the_same_regions_as_evaluate(files, capsys):
    for name, folder in (("normal", "full"), ("low", "quarter")):
        (files / "root" / "P1" / folder).mkdir(parents=True)
        (files / f"{name}.nii.gz").rename(files / "root" / "P1" / folder / "series.nii.gz")
    code, out, err = run_cli(
        capsys, "compare", "--dicom-root", files / "root", "--model", "bilateral", "--output", files / "c",
        "--window", "abdomen", "--protocol", "corediff", "--roi", "soft-tissue", "--cnr", "0,0,10,12", "20,0,10,6",
    )  # fmt: skip
    assert code == 0, err
    assert "Gao" in err
    with (files / "c" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["region"] for row in rows if row["window"] == "corediff"} == {"image", "body", "soft-tissue"}
    assert {row["model"] for row in rows if row["metric"] == "cnr"} == {"input", "bilateral"}
    assert "soft-tissue" in out


@pytest.mark.parametrize("option", [["--roi", "fat"], ["--window", "lung"], ["--metric", "vif"]])
def test_compare_on_images_refuses_hu_options(files, capsys, option):
    code, _, err = run_cli(
        capsys, "compare", "--images", files, "--model", "bilateral", "--output", files / "c", *option
    )
    assert code == 2
    assert "windows and regions are for CT" in err


def test_compare_without_pairs_is_an_error_of_one_line(files, capsys):
    alone = files / "alone"
    alone.mkdir()
    (files / "normal.nii.gz").rename(alone / "normal.nii.gz")
    code, _, err = run_cli(
        capsys, "compare", "--dicom-root", alone, "--model", "bilateral", "--output", files / "c"
    )
    assert code == 2
    assert err.strip().startswith("error: ")
    assert err.strip().count("\n") == 0


def test_contrast_and_inserts_from_the_command_line(files, capsys):
    code, _, err = run_cli(
        capsys, "evaluate", files / "out.nii.gz", "--reference", files / "normal.nii.gz", "--input", files / "low.nii.gz",
        "--output", files / "e", "--window", "full", "--cnr", "0,0,10,12", "20,0,10,6", "--insert", "0,0,10,40,40",
    )  # fmt: skip
    assert code == 0, err
    with (files / "e" / "metrics.csv").open() as file:
        ratios = [row for row in csv.DictReader(file) if row["metric"] == "cnr"]
    assert {row["model"] for row in ratios} == {"input", "candidate"}  # the truth has no noise
    summary = json.loads((files / "e" / "summary.json").read_text())
    contrast = {entry["model"]: entry["contrast_hu"] for entry in summary["inserts"]}
    assert contrast == pytest.approx({"input": 1040, "candidate": 1040, "reference": 1040}, rel=0.02)
    for option, value, word in (("--insert", "1,2", "NOMINAL_HU"), ("--insert", "0,0,500,9", "no slice within")):
        code, _, err = run_cli(
            capsys, "evaluate", files / "out.nii.gz", "--reference", files / "normal.nii.gz", "--output", files / "e",
            "--overwrite", option, value,
        )  # fmt: skip
        assert code == 2
        assert word in err


def test_repeated_options_count_once_and_missing_regions_are_noted(files, capsys):
    place = open_volume_file(files / "normal.nii.gz").geometry
    for name, columns in (("lesion", slice(30, 45)), ("background", slice(50, 65))):
        labels = np.zeros(place.shape)
        labels[:, 40:56, columns] = 1
        (files / name).mkdir()
        write_volume(files / name / "mask.nii.gz", Volume(labels, place), place, labels=True)
    lesion, background = files / "lesion" / "mask.nii.gz", files / "background" / "mask.nii.gz"
    code, _, err = run_cli(
        capsys, "evaluate", files / "out.nii.gz", "--reference", files / "normal.nii.gz", "--output", files / "e",
        "--window", "40,400", "--window", "40,400.0", "--roi", lesion, "--roi", "0,0,-10,2", "--cnr", lesion, background,
        "--cnr", lesion, background,
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads((files / "e" / "summary.json").read_text())
    assert {entry["n"] for entry in summary["summary"]} == {4}
    assert list(summary["windows"]) == ["40,400"]
    assert summary["regions"] == ["image", "body", "mask-1", "sphere(0 0 -10 r2)"]
    ratios = [entry for entry in summary["summary"] if entry["metric"] == "cnr"]
    assert [entry["region"] for entry in ratios] == ["mask-1 | mask-1-2"]
    assert ratios[0]["mean"] > 0  # of one region with itself it is 0
    assert err.count("note: no measured slice holds region sphere(0 0 -10 r2); are the coordinates LPS mm") == 1
