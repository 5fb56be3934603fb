"""BM3D, its Anscombe variant, and the estimate of the noise level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ldct_denoise import methods
from ldct_denoise.errors import ConfigError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods._classical import tissue_sigma, wavelet_sigma
from ldct_denoise.methods.anscombe_bm3d import anscombe, estimated_peak, unbiased_inverse
from ldct_denoise.networks.bm3d import Stage, _block_transform, _distances, _haar, bm3d

WIENER = Stage(max_group=32, tau_match=0.64, transform="dct")


def psnr(a: torch.Tensor, b: torch.Tensor, peak: float) -> float:
    return float(10 * torch.log10(peak**2 / (a - b).square().mean()))


def read(path: Path) -> torch.Tensor:
    from skimage.io import imread

    return torch.from_numpy(imread(path).astype(np.float32))


def scene(size: int = 96) -> torch.Tensor:
    """Edges and a repeating texture, 0…255."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    image = 90 + 40 * torch.sin(x / 3.0) * (y > size // 2) + 60 * ((x - size // 2) ** 2 + y**2 < 900)
    return image.float()


def noise_like(image: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["bior1.5", "dct"])
def test_block_transforms_are_inverted_and_have_rows_of_unit_norm(kind: str) -> None:
    forward, inverse = _block_transform(kind, 8)
    torch.testing.assert_close(inverse @ forward, torch.eye(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(forward.norm(dim=1), torch.ones(64))


def test_haar_is_orthonormal() -> None:
    for size in (1, 2, 16, 32):
        torch.testing.assert_close(_haar(size) @ _haar(size).T, torch.eye(size))


def test_block_distances_equal_those_computed_one_by_one() -> None:
    image = torch.rand(30, 33, generator=torch.Generator().manual_seed(1))
    stage = Stage(block_size=4, stride=3, search_window=7)
    tops, lefts = range(3, 10, 3), range(3, 16, 3)
    table = _distances(image, tops, lefts, stage).reshape(len(tops), len(lefts), 7, 7)
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            own = image[top : top + 4, left : left + 4]
            for down, right in ((-3, 2), (1, 0), (3, 3)):
                other = image[top + down : top + down + 4, left + right : left + right + 4]
                assert float(table[i, j, down + 3, right + 3]) == pytest.approx(
                    float((own - other).square().sum()), rel=1e-4
                )


def test_both_steps_gain_and_the_second_gains_more() -> None:
    clean = scene()
    noisy = clean + 25 * noise_like(clean)
    basic, final = bm3d(noisy, 25, Stage(), None), bm3d(noisy, 25, Stage(), WIENER)
    assert psnr(basic, clean, 255) > psnr(noisy, clean, 255) + 9
    assert psnr(final, clean, 255) > psnr(basic, clean, 255)


def test_does_not_depend_on_units() -> None:
    clean = scene(48)
    noisy = clean + 25 * noise_like(clean)
    in_hu, in_units = bm3d(noisy, 25, Stage(), WIENER), bm3d(noisy / 4096, 25 / 4096, Stage(), WIENER)
    torch.testing.assert_close(in_units * 4096, in_hu, atol=0.05, rtol=0)


def test_flat_images_stay_and_sigma_zero_changes_nothing() -> None:
    flat = torch.full((20, 31), 0.25)
    torch.testing.assert_close(bm3d(flat, 0.01, Stage(), WIENER), flat)
    noisy = noise_like(flat)
    assert torch.equal(bm3d(noisy, 0.0, Stage(), WIENER), noisy)


@pytest.mark.parametrize(
    "settings",
    [
        {"search_window": 3},
        {"search_window": 5},
        {"block_size": 4, "stride": 4, "search_window": 9},
        {"block_size": 16, "search_window": 9},
    ],
)
def test_every_permitted_setting_restores(settings: dict[str, int]) -> None:
    """A small search has fewer candidates than the largest group."""
    clean = scene(48) / 4096 + 0.25
    noisy = (clean + 0.006 * noise_like(clean))[None, None]
    restored = methods.build("bm3d", settings | {"sigma_hu": 25}, Scale()).restore(noisy)
    assert psnr(restored, clean, 0.06) > psnr(noisy, clean, 0.06) + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"block_size": 12}, "block_size: .*4, 8 or 16"), ({"block_size": 4, "stride": 8}, "stride: leaves gaps")],
)
def test_blocks_that_cannot_be_transformed_or_leave_gaps_are_refused(
    settings: dict[str, int], message: str
) -> None:
    for name in ("bm3d", "anscombe-bm3d"):
        with pytest.raises(ConfigError, match=message):
            methods.build(name, settings, Scale())


def test_anscombe_bm3d_of_sigma_factor_0_gives_the_image_back() -> None:
    noisy = (scene(48) / 255 + 0.1 * noise_like(scene(48)))[None, None]
    assert torch.equal(methods.build("anscombe-bm3d", {"sigma_factor": 0}, Scale()).restore(noisy), noisy)


def test_sigma_is_estimated_from_the_slice() -> None:
    clean = scene() / 4096 + 0.25
    noisy = (clean + 0.006 * noise_like(clean))[None, None]
    given = methods.build("bm3d", {"sigma_hu": 0.006 * 4096}, Scale()).restore(noisy)
    estimated = methods.build("bm3d", {"sigma_estimator": "wavelet"}, Scale()).restore(noisy)
    assert psnr(estimated, clean, 0.06) == pytest.approx(psnr(given, clean, 0.06), abs=0.5)


@pytest.mark.slow
def test_reaches_the_published_figure_on_natural_images(shared_data: Path) -> None:
    """Six of the 68; all of them: docs/reference/methods.md."""
    paths = sorted((shared_data / "natural" / "bsd68").glob("*.png"))[::12]
    gains = []
    for number, path in enumerate(paths):
        clean = read(path)
        gains.append(psnr(bm3d(clean + 25 * noise_like(clean, number), 25, Stage(), WIENER), clean, 255))
    assert np.mean(gains) > 28.0


def test_unbiased_inverse_gives_the_mean_count_back() -> None:
    generator = np.random.default_rng(0)
    for mean in (0.05, 0.5, 2.0, 30.0, 99.0, 101.0, 1000.0):
        counts = torch.from_numpy(generator.poisson(mean, 400_000)).double()
        stable = anscombe(counts).mean(dim=0, keepdim=True)
        assert float(unbiased_inverse(stable)) == pytest.approx(mean, rel=0.01, abs=2e-3)


def test_unbiased_inverse_is_continuous_where_the_table_ends() -> None:
    stable = torch.linspace(19.9, 20.2, 3001, dtype=torch.float64)
    steps = unbiased_inverse(stable).diff()
    assert float(steps.min()) > 0
    assert float(steps.max()) < 1.2 * float(steps.median())


def test_poisson_image_is_restored_better_than_by_plain_bm3d() -> None:
    clean = (scene() / 255).clamp(0.02, 1) ** 2
    peak = 20.0
    counts = np.random.default_rng(0).poisson(clean.numpy() * peak)
    noisy = torch.from_numpy(counts / peak).float()[None, None]
    stabilised = methods.build("anscombe-bm3d", {"peak": peak}, Scale()).restore(noisy)
    plain = methods.build("bm3d", {"sigma_estimator": "wavelet"}, Scale()).restore(noisy)
    assert psnr(stabilised, clean, 1) > psnr(plain, clean, 1) + 0.5
    assert float(stabilised.mean()) == pytest.approx(float(clean.mean()), rel=0.02)


def test_peak_is_found() -> None:
    clean = (scene(128) / 255).clamp(0.1, 1)
    noisy = torch.from_numpy(np.random.default_rng(0).poisson(clean.numpy() * 50) / 50).float()
    assert estimated_peak(noisy) == pytest.approx(50, rel=0.25)
    assert estimated_peak(torch.full((64, 64), 0.3)) is None


def test_tissue_sigma_finds_coloured_noise_that_wavelets_miss() -> None:
    white = noise_like(torch.empty(160, 160))[None, None]
    soft = torch.nn.functional.avg_pool2d(white, 3, 1)[0, 0]
    soft = 0.01 * soft / soft.std()
    anatomy = 0.25 + 0.03 * (torch.arange(158) > 80)
    found = tissue_sigma(anatomy + soft, Scale())
    assert found == pytest.approx(0.01, rel=0.25)
    assert wavelet_sigma(anatomy + soft) < 0.7 * 0.01
    assert tissue_sigma(torch.zeros(64, 64), Scale()) is None
