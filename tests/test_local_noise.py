"""Noise map: a known field of noise over anatomy, and the difference of real pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.local_noise import NEIGHBOURHOOD_MM, local_noise_map, local_std
from ldct_denoise.metrics.noise import noise_power_spectrum
from ldct_denoise.metrics.unpaired_noise import merge_stacks, noise_limits, stack_rois
from ldct_denoise.regions.body import body_mask
from ldct_denoise.report.noise_map import noise_map_pictures

SPACING = (0.8, 0.8)
SIDE = 320


@pytest.fixture(scope="module")
def field():
    """A body with 100 vessels and a bone; noise of 8 to 24 HU, largest beside the centre; the noise's spectrum."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    sigma = 8 + 16 * np.exp(-((rows - 160) ** 2 + (columns - 200) ** 2) / (2 * 70**2))
    white = rng.normal(size=(SIDE, SIDE))
    noise = white - ndimage.gaussian_filter(white, 2.0, mode="wrap")
    noise = ndimage.gaussian_filter(noise, 0.7, mode="wrap")
    noise /= noise.std()
    hu = np.full((SIDE, SIDE), 50.0)
    for _ in range(100):
        row, column, size = rng.uniform(50, 270), rng.uniform(50, 270), rng.uniform(1, 4)
        hu[(rows - row) ** 2 + (columns - column) ** 2 < size**2] += rng.uniform(40, 120)
    hu[(rows - 230) ** 2 + (columns - 160) ** 2 < 18**2] = 600
    body = np.hypot(rows - 160, columns - 160) < 145
    hu = ndimage.gaussian_filter(np.where(body, hu, -1000.0), 0.8)
    rois = np.array([noise[i : i + 30, j : j + 30] for i in range(0, 300, 30) for j in range(0, 300, 30)])
    return hu + sigma * noise, body, sigma, noise_power_spectrum(rois, SPACING)


def test_the_map_gives_a_known_field_of_noise_despite_vessels_and_bone(field):
    hu, body, sigma, spectrum = field
    found = local_noise_map(hu, body, SPACING, spectrum)
    measured = np.isfinite(found)
    assert measured.sum() > 0.8 * body.sum()
    assert not measured[~body].any()
    assert not measured[225:235, 140:144].any()  # at the edge of the bone
    ratio = (found / sigma)[measured]
    assert np.median(ratio) == pytest.approx(1, abs=0.04)
    assert np.quantile(ratio, [0.05, 0.95]) == pytest.approx([1, 1], abs=0.12)
    assert sigma.max() / sigma.min() > 2.9
    # The standard deviation of squares takes the vessels for noise.
    squares = np.sqrt(ndimage.uniform_filter(hu**2, 9) - ndimage.uniform_filter(hu, 9) ** 2)
    assert np.quantile((squares / sigma)[measured], 0.95) > 1.5


@pytest.mark.parametrize(("patient", "kernel"), [("L143", ""), ("L096", "_sharp")])
def test_the_map_of_quarter_dose_agrees_with_the_difference_of_the_pair(shared_data, patient, kernel):
    """Local standard deviation of quarter − full dose, whose variance is 1/1.14 of that of quarter dose."""
    folder = shared_data / "mayo2016" / patient
    full, quarter = (find_images(folder / f"{name}_3mm{kernel}").series[0] for name in ("full", "quarter"))
    spacing, stacks = full.geometry.pixel_spacing_mm, []
    for index in range(4):
        hu = quarter.read_hu(index)
        stacks.append(stack_rois({"quarter": hu}, "quarter", body_mask(hu, spacing), spacing))
    noise = noise_limits(merge_stacks(stacks), "quarter", spacing)
    for index in (0, 2):
        hu, difference = quarter.read_hu(index), quarter.read_hu(index) - full.read_hu(index)
        found = local_noise_map(hu, body_mask(hu, spacing), spacing, noise.lower)
        measured = np.isfinite(found)
        truth = 1.14**0.5 * local_std(difference, measured, NEIGHBOURHOOD_MM, spacing)
        ratio = (found / truth)[measured]
        assert np.median(ratio) == pytest.approx(1, abs=0.06)
        assert np.quantile(ratio, [0.05, 0.95]) == pytest.approx([1, 1], abs=0.2)
        assert np.corrcoef(np.log(found[measured]), np.log(truth[measured]))[0, 1] > 0.92


def test_the_report_shows_both_maps_on_one_scale(field):
    hu, body, _, _ = field
    stack = stack_rois({"a": hu}, "a", body, SPACING)
    noise = noise_limits(stack, "a", SPACING)
    pictures = noise_map_pictures({"input": (hu, noise), "output": (0.5 * (hu - 50) + 50, noise)}, SPACING)
    low, high = (
        [float(text) for text in p.caption.split(": ")[1].split(" HU")[0].split(" to ")] for p in pictures
    )
    assert high == pytest.approx([value / 2 for value in low], rel=0.05)
    assert all("hatched: not measured" in picture.caption for picture in pictures)
    assert noise_map_pictures({"air": (np.full((64, 64), -1000.0), noise)}, SPACING) == []
