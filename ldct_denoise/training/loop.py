"""The training loop: one process or many, CPU or GPU, stopped and resumed at will.

What a run does is a function of its configuration, its images and its seed. The randomness of a step derives from
(seed, step, process), so an interrupted run that is resumed ends with the weights of an unbroken one.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldct_denoise import __version__, methods
from ldct_denoise.config import Config
from ldct_denoise.data.patches import PatchDataset, batches
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.training_set import TrainingSet, make_training_set
from ldct_denoise.distributed import World, emulates_bf16, join_world
from ldct_denoise.errors import ConfigError, OutputError
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import Method
from ldct_denoise.models.trained import MODEL_FILE, save_model
from ldct_denoise.output import atomic_write
from ldct_denoise.training.fine_tuning import warm_start
from ldct_denoise.training.log import TrainingLog
from ldct_denoise.training.run_folder import CONFIG_FILE, SCRATCH, changes, origin, refusal
from ldct_denoise.training.signals import Interrupt, noted_interrupts
from ldct_denoise.training.state import STATE_FILE, load_state, save_state
from ldct_denoise.training.step import Run, Stepper, begin_run
from ldct_denoise.training.validation import Evidence, diverged, measure_evidence

#: Steps between entries of the losses in the log.
LOG_EVERY = 20


@dataclass(frozen=True)
class Progress:
    """What the loop tells while it runs.

    Parameters
    ----------
    step, steps : int
        Steps done, and how many there will be.
    seconds : float
        Of training so far, over all parts of a resumed run.
    losses : dict
        The last step's named losses.
    message : str
        Something to say once, or nothing.
    """

    step: int
    steps: int
    seconds: float
    losses: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


Report = Callable[[Progress], None]


def train(
    config: Config,
    pools: Pools,
    output: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    report: Report = lambda progress: None,
) -> Path:
    """Train a method and leave a run folder.

    Parameters
    ----------
    config : Config
    pools : Pools
    output : Path
        Gets ``config.yaml``, ``training.csv``, TensorBoard events, ``checkpoint.pt`` and ``model.safetensors``.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    resume : bool
        Go on from the checkpoint in ``output`` where there is one: on the same images, with the same settings but
        for those of :data:`~ldct_denoise.training.run_folder.FREE`.
    overwrite : bool
        Begin anew in a folder that holds a run.
    report : callable
        Told the progress; called by the first process only.

    Returns
    -------
    Path
        The model file.

    Raises
    ------
    OutputError
        If ``output`` holds a run and neither ``resume`` nor ``overwrite`` is given, or nothing to resume from.
    ConfigError
        If the method needs no training or could learn nothing, a setting is not that of the run to resume, or the
        model to start from does not fit.
    InputError
        If the images are not those of the run to resume.
    TrainingError
        If losses, weights or restored images stop being numbers.
    KeyboardInterrupt
        After Ctrl-C, once the step is done and the run saved; at once after a second.
    """
    with join_world(device) as world:
        parts = world.size * config.training.gradient_accumulation_steps
        if config.training.batch_size % parts:
            raise ConfigError(
                f"training.batch_size: {config.training.batch_size} cannot be split over {world.size} processes "
                f"with {config.training.gradient_accumulation_steps} parts each (gradient_accumulation_steps); "
                f"give a multiple of {parts}"
            )
        return _Trainer(config, pools, output, world, report).run(resume, overwrite)


class _Trainer:
    """One process's part of a run."""

    def __init__(self, config: Config, pools: Pools, output: Path, world: World, report: Report) -> None:
        self.config, self.pools, self.output, self.world = config, pools, output, world
        self.stepper = Stepper(config, world)
        self._report = report if world.is_first else (lambda progress: None)

    def run(self, resume: bool, overwrite: bool) -> Path:
        resumed = self._look(resume, overwrite)
        run = begin_run(self.config, self.world)
        if resumed is not None:
            run.restore(resumed, changes(resumed, self.config, self.pools, self.output))
        elif self.config.training.pretrained_weights is not None:
            self._say_first(warm_start(run, self.config, self.pools))
        data = make_training_set(
            self.config,
            self.pools,
            supervision_of(self.config),
            self._say_first,
            self.output / SCRATCH,
            run.method.context_slices,
            run.method.uses_noise,
        )
        sample = data.patches[0]
        self.stepper.require_losses(run, sample)
        if self.config.training.precision == "bf16" and emulates_bf16(self.world.device):
            self._say_first("this CPU has no instructions for bf16, which is slow here: training.precision=fp32")
        for note in (*self.pools.notes, *run.method.notes("noise" in sample)):
            self._say_first(note)
        if resume and resumed is None:
            self._say_first(f"nothing to go on from in {self.output}: begun anew")
        if resumed is None or not self._is_finished(run):
            self._begin(anew=resumed is None)
        log = TrainingLog(self.output, run.step) if self.world.is_first else None
        try:
            with noted_interrupts() as interrupt:
                self._loop(run, data, log, interrupt)
        finally:
            if log is not None:
                log.close()
        self._say(run, f"kept the weights of step {run.best_step} ({self.config.training.checkpoint})")
        return self.output / MODEL_FILE

    # ---- the loop -------------------------------------------------------------------------------------------

    def _loop(self, run: Run, data: TrainingSet, log: TrainingLog | None, interrupt: Interrupt) -> None:
        settings = self.config.training
        if self._is_finished(run):
            return
        if run.started_from and not run.step and math.isinf(run.best_score):
            self._validate(run, data, log)  # what the run began with is kept unless training betters it
            self._save(run)  # a model without a state could not be resumed
        started, already = time.monotonic(), run.seconds
        for sample in self._samples(data.patches, run.step):
            losses = self.stepper.step(run, sample, self._done(run))
            run.critics.see(losses)
            run.step += 1
            # One clock for all: another would give each process a learning rate, and an end, of its own.
            run.seconds, stopped = self.world.broadcast(already + time.monotonic() - started, interrupt.asked)
            last = self._is_finished(run)
            shown = _numbers(losses) if run.step % LOG_EVERY == 0 or last or run.step == 1 else {}
            if log is not None and shown:
                log.scalars(run, shown)
            if run.step % settings.validate_every == 0 or last:
                self._validate(run, data, log)
            if run.step % settings.checkpoint_every == 0 or last or stopped:
                self._save(run)
            self._report(Progress(run.step, settings.iterations, run.seconds, shown))
            if last:
                return
            if stopped:
                self.world.broadcast_flag(
                    True
                )  # none leaves before the first has saved: torchrun would end that too
                raise KeyboardInterrupt

    def _done(self, run: Run) -> float:
        """Share of the run that is done, 0…1."""
        settings = self.config.training
        by_steps = run.step / settings.iterations
        by_time = run.seconds / (60 * settings.max_minutes) if settings.max_minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def _is_finished(self, run: Run) -> bool:
        settings = self.config.training
        is_late = settings.max_minutes is not None and run.seconds >= 60 * settings.max_minutes
        return is_late or run.step >= settings.iterations

    # ---- beginning ------------------------------------------------------------------------------------------

    def _look(self, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """The checkpoint to go on from, where asked for and there; nothing is written or deleted."""
        # The first process looks, for all: the others must not see what it writes meanwhile.
        why_not = refusal(self.output, resume, overwrite)
        if self.world.broadcast_flag(bool(why_not)):
            raise OutputError(why_not or f"{self.output}: the first process may not write there")
        checkpoint = self.output / STATE_FILE
        return load_state(checkpoint) if self.world.broadcast_flag(resume and checkpoint.is_file()) else None

    def _begin(self, anew: bool) -> None:
        """Take the folder, once method and images are known to work: what an earlier run left goes only then."""
        if not self.world.is_first:
            return
        for stale in (STATE_FILE, MODEL_FILE, TrainingLog.FILE) if anew else ():
            (self.output / stale).unlink(missing_ok=True)
        text = self.config.to_yaml()
        atomic_write(self.output / CONFIG_FILE, lambda part: part.write_text(text, encoding="utf-8"))

    def _samples(self, dataset: PatchDataset, first_step: int) -> Iterator[Mapping[str, Tensor]]:
        settings = self.config.training
        return batches(
            dataset,
            first_step=first_step,
            last_step=settings.iterations,
            batch=settings.batch_size,
            workers=self.config.data.num_workers,
            rank=self.world.rank,
            world=self.world.size,
            pin_memory=self.world.device.type == "cuda",
        )

    # ---- what is kept ---------------------------------------------------------------------------------------

    def _validate(self, run: Run, data: TrainingSet, log: TrainingLog | None) -> None:
        """Measure what needs no pairs, keep the best weights, warn early."""
        if not self.world.is_first or log is None:
            return
        with _swapped(run.method, run.average):
            evidence = measure_evidence(run.method, data.validation, self.world.device)
            if self.config.training.checkpoint == "last" or evidence.is_better_than(run.best_score):
                run.best_step = run.step
                if evidence.judges:
                    run.best_score = evidence.score
                save_model(
                    self.output / MODEL_FILE, self.config.method, run.method, self._card(run, data, evidence)
                )
        log.scalars(run, {f"validation/{name}": value for name, value in evidence.figures().items()})
        if data.validation.picture is not None:
            log.images(run, data.validation.picture, self.world.device)
        log.scalars(run, {f"balance/{name}": value for name, value in run.critics.balance().items()})
        for warning in (*evidence.warnings(), *run.critics.warnings()):
            self._say(run, f"warning: {warning}")
        self._say(run, evidence.line())

    def _card(self, run: Run, data: TrainingSet, evidence: Evidence) -> dict[str, Any]:
        return {
            "config": json.loads(self.config.model_dump_json()),
            "pools": data.pools.describe(),
            "noise": data.noise_summary,
            "step": run.step,
            "seconds": round(run.seconds, 1),
            "resumed": run.resumed,
            "started_from": run.started_from,
            "processes": self.world.size,
            "device": self.world.device.type,
            "validation": evidence.figures(),
            "versions": {
                "ldct_denoise": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _save(self, run: Run) -> None:
        if not self.world.is_first:
            return
        if not run.is_finite():
            raise diverged(f"weights are no numbers after step {run.step}")
        save_state(self.output / STATE_FILE, run.state() | origin(self.config, self.pools))

    def _say(self, run: Run, message: str) -> None:
        self._report(Progress(run.step, self.config.training.iterations, run.seconds, message=message))

    def _say_first(self, message: str) -> None:
        self._report(Progress(0, self.config.training.iterations, 0.0, message=message))


@contextmanager
def _swapped(method: Method[Any], average: Mapping[str, Tensor]) -> Iterator[None]:
    """Within: the averaged weights where there are any; afterwards the run's own again."""
    own = {k: v.detach().clone() for k, v in method.restoration_parameters().items() if k in average}
    method.load_state_dict(dict(average), strict=False)
    try:
        yield
    finally:
        method.load_state_dict(own, strict=False)


def _numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}


def supervision_of(config: Config) -> Supervision:
    """The supervision that the configured method is trained with."""
    return methods.describe(config.method).supervision
