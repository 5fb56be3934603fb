"""Training on simulated low dose: from normal-dose series alone, for every kind of method, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from ldct_denoise.config import Config, parse_config
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.training_set import make_training_set
from ldct_denoise.errors import ConfigError
from ldct_denoise.methods import Supervision
from ldct_denoise.training.loop import train
from ldct_denoise.volume import Geometry, Volume

SIDE = 128


def normal_dose(patient: str, seed: int) -> Volume:
    """Two slices of a water disc with normal-dose noise; another disc in each."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    disc = np.where(row**2 + column**2 < (0.42 * SIDE) ** 2, 20.0, -1000.0)
    positions = np.arange(2)[:, None] * [0, 0, 3.0]
    geometry = Geometry(positions, (1, 0, 0), (0, 1, 0), (2.0, 2.0), SIDE, SIDE)
    hu = disc + 10 * rng.standard_normal((2, SIDE, SIDE))
    return Volume(hu.astype(np.float32), geometry, f"1.2.{seed}", patient, patient)


@pytest.fixture
def pools() -> Pools:
    return Pools((), (normal_dose("P1", 1), normal_dose("P2", 2)))


def config(
    method: str,
    *,
    noise: str = "none",
    scans: int = 2,
    dose: object = (0.1, 0.3),
    augment: bool = True,
    **settings: object,
) -> Config:
    content = {
        "method": method,
        "settings": settings,
        "data": {
            "patch_size": 32,
            "simulated_dose": dose,
            "noise_realisations": scans,
            "noise_model": noise,
            "augment": augment,
        },
        "training": {"iterations": 2, "batch_size": 2},
    }
    return parse_config(content, "test")


LIR = {
    "architecture": "unet",
    "base_channels": 4,
    "blocks_per_level": 1,
    "norm": "none",
    "discriminator_channels": 4,
    "loss_weights": {"semantic": 0.0},
}


@pytest.mark.parametrize(
    ("method", "noise", "settings"),
    [
        ("redcnn", "none", {"channels": 4}),
        ("noise2noise", "none", {"base_channels": 4}),
        ("noise2void", "none", {"base_channels": 4}),
        ("lir", "nps", LIR),
    ],
)
def test_every_kind_of_method_trains_from_normal_dose_alone(
    pools: Pools, tmp_path: Path, method: str, noise: str, settings: dict[str, object]
) -> None:
    for run in ("one", "two"):
        train(config(method, noise=noise, **settings), pools, tmp_path / run, device="cpu")
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    with safe_open(tmp_path / "one" / "model.safetensors", "numpy") as file:
        card = json.loads(file.metadata()["card"])
    assert card["pools"]["low_series"] == 4
    assert len(list((tmp_path / "one" / "simulated").glob("simulated-*.npy"))) == 4


def test_paired_methods_get_the_series_itself_as_target(pools: Pools, tmp_path: Path) -> None:
    made = make_training_set(config("redcnn"), pools, Supervision.SUPERVISED, scratch=tmp_path)
    scale = made.validation.scale
    added = np.concatenate([_added(made.patches[n], scale.width_hu) for n in range(20)])
    assert abs(added.mean()) < 3
    assert 12 < added.std() < 40  # 10 HU of white noise at 1/0.1 … 1/0.3 of the variance, less what it has


def test_noise2noise_gets_two_scans_of_independent_noise(pools: Pools, tmp_path: Path) -> None:
    made = make_training_set(config("noise2noise"), pools, Supervision.NOISE2NOISE, scratch=tmp_path)
    for pair in made.pools.pairs:
        source = next(s for s in pools.normal if s.patient == pair.patient)
        inner = slice(40, 88)
        first, second = (scan.read_hu(0) - source.read_hu(0) for scan in (pair.low, pair.normal))
        assert first[inner, inner].std() > 10
        assert second[inner, inner].std() > 10
        assert abs(np.corrcoef(first[inner, inner].ravel(), second[inner, inner].ravel())[0, 1]) < 0.1
    shown = made.patches[0]
    assert not np.array_equal(shown["low"], shown["normal"])


def test_doses_are_drawn_from_the_range_and_another_seed_draws_others(pools: Pools, tmp_path: Path) -> None:
    drawn = [
        [scan.dose for scan in make_training_set(c, pools, Supervision.UNPAIRED, scratch=tmp_path).pools.low]
        for c in (config("lir", **LIR), config("lir", **LIR), _seeded(7))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4
    assert all(0.1 <= dose <= 0.3 for dose in drawn[0] + drawn[2])


def _seeded(seed: int) -> Config:
    plain = config("lir", **LIR)
    return plain.model_copy(update={"training": plain.training.model_copy(update={"seed": seed})})


def test_held_out_patients_are_simulated_to_validate_on(pools: Pools, tmp_path: Path) -> None:
    held_out = Pools((), pools.normal[:1], validation_normal=pools.normal[1:])
    made = make_training_set(config("redcnn"), held_out, Supervision.SUPERVISED, scratch=tmp_path)
    low, normal = (item.center for item in made.validation.pairs[0])
    np.testing.assert_array_equal(normal, pools.normal[1].read_hu(0))
    assert 12 < (low - normal)[40:88, 40:88].std() < 40
    assert {source.patient for source in made.pools.low} == {"P1"}


@pytest.mark.parametrize("dose", [[0, 0.5], [0.5, 0.2], [0.5, 2]])
def test_an_impossible_range_is_named(dose: list[float]) -> None:
    with pytest.raises(ConfigError, match="simulated_dose"):
        config("redcnn", dose=dose)


def test_noise2noise_needs_two_scans(pools: Pools, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 or more"):
        make_training_set(config("noise2noise", scans=1), pools, Supervision.NOISE2NOISE, scratch=tmp_path)


def _added(sample: dict[str, object], width_hu: float) -> np.ndarray:
    return np.asarray(sample["low"] - sample["normal"]).ravel() * width_hu  # type: ignore[operator]


def test_lir_gets_the_noise_of_a_simulated_scan_in_its_own_place(pools: Pools, tmp_path: Path) -> None:
    made = make_training_set(
        config("lir", noise="dose_simulation", augment=False, **LIR), pools, Supervision.UNPAIRED, scratch=tmp_path
    )
    scale = made.validation.scale
    scans = np.concatenate([[scan.read_hu(0), scan.read_hu(1)] for scan in made.pools.low]).clip(-1024, 3072)
    squares = np.lib.stride_tricks.sliding_window_view(scans, (32, 32), axis=(1, 2))

    def is_from_a_scan(sample: dict[str, torch.Tensor]) -> bool:
        square = scale.to_hu(sample["normal"] + sample["noise"])[0].numpy()
        alike = squares[np.abs(squares[..., 0, 0] - square[0, 0]) < 0.01]
        return bool((np.abs(alike - square).max(axis=(1, 2), initial=0) < 0.01).any())

    found = sum(is_from_a_scan(made.patches[n]) for n in range(40))
    assert 10 <= found <= 30  # half of the fields; the others are drawn from spectra


def test_a_real_low_dose_pool_stays_where_scans_are_but_a_source_of_noise(pools: Pools, tmp_path: Path) -> None:
    real = Pools((normal_dose("P3", 3),), pools.normal)
    made = make_training_set(
        config("lir", noise="dose_simulation", **LIR), real, Supervision.UNPAIRED, scratch=tmp_path
    )
    assert [source.patient for source in made.pools.low] == ["P3"]
    scans = made.patches.sources.scans
    assert {number: len(found) for number, found in scans.items()} == {0: 2, 1: 2, 2: 2, 3: 2}
    values = made.validation.scale.to_hu(made.patches[0]["low"])[0].numpy()
    stored = real.low[0].hu.astype(np.float32)
    assert np.abs(stored - values[3, 3]).min() < 0.01  # a pixel of the real pool


def test_scans_of_slabs_have_the_noise_of_thicker_slices(pools: Pools, tmp_path: Path) -> None:
    plain = config("lir", noise="dose_simulation", dose=(0.2, 0.2), **LIR)
    slabs = plain.model_copy(update={"data": plain.data.model_copy(update={"slice_thickness_mm": (6.0,)})})

    def added_hu(settings: Config) -> float:
        made = make_training_set(settings, pools, Supervision.UNPAIRED, scratch=tmp_path)
        first = made.patches.sources.normal[0].source
        return float((made.pools.low[0].read_hu(0) - first.read_hu(0))[40:88, 40:88].std())

    assert added_hu(slabs) == pytest.approx(added_hu(plain) / np.sqrt(2), rel=0.15)
    paired = make_training_set(slabs, pools, Supervision.SUPERVISED, scratch=tmp_path)
    assert paired.pools.normal == pools.normal


def test_simulated_noise_needs_simulated_scans() -> None:
    with pytest.raises(ConfigError, match="simulated_dose"):
        config("lir", noise="dose_simulation", dose=None, **LIR)
