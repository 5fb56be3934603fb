"""Checks without a reference: good denoising passes; blurred, shifted, noisier or inconsistent output does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.metrics.no_reference import no_reference_report, residual_edge_correlation, residual_edge_map


@pytest.fixture(scope="module")
def slices():
    """Clean and noisy slices of a body with vessels, bone and fat (σ = 25 HU)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:256, :256]
    body = ((rows - 128) / 100) ** 2 + ((columns - 128) / 115) ** 2 < 1
    clean = np.where(body, -90.0, -1000.0)
    clean[((rows - 128) / 84) ** 2 + ((columns - 128) / 98) ** 2 < 1] = 45
    for _ in range(60):
        r, c, size = rng.uniform(60, 196), rng.uniform(50, 206), rng.uniform(1.5, 5)
        clean[(rows - r) ** 2 + (columns - c) ** 2 < size**2] = rng.uniform(90, 160)
    clean[(rows - 170) ** 2 + (columns - 128) ** 2 < 15**2] = 600
    clean = ndimage.gaussian_filter(clean, 0.8)
    return [(clean, clean + rng.normal(0, 25, clean.shape)) for _ in range(4)]


def check(slices, denoise):
    report = no_reference_report(
        [(noisy, denoise(i, clean, noisy)) for i, (clean, noisy) in enumerate(slices)], (0.8, 0.8)
    )
    return {check.name: check for check in report.checks}, report


def test_an_ideal_denoiser_passes_all_checks(slices):
    checks, report = check(slices, lambda i, clean, noisy: clean + 0.3 * (noisy - clean))
    assert {check.status for check in checks.values()} == {"green"}
    before, after = report.noise_hu["soft-tissue"]
    assert before == pytest.approx(25, rel=0.06)
    assert after / before == pytest.approx(0.3, abs=0.03)
    # Vessels stand in the squares: only above their own frequencies is the ratio the noise's.
    profile = report.noise.profile
    fine = profile.frequency > 0.3
    assert profile.power[fine] == pytest.approx(20 * np.log10(0.3), abs=0.6)


def test_a_blur_fails(slices):
    checks, _ = check(slices, lambda i, clean, noisy: ndimage.gaussian_filter(noisy, 1.5))
    assert checks["edge sharpness"].status == "red"
    assert checks["removed anatomy"].status == "red"


def test_the_map_shows_where_anatomy_was_removed(slices):
    clean, noisy = slices[0]
    noisy = clean + 0.4 * (noisy - clean)  # 10 HU
    body = clean > -500
    half = clean.shape[1] // 2
    after = clean + 0.3 * (noisy - clean)  # the left half is denoised without loss, the right half blurred
    after[:, half:] = ndimage.gaussian_filter(noisy, 1.5)[:, half:]
    values = residual_edge_map(noisy, after, body)
    left, right = values[:, : half - 30], values[:, half + 30 :]
    assert abs(np.median(left[left != 0])) < 0.25
    assert np.median(right[right != 0]) > 0.6


def test_edge_correlation_of_a_scaled_image_and_of_noise(slices):
    """A residual that is k times the input has the sign of k as its correlation; noise alone has none."""
    clean, noisy = slices[0]
    body = clean > -500
    for share, expected in ((0.3, 1.0), (-0.2, -1.0)):
        found = residual_edge_correlation(noisy, (1 - share) * noisy, body)
        assert found == pytest.approx(expected, abs=1e-9)
    noise = np.random.default_rng(9).normal(0, 5, clean.shape)
    assert abs(residual_edge_correlation(clean, clean - noise, body)) < 0.1
    assert np.isnan(residual_edge_correlation(noisy, noisy, body))  # nothing was removed
    assert np.isnan(residual_edge_correlation(noisy, clean, body & False))


def test_removed_lesions_are_detected(slices):
    checks, _ = check(slices, lambda i, clean, noisy: ndimage.median_filter(clean, 11))
    assert checks["removed anatomy"].status != "green"


def test_a_shift_of_hu_fails(slices):
    checks, report = check(slices, lambda i, clean, noisy: clean + 5)
    assert checks["mean HU"].status == "red"
    assert report.shift_hu["soft-tissue"] == pytest.approx(5, abs=0.5)


def test_more_noise_and_slice_offsets_fail(slices):
    rng = np.random.default_rng(1)
    checks, _ = check(slices, lambda i, clean, noisy: noisy + rng.normal(0, 20, clean.shape))
    assert checks["noise"].status == "red"
    checks, _ = check(slices, lambda i, clean, noisy: clean + 10 * (-1) ** i)
    assert checks["flicker"].status == "red"


def test_a_slice_of_air_has_no_checks(slices):
    report = no_reference_report([(np.full((64, 64), -1000.0),) * 2], (1.0, 1.0))
    assert report.checks == ()
    assert report.noise is None
