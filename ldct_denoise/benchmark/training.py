"""Training steps a second: our schedule beside the published one, bf16, and what the patches are read at."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ldct_denoise.benchmark.figures import Benchmark, Figure, describe_machine, timed
from ldct_denoise.benchmark.memory import GIB, peak_memory
from ldct_denoise.benchmark.subject import patient, write_patient
from ldct_denoise.config import Config, load_config
from ldct_denoise.data.patches import PatchDataset, batches
from ldct_denoise.data.slices import pool_slices
from ldct_denoise.distributed import World, choose_device, emulates_bf16
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.training.step import Stepper, begin_run

Say = Callable[[str], None]
#: Goals: steps a second against the published schedule, without and with bf16 where the device gains from it.
FASTER, FASTER_BF16 = 2.0, 6.0
#: … and peak memory, which a process tells to a few percent.
NO_HIGHER = 1.05


@dataclass(frozen=True)
class Speed:
    """What one schedule does.

    Parameters
    ----------
    steps : float
        A second.
    memory_gib : float
        Peak above what the networks hold: of the GPU, or of the process.
    """

    steps: float
    memory_gib: float


def benchmark_training(
    *,
    width: int = 32,
    batch: int = 16,
    steps: int = 3,
    device: str = "auto",
    say: Say = lambda line: None,
) -> Benchmark:
    """Measure steps of the published networks with both schedules, and how fast patches come.

    bf16 is left out where a CPU has no instructions for it.

    Parameters
    ----------
    width, batch : int
        Of the networks (published: 64) and of 64×64 patches of each pool (published: 16).
    steps : int
        That are timed, after one that is not.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    say : callable
        Told in a line what is being measured.
    """
    chosen = choose_device(device)
    machine = describe_machine(chosen)
    speeds: dict[tuple[str, str], Speed] = {}
    precisions = ("fp32",) if emulates_bf16(chosen) else ("fp32", "bf16")
    for schedule, precision in (("published", "fp32"), *(("shared", each) for each in precisions)):
        say(f"{schedule} schedule, {precision}")
        speeds[schedule, precision] = schedule_speed(schedule, precision, width, batch, steps, device)
    figures = _schedule_figures(speeds, width, batch, chosen)
    published, shared = (step_work(schedule, width) for schedule in ("published", "shared"))
    note = "what can be gained where convolutions are all that takes time"
    figures.append(
        Figure("operations of the published schedule against ours", published / shared, "times", note=note)
    )
    say("patches")
    figures += loading_figures()
    needed = speeds["shared", precisions[-1]].steps * batch * 2
    figures.append(
        Figure("patches that training takes", needed, "patches/s", note=f"both pools, {precisions[-1]}")
    )
    return Benchmark("training", figures, machine)


def _schedule_figures(
    speeds: Mapping[tuple[str, str], Speed], width: int, batch: int, device: torch.device
) -> list[Figure]:
    published, shared = speeds["published", "fp32"], speeds["shared", "fp32"]
    fast = speeds.get(("shared", "bf16"))
    note = f"published networks at width {width}, batch {batch}, {device.type}"
    figures = [
        Figure(f"{schedule} schedule, {precision}", speed.steps, "steps/s", note=note)
        for (schedule, precision), speed in speeds.items()
    ]
    figures.append(
        Figure("our schedule against the published one", shared.steps / published.steps, "times", FASTER)
    )
    if fast:
        gain = fast.steps / published.steps
        figures.append(Figure("the same with bf16", gain, "times", _bf16_goal(device)))
    figures.append(
        Figure(
            "our peak memory against the published schedule's",
            shared.memory_gib / published.memory_gib,
            "",
            NO_HIGHER,
            "at most",
            f"{shared.memory_gib:.2f} and {published.memory_gib:.2f} GiB above the networks",
        )
    )
    return figures


def _bf16_goal(device: torch.device) -> float | None:
    """A goal only where the device has a matrix unit for bf16."""
    gains = device.type == "cuda" or "amx_bf16" in describe_machine(device)["instructions"]
    return FASTER_BF16 if gains else None


def schedule_speed(schedule: str, precision: str, width: int, batch: int, steps: int, device: str) -> Speed:
    """One schedule, in a process of its own."""
    (each, gpu_gib), process_gib = peak_memory(prepare_steps, schedule, precision, width, batch, steps, device)
    return Speed(1 / each, gpu_gib if choose_device(device).type == "cuda" else process_gib)


def prepare_steps(
    schedule: str, precision: str, width: int, batch: int, steps: int, device: str
) -> Callable[[], tuple[float, float]]:
    """Build the published networks in our own loop; gives the work of training them on noise."""
    chosen = choose_device(device)
    step = _step_of(steps_config(schedule, precision, width, batch), chosen)
    held = torch.cuda.memory_allocated(chosen) if chosen.type == "cuda" else 0

    def work() -> tuple[float, float]:
        step()
        fastest = min(timed(step, chosen) for _ in range(steps))
        peak = torch.cuda.max_memory_allocated(chosen) - held if chosen.type == "cuda" else 0
        return fastest, peak / GIB

    return work


def _step_of(config: Config, device: torch.device) -> Callable[[], None]:
    """One step of our own loop on random images."""
    world = World(0, 1, device)
    run, stepper = begin_run(config, world), Stepper(config, world)
    side, batch = config.data.patch_size, config.training.batch_size
    images = {name: torch.rand(batch, 1, side, side) for name in ("low", "normal")}

    def step() -> None:
        stepper.step(run, images, done=0.5)
        run.step += 1

    return step


def step_work(schedule: str, width: int) -> int:
    """Operations of one step on one patch of each pool."""
    step = _step_of(steps_config(schedule, "fp32", width, 1), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def steps_config(schedule: str, precision: str, width: int, batch: int) -> Config:
    """The published recipe with a schedule, a precision and a size; channels-last is part of ours."""
    changes = {
        "settings.schedule": schedule,
        "settings.width": width,
        "settings.critic_width": width,
        "training.batch_size": batch,
        "training.precision": precision,
        "training.channels_last": schedule == "shared",
    }
    return load_config("lir-paper", [f"{key}={value}" for key, value in changes.items()])


# ---- patches ------------------------------------------------------------------------------------------------


def loading_figures(slices: int = 24, patches: int = 256, workers: int = 0) -> list[Figure]:
    """Patches a second of both pools: decoded from DICOM each time, from the cache on disk, and from memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        low, normal = (
            write_patient(root, patient(slices, dose), number) for number, dose in ((1, 0.25), (2, 1.0))
        )
        rates = {
            "from DICOM": _rate(low, normal, patches, workers),
            "from the cache": _rate(low, normal, patches, workers, cache=root / "cache"),
            "from memory": _rate(low, normal, patches, workers, memory=slices),
        }
    note = f"64×64, uncompressed {slices}-slice series, one process"
    return [Figure(f"patches {place}", rate, "patches/s", note=note) for place, rate in rates.items()]


def _rate(
    low: Series, normal: Series, patches: int, workers: int, *, cache: Path | None = None, memory: int = 1
) -> float:
    config = load_config(
        "lir-paper",
        [f"data.cache_num={memory}", f"data.cache_dir={cache or 'null'}", f"data.num_workers={workers}"],
    )
    dataset = PatchDataset(
        pool_slices([low]),
        pool_slices([normal]),
        partners={},
        paired=False,
        noise=None,
        config=config.data,
        scale=config.scale,
        seed=0,
    )
    batch = 16

    def read(first: int, last: int) -> int:
        drawn = batches(dataset, first_step=first, last_step=last, batch=batch, workers=workers)
        return sum(len(sample["low"]) for sample in drawn)

    steps = max(1, patches // (2 * batch))
    read(0, steps)  # fills cache and memory
    seconds = timed(lambda: read(steps, 2 * steps), torch.device("cpu"))
    return 2 * batch * steps / seconds
