"""Estimators of noise, resolution, detectability and contrast against closed forms, within documented tolerances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.metrics import contrast, detectability, noise, sharpness

SPACING = (0.8, 0.6)


def white(count=60, size=64, sigma=15.0, seed=0):
    return np.random.default_rng(seed).normal(0, sigma, (count, size, size))


def test_spectrum_of_white_noise_is_flat():
    spectrum = noise.noise_power_spectrum(white(200), SPACING, detrend_order=0)
    expected = 15**2 * SPACING[0] * SPACING[1]
    radial = spectrum.radial(0.05)
    assert radial.power[1:] == pytest.approx(expected, rel=0.03)
    assert radial.frequency[-1] < 1 / (2 * 0.8)
    assert spectrum.row_frequency[0] == pytest.approx(-1 / 1.6)
    assert spectrum.column_frequency[0] == pytest.approx(-1 / 1.2)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_integral_is_the_variance(order):
    rois = white(30)
    spectrum = noise.noise_power_spectrum(rois, SPACING, detrend_order=order)
    assert spectrum.variance_hu2 == pytest.approx(15**2, rel=0.01)


@pytest.mark.parametrize("hann_window", [False, True])
def test_a_periodogram_has_the_regions_variance_as_its_mean(hann_window):
    rois = white(400, size=32)
    spectra = noise.periodograms(rois, detrend_order=0, hann_window=hann_window)
    assert spectra.shape == rois.shape
    assert spectra.mean() == pytest.approx(15**2, rel=0.01)
    if not hann_window:
        assert spectra.mean(axis=(1, 2)) == pytest.approx(rois.var(axis=(1, 2)), rel=1e-9)


def test_ring_means_by_hand():
    frequency = np.array([[0.0, 0.1], [0.2, 0.9]])
    mean, count = noise.ring_means(np.array([[9.0, 3], [5, 7]]), frequency, np.array([0.05, 0.25, 0.5]))
    assert mean.tolist() == [4.0, 0.0]
    assert count.tolist() == [2, 0]


def test_a_trend_is_not_noise():
    rows, columns = np.mgrid[:64, :64] / 64
    cupping = 200 * (rows - 0.3) ** 2 + 80 * columns * rows - 50 * columns
    plain = noise.noise_power_spectrum(white(), SPACING)
    cupped = noise.noise_power_spectrum(white() + cupping, SPACING)
    assert cupped.power == pytest.approx(plain.power, rel=1e-9, abs=1e-9)


def test_filtered_noise_has_the_filters_spectrum():
    rng, sigma_px = np.random.default_rng(1), 1.2
    rois = ndimage.gaussian_filter(rng.normal(0, 40, (300, 64, 64)), (0, sigma_px, sigma_px), mode="wrap")
    spectrum = noise.noise_power_spectrum(rois, (0.7, 0.7), detrend_order=0).radial(0.05)
    truth = 40**2 * 0.49 * np.exp(-4 * (np.pi * sigma_px * 0.7 * spectrum.frequency) ** 2)
    known = truth > 0.02 * truth.max()
    assert spectrum.power[known][1:] == pytest.approx(truth[known][1:], rel=0.06)
    ideal = np.trapezoid(spectrum.frequency * truth, spectrum.frequency) / np.trapezoid(truth, spectrum.frequency)
    assert spectrum.mean_frequency == pytest.approx(ideal, rel=0.02)


def test_profile_of_a_known_filter():
    rois = np.random.default_rng(2).normal(0, 20, (200, 64, 64))
    before = noise.noise_power_spectrum(rois, (0.7, 0.7)).radial(0.05)
    after = noise.noise_power_spectrum(rois / 2, (0.7, 0.7)).radial(0.05)
    profile = noise.noise_reduction_profile(before, after)
    assert profile.power == pytest.approx(-20 * np.log10(2), abs=1e-6)


def test_anatomy_cancels_in_the_difference_spectrum():
    rng = np.random.default_rng(0)
    anatomy = 80 * ndimage.gaussian_filter(rng.normal(0, 1, (200, 48, 48)), (0, 2, 2))
    first, second = (anatomy + rng.normal(0, 10, anatomy.shape) for _ in range(2))
    assert noise.noise_power_spectrum(first, (0.7, 0.7)).variance_hu2 > 1.5 * 100
    found = noise.difference_spectrum(first, second, (0.7, 0.7))
    assert found.variance_hu2 == pytest.approx(100, rel=0.02)
    assert found.radial().power[1:] == pytest.approx(100 * 0.49, rel=0.08)  # the trend takes the first


def test_a_spectrum_without_rois_is_refused():
    with pytest.raises(InputError, match="regions"):
        noise.noise_power_spectrum(np.zeros((0, 32, 32)), SPACING)


def test_uniform_rois_avoid_anatomy():
    rng = np.random.default_rng(0)
    hu = np.full((200, 200), 40.0)
    hu[:, 100:] += 60 * np.sin(np.arange(200) / 6)[:, None]
    rois = noise.find_uniform_rois(hu + rng.normal(0, 30, hu.shape), np.ones(hu.shape, bool), 32, 6)
    assert len(rois) == 6
    assert all(columns.stop <= 104 for _, columns in rois)
    covered = np.zeros(hu.shape, int)
    for roi in rois:
        covered[roi] += 1
    assert covered.max() == 1


def test_global_noise_level_is_the_noise_despite_edges():
    rng = np.random.default_rng(0)
    hu = np.where(np.arange(300)[:, None] // 40 % 2, 60.0, -20.0) + rng.normal(0, 18, (300, 300))
    level = noise.global_noise_level(noise.noise_map(hu, (0.7, 0.7)), np.ones(hu.shape, bool))
    assert level == pytest.approx(18, rel=0.04)


@pytest.mark.parametrize("pixel_mm", [0.4, 0.7, 0.98, 1.5, 2.0, 3.0])
def test_global_noise_level_holds_for_any_pixel(pixel_mm):
    hu = np.random.default_rng(0).normal(0, 10, (300, 300))
    level = noise.global_noise_level(noise.noise_map(hu, (pixel_mm, pixel_mm)), np.ones(hu.shape, bool))
    assert level == pytest.approx(10, rel=0.04)


def blurred_disk(sigma_mm, contrast=100.0, spacing=0.5, size=160, radius=20.0, fine=5):
    centre = (size - 1) / 2 + np.array([0.3, -0.2])
    axis = (np.arange(size * fine) + 0.5) / fine - 0.5
    rows, columns = np.meshgrid(axis - centre[0], axis - centre[1], indexing="ij")
    disk = (np.hypot(rows, columns) * spacing < radius) * contrast
    blurred = ndimage.gaussian_filter(disk, sigma_mm / spacing * fine)
    return blurred.reshape(size, fine, size, fine).mean(axis=(1, 3)), tuple(centre)


@pytest.mark.parametrize("sigma_mm", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_global_noise_level_of_coarse_noise(sigma_mm):
    """The map of 6 mm alone gives 0.67 of the truth at 1.5 mm."""
    field = np.random.default_rng(0).normal(size=(384, 384))
    field = ndimage.gaussian_filter(field, sigma_mm / 0.7, mode="wrap") if sigma_mm else field
    field *= 20 / field.std()
    rois = field[:374, :374].reshape(11, 34, 11, 34).transpose(0, 2, 1, 3).reshape(-1, 34, 34)
    level = noise.global_noise_level(noise.noise_map(field, (0.7, 0.7)), np.ones(field.shape, bool))
    assert level * noise.coarse_noise_factor(rois, (0.7, 0.7)) == pytest.approx(20, rel=0.03 + 0.06 * sigma_mm)
    assert noise.coarse_noise_factor([], (0.7, 0.7)) == 1


@pytest.mark.parametrize("sigma_mm", [0.6, 1.0])
def test_ttf_of_a_gaussian_blur(sigma_mm):
    image, centre = blurred_disk(sigma_mm)
    ttf = sharpness.ttf_of_disk(image, centre, 20.0, (0.5, 0.5))
    low = ttf.frequency < 0.6 / sigma_mm / 2
    truth = np.exp(-2 * (np.pi * sigma_mm * ttf.frequency) ** 2) * np.sinc(0.5 * ttf.frequency)
    assert ttf.value[low] == pytest.approx(truth[low], abs=0.03)
    assert ttf.contrast_hu == pytest.approx(100, rel=0.01)
    f50 = np.sqrt(np.log(2) / 2) / np.pi / sigma_mm
    assert ttf.frequency_at(0.5) == pytest.approx(f50, rel=0.06)


@pytest.mark.parametrize("off", [(1.0, 0.0), (-0.8, 1.5), (2.0, 2.0)])
def test_the_centre_of_an_insert_is_found(off):
    """One pixel off used to cost 24 % of f50."""
    image, centre = blurred_disk(0.6)
    noisy = image + np.random.default_rng(0).normal(0, 8, image.shape)
    given = centre[0] + off[0], centre[1] + off[1]
    found = sharpness.find_disk_centre(noisy, given, 20.0, (0.5, 0.5))
    assert found == pytest.approx(centre, abs=0.1)
    right, wrong, mended = (
        sharpness.ttf_of_disk(image, place, 20.0, (0.5, 0.5)).frequency_at(0.5) for place in (centre, given, found)
    )
    assert wrong < 0.9 * right
    assert mended == pytest.approx(right, rel=0.02)


def test_a_faint_insert_keeps_the_given_centre():
    image, centre = blurred_disk(0.6, contrast=1.0)
    noisy = image + np.random.default_rng(0).normal(0, 60, image.shape)
    given = centre[0] + 1, centre[1]
    assert sharpness.find_disk_centre(noisy, given, 20.0, (0.5, 0.5)) == given


def test_intervals_of_f50_cover_the_truth():
    """Nominal 95 %, eight realisations, contrast twice the noise."""
    sigma_mm = 1.0
    image, centre = blurred_disk(sigma_mm, contrast=60.0, size=72, radius=12.0)
    truth = sharpness.ttf_of_disk(image, centre, 12.0, (0.5, 0.5)).frequency_at(0.5)
    rng, covered = np.random.default_rng(1), 0
    for _ in range(40):
        found = sharpness.ttf_of_disk(
            image + rng.normal(0, 30, (8, 72, 72)), centre, 12.0, (0.5, 0.5), repeats=100
        )
        low, high = found.frequency_interval(0.5)
        covered += low < truth < high
    assert covered >= 35  # 88 %
    single = sharpness.ttf_of_disk(image, centre, 12.0, (0.5, 0.5))
    assert np.isnan(single.frequency_interval(0.5)).all()


def test_an_insert_cut_by_the_image_border_is_refused():
    """The insert covers columns 19.9 to 99.9 of 160; its surroundings may be cut off."""
    image, (row, column) = blurred_disk(0.6)
    whole = sharpness.ttf_of_disk(image, (row, column), 20.0, (0.5, 0.5))
    close = sharpness.ttf_of_disk(image[:, 38:], (row, column - 38), 20.0, (0.5, 0.5))
    assert close.frequency_at(0.5) == pytest.approx(whole.frequency_at(0.5), rel=0.02)
    for first in (42, 80):
        with pytest.raises(InputError, match="not completely inside the image"):
            sharpness.ttf_of_disk(image[:, first:], (row, column - first), 20.0, (0.5, 0.5))
    with pytest.raises(InputError, match="too small"):
        sharpness.ttf_of_disk(image, (row, column), 1.9, (0.5, 0.5))


def test_ttf_of_a_slanted_edge():
    fine, size, sigma_px = 4, 96, 1.6
    axis = (np.arange(size * fine) + 0.5) / fine - 0.5
    rows, columns = np.meshgrid(axis - 48, axis - 47, indexing="ij")
    edge = 80.0 * (columns * np.cos(0.1) + rows * np.sin(0.1) > 0)
    image = ndimage.gaussian_filter(edge, sigma_px * fine).reshape(size, fine, size, fine).mean(axis=(1, 3))
    ttf = sharpness.ttf_of_edge(image, (0.7, 0.7))
    truth = np.exp(-2 * (np.pi * sigma_px * 0.7 * ttf.frequency) ** 2)
    assert ttf.value[ttf.frequency < 0.4] == pytest.approx(truth[ttf.frequency < 0.4], abs=0.03)
    assert ttf.contrast_hu == pytest.approx(80, rel=0.01)


def gaussian_lesion(size, sigma_px, contrast):
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    return contrast * np.exp(-(rows**2 + columns**2) / (2 * sigma_px**2))


def test_npw_of_a_gaussian_lesion_in_white_noise():
    sigma_mm, amplitude, spacing = 2.0, 12.0, 0.7
    spectrum = noise.noise_power_spectrum(white(400, 96), (spacing, spacing), detrend_order=0)
    task = detectability.gaussian_task(detectability.radial_frequency(spectrum), sigma_mm, amplitude)
    expected = amplitude * sigma_mm * np.sqrt(np.pi) / (15 * spacing)
    assert detectability.npw_detectability(spectrum, task) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("kind", ["white", "ramp", "coarse"])
def test_npw_is_free_of_the_bias_of_small_detrended_regions(kind, order):
    """Closed form ∬W²/√∬W²·NPS; without the correction 3 to 115 % too high in 32 pixels."""
    mm, side = 0.75, 128
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side, mm), np.fft.fftfreq(side, mm), indexing="ij"))
    nps = {
        "white": np.full((side, side), 200.0),
        "ramp": 1000 * frequency * np.exp(-((frequency / 0.5) ** 2)),
        "coarse": 500 * np.exp(-4 * (np.pi * frequency) ** 2),
    }[kind]
    field = np.fft.fft2(np.random.default_rng(0).normal(size=(40, side, side))) * np.sqrt(nps)
    rois = np.fft.ifft2(field).real.reshape(40, 4, 32, 4, 32).transpose(0, 1, 3, 2, 4).reshape(-1, 32, 32) / mm
    spectrum = noise.noise_power_spectrum(rois, (mm, mm), detrend_order=order)
    for sigma_mm in (2.0, 3.0, 4.0):
        square = detectability.gaussian_task(frequency, sigma_mm, 10.0) ** 2
        expected = np.sum(square) / np.sqrt(np.sum(square * nps)) / (side * mm)
        task = detectability.gaussian_task(detectability.radial_frequency(spectrum), sigma_mm, 10.0)
        assert detectability.npw_detectability(spectrum, task) == pytest.approx(expected, rel=0.12)


def test_a_task_without_contrast_is_not_detected():
    spectrum = noise.noise_power_spectrum(white(4, 32), SPACING)
    assert detectability.npw_detectability(spectrum, np.zeros((32, 32))) == 0
    silent = noise.noise_power_spectrum(np.zeros((4, 32, 32)), SPACING)
    assert detectability.npw_detectability(silent, np.ones((32, 32))) == np.inf


def test_the_disk_task_equals_the_fourier_transform_of_a_disk():
    assert detectability.disk_task(0.0, 10, 5) == pytest.approx(5 * np.pi * 25)
    first_zero = 3.8317 / (np.pi * 10)
    assert detectability.disk_task(first_zero, 10, 5) == pytest.approx(0, abs=0.01)


def test_the_eye_filter_vanishes_at_low_and_high_frequencies():
    response = detectability.eye_filter(np.linspace(0, 2, 200))
    assert response[0] == 0
    assert 0 < np.argmax(response) < 199


def test_cnr_and_linearity():
    rng = np.random.default_rng(0)
    hu = rng.normal(0, 10, (200, 200))
    hu[:, 100:] += 50
    left = np.zeros(hu.shape, bool)
    left[:, :100] = True
    assert contrast.cnr(hu, left, ~left) == pytest.approx(5, rel=0.02)
    line = contrast.hu_linearity([-1000, 0, 100, 900], [-985, 5, 104, 896])
    assert line.slope == pytest.approx(0.99, abs=1e-3)
    assert line.largest_deviation_hu < 1


def test_flicker_is_the_spread_of_slice_offsets():
    rng = np.random.default_rng(0)
    mask = np.ones((64, 64), bool)
    steady = [np.full((64, 64), 40.0)] * 400
    offsets = rng.normal(0, 3, 400)
    assert contrast.flicker(steady, [mask] * 400) == 0
    jumping = [image + offset for image, offset in zip(steady, offsets, strict=True)]
    assert contrast.flicker(jumping, [mask] * 400) == pytest.approx(3, rel=0.08)
    assert np.isnan(contrast.flicker(steady[:1], [mask]))
    far = contrast.Flicker(slice_spacing_mm=36.0)  # two slices of a series from which most are missing
    for number, image in enumerate(jumping[:2]):
        far.add(image, mask, 36.0 * number)
    assert np.isnan(far.value_hu)
    apart = contrast.Flicker(slice_spacing_mm=1.0)
    for number, image in enumerate(jumping):
        apart.add(image, mask, 2.0 * number)
    assert np.isnan(apart.value_hu)
