"""The default output keeps texture: formulas against closed forms, the dial against measured noise, real pairs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import ldct_denoise
from ldct_denoise.errors import ConfigError
from ldct_denoise.inference.noise_blend import (
    DEFAULT_PARAMETERS,
    NoiseTransfer,
    blend_slice,
    measure_noise_transfer,
)
from ldct_denoise.inference.series import derivation_of
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import Window
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.fidelity import psnr
from ldct_denoise.metrics.noise import noise_power_spectrum
from ldct_denoise.models.trained import load_model
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry, shift_model, water_disc

SPACING = (0.7, 0.7)
Image = NDArray[np.floating]


def noisy_water(sigma_hu: float, seed: int, side: int = 256) -> Image:
    """Water with noise of a medium kernel."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    noise = ndimage.gaussian_filter(noise, 0.8) - ndimage.gaussian_filter(noise, 3)
    return (40 + sigma_hu * noise / noise.std()).astype(np.float32)


def halved(hu: Image) -> Image:
    """A network whose transfer is 0.3 at every frequency."""
    return (40 + 0.3 * (hu - 40)).astype(np.float32)


@pytest.fixture(scope="module")
def transfer() -> NoiseTransfer:
    slices = [noisy_water(40, seed) for seed in range(4)]
    return measure_noise_transfer(((hu, halved(hu)) for hu in slices), SPACING)


def test_the_transfer_is_the_networks(transfer: NoiseTransfer) -> None:
    assert transfer.roi_count >= 20
    np.testing.assert_allclose(transfer.transfer, 0.3, atol=1e-3)


def test_gains_are_the_documented_formula(transfer: NoiseTransfer) -> None:
    strong = replace(transfer, parameters=replace(DEFAULT_PARAMETERS, low_noise_index=0.0))
    f = transfer.frequencies_per_mm
    target = 0.22 + 0.12 * np.minimum(f / 0.6, 1) ** 2
    fine, everything = strong.gains()
    np.testing.assert_allclose(fine, np.clip((target - transfer.transfer) / (1 - transfer.transfer), 0, 1))
    np.testing.assert_allclose(everything, np.minimum(fine + 0.8 * np.exp(-((f / 0.19) ** 2)), 1))


def test_more_anatomy_under_the_noise_gives_more_of_the_input_back(transfer: NoiseTransfer) -> None:
    """Normal dose has the same anatomy and less noise, so its mean frequency is lower already."""
    f = transfer.frequencies_per_mm
    fine, everything = transfer.gains()
    weak = replace(transfer, output_nps=0.1 * transfer.input_nps / (1 + 25 * f**2))  # coarse noise is left
    weak = replace(weak, cross_nps=np.sqrt(weak.output_nps * weak.input_nps))
    anatomy = 4 * transfer.input_nps.max() * np.exp(-((f / 0.06) ** 2))
    lifted = replace(weak, anatomy_nps=anatomy, parameters=replace(DEFAULT_PARAMETERS, normal_dose_index=1e6))
    unlifted = replace(lifted, parameters=replace(lifted.parameters, max_frequency_loss=1.0))
    wanted = 0.89 * lifted._mean_frequency(3 * anatomy + lifted.input_nps)
    gains = [one.gains()[1] for one in (unlifted, lifted)]
    left = [lifted._mean_frequency(3 * anatomy + lifted._power(gain)) for gain in gains]
    assert left[0] < wanted
    assert left[1] == pytest.approx(wanted, rel=1e-3)
    assert ((gains[1] >= gains[0]) & (gains[1] <= 0.25 * gains[0] + 0.75 + 1e-9)).all()
    assert (fine <= everything).all()


@pytest.mark.parametrize("reduction", [0.3, 0.4, 0.5, 0.6])
def test_the_dial_gives_the_noise_reduction_that_was_asked_for(transfer: NoiseTransfer, reduction: float) -> None:
    hu = noisy_water(40, 99)
    blended = blend_slice(hu, halved(hu), transfer, SPACING, transfer.position(reduction))
    inside = np.s_[40:-40, 40:-40]
    assert blended[inside].std() / hu[inside].std() == pytest.approx(1 - reduction, abs=0.03)


def test_the_dial_is_monotonic_and_ends_at_network_and_input(transfer: NoiseTransfer) -> None:
    left = [transfer.remaining_noise(position) for position in np.linspace(-1, 1, 41)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(left))
    assert left[0] == pytest.approx(0.3, abs=1e-3)
    assert left[-1] == pytest.approx(1)
    assert transfer.position(0.9) == pytest.approx(-1)  # more than the network removes: its own output
    hu = noisy_water(40, 5)
    np.testing.assert_array_equal(blend_slice(hu, halved(hu), transfer, SPACING, 1), hu)
    np.testing.assert_array_equal(blend_slice(hu, halved(hu), transfer, SPACING, -1), halved(hu))


def test_a_calcification_comes_back_and_noise_does_not() -> None:
    row, column = np.mgrid[:256, :256]
    spot = 300 * ndimage.gaussian_filter((np.hypot(row - 128, column - 128) * 0.7 <= 1).astype(float), 0.6)
    clean = noisy_water(20, 1)
    hu = (clean + spot).astype(np.float32)
    removed = halved(clean)  # the network took the calcification for noise
    transfer = measure_noise_transfer(
        [(noisy_water(20, s), halved(noisy_water(20, s))) for s in range(4)], SPACING
    )
    core = np.hypot(row - 128, column - 128) * 0.7 <= 0.8

    def recovered(parameters: object) -> float:
        given = replace(transfer, parameters=parameters)
        difference = blend_slice(hu, removed, given, SPACING) - blend_slice(clean, removed, given, SPACING)
        return float(difference[core].mean() / spot[core].mean())

    assert recovered(DEFAULT_PARAMETERS) > 0.8
    assert recovered(replace(DEFAULT_PARAMETERS, keep_bright_spots=False)) < 0.5


def test_a_series_without_uniform_tissue_gets_the_typical_transfer() -> None:
    air = np.full((128, 128), -1000, np.float32)
    transfer = measure_noise_transfer([(air, air)], SPACING)
    assert transfer.roi_count == 0
    assert np.isfinite(blend_slice(air, air, transfer, SPACING)).all()


def test_settings_say_which_blend_it_is() -> None:
    shipped, other = load_model("lir-ct-small"), shift_model(8)
    assert shipped.keeps_texture
    assert not other.keeps_texture
    assert derivation_of(shipped, ApplySettings()).amount == "normal-dose texture"
    assert derivation_of(shipped, ApplySettings(noise_reduction=50)).amount == "50% less noise"
    plain = derivation_of(shipped, ApplySettings(strength=1))
    assert (plain.amount, plain.strength) == ("", 1.0)
    uids = {
        derivation_of(shipped, settings).uid("1.2.3")
        for settings in (ApplySettings(), ApplySettings(noise_reduction=50), ApplySettings(strength=1))
    }
    assert len(uids) == 3
    assert derivation_of(other, ApplySettings()).strength == 1
    with pytest.raises(ConfigError, match="one of them"):
        ApplySettings(strength=0.5, noise_reduction=50)
    with pytest.raises(ConfigError, match="100"):
        ApplySettings(noise_reduction=101)


def test_the_input_comes_back_for_no_noise_reduction_and_out_of_range_pixels_stay() -> None:
    source = water_disc("P1", 40, slices=2)
    hu = source.hu.copy()
    hu[0, 40:44, 40:44] = 4000
    hu[0, 0, 0] = np.nan
    odd = Volume(hu, source.geometry, "1", "P", "n")
    model = load_model("lir-ct-small")
    for index, restored in restore_slices(odd, model, ApplySettings(noise_reduction=0)):
        np.testing.assert_array_equal(restored, hu[index])
    restored = dict(restore_slices(odd, model))
    outside = ~(hu[0] <= model.scale.high_hu)
    np.testing.assert_array_equal(restored[0][outside], hu[0][outside])
    # A slice does not depend on which others are asked for.
    np.testing.assert_array_equal(dict(restore_slices(odd, model, indices=[1]))[1], restored[1])


def test_an_array_needs_its_spacing() -> None:
    hu = np.random.default_rng(0).normal(40, 30, (64, 64))
    with pytest.raises(ConfigError, match="spacing_mm"):
        ldct_denoise.denoise(hu, "lir-ct-small")
    assert ldct_denoise.denoise(hu, "lir-ct-small", spacing_mm=(0.7, 0.7)).shape == hu.shape
    assert ldct_denoise.denoise(hu, "lir-ct-small", strength=1).shape == hu.shape


def test_noise_out_rises_with_noise_in() -> None:
    """At strength 1 it does not (a network removes strong noise and keeps weak noise)."""
    model, left = load_model("lir-ct-small"), []
    for sigma_hu in (8.0, 15.0, 25.0, 40.0):
        hu = np.stack([noisy_water(sigma_hu, 11, side=160)])
        source = Volume(hu, axial_geometry(1, 160, 160, (3.0, *SPACING)))
        left.append(float(dict(restore_slices(source, model))[0][30:-30, 30:-30].std()))
    assert all(a < b for a, b in itertools.pairwise(left)), left


def mean_frequency(hu: Image, places: list[tuple[int, int]]) -> float:
    rois = [hu[r : r + 32, c : c + 32] for r, c in places]
    return noise_power_spectrum(np.stack(rois), SPACING).radial(0.05).mean_frequency


@pytest.mark.parametrize("kernel", ["full_3mm", "full_3mm_sharp"])
def test_normal_dose_as_input_is_barely_touched(mayo2016: Path, kernel: str) -> None:
    full = find_images(mayo2016 / "L143" / kernel).series[0]
    index, model = len(full) // 2, load_model("lir-ct-small")
    hu = full.read_hu(index)
    places = _uniform(hu)
    default, alone = (
        dict(restore_slices(full, model, settings, [index]))[index]
        for settings in (ApplySettings(), ApplySettings(strength=1))
    )
    before = mean_frequency(hu, places)
    assert mean_frequency(default, places) / before - 1 > -0.16 > mean_frequency(alone, places) / before - 1
    assert (default - hu)[hu > -300].std() < 0.5 * (alone - hu)[hu > -300].std()


@pytest.mark.parametrize("kernel", ["quarter_3mm", "quarter_3mm_sharp"])
def test_texture_of_normal_dose_on_real_pairs(mayo2016: Path, kernel: str) -> None:
    """The network alone shifts the mean NPS frequency of uniform tissue further than the default output does."""
    low = find_images(mayo2016 / "L143" / kernel).series[0]
    full = find_images(mayo2016 / "L143" / kernel.replace("quarter", "full")).series[0]
    index = len(low) // 2
    model = load_model("lir-ct-small")
    window = Window("ct", 0, 2048)
    target, noisy = full.read_hu(index), low.read_hu(index)
    default = dict(restore_slices(low, model, indices=[index]))[index]
    alone = dict(restore_slices(low, model, ApplySettings(strength=1), [index]))[index]

    def gain(hu: Image) -> float:
        return psnr(hu, target, window) - psnr(noisy, target, window)

    def mean_frequency(hu: Image) -> float:
        rois = [hu[r : r + 32, c : c + 32] for r, c in _uniform(target)]
        return noise_power_spectrum(np.stack(rois), low.geometry.pixel_spacing_mm).radial(0.05).mean_frequency

    assert gain(default) > max(gain(alone) - 0.8, 3.9)
    shift, shift_alone = (mean_frequency(hu) / mean_frequency(target) - 1 for hu in (default, alone))
    assert shift_alone < shift - 0.05
    if kernel == "quarter_3mm_sharp":  # the full dose of the soft kernel holds too much anatomy to compare with
        assert shift > -0.16


def _uniform(hu: Image) -> list[tuple[int, int]]:
    spread = {
        (r, c): ndimage.uniform_filter(hu[r : r + 32, c : c + 32], 9)[4:-4, 4:-4].std()
        for r in range(64, 416, 16)
        for c in range(64, 416, 16)
        if 0 < hu[r : r + 32, c : c + 32].mean() < 140
    }
    return sorted(spread, key=spread.__getitem__)[:25]
