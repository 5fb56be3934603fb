"""Search of settings: ranges as given, exact resume, failures that do not stop it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ldct_denoise.config import load_config
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError, OutputError
from ldct_denoise.io.dose_labels import Pair
from ldct_denoise.models.trained import load_model
from ldct_denoise.training import sweep as module
from ldct_denoise.training.sweep import Choice, SweepConfig, read_sweep, sweep
from tests.synthetic import read_csv, water_disc

SEARCH = {
    "training.learning_rate": Choice(low=1e-4, high=1e-2, log=True),
    "settings.channels": Choice(choices=(4, 8)),
    "training.batch_size": Choice(low=2, high=6, step=2),
}
CHANGES = ["training.iterations=2", "training.checkpoint=best", "data.patch_size=32", "settings.num_layers=3"]


def pools() -> Pools:
    low, normal = water_disc("P1low", 40, 1, slices=8), water_disc("P1normal", 20, 2, slices=8)
    return Pools((low,), (normal,), (Pair("P1", "", low, normal, tuple((n, n) for n in range(8))),))


def run(output: Path, trials: int = 4, **how: object) -> list[module.TrialResult]:
    pytest.importorskip("optuna")
    return sweep(
        SweepConfig(trials=trials, search=SEARCH),
        output,
        load=lambda more: load_config("dncnn", [*CHANGES, *more]),
        pools=lambda config: pools(),
        device="cpu",
        **how,  # type: ignore[arg-type]
    )


def test_trials_stay_in_their_ranges_and_the_best_has_the_highest_psnr(tmp_path: Path) -> None:
    results = run(tmp_path / "s")
    assert [result.value for result in results] == sorted(result.value for result in results)
    for result in results:
        assert 1e-4 <= result.settings["training.learning_rate"] <= 1e-2
        assert result.settings["settings.channels"] in (4, 8)
        assert result.settings["training.batch_size"] in (2, 4, 6)
        card = load_model(result.folder).card
        assert card["best_by"] == "psnr"
        assert result.value == -card["validation"]["pair_psnr_db"]
        assert card["config"]["training"]["batch_size"] == result.settings["training.batch_size"]
    rows = read_csv(tmp_path / "s" / "sweep.csv")
    assert [int(row["trial"]) for row in rows] == [result.number for result in results]
    with pytest.raises(OutputError, match="--resume"):
        run(tmp_path / "s")


def test_a_sweep_that_is_interrupted_resumes_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped inside trial 1, then before trial 3: the same settings and values as unbroken."""
    whole = run(tmp_path / "whole")
    real = module.train

    def stop(config: object, images: Pools, folder: Path, **how: object) -> Path:
        if folder.name == "trial-001":
            raise KeyboardInterrupt
        return real(config, images, folder, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    monkeypatch.setattr(module, "train", real)
    assert len(run(tmp_path / "broken", trials=3, resume=True)) == 3
    again = run(tmp_path / "broken", resume=True)
    assert [(one.number, one.settings, one.value) for one in again] == [
        (one.number, one.settings, one.value) for one in whole
    ]


def test_a_trial_that_fails_is_listed_last_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.train

    def diverge(config: object, images: Pools, folder: Path, **how: object) -> Path:
        if folder.name == "trial-000":
            raise ConfigError("does not fit")
        return real(config, images, folder, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "train", diverge)
    results = run(tmp_path, trials=2)
    assert [(result.number, result.problem) for result in results] == [(1, ""), (0, "does not fit")]
    assert math.isnan(results[1].value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {training.learning_rate: {low: 1}}", "give choices, or low and high"),
        ("search: {training.learning_rate: {low: 0, high: 1, log: true}}", "log needs low > 0"),
        ("search: {a: {choices: [1], low: 1}}", "not both"),
        ("trials: 3", "search"),
        ("tries: 3\nsearch: {a: {choices: [1]}}", "tries"),
    ],
)
def test_a_sweep_file_that_is_wrong_is_told(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_sweep(tmp_path / "sweep.yaml")


def test_whole_numbers_are_drawn_where_both_ends_are_whole() -> None:
    assert Choice(low=2, high=6, step=2).is_integer
    assert Choice(low=0, high=3).is_integer
    assert not Choice(low=0.5, high=3).is_integer
    assert not Choice(low=0, high=1, step=0.1).is_integer
    assert not Choice(low=1, high=10, log=True).is_integer


def test_an_unknown_setting_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(ConfigError, match="learning_rat"):
        sweep(
            SweepConfig(search={"training.learning_rat": Choice(choices=(1,))}),
            tmp_path / "s",
            load=lambda more: load_config("dncnn", more),
            pools=lambda config: pools(),
        )
    assert not (tmp_path / "s").exists()


def test_without_optuna_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"ldct-denoise\[sweep\]"):
        sweep(
            SweepConfig(search=SEARCH),
            tmp_path / "s",
            load=lambda more: load_config("dncnn"),
            pools=lambda c: pools(),
        )
