"""The public interface: exactly its names, lazily imported, with examples that run."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

import ldct_denoise
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.io.derived.create import SeriesAttributes, write_series
from ldct_denoise.volume import Volume
from tests.conftest import ROOT
from tests.synthetic import axial_geometry, random_volume, run_program, shift_model, water_disc

NAMES = {
    "read_series", "load_model", "denoise", "apply", "train", "evaluate", "compare", "simulate_low_dose",
    "SliceDataset", "Volume", "Geometry", "Window", "Scale",
    "LdctDenoiseError", "InputError", "ConfigError", "OutputError", "ModelError", "TrainingError", "PartialError",
}  # fmt: skip


def write_patient(folder: Path, noise_hu: float, description: str) -> None:
    write_series(
        water_disc("P001", noise_hu, seed=len(description), slices=4),
        folder,
        SeriesAttributes(
            patient_id="P001",
            study_uid="1.2.3",
            series_uid=f"1.2.3.{len(description)}",
            series_number=1,
            description=description,
            kernel="B30f",
            synthetic=False,
        ),
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient at both doses, in the folders low and normal."""
    root = tmp_path_factory.mktemp("pairs")
    write_patient(root / "low", 40, "low dose")
    write_patient(root / "normal", 20, "full dose ")
    return root


# ---- names ------------------------------------------------------------------------------------------------------


def test_the_public_names_are_exactly_these() -> None:
    assert set(ldct_denoise.__all__) == NAMES
    assert set(dir(ldct_denoise)) >= NAMES
    for name in NAMES:
        assert getattr(ldct_denoise, name).__doc__
    with pytest.raises(AttributeError, match="nothing"):
        _ = ldct_denoise.nothing


def test_no_module_shadows_a_public_name() -> None:
    modules = {path.stem for path in (ROOT / "ldct_denoise").iterdir()}
    assert modules & NAMES == set()


def imported_modules(code: str) -> set[str]:
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "monai", "SimpleITK", "numpy", "pydicom", "scipy", "skimage"}
    assert imported_modules("import ldct_denoise") & heavy == set()


def test_help_imports_nothing_heavy() -> None:
    code = "import importlib\nmain = importlib.import_module('ldct_denoise.cli.main').main\n"
    code += "try: main(['--help'])\nexcept SystemExit: print()"
    heavy = {"torch", "monai", "SimpleITK", "numpy", "pydicom", "scipy", "skimage", "matplotlib"}
    assert imported_modules(code) & heavy == set()


def test_reading_does_not_import_torch() -> None:
    assert (
        imported_modules("from ldct_denoise import read_series, Window, InputError") & {"torch", "monai"} == set()
    )


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ldct_denoise", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == run_program("--help").stdout
    assert done.stdout.startswith("Usage: ldct-denoise ")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["", ".api", ".arrays", ".data.dataset", ".models.trained", ".monai"])
def test_the_examples_run(module: str, pairs: Path, tmp_path: Path) -> None:
    tested = importlib.import_module(f"ldct_denoise{module}")
    given = {
        "np": np, "ldct_denoise": ldct_denoise, "folder": pairs / "normal", "pairs": pairs, "output": tmp_path
    }  # fmt: skip
    if module == ".monai":
        import torch

        given["torch"] = torch
    results = doctest.testmod(tested, extraglobs=given)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.slow
def test_the_examples_of_the_documentation_run(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scans").symlink_to(pairs / "normal")
    Path("mayo2016").symlink_to(pairs)
    text = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    given: dict[str, object] = {"hu": random_volume((2, 64, 64)).hu}
    for block in blocks:
        exec(block, given)
    assert len(blocks) == 3
    assert given["denoised"].shape == (2, 64, 64)
    assert given["low"].shape == (16, 1, 64, 64)
    assert given["pipeline"]({"image": "scans"})["image"].shape == (1, 96, 96, 4)


# ---- denoise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 36), (3, 40, 36)])
def test_an_array_comes_back_as_an_array(shape: tuple[int, ...], dtype: type) -> None:
    hu = np.random.default_rng(0).integers(-1000, 1500, shape).astype(dtype)
    before = hu.copy()
    denoised = ldct_denoise.denoise(hu, shift_model(7))
    assert (denoised.shape, denoised.dtype) == (hu.shape, np.float32)
    np.testing.assert_array_equal(denoised, hu + 7)
    np.testing.assert_array_equal(hu, before)
    np.testing.assert_array_equal(ldct_denoise.denoise(hu, shift_model(7), strength=0), hu)
    np.testing.assert_array_equal(ldct_denoise.denoise(hu, shift_model(8), strength=0.5), hu + 4)


def test_a_series_and_a_volume_come_back_as_a_volume(pairs: Path) -> None:
    (series,) = ldct_denoise.read_series(pairs / "low")
    model = ldct_denoise.load_model("lir-ct-small")
    expected = np.stack([hu for _, hu in restore_slices(series, model)])
    for image in (series, Volume.of(series)):
        denoised = ldct_denoise.denoise(image, model)
        assert isinstance(denoised, Volume)
        np.testing.assert_array_equal(denoised.hu, expected)
        assert (denoised.uid, denoised.patient) == (series.uid, "P001")
        np.testing.assert_array_equal(denoised.geometry.affine, series.geometry.affine)
    array = ldct_denoise.denoise(Volume.of(series).hu, model, spacing_mm=series.geometry.spacing_mm)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((8, 8), np.nan), "64 of 64 values are NaN"),
        (np.zeros(8), r"shape \(8,\)"),
        (np.zeros((0, 8, 8)), r"shape \(0, 8, 8\)"),
        (np.zeros((8, 8), np.uint16), "unsigned"),
        (np.zeros((8, 8), bool), "array of bool"),
        (np.zeros((8, 8), complex), "array of complex128"),
        (np.linspace(0, 1, 64).reshape(8, 8), "looks normalised"),
        (np.linspace(-1, 1, 64).reshape(8, 8), "looks normalised"),
    ],
)
def test_what_cannot_be_hu_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ldct_denoise.InputError, match=message):
        ldct_denoise.denoise(array, shift_model())


def test_other_types_are_refused(pairs: Path) -> None:
    with pytest.raises(ldct_denoise.InputError, match="read_series"):
        ldct_denoise.denoise(str(pairs), shift_model())
    with pytest.raises(ldct_denoise.InputError, match="list: give a NumPy array"):
        ldct_denoise.denoise([[1, 2]], shift_model())
    with pytest.raises(ldct_denoise.ModelError, match="nosuch"):
        ldct_denoise.denoise(np.zeros((8, 8)), "nosuch")
    with pytest.raises(ldct_denoise.ConfigError, match="strength"):
        ldct_denoise.denoise(np.zeros((8, 8)), shift_model(), strength=2)


def test_spacing_must_fit_and_is_asked_for_where_it_matters() -> None:
    hu = random_volume().hu
    np.testing.assert_array_equal(ldct_denoise.denoise(hu, shift_model(1), spacing_mm=(3, 0.7, 0.7)), hu + 1)
    for spacing in ((0.7, 0.7), (3, 0.7, 0), (3, 0.7, np.nan)):
        with pytest.raises(ldct_denoise.ConfigError, match="one positive number of mm for each axis"):
            ldct_denoise.denoise(hu, shift_model(), spacing_mm=spacing)
    with pytest.raises(ldct_denoise.ConfigError, match="its own spacing"):
        ldct_denoise.denoise(random_volume(), shift_model(), spacing_mm=(3, 0.7, 0.7))
    with pytest.raises(ldct_denoise.ConfigError, match="needed here"):
        ldct_denoise.simulate_low_dose(hu, 0.25)


def test_simulated_noise_of_an_array_is_that_of_its_volume() -> None:
    volume = water_disc("P1", 20)
    array = ldct_denoise.simulate_low_dose(volume.hu, 0.25, spacing_mm=volume.geometry.spacing_mm)
    inside = np.s_[:, 40:56, 40:56]
    assert array[inside].std() == pytest.approx(40, rel=0.15)  # a quarter of the dose: twice the noise
    np.testing.assert_allclose(ldct_denoise.simulate_low_dose(volume, 0.25).hu[inside].std(), 40, rtol=0.15)


# ---- the other functions ----------------------------------------------------------------------------------------


def test_a_path_without_ct_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ldct_denoise.InputError, match=r"no CT series \(notes\.txt: "):
        ldct_denoise.read_series(tmp_path)


def test_evaluate_and_compare_write_what_the_commands_write(pairs: Path, tmp_path: Path) -> None:
    result = ldct_denoise.evaluate(pairs, pairs, windows=["abdomen", "0,80"], output=tmp_path / "e")
    assert {window.name for window in result.windows} == {"abdomen", "0,80"}
    result = ldct_denoise.compare(pairs, [shift_model(5)], output=tmp_path / "c", rois=["soft-tissue"])
    assert result.models[:2] == ("input", "shift")
    for name in ("e", "c"):
        assert {path.name for path in (tmp_path / name).iterdir()} >= {
            "metrics.csv",
            "summary.json",
            "report.html",
        }
        with pytest.raises(ldct_denoise.OutputError):
            ldct_denoise.evaluate(pairs, pairs, output=tmp_path / name)


def test_evaluate_and_compare_take_words_of_your_own(pairs: Path, tmp_path: Path) -> None:
    for dose, name in (("low", "r2"), ("normal", "r1")):
        for path in (pairs / dose).iterdir():
            image = pydicom.dcmread(path)
            image.SeriesDescription = name
            (tmp_path / name).mkdir(exist_ok=True)
            image.save_as(tmp_path / name / path.name)
    with pytest.raises(ldct_denoise.InputError, match="no low/normal pair"):
        ldct_denoise.compare(tmp_path, ["bilateral"], windows=["abdomen"])
    words = {"low_patterns": ["r2"], "normal_patterns": ["r1"]}
    compared = ldct_denoise.compare(tmp_path, ["bilateral"], windows=["abdomen"], **words)
    assert compared.models[:2] == ("input", "bilateral")
    evaluated = ldct_denoise.evaluate(tmp_path / "r2", tmp_path, tmp_path, windows=["abdomen"], **words)
    errors = {row.model: row.value for row in evaluated.rows if row.metric == "rmse" and row.region == "image"}
    assert errors["candidate"] == errors["input"] > 0
    dataset = ldct_denoise.SliceDataset.from_folder(tmp_path, dose="paired", **words)
    assert set(dataset[0]) == {"image", "label"}


def test_evaluate_takes_volumes(pairs: Path) -> None:
    clean, noisy = water_disc("P1", 0), water_disc("P1", 30)
    result = ldct_denoise.evaluate(noisy, clean, input=noisy)
    values = result.values("candidate", "full", "body", "rmse")
    assert np.mean(list(values.values())) == pytest.approx(30, rel=0.02)


def test_train_refuses_unclear_images(pairs: Path, tmp_path: Path) -> None:
    for images in ({}, {"dicom_root": pairs, "low": [pairs]}):
        with pytest.raises(ldct_denoise.ConfigError, match="either dicom_root, or low and normal"):
            ldct_denoise.train("unet", tmp_path / "run", **images)


def test_geometry_of_an_array_is_axial() -> None:
    hu = random_volume((4, 6, 8)).hu
    volume = ldct_denoise.denoise(Volume(hu, axial_geometry(4, 6, 8)), shift_model())
    assert volume.geometry.spacing_mm == (3.0, 0.7, 0.7)
