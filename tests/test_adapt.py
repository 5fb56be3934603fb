"""Adaptation to one's own pools: the estimate of the error without pairs, and what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldct_denoise.config import DataConfig, load_config
from ldct_denoise.data.noise import noise_of_pool
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.slices import pool_slices
from ldct_denoise.distributed import join_world
from ldct_denoise.errors import ConfigError, InputError, OutputError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods.base import Method, Settings
from ldct_denoise.models.trained import load_model, save_model
from ldct_denoise.training.adapt import adapt
from ldct_denoise.training.duration import duration_notes
from ldct_denoise.training.loop import train
from ldct_denoise.training.unpaired_risk import CROP_SIDE, estimated_rmse_hu, low_dose_cases
from tests.synthetic import saved_weights, tiny_config
from tests.test_content_noise import slices, volume

NOISE_HU = 30.0
SMALL = ("data.patch_size=32", "training.iterations=20", "training.learning_rate=3e-3", "training.precision=fp32")


class Smooth(Method[Settings]):
    """A blend of the image and its mean over 3×3 pixels."""

    Settings = Settings

    def __init__(self, share: float) -> None:
        super().__init__(Settings(), Scale())
        self.share = share

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        smooth = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
        return self.share * smooth + (1 - self.share) * image


@pytest.fixture(scope="module")
def images() -> Pools:
    """Low dose with less noise in lung, and normal dose of another patient."""
    low = volume(slices(1, noise_hu=NOISE_HU, in_lung=0.7), "low", "B30f")
    return Pools((low,), (volume(slices(2), "normal", "B30f"),))


@pytest.fixture(scope="module")
def model(images: Pools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train(tiny_config(iterations=1, learning_rate=1e-9), images, folder, device="cpu")
    return folder


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_error_is_estimated_without_pairs(images: Pools, share: float) -> None:
    config = DataConfig(noise_model="nps", noise_by_content=True, target_noise_fraction=0.0)
    noise = noise_of_pool(images.low, images.normal, config)
    cases = low_dose_cases(pool_slices(images.low), noise, 0.0)
    assert len(cases) == 4
    method = Smooth(share).eval()
    estimate = estimated_rmse_hu(method, Scale(), cases, torch.device("cpu"))
    truth = volume(slices(1), "truth", "B30f")  # the same anatomy without noise
    squares = []
    for index, case in enumerate(cases):
        clean = truth.read_hu(index)[:CROP_SIDE, :CROP_SIDE]
        unit = torch.from_numpy(Scale().to_unit(case.hu))[None, None]
        restored = np.asarray(Scale().to_hu(method.restore(unit)))[0, 0]
        squares.append(np.square(restored - clean)[case.body].mean())
    assert estimate == pytest.approx(np.sqrt(np.mean(squares)), rel=0.15)


def test_a_model_is_adapted_where_its_error_falls(images: Pools, model: Path, tmp_path: Path) -> None:
    result = adapt(model, images, tmp_path / "run", changes=SMALL, device="cpu")
    assert result.accepted
    assert result.before is not None
    assert result.after is not None
    assert result.after.low_dose_hu < result.before.low_dose_hu
    before, after = saved_weights(model), saved_weights(tmp_path / "run")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert load_model(result.model).card["adaptation"]["accepted"] is True
    assert result.summary().startswith("adapted: error on your low-dose images")


def test_a_model_is_left_as_it_was_where_adapting_harms(
    images: Pools, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training in between is one that makes noise worse: the output is 1.5 times the input's deviation."""

    def harm(config: object, pools: Pools, output: Path, **settings: object) -> None:
        train(tiny_config(iterations=1), pools, output, device="cpu")
        harmed = load_model(output)
        with torch.no_grad():
            harmed.method.g_y.last.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
        save_model(output / "model.safetensors", "lir", harmed.method, harmed.card)

    monkeypatch.setattr("ldct_denoise.training.adapt.train", harm)
    result = adapt(model, images, tmp_path / "run", changes=SMALL, device="cpu")
    assert not result.accepted
    assert result.before is not None
    assert result.after is not None
    assert result.after.low_dose_hu > result.before.low_dose_hu
    before, after = saved_weights(model), saved_weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_model(tmp_path / "run").checksum == load_model(model).checksum
    assert "left as it was" in result.summary()


def test_noise_that_cannot_be_added_is_noticed(images: Pools, model: Path, tmp_path: Path) -> None:
    """As an iterative reconstruction leaves it: twice as strong in lung as in uniform tissue."""
    low = volume(slices(1, noise_hu=NOISE_HU, in_lung=2.0), "low", "B30f")
    result = adapt(model, Pools((low,), images.normal), tmp_path / "run", changes=SMALL, device="cpu")
    assert not result.accepted
    assert result.content_ratio == pytest.approx(2.0, rel=0.15)
    assert "iterative reconstruction" in result.summary()
    before, after = saved_weights(model), saved_weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(OutputError):
        adapt(model, images, tmp_path / "run", changes=SMALL, device="cpu")


def test_pools_and_models_that_cannot_be_used_are_refused(images: Pools, model: Path, tmp_path: Path) -> None:
    other = Pools(images.low, (volume(slices(2), "normal", "B70f"),))
    with pytest.raises(InputError, match="three slices of one kernel"):
        adapt(model, other, tmp_path / "run", changes=SMALL, device="cpu")
    with pytest.raises(ConfigError, match="give one of lir"):
        adapt("bm3d:sigma_hu=20", images, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_long_runs_say_how_long_they_take() -> None:
    tiny = tiny_config(iterations=6)
    long = tiny.model_copy(update={"training": tiny.training.model_copy(update={"iterations": 100_000})})
    with join_world("cpu") as world:
        assert duration_notes(tiny, world, True) == []
        (note,) = duration_notes(long, world, True)
    assert note.startswith("100000 steps take about ")
    assert load_config("lir-paper").training.iterations >= 100_000
