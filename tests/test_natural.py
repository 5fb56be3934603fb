"""Grey natural images: pools, noise laws, and the tables of the literature."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldct_denoise.config import load_config
from ldct_denoise.data.pools import Pools, pools_from_images
from ldct_denoise.data.training_set import make_training_set
from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.evaluation.compare import compare_on_images
from ldct_denoise.io.photos import NoisyImage, noise_for, open_images
from ldct_denoise.methods import Supervision
from ldct_denoise.models.trained import load_model
from ldct_denoise.training.loop import train
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(6):
        grey = np.random.default_rng(number).integers(60, 200, (50 + number, 64)).astype(np.uint8)
        Image.fromarray(np.repeat(np.repeat(grey[::8, ::8], 8, 0), 8, 1)).save(
            tmp_path / "images" / f"{number}.png"
        )
    return tmp_path / "images"


def test_noise_laws_have_their_variance() -> None:
    clean = np.full((400, 400), 100, np.float32)
    rng = np.random.default_rng(0)
    assert noise_for(clean, "gaussian", 25, rng).std() == pytest.approx(25, rel=0.01)
    poisson = noise_for(clean, "poisson", 2, rng)
    assert poisson.mean() == pytest.approx(0, abs=0.15)
    assert poisson.var() == pytest.approx(200, rel=0.02)


def test_the_same_noise_at_every_reading_and_another_for_another_seed(folder: Path) -> None:
    clean = open_images(folder)[0]
    first, again, other = (NoisyImage(clean, "gaussian", 25, seed).read_hu(0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 10


def test_poisson_noise_is_turned_with_the_grey_values_that_it_belongs_to() -> None:
    """Half of an image at 10, half at 240, a photon being 8 grey values: variance 80 and 1920, augmented or not."""
    grey = np.full((1, 64, 64), 10, np.float32)
    grey[:, :, 32:] = 240
    config = load_config("natural-poisson", ["data.sigma=[8,8]"])
    place = axial_geometry(1, 64, 64, (3.0, 1.0, 1.0))
    pools = Pools((Volume(grey, place, "a"),), (Volume(grey, place, "b"), Volume(grey, place, "c")))
    patches = make_training_set(config, pools, Supervision.UNPAIRED).patches
    samples = [patches[number] for number in range(60)]
    clean, noise = (torch.stack([one[name] for one in samples]).numpy() * 255 for name in ("normal", "noise"))
    assert noise[clean < 100].var() == pytest.approx(80, rel=0.05)
    assert noise[clean > 100].var() == pytest.approx(1920, rel=0.05)


def test_photographs_without_noise_or_number_teach_nothing(folder: Path, tmp_path: Path) -> None:
    config = load_config("redcnn", ["data.patch_size=32"])
    with pytest.raises(ConfigError, match=r"data\.noise_model"):
        make_training_set(config, pools_from_images(folder, Supervision.SUPERVISED), Supervision.SUPERVISED)
    with pytest.raises(ConfigError, match="needs CT noise"):
        load_config("lir-quick", ["data.noise_model=gaussian", "data.simulated_dose=[0.2,0.3]"])
    alone = tmp_path / "one"
    alone.mkdir()
    shutil.copy(next(folder.iterdir()), alone)
    with pytest.raises(InputError, match="one image"):
        pools_from_images(alone, Supervision.UNPAIRED)


def test_two_images_of_one_name_are_two_images(folder: Path, tmp_path: Path) -> None:
    image = next(iter(sorted(folder.iterdir())))
    shutil.copy(image, tmp_path)
    uids = {one.uid for one in (*open_images(folder), *open_images(tmp_path))}
    assert len(uids) == len(open_images(folder)) + 1


def test_unpaired_pools_share_no_image_and_paired_ones_are_partners(folder: Path) -> None:
    pools = pools_from_images(folder, Supervision.UNPAIRED)
    assert not {s.uid for s in pools.low} & {s.uid for s in pools.normal}
    assert len(pools.low) == len(pools.normal) == 3
    config = load_config("natural-lir", ["data.patch_size=32"])
    sample = make_training_set(
        config, pools_from_images(folder, Supervision.SUPERVISED), Supervision.SUPERVISED
    ).patches[0]
    noise = (sample["low"] - sample["normal"]) * 255
    assert 4 < float(noise.std()) < 52
    twice = make_training_set(
        config, pools_from_images(folder, Supervision.NOISE2NOISE), Supervision.NOISE2NOISE
    ).patches[0]
    assert float((twice["low"] - twice["normal"]).std()) * 255 > 5
    assert float(np.diff(twice["normal"].numpy()).std()) * 255 > 5
    with pytest.raises(InputError, match="no image files"):
        open_images(folder.parent)


def test_training_and_measuring_on_images(folder: Path, tmp_path: Path) -> None:
    changes = [
        "training.iterations=2",
        "training.batch_size=2",
        "data.patch_size=32",
        "settings.base_channels=4",
        "settings.discriminator_channels=4",
    ]
    config = load_config("natural-lir", changes)
    train(config, pools_from_images(folder, Supervision.UNPAIRED), tmp_path / "run", device="cpu")
    result = compare_on_images(folder, [load_model(tmp_path / "run")], noise_sigma=25)
    values = result.values("input", "grey", "image", "psnr")
    assert len(values) == 6
    assert np.mean(list(values.values())) == pytest.approx(20 * np.log10(255 / 25), abs=0.1)
    assert len(result.values("run", "grey", "image", "ssim")) == 6


def test_a_method_that_draws_no_noise_is_judged_by_the_law_of_the_low_pool(folder: Path, tmp_path: Path) -> None:
    changes = ["training.iterations=2", "training.validate_every=1", "training.batch_size=2", "data.patch_size=32"]
    changes += ["range_hu.low_hu=0", "range_hu.high_hu=255", "data.noise_model=gaussian"]
    changes += ["settings.base_channels=4", "settings.discriminator_channels=4"]
    said: list[str] = []
    train(
        load_config("cyclegan", changes),
        pools_from_images(folder, Supervision.UNPAIRED),
        tmp_path / "run",
        device="cpu",
        report=lambda event: said.append(event.message),
    )
    assert any("synthetic pairs" in message for message in said)
    assert "score" in load_model(tmp_path / "run").card["validation"]


@pytest.mark.slow
def test_the_noisy_bsd68_is_that_of_the_literature(shared_data: Path) -> None:
    """σ = 25 gives 20.17 dB on any image: 20 log10(255 / 25)."""
    images = open_images(shared_data / "natural" / "bsd68")
    assert len(images) == 68
    errors = [NoisyImage(image, "gaussian", 25, 0).read_hu(0) - image.read_hu(0) for image in images[:10]]
    psnr = [20 * np.log10(255 / np.sqrt(np.mean(error**2))) for error in errors]
    assert np.mean(psnr) == pytest.approx(20.17, abs=0.02)
