"""Noise after blurs, blotches, and noise out for noise in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.metrics.no_reference import no_reference_report
from ldct_denoise.metrics.noise import noise_power_spectrum
from ldct_denoise.metrics.noise_by_scale import count_blotches, noise_transfer
from ldct_denoise.metrics.texture import blurred_noise_hu

SPACING = (0.8, 0.8)


def squares(hu, size=30):
    return [
        (slice(row, row + size), slice(column, column + size))
        for row in range(0, hu.shape[0] - size + 1, size)
        for column in range(0, hu.shape[1] - size + 1, size)
    ]


@pytest.mark.parametrize("sigma_mm", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("kernel_mm", [0.0, 0.7, 1.5])
def test_noise_after_a_blur_is_that_of_the_closed_form_and_of_the_blurred_image(kernel_mm, sigma_mm):
    """White noise of density 400·dx·dy after Gaussians of both widths: σ²·dx·dy/(4π(σ₁² + σ₂²))."""
    white = np.random.default_rng(0).normal(0, 20, (600, 600))
    noise = ndimage.gaussian_filter(white, kernel_mm / 0.8, mode="wrap")
    spectrum = noise_power_spectrum(np.array([noise[roi] for roi in squares(noise)]), SPACING)
    found = blurred_noise_hu(spectrum, sigma_mm)
    closed = np.sqrt(400 * 0.64 / (4 * np.pi * (kernel_mm**2 + sigma_mm**2)))
    assert found == pytest.approx(closed, rel=0.06)
    assert found == pytest.approx(ndimage.gaussian_filter(noise, sigma_mm / 0.8, mode="wrap").std(), rel=0.06)


@pytest.mark.parametrize("seed", range(4))
def test_noise_of_a_ramp_is_measured_at_every_scale(seed):
    """Noise of a power ∝ f·exp(−(f/0.3)²), as of a soft kernel, in 50 ROIs."""
    white = np.random.default_rng(seed).normal(0, 20, (300, 300))
    axis = np.fft.fftfreq(300, 0.8)
    frequency = np.hypot(axis[:, None], axis)
    response = np.sqrt(frequency * np.exp(-((frequency / 0.3) ** 2)))
    noise = np.fft.ifft2(np.fft.fft2(white) * response).real
    spectrum = noise_power_spectrum(np.array([noise[roi] for roi in squares(noise)[::2]]), SPACING)
    for sigma_mm, tolerance in ((1.0, 0.08), (2.0, 0.15), (4.0, 0.35)):
        blurred = response * np.exp(-2 * (np.pi * sigma_mm * frequency) ** 2)
        truth = 20 * np.sqrt(np.mean(blurred**2))
        assert blurred_noise_hu(spectrum, sigma_mm) == pytest.approx(truth, rel=tolerance)


def test_no_noise_is_zero_at_every_scale():
    assert blurred_noise_hu(noise_power_spectrum(np.zeros((3, 20, 20)), SPACING), 2.0) == 0


def test_blotches_are_counted():
    """Twelve bumps of ±20 HU that the blur halves, on a trend, and as many of ±8 HU."""
    rows, columns = np.mgrid[:360, :480]
    hu = 40 + 0.05 * rows - 0.02 * columns
    for number, (row, column) in enumerate((r, c) for r in range(60, 360, 120) for c in range(60, 480, 120)):
        height = 20 if number % 2 else -20
        squared = ((rows - row) ** 2 + (columns - column) ** 2) * 0.64
        hu += height * np.exp(-squared / (2 * 2.0**2))
    rois = squares(hu, 120)
    found = count_blotches(hu, rois, SPACING)
    assert found.number == 12
    assert found.area_cm2 == pytest.approx(360 * 480 * 0.64 / 100)
    assert found.per_100_cm2 == pytest.approx(100 * 12 / 1105.92)
    assert count_blotches(40 + 0.7 * (hu - 40), rois, SPACING).number == 0
    assert np.isnan(count_blotches(hu, [], SPACING).per_100_cm2)


def test_noise_out_for_noise_in_is_a_rising_curve():
    before = np.linspace(10, 50, 40)[::-1]
    curve = noise_transfer(before, 0.3 * before)
    assert len(curve) == 5
    assert [out / noise for noise, out in curve] == pytest.approx([0.3] * 5)
    assert [noise for noise, _ in curve] == sorted(noise for noise, _ in curve)
    assert noise_transfer([1.0] * 5, [1.0] * 5) == []


def test_coarse_noise_that_a_denoiser_leaves_is_visible_in_the_report():
    """A denoiser that removes fine noise only: 80 % less noise in all, none less after 4 mm."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:320, :320]
    body = np.where(np.hypot(rows - 160, columns - 160) < 145, 50.0, -1000.0)
    pairs = []
    for _ in range(4):
        noise = rng.normal(0, 25, body.shape)
        pairs.append((body + noise, body + ndimage.gaussian_filter(noise, 1.2)))
    report = no_reference_report(pairs, SPACING)
    ratio = {sigma: after[1] / before[1] for sigma, (before, after) in report.noise.blurred_hu.items()}
    assert ratio[1.0] < 0.85 < 0.95 < ratio[4.0] < 1.05
    assert len(report.noise.transfer_hu) == 5
