"""Benchmark: training steps per second against the plain published loop, bf16, and patches per second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ldct_denoise.benchmark.loading import loading_results
from ldct_denoise.benchmark.memory import GIB, peak_memory
from ldct_denoise.benchmark.results import Benchmark, Progress, Result, describe_machine, no_progress, timed
from ldct_denoise.config import Config, load_config
from ldct_denoise.distributed import World, choose_device, emulates_bf16
from ldct_denoise.methods.base import Batch, Losses
from ldct_denoise.methods.lir import REPRESENTATION_MAX_GRAD_NORM, Lir
from ldct_denoise.networks.losses import discriminator_loss
from ldct_denoise.training.state import create_run
from ldct_denoise.training.step import TrainingStep

Step = Callable[[], None]
#: Recipe that ``train`` uses unless another is named.
DEFAULT_RECIPE = "lir-quick"
#: Sustained rate that the computed GPU is given: about a tenth of the bf16 peak of a data-centre GPU of 2023.
GPU_TFLOPS = 100.0


@dataclass(frozen=True)
class Speed:
    """Speed and memory of one training loop.

    Parameters
    ----------
    steps : float
        Training steps per second.
    memory_gib : float
        Peak memory beyond the networks: of the GPU, or else of the process.
    """

    steps: float
    memory_gib: float


def benchmark_train(
    *,
    channels: int = 32,
    batch_size: int = 16,
    steps: int = 3,
    device: str = "auto",
    progress: Progress = no_progress,
) -> Benchmark:
    """Measure training steps of the published networks in both loops, and the loading of patches.

    bf16 is skipped where a CPU has no instructions for it.

    Parameters
    ----------
    channels : int
        Channels of the networks at full resolution (published: 64).
    batch_size : int
        Number of 64×64 patches of each pool in a step (published: 16).
    steps : int
        Number of timed steps, after one that is not timed.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    progress : callable
        Receives a line about what is being measured.

    Returns
    -------
    Benchmark
        The results.
    """
    chosen = choose_device(device)
    machine = describe_machine(chosen)
    speeds: dict[tuple[str, str], Speed] = {}
    precisions = ("fp32",) if emulates_bf16(chosen) else ("fp32", "bf16")
    for loop, precision in (("published", "fp32"), *(("our", each) for each in precisions)):
        progress(f"{loop} loop, {precision}")
        speeds[loop, precision] = _loop_speed(loop, precision, channels, batch_size, steps, device)
    results = _loop_results(speeds, f"published networks, {channels} channels, batch {batch_size}, {chosen.type}")
    published, ours = (_step_operations(loop, channels) for loop in ("published", "our"))
    results.append(Result("operations of the published loop against ours", published / ours, "times"))
    progress("patches")
    results += loading_results(recipe=DEFAULT_RECIPE)
    needed = speeds["our", precisions[-1]].steps * batch_size * 2
    results.append(Result("patches that training needs", needed, "patches/s", f"both pools, {precisions[-1]}"))
    results += gpu_results(results)
    return Benchmark("train", results, machine)


def _loop_results(speeds: Mapping[tuple[str, str], Speed], note: str) -> list[Result]:
    published, ours = speeds["published", "fp32"], speeds["our", "fp32"]
    results = [
        Result(f"{loop} loop, {precision}", speed.steps, "steps/s", note)
        for (loop, precision), speed in speeds.items()
    ]
    results.append(Result("our loop against the published one", ours.steps / published.steps, "times"))
    if ("our", "bf16") in speeds:
        results.append(Result("the same with bf16", speeds["our", "bf16"].steps / published.steps, "times"))
    results.append(
        Result(
            "our peak memory against the published loop's",
            ours.memory_gib / published.memory_gib,
            "times",
            f"{ours.memory_gib:.2f} and {published.memory_gib:.2f} GiB beyond the networks",
        )
    )
    return results


def _loop_speed(loop: str, precision: str, channels: int, batch_size: int, steps: int, device: str) -> Speed:
    """Measure one loop in a separate process."""
    arguments = (loop, precision, channels, batch_size, steps, device)
    (seconds, gpu_gib), process_gib = peak_memory(_prepare_steps, *arguments)
    return Speed(1 / seconds, gpu_gib if choose_device(device).type == "cuda" else process_gib)


def _prepare_steps(
    loop: str, precision: str, channels: int, batch_size: int, steps: int, device: str
) -> Callable[[], tuple[float, float]]:
    """Build the published networks; return the task of training them, which returns seconds and GPU memory."""
    chosen = choose_device(device)
    step = _training_step(loop, _steps_config(loop, precision, channels, batch_size), chosen)
    networks = torch.cuda.memory_allocated(chosen) if chosen.type == "cuda" else 0

    def task() -> tuple[float, float]:
        step()
        fastest = min(timed(step, chosen) for _ in range(steps))
        peak = torch.cuda.max_memory_allocated(chosen) - networks if chosen.type == "cuda" else 0
        return fastest, peak / GIB

    return task


def _training_step(loop: str, config: Config, device: torch.device) -> Step:
    """Return a function that does one training step on random images."""
    world = World(0, 1, device)
    run, one_step = create_run(config, world), TrainingStep(config, world)
    side, batch_size = config.data.patch_size, config.training.batch_size
    images = {name: torch.rand(batch_size, 1, side, side) for name in ("low", "normal")}
    if run.method.uses_noise:
        images["noise"] = 0.01 * torch.randn(batch_size, 1, side, side)
    if loop == "published":
        assert isinstance(run.method, Lir)
        published = PublishedLoop(run.method, [phase.optimizer for phase in run.phases])
        on_device = {name: image.to(device) for name, image in images.items()}
        return lambda: published.step(on_device["low"], on_device["normal"])

    def step() -> None:
        one_step(run, images, progress=0.5)
        run.step += 1

    return step


class PublishedLoop:
    """The training loop of LIR as published: discriminators first, every pass repeated, plain ``backward``.

    Each of the updates of D_R encodes both images again, and the update of D_X and D_Y generates all images again.
    ``backward`` computes the gradients of every network that the loss depends on.

    Parameters
    ----------
    method : Lir
        Method with its training networks.
    optimizers : list of Optimizer
        Those of its phases: of the generators, of D_R, and of D_X and D_Y.
    """

    def __init__(self, method: Lir, optimizers: list[torch.optim.Optimizer]) -> None:
        self.method = method.train()
        self.generators, self.representation, self.images = optimizers

    def step(self, low: torch.Tensor, normal: torch.Tensor) -> None:
        """Do one training step on images (n, 1, height, width)."""
        method, batch = self.method, Batch(low, normal, None, torch.Generator().manual_seed(0), progress=0.5)
        d_r, form = method.d_r, method.settings.adversarial_loss
        assert d_r is not None
        for _ in range(method.settings.discriminator_steps):
            loss = discriminator_loss([d_r(method.e_x(low))], [d_r(method.e_y(normal))], form)
            self._update(self.representation, {"discriminator_r": loss}, REPRESENTATION_MAX_GRAD_NORM)
        self._update(self.images, method.image_discriminator_losses(batch))
        self._update(self.generators, method.generator_losses(batch))

    def _update(
        self, optimizer: torch.optim.Optimizer, losses: Losses, max_grad_norm: float | None = None
    ) -> None:
        self.method.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_grad_norm)
        optimizer.step()


def _step_operations(loop: str, channels: int) -> int:
    """Count the operations of one step of the published networks on one patch of each pool."""
    return _count_operations(_training_step(loop, _steps_config(loop, "fp32", channels, 1), torch.device("cpu")))


def _count_operations(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def gpu_results(measured: Sequence[Result]) -> list[Result]:
    """Compare the loading of patches with the need of a GPU; computed, so that it needs no GPU.

    Parameters
    ----------
    measured : sequence of Result
        Results of :func:`~ldct_denoise.benchmark.loading.loading_results` for the default recipe.

    Returns
    -------
    list of Result
        Patches per second that a GPU of :data:`GPU_TFLOPS` would take, and the loader processes that feed it.
    """
    config = load_config(DEFAULT_RECIPE, ["training.batch_size=1"])
    operations = _count_operations(_training_step("our", config, torch.device("cpu")))
    needed = 2e12 * GPU_TFLOPS / operations
    rate = next(
        result.value for result in measured if result.name == f"patches with the noise of {DEFAULT_RECIPE}"
    )
    cost = f"{operations / 1e9:.1f} GFLOP a step for a patch of each pool"
    note = f"{DEFAULT_RECIPE}, {GPU_TFLOPS:g} TFLOP/s sustained, {cost}"
    return [
        Result("patches that a GPU would take", needed, "patches/s", note),
        Result("loader processes that feed it", needed / rate, "processes", "data.num_workers"),
    ]


def _steps_config(loop: str, precision: str, channels: int, batch_size: int) -> Config:
    """Return the published configuration with another precision and size; our loop uses channels-last."""
    changes = {
        "settings.base_channels": channels,
        "settings.discriminator_channels": channels,
        "training.batch_size": batch_size,
        "training.precision": precision,
        "training.channels_last": loop == "our",
    }
    return load_config("lir-paper", [f"{key}={value}" for key, value in changes.items()])
