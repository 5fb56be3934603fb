"""Published splits: sizes and parts as published, and who trains, validates and is tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ldct_denoise.config import DataConfig, load_config
from ldct_denoise.data.folds import write_splits
from ldct_denoise.data.pools import pools_from_root
from ldct_denoise.data.published_splits import PUBLISHED, load_split
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.compare import find_pairs_for, pairs_of_split
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.methods import Supervision
from tests.synthetic import water_disc


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parts_of_a_split_share_no_patient(name: str) -> None:
    split = load_split(name)
    everyone = [*split.train, *split.validation, *split.test]
    assert len(everyone) == len(set(everyone))


def test_ldct_benchmark_has_105_30_and_15_patients_a_third_from_each_region() -> None:
    split = load_split("ldct-benchmark")
    for patients, each in ((split.train, 35), (split.validation, 10), (split.test, 5)):
        assert {region: sum(name[0] == region for name in patients) for region in "CLN"} == dict.fromkeys(
            "CLN", each
        )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for patient in ("L067", "L096", "L506", "X1"):
        for dose in ("low", "normal"):
            folder = tmp_path / "data" / patient
            folder.mkdir(parents=True, exist_ok=True)
            disc = replace(water_disc("P", 30, slices=2, side=64))
            write_volume(folder / f"{dose}.nii.gz", disc.hu, disc.geometry)
    return tmp_path / "data"


def test_a_split_decides_who_trains_and_who_is_tested(tree: Path, tmp_path: Path) -> None:
    pools = pools_from_root(tree, DataConfig(split="mayo2016-l506"), supervision=Supervision.SUPERVISED)
    assert pools.patients == ("L067", "L096")
    assert any("7 of its 9 training patients are not here" in note for note in pools.notes)
    assert any("does not name X1" in note for note in pools.notes)
    assert [pair.patient for pair in pairs_of_split(find_pairs_for(tree), "mayo2016-l506")] == ["L506"]

    file = tmp_path / "splits.json"
    write_splits([{"train": ["X1"], "val": ["L067"]}, {"train": ["L067", "L506"], "val": ["X1"]}], file)
    pools = pools_from_root(tree, DataConfig(split=str(file), fold=1), supervision=Supervision.SUPERVISED)
    assert (pools.patients, [pair.patient for pair in pools.validation_pairs]) == (("L067", "L506"), ["X1"])
    assert [pair.patient for pair in pairs_of_split(find_pairs_for(tree), str(file), 1)] == ["X1"]
    with pytest.raises(ConfigError, match="has 2 folds"):
        load_split(str(file), 2)


def test_a_split_that_does_not_fit_is_told(tree: Path) -> None:
    with pytest.raises(InputError, match="none of its 105 training patients"):
        pools_from_root(tree, DataConfig(split="ldct-benchmark"))
    with pytest.raises(InputError, match="no pair of a test patient"):
        pairs_of_split(find_pairs_for(tree), "ldct-benchmark")
    with pytest.raises(ConfigError, match="ldct-benchmark"):
        load_split("mayo")
    with pytest.raises(ConfigError, match="leave out folds"):
        load_config("lir-quick", ["data.split=mayo2016-l506", "data.folds=5"])
