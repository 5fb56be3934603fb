"""Noise measured from images alone, against noise of known spectrum and level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import periodograms
from ldct_denoise.physics.noise import NoiseModel, estimate_noise, filtered_noise, radial_nps
from ldct_denoise.volume import Geometry, Volume

SPACING = (0.75, 0.75)
SIDE = 256


def water_phantom(slices: int = 4) -> np.ndarray:
    """Water in air with a few smooth organs."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    body = (x / 110) ** 2 + (y / 90) ** 2 < 1
    organs = ndimage.gaussian_filter(rng.standard_normal((slices, SIDE, SIDE)), (0, 30, 30))
    organs *= 40 / organs.std()
    return np.where(body, organs, -1000).astype(np.float32)


def volume(hu: np.ndarray) -> Volume:
    positions = np.array([[0, 0, 3.0 * number] for number in range(len(hu))])
    return Volume(hu, Geometry(positions, (1, 0, 0), (0, 1, 0), SPACING, SIDE, SIDE))


def half_plane_radius(side: int = SIDE) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(2 * side, SPACING[0])[:, None], np.fft.rfftfreq(2 * side, SPACING[1])[None])


@pytest.mark.parametrize("peak", [0.2, 0.4])
def test_known_noise_is_measured(peak: float) -> None:
    radius = half_plane_radius()
    power = radius * np.exp(-((radius / (peak * 2**0.5)) ** 2))
    noise = filtered_noise(power, (4, SIDE, SIDE), np.random.default_rng(1))
    model = estimate_noise(volume(water_phantom() + 25 * noise))
    assert model.sigma_hu == pytest.approx(25, rel=0.06)
    frequencies = model.frequencies_per_mm[model.frequencies_per_mm < 0.95]
    expected = frequencies * np.exp(-((frequencies / (peak * 2**0.5)) ** 2))
    mean = np.sum(frequencies * expected) / np.sum(expected)
    assert model.mean_frequency_per_mm == pytest.approx(mean, rel=0.10)
    assert model.peak_frequency_per_mm == pytest.approx(peak, abs=0.08)


def test_fields_have_unit_variance_and_the_requested_spectrum() -> None:
    frequencies = np.arange(0.05, 0.65, 0.05)
    asked = frequencies * np.exp(-((frequencies / 0.35) ** 2))
    model = NoiseModel("B30f", frequencies, asked / asked.max(), np.array([10.0]))
    fields = model.draw_fields(40, 128, 128, SPACING, np.random.default_rng(0))
    assert fields.dtype == np.float32
    assert fields.var() == pytest.approx(1, rel=0.02)
    rois = fields.reshape(40, 4, 32, 4, 32).swapaxes(2, 3).reshape(-1, 32, 32).astype(float)
    centres, nps = radial_nps(periodograms(rois, hann_window=True).mean(axis=0), SPACING)
    band = (centres > 0.1) & (centres < 0.55)
    drawn = nps[band] / nps[band].sum()
    wanted = model.power(centres[band]) / model.power(centres[band]).sum()
    assert np.abs(drawn - wanted).max() < 0.08 * wanted.max()


def test_the_same_seed_draws_the_same_field() -> None:
    model = NoiseModel("", np.array([0.2, 0.4]), np.array([1.0, 0.5]), np.array([1.0]))
    first, second = (model.draw_fields(1, 16, 16, SPACING, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_noise_model_is_saved_and_loaded(tmp_path: Path) -> None:
    model = NoiseModel("D45f", np.array([0.1, 0.2]), np.array([0.25, 1.0]), np.array([12.5, 30.0]))
    model.save(tmp_path / "noise.json")
    again = NoiseModel.load(tmp_path / "noise.json")
    assert again.kernel == "D45f"
    for name in ("frequencies_per_mm", "nps", "sigma_hu"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))


def test_a_file_that_is_not_a_noise_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.json").write_text('{"kernel": "B30f"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"noise\.json: not a noise model"):
        NoiseModel.load(tmp_path / "noise.json")


def test_air_has_no_tissue_for_noise_measurement() -> None:
    with pytest.raises(InputError, match="no uniform soft tissue"):
        estimate_noise(volume(np.full((2, SIDE, SIDE), -1000, np.float32)))


@pytest.mark.parametrize("group", ["L096/{}_3mm_sharp", "L143/{}_3mm_sharp", "L143/{}_3mm"])
def test_real_noise_from_the_low_dose_alone(mayo2016: Path, group: str) -> None:
    """Compared with the difference of quarter and full dose, which the unpaired estimate does not use."""
    low, normal = (find_images(mayo2016 / group.format(dose)).series[0] for dose in ("quarter", "full"))
    model, quiet = estimate_noise(low), estimate_noise(normal)
    spectra, variances = [], []
    for index in range(len(low)):
        rois = _tissue_rois(normal.read_hu(index), low.read_hu(index) - normal.read_hu(index))
        spectra.append(periodograms(rois, hann_window=True).mean(axis=0))
        variances.append(spectra[-1].mean())
    shape = np.mean([spectrum / spectrum.mean() for spectrum in spectra], axis=0)
    frequencies, nps = radial_nps(shape, low.geometry.pixel_spacing_mm)
    mean_frequency = np.sum(frequencies * nps) / np.sum(nps)
    assert model.mean_frequency_per_mm == pytest.approx(mean_frequency, rel=0.10)
    excess = np.sqrt(np.mean(model.sigma_hu**2) - np.mean(quiet.sigma_hu**2))
    assert excess == pytest.approx(np.sqrt(np.mean(variances)), rel=0.15)


def _tissue_rois(hu: np.ndarray, difference: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(hu, 2.5)
    tissue = (np.abs(smooth) < 160).astype(np.uint8)
    inside = ndimage.minimum_filter(tissue, size=32, origin=-16)
    corners = [(r, c) for r in range(0, 480, 16) for c in range(0, 480, 16) if inside[r, c]]
    return np.stack([difference[r : r + 32, c : c + 32] for r, c in corners]).astype(float)


@pytest.mark.parametrize(
    ("frequencies", "nps", "reason"),
    [
        ([], [], "of one length"),
        ([0.1, 0.2, 0.3], [1, 2], "of one length"),
        ([0.2, 0.1], [1, 2], "must rise"),
        ([0.1, float("nan")], [1, 2], "must rise"),
        ([0.1, 0.2], [0, 0], "more somewhere"),
        ([0.1, 0.2], [1, float("nan")], "more somewhere"),
        ([0.1, 0.2], [1, -1], "more somewhere"),
    ],
)
def test_an_impossible_spectrum_is_refused(
    tmp_path: Path, frequencies: list[float], nps: list[float], reason: str
) -> None:
    path = tmp_path / "noise.json"
    NoiseModel("B30f", np.array(frequencies), np.array(nps), np.ones(1)).save(path)
    with pytest.raises(InputError, match=rf"noise\.json: not a noise model \(.*{reason}"):
        NoiseModel.load(path)


@pytest.mark.filterwarnings("error")
def test_an_image_without_noise_has_its_own_error() -> None:
    with pytest.raises(InputError, match="has no noise to measure"):
        estimate_noise(volume(np.full((2, SIDE, SIDE), 40, np.float32)))
