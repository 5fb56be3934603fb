"""Noise by content, measured from two unpaired pools, against noise that was put there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.config import DataConfig
from ldct_denoise.data.noise import noise_of_pool
from ldct_denoise.physics.content_noise import (
    LUNG,
    SOFT_TISSUE,
    ContentNoise,
    ImageWithSpacing,
    measure_content_noise,
)
from ldct_denoise.physics.noise import NoiseModel
from ldct_denoise.volume import Geometry, SeriesMetadata, Volume

SPACING, SIDE = (0.75, 0.75), 160
MODEL = NoiseModel("B30f", np.array([0.1, 0.3, 0.5, 0.65]), np.array([0.3, 1.0, 0.6, 0.2]), np.array([20.0]))


def slices(seed: int, count: int = 4, noise_hu: float = 0.0, in_lung: float = 1.0) -> list[ImageWithSpacing]:
    """Lung beside textured soft tissue, with noise whose level in lung is ``in_lung`` times that in soft tissue."""
    rng = np.random.default_rng(seed)
    images: list[ImageWithSpacing] = []
    for field in MODEL.draw_fields(count, SIDE, SIDE, SPACING, rng):
        texture = 8 * ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.5)
        lung = np.arange(SIDE)[:, None] < SIDE // 2
        anatomy = np.where(lung, -870.0, 30.0) + texture
        level = noise_hu * np.where(lung, in_lung, 1.0)
        images.append(((anatomy + level * field).astype(np.float32), SPACING))
    return images


@pytest.mark.parametrize("in_lung", [0.5, 2.0])
def test_noise_that_differs_in_lung_is_measured_and_drawn(in_lung: float) -> None:
    low, normal = slices(1, noise_hu=20.0, in_lung=in_lung), slices(2)
    content = measure_content_noise(low, normal, MODEL, 20.0)
    assert content is not None
    assert np.median(content.factors[0, SOFT_TISSUE]) == pytest.approx(1.0, rel=0.1)
    assert np.median(content.factors[0, LUNG]) == pytest.approx(in_lung, rel=0.1)
    fields = MODEL.draw_fields(8, SIDE, SIDE, SPACING, np.random.default_rng(3))
    for is_measured in (True, False):
        drawn = content.apply(fields, normal[0][0], SPACING, is_measured)
        assert drawn[:, 20:60].std() == pytest.approx(in_lung, rel=0.12)
        assert drawn[:, 100:140].std() == pytest.approx(1.0, rel=0.12)


def test_a_wrong_spectrum_is_corrected_band_by_band() -> None:
    """The model says that the noise is soft; the pools say that it is as in MODEL."""
    soft = NoiseModel("B30f", MODEL.frequencies_per_mm, np.array([1.0, 0.5, 0.05, 0.0]), MODEL.sigma_hu)
    content = measure_content_noise(slices(1, noise_hu=20.0), slices(2), soft, 20.0)
    assert content is not None
    fine = [
        field - ndimage.gaussian_filter(field, 0.6)
        for field in MODEL.draw_fields(4, SIDE, SIDE, SPACING, np.random.default_rng(4))
    ]
    uncorrected = soft.draw_fields(4, SIDE, SIDE, SPACING, np.random.default_rng(5))
    corrected = content.apply(uncorrected, slices(2)[0][0], SPACING)
    wrong, right = (
        [field - ndimage.gaussian_filter(field, 0.6) for field in part] for part in (uncorrected, corrected)
    )
    assert np.std(wrong) < 0.7 * np.std(fine)
    assert np.std(right) > 0.8 * np.std(fine)  # the bands overlap


def test_nothing_is_claimed_where_noise_cannot_be_told_from_anatomy() -> None:
    assert measure_content_noise(slices(1, count=2, noise_hu=20.0), slices(2), MODEL, 20.0) is None
    assert measure_content_noise(slices(1), slices(2), MODEL, 20.0) is None
    assert measure_content_noise(slices(1), slices(2, noise_hu=20.0), MODEL, 20.0) is None


def test_classes_without_pixels_have_the_factor_of_the_nearest_class() -> None:
    content = measure_content_noise(slices(1, noise_hu=20.0, in_lung=0.5), slices(2), MODEL, 20.0)
    assert content is not None
    assert content.factors[0, -1] == pytest.approx(np.median(content.factors[0, SOFT_TISSUE]), rel=0.2)
    assert content.factors[0, 0] == pytest.approx(np.median(content.factors[0, LUNG]), rel=0.2)
    assert "in lung" in content.summary()


def volume(images: list[ImageWithSpacing], name: str, kernel: str) -> Volume:
    positions = np.array([[0, 0, 3.0 * number] for number in range(len(images))])
    geometry = Geometry(positions, (1, 0, 0), (0, 1, 0), SPACING, SIDE, SIDE)
    return Volume(np.stack([hu for hu, _ in images]), geometry, name, name, name, SeriesMetadata(kernel=kernel))


def test_the_sampler_draws_it_for_kernels_that_both_pools_have() -> None:
    low = volume(slices(1, noise_hu=20.0, in_lung=2.0), "low", "B30f")
    normal, other = volume(slices(2), "normal", "B30f"), volume(slices(3), "other", "B70f")
    config = DataConfig(noise_model="nps", noise_level_factors=(1.0, 1.0), target_noise_fraction=0.0)
    lung = np.full((64, 64), -870.0, np.float32)
    levels = {}
    for is_on in (False, True):
        said: list[str] = []
        sampler = noise_of_pool(
            [low], [normal, other], config.model_copy(update={"noise_by_content": is_on}), said.append
        )
        assert ("by content" in " ".join(said)) is is_on
        levels[is_on] = sampler.sample(normal, lung, np.random.default_rng(0)).hu.std()
    assert levels[False] == pytest.approx(20.0, rel=0.2)
    assert levels[True] == pytest.approx(40.0, rel=0.2)
    assert set(sampler.content_noise) == {"B30f"}
    assert isinstance(sampler.content_noise["B30f"], ContentNoise)
