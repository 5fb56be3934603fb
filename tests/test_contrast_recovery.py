"""Contrast recovery of inserted lesions, for denoisers whose recovery is known."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.evaluation.contrast_recovery import find_and_measure, measure_contrast_recovery, pool_recoveries
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.phantoms.insertion import DEFAULT_LESIONS, InsertedLesion, disc, find_places, tile_side_px
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry

SPACING = (0.8, 0.8)
SMALL, LARGE, NODULE = (
    InsertedLesion("soft tissue", 3, -20),
    InsertedLesion("soft tissue", 12, -20),
    InsertedLesion("lung nodule", 5, 400),
)
LESIONS = (SMALL, LARGE, NODULE)


def body(side=320, seed=0, noise_hu=20.0):
    """A body of 60 HU with a lung in its right half."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    hu = np.where(np.hypot(rows, columns) < 0.46 * side, 60.0, -1000.0)
    hu[(np.abs(rows) < 0.3 * side) & (columns > 0.05 * side) & (columns < 0.3 * side)] = -850
    noisy = hu + np.random.default_rng(seed).normal(0, noise_hu, hu.shape)
    return Volume(noisy[None], axial_geometry(1, side, side, (3.0, *SPACING)), "1", "p", "body")


def unchanged(source):
    return (source.read_hu(index) for index in range(len(source)))


def blurred(source, sigma_px=1.5):
    return (ndimage.gaussian_filter(source.read_hu(index), sigma_px) for index in range(len(source)))


def of_lesion(found, lesion):
    return next(item for item in found.lesions if item.lesion == lesion)


def test_an_unchanged_image_keeps_all_contrast():
    found = measure_contrast_recovery(body(), unchanged, blurred, lesions=LESIONS)
    for item in found.lesions:
        assert item.recovery == pytest.approx(1, abs=1e-4)
        assert item.control == pytest.approx(1, abs=1e-3)  # nothing of the blur is needed
        assert item.places >= 8
    assert found.noise_hu[0] == pytest.approx(20, rel=0.05)
    assert found.control_strength == pytest.approx(0, abs=1e-6)


def test_the_noise_of_the_slices_is_known_before_and_after():
    """Noise is measured on the slices without lesions: white noise of 20 HU, and the same after halving."""
    found = measure_contrast_recovery(
        body(), lambda source: (60 + 0.5 * (hu - 60) for hu in unchanged(source)), blurred, lesions=LESIONS
    )
    assert found.noise.noise.before.noise_hu[1] == pytest.approx(20, rel=0.05)
    assert found.noise.noise.after.noise_hu[1] == pytest.approx(10, rel=0.05)
    assert found.noise.after == pytest.approx(60 + 0.5 * (found.noise.before - 60), abs=1e-3)


def test_a_blur_keeps_what_its_convolution_says():
    found = measure_contrast_recovery(body(), blurred, blurred, lesions=LESIONS)
    side = tile_side_px(SPACING)
    axis = (np.arange(side) + 0.5 - side / 2) * SPACING[0]
    radius = np.hypot(axis[:, None], axis[None, :])
    for lesion in LESIONS:
        shape = disc(lesion.diameter_mm, SPACING, side, found.blur_mm)
        core = radius < max(lesion.diameter_mm / 4, 0.75 * SPACING[0])
        expected = ndimage.gaussian_filter(shape, 1.5)[core].mean() / shape[core].mean()
        assert of_lesion(found, lesion).recovery == pytest.approx(expected, abs=2e-3)
    assert of_lesion(found, SMALL).recovery < 0.6 < 0.99 < of_lesion(found, LARGE).recovery
    assert found.control_strength == pytest.approx(1)
    assert of_lesion(found, SMALL).control == pytest.approx(of_lesion(found, SMALL).recovery, abs=1e-6)


def test_the_control_has_the_same_noise():
    """Half blurred, half input: exactly the control at strength 0.5."""

    def half(source):
        for index in range(len(source)):
            hu = source.read_hu(index)
            yield 0.5 * hu + 0.5 * ndimage.gaussian_filter(hu, 1.5)

    found = measure_contrast_recovery(body(), half, blurred, lesions=LESIONS)
    assert found.control_strength == pytest.approx(0.5, abs=1e-3)
    for item in found.lesions:
        assert item.control == pytest.approx(item.recovery, abs=2e-3)


def test_no_control_where_it_cannot_have_as_little_noise():
    found = measure_contrast_recovery(
        body(), lambda source: blurred(source, 4), lambda source: blurred(source, 0.5), lesions=LESIONS
    )
    assert np.isnan(found.control_strength)
    assert all(np.isnan(item.control) for item in found.lesions)


def test_a_denoiser_that_erases_lesions_is_found_out():
    def erase(source):
        for index in range(len(source)):
            hu = source.read_hu(index)
            smooth = ndimage.gaussian_filter(hu, 2)
            yield np.where(np.abs(smooth - 60) < 40, 60, hu)

    found = measure_contrast_recovery(body(), erase, unchanged, lesions=LESIONS)
    assert of_lesion(found, LARGE).recovery == pytest.approx(0, abs=0.05)
    assert of_lesion(found, NODULE).recovery == pytest.approx(1, abs=0.05)


def test_lesions_lie_apart_in_their_tissue():
    hu = body(seed=3).hu[0]
    places = find_places(hu, SPACING)
    side = tile_side_px(SPACING)
    everything = [place for found in places.values() for place in found]
    assert len(places["lung"]) >= 2
    assert len(places["soft tissue"]) >= 3
    for number, (row, column) in enumerate(everything):
        assert all(max(abs(row - r), abs(column - c)) >= side for r, c in everything[:number])
    smooth = ndimage.gaussian_filter(hu, 3)
    assert all(abs(smooth[place] + 850) < 50 for place in places["lung"])
    assert all(abs(smooth[place] - 60) < 20 for place in places["soft tissue"])


def test_the_default_lesions_are_those_of_the_clinic():
    kinds = {
        kind: [item for item in DEFAULT_LESIONS if item.kind == kind] for kind in ("soft tissue", "lung nodule")
    }
    assert {item.diameter_mm for item in kinds["soft tissue"]} == {3, 5, 8, 12, 20}
    assert {item.contrast_hu for item in kinds["soft tissue"]} == {-5, -10, -20, -40}
    assert len({item.contrast_hu for item in kinds["lung nodule"]}) == 3
    assert any(item.kind == "calcification" for item in DEFAULT_LESIONS)


def test_series_of_one_kernel_and_dose_are_pooled():
    one, two = (measure_contrast_recovery(body(seed=n), blurred, blurred, lesions=LESIONS) for n in (0, 1))
    (pooled,) = pool_recoveries([one, two])
    assert pooled.name == "2 series"
    first, second, both = (of_lesion(found, SMALL) for found in (one, two, pooled))
    assert both.places == first.places + second.places
    assert both.recovery == pytest.approx((first.recovery + second.recovery) / 2, abs=1e-3)


def test_images_without_a_place_are_refused(tmp_path):
    air = body().with_hu(np.full((1, 320, 320), -1000.0))
    with pytest.raises(InputError, match="no uniform soft tissue or lung"):
        measure_contrast_recovery(air, unchanged, unchanged, lesions=LESIONS)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError):
        find_and_measure([empty], unchanged, unchanged)


@pytest.mark.slow
def test_the_command_measures_the_users_images(tmp_path, capsys):
    images = body(side=224)
    write_volume(tmp_path / "low.nii.gz", images, images.geometry)
    main = importlib.import_module("ldct_denoise.cli.main").main
    options = ["--realisations", "3", "--lesion", "liver,7,-10", "--lesion", "lung,5,15", "--slices", "1"]
    series = ["--series", str(tmp_path / "low.nii.gz")]
    main(["image-quality", "--model", "tv", "--output", str(tmp_path / "q"), *options, *series])
    assert "a lesion of 5 mm and -20 HU keeps" in capsys.readouterr().out
    rows = json.loads((tmp_path / "q" / "summary.json").read_text())["contrast_recovery"]
    assert {(row["kind"], row["diameter_mm"], row["contrast_hu"]) for row in rows} <= {
        (item.kind, item.diameter_mm, item.contrast_hu) for item in DEFAULT_LESIONS
    }
    assert all(row["places"] > 0 for row in rows)
    report = (tmp_path / "q" / "report.html").read_text()
    assert "Contrast recovery" in report
    assert "Noise map of your images" in report
