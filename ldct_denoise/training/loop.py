"""The training loop: one process or many, CPU or GPU, stopped and resumed at will.

A run is a function of its configuration, its images and its seed. The randomness of a step derives from (seed,
step, process), so an interrupted run that resumes ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from ldct_denoise import methods
from ldct_denoise.config import Config
from ldct_denoise.data.folds import SPLITS_FILE, write_splits
from ldct_denoise.data.patches import batches
from ldct_denoise.data.pools import Pools
from ldct_denoise.data.training_set import TrainingSet, make_training_set
from ldct_denoise.distributed import World, join_world
from ldct_denoise.errors import OutputError
from ldct_denoise.methods.base import Method
from ldct_denoise.models.catalogue import MODEL_FILE
from ldct_denoise.models.trained import save_model
from ldct_denoise.training.card import model_card
from ldct_denoise.training.duration import duration_notes
from ldct_denoise.training.fine_tuning import load_pretrained
from ldct_denoise.training.log import TrainingLog
from ldct_denoise.training.progress import Progress, Report
from ldct_denoise.training.run_folder import (
    KEPT_MODELS,
    check_run_folder,
    clear_results,
    diff_settings,
    provenance,
    write_config,
)
from ldct_denoise.training.signals import defer_sigint
from ldct_denoise.training.stages import Stage, check_batch_size, notes, stages
from ldct_denoise.training.state import STATE_FILE, RunState, create_run, load_state, save_state
from ldct_denoise.training.step import TrainingStep
from ldct_denoise.training.validation import SelectionMetric, diverged, selection_metric, validate
from ldct_denoise.training_config import TrainingConfig

#: Steps between entries of the losses in the log.
LOG_EVERY = 20


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
    """Train a method.

    Parameters
    ----------
    config : Config
        Settings of the run.
    pools : Pools
        Images of the run.
    output : Path
        Run folder: gets ``config.yaml``, ``training.csv``, TensorBoard events, ``checkpoint.pt``,
        ``model.safetensors``, and in ``checkpoints`` the models that are kept besides; the first stage of a run
        with ``pretraining`` gets the same in ``stage1``.
    device : str
        Where to compute.
    resume : bool
        Continue from the checkpoint in ``output``, if there is one: with the same images, and the same settings
        except :data:`~ldct_denoise.training.run_folder.RESUMABLE_SETTINGS`.
    overwrite : bool
        Start again in a folder that holds a run.
    report : callable
        Receives the progress, in the first process only.

    Returns
    -------
    Path
        The model file.

    Raises
    ------
    OutputError
        If ``output`` holds a run and neither ``resume`` nor ``overwrite`` is given, or nothing to resume from.
    ConfigError
        If the method needs no training or has nothing to train by, a setting differs from that of the run to
        resume, or the pretrained model does not fit.
    InputError
        If the images are not those of the run to resume.
    TrainingError
        If losses, weights or restored images stop being finite.
    KeyboardInterrupt
        After Ctrl-C, once the step is done and the run saved; at once after a second Ctrl-C.
    """
    with join_world(device) as world:
        planned = stages(config, output)
        for stage in planned:
            check_batch_size(stage.config.training, world.size)
        _check_folder(output, resume, overwrite, world)
        report = report if world.is_first else _ignore
        if resume and not any((stage.output / STATE_FILE).is_file() for stage in planned):
            message = f"no checkpoint in {output}: starting from the beginning"
            report(Progress(0, planned[0].config.training.iterations, 0.0, message=message))
        # A last stage that has begun needs the first no more.
        has_begun = world.broadcast_flag(resume and (output / STATE_FILE).is_file())
        for stage in planned[-1:] if has_begun else planned:
            _train_stage(stage, pools, world, report, resume)
    return output / MODEL_FILE


def _train_stage(stage: Stage, pools: Pools, world: World, report: Report, resume: bool) -> None:
    """Train one stage to its end, in one process."""
    config, settings, output = stage.config, stage.config.training, stage.output

    def begin(activity: str) -> None:
        report(Progress(0, settings.iterations, 0.0, stage=stage.title, activity=activity))

    # Networks and optimizers, with the state of the checkpoint or pretrained weights. Nothing is written yet.
    begin("building the networks")
    run = create_run(config, world)

    def say(message: str, activity: str = "preparing", validation: Mapping[str, float] | None = None) -> None:
        report(
            Progress(
                run.step, settings.iterations, run.seconds, message=message, stage=stage.title, activity=activity,
                validation=validation or {},
            )
        )  # fmt: skip

    checkpoint = _load_checkpoint(output, resume, world)
    if checkpoint is not None:
        run.load_state_dict(checkpoint, diff_settings(checkpoint, config, pools, output))
        if _is_finished(settings, run):
            say(f"finished already; the weights of step {run.best_step} are kept ({settings.checkpoint})")
            return
    elif stage.pretrained is not None:
        say(load_pretrained(run, stage.pretrained, config, pools))

    # Images, and a first pass: settings that leave nothing to train by end here.
    begin("reading images and measuring noise")
    data = make_training_set(
        config,
        pools,
        methods.describe(config.method).supervision,
        context_slices=run.method.context_slices,
        training_context_slices=run.method.training_context_slices,
        uses_noise=run.method.uses_noise,
        scratch=stage.scratch,
        report=lambda message: say(message, "reading images and measuring noise"),
    )
    begin("first pass")
    training_step, sample = TrainingStep(config, world), data.patches[0]
    training_step.check_losses(run, sample)
    for note in notes(stage, run, pools, "noise" in sample, world.device):
        say(note)
    for note in duration_notes(config, world, "noise" in sample) if checkpoint is None else ():
        say(note)
    chosen_by = _selection_metric(config, data)[1]
    if chosen_by and settings.checkpoint == "best":
        say(chosen_by)

    # The run is known to work: take the folder. An earlier run is removed only now, so that mistakes cost nothing.
    if world.is_first:
        for folder in stage.replaces if checkpoint is None else ():
            clear_results(folder)
        write_config(output, config)
        if pools.splits:
            write_splits(pools.splits, output / SPLITS_FILE)
    samples = batches(
        data.patches,
        range(run.step, settings.iterations),
        settings.batch_size,
        num_workers=config.data.num_workers,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
    )
    with defer_sigint() as interrupt, _open_log(output, run.step, world) as log:
        if log is not None and not run.step:
            log.settings(config)
        # Step 0 of pretrained weights: they are kept unless training improves on them.
        if log is not None and run.started_from and not run.step and math.isinf(run.best_score):
            _validate(stage, run, data, log, world, say)
            _save_checkpoint(stage, run, pools)

        earlier, start = run.seconds, time.monotonic()
        for sample in samples:
            # Step: every phase of the method once.
            losses = training_step(run, sample, _fraction_done(settings, run))
            run.discriminators.update(losses)
            run.step += 1

            # Time: all processes use the clock of the first, which decides on learning rate and end.
            elapsed = earlier + time.monotonic() - start
            run.seconds, stop = world.broadcast(elapsed, interrupt.requested)
            last = _is_finished(settings, run)

            # Log.
            is_validated = _is_multiple(run.step, settings.validate_every, settings.keep_every) or last
            is_logged = run.step % LOG_EVERY == 0 or run.step == 1 or is_validated
            logged = {name: float(loss) for name, loss in losses.items()} if is_logged else {}
            if log is not None and logged:
                log.scalars(run, logged)
                log.learning_rates(run)

            # Validate, and keep the best weights.
            if log is not None and is_validated:
                _validate(stage, run, data, log, world, say)

            # Checkpoint.
            if world.is_first and (run.step % settings.checkpoint_every == 0 or last or stop):
                _save_checkpoint(stage, run, pools)
            report(Progress(run.step, settings.iterations, run.seconds, logged, stage=stage.title))

            # Stop. On Ctrl-C all processes wait until the first has saved: torchrun stops all when one ends.
            if last:
                break
            if stop:
                world.broadcast_flag(True)
                raise KeyboardInterrupt
    say(f"the weights of step {run.best_step} are kept ({settings.checkpoint})")


def _check_folder(output: Path, resume: bool, overwrite: bool, world: World) -> None:
    """Check the run folder in the first process, for all: the others must not see what it writes meanwhile."""
    problem: OutputError | None = None
    if world.is_first:
        try:
            check_run_folder(output, resume, overwrite)
        except OutputError as error:
            problem = error
    if world.broadcast_flag(problem is not None):
        raise problem or OutputError(f"{output}: the first process may not write there")


def _load_checkpoint(output: Path, resume: bool, world: World) -> dict[str, Any] | None:
    """The checkpoint of a folder, where the run resumes and there is one."""
    checkpoint = output / STATE_FILE
    return load_state(checkpoint) if world.broadcast_flag(resume and checkpoint.is_file()) else None


def _open_log(output: Path, step: int, world: World) -> AbstractContextManager[TrainingLog | None]:
    """The log of the first process; no other process has one."""
    return TrainingLog(output, step) if world.is_first else nullcontext()


def _fraction_done(settings: TrainingConfig, run: RunState) -> float:
    """Fraction of the run that is done (0 to 1): of its steps, or of its time if that is further."""
    by_steps = run.step / settings.iterations
    by_time = run.seconds / (60 * settings.max_minutes) if settings.max_minutes else 0.0
    return min(1.0, max(by_steps, by_time))


def _is_finished(settings: TrainingConfig, run: RunState) -> bool:
    out_of_time = settings.max_minutes is not None and run.seconds >= 60 * settings.max_minutes
    return out_of_time or run.step >= settings.iterations


def _is_multiple(step: int, *intervals: int | None) -> bool:
    """Whether a step is a multiple of one of the intervals; None is no interval."""
    return any(interval is not None and step % interval == 0 for interval in intervals)


def _validate(
    stage: Stage, run: RunState, data: TrainingSet, log: TrainingLog, world: World, say: Callable[..., None]
) -> None:
    """Validate the averaged weights, keep them if they are the best, and log and report the metrics."""
    settings, kept = stage.config.training, []
    say("", "validating")
    with _averaged_weights(run.method, run.average):
        metrics = validate(run.method, data.validation, world.device)
        metric = _selection_metric(stage.config, data)[0]
        if settings.checkpoint == "last" or metrics.is_better_than(run.best_score, metric):
            run.best_step = run.step
            value = metrics.selection_value(metric)
            run.best_score = run.best_score if math.isnan(value) else value
            kept.append(stage.output / MODEL_FILE)
        if settings.checkpoint == "best":
            kept.append(stage.output / KEPT_MODELS / "last.safetensors")
        if run.step and _is_multiple(run.step, settings.keep_every):
            kept.append(stage.output / KEPT_MODELS / f"step-{run.step:06d}.safetensors")
        card = model_card(stage.config, run, data, metrics, world)
        for path in kept:
            path.parent.mkdir(exist_ok=True)
            save_model(path, stage.config.method, run.method, card)
        log.validation_slice(run, data.validation, world.device)
    log.scalars(run, metrics.as_dict(), "validation/")
    if data.validation.sample_batch is not None:
        log.images(run, data.validation.sample_batch, _fraction_done(settings, run), world.device)
    log.scalars(run, run.discriminators.balance(), "balance/")
    for warning in (*metrics.warnings(), *run.discriminators.warnings()):
        say(f"warning: {warning}", "validating")
    say(metrics.summary(), "validating", metrics.as_dict())


def _selection_metric(config: Config, data: TrainingSet) -> tuple[SelectionMetric, str]:
    """The metric that selects weights, and a sentence about it."""
    supervision = methods.describe(config.method).supervision
    return selection_metric(config.training.best_by, supervision, len(data.validation.pairs))


def _save_checkpoint(stage: Stage, run: RunState, pools: Pools) -> None:
    """Write the checkpoint, unless the weights have diverged."""
    if not run.is_finite():
        raise diverged(f"weights are not finite after step {run.step}")
    save_state(stage.output / STATE_FILE, run.state_dict() | provenance(stage.config, pools))


@contextmanager
def _averaged_weights(method: Method[Any], average: Mapping[str, Tensor]) -> Iterator[None]:
    """Context manager: the method has the averaged weights, if there are any, and then its own again."""
    own = {k: v.detach().clone() for k, v in method.restoration_parameters().items() if k in average}
    method.load_state_dict(dict(average), strict=False)
    try:
        yield
    finally:
        method.load_state_dict(own, strict=False)


def _ignore(progress: Progress) -> None:
    """Report nothing."""
