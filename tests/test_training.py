"""Training: a killed run resumed ends with the weights of an unbroken one; what a run leaves; clear errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.config import load_config
from ldct_denoise.data import slices as slices_module
from ldct_denoise.data.patches import PatchDataset, PatchSources, batches, flip_and_rotate
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.slices import SliceStore, body_blocks, pool_slices
from ldct_denoise.data.training_set import make_training_set
from ldct_denoise.distributed import emulates_bf16
from ldct_denoise.errors import ConfigError, InputError, ModelError, OutputError, TrainingError
from ldct_denoise.intensity import Scale
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.methods import Supervision
from ldct_denoise.models.trained import load_model
from ldct_denoise.training.loop import train
from ldct_denoise.training.step import learning_rate_factor
from tests.conftest import ROOT
from tests.synthetic import read_csv, run_ranks, saved_weights, tiny_config, water_disc


@pytest.fixture(autouse=True)
def log_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of every step in the log."""
    monkeypatch.setattr("ldct_denoise.training.loop.LOG_EVERY", 1)


def test_a_stopped_run_resumed_equals_an_unbroken_one(pools: Pools, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(tiny_config(checkpoint="last"), pools, whole, device="cpu")

    def stop(progress: object) -> None:
        if progress.step == 4 and not progress.message:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(checkpoint="last"), pools, broken, device="cpu", report=stop)
    train(tiny_config(checkpoint="last"), pools, broken, device="cpu", resume=True)
    expected, got = saved_weights(whole), saved_weights(broken)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    rows = [[(r["step"], r["name"]) for r in read_csv(run / "training.csv")] for run in (whole, broken)]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_killed_run_resumed_equals_an_unbroken_one(pools: Pools, tmp_path: Path) -> None:
    """SIGKILL in the middle of a step; what is left on disk is whole, and the run goes on from it."""
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom tests.synthetic import tiny_config, water_disc\n"
        "from ldct_denoise.data.pools import Pools\nfrom ldct_denoise.training.loop import train\nimport os\n"
        "pools = Pools((water_disc('P1low', 60, 1),), (water_disc('P2normal', 20, 2),))\n"
        "def die(p):\n    if p.step == 5: os.kill(os.getpid(), 9)\n"
        f"train(tiny_config(checkpoint='last'), pools, Path({str(tmp_path / 'killed')!r}), device='cpu', report=die)\n"
    )
    result = subprocess.run([sys.executable, str(script)], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert result.returncode == -9
    torch.set_num_threads(1)
    train(tiny_config(checkpoint="last"), pools, tmp_path / "killed", device="cpu", resume=True)
    train(tiny_config(checkpoint="last"), pools, tmp_path / "whole", device="cpu")
    expected, got = saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "killed")
    assert all(torch.equal(expected[key], got[key]) for key in expected)


@pytest.mark.slow
def test_two_processes_equal_one(pools: Pools, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom tests.synthetic import tiny_config, water_disc\n"
        "from ldct_denoise.data.pools import Pools\nfrom ldct_denoise.training.loop import train\n"
        "pools = Pools((water_disc('P1low', 60, 1),), (water_disc('P2normal', 20, 2),))\n"
        "config = tiny_config(checkpoint='last')\n"
        "config = config.model_copy(update={'settings': config.settings | {'latent_noise_std': 0.0}})\n"
        "train(config, pools, Path(sys.argv[1]), device='cpu')\n"
    )
    config = tiny_config(checkpoint="last")
    config = config.model_copy(update={"settings": config.settings | {"latent_noise_std": 0.0}})
    train(config, pools, tmp_path / "one", device="cpu")
    run_ranks(script, tmp_path / "two")
    one, two = saved_weights(tmp_path / "one"), saved_weights(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=2e-3, atol=2e-5)


def test_parts_of_a_batch_equal_the_whole(pools: Pools, tmp_path: Path) -> None:
    for parts in (1, 2):
        config = tiny_config(gradient_accumulation_steps=parts, iterations=2, checkpoint="last")
        config = config.model_copy(update={"settings": config.settings | {"latent_noise_std": 0.0}})
        train(config, pools, tmp_path / str(parts), device="cpu")
    one, two = saved_weights(tmp_path / "1"), saved_weights(tmp_path / "2")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=2e-3, atol=2e-5)


def test_what_a_run_leaves(pools: Pools, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(), pools, run, device="cpu")
    assert {
        "config.yaml", "training.csv", "checkpoint.pt", "model.safetensors", "tensorboard", "checkpoints"
    } == {path.name for path in run.iterdir()}  # fmt: skip
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.safetensors"]
    assert load_config(str(run / "config.yaml")) == tiny_config()
    names = {row["name"] for row in read_csv(run / "training.csv")}
    assert {
        "adversarial_x",
        "adversarial_y",
        "representation",
        "cross_cycle",
        "self_reconstruction",
        "background",
    } <= names
    assert {"kl", "discriminator_r", "discriminator_x", "discriminator_y", "validation/score"} <= names
    model = load_model(run)
    assert model.scale == Scale(-1024, 3072)
    assert model.training_patients == {"P1", "P2"}
    assert all(key.startswith(("e_x.", "g_y.")) for key in saved_weights(run))
    image = torch.rand(1, 1, 30, 41)
    with torch.inference_mode():
        assert model.method.restore(image).shape == image.shape


def test_a_method_of_pairs_is_validated_on_held_back_pairs_and_keeps_the_models_asked_for(tmp_path: Path) -> None:
    """One patient of 16 slices: the center two validate; PSNR and SSIM are printed; best, last and every second."""
    low, normal = water_disc("P1low", 40, 1, slices=16), water_disc("P1normal", 20, 2, slices=16)
    pair = Pair("P1", "", low, normal, tuple((number, number) for number in range(16)))
    pools, said = Pools((low,), (normal,), (pair,)), []
    changes = ["training.iterations=5", "training.validate_every=4", "training.keep_every=2"]
    changes += ["training.checkpoint=best", "training.batch_size=2", "data.patch_size=32", "settings.channels=4"]
    config = load_config("redcnn", [*changes, "training.validation_window=abdomen"])
    made = make_training_set(config, pools, Supervision.SUPERVISED)
    assert [int(slice_.hu[0, 0, 0]) for slice_, _ in made.validation.pairs] == [
        int(low.hu[number, 0, 0]) for number in (7, 8)
    ]
    assert sorted(made.patches.sources.targets or ()) == [*range(7), *range(9, 16)]

    train(config, pools, tmp_path, device="cpu", report=lambda event: said.append(event.message))
    assert "the best weights are chosen by PSNR on 2 held-out pairs" in said
    assert sum("held-out pairs PSNR" in line and "SSIM" in line for line in said) == 3
    kept = {path.stem: load_model(path).card for path in (tmp_path / "checkpoints").iterdir()}
    assert {name: card["step"] for name, card in kept.items()} == {"last": 5, "step-000002": 2, "step-000004": 4}
    best = max(kept.values(), key=lambda card: card["validation"]["pair_psnr_db"])
    assert load_model(tmp_path).card["step"] == best["step"]

    train(load_config("redcnn", [*changes[:1], *changes[3:]]), pools, tmp_path, device="cpu", overwrite=True)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.safetensors"]


def test_a_run_is_not_overwritten_unless_asked(pools: Pools, tmp_path: Path) -> None:
    train(tiny_config(iterations=1), pools, tmp_path, device="cpu")
    with pytest.raises(OutputError, match="--resume"):
        train(tiny_config(iterations=1), pools, tmp_path, device="cpu")
    with pytest.raises(ConfigError, match=r"training\.batch_size was 4, is 2"):
        train(tiny_config(iterations=2, batch_size=2), pools, tmp_path, device="cpu", resume=True)


def test_a_run_says_which_terms_are_off(pools: Pools, tmp_path: Path) -> None:
    said: list[str] = []
    config = tiny_config(iterations=1)
    settings = config.settings | {"loss_weights": {"semantic": 1.0, "kl": 0.0}}
    config = config.model_copy(update={"settings": settings})
    train(config, pools, tmp_path, device="cpu", report=lambda progress: said.append(progress.message))
    assert any("semantic loss is off" in line and "vgg_weights" in line for line in said)
    assert any("kl" in line for line in said)


def test_normal_dose_without_noise_is_nothing_to_compare_with(pools: Pools, tmp_path: Path) -> None:
    water = water_disc("P2normal", 0)
    for name, hu in (("zero", np.zeros_like(water.hu)), ("forty", np.full_like(water.hu, 40))):
        train(tiny_config(), Pools(pools.low, (water.with_hu(hu),)), tmp_path / name, device="cpu")
        names = {row["name"] for row in read_csv(tmp_path / name / "training.csv")}
        assert "validation/noise_ratio" not in names
        assert "validation/score" in names


def test_a_method_that_draws_no_noise_is_judged_by_that_of_the_pool(pools: Pools, tmp_path: Path) -> None:
    """A normal-dose slice with noise as the low-dose pool has it: what the training does not know is told right."""
    data = make_training_set(tiny_config(), pools, Supervision.UNPAIRED)
    assert "noise" not in data.patches[0]
    assert data.validation.targets_noise_texture  # what only looks like normal dose
    assert not make_training_set(tiny_config(), pools, Supervision.SELF).validation.targets_noise_texture
    excess_hu = 60 * (1 - 0.5**2) ** 0.5  # of data.target_noise_fraction
    added = np.array([noise.std() for _, noise in data.validation.synthetic_pairs])
    share = (
        0.5**2 - (1 - 0.5**2) * (20 / excess_hu) ** 2
    )  # what the target keeps, less what it has (data/noise.py)
    assert added == pytest.approx(excess_hu * 0.75**0.5 * (1 - share), rel=0.1)  # level: middle of 0.5 to 1.5
    train(tiny_config(), pools, tmp_path, device="cpu")
    gains = [row for row in read_csv(tmp_path / "training.csv") if "synthetic_pair_psnr_gain" in row["name"]]
    assert len(gains) == 2


def test_noise_to_judge_by_is_found_in_whatever_series_has_some(pools: Pools) -> None:
    (low,) = pools.low
    bare = [replace(low.with_hu(low.hu - 600), uid=f"P1bare{number}") for number in range(20)]
    many = Pools((*bare[:7], low, *bare[7:]), pools.normal)
    assert make_training_set(tiny_config(), many, Supervision.UNPAIRED).validation.synthetic_pairs


def test_pairs_are_judged_on_held_out_patients_or_not_at_all(pools: Pools) -> None:
    (low,), (normal,) = pools.low, pools.normal
    pair = Pair("P1", "", low, normal, ((0, 0), (1, 1)))
    other = Pair("P9", "", water_disc("P9low", 60, 3), water_disc("P9normal", 20, 4), ((0, 0),))
    alone = make_training_set(tiny_config(), Pools((low,), (normal,), (pair,)), Supervision.SUPERVISED).validation
    assert alone.synthetic_pairs == ()
    held = Pools((low,), (normal,), (pair,), (other.low,), (other,), (other.normal,))
    (probe,) = make_training_set(tiny_config(), held, Supervision.SUPERVISED).validation.synthetic_pairs
    assert np.corrcoef(probe[0].ravel(), other.normal.hu[0].ravel())[0, 1] > 0.99


def test_a_model_is_kept_where_nothing_can_judge_it(pools: Pools, tmp_path: Path) -> None:
    """No uniform tissue in the low dose to measure its noise in."""
    (low,), said = pools.low, []
    bare = Pools((low.with_hu(low.hu - 600),), pools.normal)
    train(
        tiny_config(iterations=2, validate_every=1),
        bare,
        tmp_path,
        report=lambda event: said.append(event.message),
    )
    assert load_model(tmp_path).card["step"] == 2
    assert any("no score without pairs" in message for message in said)


def test_divergence_is_told(pools: Pools, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="learning_rate"):
        train(tiny_config(learning_rate=1e30), pools, tmp_path, device="cpu")


def test_unknown_and_impossible_settings_are_named() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^--set training\.iteration=5: training\.iteration: .*mean 'iterations'.*known: iterations",
    ):
        load_config("lir-quick", ["training.iteration=5"])
    with pytest.raises(ConfigError, match=r"training\.iterations"):
        load_config("lir-quick", ["training.iterations=0"])
    with pytest.raises(ConfigError, match="lir-quick"):
        load_config("no-such-recipe")
    with pytest.raises(ConfigError, match="key=value"):
        load_config("lir-quick", ["training.iterations"])
    with pytest.raises(ConfigError, match=r"^settings\.base_chanels: .*settings of lir: .*base_channels"):
        methods.build("lir", {"base_chanels": 3}, Scale())
    with pytest.raises(
        ConfigError, match=r"^settings\.loss_weights\.tisue: .*settings\.loss_weights of lir: .*tissue\)"
    ):
        methods.build("lir", {"loss_weights": {"tisue": 3}}, Scale())
    with pytest.raises(ConfigError, match=r"^settings\.base_channels: .*at least 4"):
        methods.build("lir", {"base_channels": 0}, Scale())


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "base: lir-quick\nsettings: {loss_weights: {tissue: 3.0}}\ndata: {patch_size: 96}\n"
    )
    (tmp_path / "mine.yaml").write_text("base: site.yaml\ndata: {noise_model: nps}\n")
    mine, theirs = load_config(str(tmp_path / "mine.yaml")), load_config("lir-quick")
    assert (mine.data.patch_size, mine.data.noise_model) == (96, "nps")
    assert mine.settings["loss_weights"] == theirs.settings["loss_weights"] | {"tissue": 3.0}
    assert mine.training == theirs.training
    smaller = {"base_channels": 16, "blocks_per_level": 1}
    assert load_config("lir-ct-small").settings == load_config("lir-ct").settings | smaller


@pytest.mark.parametrize(
    ("text", "message"),
    [("base: loop.yaml", "own base"), ("base: [lir-ct]", "recipe's name"), ("base: nowhere", "no such file")],
)
def test_a_base_that_is_none_is_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(str(tmp_path / "loop.yaml"))


def test_the_same_samples_whatever_the_workers_and_processes(pools: Pools) -> None:
    def dataset() -> PatchDataset:
        return PatchDataset(PatchSources(pool_slices(pools.low), pool_slices(pools.normal)), tiny_config(seed=3))

    def lows(**how: int) -> list[torch.Tensor]:
        return [sample["low"] for sample in batches(dataset(), range(3), 4, **how)]

    whole = torch.cat(lows())
    assert torch.equal(whole, torch.cat(lows(num_workers=1)))
    halves = [lows(rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(whole, torch.cat([torch.cat(pair) for pair in zip(*halves, strict=True)]))
    later = [sample["low"] for sample in batches(dataset(), range(2, 3), 4)]
    assert torch.equal(whole[8:], torch.cat(later))


def test_patches_come_from_the_body_and_partners_are_not_drawn_together() -> None:
    low, normal = water_disc("A", 0, slices=2), water_disc("B", 0, slices=2)
    config, partners = tiny_config(), {0: 0, 1: 1}
    sources = PatchSources(pool_slices([low]), pool_slices([normal]), exclusions=partners)
    unpaired = PatchDataset(sources, config)
    assert np.mean([float((unpaired[n]["low"] > 0.2).float().mean()) for n in range(50)]) > 0.7
    marked = [
        water_disc(uid, 0, slices=2).with_hu(np.full((2, 96, 96), 0) + np.array([0, 500])[:, None, None])
        for uid in "AB"
    ]
    sources = PatchSources(pool_slices(marked[:1]), pool_slices(marked[1:]))
    unpaired = PatchDataset(replace(sources, exclusions=partners), config)
    paired = PatchDataset(replace(sources, targets=partners), config)
    for sample in (unpaired[n] for n in range(40)):
        assert not torch.equal(sample["low"], sample["normal"])
    for sample in (paired[n] for n in range(40)):
        assert torch.equal(sample["low"], sample["normal"])
    with pytest.raises(InputError, match="pair"):
        PatchDataset(replace(sources, targets={}), config)


def test_only_a_bounded_number_of_slices_is_held_and_the_disk_cache_gives_the_same(tmp_path: Path) -> None:
    slices = pool_slices([water_disc("A", 10, slices=6)])
    store = SliceStore(slices, cache_num=2)
    cached = SliceStore(slices, cache_num=1, cache_dir=tmp_path / "cache")
    for position in (0, 3, 5, 0, 1):
        np.testing.assert_array_equal(store[position].hu, slices[position].source.read_hu(position))
        np.testing.assert_array_equal(np.asarray(cached[position].hu), store[position].hu)
    assert len(store._recent) == 2


def test_a_cached_slice_is_not_decoded_again_and_is_known_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = slices_module.decode
    monkeypatch.setattr(slices_module, "decode", lambda item: decoded.append(item.key) or decode(item))
    slices = pool_slices([water_disc("A", 10, slices=3)])
    for order in (slices, slices[::-1], slices[1:]):
        store = SliceStore(order, cache_num=1, cache_dir=tmp_path)
        for position, item in enumerate(order):
            np.testing.assert_array_equal(store[position].hu, item.source.read_hu(item.index))
            np.testing.assert_array_equal(store[position].body_blocks, decode(item).body_blocks)
    assert sorted(decoded) == sorted(item.key for item in slices)


def test_a_slice_that_was_not_stored_whole_is_decoded_again(tmp_path: Path) -> None:
    (item,) = pool_slices([water_disc("A", 10, slices=1)])
    whole = SliceStore([item], cache_num=1, cache_dir=tmp_path)[0].hu.copy()
    (stored,) = tmp_path.iterdir()
    content = stored.read_bytes()
    for damaged in (b"", b"short", content[:-8]):
        stored.unlink()
        stored.write_bytes(damaged)
        np.testing.assert_array_equal(SliceStore([item], cache_num=1, cache_dir=tmp_path)[0].hu, whole)


def test_flips_and_rotations_are_the_eight_symmetries_of_a_square() -> None:
    image = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    for number in range(8):
        flipped = torch.from_numpy(image).flip(-1) if number >= 4 else torch.from_numpy(image)
        expected = torch.rot90(flipped, number % 4, (-2, -1)).numpy()
        np.testing.assert_array_equal(flip_and_rotate(image, number), expected)
    assert len({flip_and_rotate(image, number).tobytes() for number in range(8)}) == 8


def test_all_orientations_of_a_patch_are_drawn_equally_often() -> None:
    hu = np.zeros((1, 32, 32), np.float32)
    hu[:, 4:10, 2:30] = 100  # differs under each of the eight symmetries
    hu[:, 4:20, 2:6] = 200
    slices = pool_slices([replace(water_disc("A", 0, slices=1, side=32), hu=hu)])
    patches = PatchDataset(PatchSources((), slices), tiny_config())
    drawn = Counter(patches[number]["normal"].numpy().tobytes() for number in range(800))
    assert len(drawn) == 8
    assert min(drawn.values()) > 70
    assert max(drawn.values()) < 130


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    slices = pool_slices([water_disc("A", 10, slices=3)])
    first, again = (PatchDataset(PatchSources(slices, slices), tiny_config()) for _ in range(2))
    samples = [first[number] for number in range(6)]
    for number in (5, 0, 3):
        for name, patch in again[number].items():
            assert torch.equal(patch, samples[number][name])
    other = PatchDataset(PatchSources(slices, slices), tiny_config(seed=1))[0]
    assert not torch.equal(other["low"], samples[0]["low"])


def test_body_blocks_fill_the_lungs_and_leave_the_air() -> None:
    hu = np.full((128, 128), -1000.0, np.float32)
    hu[24:104, 16:112] = 40
    hu[48:80, 32:56] = -850  # a lung
    found = {tuple(block) for block in body_blocks(hu)}
    assert (7, 5) in found
    assert (1, 1) not in found
    assert len(found) == 10 * 12


def test_learning_rate_schedules() -> None:
    settings = tiny_config().training
    halve = settings.model_copy(update={"lr_schedule": "step", "lr_step_size": 100})
    assert [learning_rate_factor(halve, step, 0) for step in (0, 99, 100, 250)] == [1, 1, 0.5, 0.25]
    exponential = settings.model_copy(update={"lr_schedule": "exponential", "lr_step_size": 100})
    assert learning_rate_factor(exponential, 100, 0) == pytest.approx(np.exp(-1))
    cosine = settings.model_copy(update={"lr_schedule": "cosine"})
    assert learning_rate_factor(cosine, 0, 0.0) == pytest.approx(1)
    assert learning_rate_factor(cosine, 0, 1.0) == pytest.approx(0.01)


def test_models_that_cannot_be_used_are_told_plainly(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ldct-denoise models"):
        load_model(tmp_path / "nothing")
    (tmp_path / "bad.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="not a model file"):
        load_model(tmp_path / "bad.safetensors")
    for method, recipe in (("lir", "lir-ct"), ("redcnn", "redcnn")):
        with pytest.raises(ModelError, match=f"must be trained first: ldct-denoise train --config {recipe} "):
            load_model(method)
        load_config(recipe)
    with pytest.raises(ModelError, match="KEY=VALUE"):
        load_model("nlm:sigma_factor")
    with pytest.raises(ConfigError, match=r"^settings\.weights: .*settings of nlm: .*sigma_factor"):
        load_model("nlm:weights=2")


def test_a_method_without_training_takes_settings_in_its_name() -> None:
    model = load_model("bm3d:sigma_hu=100,sigma_estimator=wavelet")
    assert (model.name, model.method.settings.sigma_hu) == ("bm3d:sigma_hu=100,sigma_estimator=wavelet", 100)
    assert model.method.settings.sigma_estimator == "wavelet"
    assert model.checksum != load_model("bm3d").checksum


def test_pairs_take_part_by_position(tmp_path: Path) -> None:
    low, normal = water_disc("P1low", 60), water_disc("P1normal", 20)
    pool = Pools((low,), (normal,), pairs=(Pair("P1", "", low, normal, ((0, 2), (1, 1))),))
    from ldct_denoise.data.training_set import partner_positions

    assert partner_positions(pool, pool_slices(pool.low), pool_slices(pool.normal)) == {0: 2, 1: 1}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bf16_is_told_to_be_slow_where_the_cpu_has_no_instructions_for_it(
    precision: str, pools: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldct_denoise.distributed._cpu_instructions", lambda: {"avx2", "avx512f"})
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    told: list[str] = []
    train(
        tiny_config(iterations=1, precision=precision),
        pools,
        tmp_path / "run",
        device="cpu",
        report=lambda progress: told.append(progress.message),
    )
    assert any("slow here" in line for line in told) == (precision == "bf16")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not emulates_bf16(torch.device("cpu"))
