"""Folders of ``.npy`` slices and MONAI data lists: as others prepared their data, without conversion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.config import DataConfig
from ldct_denoise.data.pools import pools_from_manifest, pools_from_root
from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.compare import find_pairs_for
from ldct_denoise.io.find import find_images
from ldct_denoise.io.inspect import inspect
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.methods import Supervision
from tests.synthetic import run_cli, water_disc


def hu_of(patient: str, role: str, slices: int = 3) -> np.ndarray:
    noise_hu = 40 if role == "input" else 15
    return water_disc(patient, noise_hu, seed=sum(map(ord, patient + role)), slices=slices, side=64).hu


def write_npy(folder: Path, *, normalised: bool, patients: tuple[str, ...] = ("L067", "L506")) -> Path:
    """As RED-CNN's prep.py: PATIENT_NUMBER_ROLE.npy, (HU + 1024) / 4096."""
    folder.mkdir()
    for patient in patients:
        for role in ("input", "target"):
            for number, hu in enumerate(hu_of(patient, role)):
                image = (hu.astype(np.float64) + 1024) / 4096 if normalised else hu.round().astype(np.int16)
                np.save(folder / f"{patient}_{number}_{role}.npy", image)
    return folder


@pytest.mark.parametrize("normalised", [True, False])
def test_the_folder_of_prep_py_is_a_tree_of_pairs_in_hu(normalised: bool, tmp_path: Path) -> None:
    folder = write_npy(tmp_path / "npy_img", normalised=normalised)
    found = inspect(folder)
    assert {(one["patient"], one["dose"], one["slices"]) for one in found["series"]} == {
        (patient, dose, 3) for patient in ("L067", "L506") for dose in ("low", "normal")
    }
    assert [(pair["patient"], pair["slices"]) for pair in found["pairs"]] == [("L067", 3), ("L506", 3)]
    assert any("no geometry" in problem for problem in found["problems"])
    assert any("-1024 to 3072 HU" in problem for problem in found["problems"]) == normalised
    for source in find_images(folder).series:
        expected = hu_of(source.patient, source.name.split()[1])
        for index in range(3):
            wanted = expected[index] if normalised else expected[index].round()
            np.testing.assert_allclose(source.read_hu(index), wanted, atol=1e-3)
    pools = pools_from_root(folder, DataConfig(test_patients=("L506",)), supervision=Supervision.SUPERVISED)
    assert pools.patients == ("L067",)
    assert [len(pair.indices) for pair in pools.pairs] == [3]


def test_slices_that_are_missing_damaged_or_no_hu_are_left_out_with_a_reason(tmp_path: Path) -> None:
    folder = write_npy(tmp_path / "npy_img", normalised=True, patients=("L067",))
    (folder / "L067_1_input.npy").write_bytes(b"damaged")
    np.save(folder / "L067_2_target.npy", np.zeros((8, 9)))
    np.save(folder / "L143_0_input.npy", np.full((64, 64), 500.0) + np.arange(64))
    np.save(folder / "other.npy", np.zeros((4, 4)))
    found = find_images(folder)
    (pair,) = find_pairs_for(folder)
    assert pair.indices == ((0, 0),)
    reasons = {item.path.name: item.reason for item in found.skipped}
    assert "not an array" in reasons["L067_1_input.npy"]
    assert "8×9 pixels" in reasons["L067_2_target.npy"]
    assert "not HU" in reasons["L143_0_input.npy"]
    assert "other.npy" in reasons
    assert any(source.patient == "L143" for source in find_images(folder, assume_hu=True).series)


def test_apply_and_compare_take_such_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_npy(tmp_path / "npy_img", normalised=True)
    code, out, _ = run_cli(
        capsys, "compare", "--dicom-root", folder, "--model", "bilateral", "--output", tmp_path / "out"
    )
    assert (code, "bilateral" in out) == (0, True)
    code, _, _ = run_cli(capsys, "apply", folder, "--model", "bilateral", "--output", tmp_path / "denoised")
    assert code == 0
    assert len(list((tmp_path / "denoised").rglob("*.nii.gz"))) == 4


def data_list(folder: Path, **changes: object) -> Path:
    """A dataset.json as MONAI's load_decathlon_datalist reads it."""
    for patient in ("P1", "P2", "P3"):
        for role, words in (("input", "imagesTr"), ("target", "labelsTr")):
            source = water_disc(patient, 40, slices=2, side=64).with_hu(hu_of(patient, role, 2))
            (folder / words).mkdir(exist_ok=True)
            write_volume(folder / words / f"{patient}.nii.gz", source.hu, source.geometry)
    item = {n: {"image": f"imagesTr/P{n}.nii.gz", "label": f"./labelsTr/P{n}.nii.gz"} for n in (1, 2, 3)}
    content = {"name": "ldct", "training": [item[1]], "validation": [item[2]], "test": [item[3]]}
    (folder / "dataset.json").write_text(json.dumps(content | changes))
    return folder / "dataset.json"


def test_a_data_list_of_monai_says_who_trains_validates_and_is_tested(tmp_path: Path) -> None:
    file = data_list(tmp_path)
    pools = pools_from_manifest(file, DataConfig(), supervision=Supervision.SUPERVISED)
    assert ([pair.patient for pair in pools.pairs], [pair.patient for pair in pools.validation_pairs]) == (
        ["P1"],
        ["P2"],
    )
    np.testing.assert_allclose(pools.pairs[0].low.read_hu(1), hu_of("P1", "input", 2)[1], atol=0.6)
    np.testing.assert_allclose(pools.pairs[0].normal.read_hu(1), hu_of("P1", "target", 2)[1], atol=0.6)
    (tested,) = find_pairs_for(manifest=file)
    assert tested.patient == "P3"
    monai_data = pytest.importorskip("monai.data")
    theirs = monai_data.load_decathlon_datalist(str(file), data_list_key="training", is_segmentation=True)
    assert [Path(item["image"]) for item in theirs] == [pools.pairs[0].low.metadata.path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": [{"image": "imagesTr/P9.nii.gz"}]}, "item 1: .*P9.nii.gz does not exist"),
        ({"training": [{"label": "labelsTr/P1.nii.gz"}]}, "item 1: no text 'image'"),
        ({"training": [{"image": "imagesTr/P2.nii.gz", "label": "labelsTr/P2.nii.gz"}]}, "'P2' is in two splits"),
    ],
)
def test_a_data_list_that_is_wrong_is_told(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        pools_from_manifest(data_list(tmp_path, **changes), DataConfig())
