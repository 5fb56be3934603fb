"""Training patients are recognised wherever their files lie; where that is impossible, compare says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.config import DataConfig
from ldct_denoise.data.image_digests import pixel_digests, uid_digests
from ldct_denoise.data.pools import pools_from_paths
from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.compare import compare
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.evaluation.training_overlap import training_overlap
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.io.dose_labels import find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.report.write import write_comparison
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import run_cli

PLAN = MeasurementPlan(windows=[WINDOWS["abdomen"]])


def _model(pools: dict[str, object] | None, name: str = "mine") -> TrainedModel:
    base = load_model("bilateral")
    card = {} if pools is None else {"pools": json.loads(json.dumps(pools))}
    return TrainedModel(name, base.method, base.method_name, base.scale, card, "0")


def _trained_on(low: Path, normal: Path) -> TrainedModel:
    pools = pools_from_paths([low], [normal], DataConfig())
    return _model({**pools.describe(), "image_digests": list(pools.image_digests)})


@pytest.fixture
def small(mayo2016: Path, tmp_path: Path) -> Path:
    """Two patients with two slices of each dose."""
    root = tmp_path / "mayo"
    for folder in sorted(mayo2016.glob("*/*_3mm_sharp")):
        target = root / folder.relative_to(mayo2016)
        target.mkdir(parents=True)
        for path in sorted(folder.iterdir())[:2]:
            shutil.copyfile(path, target / path.name)
    return root


def test_a_patient_given_by_explicit_paths_is_left_out(small: Path) -> None:
    model = _trained_on(small / "L096" / "quarter_3mm_sharp", small / "L096" / "full_3mm_sharp")
    assert model.training_patients == {"L096"}
    result = compare(small, [model], PLAN)
    assert set(result.patients.values()) == {"L143"}
    assert result.extra["models"]["mine"]["seen_in_training"] == "no"  # type: ignore[index]


def test_files_that_moved_are_recognised_by_their_uids(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small / "L096" / "quarter_3mm_sharp", tmp_path / "q")
    shutil.copytree(small / "L096" / "full_3mm_sharp", tmp_path / "f")
    model = _trained_on(tmp_path / "q", tmp_path / "f")
    assert model.training_patients == {"Anonymous"}
    assert model.has_unnamed_patients
    result = compare(small, [model], PLAN)
    assert set(result.patients.values()) == {"L143"}
    assert "left out" in result.notes[0]
    text = json.dumps(model.card)
    assert "1.2.840" not in text  # no UID in clear


def test_converted_files_are_recognised_by_their_pixels(small: Path, tmp_path: Path) -> None:
    for dose in ("quarter", "full"):
        series = find_images(small / "L096" / f"{dose}_3mm_sharp").series[0]
        volume = Volume.of(series)
        path = tmp_path / "nifti" / f"{dose}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        write_volume(path, iter(volume.hu), volume.geometry)
    model = _trained_on(tmp_path / "nifti" / "quarter.nii.gz", tmp_path / "nifti" / "full.nii.gz")
    pairs = find_pairs(label_series(find_images(small).series, small))
    assert training_overlap(model, pairs).seen == {"L096"}
    with pytest.raises(InputError, match="include-training-patients"):
        compare(small / "L096", [model], PLAN)


def test_what_cannot_be_known_is_told_and_marked(small: Path, tmp_path: Path) -> None:
    old = _model({"training_patients": ["Anonymous"]}, "old")
    named = _model({"training_patients": ["STS_020"]}, "named")
    result = compare(small, [old, named, load_model("bilateral")], PLAN)
    assert len(set(result.patients.values())) == 2
    assert result.possibly_trained_on == {"old"}
    (note,) = result.notes
    assert note.startswith("old: whether it was trained on 2 patient(s) measured here cannot be known")
    lines = result.lines()
    assert any(" old* " in line for line in lines)
    assert not any("named*" in line or "bilateral*" in line for line in lines)
    assert lines[-1].startswith("* trained on")
    write_comparison(result, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    status = {name: entry["seen_in_training"] for name, entry in summary["models"].items()}
    assert status == {"old": "cannot be known", "named": "no", "bilateral": "no"}
    assert note in summary["notes"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "cannot be known" in page
    assert "seen in training" in page
    included = compare(small, [_model({"training_patients": ["L096"]})], PLAN, include_training_patients=True)
    assert included.possibly_trained_on == {"mine"}


def test_a_model_without_training_data_in_its_card_is_unknown(small: Path) -> None:
    pairs = find_pairs(label_series(find_images(small).series, small))
    shipped = load_model("lir-ct-small")
    assert training_overlap(shipped, pairs).status == "no"
    bare = TrainedModel("bare", shipped.method, shipped.method_name, shipped.scale, {}, "0")
    assert training_overlap(bare, pairs).unknown == {"L096", "L143"}
    assert training_overlap(load_model("bilateral"), pairs).status == "no"


def test_an_unnamed_test_patient_is_unknown(small: Path, tmp_path: Path) -> None:
    for dose in ("quarter", "full"):
        shutil.copytree(small / "L096" / f"{dose}_3mm_sharp", tmp_path / "dump" / dose)
    pairs = find_pairs(label_series(find_images(tmp_path / "dump").series, tmp_path / "dump"))
    assert [pair.patient for pair in pairs] == ["Anonymous"]
    assert training_overlap(_model({"training_patients": ["Anonymous"]}), pairs).status == "cannot be known"
    assert training_overlap(_model({"training_patients": ["X"]}), pairs).status == "cannot be known"


def test_shipped_models_know_their_training_images(shared_data: Path) -> None:
    for name in ("lir-ct", "lir-ct-small"):
        model = load_model(name)
        assert not model.has_unnamed_patients
        for folder in ("ge_riderpilot_chest", "siemens_abdomen_j2k", "ge_thigh_lowdose_241x304"):
            series = find_images(shared_data / "ct" / folder).series[0]
            digests = uid_digests(series) | pixel_digests(series, range(len(series)))
            assert not model.image_digests.isdisjoint(digests)


def test_a_slice_of_air_identifies_nothing() -> None:
    geometry = Geometry.from_affine(np.eye(4), (1, 32, 32))
    assert pixel_digests(Volume(np.full((1, 32, 32), -1000.0), geometry), [0]) == frozenset()


def test_compare_filters_by_kernel_and_thickness(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("compare", "--dicom-root", small, "--model", "bilateral", "--window", "abdomen")
    code, out, _ = run_cli(capsys, *given, "--kernel", "D45f", "--slice-thickness", "3", "-o", tmp_path / "a")
    assert (code, "bilateral" in out) == (0, True)
    code, _, err = run_cli(capsys, *given, "--kernel", "B30f", "-o", tmp_path / "b")
    assert code == 2
    assert "no low/normal pair has one of the slice thicknesses and kernels" in err
