"""Slices per second of the shipped model beside the peers' networks, DICOM to DICOM, memory, and bf16."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldct_denoise.benchmark.engines import engine_figures
from ldct_denoise.benchmark.figures import Benchmark, Figure, describe_machine, fastest, timed
from ldct_denoise.benchmark.memory import peak_memory
from ldct_denoise.benchmark.peers import PEERS, parameter_count
from ldct_denoise.benchmark.subject import MATRIX, Repeated, patient, write_patient
from ldct_denoise.distributed import choose_device
from ldct_denoise.errors import ModelError
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import BF16_LIMIT_HU, GPU_BATCH, ready, restore_slices
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.methods.base import Method, repeat_slice
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.volume import Volume

Say = Callable[[str], None]
#: Goals: of RED-CNN's speed, of the network's own rate, GiB above the model.
FASTER, SHARE, MEMORY_GIB = 5.0, 0.8, 1.5
#: Length of the series whose memory is stated.
LONG = 1000


def benchmark_apply(
    model_name: str,
    *,
    slices: int = 8,
    rounds: int = 2,
    device: str = "auto",
    engines: bool = False,
    say: Say = lambda line: None,
) -> Benchmark:
    """Measure how fast series are denoised.

    Parameters
    ----------
    model_name : str
        A shipped model, a file or a run folder.
    slices : int
        Length of the series that goes from DICOM to DICOM, and of the one whose memory is measured.
    rounds : int
        Times that each thing is measured; the fastest counts.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    engines : bool
        Also try channels-last, ``torch.compile`` and ONNX Runtime.
    say : callable
        Told in a line what is being measured.

    Raises
    ------
    ConfigError, ModelError
    """
    chosen = choose_device(device)
    machine = describe_machine(chosen)
    model = load_model(model_name)
    if next(model.method.parameters(), None) is None:
        raise ModelError(f"model {model_name!r}: is no network; give a trained model to compare with networks")
    source = patient(slices)
    say("networks")
    figures = network_figures(model, source, rounds, chosen)
    if engines:
        say("engines")
        figures += engine_figures(model, _batch(model, source, chosen), rounds, chosen)
    say("bf16")
    figures += bf16_figures(model, source, rounds, chosen)
    with tempfile.TemporaryDirectory() as folder:
        series = write_patient(Path(folder), source)
        say("DICOM to DICOM")
        figures.append(pipeline_figure(model, series, rounds, chosen))
        say("memory")
        figures += memory_figures(model_name, series, Path(folder), device)
    return Benchmark("apply", figures, machine)


# ---- the networks -------------------------------------------------------------------------------------------


def _batch(model: TrainedModel, source: Repeated, device: torch.device) -> Tensor:
    """As many slices as go through the device at once, network units."""
    count = GPU_BATCH if device.type == "cuda" else 1
    hu = np.stack([source.read_hu(index) for index in range(count)])
    return torch.from_numpy(model.scale.to_unit(hu))[:, None].to(device)


def network_figures(model: TrainedModel, source: Repeated, rounds: int, device: torch.device) -> list[Figure]:
    """The model as ``apply`` runs it and the peers' networks in plain PyTorch, all in fp32, taking turns."""
    image = _batch(model, source, device)
    ours = f"{model.name}, shipped" if model.name == "lir-ct" else model.name
    networks = {name: build().eval().to(device) for name, build in PEERS.items()}
    runs: dict[str, Callable[[], object]] = {ours: partial(_restored, ready(model.method, device), image)}
    runs |= {name: partial(_inferred, network, image) for name, network in networks.items()}
    seconds = {name: value / len(image) for name, value in fastest(runs, rounds, device).items()}
    counts = {ours: sum(value.numel() for value in model.method.restoration_parameters().values())}
    counts |= {name: parameter_count(network) for name, network in networks.items()}
    figures = [
        Figure(
            f"speed of {name}", 1 / each, "slices/s", note=f"fp32, {MATRIX}×{MATRIX}, {counts[name]} parameters"
        )
        for name, each in seconds.items()
    ]
    for name in PEERS:
        goal = FASTER if name.startswith("RED-CNN") else None
        figures.append(Figure(f"{ours} against {name}", seconds[name] / seconds[ours], "times", goal))
    return figures + _share_of_device(model, image, seconds[ours], device)


@torch.inference_mode()
def _restored(method: Method[Any], image: Tensor) -> Tensor:
    restored: Tensor = method.restore(repeat_slice(image, method.context_slices))
    return restored


@torch.inference_mode()
def _inferred(network: nn.Module, image: Tensor) -> Tensor:
    restored: Tensor = network(image)
    return restored


def _share_of_device(model: TrainedModel, image: Tensor, seconds: float, device: torch.device) -> list[Figure]:
    """What the network achieves of the rate at which this device multiplies large matrices."""
    with FlopCounterMode(display=False) as counter:
        _restored(model.method, image[:1])
    work = counter.get_total_flops()
    figures = []
    precisions = (
        {"fp32": torch.float32, "bf16": torch.bfloat16} if device.type == "cuda" else {"fp32": torch.float32}
    )
    for name, dtype in precisions.items():
        each = seconds if name == "fp32" else _bf16_seconds(model, image, device)
        rate = matrix_rate(device, dtype)
        told = f"{work / each / 1e12:.3g} of {rate / 1e12:.3g} TFLOP/s; {work / 1e9:.0f} GFLOP a slice"
        figures.append(Figure(f"share of the {name} matrix rate", work / each / rate, "", note=told))
    return figures


def _bf16_seconds(model: TrainedModel, image: Tensor, device: torch.device) -> float:
    with torch.autocast(device.type, torch.bfloat16):
        run = partial(_restored, model.method, image)
        return fastest({"bf16": run}, 3, device)["bf16"] / len(image)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a product of large square matrices."""
    side = 8192 if device.type == "cuda" else 2048
    factors = torch.randn(2, side, side, device=device, dtype=dtype)
    product = partial(torch.mm, factors[0], factors[1])
    return float(2 * side**3 / fastest({"product": product}, 5, device)["product"])


# ---- bf16 ---------------------------------------------------------------------------------------------------


def bf16_figures(model: TrainedModel, source: Repeated, rounds: int, device: torch.device) -> list[Figure]:
    """What bf16 gains, and what it changes."""
    exact, fast = (ApplySettings(device=device.type, precision=precision) for precision in ("fp32", "bf16"))
    image = _batch(model, source, device)

    def in_bf16() -> object:
        with torch.autocast(device.type, torch.bfloat16):
            return _restored(model.method, image)

    runs: dict[str, Callable[[], object]] = {"bf16": in_bf16}
    runs["fp32"] = partial(_restored, ready(model.method, device), image)
    seconds = fastest(runs, rounds, device)
    short = Repeated(source.source, min(2, len(source)))
    with contextlib.suppress(ModelError):  # more than the limit: the figure says so
        changed = np.stack([hu for _, hu in restore_slices(short, model, fast)])
        error = float(np.abs(changed - np.stack([hu for _, hu in restore_slices(short, model, exact)])).mean())
        return [
            Figure("bf16: mean absolute difference from fp32", error, "HU", BF16_LIMIT_HU, "at most"),
            Figure("bf16: speed against fp32", seconds["fp32"] / seconds["bf16"], "times", note=_why(device)),
        ]
    return [Figure("bf16: mean absolute difference from fp32", float("inf"), "HU", BF16_LIMIT_HU, "at most")]


def _why(device: torch.device) -> str:
    if device.type == "cuda":
        return ""
    has_matrix_unit = "amx_bf16" in describe_machine(device)["instructions"]
    return "AMX" if has_matrix_unit else "this processor has no AMX"


# ---- the pipeline -------------------------------------------------------------------------------------------


def pipeline_figure(model: TrainedModel, series: Series, rounds: int, device: torch.device) -> Figure:
    """From DICOM files to DICOM files, against the same slices through the network alone, taking turns."""
    settings = ApplySettings(device=device.type)
    loaded = Volume.of(series)

    def network() -> None:
        for _ in restore_slices(loaded, model, settings):
            pass

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            apply_series(series, model, Path(folder) / "out", settings)

    seconds = fastest({"network": network, "whole": whole}, rounds, device)
    rate = len(series) / seconds["whole"]
    return Figure(
        "DICOM to DICOM against the network alone",
        seconds["network"] / seconds["whole"],
        "",
        SHARE,
        note=f"{rate:.3g} slices/s over {len(series)} slices",
    )


# ---- memory -------------------------------------------------------------------------------------------------


def memory_figures(model_name: str, series: Series, folder: Path, device: str) -> list[Figure]:
    """Peak memory above the loaded model: of the series denoised, and of a long one in all but the network."""
    place = series.slices[0].path.parent
    _, short = peak_memory(prepare_apply, model_name, place, folder / "short", device, 1.0)
    with _long_series(folder) as long:
        _, unrestored = peak_memory(prepare_apply, model_name, long, folder / "long", device, 0.0)
        _, brief = peak_memory(prepare_apply, model_name, place, folder / "brief", device, 0.0)
    growth = max(0.0, unrestored - brief)
    note = f"{short:.2f} GiB over {len(series)} slices, and {growth:.2f} GiB more for the files of {LONG}"
    if len(series) >= LONG:
        return [Figure(f"peak memory above the model, {len(series)} slices", short, "GiB", MEMORY_GIB, "at most")]
    return [
        Figure(f"peak memory above the model, {LONG} slices", short + growth, "GiB", MEMORY_GIB, "at most", note)
    ]


@contextlib.contextmanager
def _long_series(folder: Path) -> Iterator[Path]:
    """A thousand slices on disk: links to a few files would be duplicates of one UID, so they are written."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        yield write_patient(Path(place), patient(LONG), 2).slices[0].path.parent


def prepare_apply(model_name: str, place: Path, output: Path, device: str, strength: float) -> Callable[[], float]:
    """Load the model; gives the work of denoising what lies at ``place``. Runs in a process of its own."""
    from ldct_denoise.io.dicom.scan import scan

    model = load_model(model_name)
    model.method.to(choose_device(device))

    def work() -> float:
        series = scan(place).series[0]
        settings = ApplySettings(strength, device)
        return timed(lambda: apply_series(series, model, output, settings), choose_device(device))

    return work
