"""Projection against closed forms, SciPy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ldct_denoise.physics.projection import back_project, fan_noise, filter_channels, project, resample
from ldct_denoise.physics.rays import ParallelGeometry

GEOMETRY = ParallelGeometry(128, 128, (2.0, 2.0), 180, 2.0)


def disc(radius_mm: float, geometry: ParallelGeometry = GEOMETRY) -> np.ndarray:
    """An off-centre disc with soft edges (4×4 samples per pixel)."""
    fine_y = (np.arange(4 * geometry.rows) + 0.5) / 4 - geometry.rows / 2
    fine_x = (np.arange(4 * geometry.columns) + 0.5) / 4 - geometry.columns / 2
    y, x = np.meshgrid(fine_y * geometry.spacing_mm[0], fine_x * geometry.spacing_mm[1], indexing="ij")
    inside = np.hypot(x - 20, y + 10) < radius_mm
    return inside.reshape(geometry.rows, 4, geometry.columns, 4).mean(axis=(1, 3)).astype(np.float32)


@pytest.mark.parametrize("geometry", [GEOMETRY, ParallelGeometry(100, 160, (2.4, 1.6), 90, 1.5)])
def test_projections_of_a_disc_are_its_chords(geometry: ParallelGeometry) -> None:
    sinogram = project(disc(60, geometry), geometry)
    centre = 20 * np.cos(geometry.angles) - 10 * np.sin(geometry.angles)
    away = geometry.channels_mm[None] - centre[:, None]
    chords = 2 * np.sqrt(np.clip(60**2 - away**2, 0, None))
    inner = np.abs(away) < 54
    np.testing.assert_allclose(sinogram[inner], chords[inner], atol=1.5)


def test_filtered_back_projection_reconstructs_the_disc() -> None:
    image = disc(60)
    sinogram = project(image, GEOMETRY)
    again = back_project(filter_channels(sinogram, GEOMETRY, np.abs), GEOMETRY)
    y, x = np.mgrid[:128, :128] * 2.0 - 127
    away = np.hypot(x - 20, y + 10)
    # A ramp sampled in frequency shifts the whole image by a constant, which noise does not have: contrast tells.
    assert again[away < 50].mean() - again[(away > 65) & (away < 90)].mean() == pytest.approx(1, abs=0.005)
    assert again[away < 50].std() < 0.01


def test_projections_equal_the_sums_that_scipy_interpolates() -> None:
    """Anisotropic pixels, and values up to the edge of the image."""
    rng = np.random.default_rng(0)
    geometry = ParallelGeometry(60, 80, (1.1, 0.9), 45, 0.7)
    image = rng.standard_normal((60, 80)).astype(np.float32)
    dy, dx = geometry.spacing_mm
    half = int(np.hypot(60 * dy, 80 * dx) / 2 / dx) + 1
    t, s = np.arange(-half, half + 1) * dx, geometry.channels_mm[:, None]
    rays = [(s * np.sin(a) + t * np.cos(a), s * np.cos(a) - t * np.sin(a)) for a in geometry.angles]
    expected = [
        ndimage.map_coordinates(image, [y / dy + 29.5, x / dx + 39.5], order=1, mode="grid-constant").sum(axis=1)
        * dx
        for y, x in rays
    ]
    np.testing.assert_allclose(project(image, geometry), expected, atol=1e-3)

    sinogram = rng.standard_normal((45, len(geometry.channels_mm))).astype(np.float32)
    y, x = (np.arange(60)[:, None] - 29.5) * dy, (np.arange(80) - 39.5) * dx
    pixels = sum(
        np.interp(x * np.cos(a) + y * np.sin(a), geometry.channels_mm, view)
        for view, a in zip(sinogram, geometry.angles, strict=True)
    )
    np.testing.assert_allclose(back_project(sinogram, geometry), pixels * np.pi / 45, atol=1e-4)


def test_projections_do_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            sinogram = project(disc(60), GEOMETRY)
            runs.append((sinogram, back_project(sinogram, GEOMETRY)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_projections_equal_scikit_image() -> None:
    from skimage.transform import radon

    geometry = ParallelGeometry(127, 127, (1.0, 1.0), 60, 1.0)  # odd: scikit-image turns about the same pixel
    y, x = np.mgrid[:127, :127] - 63.0
    image = np.exp(-((x - 12) ** 2 + (y + 7) ** 2) / 200).astype(np.float32) * (np.hypot(x, y) < 60)
    # Their y points up.
    theirs = radon(image[::-1], np.rad2deg(geometry.angles), circle=True, preserve_range=True).T
    ours = project(image, geometry)
    middle = len(geometry.channels_mm) // 2
    np.testing.assert_allclose(ours[:, middle - 63 : middle + 64], theirs, atol=0.02 * ours.max())


def test_resampling_a_smooth_sinogram_is_accurate() -> None:
    coarse, fine = GEOMETRY.binned(2, 2), GEOMETRY
    y, x = np.mgrid[:128, :128] * 2.0 - 127
    image = np.exp(-((x - 20) ** 2 + (y + 10) ** 2) / 3000).astype(np.float32)
    small = image.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    exact = project(image, fine)
    np.testing.assert_allclose(resample(project(small, coarse), coarse, fine), exact, atol=0.02 * exact.max())


def test_fan_noise_has_unit_variance() -> None:
    noise = fan_noise(GEOMETRY, 595.0, np.random.default_rng(0))
    assert noise.shape == (180, len(GEOMETRY.channels_mm))
    assert noise.var() == pytest.approx(1, rel=0.03)
    assert noise[:, :40].var() == pytest.approx(1, rel=0.06)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_projections_on_a_gpu_equal_those_on_the_cpu() -> None:
    geometry = ParallelGeometry(100, 160, (2.4, 1.6), 90, 1.5)
    image = disc(60, geometry) + np.random.default_rng(0).random((100, 160), dtype=np.float32)
    sinogram = project(image, geometry)
    np.testing.assert_allclose(project(image, geometry, "cuda"), sinogram, rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(
        back_project(sinogram, geometry, "cuda"), back_project(sinogram, geometry), rtol=1e-4
    )
