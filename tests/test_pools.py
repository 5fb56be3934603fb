"""Pools: from trees and explicit paths, split by patient; the demo runs from end to end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ldct_denoise.config import Config, DataConfig, load_config
from ldct_denoise.data.downscaled import DownscaledSeries, add_downscaled
from ldct_denoise.data.noise import NoiseSampler, noise_of_pool, random_nps_noise
from ldct_denoise.data.pools import Pools, pools_from_paths, pools_from_root
from ldct_denoise.data.slices import PoolSlice, SliceStore, decode, pool_slices
from ldct_denoise.data.thick_slices import ThickSliceSeries, with_thick_slices
from ldct_denoise.data.training_set import make_training_set, partner_positions
from ldct_denoise.demo import run_demo
from ldct_denoise.errors import ConfigError, InputError, OutputError
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.io.inspect import inspect
from ldct_denoise.io.orientation import Axes, FlippedSlices, PermutedVolume
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.methods import Supervision
from ldct_denoise.phantoms.patients import write_patients
from ldct_denoise.physics.exposure import tube_current_ma
from ldct_denoise.physics.noise import NoiseModel
from ldct_denoise.training.loop import train
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import axial_geometry, read_csv, water_disc

#: A uniform patch, HU.
WATER = np.zeros((64, 64), np.float32)


def _even(slices: int, side: int = 8) -> Geometry:
    return Geometry.from_affine(np.diag([3.0, 0.7, 0.7, 1.0]), (slices, side, side))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tcia")
    write_patients(root, patients=3, slices=2, size=96, seed=3)
    return root


def test_a_tcia_tree_gives_both_pools_and_the_pairs(tree: Path) -> None:
    pools = pools_from_root(tree, DataConfig())
    assert pools.patients == ("L001", "L002", "L003")
    assert (len(pools.low), len(pools.normal)) == (3, 3)
    assert [(pair.patient, len(pair.indices)) for pair in pools.pairs] == [("L001", 2), ("L002", 2), ("L003", 2)]
    for pair in pools.pairs:
        assert np.std(pair.low.read_hu(0) - pair.normal.read_hu(0)) > 5
        assert "Low" in pair.low.metadata.description
        assert "Full" in pair.normal.metadata.description


def test_patients_are_split_and_test_patients_kept_out_of_everything(tree: Path) -> None:
    pools = pools_from_root(tree, DataConfig(test_patients=("L003",), validation_patients=("L002",)))
    assert pools.patients == ("L001",)
    assert {pair.patient for pair in pools.validation_pairs} == {"L002"}
    seen = {source.patient for source in (*pools.low, *pools.normal, *pools.validation_low)}
    assert "L003" not in seen
    with pytest.raises(InputError, match="L009"):
        pools_from_root(tree, DataConfig(validation_patients=("L009",)))
    with pytest.raises(InputError, match=r"data\.test_patients: no patient 'L03'; there are L001, L002, L003"):
        pools_from_root(tree, DataConfig(test_patients=("L03",)))


def test_noise2void_needs_no_normal_dose(tree: Path) -> None:
    low = next(tree.glob("L001/*/2.0*"))
    pools = pools_from_paths([low], [], DataConfig(), supervision=Supervision.SELF)
    assert (len(pools.low), len(pools.normal)) == (1, 0)


@pytest.mark.parametrize("seed", range(6))
def test_a_patient_whom_a_pool_lives_by_is_not_held_out_by_chance(tmp_path: Path, seed: int) -> None:
    for name in ("A_low", "B_low", "C_low", "D_low", "E_full"):
        write_volume(tmp_path / f"{name}.nii.gz", iter(np.full((1, 16, 16), -1000.0)), _even(1, 16))
    pools = pools_from_root(tmp_path, DataConfig(validation_fraction=0.2), seed)
    assert [source.patient for source in pools.normal] == ["E"]
    assert len(pools.low) == 3
    with pytest.raises(InputError, match=r"no normal-dose.*data\.test_patients exclude series"):
        pools_from_root(tmp_path, DataConfig(test_patients=("E",)), seed)


@pytest.mark.parametrize(
    "layout",
    [
        "{who}_{dose}",
        "{dose}/{who}",
        "{who}/{dose}",
        "{who}/ct_{dose}",
        "one/{who}-{dose}",
        "train/{dose}/{who}",
        "{dose}/images/{who}",
    ],
)
def test_volumes_are_paired_with_those_of_their_own_patient(tmp_path: Path, layout: str) -> None:
    """All of one geometry: names alone tell whose they are."""
    for who in ("P-1", "P-2", "P-3"):
        for dose in ("low", "full"):
            path = tmp_path / f"{layout.format(who=who, dose=dose)}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(path, iter(np.full((1, 16, 16), -1000.0)), _even(1, 16))
    pools = pools_from_root(tmp_path, DataConfig())
    names = sorted((str(pair.low.path), str(pair.normal.path)) for pair in pools.pairs)
    assert names == [(name.replace("full", "low"), name) for name in sorted(full for _, full in names)]
    assert len(names) == 3
    assert pools.patients == ("P-1", "P-2", "P-3")
    lows, fulls = ([Path(pair[place]) for pair in names] for place in (0, 1))
    named = pools_from_paths(lows, fulls, DataConfig())
    assert sorted((str(pair.low.path), str(pair.normal.path)) for pair in named.pairs) == names
    assert len(named.patients) == 3


@pytest.mark.parametrize("order", ["rows flipped", "columns and slices flipped", "transposed", "sagittal"])
def test_pairs_of_the_same_voxels_in_another_axis_order(tmp_path: Path, order: str) -> None:
    """The normal-dose volume of dcm2niix, the low-dose one of another program: the pools hold the paired slices."""
    axes = {
        "rows flipped": Axes((0, 1, 2), (False, True, False)),
        "columns and slices flipped": Axes((0, 1, 2), (True, False, True)),
        "transposed": Axes((0, 2, 1), (False, False, False)),
        "sagittal": Axes((2, 0, 1), (True, False, True)),
    }[order]
    low = water_disc("A", 60, 1, slices=5, side=32)
    turned = (PermutedVolume if axes.order[0] else FlippedSlices)(low, axes)
    write_volume(tmp_path / "A_low.nii.gz", iter(low.hu), low.geometry)
    write_volume(tmp_path / "A_full.nrrd", iter(Volume.of(turned).hu), turned.geometry)
    pools = pools_from_root(tmp_path, DataConfig())
    (pair,) = pools.pairs
    assert pair.indices == tuple((index, index) for index in range(5))
    partners = partner_positions(pools, pool_slices(pools.low), pool_slices(pools.normal))
    assert partners == {index: index for index in range(5)}
    for index in range(5):
        for normal in (pair.normal, pools.normal[0]):
            np.testing.assert_allclose(normal.read_hu(index), pair.low.read_hu(index), atol=0.6)


def test_explicit_paths_are_what_the_user_says_they_are(tree: Path) -> None:
    full = next(tree.glob("L001/*/1.0*"))
    low = next(tree.glob("L002/*/2.0*"))
    pools = pools_from_paths([full], [low], DataConfig())  # the wrong way round, as asked
    assert [source.patient for source in pools.low] == ["L001"]
    assert [source.patient for source in pools.normal] == ["L002"]
    with pytest.raises(InputError, match="no normal-dose series"):
        pools_from_paths([low], [], DataConfig())


def test_what_is_in_no_pool_is_told(tree: Path, tmp_path: Path) -> None:
    """A series whose dose nothing tells, and files that are no images; a run says so before it begins."""
    before = pools_from_root(tree, DataConfig()).notes  # of each phantom the lists of lesions, and the truth
    assert [note.split(";")[0] for note in before] == [
        "6 files are skipped (3 unreadable, 3 other object)",
        "3 series of unknown dose are in no pool",
    ]
    root = tmp_path / "root"
    shutil.copytree(tree, root)
    write_volume(root / "scout.nii.gz", iter(np.full((1, 96, 96), -1000.0)), _even(1, 96))
    (root / "broken.dcm").write_bytes(bytes(128) + b"DICM")
    pools = pools_from_root(root, DataConfig())
    assert pools.notes == (
        f"7 files are skipped (4 unreadable, 3 other object); `ldct-denoise inspect {root}` lists the reasons",
        f"4 series of unknown dose are in no pool; `ldct-denoise inspect {root}` shows which",
    )
    told: list[str] = []
    config = load_config("unet", ["training.iterations=1", "training.batch_size=1", "data.patch_size=32"])
    train(config, pools, tmp_path / "run", device="cpu", report=lambda progress: told.append(progress.message))
    assert set(pools.notes) <= set(told)


def test_only_the_kernels_asked_for(tree: Path) -> None:
    assert pools_from_root(tree, DataConfig(kernels=("Sim35",))).patients
    with pytest.raises(InputError, match="no normal-dose series"):
        pools_from_root(tree, DataConfig(kernels=("B30f",)))


def test_real_mayo_pools(mayo2016: Path) -> None:
    pools = pools_from_root(mayo2016, DataConfig(test_patients=("L143",)))
    assert pools.patients == ("L096",)
    assert (sum(map(len, pools.low)), sum(map(len, pools.normal))) == (10, 10)


def test_drawn_noise_has_the_level_and_range_asked_for() -> None:
    frequencies = np.arange(1, 15) * 0.05
    model = NoiseModel("K", frequencies, np.ones(14), np.array([40.0, 80.0]))
    noise = NoiseSampler(
        [model], DataConfig(noise_model="nps", noise_level_factors=(0.5, 1.5), target_noise_fraction=0.5)
    )
    excess = np.sqrt(1 - 0.25)
    assert noise.low_hu == pytest.approx(40 * excess * 0.5)
    assert noise.high_hu == pytest.approx(80 * excess * 1.5)
    geometry = axial_geometry(1, 64, 64, (3.0, 0.7, 0.7))
    source = Volume(np.zeros((1, 64, 64)), geometry)
    drawn = [noise.sample(source, WATER, np.random.default_rng(seed)).hu.std() for seed in range(60)]
    assert min(drawn) > 0.8 * noise.low_hu
    assert max(drawn) < 1.25 * noise.high_hu


def test_the_target_keeps_the_share_of_noise_that_normal_dose_has() -> None:
    frequencies = np.arange(1, 15) * 0.05
    model = NoiseModel("", frequencies, np.ones(14), np.array([40.0, 40.0]))
    config = DataConfig(noise_model="nps", noise_level_factors=(1.0, 1.0), target_noise_fraction=0.5)
    geometry = axial_geometry(1, 64, 64, (3.0, 0.7, 0.7))
    source = Volume(np.zeros((1, 64, 64)), geometry)
    for own_hu in (0.0, 10.0, 15.0):
        noise = NoiseSampler([model], config, {source.uid: own_hu})
        seen, target = [], []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            own = own_hu * model.draw_fields(1, 64, 64, (0.7, 0.7), rng)[0]
            drawn = noise.sample(source, WATER, rng)
            seen.append(own + drawn.hu)
            target.append(own + drawn.target_fraction * drawn.hu)
        share = np.sum(np.multiply(seen, target)) / np.sum(np.square(seen))
        assert share == pytest.approx(0.5**2, abs=0.01)
    broad = NoiseSampler(
        [model],
        config.model_copy(update={"noise_model": "random_nps", "random_nps_prob": 1.0}),
        {source.uid: 10.0},
    )
    sigma_hu = 40 * np.sqrt(1 - 0.5**2)
    wanted = 0.5**2 - (1 - 0.5**2) * (10 / sigma_hu) ** 2
    assert broad.sample(source, WATER, np.random.default_rng(0)).target_fraction == pytest.approx(wanted)
    loud = NoiseSampler([model], config, {source.uid: 60.0})  # has more than its share already
    assert loud.sample(source, WATER, np.random.default_rng(0)).target_fraction == 0.0
    plain = NoiseSampler([model], config.model_copy(update={"target_noise_fraction": 0.0}), {source.uid: 0.0})
    assert plain.sample(source, WATER, np.random.default_rng(0)).target_fraction == 0.0


def test_kept_noise_is_shown_in_the_target_and_not_added_again() -> None:
    geometry = axial_geometry(1, 128, 128, (3.0, 0.7, 0.7))
    rng = np.random.default_rng(0)
    white = rng.standard_normal((2, 1, 128, 128)).astype(np.float32)
    clean, low = Volume(0.01 * white[0], geometry), Volume(40 * white[1], geometry)
    given = {
        "noise_model": "nps",
        "noise_level_factors": (1.0, 1.0),
        "target_noise_fraction": 0.5,
        "patch_size": 32,
    }
    made = make_training_set(Config(method="lir", data=given), Pools((low,), (clean,)), Supervision.UNPAIRED)
    for number in range(4):
        sample = made.patches[number]
        target_hu, added_hu = made.validation.scale.to_hu(sample["normal"]), sample["noise"] * 4096
        torch.testing.assert_close(added_hu, 3 * target_hu, rtol=1e-3, atol=0.2)  # ¼ and ¾ of one field
        assert target_hu.std() > 4


def test_nothing_lies_below_the_scanners_floor() -> None:
    geometry = axial_geometry(1, 128, 128, (3.0, 0.7, 0.7))
    white = np.random.default_rng(0).standard_normal((1, 128, 128)).astype(np.float32)
    air, low = Volume(np.full((1, 128, 128), -1000.0, np.float32), geometry), Volume(40 * white, geometry)
    given = {
        "noise_model": "nps",
        "noise_level_factors": (1.0, 1.0),
        "target_noise_fraction": 0.0,
        "patch_size": 64,
        "augment": False,
    }

    def noisy_hu(**more: object) -> np.ndarray:
        made = make_training_set(
            Config(method="lir", range_hu={"low_hu": -2048.0, "high_hu": 2048.0}, data={**given, **more}),
            Pools((low,), (air,)),
            Supervision.UNPAIRED,
        )
        found = [made.patches[number] for number in range(8)]
        noisy = torch.stack([sample["normal"] + sample["noise"] for sample in found])
        return np.asarray(made.validation.scale.to_hu(noisy), np.float64)

    free = noisy_hu()
    held = noisy_hu(clip_min_hu=-1024.0)
    assert free.min() < -1080
    np.testing.assert_allclose(held, np.maximum(free, -1024), atol=0.01)


def test_shrunk_slices_are_the_same_anatomy_in_fewer_pixels() -> None:
    rng = np.random.default_rng(0)
    rows = np.add.outer(np.arange(96.0), np.arange(80.0))  # a ramp, on which every filter agrees
    hu = np.stack([rows, rows + 1000]).astype(np.float32)
    series = Volume(hu, Geometry.from_affine(np.diag([2.0, 0.7, 0.7, 1.0]), hu.shape), "uid", "patient", "name")
    found = add_downscaled([PoolSlice(series, 1)], (0.75, 0.5))
    assert [item.source.read_hu(1).shape for item in found] == [(96, 80), (72, 60), (48, 40)]
    assert [item.source.geometry.shape for item in found[1:]] == [(2, 72, 60), (2, 48, 40)]
    assert len({item.key for item in found}) == 3
    half = found[2].source.read_hu(1)
    np.testing.assert_allclose(half[4:-4, 4:-4], (rows + 1001)[8:-8:2, 8:-8:2], atol=0.05)  # centre of 2x2 pixels
    noise = Volume(rng.normal(0, 30, hu.shape), series.geometry, "noise")
    assert DownscaledSeries(noise, 0.5).read_hu(0).std() < 20  # averaged, not picked


def test_slabs_are_means_of_neighbours_in_the_middle_of_them() -> None:
    hu = np.random.default_rng(0).normal(0, 30, (6, 32, 32)).astype(np.float32)
    low = Volume(hu + 1, Geometry.from_affine(np.diag([0.8, 0.7, 0.7, 1.0]), hu.shape), "low", "patient")
    thin = replace(low, hu=hu, uid="thin")
    thick = replace(thin, geometry=Geometry.from_affine(np.diag([3.0, 0.7, 0.7, 1.0]), hu.shape), uid="thick")
    pair = Pair("patient", "", low, thin, tuple((place, place) for place in range(6)))
    pools = with_thick_slices(Pools((low,), (thin, thick), (pair,)), (1.0, 2.4, 100.0))
    whole, three, six, thick_whole, thick_six = pools.normal
    assert (whole, thick_whole, len(six), len(thick_six)) == (thin, thick, 1, 1)
    np.testing.assert_allclose(three.read_hu(2), hu[2:5].mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(three.geometry.offsets_mm, thin.geometry.offsets_mm[1:5], atol=1e-9)
    assert [found.indices for found in pools.pairs] == [
        pair.indices,
        ((0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 3)),
        tuple((place, 0) for place in range(6)),
    ]
    assert len({source.uid for source in pools.normal}) == 5
    assert with_thick_slices(pools, ()) is pools
    unnamed = replace(thin, uid="")  # arrays need no name to be told apart
    assert len(with_thick_slices(Pools((), (unnamed, unnamed)), (1.0, 1.5, 2.4)).normal) == 4


def test_a_slab_has_the_kernel_and_the_mean_tube_current_of_its_slices(tree: Path) -> None:
    full = pools_from_root(tree, DataConfig()).pairs[0].normal
    slab = ThickSliceSeries(full, 2)
    assert slab.metadata.kernel == full.metadata.kernel != ""
    assert len(slab) == 1
    assert tube_current_ma(slab) == pytest.approx([np.mean(tube_current_ma(full))])
    assert ThickSliceSeries(Volume(np.zeros((2, 8, 8)), _even(2)), 2).metadata.tube_current_ma == ()


def test_what_lies_unevenly_is_no_slab() -> None:
    positions_mm = np.array([0.0, 1.0, 2.0, 9.0])[:, None] * [0, 0, 1]
    uneven = Volume(np.zeros((4, 32, 32)), Geometry(positions_mm, (1, 0, 0), (0, 1, 0), (0.7, 0.7), 32, 32))
    same = replace(uneven, geometry=replace(uneven.geometry, positions_mm=np.zeros((4, 3))))
    for series in (uneven, same):
        assert with_thick_slices(Pools((), (series,)), (3.0,)).normal == (series,)


def test_slabs_to_judge_by_share_no_slice_with_those_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slice is filled with its own power of two: a slab's values tell which slices it is the mean of."""
    monkeypatch.setattr("ldct_denoise.data.validation_set.VALIDATION_SLICES", 99)
    filled = np.broadcast_to((2.0 ** np.arange(19))[:, None, None], (19, 32, 32))
    thin, short = Volume(filled[:16], _even(16, 32)), Volume(filled[16:], _even(3, 32))
    pools = Pools((thin,), (thin, short))
    config = Config(data={"noise_model": "none", "slice_thickness_mm": (3.0, 9.0), "patch_size": 32})
    made = make_training_set(config, pools, Supervision.UNPAIRED)

    def read(hu: NDArray[np.float32], slices: int) -> set[int]:
        return {place for place in range(19) if round(float(hu[..., 0, 0].item()) * slices) >> place & 1}

    trained = [
        read(item.source.read_hu(item.index), getattr(item.source, "slices", 1))
        for item in made.patches.sources.normal
    ]
    judged = [read(item.hu, 1 if number < 3 else 3) for number, item in enumerate(made.validation.normal)]
    assert judged == [{6}, {7}, {8}, {6, 7, 8}]
    assert not set.union(*judged) & set.union(*trained)
    assert [len(read) for read in trained] == [1] * 13 + [3] * 9 + [1] * 3 + [3]


def test_the_normal_pool_holds_each_slice_again_and_none_that_is_held_back(tree: Path) -> None:
    config = Config(data=DataConfig(downscale_factors=(0.7,), validation_fraction=0.0))
    plain = config.model_copy(update={"data": config.data.model_copy(update={"downscale_factors": ()})})
    pools = pools_from_root(tree, config.data)
    once = make_training_set(plain, pools, Supervision.UNPAIRED).patches._normal.slices
    twice = make_training_set(config, pools, Supervision.UNPAIRED).patches._normal.slices
    assert twice[: len(once)] == once
    assert [(item.source.source.uid, item.index) for item in twice[len(once) :]] == [
        (item.source.uid, item.index) for item in once
    ]
    assert len(make_training_set(config, pools, Supervision.SUPERVISED).patches._normal) == sum(
        map(len, pools.normal)
    )


def test_a_shrunk_copy_is_never_shown_with_the_partner_of_its_slice() -> None:
    """Low- and normal-dose slices of one place have the same grey value here."""
    filled = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 64, 64), np.float32) * 50
    low, normal = Volume(filled, _even(3, 64), "low"), Volume(filled, _even(3, 64), "normal")
    pair = Pair("", "", low, normal, ((0, 0), (1, 1), (2, 2)))
    config = Config(data={"noise_model": "none", "patch_size": 32, "downscale_factors": (0.8, 0.6)})
    patches = make_training_set(config, Pools((low,), (normal,), (pair,)), Supervision.UNPAIRED).patches
    shown = {
        tuple(round(config.scale.to_hu(float(patches[n][name].mean()))) for name in ("low", "normal"))
        for n in range(80)
    }
    assert shown == {(a, b) for a in (0, 50, 100) for b in (0, 50, 100) if a != b}


def test_noise_in_air_is_cut_off_in_its_own_place() -> None:
    down, along = np.mgrid[-48:48, -48:48]
    body = np.where(down**2 + along**2 < 30**2, 0, -1020) * np.ones((9, 1, 1), np.float32)
    noisy = (body + 60 * np.random.default_rng(0).standard_normal(body.shape)).astype(np.float32)
    pools = Pools((Volume(noisy, _even(9, 96), "low"),), (Volume(body, _even(9, 96), "normal"),))
    config = Config(
        data={"noise_model": "random_nps", "patch_size": 32, "clip_min_hu": -1024.0, "target_noise_fraction": 0.0}
    )
    patches = make_training_set(config, pools, Supervision.UNPAIRED).patches
    stored = [config.scale.to_hu((patches[n]["normal"] + patches[n]["noise"]).numpy()) for n in range(40)]
    assert np.min(stored) == pytest.approx(-1024, abs=0.01)


def test_a_shrunk_series_gets_the_noise_of_its_kernel(tree: Path) -> None:
    full = pools_from_root(tree, DataConfig()).pairs[0].normal
    assert DownscaledSeries(full, 0.5).metadata.kernel == full.metadata.kernel != ""


def test_what_is_kept_of_a_series_is_right_when_it_has_grown(tmp_path: Path) -> None:
    def stored(heights_mm: list[int]) -> list[float]:
        positions_mm = np.array(heights_mm)[:, None] * [0, 0, 1.0]
        geometry = Geometry(positions_mm, (1, 0, 0), (0, 1, 0), (0.7, 0.7), 32, 32)
        grown = Volume(np.array(heights_mm)[:, None, None] * np.ones((1, 32, 32)), geometry, "1.2.3")
        store = SliceStore(pool_slices([grown]), 4, tmp_path / "kept")
        return [float(store[place].hu.mean()) for place in range(len(store))]

    assert stored([3, 6, 9]) == [3, 6, 9]
    assert stored([0, 3, 6, 9]) == [0, 3, 6, 9]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file: cannot.*data\.cache_dir"):
        SliceStore((), 4, tmp_path / "file")


def test_a_value_that_is_no_number_is_named(tmp_path: Path) -> None:
    hu = np.zeros((2, 32, 32), np.float32)
    hu[1, 3, 3] = np.nan
    with pytest.raises(InputError, match="knee: slice 1 holds values that are not finite"):
        decode(PoolSlice(Volume(hu, _even(2, 32), name="knee"), 1))


@pytest.mark.parametrize(
    "setting",
    [
        "data.patch_size=70",
        "data.noise_level_factors=[0,1.5]",
        "data.noise_level_factors=[2,1]",
        "data.downscale_factors=[0.01]",
        f"training.seed={2**64}",
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.split("=")[0].split(".")[1]):
        load_config("lir-quick", [setting])


def test_arrays_without_names_can_be_held_back() -> None:
    def series(hu: float) -> Volume:
        geometry = Geometry(np.zeros((5, 3)), (1, 0, 0), (0, 1, 0), (0.7, 0.7), 32, 32)
        return Volume(np.full((5, 32, 32), hu, np.float32), geometry)

    config = Config(method="lir", data={"noise_model": "none", "patch_size": 32})
    made = make_training_set(config, Pools((series(5.0),), (series(100.0), series(0.0))), Supervision.UNPAIRED)
    means_hu = [made.validation.scale.to_hu(made.patches[number]["normal"]).mean() for number in range(30)]
    assert {round(float(mean)) for mean in means_hu} == {0, 100}


def test_broad_fields_have_unit_variance() -> None:
    variances = [random_nps_noise(1, 64, 0.7, np.random.default_rng(seed)).var() for seed in range(60)]
    assert np.mean(variances) == pytest.approx(1, abs=0.05)


def test_pool_noise_is_measured_and_told() -> None:
    geometry = axial_geometry(1, 128, 128, (3.0, 0.7, 0.7))
    white = Volume(30 * np.random.default_rng(0).standard_normal((1, 128, 128)), geometry)
    said: list[str] = []
    noise = noise_of_pool([white], [], DataConfig(noise_model="nps"), said.append)
    assert noise.models[0].sigma_hu[0] == pytest.approx(30, rel=0.05)
    assert "sigma" in said[0]


@pytest.mark.slow
def test_the_demo_tells_the_whole_story(tmp_path: Path) -> None:
    demo = run_demo(tmp_path / "demo", iterations=30)
    assert demo.picture.stat().st_size > 10_000
    rows = read_csv(tmp_path / "demo" / "evaluation" / "metrics.csv")
    assert {row["model"] for row in rows} >= {"input", "candidate"}
    assert json.loads((tmp_path / "demo" / "evaluation" / "summary.json").read_text())
    assert len(list((tmp_path / "demo" / "denoised").glob("*.dcm"))) == 6
    assert len(list((tmp_path / "demo" / "denoised-lir-ct").glob("*.dcm"))) == 6
    assert demo.report.is_file()
    found = inspect(tmp_path / "demo" / "denoised")
    assert [one["slices"] for one in found["series"]] == [6]
    with pytest.raises(OutputError, match="overwrite"):
        run_demo(tmp_path / "demo")


@pytest.mark.parametrize("strange", ["thesis.tex", "patients/L077/scan.dcm"])
def test_a_demo_removes_only_what_a_demo_made(tmp_path: Path, strange: str) -> None:
    killed = "patients/.phantom.partial-killed/new/L001/1.dcm"
    for name in ("patients/L001/1.dcm", "run/model.safetensors", killed, strange):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(OutputError, match="which no demo writes"):
        run_demo(tmp_path, overwrite=True)
    assert all((tmp_path / name).is_file() for name in ("patients/L001/1.dcm", "run/model.safetensors", strange))
    (tmp_path / strange).unlink()
    if strange.count("/"):
        (tmp_path / strange).parent.rmdir()

    def made(line: str) -> None:
        raise InterruptedError(line)

    with pytest.raises(InterruptedError, match="making"):  # what a demo says when the place is its own
        run_demo(tmp_path, overwrite=True, say=made)
    assert list(tmp_path.iterdir()) == []
