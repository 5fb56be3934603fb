"""A run that begins with a trained model's weights: exactly those, and what that model has seen counts as seen."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from ldct_denoise.cli.main import cli

from ldct_denoise.config import Config, load_config, parse_config
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError, ModelError, TrainingError
from ldct_denoise.models.trained import load_model
from ldct_denoise.training.loop import train
from ldct_denoise.training.progress import Progress
from ldct_denoise.training.state import load_state
from ldct_denoise.training.step import TrainingStep
from tests.synthetic import saved_weights, tiny_config, water_disc


@pytest.fixture
def others() -> Pools:
    return Pools((water_disc("P3low", 60, 3),), (water_disc("P4normal", 20, 4),))


@pytest.fixture
def first(pools: Pools, tmp_path: Path) -> Path:
    train(tiny_config(iterations=2), pools, tmp_path / "first", device="cpu")
    return tmp_path / "first"


def started(first: Path | str, **training: object) -> Config:
    return tiny_config(pretrained_weights=str(first), **training)


def changed(config: Config, **settings: object) -> Config:
    content = config.model_dump(mode="json")
    content["settings"] |= settings
    return parse_config(content, "test")


def test_a_run_begins_with_exactly_those_weights(first: Path, others: Pools, tmp_path: Path) -> None:
    """At a rate that moves no float32 weight they are those kept, though E_Y and the critics are new."""
    train(started(first, iterations=1, learning_rate=1e-30), others, tmp_path / "second", device="cpu")
    before, after = saved_weights(first), saved_weights(tmp_path / "second")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_trains_on_from_there(first: Path, others: Pools, tmp_path: Path) -> None:
    """One step at 1e-5 leaves every weight within a few 1e-5 of where it began, and moves some."""
    train(
        started(first, iterations=1, learning_rate=1e-5, checkpoint="last", ema_decay=0.0),
        others,
        tmp_path / "second",
    )
    before, after = saved_weights(first), saved_weights(tmp_path / "second")
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 1e-6 < moved < 1e-3


def test_what_it_began_with_is_kept_where_training_makes_it_worse(
    first: Path, others: Pools, tmp_path: Path
) -> None:
    with contextlib.suppress(TrainingError):  # to diverge is one way of getting worse
        train(
            started(first, iterations=3, learning_rate=3.0, ema_decay=0.0),
            others,
            tmp_path / "second",
            device="cpu",
        )
    before, after = saved_weights(first), saved_weights(tmp_path / "second")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_model(tmp_path / "second").card["step"] == 0


def test_a_resumed_run_equals_an_unbroken_one_and_needs_the_model_no_more(
    first: Path, others: Pools, tmp_path: Path
) -> None:
    train(started(first, iterations=6), others, tmp_path / "whole", device="cpu")
    train(started(first, iterations=2), others, tmp_path / "broken", device="cpu")
    (first / "model.safetensors").unlink()
    train(started(first, iterations=6), others, tmp_path / "broken", device="cpu", resume=True)
    whole, broken = (load_state(tmp_path / run / "checkpoint.pt") for run in ("whole", "broken"))
    assert all(torch.equal(whole["average"][name], broken["average"][name]) for name in whole["average"])
    assert broken["started_from"] == whole["started_from"] != {}


def test_a_run_killed_before_its_first_step_can_be_resumed(
    first: Path, others: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = started(first, iterations=4)
    train(config, others, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, others, tmp_path / "killed", device="cpu")
    train(config, others, tmp_path / "killed", device="cpu", resume=True)
    whole, killed = (load_state(tmp_path / run / "checkpoint.pt") for run in ("whole", "killed"))
    assert all(torch.equal(whole["average"][name], killed["average"][name]) for name in whole["average"])
    assert killed["started_from"]["model"] == "first"


def test_a_note_where_slices_to_judge_by_may_have_been_trained_on(
    first: Path, pools: Pools, tmp_path: Path
) -> None:
    told: list[str] = []
    train(
        started(first, iterations=1),
        pools,
        tmp_path / "second",
        report=lambda progress: told.append(progress.message),
    )
    assert any("may have been trained on slices that are held back" in message for message in told)


def test_the_card_says_what_was_seen_over_all_generations(first: Path, others: Pools, tmp_path: Path) -> None:
    train(started(first, iterations=1), others, tmp_path / "second", device="cpu")
    late = Pools((water_disc("P5low", 60, 5),), (water_disc("P6normal", 20, 6),))
    train(started(tmp_path / "second", iterations=1), late, tmp_path / "third", device="cpu")
    second, third = (load_model(tmp_path / run) for run in ("second", "third"))
    assert second.card["started_from"] == {
        "model": "first",
        "sha256": load_model(first).checksum,
        "training_patients": ["P1", "P2"],
        "has_unnamed_patients": False,
        "image_digests": sorted(load_model(first).image_digests),
    }
    assert load_model(first).image_digests < second.image_digests < third.image_digests
    assert third.training_patients == {"P1", "P2", "P3", "P4", "P5", "P6"}


def test_a_patient_without_a_name_is_not_taken_for_another() -> None:
    """Whoever has no name elsewhere is not left out of a comparison for that, but the card tells that there is one."""
    nameless = replace(load_model("lir-ct-small"), card={"pools": {"training_patients": ["", "A"]}})
    assert nameless.training_patients == {"A"}
    assert nameless.has_unnamed_patients


def test_patients_it_has_seen_cannot_be_held_out(first: Path, tmp_path: Path) -> None:
    held = Pools(
        (water_disc("P3low", 60, 3),),
        (water_disc("P4normal", 20, 4),),
        validation_low=(water_disc("P1again", 60, 1),),
    )
    with pytest.raises(ConfigError, match=r"first was trained on P1, held out here"):
        train(started(first), held, tmp_path / "second", device="cpu")
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_channels": 6}, r"weights of another shape \(settings.base_channels is 6, there 4\)"),
        ({"num_levels": 2}, r"weights of another shape \(settings.num_levels is 2, there 3\)"),
    ],
)
def test_a_model_of_another_shape_is_refused(
    first: Path, others: Pools, tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(changed(started(first), **settings), others, tmp_path / "second", device="cpu")
    assert not (tmp_path / "second").exists()


def test_another_method_range_or_no_model_is_refused(first: Path, others: Pools, tmp_path: Path) -> None:
    content = started(first).model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"is a model of lir, not of unet"):
        train(
            parse_config(content | {"method": "unet", "settings": {}}, "test"),
            others,
            tmp_path / "2",
            device="cpu",
        )
    narrow = content | {"range_hu": {"low_hu": -160.0, "high_hu": 240.0}}
    with pytest.raises(ConfigError, match=r"sees -1024 to 3072 HU; set range_hu"):
        train(parse_config(narrow, "test"), others, tmp_path / "2", device="cpu")
    with pytest.raises(ModelError, match=r"not a shipped model"):
        train(started(tmp_path / "nowhere"), others, tmp_path / "2", device="cpu")


def test_settings_that_are_others_are_told(first: Path, others: Pools, tmp_path: Path) -> None:
    told: list[Progress] = []
    other = changed(started(first, iterations=1), input_scale=4.0)
    train(other, others, tmp_path / "second", device="cpu", report=told.append)
    assert (
        "starting from the weights of first; settings that differ from its own: settings.input_scale is 4.0, there 16.0"
        in [progress.message for progress in told]
    )


def test_the_shipped_model_goes_on_by_its_own_recipe(pools: Pools, tmp_path: Path) -> None:
    """As `train --help` has it: the default recipe's networks are its own."""
    told = CliRunner().invoke(cli, ["train", "--help"]).output
    assert "training.pretrained_weights=lir-ct" in told
    quick = [
        "training.pretrained_weights=lir-ct",
        "training.iterations=1",
        "training.batch_size=2",
        "data.patch_size=32",
    ]
    config = load_config("lir-quick", quick)
    train(config, pools, tmp_path / "mine", device="cpu")
    card = load_model(tmp_path / "mine").card
    assert card["started_from"]["sha256"] == load_model("lir-ct").checksum
