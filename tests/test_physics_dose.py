"""Simulated noise against theory (water cylinders, known spectra, direct scans) and against real pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ldct_denoise.errors import ConfigError, InputError
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import periodograms
from ldct_denoise.physics.dose import DoseSimulator, scan_noise
from ldct_denoise.physics.local_noise import noise_variance
from ldct_denoise.physics.noise import NoiseModel, radial_nps, roi_frequencies, soft_tissue_rois
from ldct_denoise.physics.roi_spectra import model_rings, ring_matrix
from ldct_denoise.physics.scanner import WATER_PER_MM, Rays, Scanner, attenuation
from ldct_denoise.physics.simulated_cache import simulated_pool
from ldct_denoise.physics.texture import Texture
from ldct_denoise.volume import Geometry, Volume
from tests.synthetic import axial_geometry

SIDE, SPACING = 256, (1.2, 1.2)
PLAIN = Scanner(electronic_noise_ma=0, bow_tie=0, modulation=0)
FREQUENCIES = np.arange(0.05, 0.65, 0.05)


def kernel(peak: float = 0.2) -> NoiseModel:
    nps = FREQUENCIES * np.exp(-((FREQUENCIES / (peak * 2**0.5)) ** 2))
    return NoiseModel("water", FREQUENCIES, nps / nps.max(), np.array([1.0]))


def water(diameter_mm: float = 200) -> np.ndarray:
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * SPACING[0]
    return np.where(np.hypot(x, y) < diameter_mm / 2, 0, -1000).astype(np.float32)


def middle(image: np.ndarray, radius_mm: float = 30) -> np.ndarray:
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * SPACING[0]
    return image[np.hypot(x, y) < radius_mm]


def scan(hu: np.ndarray, current_ma: float, seed: int, scanner: Scanner = PLAIN) -> np.ndarray:
    texture = Texture.of(kernel(), SPACING)
    rng = np.random.default_rng(seed)
    return scan_noise(hu, SPACING, texture, quanta_per_ma=2e4, current_ma=current_ma, scanner=scanner, rng=rng)


def volume(slices: list[np.ndarray]) -> Volume:
    positions = np.array([[0, 0, 3.0 * number] for number in range(len(slices))])
    geometry = Geometry(positions, (1, 0, 0), (0, 1, 0), SPACING, SIDE, SIDE)
    return Volume(np.stack(slices), geometry, uid="1.2.3", patient="L001", name="water")


def test_variance_in_a_water_cylinder_equals_theory() -> None:
    """In the centre every ray has the same p: σ² = (1000/μ)² · exp(p)/quanta · π · 2∫R² df, R the filter."""
    noise = np.concatenate([middle(scan(water(), 100, seed)) for seed in range(6)])
    texture = Texture.of(kernel(), SPACING)
    f = np.linspace(0, 1 / SPACING[0], 4001)
    expected = (1000 / WATER_PER_MM) ** 2 * np.exp(200 * WATER_PER_MM) / (2e4 * 100)
    expected *= np.pi * 2 * np.trapezoid(texture.response(f) ** 2, f)
    assert noise.var() == pytest.approx(expected, rel=0.06)


def test_variance_is_inverse_to_dose_until_electronic_noise() -> None:
    scanner = replace(PLAIN, electronic_noise_ma=0.02)
    doses = np.array([1, 0.25, 0.05])
    quantum = np.array([middle(scan(water(), 100 * dose, 1)).var() for dose in doses])
    both = np.array([middle(scan(water(), 100 * dose, 1, scanner)).var() for dose in doses])
    np.testing.assert_allclose(quantum * doses, quantum[0], rtol=1e-3)
    share = 0.02 * np.exp(200 * WATER_PER_MM) / (100 * doses)  # electronic : quantum, of the middle's rays
    np.testing.assert_allclose(both / quantum, 1 + share, rtol=0.03)


def test_noise_has_the_requested_spectrum_and_variance() -> None:
    rois = np.concatenate([_centre_rois(scan(water(), 100, seed)) for seed in range(12)])
    spectrum = periodograms(rois, hann_window=True).mean(axis=0)
    assert spectrum.mean() == pytest.approx(rois.var(axis=(1, 2)).mean(), rel=0.08)
    frequencies, nps = radial_nps(spectrum, SPACING)
    asked = kernel().power(frequencies)
    band = frequencies < 0.42
    mean, expected = (np.sum((frequencies * n)[band]) / np.sum(n[band]) for n in (nps, asked))
    assert mean == pytest.approx(expected, rel=0.05)
    assert frequencies[np.argmax(nps)] == pytest.approx(0.2, abs=0.051)


def _centre_rois(image: np.ndarray) -> np.ndarray:
    corners = [(96, 96), (96, 128), (128, 96), (128, 128)]
    return np.stack([image[row : row + 32, column : column + 32] for row, column in corners]).astype(float)


@pytest.mark.parametrize("scanner", [PLAIN, Scanner(), Scanner(geometry="fan")], ids=["plain", "default", "fan"])
def test_adding_noise_equals_scanning_at_the_lower_dose(scanner: Scanner) -> None:
    """Full dose with added noise against a direct scan at a quarter, centre and edge (at 250 mA, the default)."""
    slices = [water(240) + scan(water(240), 250, seed, scanner) for seed in range(6)]
    simulator = DoseSimulator(volume(slices), scanner, kernel())
    inserted = [simulator.simulate(number, 0.25, 0) for number in range(6)]
    direct = [scan(water(240), 62.5, 100 + seed, scanner) for seed in range(6)]
    ratio = np.std([middle(hu, 60) for hu in inserted]) / np.std([middle(hu, 60) for hu in direct])
    assert ratio == pytest.approx(1, abs=0.03)
    edges = [_edge(np.stack(stack)).std() for stack in (inserted, direct)]
    assert edges[0] == pytest.approx(edges[1], rel=0.04)


def _edge(stack: np.ndarray) -> np.ndarray:
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * SPACING[0]
    away = np.hypot(x, y)
    return stack[:, (away > 85) & (away < 110)]


def test_bow_tie_and_modulation_redistribute_the_noise() -> None:
    flat, shaped = (Rays.from_slice(water(300), SPACING, replace(PLAIN, bow_tie=b)) for b in (0, 1))
    quarter = len(flat.geometry.channels_mm) // 4
    assert shaped.variance[0, quarter] > flat.variance[0, quarter]
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) * SPACING[0]
    oval = np.where(np.hypot(x / 140, y / 90) < 1, 0, -1000).astype(np.float32)
    constant, modulated = (Rays.from_slice(oval, SPACING, replace(PLAIN, modulation=m)) for m in (0, 0.5))
    spread = [np.log(rays.variance.max(axis=1)).std() for rays in (constant, modulated)]
    assert spread[1] < 0.6 * spread[0]


def test_attenuation_of_water_and_air() -> None:
    per_mm = attenuation(water())
    assert per_mm[SIDE // 2, SIDE // 2] == pytest.approx(WATER_PER_MM)
    assert per_mm[2, 2] == 0


def anatomy(seed: int, strength: float = 60.0) -> np.ndarray:
    """Structure whose power falls as f⁻³·⁵, seen through the kernel, for a slice of the water cylinder."""
    rng = np.random.default_rng([3, seed])
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE, SPACING[0]), np.fft.fftfreq(SIDE, SPACING[1])))
    transfer = Texture.of(kernel(), SPACING).response(radius) / np.maximum(radius, 1e-3)
    power = np.where(radius > 0.01, np.maximum(radius, 0.01) ** -3.5, 0) * transfer**2
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIDE, SIDE))) * np.sqrt(power)).real
    # More of it on the left than on the right, as organs have more and less structure.
    x = np.linspace(1, 0, SIDE) ** 3
    return strength * field / field.std() * x


def test_the_spectrum_and_level_exclude_anatomy() -> None:
    """Two slices of a body with structure: its noise, and the quanta, are those of the scan."""
    quanta = 6e5 * 3 * 0.5
    texture = Texture.of(kernel(), SPACING)
    slices = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        body = (water(280) + np.where(water(280) > -500, anatomy(seed), 0)).astype(np.float32)
        slices.append(
            body + scan_noise(body, SPACING, texture, quanta_per_ma=quanta, current_ma=250, scanner=PLAIN, rng=rng)
        )
    simulator = DoseSimulator(volume(slices), PLAIN)
    assert simulator.quanta_per_ma == pytest.approx(quanta, rel=0.2)
    found, true = simulator.texture.model, kernel()
    assert found.mean_frequency_per_mm == pytest.approx(true.mean_frequency_per_mm, rel=0.05)
    f = np.arange(0.05, 0.36, 0.05)
    ratio = found.power(f) / found.power(f).sum() / (true.power(f) / true.power(f).sum())
    assert np.abs(ratio - 1).max() < 0.2
    added = np.stack([simulator.simulate(n, 0.25, 0) - hu for n, hu in enumerate(slices)])
    direct = scan_noise(
        slices[0], SPACING, texture, quanta_per_ma=quanta / 3, current_ma=250, scanner=PLAIN,
        rng=np.random.default_rng(9),
    )  # fmt: skip
    assert middle(added[0], 100).std() == pytest.approx(middle(direct, 100).std(), rel=0.08)


def test_air_alone_is_refused() -> None:
    air = np.full((SIDE, SIDE), -1000, np.float32)
    with pytest.raises(InputError, match="no soft tissue"):
        DoseSimulator(volume([air]), model=kernel())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", [None, kernel()])
def test_a_noise_free_series_is_refused(model: NoiseModel | None) -> None:
    with pytest.raises(InputError, match=r"no .*noise to measure"):
        DoseSimulator(volume([water()]), model=model)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("spacing_mm", "reason"), [(3.1, r"3\.1 mm are too coarse"), (0.2, r"0\.20 mm are too fine")]
)
def test_pixels_too_coarse_or_fine_are_refused(spacing_mm: float, reason: str) -> None:
    hu = water() + np.random.default_rng(0).normal(0, 20, (1, SIDE, SIDE)).astype(np.float32)
    geometry = axial_geometry(1, SIDE, SIDE, (3.0, spacing_mm, spacing_mm))
    with pytest.raises(InputError, match=reason):
        DoseSimulator(Volume(hu, geometry, name="coarse"))


@pytest.mark.filterwarnings("error")
def test_a_kernel_too_soft_to_measure_is_refused() -> None:
    soft = NoiseModel("soft", np.array([0.05, 0.1, 0.2]), np.array([0.5, 1.0, 0.0]), np.ones(1))
    with pytest.raises(InputError, match=r"too little noise above 0\.25/mm"):
        DoseSimulator(volume([water() + scan(water(), 100, 1)]), model=soft)


@pytest.mark.parametrize("padding", [np.nan, -3024, -2000, np.inf])
def test_padding_is_preserved_and_has_no_effect(padding: float) -> None:
    hu = np.maximum(water() + scan(water(), 100, 1), -1024)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    outside = np.hypot(x, y) > SIDE / 2
    air = np.where(outside, -1000, hu).astype(np.float32)
    padded = np.where(outside, padding, hu).astype(np.float32)
    expected, low = (DoseSimulator(volume([one])).simulate(0, 0.25, 3) for one in (air, padded))
    np.testing.assert_array_equal(low[outside], padded[outside])
    np.testing.assert_array_equal(low[~outside], expected[~outside])


@pytest.mark.filterwarnings("error")
def test_a_cache_holds_air_where_the_original_is_not_finite(tmp_path: Path) -> None:
    hu = water() + scan(water(), 100, 1)
    hu[:5] = np.nan
    low = simulated_pool([volume([hu])], (0.25, 0.25), 1, tmp_path)[0].read_hu(0)
    assert (low[:5] == -1000).all()


@pytest.mark.parametrize("name", ["source_to_centre_mm", "electronic_noise_ma", "bow_tie", "modulation"])
def test_a_scanner_with_nan_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="must be finite"):
        replace(PLAIN, **{name: float("nan")})


def test_a_simulated_pool_is_cached(tmp_path: Path) -> None:
    source = volume([water(240) + scan(water(240), 100, seed) for seed in range(2)])
    warnings: list[str] = []
    first = simulated_pool([source], (0.1, 0.4), 5, tmp_path, notify=warnings.append)[0]
    assert any("times the quanta" in warning for warning in warnings)  # a fortieth of a real scanner's
    warnings.clear()
    files = sorted(tmp_path.iterdir())
    stamp = files[0].stat().st_mtime_ns
    again = simulated_pool([source], (0.1, 0.4), 5, tmp_path, notify=warnings.append)[0]
    assert warnings == []
    assert sorted(tmp_path.iterdir()) == files
    assert files[0].stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(first.read_hu(1), again.read_hu(1))
    other = simulated_pool([source], (0.1, 0.4), 6, tmp_path)[0]
    assert other.uid != first.uid
    assert 0.1 <= first.dose <= 0.4
    assert (first.patient, first.geometry) == ("L001", source.geometry)
    assert middle(first.read_hu(0) - source.read_hu(0)).std() > middle(source.read_hu(0)).std()


@pytest.mark.parametrize("dose_range", [(0, 0.5), (0.5, 0.2), (0.5, 2)])
def test_an_impossible_range_of_doses_is_refused(tmp_path: Path, dose_range: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="simulated_dose"):
        simulated_pool([], dose_range, 0, tmp_path)


@pytest.mark.parametrize("group", ["L096/{}_3mm_sharp", "L143/{}_3mm_sharp", "L143/{}_3mm"])
def test_simulated_quarter_dose_equals_real_quarter_dose(mayo2016: Path, group: str) -> None:
    """Noise level by slice and by region, spectrum, and correlation with the tube current."""
    low, full = (find_images(mayo2016 / group.format(dose)).series[0] for dose in ("quarter", "full"))
    simulator = DoseSimulator(full)
    sigmas, shapes, regions = [], [], []
    for index in range(0, len(full), 2):
        hu = full.read_hu(index)
        corners, _ = soft_tissue_rois(hu, 16)
        real, simulated = (
            periodograms(np.stack([image[r : r + 32, c : c + 32] for r, c in corners]), hann_window=True)
            for image in (low.read_hu(index) - hu, simulator.simulate(index, 0.25, 0) - hu)
        )
        sigmas.append([np.sqrt(spectrum.mean()) for spectrum in (real, simulated)])
        shapes.append([spectrum.mean(axis=0) / spectrum.mean() for spectrum in (real, simulated)])
        found = _regions(corners, real.mean(axis=(1, 2)), simulated.mean(axis=(1, 2)))
        assert len(found) >= 5
        assert np.abs(np.median(found) - 1) < 0.12
        regions.extend(found)
    real_sigma, sigma = np.array(sigmas).T
    assert (sigma / real_sigma).mean() == pytest.approx(1, abs=0.05)
    assert np.abs(sigma / real_sigma - 1).max() < 0.10
    off = np.abs(np.array(regions) - 1)
    assert np.mean(off < 0.10) > 0.65
    assert np.mean(off < 0.15) > 0.85
    current = np.log(np.array(full.metadata.tube_current_ma, float)[::2])
    follows = [np.corrcoef(current, np.log(values))[0, 1] for values in (real_sigma, sigma)]
    assert follows[1] == pytest.approx(follows[0], abs=0.2)
    means, peaks, curves = [], [], []
    for shape in np.mean(shapes, axis=0):
        frequencies, nps = radial_nps(shape, full.geometry.pixel_spacing_mm)
        curves.append(nps)
        means.append(np.sum(frequencies * nps) / np.sum(nps))
        peaks.append(_peak(frequencies, nps))
    assert means[1] == pytest.approx(means[0], rel=0.05)
    used = (frequencies > 0.07) & (curves[0] > 0.01 * curves[0].max())
    np.testing.assert_allclose(curves[1][used], curves[0][used], rtol=0.25)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.10)


def _regions(corners: np.ndarray, real: np.ndarray, simulated: np.ndarray) -> list[float]:
    """Ratio of simulated to real sigma in groups of 4 or more neighbouring ROIs (about 3 cm)."""
    blocks = (corners // 48) @ np.array([1000, 1])
    parts = [blocks == block for block in np.unique(blocks)]
    return [float(np.sqrt(simulated[p].mean() / real[p].mean())) for p in parts if p.sum() >= 4]


def _peak(frequencies: np.ndarray, nps: np.ndarray) -> float:
    """Peak of the parabola through the largest bin and its neighbours."""
    top = int(np.argmax(nps))
    a, b, _ = np.polyfit(frequencies[top - 1 : top + 2], nps[top - 1 : top + 2], 2)
    return float(-b / (2 * a))


def test_the_noise_level_of_an_roi_excludes_anatomy() -> None:
    """Noise of variance 9, alone and with anatomy ∝ f⁻⁴·⁵ times the noise of the kernel."""
    rng = np.random.default_rng(0)
    model, spacing = kernel(0.3), (0.7, 0.7)
    frequencies = np.arange(0.05, 0.7, 0.05)
    seen = NoiseModel("", frequencies, model.power(frequencies) * frequencies**-4.5, np.ones(1))
    noise, structure = (one.draw_fields(400, 32, 32, spacing, rng) for one in (model, seen))
    frequency, matrix, _ = ring_matrix(spacing)
    band = (frequency > 0.38) & (frequency < 0.58)
    expected = model_rings(model, spacing)
    unit = model.power(roi_frequencies(spacing)).mean()
    for share in (0.0, 15.0):
        spectra = periodograms((3 * noise + share * structure).astype(float), hann_window=True)
        rings = spectra.reshape(400, -1) @ matrix
        assert np.median(noise_variance(rings, expected, band, spacing)) * unit == pytest.approx(9, rel=0.08)
    assert np.median(rings[:, band].mean(axis=1)) / expected[band].mean() * unit > 1.1 * 9


def test_noise_asymmetry_is_reproduced() -> None:
    """Noise 1.3 times as strong on the right as on the left, as in helical scans."""
    x = np.linspace(-1, 1, SIDE)[None] * SIDE * SPACING[0] / 2
    asymmetry = np.exp(np.log(1.3) / 2 * np.clip(x, -100, 100) / 100)
    slices = [water(280) + scan(water(280), 250, seed) * asymmetry for seed in range(4)]
    simulator = DoseSimulator(volume(slices), PLAIN, kernel())
    added = np.stack([simulator.simulate(number, 0.25, 0) - hu for number, hu in enumerate(slices)])
    left, right = (added[:, 100:156, middle : middle + 40].std() for middle in (36, 180))
    expected_ratio = float(asymmetry[0, 200] / asymmetry[0, 56])
    assert right / left == pytest.approx(expected_ratio, rel=0.08)
