"""Model observers that score images, and dose equivalence, against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldct_denoise.errors import InputError
from ldct_denoise.metrics import observers
from ldct_denoise.metrics.detectability import eye_filter
from ldct_denoise.metrics.dose_equivalence import dose_equivalence

SIDE, MM = 24, 0.75


def gaussian_lesion(size, sigma_px, contrast):
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    return contrast * np.exp(-(rows**2 + columns**2) / (2 * sigma_px**2))


LESION = gaussian_lesion(SIDE, 3.0, 8.0)
FREQUENCY = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE, MM), np.fft.fftfreq(SIDE, MM), indexing="ij"))
#: Noise of a ramp with a roll-off: power of each cell, HU².
POWER = 15.0**2 * FREQUENCY * np.exp(-((FREQUENCY / 0.5) ** 2)) / 0.2
#: A linear denoiser that takes away fine noise.
BLUR = np.exp(-((FREQUENCY / 0.15) ** 2))


def ramp_noise(rng, *shape):
    """Stationary noise of the spectrum POWER, periodic."""
    spectrum = np.fft.fft2(rng.normal(size=(*shape, SIDE, SIDE))) * np.sqrt(POWER)
    return np.fft.ifft2(spectrum).real


def filtered(images, transfer):
    return np.fft.ifft2(np.fft.fft2(images) * transfer).real


def known_npwe(transfer=1.0, dose=1.0):
    """d′ of the template w = E²·S on images transfer·(lesion + noise): ⟨w, t·s⟩/√⟨w², t²·N⟩."""
    signal = np.abs(np.fft.fft2(LESION)) ** 2 * eye_filter(FREQUENCY) ** 2
    noise = signal * eye_filter(FREQUENCY) ** 2 * transfer**2 * POWER / dose
    return np.sum(signal * transfer) / SIDE / np.sqrt(np.sum(noise))


def npwe(absent, transfer=1.0, seed=0):
    present = filtered(absent + LESION, transfer)
    template = observers.npwe_template(LESION, (MM, MM))
    return observers.template_detectability(present, filtered(absent, transfer), template, seed=seed, repeats=200)


def test_hotelling_of_a_gaussian_lesion_in_white_noise():
    size, sigma_px, contrast_hu = 33, 3.0, 8.0
    rng = np.random.default_rng(4)
    lesion = gaussian_lesion(size, sigma_px, contrast_hu)
    absent, present = rng.normal(0, 15, (2, 400, size, size))
    channels = observers.laguerre_gauss_channels(size, np.sqrt(2 * np.pi) * sigma_px, 5)
    result = observers.hotelling_detectability(present + lesion, absent, channels)
    ideal = np.sqrt(np.sum(lesion**2)) / 15
    assert result.d_prime == pytest.approx(ideal, rel=0.1)
    assert result.low < ideal < result.high


def test_leave_one_out_finds_no_lesion_in_noise():
    rng = np.random.default_rng(4)
    absent, present = rng.normal(0, 15, (2, 40, 33, 33))
    channels = observers.laguerre_gauss_channels(33, 8, 6)
    assert abs(observers.hotelling_detectability(present, absent, channels).d_prime) < 0.8
    with pytest.raises(InputError, match="too few"):
        observers.hotelling_detectability(present[:8], absent[:8], channels)


def test_the_background_is_known():
    """A level that differs between places, or is far from 0, is no noise; templates weigh it differently."""
    rng = np.random.default_rng(1)
    absent = ramp_noise(rng, 16, 4)
    channels = observers.laguerre_gauss_channels(SIDE, np.sqrt(2 * np.pi) * 3, 5)
    levels = np.array([-900.0, 50, 300, 0])[:, None, None]
    plain, raised = (observers.hotelling_detectability(x + LESION, x, channels) for x in (absent, absent + levels))
    assert raised.d_prime == pytest.approx(plain.d_prime, rel=1e-6)
    template = observers.npwe_template(LESION, (MM, MM))
    plain, raised = (
        observers.template_detectability(x + LESION, x, template) for x in (absent, absent + 50 * levels)
    )
    assert raised.d_prime == pytest.approx(plain.d_prime, rel=1e-6)


@pytest.mark.parametrize("transfer", [1.0, BLUR])
def test_npwe_intervals_cover_the_closed_form(transfer):
    """Nominal 95 % with six realisations of four places; the lesion's transfer is part of the scores."""
    rng, covered, values = np.random.default_rng(0), 0, []
    for seed in range(120):
        found = npwe(ramp_noise(rng, 6, 4), transfer, seed)
        covered += found.low < known_npwe(transfer) < found.high
        values.append(found.d_prime)
    assert np.median(values) == pytest.approx(known_npwe(transfer), rel=0.04)
    assert covered >= 106  # 88 %; 120 · 0.95 = 114


def test_dose_equivalence_intervals_cover_the_closed_form():
    """A blur at a quarter of the dose, against unprocessed images of independent noise."""
    rng, covered, doses = np.random.default_rng(3), 0, [0.125, 0.25, 0.5, 1.0]
    truth = 0.25 * (known_npwe(BLUR) / known_npwe()) ** 2
    assert 0.3 < truth < 0.9
    for _ in range(40):
        curve = [npwe(ramp_noise(rng, 8, 6) / np.sqrt(dose)) for dose in doses]
        found = dose_equivalence(doses, curve, npwe(ramp_noise(rng, 8, 6) * 2, BLUR))
        covered += not (found.low > truth or found.high < truth)
    assert covered >= 35  # 88 %


def test_internal_noise_lowers_detectability_by_a_known_factor():
    """One channel: own noise of the same variance as the images' divides d′ by √2."""
    absent = ramp_noise(np.random.default_rng(2), 30, 6)
    channel = LESION.reshape(-1, 1)
    plain, noisy = (
        observers.hotelling_detectability(absent + LESION, absent, channel, internal_noise=internal).d_prime
        for internal in (0.0, 1.0)
    )
    assert noisy == pytest.approx(plain / np.sqrt(2), rel=0.01)


def test_gabor_channels_have_their_pass_bands():
    size, mm = 96, 0.75
    channels = observers.gabor_channels(size, mm).T.reshape(-1, size, size)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size, mm), np.fft.fftfreq(size, mm), indexing="ij"))
    for channel, centre in zip(channels, observers.GABOR_CENTRES_PER_MM, strict=True):
        power = np.abs(np.fft.fft2(channel)) ** 2
        peak = frequency.ravel()[np.argmax(power)]
        assert peak == pytest.approx(centre, abs=2 / (size * mm))


def test_the_area_under_the_curve():
    found = observers.Detectability(1.0, 0.0, 2.0, np.ones(3))
    assert found.auc == pytest.approx(0.7602, abs=1e-4)
    assert found.auc_interval[0] == pytest.approx(0.5)


def test_images_must_be_pairs():
    with pytest.raises(InputError, match="pairs"):
        observers.template_detectability(np.zeros((4, 8, 8)), np.zeros((5, 8, 8)), np.zeros((8, 8)))


def test_dose_equivalence_of_a_known_law():
    rng = np.random.default_rng(0)
    doses = [0.1, 0.25, 0.5, 1.0]

    def value(d_prime):
        samples = d_prime * rng.normal(1, 0.03, 500)
        return observers.Detectability(d_prime, *np.quantile(samples, [0.025, 0.975]), samples)

    curve = [value(3 * np.sqrt(dose)) for dose in doses]
    found = dose_equivalence(doses, curve, value(3 * np.sqrt(0.4)))
    assert found.dose == pytest.approx(0.4, rel=1e-6)
    assert found.low < 0.4 < found.high
    assert found.high / found.low < 1.5


def test_no_dose_interval_where_d_prime_is_uncertain():
    """If one in ten samples of d′ is not above 0, the others do not define a 95 % interval."""
    samples = np.linspace(-0.1, 0.9, 500)
    faint = observers.Detectability(0.4, -0.08, 0.88, samples)
    found = dose_equivalence([0.25, 1.0], [replace(faint, d_prime=0.3), faint], faint)
    assert found.dose == pytest.approx(1.0)
    assert np.isnan([found.low, found.high]).all()
    nothing = observers.Detectability(0.0, 0.0, 0.0, np.zeros(500))
    assert np.isnan(dose_equivalence([0.25, 1.0], [nothing] * 2, nothing).dose)


def test_no_dose_beyond_the_measured_ones():
    """The power law is not extrapolated; a limit outside is left out by itself."""
    rng = np.random.default_rng(0)
    spread = rng.normal(1, 0.05, 500)
    curve = [observers.Detectability(np.sqrt(dose), 0, 0, np.full(500, np.sqrt(dose))) for dose in (0.25, 1.0)]
    above = observers.Detectability(1.2, 0, 0, 1.2 * spread)
    assert np.isnan(dose_equivalence([0.25, 1.0], curve, above).dose)
    near = dose_equivalence([0.25, 1.0], curve, observers.Detectability(0.98, 0, 0, 0.98 * spread))
    assert near.dose == pytest.approx(0.96, abs=0.01)
    assert near.low == pytest.approx(0.96 * 0.82, abs=0.05)
    assert np.isnan(near.high)
