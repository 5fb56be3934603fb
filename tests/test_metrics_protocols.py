"""Each protocol equals a direct computation of the published evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from ldct_denoise.errors import ConfigError
from ldct_denoise.metrics import fidelity, ssim
from ldct_denoise.metrics.protocols import PROTOCOLS, find_protocol, ssim_form


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    clean = ndimage.gaussian_filter(rng.normal(0, 1, (90, 80)), 4) * 2000 - 50
    return clean + rng.normal(0, 25, clean.shape), clean


def test_ldct_benchmark(images):
    protocol = find_protocol("ldct-benchmark")
    for window, (centre, width) in zip(protocol.windows, [(-600, 1500), (50, 400), (40, 80)], strict=True):
        scaled = [np.clip((i - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) for i in images]
        expected = structural_similarity(*scaled, data_range=1.0)
        assert ssim.ssim(*images, window, form=ssim_form(window)) == pytest.approx(expected, abs=1e-9)
        psnr = 10 * np.log10(1 / np.mean((scaled[0] - scaled[1]) ** 2))
        assert fidelity.psnr(*images, window) == pytest.approx(psnr, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "low", "high", "unit"), [("red-cnn", -160, 240, None), ("corediff", -1000, 1000, 255)]
)
def test_protocols_with_zero_padded_ssim(images, name, low, high, unit):
    import torch
    from torch.nn.functional import conv2d

    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    clipped = [np.clip(i, low, high) for i in images]
    if unit:
        clipped = [(i - low) / (high - low) * unit for i in clipped]
    x, y = (torch.from_numpy(i)[None, None] for i in clipped)
    width = unit or high - low
    mean_x, mean_y = (conv2d(i, kernel, padding=5) for i in (x, y))
    var_x, var_y = conv2d(x * x, kernel, padding=5) - mean_x**2, conv2d(y * y, kernel, padding=5) - mean_y**2
    cov = conv2d(x * y, kernel, padding=5) - mean_x * mean_y
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    expected = (
        (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    ).mean()
    (window,) = PROTOCOLS[name].windows
    assert ssim.ssim(*images, window, form=ssim_form(window)) == pytest.approx(float(expected), abs=1e-9)


def test_du_gan(images):
    """Reflected at the border (numpy's reflect, torch's and kornia's), and no value of the map below 0."""
    first, second = ((np.clip(image, -300, 300) + 300) / 600 for image in images)
    second[20:40, 20:40] = 1 - first[20:40, 20:40]  # anticorrelated: the map is below 0 there

    def mean(image):
        return ndimage.gaussian_filter(image, 1.5, mode="mirror", truncate=5 / 1.5)

    mean_1, mean_2 = mean(first), mean(second)
    var_1, var_2 = mean(first**2) - mean_1**2, mean(second**2) - mean_2**2
    cov = mean(first * second) - mean_1 * mean_2
    expected = (
        (2 * mean_1 * mean_2 + 1e-4) * (2 * cov + 9e-4) / ((mean_1**2 + mean_2**2 + 1e-4) * (var_1 + var_2 + 9e-4))
    )
    assert expected.min() < -0.1
    (window,) = PROTOCOLS["du-gan"].windows
    found = ssim.ssim(first * 600 - 300, second * 600 - 300, window, form=ssim_form(window))
    assert found == pytest.approx(float(np.clip(expected, 0, 1).mean()), abs=1e-9)


def test_an_unknown_protocol_is_named():
    with pytest.raises(ConfigError, match="corediff"):
        find_protocol("nature")
