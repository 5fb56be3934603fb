"""The training loop: one process or many, CPU or GPU, stopped and resumed at will.

What a run does is a function of its configuration, its images and its seed. The randomness of a step derives from
(seed, step, process), so an interrupted run that is resumed ends with the weights of an unbroken one.
"""

from __future__ import annotations

import csv
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldct_denoise import __version__, methods
from ldct_denoise.checkpoint import MODEL_FILE, STATE_FILE, load_state, save_model, save_state
from ldct_denoise.config import Config, TrainingConfig, parse_config
from ldct_denoise.data.patches import PatchDataset, batches
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.training_set import TrainingSet, make_training_set
from ldct_denoise.distributed import World
from ldct_denoise.distributed import world as join_world
from ldct_denoise.errors import ConfigError, OutputError, TrainingError
from ldct_denoise.methods.base import Batch, Method, Needs, Phase
from ldct_denoise.output import write_whole
from ldct_denoise.validation import CriticWatch, Evidence, measure_evidence


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


@dataclass
class Run:
    """The state of a run: all that a checkpoint holds."""

    method: Method[Any]
    phases: Sequence[Phase]
    step: int = 0
    seconds: float = 0.0
    average: dict[str, Tensor] = field(default_factory=dict)
    best_score: float = math.inf
    best_step: int = 0

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "method": self.method.state_dict(),
            "optimizers": [phase.optimizer.state_dict() for phase in self.phases],
            "average": self.average,
            **{name: getattr(self, name) for name in ("step", "seconds", "best_score", "best_step")},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint."""
        self.method.load_state_dict(state["method"])
        for phase, saved in zip(self.phases, state["optimizers"], strict=True):
            phase.optimizer.load_state_dict(saved)
        device = next(self.method.parameters()).device
        self.average = {key: value.to(device) for key, value in state["average"].items()}
        for name in ("step", "seconds", "best_score", "best_step"):
            setattr(self, name, state[name])


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
        Go on from the checkpoint in ``output`` where there is one.
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
        If ``output`` holds a run and neither ``resume`` nor ``overwrite`` is given.
    ConfigError
        If the method needs no training, or the configuration is not that of the run to resume.
    TrainingError
        If the losses stop being numbers.
    """
    with join_world(device) as world:
        if config.training.batch % (world.size * config.training.accumulate):
            raise ConfigError(
                f"training.batch: {config.training.batch} does not divide over {world.size} processes"
            )
        return _Trainer(config, pools, output, world, report).run(resume, overwrite)


class _Trainer:
    """One process's part of a run."""

    def __init__(self, config: Config, pools: Pools, output: Path, world: World, report: Report) -> None:
        self.config, self.pools, self.output, self.world = config, pools, output, world
        self._report = report if world.is_first else (lambda progress: None)

    # ---- the loop -------------------------------------------------------------------------------------------

    def run(self, resume: bool, overwrite: bool) -> Path:
        settings = self.config.training
        resumed = self._open(resume, overwrite)
        needs = methods.find(self.config.method).needs
        data = make_training_set(self.config, self.pools, needs, self._say_first, self.output / "simulated")
        run = self._build(resumed)
        log = _Log(self.output, run.step) if self.world.is_first else None
        started, already = time.monotonic(), run.seconds
        try:
            for sample in self._samples(data.patches, run.step):
                done = self._done(run)
                losses = self._step(run, sample, done)
                self._critics.see(losses)
                run.step += 1
                run.seconds = already + time.monotonic() - started
                last = run.step == settings.iterations or self.world.agree(self._out_of_time(run))
                shown = _numbers(losses) if run.step % settings.log_every == 0 or last or run.step == 1 else {}
                if log is not None and shown:
                    log.scalars(run, shown)
                if run.step % settings.validate_every == 0 or last:
                    self._validate(run, data, log)
                if run.step % settings.checkpoint_every == 0 or last:
                    self._save(run)
                self._report(Progress(run.step, settings.iterations, run.seconds, shown))
                if last:
                    break
        except KeyboardInterrupt:
            self._save(run)
            raise
        finally:
            if log is not None:
                log.close()
        return self._finish(run, data)

    def _step(self, run: Run, sample: Mapping[str, Tensor], done: float) -> dict[str, Tensor]:
        """All phases once, over a batch that may be worked through in parts."""
        settings = self.config.training
        parts = self._parts(sample, run.step, done)
        rate = settings.learning_rate * learning_rate_factor(settings, run.step, done)
        run.method.train()
        shown: dict[str, Tensor] = {}
        for phase in run.phases:
            base = phase.optimizer.defaults["lr"] / settings.learning_rate
            for group in phase.optimizer.param_groups:
                group["lr"] = rate * base
            for _ in range(phase.repeats):
                shown |= self._update(phase, parts)
        self._average_weights(run)
        return shown

    def _update(self, phase: Phase, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Step one phase's optimizer: exactly its own parameters learn."""
        parameters = [p for group in phase.optimizer.param_groups for p in group["params"]]
        phase.optimizer.zero_grad(set_to_none=True)
        shown: dict[str, Tensor] = {}
        for part in parts:
            with torch.autocast(
                self.world.device.type, torch.bfloat16, enabled=self.config.training.precision == "bf16"
            ):
                losses = phase.loss(part)
            if not losses:
                return {}
            total = torch.stack([loss.float() for loss in losses.values()]).sum() / len(parts)
            _accumulate(parameters, torch.autograd.grad(total, parameters, allow_unused=True))
            for name, loss in losses.items():
                shown[name] = shown.get(name, 0) + loss.detach().float() / len(parts)
        self._check(phase, shown)
        self.world.average_gradients(parameters)
        if phase.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, phase.clip_norm)
        phase.optimizer.step()
        return shown

    def _parts(self, sample: Mapping[str, Tensor], step: int, done: float) -> list[Batch]:
        count = self.config.training.accumulate
        split = {name: self._to_device(tensor).chunk(count) for name, tensor in sample.items()}
        parts = []
        for number in range(count):
            place = [self.config.training.seed, step, self.world.rank, number]
            seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))
            images = {name: tensors[number] for name, tensors in split.items()}
            parts.append(
                Batch(
                    low=images.get("low", images.get("normal", torch.empty(0))),
                    normal=images.get("normal"),
                    noise=images.get("noise"),
                    generator=torch.Generator().manual_seed(seed),
                    progress=done,
                )
            )
        return parts

    def _to_device(self, tensor: Tensor) -> Tensor:
        format_ = torch.channels_last if self.config.training.channels_last else torch.contiguous_format
        return tensor.to(self.world.device, non_blocking=True, memory_format=format_)

    def _check(self, phase: Phase, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"training diverged: the loss {name!r} of the {phase.name} is {float(loss)}; lower "
                    "training.learning_rate, or resume from the last checkpoint with another seed"
                )

    def _average_weights(self, run: Run) -> None:
        """Exponential moving average of what is kept for use."""
        decay = self.config.training.ema
        if not decay:
            return
        decay = min(decay, (run.step + 1) / (run.step + 10))  # follow quickly while there is little to average
        for key, value in run.method.restoration_parameters().items():
            if key not in run.average:
                run.average[key] = value.detach().clone()
            elif value.is_floating_point():
                run.average[key].lerp_(value.detach(), 1 - decay)
            else:
                run.average[key].copy_(value)

    # ---- time -----------------------------------------------------------------------------------------------

    def _done(self, run: Run) -> float:
        """Share of the run that is done, 0…1."""
        settings = self.config.training
        by_steps = run.step / settings.iterations
        return min(1.0, max(by_steps, run.seconds / (60 * settings.minutes)) if settings.minutes else by_steps)

    def _out_of_time(self, run: Run) -> bool:
        minutes = self.config.training.minutes
        return minutes is not None and run.seconds >= 60 * minutes

    # ---- beginning and end ----------------------------------------------------------------------------------

    def _open(self, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """The checkpoint to go on from, where asked for and there."""
        # The first process looks, for all: the others must not see what it writes meanwhile.
        checkpoint = self.output / STATE_FILE
        holds_files = self.output.is_dir() and any(self.output.iterdir())
        if self.world.agree(holds_files and not (resume or overwrite)):
            raise OutputError(
                f"{self.output}: holds files already; --resume goes on with it, --overwrite begins anew"
            )
        if self.world.agree(resume and checkpoint.is_file()):
            self._same_config()
            return load_state(checkpoint)
        if self.world.is_first:
            self.output.mkdir(parents=True, exist_ok=True)
            for stale in (checkpoint, self.output / MODEL_FILE, self.output / _Log.FILE):
                stale.unlink(missing_ok=True)
            text = self.config.to_yaml()
            write_whole(self.output / "config.yaml", lambda part: part.write_text(text, encoding="utf-8"))
        return None

    def _same_config(self) -> None:
        """A run goes on only as it began; its length alone may change."""
        import yaml

        path = self.output / "config.yaml"
        if not path.is_file():
            raise ConfigError(f"{path}: missing, so the run cannot be resumed")
        before = parse_config(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
        free = {"iterations", "minutes", "checkpoint_every", "validate_every", "log_every"}
        for section in ("method", "settings", "range_hu", "data", "training"):
            old, new = getattr(before, section), getattr(self.config, section)
            if section == "training":
                old, new = old.model_dump(exclude=free), new.model_dump(exclude=free)
            if old != new:
                raise ConfigError(
                    f"--resume: {section} differs from {path}; resume with the settings it began with"
                )

    def _build(self, resumed: Mapping[str, Any] | None) -> Run:
        settings = self.config.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            method = methods.build(self.config.method, self.config.settings, self.config.scale)
        method.to(self.world.device)
        if settings.channels_last:
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.world.size > 1:
            method = (
                nn.SyncBatchNorm.convert_sync_batchnorm(method) if self.world.device.type == "cuda" else method
            )
            self.world.share([*method.parameters(), *method.buffers()])
        phases = method.phases(settings.learning_rate)
        if not phases:
            raise ConfigError(f"method {self.config.method!r} needs no training; use it with apply --model")
        for note in method.notes():
            self._say_first(note)
        self._critics = CriticWatch(getattr(method.settings, "adversarial", "least_squares"))
        run = Run(method, phases)
        if resumed is not None:
            run.restore(resumed)
        return run

    def _samples(self, dataset: PatchDataset, first_step: int) -> Iterator[Mapping[str, Tensor]]:
        settings = self.config.training
        return batches(
            dataset,
            first_step=first_step,
            last_step=settings.iterations,
            batch=settings.batch,
            workers=self.config.data.workers,
            rank=self.world.rank,
            world=self.world.size,
            pin_memory=self.world.device.type == "cuda",
        )

    def _validate(self, run: Run, data: TrainingSet, log: _Log | None) -> None:
        """Measure what needs no pairs, keep the best weights, warn early."""
        if not self.world.is_first or log is None:
            return
        with _swapped(run.method, run.average):
            evidence = measure_evidence(run.method, data.validation, self.world.device)
            if self.config.training.select == "last" or evidence.score <= run.best_score:
                run.best_score, run.best_step = evidence.score, run.step
                save_model(
                    self.output / MODEL_FILE, self.config.method, run.method, self._card(run, data, evidence)
                )
        log.scalars(run, {f"validation/{name}": value for name, value in evidence.figures().items()})
        if data.validation.picture is not None:
            log.images(run, data.validation.picture, self.world.device)
        log.scalars(run, {f"balance/{name}": value for name, value in self._critics.balance().items()})
        for warning in (*evidence.warnings(), *self._critics.warnings()):
            self._say(run, f"warning: {warning}")
        self._say(run, evidence.line())

    def _card(self, run: Run, data: TrainingSet, evidence: Evidence) -> dict[str, Any]:
        return {
            "config": json.loads(self.config.model_dump_json()),
            "pools": data.pools.describe(),
            "noise": data.noise_summary,
            "step": run.step,
            "seconds": round(run.seconds, 1),
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
        if self.world.is_first:
            save_state(self.output / STATE_FILE, run.state())

    def _finish(self, run: Run, data: TrainingSet) -> Path:
        self._say(run, f"kept the weights of step {run.best_step} ({self.config.training.select})")
        return self.output / MODEL_FILE

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


class _Log:
    """``training.csv`` (one row per figure) and TensorBoard; what lies after the resumed step is dropped."""

    FILE = "training.csv"

    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = output / self.FILE
        rows = (
            [row for row in csv.reader(path.open(newline="")) if row[0].isdigit() and int(row[0]) <= step]
            if path.exists()
            else []
        )
        self._file = path.open("w", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file)
        self._csv.writerows([["step", "seconds", "name", "value"], *rows])
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=step)  # type: ignore[no-untyped-call]

    def scalars(self, run: Run, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._csv.writerow([run.step, f"{run.seconds:.2f}", name, f"{value:.6g}"])
            self._board.add_scalar(name, value, run.step)  # type: ignore[no-untyped-call]
        self._file.flush()

    @torch.no_grad()
    def images(self, run: Run, batch: Batch, device: torch.device) -> None:
        """Sample pictures: contrast of the middle of each, as a radiologist would window it."""
        run.method.eval()
        moved = Batch(
            batch.low.to(device), None if batch.normal is None else batch.normal.to(device), None, batch.generator
        )
        for name, picture in run.method.summary_images(moved).items():
            middle = run.method.scale.to_unit(40.0)
            half = 200.0 / run.method.scale.width_hu
            grey = ((picture.float() - middle) / (2 * half) + 0.5).clamp(0, 1)
            self._board.add_images(f"abdomen window/{name}", grey.cpu(), run.step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._file.close()
        self._board.close()  # type: ignore[no-untyped-call]


def learning_rate_factor(settings: TrainingConfig, step: int, done: float) -> float:
    """What the learning rate is multiplied by at ``step``, ``done`` of the run being over."""
    rise = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    match settings.decay:
        case "cosine":
            return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        case "halve":
            return float(rise * 0.5 ** (step // settings.decay_every))
        case "exponential":
            return rise * math.exp(-step / settings.decay_every)
    return rise


def _accumulate(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}


def needs_of(config: Config) -> Needs:
    """The supervision that the configured method is trained with."""
    return methods.find(config.method).needs
