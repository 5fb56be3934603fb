"""Knowing without pairs whether training goes well: each sign is given a case that must, and one that must not, raise it."""

import math

import pytest
import torch

from ldct_denoise.methods import Supervision
from ldct_denoise.training.discriminators import DiscriminatorMonitor
from ldct_denoise.training.validation import ValidationMetrics, selection_metric


def metrics(**changes: object) -> ValidationMetrics:
    values: dict[str, object] = {
        "synthetic_pair_rmse_hu": 10.0,
        "synthetic_pair_psnr_gain_db": 4.0,
        "noise_ratio": 0.8,
        "input_noise_ratio": 1.6,
        "hu_bias": {"fat": 0.2, "soft-tissue": -0.4},
        "residual_edge_correlation": 0.1,
        "psnr_gain_db": math.nan,
        "psnr_gain_abdomen_db": math.nan,
    }
    return ValidationMetrics(**{**values, **changes})  # type: ignore[arg-type]


def test_good_metrics_raise_no_warning():
    assert metrics().warnings() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hu_bias": {"fat": 4.0}}, "fat has drifted by +4.0 HU"),
        ({"noise_ratio": 1.8}, "invents texture"),
        ({"noise_ratio": 0.5, "input_noise_ratio": 0.7}, "are the pools swapped?"),
        ({"noise_ratio": 0.2}, "far smoother than normal dose"),
        ({"synthetic_pair_psnr_gain_db": -0.5}, "further from the truth"),
        ({"residual_edge_correlation": 0.7}, "anatomy is removed"),
    ],
)
def test_each_failure_is_said(changes, words):
    (warning,) = metrics(**changes).warnings()
    assert words in warning


def test_the_score_needs_no_pairs_and_counts_bias_above_one_hu():
    assert metrics(psnr_gain_db=9.0).score == metrics(psnr_gain_db=-9.0).score == 10.0
    assert metrics(hu_bias={"soft-tissue": -3.0}).score == pytest.approx(12.0)


def test_what_imitates_normal_dose_is_judged_by_its_noise_too():
    """As far off whether a third too noisy or too smooth; without noise to compare with, by the probes alone."""
    assert metrics(noise_ratio=0.5).score == 10.0
    assert metrics(targets_noise_texture=True, noise_ratio=1.0).score == 10.0
    assert metrics(targets_noise_texture=True, noise_ratio=math.e).score == pytest.approx(20.0)
    assert metrics(targets_noise_texture=True, noise_ratio=1 / math.e).score == pytest.approx(20.0)
    assert metrics(
        targets_noise_texture=True, noise_ratio=1.0, residual_edge_correlation=0.5
    ).score == pytest.approx(12.0)
    nothing = {"noise_ratio": math.nan, "input_noise_ratio": math.nan}
    assert metrics(targets_noise_texture=True, **nothing).score == 10.0
    assert metrics(targets_noise_texture=True, residual_edge_correlation=0.5, **nothing).score == pytest.approx(
        12.0
    )
    assert (
        metrics(targets_noise_texture=True, noise_ratio=math.nan).score > 70
    )  # the output alone has no tissue left


def test_weights_that_cannot_be_judged_never_replace_judged_ones():
    unjudged = metrics(synthetic_pair_rmse_hu=math.nan, noise_ratio=math.nan)
    assert not unjudged.has_score
    assert unjudged.is_better_than(math.inf)
    assert not unjudged.is_better_than(12.0)
    assert metrics().is_better_than(math.inf)
    assert metrics().is_better_than(10.0)
    assert not metrics().is_better_than(9.0)


@pytest.mark.parametrize(("form", "undecided"), [("least_squares", 0.25), ("bce", math.log(2))])
def test_an_undecided_critic_is_balanced(form, undecided):
    watch = DiscriminatorMonitor(form)
    for _ in range(50):
        watch.update({"discriminator_y": torch.tensor(undecided), "restoration": torch.tensor(0.0)})
    assert watch.balance() == {"discriminator_y": pytest.approx(1.0)}
    assert watch.warnings() == []


def test_a_critic_that_is_never_deceived_is_reported_once_it_is_sure():
    watch = DiscriminatorMonitor()
    for _ in range(DiscriminatorMonitor.WARM_UP_STEPS - 1):
        watch.update({"discriminator_x": torch.tensor(0.25), "discriminator_y": torch.tensor(0.002)})
    assert watch.warnings() == []
    watch.update({"discriminator_x": torch.tensor(0.25), "discriminator_y": torch.tensor(0.002)})
    (warning,) = watch.warnings()
    assert "discriminator_y" in warning
    assert "collapsing" in warning


def test_pairs_choose_the_weights_of_a_method_that_is_trained_on_pairs():
    """A better unpaired score does not outweigh a lower PSNR on held-out pairs."""
    metric, note = selection_metric("auto", Supervision.SUPERVISED, 7)
    assert (metric, note) == ("psnr", "the best weights are chosen by PSNR on 7 pairs of validation patients")
    kept = metrics(psnr_gain_db=5.0, pair_ssim=0.8)
    later = metrics(psnr_gain_db=4.0, pair_ssim=0.9, synthetic_pair_rmse_hu=1.0)
    assert later.is_better_than(kept.selection_value("unpaired_score"))
    assert not later.is_better_than(kept.selection_value("psnr"), "psnr")
    assert later.is_better_than(kept.selection_value("ssim"), "ssim")
    assert not metrics().is_better_than(kept.selection_value("psnr"), "psnr")  # could not be measured


@pytest.mark.parametrize("setting", ["auto", "psnr", "ssim"])
def test_without_held_out_pairs_the_metric_that_is_used_is_named(setting):
    metric, note = selection_metric(setting, Supervision.SUPERVISED, 0)
    assert metric == "unpaired_score"
    assert "no pairs of validation patients" in note
    assert "unpaired score" in note


def test_the_other_methods_need_no_pairs():
    assert selection_metric("auto", Supervision.UNPAIRED, 5) == ("unpaired_score", "")
    assert selection_metric("ssim", Supervision.UNPAIRED, 5)[0] == "ssim"
    assert selection_metric("unpaired_score", Supervision.SUPERVISED, 5)[0] == "unpaired_score"
