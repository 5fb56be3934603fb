"""A network sees the same values in training, validation, use, export and pipelines: HU clipped to its range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ldct_denoise import SliceDataset
from ldct_denoise.config import Config
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.training_set import TrainingSet, make_training_set
from ldct_denoise.export.network import HuModel
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import Scale
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.io.photos import GreyImage
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import Method, Settings
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.monai import DenoiseCT
from ldct_denoise.training.validation import restore_hu, validate
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry

RANGE = Scale(-160.0, 240.0)
SIDE = 112


class Recorder(Method[Settings]):
    """Keeps what it is given, and returns it."""

    Settings = Settings

    def __init__(self, scale: Scale) -> None:
        super().__init__(Settings(), scale)
        self.seen: list[torch.Tensor] = []

    def restore(self, image: torch.Tensor, seed: int = 0) -> torch.Tensor:
        self.seen.append(image.clone())
        return image


def scan(uid: str, noise_hu: float, slices: int = 12) -> Volume:
    """A disc of soft tissue in lung and bone, far outside a soft tissue range."""
    rng = np.random.default_rng(len(uid))
    down, along = np.mgrid[-SIDE // 2 : SIDE // 2, -SIDE // 2 : SIDE // 2]
    hu = np.where(down**2 + along**2 < 50**2, 40.0, 1200.0)
    hu[:12] = -850
    hu = hu + noise_hu * rng.standard_normal((slices, SIDE, SIDE))
    return Volume(hu.round(), axial_geometry(slices, SIDE, SIDE), uid, uid, uid)


def training_set(supervision: Supervision, noise_model: str = "random_nps", scale: Scale = RANGE) -> TrainingSet:
    low, normal = scan("low", 60), scan("normal", 15)
    pairs = (Pair("P", "", low, normal, tuple((index, index) for index in range(12))),)
    config = Config(
        range_hu={"low_hu": scale.low_hu, "high_hu": scale.high_hu},
        data={"noise_model": noise_model, "patch_size": 32},
    )
    paired = supervision is Supervision.SUPERVISED
    return make_training_set(
        config, Pools((low,), (normal,), pairs if paired else ()), supervision, uses_noise=not paired
    )


def network_input(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    return (hu.clip(-160, 240) + 160) / 400


@pytest.mark.parametrize("supervision", [Supervision.SUPERVISED, Supervision.UNPAIRED, Supervision.SELF])
def test_training_patches_lie_in_the_range(supervision: Supervision) -> None:
    patches = training_set(supervision).patches
    for number in range(20):
        sample = patches[number]
        images = [sample["low"]]
        if "normal" in sample:
            images.append(sample["normal"])
        if "noise" in sample:
            images.append(sample["normal"] + sample["noise"])
        for image in images:
            assert -1e-6 <= float(image.min()) <= float(image.max()) <= 1 + 1e-6
    lows = torch.stack([patches[number]["low"] for number in range(20)])
    assert (float(lows.min()), float(lows.max())) == (0, 1)  # lung and bone are there, clipped


def test_training_validation_use_export_and_pipelines_see_the_same_values() -> None:
    source = scan("low", 60)
    expected = network_input(source.hu)
    method = Recorder(RANGE)
    model = TrainedModel("recorder", method, "recorder", RANGE)

    def seen(index: int = -1) -> NDArray[np.float32]:
        image = method.seen[index].numpy()
        method.seen.clear()
        return image.reshape(-1, SIDE, SIDE)[0]

    list(restore_slices(source, model, ApplySettings(1.0, "cpu"), [0]))
    np.testing.assert_allclose(seen(), expected[0], atol=1e-6)
    restore_hu(method, RANGE, source.hu[:1], torch.device("cpu"))
    np.testing.assert_allclose(seen(), expected[0], atol=1e-6)
    exported = HuModel(model)
    exported(torch.from_numpy(source.hu[:1].copy())[None])
    image: Any = exported.method
    np.testing.assert_allclose(image.seen[-1].numpy()[0, 0], expected[0], atol=1e-6)
    DenoiseCT(model, strength=1.0)(source.hu[:1].transpose(0, 2, 1))
    np.testing.assert_allclose(seen(), expected[0], atol=1e-6)
    np.testing.assert_allclose(SliceDataset([source], window=RANGE)[0]["image"][0], expected[0], atol=1e-6)
    assert method.seen == []


def test_validation_restores_as_apply_does() -> None:
    images = training_set(Supervision.SUPERVISED).validation
    method = Recorder(RANGE)
    metrics = validate(method, images, torch.device("cpu"))
    for image in method.seen:
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert metrics.hu_bias
    assert all(abs(bias) < 1e-3 for bias in metrics.hu_bias.values())  # pixels outside the range keep their value


def test_an_identity_trained_on_a_window_gives_the_input_back() -> None:
    source = scan("low", 60)
    model = TrainedModel("recorder", Recorder(RANGE), "recorder", RANGE)
    restored = np.stack([hu for _, hu in restore_slices(source, model, ApplySettings(1.0, "cpu"))])
    np.testing.assert_allclose(restored, source.hu, atol=1e-3)
    again = restore_hu(model.method, RANGE, source.hu[:1], torch.device("cpu"))
    np.testing.assert_allclose(again, source.hu[0], atol=1e-3)


def test_the_whole_range_changes_nothing() -> None:
    hu = np.arange(-1024, 3073, dtype=np.float32)
    np.testing.assert_array_equal(Scale().to_input(hu), Scale().to_unit(hu))
    np.testing.assert_array_equal(Scale().to_input(torch.from_numpy(hu)).numpy(), Scale().to_unit(hu))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_values_outside_and_not_finite_ones_become_the_ends(kind: Any) -> None:
    hu = np.array([np.nan, -np.inf, np.inf, -3024, 5000, 40], np.float32)
    low = RANGE.to_input(kind(hu))
    np.testing.assert_allclose(np.asarray(low), [0, 0, 0, 0, 1, 0.5])
    np.testing.assert_allclose(np.asarray(RANGE.to_input(kind(hu), guard_range=False))[4], 5160 / 400)


def test_photographs_keep_their_noise_beyond_the_range(tmp_path: Path) -> None:
    import PIL.Image

    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.full((64, 64), 250, np.uint8)).save(path)
    source = GreyImage(path, axial_geometry(1, 64, 64), "P")
    config = Config(
        range_hu={"low_hu": 0, "high_hu": 255},
        data={"noise_model": "gaussian", "sigma": (50, 50), "patch_size": 32},
    )
    made = make_training_set(config, Pools((source,), (source,)), Supervision.UNPAIRED)
    assert float(made.patches[0]["low"].max()) > 1
    assert not made.validation.guard_range
    assert float(torch.stack([made.patches[n]["low"] for n in range(4)]).std()) > 0.15
