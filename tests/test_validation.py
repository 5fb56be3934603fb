"""Knowing without pairs whether training goes well: each sign is given a case that must, and one that must not, raise it."""

import math

import numpy as np
import pytest
import torch

from ldct_denoise.config import load_config
from ldct_denoise.data.validation_set import ValidationSet, ValidationSlice
from ldct_denoise.errors import ConfigError
from ldct_denoise.intensity import Window
from ldct_denoise.methods import Supervision
from ldct_denoise.training.discriminators import DiscriminatorMonitor
from ldct_denoise.training.validation import ValidationMetrics, selection_metric, validate
from tests.synthetic import shift_model


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


@pytest.mark.parametrize(("window", "width_hu"), [("0,2048", 2048), ("abdomen", 400), ("40,80", 80)])
def test_psnr_and_ssim_of_held_out_pairs_are_those_of_the_window(window, width_hu):
    """A model that adds 3 HU, on pairs 8 HU apart: 11 HU off, in a window that holds both images."""
    model = shift_model(3.0)
    low, normal = (ValidationSlice(np.full((1, 40, 40), hu, np.float32), (1.0, 1.0)) for hu in (48.0, 40.0))
    found = Window.parse(config_window(window))
    images = ValidationSet((), (), (), ((low, normal),), model.scale, window=found)
    result = validate(model.method, images, torch.device("cpu"))
    assert result.pair_psnr_db == pytest.approx(20 * math.log10(width_hu / 11), abs=1e-3)
    assert result.psnr_gain_db == pytest.approx(20 * math.log10(8 / 11), abs=1e-3)
    assert result.psnr_gain_abdomen_db == pytest.approx(20 * math.log10(8 / 11), abs=1e-3)
    c1 = (0.01 * width_hu) ** 2
    assert result.pair_ssim == pytest.approx((2 * 51 * 40 + c1) / (51**2 + 40**2 + c1), abs=1e-4)
    assert f"PSNR {result.pair_psnr_db:.2f} dB (-2.77), SSIM {result.pair_ssim:.4f}" in result.summary()


def test_a_window_that_is_none_is_refused_when_settings_are_read():
    with pytest.raises(ConfigError, match=r"training\.validation_window.*LEVEL,WIDTH"):
        load_config("redcnn", ["training.validation_window=belly"])


def config_window(text: str) -> str:
    return load_config("redcnn", [f"training.validation_window='{text}'"]).training.validation_window


def test_pairs_choose_the_weights_of_a_method_that_is_trained_on_pairs():
    """A better unpaired score does not outweigh a lower PSNR on held-out pairs."""
    metric, note = selection_metric("auto", Supervision.SUPERVISED, 7)
    assert (metric, note) == ("psnr", "the best weights are chosen by PSNR on 7 held-out pairs")
    kept = metrics(pair_psnr_db=45.0, pair_ssim=0.8)
    later = metrics(pair_psnr_db=44.0, pair_ssim=0.9, synthetic_pair_rmse_hu=1.0)
    assert later.is_better_than(kept.selection_value("unpaired_score"))
    assert not later.is_better_than(kept.selection_value("psnr"), "psnr")
    assert later.is_better_than(kept.selection_value("ssim"), "ssim")
    assert not metrics().is_better_than(kept.selection_value("psnr"), "psnr")  # could not be measured


@pytest.mark.parametrize("setting", ["auto", "psnr", "ssim"])
def test_without_held_out_pairs_the_metric_that_is_used_is_named(setting):
    metric, note = selection_metric(setting, Supervision.SUPERVISED, 0)
    assert metric == "unpaired_score"
    assert "no held-out pairs" in note
    assert "unpaired score" in note


def test_the_other_methods_need_no_pairs():
    assert selection_metric("auto", Supervision.UNPAIRED, 5) == ("unpaired_score", "")
    assert selection_metric("ssim", Supervision.UNPAIRED, 5)[0] == "ssim"
    assert selection_metric("unpaired_score", Supervision.SUPERVISED, 5)[0] == "unpaired_score"
