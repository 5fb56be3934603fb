"""Lesions that were erased or invented are found in real noise; noise removal alone raises no alarm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.io.dose_labels import find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.lesion_changes import (
    DISC_RESPONSE,
    LESION_SIZES_MM,
    LOOKS_PER_CM2,
    lesion_change_map,
    lesion_z_limits,
)
from ldct_denoise.metrics.no_reference import no_reference_report
from ldct_denoise.regions.body import body_mask
from ldct_denoise.regions.tissues import noise_tissue_mask

SPACING = (0.8, 0.8)
SHAPE = (320, 384)


def disc(centre, diameter_mm, shape=SHAPE, spacing=SPACING):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot((rows - centre[0]) * spacing[0], (columns - centre[1]) * spacing[1])
    return np.clip((diameter_mm / 2 - distance) / spacing[0] + 0.5, 0, 1)


def phantom(seed=0, noise_hu=30.0):
    """A body of 50 HU with a bone and fat, and the same with correlated noise."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    body = ((rows - 160) / 140) ** 2 + ((columns - 192) / 170) ** 2 < 1
    clean = np.where(body, 50.0, -1000.0)
    clean[240:270, 170:215] = 500
    clean[60:100, 120:180] = -100
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, SHAPE), 0.8)
    return clean, clean + noise_hu * noise / noise.std(), body


def status(before, after):
    checks = no_reference_report([(before, after)], SPACING).checks
    return next(check for check in checks if check.name == "lesion-sized changes")


PLACES = [(160, 90), (130, 250)]


@pytest.mark.parametrize("change", ["erased", "invented"])
@pytest.mark.parametrize(
    ("contrast_hu", "diameter_mm", "noise_hu"),
    [(-40, 12, 20), (-40, 8, 20), (-20, 8, 10), (40, 8, 20), (60, 5, 15)],
)
def test_lesions_are_found_with_place_size_sign_and_contrast(contrast_hu, diameter_mm, noise_hu, change):
    """A denoiser that leaves 30 % of the noise, perfect but for two lesions."""
    clean, noisy, _ = phantom(noise_hu=noise_hu)
    output = clean + 0.3 * (noisy - clean)
    lesions = contrast_hu * sum(disc(place, diameter_mm) for place in PLACES)
    before, after = (noisy + lesions, output) if change == "erased" else (noisy, output + lesions)
    expected = -contrast_hu if change == "erased" else contrast_hu
    assert status(noisy, output).status == "green"
    report = no_reference_report([(before, after)], SPACING)
    found = report.lesion_changes[:2]
    for place, item in zip(PLACES, sorted(found, key=lambda item: item.column), strict=True):
        assert np.hypot(item.row - place[0], item.column - place[1]) * SPACING[0] < diameter_mm / 3
    for item in found:
        assert abs(item.z) > report.lesion_z_limits[0]
        assert item.size_mm in LESION_SIZES_MM
        assert diameter_mm / 1.7 <= item.size_mm <= 1.7 * diameter_mm
        assert item.contrast_hu == pytest.approx(expected, rel=0.5)
    checked = status(before, after)
    assert checked.status != "green"
    assert ("brighter" if expected > 0 else "darker") in checked.reason


def test_a_nodule_that_vanishes_from_the_lung_is_found():
    """Its edge is strong, but only one of the images has it."""
    clean, noisy, _ = phantom()
    lung = ((np.ogrid[: SHAPE[0], : SHAPE[1]][0] - 150) / 70) ** 2 + (
        (np.ogrid[: SHAPE[0], : SHAPE[1]][1] - 280) / 50
    ) ** 2 < 1
    noise = noisy - clean
    clean = np.where(lung, -850.0, clean)
    nodule = 800 * disc((150, 280), 6)
    assert status(clean + noise + nodule, clean + 0.3 * noise).status == "red"
    assert status(clean + noise, clean + 0.3 * noise + nodule).status == "red"
    assert status(clean + noise + nodule, clean + 0.3 * noise + nodule).status == "green"


def test_z_is_normal_where_only_noise_was_removed():
    """In correlated noise: mean 0 and unit spread at the single sizes, and no alarm in 8 slices."""
    tails = []
    for seed in range(8):
        clean, noisy, body = phantom(seed)
        found = lesion_change_map(noisy, clean, body, SPACING)
        z = found.z[found.measured]
        tails.append(np.abs(z).max())
        at_size = z[found.size_mm[found.measured] == 3]
        assert abs(at_size.mean()) < 0.1
    assert max(tails) < lesion_z_limits(8 * found.area_cm2)[0]
    assert np.median(tails) > 3  # not blind either


def test_what_is_not_measured_is_nan():
    clean, noisy, body = phantom()
    found = lesion_change_map(noisy, clean, body, SPACING)
    assert np.isnan(found.z[~body]).all()
    assert np.isnan(found.z[238:272, 168:217][:3]).all()  # the edge of the bone
    assert found.measured[160, 90]
    empty = lesion_change_map(noisy, clean, np.zeros_like(body), SPACING)
    assert not empty.measured.any()
    assert empty.changes(0.1) == []


def test_identical_images_have_no_change():
    _, noisy, body = phantom()
    found = lesion_change_map(noisy, noisy, body, SPACING)
    assert np.all(found.z[found.measured] == 0)
    assert status(noisy, noisy).status == "green"


def test_the_filter_responds_to_a_disc_as_stated():
    values = disc((160, 192), 12.0, spacing=(0.2, 0.2))
    narrow, wide = (ndimage.gaussian_filter(values, share * 12 / 0.2, truncate=6) for share in (0.35, 0.7))
    assert (narrow - wide)[160, 192] == pytest.approx(DISC_RESPONSE, abs=0.01)


def test_the_limits_keep_the_rate_of_false_alarms():
    """Largest of as many normal values as looks: beyond the amber limit in 5 % of series."""
    area_cm2 = 40.0
    values = np.random.default_rng(0).normal(size=(2000, int(area_cm2 * LOOKS_PER_CM2)))
    amber, red = lesion_z_limits(area_cm2)
    assert np.mean(np.abs(values).max(axis=1) > amber) == pytest.approx(0.05, abs=0.015)
    assert red > amber + 1
    assert lesion_z_limits(300 * 700)[0] == pytest.approx(5.8, abs=0.1)


def test_full_dose_against_quarter_dose_is_quiet_and_lesions_fire(mayo2016):
    """Full dose stands in for a perfect denoiser; lesions of −40 HU are erased or invented at three places."""
    pairs = find_pairs(label_series(find_images(mayo2016).series, mayo2016))
    rng, strongest, area_cm2 = np.random.default_rng(0), [], 0.0
    for pair in pairs:
        spacing = pair.low.geometry.pixel_spacing_mm
        for low_index, normal_index in pair.indices[2:4]:
            low, full = pair.low.read_hu(low_index), pair.normal.read_hu(normal_index)
            body = body_mask(low, spacing)
            quiet = lesion_change_map(low, full, body, spacing)
            strongest.append(np.nanmax(np.abs(quiet.z)))
            area_cm2 += quiet.area_cm2
            rows, columns = np.nonzero(
                ndimage.binary_erosion(quiet.measured & noise_tissue_mask(full), iterations=14)
            )
            places = [(int(rows[i]), int(columns[i])) for i in rng.integers(len(rows), size=3)]
            lesions = -40 * np.maximum.reduce([disc(place, 12, low.shape, spacing) for place in places])
            for before, after, sign in ((low + lesions, full, 1), (low, full + lesions, -1)):
                z = lesion_change_map(before, after, body, spacing).z * sign
                found = max(np.nanmax(z[r - 3 : r + 4, c - 3 : c + 4]) for r, c in places)
                assert found > lesion_z_limits(quiet.area_cm2)[0]
    assert max(strongest) < lesion_z_limits(area_cm2)[0]
