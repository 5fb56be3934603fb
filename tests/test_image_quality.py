"""Image quality on the phantom, for images that are unchanged, blurred, or of another dose."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.errors import ConfigError
from ldct_denoise.evaluation.image_quality import OBSERVERS, ImageQualitySettings, measure_image_quality
from ldct_denoise.phantoms.tasks import (
    BLUR_MM,
    ROI_PX,
    SPACING_MM,
    Lesion,
    add_lesions,
    background_truth,
    cut_rois,
)
from ldct_denoise.report.image_quality import sentences
from ldct_denoise.report.phantom_checks import study_checks
from ldct_denoise.report.verdict import answer

LIVER, LUNG = Lesion("liver", 7, -10), Lesion("lung", 5, 15)
SETTINGS = ImageQualitySettings(realisations=8, doses=(0.125, 0.5, 1.0), lesions=(LIVER, LUNG))


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


def test_intervals_of_resolution_hold_the_truth(untouched):
    known = np.sqrt(np.log(2) / 2) / np.pi / np.hypot(BLUR_MM, SPACING_MM / np.sqrt(12))
    for contrast in (-100.0, 120.0, 400.0):
        low, high = untouched.unprocessed[1.0].transfer[contrast].frequency_interval(0.5)
        assert low < known * 1.02
        assert high > known * 0.98


def test_detectability_grows_with_the_root_of_the_dose(untouched):
    images = untouched.unprocessed
    for task in untouched.equivalence:
        low, high = (images[dose].detectability[task] for dose in (0.25, 1.0))
        assert high.d_prime / low.d_prime == pytest.approx(2, rel=0.05)
        assert low.low < low.d_prime < low.high
        assert low.auc < high.auc


def test_an_unprocessed_image_is_equivalent_to_its_dose(untouched):
    assert {observer for _, observer in untouched.equivalence} == set(OBSERVERS)
    for worth in untouched.equivalence.values():
        assert worth.dose == pytest.approx(0.25, rel=0.04)


def test_every_lesion_visits_every_place():
    lesions = {"liver": [LIVER, Lesion("liver", 4, -20)], "lung": [LUNG]}
    truth = background_truth()
    images = [cut_rois(add_lesions(truth, lesions, number)[None] - truth, "liver")[0] for number in range(2)]
    middle = slice(ROI_PX // 2 - 1, ROI_PX // 2 + 1)
    contrast = np.array([image[:, middle, middle].mean(axis=(1, 2)) for image in images])
    assert np.sort(contrast, axis=0) == pytest.approx(np.array([[-20.0] * 8, [-10.0] * 8]), abs=0.5)


def test_halving_the_noise_is_equivalent_to_the_dose_that_halves_it():
    """The mean of all realisations is the background that the observers know; a quarter of the rest remains."""

    def half_the_noise(source):
        for index in range(len(source)):
            same_object = range(index // 8 * 8, index // 8 * 8 + 8)
            truth = np.mean([source.read_hu(i) for i in same_object], axis=0)
            yield truth + (source.read_hu(index) - truth) / 2

    study = measure_image_quality(half_the_noise, SETTINGS)
    for task in ((LIVER, "NPWE"), (LUNG, "NPWE"), (LIVER, "Gabor CHO"), (LIVER, "CHO")):
        assert study.equivalence[task].dose == pytest.approx(1.0, rel=0.02)


def test_a_blur_lowers_resolution_and_does_not_fool_the_hotelling_observer(untouched):
    blurred = measure_image_quality(
        lambda source: [ndimage.gaussian_filter(source.read_hu(i), 1.5) for i in range(len(source))], SETTINGS
    )
    before, after = (image.transfer[400.0].frequency_at(0.5) for image in (untouched.denoised, blurred.denoised))
    assert after < 0.6 * before
    assert blurred.denoised.noise.variance_hu2 < 0.1 * untouched.denoised.noise.variance_hu2
    for lesion in (LIVER, LUNG):
        assert blurred.equivalence[lesion, "CHO"].low < 0.27 < blurred.equivalence[lesion, "CHO"].high * 1.3
    assert "CHO: equivalent dose of the images denoised at 25 %" in " ".join(sentences(blurred))
    found = {check.name: check for check in study_checks(blurred)}
    assert found["edge sharpness"].status == "red"
    assert found["edge sharpness"].value == pytest.approx(after / before, abs=0.05)
    assert found["edge sharpness"].short.endswith("at +400 HU (limit −5 %)")
    assert found["noise texture"].status == "red"
    assert "failed: noise texture" in answer(list(found.values()))
    assert {check.status for check in study_checks(untouched)} == {"green"}


def test_a_denoiser_that_removes_faint_lesions_is_found_out(untouched):
    """It keeps the rods and removes what is below 20 HU: noise falls, and so does detectability."""

    def keep_strong(source):
        for index in range(len(source)):
            hu = source.read_hu(index)
            coarse = ndimage.gaussian_filter(hu, 3)
            level = np.where(coarse < -400, -850, 50)
            faint = np.abs(coarse - level) < 20
            yield np.where(faint, level + 0.2 * (hu - level) - 0.15 * (coarse - level), hu)

    study = measure_image_quality(keep_strong, SETTINGS)
    assert study.denoised.noise.variance_hu2 < 0.1 * untouched.denoised.noise.variance_hu2
    before, after = (one.denoised.detectability[LIVER, "Gabor CHO"].d_prime for one in (untouched, study))
    assert after < 0.9 * before


def test_without_a_lesion_nothing_is_detected_and_no_dose_is_reported(tmp_path, capsys):
    """Null test: with and without a lesion the images are the same."""
    main = importlib.import_module("ldct_denoise.cli.main").main
    output = tmp_path / "p"
    lesions = ["--lesion", "liver,7,0", "--lesion", "lung,5,0"]
    main(["image-quality", "--model", "bilateral", *lesions, "--realisations", "3", "--output", str(output)])
    assert "not within the measured doses for liver, 7 mm, +0 HU" in capsys.readouterr().out
    found = json.loads((output / "summary.json").read_text())
    for image in found["images"].values():
        assert len(image["detectability"]) == 2 * len(OBSERVERS)
        for entry in image["detectability"]:
            assert (entry["d_prime"], entry["auc"]) == (0.0, 0.5)
    for entry in found["dose_equivalence"]:
        assert (entry["dose"], entry["low"], entry["high"]) == (None, None, None)
    assert (output / "report.html").exists()


def test_a_denoiser_that_adds_noise_is_reported_as_such(untouched):
    noisier = replace(untouched, denoised=untouched.unprocessed[0.25])
    quieter = replace(untouched, denoised=untouched.unprocessed[1.0])
    worse = replace(noisier, settings=replace(SETTINGS, dose=1.0))
    assert "the noise rises from 14.4 to 28.8 HU" in sentences(worse)[0]
    assert "the noise falls from 28.8 to 14.4 HU" in sentences(quieter)[0]


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="doses"):
        ImageQualitySettings(doses=(0.5,))
    with pytest.raises(ConfigError, match="realisations"):
        ImageQualitySettings(realisations=2)
    with pytest.raises(ConfigError, match="none twice"):
        ImageQualitySettings(lesions=(LIVER, LIVER))
    for text in ("liver,7", "liver,a,b", "brain,7,-10", "lung,40,10"):
        with pytest.raises(ConfigError, match="lesion"):
            Lesion.parse(text)


def test_the_command_writes_summary_and_report(tmp_path, capsys):
    main = importlib.import_module("ldct_denoise.cli.main").main
    arguments = ["image-quality", "--model", "bilateral", "--output", str(tmp_path / "p"), "--realisations", "3"]
    main(arguments)
    out = capsys.readouterr().out
    assert "Gabor CHO: equivalent dose of the images denoised at 25 %: " in out
    found = json.loads((tmp_path / "p" / "summary.json").read_text())
    assert found["images"]["denoised"]["noise_hu"] < found["images"]["unprocessed 0.25"]["noise_hu"] / 2
    page = (tmp_path / "p" / "report.html").read_text()
    assert "Research use only" in page
    assert "task transfer function by contrast" in page
