"""Full-reference metrics against scikit-image, MONAI and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ldct_denoise.errors import InputError
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.metrics import fidelity, perceptual, ssim


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    clean = ndimage.gaussian_filter(rng.normal(0, 1, (200, 190)), 6) * 3000 - 50
    return (clean + rng.normal(0, 25, clean.shape)).astype(np.float32), clean.astype(np.float32)


@pytest.mark.parametrize("name", WINDOWS)
def test_ssim_and_psnr_equal_scikit_image(images, name):
    window = WINDOWS[name]
    noisy, clean = (window.clip(image.astype(np.float64)) for image in images)
    expected = structural_similarity(
        clean, noisy, data_range=window.width_hu, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim.ssim(*images, window) == pytest.approx(expected, abs=1e-6)
    psnr = peak_signal_noise_ratio(clean, noisy, data_range=window.width_hu)
    assert fidelity.psnr(*images, window) == pytest.approx(psnr, abs=1e-6)


def test_ssim_agrees_with_monai(images):
    import torch
    from monai.metrics import SSIMMetric

    window = WINDOWS["abdomen"]
    noisy, clean = (torch.from_numpy(window.clip(image.astype(np.float64)))[None, None] for image in images)
    metric = SSIMMetric(
        spatial_dims=2, data_range=window.width_hu, kernel_type="gaussian", win_size=11, kernel_sigma=1.5
    )
    assert ssim.ssim(*images, window) == pytest.approx(float(metric(noisy, clean)), abs=1e-5)


def test_ssim_of_a_full_mask_is_close_to_ssim_without_mask(images):
    everything = np.ones(images[0].shape, dtype=bool)
    plain = ssim.ssim(*images, WINDOWS["full"])
    assert ssim.ssim(*images, WINDOWS["full"], everything) == pytest.approx(plain, abs=2e-3)


def test_masked_ssim_does_not_depend_on_pixels_outside(images):
    noisy, clean = images
    mask = np.zeros(noisy.shape, dtype=bool)
    mask[40:120, 50:130] = True
    other = np.where(mask, noisy, 3000).astype(np.float32)
    for window in (WINDOWS["abdomen"], WINDOWS["full"]):
        assert ssim.ssim(noisy, clean, window, mask) == pytest.approx(
            ssim.ssim(other, clean, window, mask), abs=1e-6
        )


def test_masked_ssim_equals_an_explicit_computation():
    """Normalised convolution at one pixel, written out."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(0, 40, (2, 21, 21))
    window, mask = Window("w", 0, 400), rng.random((21, 21)) > 0.4
    mask[10, 10] = True
    distance = np.hypot(*(np.mgrid[:21, :21] - 10))
    offsets = np.abs(np.mgrid[:21, :21] - 10).max(axis=0)
    weight = np.exp(-0.5 * (distance / 1.5) ** 2) * (offsets <= 5) * mask
    weight /= weight.sum()
    mean_1, mean_2 = np.sum(weight * first), np.sum(weight * second)
    var_1, var_2 = np.sum(weight * (first - mean_1) ** 2), np.sum(weight * (second - mean_2) ** 2)
    cov = np.sum(weight * (first - mean_1) * (second - mean_2))
    c1, c2 = (0.01 * 400) ** 2, (0.03 * 400) ** 2
    expected = (2 * mean_1 * mean_2 + c1) * (2 * cov + c2)
    expected /= (mean_1**2 + mean_2**2 + c1) * (var_1 + var_2 + c2)
    assert ssim.ssim_map(first, second, window, mask)[10, 10] == pytest.approx(expected, rel=1e-9)


def test_bias_and_noise_equal_closed_forms():
    rng = np.random.default_rng(0)
    reference = np.zeros((400, 400))
    candidate = reference + 5 + rng.normal(0, 12, reference.shape)
    window = WINDOWS["full"]
    assert fidelity.hu_bias(candidate, reference, window) == pytest.approx(5, abs=0.1)
    assert fidelity.noise_std(candidate, reference, window) == pytest.approx(12, rel=0.01)
    assert fidelity.rmse(candidate, reference, window) == pytest.approx(13, rel=0.01)
    assert fidelity.mae(reference + 3, reference, window) == 3
    assert fidelity.psnr(reference + 4.095, reference, window) == pytest.approx(60, abs=1e-9)


def test_measure_equals_the_single_functions(images):
    noisy, clean = images
    mask = np.zeros(noisy.shape, dtype=bool)
    mask[30:90, 20:150] = True
    window = WINDOWS["liver"]
    values = fidelity.measure(noisy, clean, window, {"image": None, "roi": mask, "nowhere": mask & False})
    assert {region for region, _ in values} == {"image", "roi"}
    for region, where in (("image", None), ("roi", mask)):
        for metric in ("psnr", "ssim", "rmse", "mae", "hu_bias", "noise_std"):
            single = getattr(ssim if metric == "ssim" else fidelity, metric)(noisy, clean, window, where)
            assert values[region, metric] == pytest.approx(single, rel=1e-4, abs=1e-4)


def test_perceptual_metrics_of_equal_images(images):
    _, clean = images
    window = WINDOWS["abdomen"]
    assert perceptual.ms_ssim(clean, clean, window) == pytest.approx(1, abs=1e-9)
    assert perceptual.vif(clean, clean, window) == pytest.approx(1, abs=1e-6)
    assert perceptual.gmsd(clean, clean, window) == 0


def test_perceptual_metrics_degrade_with_noise(images):
    _, clean = images
    window, rng = WINDOWS["abdomen"], np.random.default_rng(5)
    noise = rng.normal(0, 1, clean.shape)
    some = [perceptual.measure(clean + sigma * noise, clean, window) for sigma in (5, 20, 60)]
    for metric, sign in (("ms_ssim", -1), ("vif", -1), ("gmsd", 1)):
        assert np.all(sign * np.diff([values[metric] for values in some]) > 0)


def test_ms_ssim_agrees_with_monai(images):
    import torch
    from monai.metrics import MultiScaleSSIMMetric

    window = Window("w", 0, 400)
    noisy, clean = (torch.from_numpy(window.clip(image.astype(np.float64)))[None, None] for image in images)
    metric = MultiScaleSSIMMetric(spatial_dims=2, data_range=400.0, kernel_size=11, kernel_sigma=1.5)
    assert perceptual.ms_ssim(*images, window) == pytest.approx(float(metric(noisy, clean)), abs=1e-3)


def test_ms_ssim_refuses_small_images():
    with pytest.raises(InputError, match="176"):
        perceptual.ms_ssim(np.zeros((100, 300)), np.zeros((100, 300)), WINDOWS["full"])
