"""Search of settings: trials of a training with settings that Optuna chooses, resumed at will.

Optuna is an optional dependency (``pip install 'ldct-denoise[sweep]'``). Its journal in the folder of the sweep
holds every trial. A trial that was interrupted resumes like a run; settings of trial N derive from (seed, N,
results so far), so an interrupted sweep chooses what an unbroken one chooses.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ldct_denoise.config import Config, read_mapping
from ldct_denoise.data.pools import Pools
from ldct_denoise.errors import ConfigError, OutputError, TrainingError
from ldct_denoise.models.trained import load_model
from ldct_denoise.output import atomic_write
from ldct_denoise.setting_errors import setting_problem
from ldct_denoise.training.loop import train
from ldct_denoise.training.progress import Progress

JOURNAL, TABLE = "sweep.journal", "sweep.csv"
#: Name of the study in the journal.
STUDY = "sweep"


class Choice(BaseModel):
    """Values that a setting can have: a list of ``choices``, or numbers from ``low`` to ``high``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: tuple[Any, ...] | None = Field(None, min_length=1, description="the values themselves")
    low: float | None = Field(None, description="lowest number")
    high: float | None = Field(None, description="highest number")
    log: bool = Field(False, description="draw the logarithm uniformly")
    step: float | None = Field(None, gt=0, description="distance of the numbers")

    @model_validator(mode="after")
    def _check(self) -> Choice:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("give choices, or low and high, not both")
        elif self.low is None or self.high is None or self.low > self.high:
            raise ValueError("give choices, or low and high with low <= high")
        elif self.log and (self.low <= 0 or self.step):
            raise ValueError("log needs low > 0 and no step")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether all numbers are whole: both ends, and the step where one is given; never with ``log``."""
        return not self.log and all(
            value == int(value) for value in (self.low, self.high, self.step or 1) if value
        )

    def suggest(self, trial: Any, key: str) -> Any:
        """Value that Optuna chooses for a trial."""
        if self.choices is not None:
            return trial.suggest_categorical(key, list(self.choices))
        assert self.low is not None
        assert self.high is not None
        if self.is_integer:
            return trial.suggest_int(key, int(self.low), int(self.high), step=int(self.step or 1))
        return trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step)


class SweepConfig(BaseModel):
    """A sweep file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(20, ge=1, description="number of trials")
    seed: int = Field(0, ge=0, description="seed of the choices")
    search: dict[str, Choice] = Field(min_length=1, description="settings, as section.key, and their values")


@dataclass(frozen=True)
class TrialResult:
    """A finished trial.

    Parameters
    ----------
    number : int
    value : float
        Value that selects weights, lower is better (PSNR and SSIM with a minus sign); NaN where the trial failed.
    settings : mapping
        Chosen settings.
    folder : Path
        Run folder.
    problem : str
        Why it failed; else empty.
    """

    number: int
    value: float
    settings: Mapping[str, Any]
    folder: Path
    problem: str = ""


def read_sweep(file: Path) -> SweepConfig:
    """Read a sweep file (YAML).

    Raises
    ------
    ConfigError
        If it cannot be read, or a key or value is impossible.
    """
    try:
        return SweepConfig(**read_mapping(file))
    except ValidationError as error:
        raise ConfigError(f"sweep {file}: {setting_problem(error, SweepConfig)}") from None


def sweep(
    settings: SweepConfig,
    output: Path,
    *,
    load: Callable[[list[str]], Config],
    pools: Callable[[Config], Pools],
    device: str = "auto",
    resume: bool = False,
    report: Callable[[int, Progress], None] = lambda number, progress: None,
) -> list[TrialResult]:
    """Train with settings that Optuna's TPE sampler chooses, and rank the trials.

    Parameters
    ----------
    settings : SweepConfig
    output : Path
        Folder of the sweep: gets the run folders ``trial-000``, …, the journal, and ``sweep.csv``.
    load : callable
        Returns the configuration with changes, each ``section.key=value``.
    pools : callable
        Returns the images of a configuration.
    device : str
        Where to compute.
    resume : bool
        Continue a sweep: finished trials are kept, an interrupted one resumes.
    report : callable
        Receives the number of the trial and its progress.

    Returns
    -------
    list of TrialResult
        The best first, failed ones last.

    Raises
    ------
    ConfigError
        If Optuna is not installed, or a setting of the search is unknown.
    OutputError
        If ``output`` holds files and ``resume`` is not given.
    TrainingError
        If every trial failed.
    """
    optuna = _optuna()
    if output.exists() and not resume and any(output.iterdir()):
        raise OutputError(f"{output}: is not empty; --resume continues the sweep, or choose another --output")
    for key, choice in settings.search.items():
        load([_change(key, choice.choices[0] if choice.choices else choice.low)])  # refuses unknown settings
    output.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(output / JOURNAL))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=STUDY,
        direction="minimize",
        load_if_exists=True,
    )
    while (trial := _next_trial(optuna, study, settings)) is not None:
        chosen = {key: choice.suggest(trial, key) for key, choice in settings.search.items()}
        folder, shown = output / f"trial-{trial.number:03d}", partial(report, trial.number)
        try:
            config = load([_change(key, value) for key, value in chosen.items()])
            train(config, pools(config), folder, device=device, resume=folder.exists(), report=shown)
        except (ConfigError, TrainingError) as error:  # another choice may do; a missing image never does
            trial.set_user_attr("problem", str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, selection_value(folder))
        _write_table(_results(study, output), output / TABLE)
    results = _results(study, output)
    if math.isnan(results[0].value):
        raise TrainingError(f"{output}: every trial failed; the first: {results[0].problem}")
    return results


def selection_value(run: Path) -> float:
    """Value that selected the weights of a run, lower is better; PSNR and SSIM have a minus sign."""
    card = load_model(run).card
    metric, found = card["best_by"], card["validation"]
    name = {"unpaired_score": "score", "psnr": "pair_psnr_db", "ssim": "pair_ssim"}[metric]
    if name not in found:
        raise TrainingError(f"{run}: no {metric} could be measured, so that its trial cannot be ranked")
    return float(found[name] if metric == "unpaired_score" else -found[name])


def _change(key: str, value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return f"{key}={json.dumps(int(value) if whole else value)}"


def _next_trial(optuna: Any, study: Any, settings: SweepConfig) -> Any:
    """The trial that was interrupted, else a new one; None where all are done."""
    trials = study.get_trials(deepcopy=False)
    # The sampler's state is not in the journal: a seed for each trial makes a resumed sweep equal an unbroken one.
    for one in trials:
        if one.state is optuna.trial.TrialState.RUNNING:
            study.sampler = optuna.samplers.TPESampler(seed=_seed(settings, one.number))
            return optuna.trial.Trial(study, one._trial_id)
    if len(trials) >= settings.trials:
        return None
    study.sampler = optuna.samplers.TPESampler(seed=_seed(settings, len(trials)))
    return study.ask()


def _seed(settings: SweepConfig, number: int) -> int:
    return (settings.seed * 1_000_003 + number) % 2**32


def _results(study: Any, output: Path) -> list[TrialResult]:
    """Finished trials, the best first, then those that failed."""
    found = [
        TrialResult(
            one.number,
            math.nan if one.value is None else one.value,
            dict(one.params),
            output / f"trial-{one.number:03d}",
            one.user_attrs.get("problem", ""),
        )
        for one in study.get_trials(deepcopy=False)
        if one.state.is_finished()
    ]
    return sorted(found, key=lambda result: (math.isnan(result.value), result.value, result.number))


def _write_table(results: list[TrialResult], path: Path) -> None:
    """Write the trials as CSV, the best first."""
    keys = list(dict.fromkeys(key for result in results for key in result.settings))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "value", *keys, "folder", "problem"])
    for result in results:
        value = "" if math.isnan(result.value) else f"{result.value:.6g}"
        chosen = [result.settings.get(key, "") for key in keys]
        writer.writerow([result.number, value, *chosen, result.folder.name, result.problem])
    atomic_write(path, lambda part: part.write_text(buffer.getvalue(), encoding="utf-8"))


def _optuna() -> Any:
    try:
        found = importlib.import_module("optuna")
        importlib.import_module("optuna.storages.journal")
    except ImportError:
        raise ConfigError("--sweep: Optuna is not installed; pip install 'ldct-denoise[sweep]'") from None
    found.logging.set_verbosity(found.logging.ERROR)
    return found
