"""Noise and slice sensitivity along z, against closed forms."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.along_z import CONTRASTS_HU, contiguous_slices, measure_along_z
from ldct_denoise.metrics.along_z import full_width_mm, noise_along_z
from ldct_denoise.report.along_z import along_z_charts, along_z_entries, along_z_sentences, along_z_tables
from ldct_denoise.volume import SeriesMetadata, Volume
from tests.synthetic import axial_geometry

SPACING = (2.0, 0.9, 0.9)
KERNEL = np.array([0.25, 0.5, 0.25])
#: Correlation of white noise after the kernel, of slices 0 to 3 apart: (1, 2/3, 1/6, 0).
CORRELATION = np.convolve(KERNEL, KERNEL)[2:] / np.sum(KERNEL**2)


def noise(shape, seed=0, kernel=KERNEL, sigma=20.0):
    """White noise of this standard deviation, filtered along z (axis −3)."""
    long = np.random.default_rng(seed).normal(0, sigma, (*shape[:-3], shape[-3] + 8, *shape[-2:]))
    return ndimage.convolve1d(long, kernel, axis=-3)[..., 4:-4, :, :]


def anatomy(shape, seed=5):
    """Coarse structure of 30 HU that is the same in neighbouring slices."""
    field = np.random.default_rng(seed).normal(size=shape)
    field = ndimage.gaussian_filter(field, [0] * (len(shape) - 3) + [6, 4, 4])
    return 30 * field / field.std()


def expected_power(found, slices, sigma):
    """Spectrum of stacks of so many slices: each covariance counts as often as there are pairs of slices."""
    lags = np.arange(1, 3)
    covariance = np.convolve(KERNEL, KERNEL)[3:5] * (1 - lags / slices)
    waves = np.cos(2 * np.pi * found.frequency[:, None] * lags * SPACING[0])
    return sigma**2 * SPACING[0] * (np.sum(KERNEL**2) + 2 * waves @ covariance)


def test_filtered_white_noise_has_the_spectrum_of_its_filter():
    found = noise_along_z(noise((12, 8, 26, 26)), SPACING)
    assert found.power == pytest.approx(expected_power(found, 8, 20.0), rel=0.05, abs=8)
    assert found.noise_hu == pytest.approx(20 * np.sqrt(np.sum(KERNEL**2)), rel=0.02)
    assert found.correlation[:4] == pytest.approx([*CORRELATION, 0], abs=0.03)
    assert not found.is_free_of_anatomy


def test_anatomy_cancels_in_the_difference():
    """A denoiser that halves the noise and averages neighbours; anatomy alone correlates by nearly 1."""
    shape = (12, 8, 26, 26)
    there, low, extra = anatomy(shape), noise(shape, 1, np.array([1.0])), noise(shape, 2, np.array([1.0]))
    output = there + ndimage.convolve1d(low, 0.5 * KERNEL, axis=1, mode="constant")
    image = there + low
    assert noise_along_z(image, SPACING).correlation[1] > 0.3
    for difference in (image - output, image - (there + extra)):  # removed noise; normal dose
        before, after = (noise_along_z(one, SPACING, difference) for one in (image, output))
        assert before.is_free_of_anatomy
        assert after.is_free_of_anatomy
        assert before.noise_hu == pytest.approx(20, rel=0.08)
        assert before.correlation[1] == pytest.approx(0, abs=0.06)
        assert after.noise_hu == pytest.approx(10 * np.sqrt(np.sum(KERNEL**2)), rel=0.12)
        assert after.correlation[1] == pytest.approx(CORRELATION[1], abs=0.08)


def test_full_width_of_a_known_profile():
    offsets = np.linspace(-10, 10, 81)
    gauss = np.exp(-4 * np.log(2) * (offsets / 3.0) ** 2)
    assert full_width_mm(offsets, gauss) == pytest.approx(3, rel=0.01)
    assert full_width_mm(offsets[::-1], 0.4 * gauss[::-1]) == pytest.approx(3, rel=0.01)
    assert np.isnan(full_width_mm(offsets[40:], gauss[40:]))


def series(slices=9, side=224, thickness_mm=3.0):
    """Contiguous slices of a body of 60 HU."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    hu = np.where(np.hypot(rows, columns) < 0.46 * side, 60.0, -1000.0) + noise((slices, side, side), 3)
    place = axial_geometry(slices, side, side, SPACING)
    return Volume(hu, place, "1", "p", "body", SeriesMetadata(slice_thickness_mm=thickness_mm))


def unchanged(source):
    return (source.read_hu(index) for index in range(len(source)))


def halved(source):
    """A 2-D denoiser that leaves half of what differs from the tissue."""
    return (60 + 0.5 * (source.read_hu(index) - 60) for index in range(len(source)))


def averaged(source):
    """A 2.5-D denoiser: the mean of neighbours, weighted by the kernel."""
    offsets = source.geometry.offsets_mm
    for index in range(len(source)):
        near = [max(index - 1, 0), index, min(index + 1, len(source) - 1)]
        near = [one if abs(offsets[one] - offsets[index]) < 3 else index for one in near]
        yield sum(w * source.read_hu(one) for w, one in zip(KERNEL, near, strict=True))


def test_a_2d_denoiser_leaves_the_profile():
    for denoiser, kept in ((unchanged, 1), (halved, 0.5)):
        found = measure_along_z(series(), denoiser)
        assert {one.contrast_hu for one in found.sensitivity} == {*CONTRASTS_HU}
        for one in found.sensitivity:
            assert one.fwhm_mm == pytest.approx((3, 3), rel=0.02)
            assert one.after == pytest.approx(kept * one.before, abs=2e-4)
            assert one.before.max() == pytest.approx(1, abs=1e-3)
    assert found.noise[1].noise_hu == pytest.approx(0.5 * found.noise[0].noise_hu, rel=0.03)
    assert found.noise[1].correlation[1] == pytest.approx(CORRELATION[1], abs=0.05)


def test_averaging_neighbours_widens_the_profile():
    found = measure_along_z(series(), averaged)
    offsets = np.linspace(-8, 8, 1601)
    gauss = [np.exp(-4 * np.log(2) * ((offsets - shift) / 3.0) ** 2) for shift in (-2, 0, 2)]
    wide = full_width_mm(offsets, KERNEL @ gauss)
    assert wide > 3.5
    for one in found.sensitivity:
        assert one.fwhm_mm == pytest.approx((3, wide), rel=0.02)
    assert found.noise[1].correlation[1] > found.noise[0].correlation[1] + 0.1
    assert found.difference == "input − output"
    (sentence,) = along_z_sentences([found])
    assert f"3.0 → {wide:.1f} mm" in sentence
    (entry,) = json.loads(json.dumps(along_z_entries([found]), allow_nan=False))
    assert entry["noise"]["after"]["correlation"][1] == pytest.approx(found.noise[1].correlation[1])
    assert [len(table.rows) for table in along_z_tables([found])] == [2, 2]
    assert len(along_z_charts([found]).charts) == 2


def test_a_partner_gives_the_difference():
    low, normal = series(), series()
    rng = np.random.default_rng(7)
    low = low.with_hu(normal.hu + rng.normal(0, 30, normal.hu.shape))
    found = measure_along_z(low, unchanged, lambda index: normal.hu[index])
    assert found.difference == "low − normal dose"
    assert found.noise[0].is_free_of_anatomy
    assert found.noise[0].correlation[1] == pytest.approx(0, abs=0.05)


def test_only_contiguous_slices_are_used():
    assert contiguous_slices(np.array([0.0, 3, 6, 9, 60, 63, 66, 69, 72])) == [4, 5, 6, 7, 8]
    assert contiguous_slices(-3.0 * np.arange(20)) == list(range(14, 5, -1))
    assert contiguous_slices(np.array([0.0, 64, 128])) == []
    few = series(4)
    with pytest.raises(InputError, match="contiguous"):
        measure_along_z(few, unchanged)
    apart = replace(few, hu=few.hu[:1].repeat(6, 0), geometry=axial_geometry(6, 224, 224, (64.0, 0.9, 0.9)))
    with pytest.raises(InputError, match="contiguous"):
        measure_along_z(apart, unchanged)


def test_strength_0_has_noise_with_anatomy():
    found = measure_along_z(series(), unchanged)
    assert not found.noise[0].is_free_of_anatomy
    assert found.noise[0].power == pytest.approx(found.noise[1].power)
