"""Image quality on the phantom, for images that are unchanged, blurred, or of another dose."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.errors import ConfigError
from ldct_denoise.evaluation.image_quality import BLUR_MM, SPACING_MM, ImageQualitySettings, measure_image_quality
from ldct_denoise.report.image_quality import sentences

SETTINGS = ImageQualitySettings(realisations=8, doses=(0.25, 0.5, 1.0))


@pytest.fixture(scope="module")
def untouched():
    return measure_image_quality(lambda source: [source.read_hu(index) for index in range(len(source))], SETTINGS)


def test_noise_is_inverse_to_the_root_of_the_dose(untouched):
    noise = {dose: image.noise.variance_hu2**0.5 for dose, image in untouched.unprocessed.items()}
    assert noise[0.25] / noise[1.0] == pytest.approx(2, rel=0.03)


def test_resolution_equals_that_of_the_scanner(untouched):
    curve = untouched.unprocessed[1.0].transfer[400.0]
    known = np.exp(-2 * (np.pi * BLUR_MM * curve.frequency) ** 2) * np.sinc(curve.frequency * SPACING_MM)
    inside = curve.frequency < 0.5
    assert np.abs(curve.value - known)[inside].max() < 0.04
    assert untouched.denoised.linearity.slope == pytest.approx(1, abs=0.005)


def test_detectability_grows_with_the_root_of_the_dose(untouched):
    images = untouched.unprocessed
    for observer in ("CHO", "NPWE"):
        low, high = (images[dose].observers[observer] for dose in (0.25, 1.0))
        assert high.d_prime / low.d_prime == pytest.approx(2, rel=0.2)
        assert low.low < low.d_prime < low.high


def test_an_unprocessed_image_is_equivalent_to_its_dose(untouched):
    for worth in untouched.equivalence.values():
        assert worth.dose == pytest.approx(0.25, rel=0.25)
    assert untouched.equivalence["CHO"].low < 0.27 < untouched.equivalence["CHO"].high


def test_halving_the_noise_is_equivalent_to_the_dose_that_halves_it():
    """The mean of 8 realisations keeps an eighth of the variance; a quarter of the rest remains."""
    settings = ImageQualitySettings(realisations=8, doses=(0.25, 0.5, 1.0))
    means = {}

    def half_the_noise(source):
        truth = means.setdefault(source.uid, np.mean([source.read_hu(i) for i in range(len(source))], axis=0))
        return [truth + (source.read_hu(i) - truth) / 2 for i in range(len(source))]

    study = measure_image_quality(half_the_noise, settings)
    left = 1 / 8 + (1 - 1 / 8) / 4
    assert study.equivalence["NPWE"].dose == pytest.approx(0.25 / left, rel=0.1)
    assert study.equivalence["CHO"].dose > 0.5


def test_a_blur_lowers_resolution_and_does_not_fool_the_hotelling_observer(untouched):
    blurred = measure_image_quality(
        lambda source: [ndimage.gaussian_filter(source.read_hu(i), 1.5) for i in range(len(source))], SETTINGS
    )
    before, after = (image.transfer[400.0].frequency_at(0.5) for image in (untouched.denoised, blurred.denoised))
    assert after < 0.6 * before
    assert blurred.denoised.noise.variance_hu2 < 0.1 * untouched.denoised.noise.variance_hu2
    assert blurred.equivalence["CHO"].low < 0.27 < blurred.equivalence["CHO"].high * 1.3
    assert "of the dose" in " ".join(sentences(blurred))


def test_without_a_lesion_nothing_is_detected_and_no_dose_is_reported(tmp_path, capsys):
    """Null test: NPWE has exactly d′ = 0, and CHO only chance."""
    main = importlib.import_module("ldct_denoise.cli.main").main
    output = tmp_path / "p"
    main(
        ["image-quality", "--model", "bilateral", "--lesion", "0", "--realisations", "3", "--output", str(output)]
    )
    assert "NPWE: d′ 0.00 (0.00 to 0.00) unprocessed and 0.00 (0.00 to 0.00) denoised" in capsys.readouterr().out
    found = json.loads((output / "summary.json").read_text())
    for image in found["images"].values():
        assert set(image["detectability"]["NPWE"].values()) == {0.0}
        assert abs(image["detectability"]["CHO"]["d_prime"]) < 0.8
    nothing = {"dose": None, "low": None, "high": None}
    assert found["dose_equivalence"]["NPWE"] == nothing
    assert (found["dose_equivalence"]["CHO"]["low"], found["dose_equivalence"]["CHO"]["high"]) == (None, None)
    assert (output / "report.html").exists()


def test_a_denoiser_that_adds_noise_is_reported_as_such(untouched):
    noisier = replace(untouched, denoised=untouched.unprocessed[0.25])
    quieter = replace(untouched, denoised=untouched.unprocessed[1.0])
    worse = replace(noisier, settings=replace(SETTINGS, dose=1.0))
    assert "the noise rises from 14.5 to 29.2 HU" in sentences(worse)[0]
    assert "the noise falls from 29.2 to 14.5 HU" in sentences(quieter)[0]


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="doses"):
        ImageQualitySettings(doses=(0.5,))
    with pytest.raises(ConfigError, match="realisations"):
        ImageQualitySettings(realisations=1)


def test_the_command_writes_summary_and_report(tmp_path, capsys):
    main = importlib.import_module("ldct_denoise.cli.main").main
    arguments = ["image-quality", "--model", "bilateral", "--output", str(tmp_path / "p"), "--realisations", "3"]
    main(arguments)
    out = capsys.readouterr().out
    assert "CHO: d′" in out
    found = json.loads((tmp_path / "p" / "summary.json").read_text())
    assert found["images"]["denoised"]["noise_hu"] < found["images"]["unprocessed 0.25"]["noise_hu"] / 2
    page = (tmp_path / "p" / "report.html").read_text()
    assert "Research use only" in page
    assert "task transfer function by contrast" in page
