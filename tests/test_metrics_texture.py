"""The mean noise frequency and its shift are those of known filters of white noise."""

from __future__ import annotations

import numpy as np
import pytest

from ldct_denoise.metrics.checks import check_texture
from ldct_denoise.metrics.noise import noise_power_spectrum
from ldct_denoise.metrics.texture import mean_noise_frequency, texture_shift

SPACING_MM = 0.7
SIDE_PX = 34
FILTERS = {
    "white": lambda f: np.ones_like(f),
    "sharp kernel": lambda f: f * np.exp(-((f / 0.3) ** 2)) + 1e-6,
    "blurred by 0.5 mm": lambda f: np.exp(-4 * (np.pi * 0.5 * f) ** 2),
    "blurred by 1 mm": lambda f: np.exp(-4 * (np.pi * 1.0 * f) ** 2),
    "sharp kernel, blurred by 1 mm": lambda f: f * np.exp(-((f / 0.3) ** 2) - 4 * (np.pi * f) ** 2) + 1e-9,
}


def truth(power):
    frequency = np.linspace(0, 0.5 / SPACING_MM, 4000)
    return np.sum(frequency * power(frequency)) / np.sum(power(frequency))


def measured(power, white, side_px=SIDE_PX):
    """Mean frequency of filtered white noise, cut into ROIs that are not periodic."""
    axis = np.fft.fftfreq(white.shape[-1], SPACING_MM)
    gain = np.sqrt(power(np.hypot(axis[:, None], axis)))
    images = np.fft.ifft2(np.fft.fft2(white) * gain).real + 40
    starts = range(0, white.shape[-1] - side_px, side_px)
    rois = np.array([hu[r : r + side_px, c : c + side_px] for hu in images for r in starts for c in starts])
    return mean_noise_frequency(noise_power_spectrum(rois, (SPACING_MM, SPACING_MM)))


@pytest.fixture(scope="module")
def found():
    white = np.random.default_rng(0).normal(size=(2, 512, 512))
    return {name: measured(power, white) for name, power in FILTERS.items()}


@pytest.mark.parametrize("name", FILTERS)
def test_the_mean_frequency_is_that_of_the_filter(found, name):
    assert found[name] == pytest.approx(truth(FILTERS[name]), rel=0.09)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("white", "blurred by 0.5 mm"),  # −50 %
        ("white", "blurred by 1 mm"),
        ("sharp kernel", "sharp kernel, blurred by 1 mm"),
        ("white", "sharp kernel"),
    ],
)
def test_the_shift_of_the_mean_frequency_is_not_understated(found, before, after):
    shift, expected = found[after] / found[before] - 1, truth(FILTERS[after]) / truth(FILTERS[before]) - 1
    assert shift == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(("after", "status"), [(0.30, "green"), (0.26, "green"), (0.24, "amber"), (0.19, "red")])
def test_the_texture_is_judged_by_what_commercial_products_publish(after, status):
    assert check_texture((after / 0.30 - 1,) * 2).status == status


def test_anatomy_in_the_regions_does_not_look_like_coarse_noise():
    """Noise of a sharp kernel over coarse anatomy of two thirds of what remains, scaled to 0.3 (no shift) or blurred (−53 %)."""
    rng = np.random.default_rng(3)
    white = rng.normal(size=(80, 4 * SIDE_PX, 4 * SIDE_PX))
    axis = np.fft.fftfreq(white.shape[-1], SPACING_MM)
    frequency = np.hypot(axis[:, None], axis)
    middle = slice(SIDE_PX, 2 * SIDE_PX)

    def filtered(values, power):
        return np.fft.ifft2(np.fft.fft2(values) * np.sqrt(power(frequency))).real[:, middle, middle]

    noise = 40 * filtered(white, FILTERS["sharp kernel"])
    blurred = 40 * filtered(white, FILTERS["sharp kernel, blurred by 1 mm"])
    anatomy = 25 * filtered(rng.normal(size=white.shape), lambda f: np.exp(-4 * (np.pi * 3 * f) ** 2))
    least, largest = texture_shift(anatomy + noise, anatomy + 0.3 * noise, (SPACING_MM, SPACING_MM))
    assert least == pytest.approx(0, abs=0.08)
    assert largest < -0.2
    expected = truth(FILTERS["sharp kernel, blurred by 1 mm"]) / truth(FILTERS["sharp kernel"]) - 1
    least, largest = texture_shift(anatomy + noise, anatomy + blurred, (SPACING_MM, SPACING_MM))
    assert largest < expected < least < -0.32
    same = texture_shift(anatomy + noise, anatomy + noise, (SPACING_MM, SPACING_MM))
    assert same == (0, 0)


def test_regions_may_have_an_odd_side():
    white = np.random.default_rng(0).normal(size=(2, 512, 512))
    power = FILTERS["blurred by 0.5 mm"]
    assert measured(power, white, SIDE_PX + 1) == pytest.approx(truth(power), rel=0.05)


def test_no_power_has_no_frequency():
    assert np.isnan(mean_noise_frequency(noise_power_spectrum(np.zeros((1, 34, 34)), (0.7, 0.7))))
