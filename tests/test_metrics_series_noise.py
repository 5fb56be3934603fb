"""Noise over real anatomy: the difference of two doses measures it, uniform regions overstate it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import noise_power_spectrum
from ldct_denoise.metrics.series_noise import SeriesNoise, measure_slice_noise
from ldct_denoise.metrics.unpaired_noise import RING_PER_MM
from ldct_denoise.regions.body import body_mask


def filtered_noise(rng, shape, sigma_px, std_hu):
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma_px, mode="wrap")
    return std_hu * noise / noise.std()


@pytest.fixture(scope="module")
def measured(shared_data):
    """Smoothed full-dose slices with noise of one shape: 10 HU (reference), 20 HU (input) and a denoised image."""
    series = find_images(shared_data / "mayo2016" / "L143" / "full_3mm").series[0]
    spacing = series.geometry.pixel_spacing_mm
    rng, gathered = np.random.default_rng(0), SeriesNoise(3.0)
    truth = {"reference": [], "input": [], "candidate": []}
    for index in range(len(series)):
        anatomy = ndimage.gaussian_filter(series.read_hu(index).astype(float), 2.0)
        noise = {
            name: filtered_noise(rng, anatomy.shape, 0.8, std) for name, std in (("reference", 10), ("input", 20))
        }
        noise["candidate"] = ndimage.gaussian_filter(noise["input"], 0.7)
        images = {name: anatomy + values for name, values in noise.items()}
        body = body_mask(anatomy, spacing)
        gathered.add(measure_slice_noise(images, anatomy, body, spacing, 30.0 * index, spectra=True))
        for name, values in noise.items():
            truth[name] += [values[i : i + 30, j : j + 30] for i in range(0, 480, 30) for j in range(0, 480, 30)]
    return gathered, {name: noise_power_spectrum(np.array(rois), spacing) for name, rois in truth.items()}


@pytest.mark.parametrize("name", ["reference", "input", "candidate"])
def test_the_difference_gives_noise_of_a_known_spectrum_over_real_anatomy(measured, name):
    gathered, truth = measured
    found, expected = gathered.results()[name], truth[name]
    assert found.is_free_of_anatomy
    assert found.noise_hu == pytest.approx(expected.variance_hu2**0.5, rel=0.06)
    radial = expected.radial(RING_PER_MM)
    coarse = radial.frequency < 0.15
    power = np.interp(radial.frequency, found.spectrum.frequency, found.spectrum.power)
    assert power[coarse].sum() == pytest.approx(radial.power[coarse].sum(), rel=0.25)


def test_uniform_regions_alone_overstate_coarse_noise_and_say_so(measured):
    gathered, truth = measured
    alone = SeriesNoise(3.0)
    alone._axes, alone._power, alone._rois = gathered._axes, gathered._power, gathered._rois
    alone._blotches = gathered._blotches
    found, radial = alone.results()["reference"], truth["reference"].radial(RING_PER_MM)
    assert not found.is_free_of_anatomy
    assert found.noise_hu > 1.02 * truth["reference"].variance_hu2 ** 0.5
    assert np.interp(0.1, found.spectrum.frequency, found.spectrum.power) > 1.2 * np.interp(
        0.1, radial.frequency, radial.power
    )


def test_full_dose_noise_of_the_mayo_pairs_agrees_with_their_difference(shared_data):
    """Noise of full dose from the pair's difference, with the level where anatomy is negligible."""
    folder = shared_data / "mayo2016" / "L143"
    full, low = (find_images(folder / name).series[0] for name in ("full_3mm", "quarter_3mm"))
    spacing, gathered, direct = full.geometry.pixel_spacing_mm, SeriesNoise(3.0), SeriesNoise(3.0)
    for index in range(3):
        images = {"reference": full.read_hu(index), "input": low.read_hu(index)}
        body = body_mask(images["reference"], spacing)
        gathered.add(measure_slice_noise(images, images["reference"], body, spacing, 40.0 * index, True))
        only = {"reference": images["reference"]}
        direct.add(measure_slice_noise(only, images["reference"], body, spacing, 40.0 * index, True))
    pair, alone = gathered.results()["reference"], direct.results()["reference"]
    assert pair.is_free_of_anatomy
    assert not alone.is_free_of_anatomy
    assert pair.noise_hu <= alone.noise_hu
    assert pair.spectrum.power[0] < alone.spectrum.power[0]
