"""Manifests, folds, methods of one's own, and competitors that are no model."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from ldct_denoise.cli.main import cli

from ldct_denoise import methods
from ldct_denoise.config import Config, DataConfig, load_config
from ldct_denoise.data.folds import divide, read_splits, write_splits
from ldct_denoise.data.pools import pools_from_manifest, pools_from_root
from ldct_denoise.errors import ConfigError, InputError, ModelError
from ldct_denoise.evaluation.candidates import SeriesSubset
from ldct_denoise.evaluation.compare import compare_pairs, find_pairs_for
from ldct_denoise.evaluation.competitors import (
    CrossValidation,
    DenoisedImages,
    FunctionOfSlices,
    load_function,
    open_denoised,
)
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.manifest import COLUMNS, open_manifest, read_manifest
from ldct_denoise.methods import Supervision
from ldct_denoise.models.trained import load_model
from ldct_denoise.training.check_method import check_method
from tests.conftest import ROOT
from tests.dicom_files import write_ct

PLAN = MeasurementPlan(windows=(WINDOWS["abdomen"],), noise=False)
METHOD = '''"""Adds a constant.

Supervision: none

Reference: nobody
"""

from ldct_denoise.methods.base import Method, Settings


class ShiftSettings(Settings):
    shift: float = 0.01


class Shift(Method[ShiftSettings]):
    Settings = ShiftSettings

    def restore(self, image, seed=0):
        return image + self.settings.shift


METHOD = Shift
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients with two slices at each of two doses."""
    root = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    for patient in ("A", "B", "C", "D"):
        for dose in ("low", "normal"):
            for number in range(2):
                name = f"{patient}{dose}"
                write_ct(
                    root / patient / dose / f"{number}.dcm", number, PatientID=patient, ConvolutionKernel="B30f",
                    StudyInstanceUID=f"1.2.{ord(patient)}", SeriesInstanceUID=f"1.2.{ord(patient)}.{len(dose)}",
                    SOPInstanceUID=f"1.2.{ord(patient)}.{len(dose)}.{number}", SeriesDescription=name, Rows=24, Columns=24,
                    PixelData=rng.integers(900, 1200, (24, 24)).astype(np.uint16).tobytes(),
                )  # fmt: skip
    return root


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(methods.FOLDERS_VARIABLE, "")
    file = tmp_path / "my_shift.py"
    file.write_text(METHOD)
    return file


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def write_rows(file: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    with open(file, "w", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS, delimiter=delimiter, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture
def manifest(tree: Path, tmp_path: Path) -> Path:
    file = tmp_path / "cases.csv"
    result = CliRunner().invoke(cli, ["inspect", str(tree), "--write-manifest", str(file)])
    assert result.exit_code == 0, result.output
    return file


def test_a_written_manifest_gives_the_pools_and_pairs_of_its_tree(tree: Path, manifest: Path) -> None:
    rows = rows_of(manifest)
    assert [(row["patient"], row["dose"], row["kernel"]) for row in rows] == [
        (patient, dose, "B30f") for patient in "ABCD" for dose in ("low", "normal")
    ]
    assert all(row["pair"] for row in rows)
    read, expected = pools_from_manifest(manifest, DataConfig()), pools_from_root(tree, DataConfig())
    for pools in (read, expected):
        assert pools.patients == ("A", "B", "C", "D")
        assert [len(source) for source in (*pools.low, *pools.normal)] == [2] * 8
    assert [(pair.patient, pair.indices) for pair in read.pairs] == [
        (pair.patient, pair.indices) for pair in expected.pairs
    ]


def test_splits_decide_who_trains_validates_and_is_tested(manifest: Path, tmp_path: Path) -> None:
    split = {"A": "train", "B": "train", "C": "val", "D": "test"}
    rows = [row | {"split": split[row["patient"]]} for row in rows_of(manifest)]
    file = write_rows(tmp_path / "split.csv", rows, delimiter=";")
    pools = pools_from_manifest(file, DataConfig())
    assert pools.patients == ("A", "B")
    assert {source.patient for source in (*pools.validation_low, *pools.validation_normal)} == {"C"}
    assert [pair.patient for pair in pools.pairs] == ["A", "B"]
    assert [pair.patient for pair in pools.validation_pairs] == ["C"]
    assert [pair.patient for pair in find_pairs_for(manifest=file)] == ["D"]
    with pytest.raises(ConfigError, match="has splits"):
        pools_from_manifest(file, DataConfig(folds=2))


def test_named_pairs_and_patients_take_precedence(manifest: Path, tmp_path: Path) -> None:
    rows = rows_of(manifest)
    for row in rows:
        row["patient"] = "everyone"
        row["pair"] = ""
    first, last = rows[0], rows[-1]
    first["pair"] = last["pair"] = "across"
    table = open_manifest(write_rows(tmp_path / "named.csv", [first, last]))
    (pair,) = table.pairs()
    assert (pair.patient, pair.low.uid, pair.normal.uid) == ("everyone", first["series_uid"], last["series_uid"])


BAD = {
    "dose of nothing": ({"dose": ""}, "line 2: dose ''; write low or normal"),
    "unknown split": ({"split": "later"}, "line 2: split 'later'"),
    "no such path": ({"path": "nowhere"}, r"nowhere does not exist"),
    "half a pair": ({"pair": "alone"}, "pair 'alone' needs one row of low and one of normal dose"),
    "patient in two splits": ({"split": "test"}, "patient 'A' is in two splits, test and none"),
    "another series": ({"series_uid": "1.2.3"}, "line 2: 0 of 1 series at"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_a_row_that_cannot_be_right_is_named(
    manifest: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    rows = rows_of(manifest)
    if "pair" not in change:
        rows = [row | {"pair": ""} for row in rows]
    rows[0] |= change
    with pytest.raises(InputError, match=message):
        open_manifest(write_rows(tmp_path / "bad.csv", rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'"),
        ("path,dose,colour\n", "unknown column 'colour'"),
        ("path,dose\n", "no row"),
        ("path,dose\na,low,b,c\n", "more fields than columns"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(file)


# Folds ------------------------------------------------------------------------------------------------------------


def test_every_patient_is_left_out_once(tree: Path, tmp_path: Path) -> None:
    names = [f"L{number:03d}" for number in range(13)]
    splits = divide(names, 5, seed=0)
    assert sorted(name for fold in splits for name in fold["val"]) == names
    assert {len(fold["val"]) for fold in splits} == {2, 3}
    assert all(sorted(fold["train"] + fold["val"]) == names for fold in splits)
    assert divide(names[::-1], 5, seed=0) == splits
    write_splits(splits, tmp_path / "splits.json")
    assert read_splits(tmp_path / "splits.json") == splits
    with pytest.raises(ConfigError, match="5 folds need as many patients"):
        divide(names[:4], 5, seed=0)
    left_out = []
    for fold in range(2):
        pools = pools_from_root(tree, DataConfig(folds=2, fold=fold), seed=fold)
        left_out += [pair.patient for pair in pools.validation_pairs]
        assert pools.splits == tuple(divide("ABCD", 2, seed=0))
        assert not {*pools.patients} & {pair.patient for pair in pools.validation_pairs}
    assert sorted(left_out) == ["A", "B", "C", "D"]


@pytest.mark.parametrize(
    "wrong", [{"folds": 2, "fold": 2}, {"fold": 1}, {"folds": 2, "validation_patients": ["A"]}]
)
def test_folds_that_contradict_themselves_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="fold"):
        DataConfig(**wrong)


def trained_on(name: str, *patients: str) -> object:
    from dataclasses import replace

    return replace(load_model("bilateral"), name=name, card={"pools": {"training_patients": list(patients)}})


def test_each_patient_is_denoised_by_the_model_that_has_not_seen_him(tree: Path) -> None:
    folds = CrossValidation("cv", (trained_on("f0", "A", "B"), trained_on("f1", "C", "D")))
    pairs = find_pairs_for(tree)
    assert [folds.model_for(pair).name for pair in pairs] == ["f1", "f1", "f0", "f0"]
    assert folds.overlap(pairs).status == "no"
    result = compare_pairs(pairs, [folds], PLAN)
    assert len(result.values("cv", "abdomen", "image", "rmse")) == 8
    assert result.extra["models"]["cv"]["seen_in_training"] == "no"
    both = CrossValidation("cv", (trained_on("f0", "A", "B"), trained_on("f1", "A", "D")))
    assert both.overlap(pairs).seen == {"A"}


# Competitors ------------------------------------------------------------------------------------------------------


def test_images_and_functions_stand_beside_models(tree: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["apply", str(tree), "-o", str(tmp_path / "out"), "--model", "bilateral"])
    assert result.exit_code == 0, result.output
    pairs = find_pairs_for(tree)
    lows = {str(pair.low.metadata.path) for pair in pairs}
    for folder in list((tmp_path / "out").iterdir()):  # the derived normal-dose series would fit the places too
        source = next(iter(open_denoised(f"x={folder}").series)).metadata.description
        if "low" not in source:
            for file in folder.iterdir():
                file.unlink()
    assert lows
    own = FunctionOfSlices("half", lambda hu: hu / 2)
    made = open_denoised(f"elsewhere={tmp_path / 'out'}")
    compared = compare_pairs(pairs, [load_model("bilateral"), made, own], PLAN)
    model, images = (compared.values(name, "abdomen", "image", "rmse") for name in ("bilateral", "elsewhere"))
    assert images == pytest.approx(model, abs=0.51)  # stored values are whole numbers
    assert compared.values("half", "abdomen", "image", "rmse")
    assert compared.extra["models"]["elsewhere"]["seen_in_training"] == "cannot be known"
    few = DenoisedImages("few", (SeriesSubset(made.series[0], [0]),))
    with pytest.raises(InputError, match="none of its 1 series have the 2 slice positions"):
        compare_pairs(pairs[:1], [few], PLAN)
    with pytest.raises(ModelError, match=r"returned shape \(2, 2\)"):
        compare_pairs(pairs[:1], [FunctionOfSlices("bad", lambda hu: hu[:2, :2])], PLAN)


def test_a_function_of_a_file_is_compared_from_the_command_line(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def keep(hu):\n    return hu\n")
    where = ["--low", *[str(tree / p / "low") for p in "A"], "--normal", str(tree / "A" / "normal")]
    given = [*where, "--function", f"{file}:keep", "--output", str(tmp_path / "out"), "--window", "abdomen"]
    result = CliRunner().invoke(cli, ["compare", *given])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "keep" in json.dumps(summary)
    with pytest.raises(ConfigError, match="has no function 'other'"):
        load_function(f"{file}:other")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_function("no_such_module:keep")


# Methods of one's own ------------------------------------------------------------------------------------------------


def test_a_method_of_ones_own_is_found_by_its_file(own_method: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="my-shift"):
        methods.find("my-shift")
    assert methods.register(own_method) == "my-shift"
    assert "my-shift" in methods.names()
    assert methods.describe("my-shift").supervision is Supervision.NONE
    assert load_model("my-shift:shift=0.5").method.settings.shift == 0.5
    code = "from ldct_denoise import methods; print(methods.find('my-shift').__name__)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "Shift"
    own_method.with_name("lir.py").write_text(METHOD)
    with pytest.raises(ModelError, match="a shipped method is called 'lir'"):
        methods.register(own_method.with_name("lir.py"))
    os.environ[methods.FOLDERS_VARIABLE] = str(tmp_path)  # the folder also holds lir.py: the shipped one stays
    assert methods.find("lir").__module__ == "ldct_denoise.methods.lir"
    own_method.write_text("import no_such_package\n")
    sys.modules.pop("ldct_denoise_method_my_shift", None)
    with pytest.raises(ModelError, match=r"my_shift\.py: cannot be imported"):
        methods.find("my-shift")


def test_a_method_of_ones_own_is_applied_and_checked(own_method: Path, tree: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    given = ["--method", str(own_method), "--model", "my-shift", "-o", str(tmp_path / "out")]
    result = run(cli, ["apply", str(tree / "A" / "low"), *given])
    assert result.exit_code == 0, result.output
    assert load_config("my-shift", (), methods.names()) == Config(method="my-shift")
    result = run(cli, ["check-method", str(own_method)])
    assert result.exit_code == 0, result.output
    assert "FAILED" not in result.output
    own_method.write_text(METHOD.replace("image + self.settings.shift", "image[..., :8]"))
    sys.modules.pop("ldct_denoise_method_my_shift", None)
    result = run(cli, ["check-method", str(own_method)])
    assert result.exit_code == 1
    assert "FAILED  restore keeps the shape" in result.output


def test_the_documented_method_passes_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setenv(methods.FOLDERS_VARIABLE, "")
    text = (ROOT / "docs/tutorials/add-a-method.md").read_text(encoding="utf-8")
    file = tmp_path / "documented_method.py"
    file.write_text(re.findall(r"```python\n(.*?)```", text, re.S)[0])
    trials = check_method(methods.register(file), {"channels": 4})
    assert len(trials) == 12
    assert [trial for trial in trials if trial.problem] == []
