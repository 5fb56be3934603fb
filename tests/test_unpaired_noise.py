"""Noise without a pair: limits that hold the truth, and no loss where an image chooses its own regions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.evaluation.evaluate import noise_entries
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import find_uniform_rois, noise_power_spectrum
from ldct_denoise.metrics.series_noise import SeriesNoise, measure_slice_noise
from ldct_denoise.metrics.unpaired_noise import (
    RING_PER_MM,
    candidate_rois,
    merge_stacks,
    noise_limits,
    stack_rois,
)
from ldct_denoise.regions.body import body_mask
from ldct_denoise.report.numbers import between

SPACING = (0.8, 0.8)


def reconstruction_noise(rng, side, std_hu, cutoff_per_mm=0.35):
    """Noise with the spectrum f·exp(−(f/cutoff)²) of filtered back-projection."""
    frequency = np.hypot(np.fft.fftfreq(side, SPACING[0])[:, None], np.fft.rfftfreq(side, SPACING[1])[None])
    amplitude = np.sqrt(frequency * np.exp(-((frequency / cutoff_per_mm) ** 2)))
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * amplitude, s=(side, side))
    return std_hu * noise / noise.std()


def power_below(spectrum, per_mm):
    radial = spectrum.radial(RING_PER_MM)
    return radial.power[radial.frequency < per_mm].sum()


def limits_of(images, guide, spacing):
    stacks = [stack_rois(one, guide, body_mask(one[guide], spacing), spacing) for one in images]
    return merge_stacks([stack for stack in stacks if stack is not None])


def test_an_image_that_chooses_its_own_regions_loses_no_noise():
    """Uniform body: one half of the frequencies chooses, so that the other keeps all its power."""
    rng, rows, loss = np.random.default_rng(0), np.hypot(*(np.mgrid[:320, :320] - 160)), []
    images = [{"a": np.where(rows < 150, 50.0, -1000.0) + reconstruction_noise(rng, 320, 20)} for _ in range(8)]
    truth = noise_power_spectrum(
        np.array([one["a"][roi] for one in images for roi in candidate_rois(one["a"], rows < 150, SPACING)]),
        SPACING,
    )
    found = noise_limits(limits_of(images, "a", SPACING), "a", SPACING)
    assert found.noise_hu == pytest.approx((20, 20), rel=0.03)
    assert power_below(found.upper, 0.12) == pytest.approx(power_below(truth, 0.12), rel=0.12)
    assert found.mean_frequency_per_mm[1] / found.mean_frequency_per_mm[0] < 1.08
    for one in images:
        rois = find_uniform_rois(one["a"], rows < 150, 30, 4)
        loss.append(power_below(noise_power_spectrum(np.array([one["a"][r] for r in rois]), SPACING), 0.12))
    assert np.mean(loss) < 0.8 * power_below(truth, 0.12)


def textured_body(rng, side=320):
    """A body whose tissue has vessels and a texture with the spectrum f⁻³ that is strong in one half."""
    rows, columns = np.mgrid[:side, :side]
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    shape = np.fft.rfft2(rng.normal(size=(side, side))) * np.maximum(frequency, 1 / side) ** -1.5
    texture = np.fft.irfft2(shape * (frequency < 0.15), s=(side, side))
    hu = 50 + 12 * texture / texture.std() * np.clip((columns - 100) / 100, 0.05, 1)
    for _ in range(60):
        row, column, size = rng.uniform(60, 260), rng.uniform(120, 260), rng.uniform(2, 5)
        hu[(rows - row) ** 2 + (columns - column) ** 2 < size**2] += rng.uniform(40, 120)
    hu[np.hypot(rows - side / 2, columns - side / 2) > 0.45 * side] = -1000
    return ndimage.gaussian_filter(hu, 0.8)


def test_the_limits_hold_noise_of_a_known_spectrum_in_textured_tissue():
    """The noise of a reconstruction is at the lower limit; that of its blurred version is between them."""
    rng, images, alone = np.random.default_rng(1), [], {"raw": [], "smooth": []}
    for _ in range(8):
        anatomy, noise = textured_body(rng), {"raw": reconstruction_noise(rng, 320, 15)}
        noise["smooth"] = 0.7 * ndimage.gaussian_filter(noise["raw"], 1.0)
        images.append({name: anatomy + values for name, values in noise.items()})
        for name, values in noise.items():
            alone[name] += [values[i : i + 30, j : j + 30] for i in range(0, 300, 30) for j in range(0, 300, 30)]
    stack = limits_of(images, "raw", SPACING)
    for name, rois in alone.items():
        found, truth = noise_limits(stack, name, SPACING), noise_power_spectrum(np.array(rois), SPACING)
        low, high = found.noise_hu
        assert low < 1.03 * truth.variance_hu2**0.5 < 1.06 * high
        assert high < 1.12 * truth.variance_hu2**0.5
        assert power_below(found.lower, 0.15) < 1.3 * power_below(truth, 0.15)
        assert power_below(found.upper, 0.15) > 0.9 * power_below(truth, 0.15)
    direct = [
        image["raw"][roi] for image in images for roi in candidate_rois(image["raw"], image["raw"] > -500, SPACING)
    ]
    assert noise_power_spectrum(np.array(direct), SPACING).variance_hu2 ** 0.5 > 1.3 * 15


@pytest.mark.parametrize(
    ("patient", "kernel", "dose"),
    [("L143", "", "full"), ("L143", "", "quarter"), ("L143", "_sharp", "full"), ("L096", "_sharp", "full")],
)
def test_noise_of_one_dose_alone_agrees_with_the_difference_of_the_pair(shared_data, patient, kernel, dose):
    """Level above 0.25/mm in the same regions, shape from quarter − full dose of the 2016 challenge."""
    folder = shared_data / "mayo2016" / patient
    both = [find_images(folder / f"{name}_3mm{kernel}").series[0] for name in ("full", "quarter")]
    spacing, images = both[0].geometry.pixel_spacing_mm, []
    for index in range(0, len(both[0]), 2 if patient == "L096" else 1):
        full, quarter = (series.read_hu(index).astype(np.float64) for series in both)
        images.append({"full": full, "quarter": quarter, "difference": quarter - full})
    stack = limits_of(images, dose, spacing)
    found, shape = (noise_limits(stack, name, spacing) for name in (dose, "difference"))
    one, pair = (item.upper.radial(RING_PER_MM) for item in (found, shape))
    fine = one.frequency > 0.25
    scale = one.power[fine].sum() / pair.power[fine].sum()
    truth_hu = (scale * shape.upper.variance_hu2) ** 0.5
    assert found.noise_hu == pytest.approx((truth_hu, truth_hu), rel=0.06)
    stated = (one.frequency >= found.stated_from_per_mm) & (one.frequency < 0.25)
    assert 0.05 < found.stated_from_per_mm <= 0.2
    assert one.power[stated].sum() == pytest.approx(scale * pair.power[stated].sum(), rel=0.3)
    assert power_below(found.lower, 0.15) < 1.35 * scale * power_below(shape.upper, 0.15)


def test_noise_of_a_phantom_agrees_with_the_difference_of_equal_sections(shared_data):
    """Sections of a uniform phantom, two apart, share no noise worth mentioning: a truth without anatomy."""
    series = find_images(shared_data / "ct_more" / "ge_atcm_phantom_34_57_115mA").series[0]
    spacing, images = series.geometry.pixel_spacing_mm, []
    for index in range(3, 13, 2):
        first, second = (series.read_hu(at).astype(np.float64) for at in (index, index + 2))
        images.append({"one": first, "difference": (second - first) / 2**0.5})
    stack = limits_of(images, "one", spacing)
    found, truth = (noise_limits(stack, name, spacing) for name in ("one", "difference"))
    assert found.noise_hu == pytest.approx((truth.noise_hu[1],) * 2, rel=0.04)
    assert power_below(found.upper, 0.15) == pytest.approx(power_below(truth.upper, 0.15), rel=0.2)


def test_evaluate_without_an_input_gives_limits():
    rng, gathered = np.random.default_rng(2), SeriesNoise(3.0)
    for number in range(4):
        anatomy, noise = textured_body(rng), reconstruction_noise(rng, 320, 15)
        images = {"reference": anatomy + noise, "candidate": anatomy + ndimage.gaussian_filter(noise, 1.0)}
        gathered.add(measure_slice_noise(images, images["reference"], anatomy > -500, SPACING, 3.0 * number, True))
    found = gathered.results()
    for name in ("reference", "candidate"):
        assert not found[name].is_free_of_anatomy
        low, high = found[name].limits.noise_hu
        assert low < high == found[name].noise_hu
    assert found["reference"].noise_hu == pytest.approx(15, rel=0.1)
    entry = next(entry for entry in noise_entries({"s": gathered}) if entry["model"] == "candidate")
    for value, limits in (
        (entry["noise_hu"], entry["noise_limits_hu"]),
        (entry["mean_frequency_per_mm"], entry["mean_frequency_limits_per_mm"]),
        (entry["blurred_noise_hu"]["2 mm"], entry["blurred_noise_limits_hu"]["2 mm"]),
    ):
        assert value == pytest.approx(limits[0]) or value == pytest.approx(limits[1])
        assert limits[0] < limits[1]


def test_coarse_pixels_have_an_upper_limit_only():
    rng = np.random.default_rng(3)
    image = np.where(np.hypot(*(np.mgrid[:128, :128] - 64)) < 60, 50.0, -1000.0) + rng.normal(0, 20, (128, 128))
    found = noise_limits(limits_of([{"a": image}], "a", (2.0, 2.0)), "a", (2.0, 2.0))
    assert found.lower is None
    assert found.noise_hu == pytest.approx((0, 20), rel=0.05)
    assert between(found.noise_hu).startswith("< ")
    assert np.isinf(found.stated_from_per_mm)


def test_limits_in_words():
    assert between((17.14, 19.42)) == "17.1–19.4"
    assert between((19.0, 19.42)) == "19.4"
    assert between((0.0, 19.42)) == "< 19.4"
