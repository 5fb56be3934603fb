"""Runs with pretraining: both stages by one command, resumed wherever they were killed; recipes of the shipped models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from ldct_denoise.cli.main import cli
from pydantic import BaseModel

from ldct_denoise import methods
from ldct_denoise.config import Config, load_config, parse_config
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError, OutputError
from ldct_denoise.io.volume_writer import write_volume
from ldct_denoise.models.trained import load_model
from ldct_denoise.training.explain import explain_settings
from ldct_denoise.training.loop import train
from ldct_denoise.training.plan import plan_training
from ldct_denoise.training.progress import Progress
from ldct_denoise.training.state import load_state
from tests.synthetic import saved_weights, tiny_config

FIRST = {"data": {"patch_size": 48}, "training": {"iterations": 4, "learning_rate": 1e-3, "checkpoint": "best"}}


def two_stages(pretraining: dict[str, Any] | None = None, **training: object) -> Config:
    content = tiny_config(checkpoint="last", **training).model_dump(mode="json")
    return parse_config(content | {"pretraining": pretraining or FIRST}, "test")


def stop_at(stage: str, step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.stage == stage and progress.step == step and not progress.message:
            raise SystemExit

    return report


def test_the_second_stage_starts_from_the_weights_of_the_first(pools: Pools, tmp_path: Path) -> None:
    said: list[Progress] = []
    train(two_stages(learning_rate=1e-30, iterations=1), pools, tmp_path, device="cpu", report=said.append)
    first, second = saved_weights(tmp_path / "stage1"), saved_weights(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)
    card = load_model(tmp_path).card
    assert card["started_from"]["sha256"] == load_model(tmp_path / "stage1").checksum
    assert card["config"]["pretraining"] == FIRST
    resolved = load_config(str(tmp_path / "stage1" / "config.yaml"))
    assert (resolved.data.patch_size, resolved.training.iterations, resolved.pretraining) == (48, 4, None)
    assert resolved.settings == load_config(str(tmp_path / "config.yaml")).settings
    assert {(progress.stage, progress.steps) for progress in said} == {("stage 1 of 2", 4), ("stage 2 of 2", 1)}
    assert not any("may have been trained on slices" in progress.message for progress in said)


@pytest.mark.parametrize(("stage", "step"), [("stage 1 of 2", 3), ("stage 2 of 2", 1), ("stage 2 of 2", 5)])
def test_a_run_killed_in_either_stage_ends_like_an_unbroken_one(
    stage: str, step: int, pools: Pools, tmp_path: Path
) -> None:
    train(two_stages(), pools, tmp_path / "whole", device="cpu")
    with pytest.raises(SystemExit):
        train(two_stages(), pools, tmp_path / "broken", device="cpu", report=stop_at(stage, step))
    train(two_stages(), pools, tmp_path / "broken", device="cpu", resume=True)
    for folder in (".", "stage1"):
        whole, broken = (load_state(tmp_path / run / folder / "checkpoint.pt") for run in ("whole", "broken"))
        assert all(torch.equal(whole["method"][name], broken["method"][name]) for name in whole["method"])
        expected, got = saved_weights(tmp_path / "whole" / folder), saved_weights(tmp_path / "broken" / folder)
        assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_started_second_stage_needs_the_first_no_more(pools: Pools, tmp_path: Path) -> None:
    train(two_stages(iterations=2), pools, tmp_path, device="cpu")
    (tmp_path / "stage1" / "checkpoint.pt").unlink()
    (tmp_path / "stage1" / "model.safetensors").unlink()
    train(two_stages(iterations=3), pools, tmp_path, device="cpu", resume=True)
    assert load_model(tmp_path).card["step"] == 3


def test_a_new_run_removes_both_stages_of_an_earlier_one(pools: Pools, tmp_path: Path) -> None:
    train(two_stages(iterations=1), pools, tmp_path, device="cpu")
    with pytest.raises(OutputError, match="--resume"):
        train(two_stages(iterations=1), pools, tmp_path, device="cpu")
    with pytest.raises(SystemExit):
        train(
            two_stages(iterations=2),
            pools,
            tmp_path,
            device="cpu",
            overwrite=True,
            report=stop_at("stage 1 of 2", 3),
        )
    assert not (tmp_path / "model.safetensors").exists()
    train(two_stages(iterations=2), pools, tmp_path, device="cpu", resume=True)
    assert load_model(tmp_path).card["step"] == 2


def test_settings_of_the_first_stage_are_checked_before_anything_is_done(pools: Pools, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretraining\.training\.iteration: no such setting"):
        two_stages({"training": {"iteration": 3}})
    with pytest.raises(ConfigError, match="two stages at most"):
        two_stages({"pretraining": FIRST})
    changed = load_config("lir-ct", ["pretraining.training.iterations=7", "settings.base_channels=8"])
    first = changed.pretraining_config()
    assert first is not None
    assert (first.training.iterations, changed.training.iterations) == (7, 2000)
    assert first.settings["base_channels"] == 8
    assert load_config("lir-ct", ["pretraining=null"]).pretraining_config() is None


# ---- the recipes of the shipped models ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lir-ct", "lir-ct-small"])
def test_the_recipe_of_a_shipped_model_is_how_it_was_made(name: str) -> None:
    """Apart from where the first stage and the decoded slices were kept."""
    recipe, model = load_config(name), load_model(name)
    made = parse_config(model.card["config"], name)
    assert recipe.method == made.method == model.method_name
    assert recipe.range_hu == made.range_hu
    assert recipe.data == made.data
    assert recipe.training == made.training.model_copy(update={"pretrained_weights": None})
    settings = methods.build(name="lir", settings=recipe.settings, scale=recipe.scale).settings
    assert settings == methods.build("lir", made.settings, made.scale).settings == model.method.settings


@pytest.mark.parametrize(
    ("name", "steps", "rate"),
    [("lir-ct", (8000, 2000), (1e-3, 5e-4)), ("lir-ct-small", (4000, 2000), (2e-3, 5e-4))],
)
def test_the_first_stage_is_that_of_the_documentation(
    name: str, steps: tuple[int, int], rate: tuple[float, float]
) -> None:
    """As docs/reference/models.md describes it: the models themselves record their last stage only."""
    last = load_config(name)
    first = last.pretraining_config()
    assert first is not None
    assert (first.training.iterations, last.training.iterations) == steps
    assert (first.training.learning_rate, last.training.learning_rate) == rate
    assert (first.data.patch_size, first.training.batch_size, first.training.checkpoint) == (64, 16, "best")
    assert first.data.noise_level_factors == (0.5, 5.0)
    common = {"patch_size", "noise_level_factors"}
    assert first.data.model_dump(exclude=common) == last.data.model_dump(exclude=common)
    assert first.settings == last.settings


def test_recipes_name_no_path() -> None:
    for name in ("lir-ct", "lir-ct-small", "lir-quick"):
        config = load_config(name)
        assert config.data.cache_dir is None
        assert config.training.pretrained_weights is None


# ---- before training ----------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_configuration_and_the_plan_and_writes_nothing(pools: Pools, tmp_path: Path) -> None:
    paths = {"low": tmp_path / "P1.nii.gz", "normal": tmp_path / "P2.nii.gz"}
    for name, (source,) in (("low", pools.low), ("normal", pools.normal)):
        write_volume(paths[name], (source.read_hu(index) for index in range(len(source))), source.geometry)
    small = ["settings.base_channels=4", "settings.discriminator_channels=4", "data.patch_size=32"]
    arguments = ["train", "--config", "lir-ct", "--output", str(tmp_path / "run"), "--dry-run"]
    arguments += [word for change in small for word in ("--set", change)]
    arguments += [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert Config(**yaml.safe_load(done.stdout)) == load_config("lir-ct", small)
    for words in (
        "3 slices",
        "stage 1 of 2",
        "steps: 8000",
        "stage 2 of 2",
        "phases",
        "note: ",
        str(tmp_path / "run"),
    ):
        assert words in done.stdout
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_a_run_would_refuse(pools: Pools, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="is not empty"):
        plan_training(tiny_config(), pools, tmp_path, device="cpu")
    with pytest.raises(ConfigError, match="leave nothing to train by"):
        plan_training(
            load_config("lir-restoration", ["data.noise_model=none"]), pools, tmp_path / "run", device="cpu"
        )
    named = tiny_config(pretrained_weights="lir-ct-small")
    with pytest.raises(ConfigError, match="shape"):
        plan_training(named, pools, tmp_path / "run", device="cpu")


def described(model: type[BaseModel]) -> list[tuple[str, str]]:
    found = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += [(f"{name}.{inner}", text) for inner, text in described(field.annotation)]
        else:
            found.append((name, field.description or ""))
    return found


def test_every_setting_has_a_description() -> None:
    models = {"": Config} | {name: methods.find(name).Settings for name in methods.names()}
    assert [f"{name} {key}" for name, model in models.items() for key, text in described(model) if not text] == []


def test_settings_are_explained_on_eighty_columns() -> None:
    done = CliRunner().invoke(cli, ["train", "--config", "lir-ct", "--explain"])
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    for key in ("data.patch_size", "training.checkpoint", "settings.loss_weights.tissue", "range_hu.low_hu"):
        assert f"\n{key}\n" in done.stdout
    assert "default: 64; here: 128" in done.stdout


@pytest.mark.parametrize(
    ("key", "count"), [("range_hu", 2), ("data.patch_size", 1), ("patch_size", 1), ("sigma", 1)]
)
def test_one_section_or_setting_is_explained(key: str, count: int) -> None:
    assert len(explain_settings(load_config("lir-quick"), key)) == count
    with pytest.raises(ConfigError, match=r"no such section or setting; sections: .*data"):
        explain_settings(load_config("lir-quick"), "patchsize")


def test_a_dry_run_of_the_printed_configuration_is_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(load_config("lir-ct-small").to_yaml())
    assert load_config(str(tmp_path / "mine.yaml")) == load_config("lir-ct-small")
    np.testing.assert_allclose(load_config("lir-ct").data.slice_thickness_mm, (3, 5))
