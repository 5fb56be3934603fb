"""Pairs whose images are shifted by a known part of a slice increment or pixel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ldct_denoise.evaluation.evaluate import evaluate
from ldct_denoise.evaluation.plan import MeasurementPlan
from ldct_denoise.evaluation.registration import Shift, ShiftedSeries, estimate_shift
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.volume import Volume
from tests.synthetic import axial_geometry

SHAPE = (12, 128, 144)


def anatomy(slices=0.0, rows=0.0, columns=0.0):
    """A body with organs that change along z, its content shifted by parts of an increment and pixels."""
    z, y, x = np.meshgrid(*(np.arange(side, dtype=float) for side in SHAPE), indexing="ij")
    z, y, x = z - slices, y - rows, x - columns
    hu = np.zeros(SHAPE)
    soft = lambda distance: 1 / (1 + np.exp(distance / 1.2))  # noqa: E731
    hu += -1000 + 1040 * soft(54 * (np.hypot((y - 64) / 54, (x - 72) / 62) - 1))
    for centre, radius, drift, value in (
        ((50, 60), 14, 1.5, 90),
        ((80, 90), 12, -2.0, -120),
        ((64, 110), 9, 1.0, 160),
    ):
        hu += value * soft(np.hypot(y - centre[0] - drift * (z - 6), x - centre[1] + drift * (z - 6)) - radius)
    return hu


def pair(shift=(0.0, 0.0, 0.0), noise_hu=4.0, seed=0):
    rng = np.random.default_rng(seed)
    place = axial_geometry(SHAPE[0], SHAPE[1], SHAPE[2], (2.0, 0.8, 0.8))
    low = anatomy(*shift) + ndimage.gaussian_filter(rng.normal(0, 3 * noise_hu, SHAPE), (0, 0.8, 0.8))
    normal = anatomy() + ndimage.gaussian_filter(rng.normal(0, noise_hu, SHAPE), (0, 0.8, 0.8))
    return Volume(normal, place, "normal", "P1", "normal"), Volume(low, place, "low", "P1", "low")


EVERY = [(index, index) for index in range(SHAPE[0])]


@pytest.mark.parametrize(
    "shift",
    [(0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (-0.07, 0.0, 0.0), (0.3, 0.4, -0.25), (0.0, 2.3, -3.6), (0.05, 0.0, 0.5)],
)
def test_known_shifts_are_estimated(shift):
    found = estimate_shift(*pair(shift), EVERY)
    assert found == pytest.approx(shift, abs=0.015)
    assert found.is_notable == any(shift)


def test_a_shift_that_cannot_be_known_is_nan():
    place = axial_geometry(4, 64, 64, (2.0, 1.0, 1.0))
    rng = np.random.default_rng(0)
    flat, noisy = (Volume(rng.normal(0, 20, (4, 64, 64)), place, uid, "P", uid) for uid in ("a", "b"))
    found = estimate_shift(flat, noisy, [(i, i) for i in range(4)])
    assert all(np.isnan(found))
    assert not found.is_notable
    normal, low = pair()
    sparse = estimate_shift(normal, low, [(0, 0)])  # no slice before the first
    assert np.isnan(sparse.slices)


def test_evaluate_reports_a_shift_and_registers_the_reference():
    normal, low = pair((0.1, 0.3, 0.0), noise_hu=3)
    windows = [WINDOWS["abdomen"]]
    plain = evaluate(low, normal, plan=MeasurementPlan(windows=windows))
    (note,) = plain.notes
    assert "shifted against the reference by +0.10 of a slice increment, +0.30 rows" in note
    (entry,) = plain.extra["registration"]
    assert entry["slices"] == pytest.approx(0.1, abs=0.015)
    assert entry["registered"] is False
    registered = evaluate(low, normal, plan=MeasurementPlan(windows=windows, register=True))
    error, better = (
        np.mean(list(result.values("candidate", "abdomen", "body", "rmse").values()))
        for result in (plain, registered)
    )
    aligned = evaluate(pair(noise_hu=3)[1], normal, plan=MeasurementPlan(windows=windows))
    best = np.mean(list(aligned.values("candidate", "abdomen", "body", "rmse").values()))
    assert aligned.notes == ()
    assert better < error
    assert better == pytest.approx(best, rel=0.06)
    assert registered.extra["registration"][0]["registered"] is True


def test_the_interpolation_moves_slices_and_keeps_the_ends():
    normal, _ = pair(noise_hu=0)
    moved = ShiftedSeries(normal, Shift(0.25, np.nan, np.nan))
    truth = anatomy(0.25)[5]
    assert np.std(moved.read_hu(5) - truth) < 0.2 * np.std(normal.hu[5] - truth)
    assert np.array_equal(moved.read_hu(0), normal.read_hu(0))
    assert len(moved) == len(normal)
