"""Intervals cover simulated truth as often as they say, for the patients that they describe, or are not given."""

from __future__ import annotations

import numpy as np
import pytest

from ldct_denoise.metrics.statistics import PatientStatistics

TRIALS = 400


def correlated(rng, r, slices):
    """Slices of a first-order autoregression of unit variance and mean 0, shape (TRIALS, slices)."""
    values = rng.normal(size=(TRIALS, slices))
    for i in range(1, slices):
        values[:, i] = r * values[:, i - 1] + np.sqrt(1 - r * r) * values[:, i]
    return values


def coverage(patients, trials):
    """Share of intervals that hold the truth, 0, of those that are given; share given; whom they describe."""
    intervals = [PatientStatistics(patients).interval(values) for values in trials]
    given = [i for i in intervals if i.describes]
    covered = np.mean([i.low <= 0 <= i.high for i in given]) if given else np.nan
    return covered, len(given) / len(intervals), {i.describes for i in given}


def test_patients_have_equal_weight():
    statistics = PatientStatistics(["A"] * 9 + ["B"])
    values = np.array([1.0] * 9 + [5.0])
    assert statistics.interval(values).mean == pytest.approx(3)
    assert statistics.patient_means(values) == pytest.approx([1, 5])


@pytest.mark.parametrize(("count", "slices", "between"), [(3, 10, 0.0), (10, 30, 2.0), (10, 5, 0.5), (30, 6, 1.0)])
@pytest.mark.parametrize("r", [0.0, 0.9])
def test_several_patients_carry_an_interval_for_patients_in_general(count, slices, between, r):
    rng = np.random.default_rng(count)
    within = np.stack([correlated(rng, r, slices) for _ in range(count)], axis=1)
    trials = (within + between * rng.normal(size=(TRIALS, count, 1))).reshape(TRIALS, -1)
    covered, given, whom = coverage(np.repeat([f"P{n}" for n in range(count)], slices), trials)
    assert (given, whom) == (1, {"patients"})
    assert 0.915 <= covered <= 0.98


def test_the_interval_of_many_patients_follows_a_skewed_distribution():
    """Means of 25 patients from an exponential: Student's t leaves out more on one side (1 % and 6 %)."""
    rng = np.random.default_rng(2)
    trials = rng.exponential(size=(TRIALS, 25)) - 1
    covered, _, _ = coverage([f"P{n}" for n in range(25)], trials)
    assert covered >= 0.9
    interval = PatientStatistics([f"P{n}" for n in range(25)]).interval(trials[0])
    assert interval.high - interval.mean > interval.mean - interval.low


@pytest.mark.parametrize("slices", [2, 4, 8, 20])
def test_few_slices_of_one_patient_carry_no_interval(slices):
    found = PatientStatistics(["A"] * slices).interval(np.arange(slices))
    assert found.mean == pytest.approx((slices - 1) / 2)
    assert found.describes == ""
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize(
    ("r", "slices", "least_given"), [(0.0, 30, 0.9), (0.3, 60, 0.95), (0.5, 150, 0.95), (0.7, 150, 0.9)]
)
def test_the_interval_of_one_patient_allows_for_correlated_slices(r, slices, least_given):
    covered, given, whom = coverage(["A"] * slices, correlated(np.random.default_rng(slices), r, slices))
    assert given >= least_given
    assert whom == {"these patients"}
    assert 0.91 <= covered <= 0.98


def test_strongly_correlated_slices_of_one_patient_carry_no_interval():
    _, given, _ = coverage(["A"] * 30, correlated(np.random.default_rng(3), 0.9, 30))
    assert given < 0.04


def test_two_patients_carry_an_interval_for_themselves_alone():
    rng = np.random.default_rng(4)
    trials = np.concatenate([correlated(rng, 0.3, 60) + 40, 3 * correlated(rng, 0.3, 90) - 40], axis=1)
    covered, given, whom = coverage(["A"] * 60 + ["B"] * 90, trials)
    assert given > 0.9
    assert whom == {"these patients"}
    assert 0.91 <= covered <= 0.98


def test_the_signed_rank_test_compares_patients_or_nothing():
    patients = [name for name in "ABCDEFG" for _ in range(5)]
    rng = np.random.default_rng(0)
    first = rng.normal(0, 1, 35)
    result = PatientStatistics(patients).paired(first + 0.5, first)
    assert (result.n_patients, result.n_slices) == (7, 35)
    assert result.p_value == pytest.approx(2 / 2**7)
    assert result.difference.mean == pytest.approx(0.5)
    equal = PatientStatistics(patients).paired(first, first)
    assert (equal.p_value, equal.difference.low, equal.difference.high) == (1.0, 0, 0)
    few = PatientStatistics(["A"] * 25 + ["B"] * 10).paired(first + 0.5, first)
    assert few.p_value is None


def test_the_signed_rank_test_keeps_its_level_when_slices_correlate():
    rng = np.random.default_rng(5)
    patients = np.repeat([f"P{n}" for n in range(8)], 10)
    trials = np.stack([correlated(rng, 0.9, 10) for _ in range(8)], axis=1).reshape(TRIALS, -1)
    false = [PatientStatistics(patients).paired(values, 0 * values).p_value < 0.05 for values in trials]
    assert 0.01 <= np.mean(false) <= 0.075
