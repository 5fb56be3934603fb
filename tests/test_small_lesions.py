"""docs/research/small_lesions.py: the bound and the counts that the page on small lesions is built on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ldct_denoise.metrics.noise import RadialSpectrum
from ldct_denoise.phantoms.insertion import InsertedLesion, disc

SCRIPT = Path(__file__).parents[1] / "docs" / "research" / "small_lesions.py"
SPACING_MM = (0.8, 0.8)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("small_lesions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def white(script: ModuleType, sigma_hu: float) -> Any:
    """White noise: its spectrum is the variance times the area of a pixel."""
    power = sigma_hu**2 * np.prod(SPACING_MM)
    return script.Noise(RadialSpectrum(np.array([0.1, 1.0]), np.array([power, power])), SPACING_MM)


def test_ideal_observer_of_white_noise_sums_the_squares_of_the_lesion(script: ModuleType) -> None:
    lesion = InsertedLesion("soft tissue", 5, -20)
    image = 20 * disc(5, SPACING_MM, 128, 0.5)
    expected = np.sqrt(np.sum((image - image.mean()) ** 2)) / 30
    found = script.ideal_observer(white(script, 30), lesion, 0.5, side=128)
    assert found.z == pytest.approx(expected, rel=1e-6)


def test_ideal_observer_marks_fewer_false_spots_where_the_lesion_is_easier(script: ModuleType) -> None:
    easy, hard = (
        script.ideal_observer(white(script, sigma), InsertedLesion("soft tissue", 5, -20), 0.5, side=128)
        for sigma in (30, 60)
    )
    assert easy.z == pytest.approx(2 * hard.z)
    assert easy.false_spots_per_100_cm2 < 0.1 * hard.false_spots_per_100_cm2


def test_drawn_noise_has_the_level_and_the_spectrum_asked_for(script: ModuleType) -> None:
    fields = white(script, 30).draw(4, 128, seed=0)
    assert fields.std() == pytest.approx(30, rel=0.01)
    again = script.Noise.of_pair(fields, SPACING_MM).of_low_dose()
    assert np.sqrt(again.draw(4, 128, seed=1).var() * script.ADDED_SHARE) == pytest.approx(30, rel=0.03)


def test_extrema_are_counted_bright_and_dark_per_area(script: ModuleType) -> None:
    image = np.full((1, 240, 240), 50.0)
    image[0, 60, 60], image[0, 120, 150], image[0, 180, 100] = 4000, -4000, 300  # the last stays below 8 HU
    image[0, 5, 5] = 4000  # in the border
    searched_cm2 = (200 * 0.8) ** 2 / 100
    assert script.extrema_per_100_cm2(image, SPACING_MM) == pytest.approx(2 / searched_cm2 * 100)


def test_lesion_band_keeps_coarse_and_drops_fine_structure(script: ModuleType) -> None:
    x = np.arange(128) * 0.8
    coarse, fine = (np.tile(np.cos(2 * np.pi * f * x), (128, 1)) for f in (4 / 102.4, 48 / 102.4))
    assert np.allclose(script.lesion_band(coarse, SPACING_MM), np.exp(-((4 / 102.4 / 0.19) ** 2)) * coarse)
    assert np.abs(script.lesion_band(fine, SPACING_MM)).max() < 0.01
