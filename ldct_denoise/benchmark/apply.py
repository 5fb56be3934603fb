"""Benchmark: slices per second compared with published networks, DICOM to DICOM, memory, and bf16."""

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

from ldct_denoise.benchmark.engines import engine_results
from ldct_denoise.benchmark.memory import peak_memory
from ldct_denoise.benchmark.peers import PEERS, parameter_count
from ldct_denoise.benchmark.results import (
    Benchmark,
    Progress,
    Result,
    describe_machine,
    fastest,
    no_progress,
    timed,
)
from ldct_denoise.benchmark.synthetic import MATRIX, RepeatedSlices, patient, write_patient
from ldct_denoise.distributed import choose_device
from ldct_denoise.errors import ModelError
from ldct_denoise.inference.series import apply_series
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import BF16_LIMIT_HU, GPU_BATCH, ready, restore_slices
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.methods.base import Method, repeat_slice
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.volume import Volume

#: Number of slices that peak memory is stated for.
LONG = 1000


def benchmark_apply(
    model_name: str,
    *,
    slices: int = 8,
    rounds: int = 2,
    device: str = "auto",
    engines: bool = False,
    progress: Progress = no_progress,
) -> Benchmark:
    """Measure how fast series are denoised.

    Parameters
    ----------
    model_name : str
        A shipped model, a file or a run folder.
    slices : int
        Number of slices of the series that is denoised from DICOM to DICOM and whose memory is measured.
    rounds : int
        Number of timed rounds; the fastest counts.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    engines : bool
        Also measure channels-last, ``torch.compile`` and ONNX Runtime.
    progress : callable
        Receives a line about what is being measured.

    Returns
    -------
    Benchmark
        The results.

    Raises
    ------
    ConfigError
        If the device is not available.
    ModelError
        If there is no such model, or it has no network.
    """
    chosen = choose_device(device)
    machine = describe_machine(chosen)
    model = load_model(model_name)
    if next(model.method.parameters(), None) is None:
        raise ModelError(f"model {model_name!r}: has no network; give a trained model")
    source = patient(slices)
    progress("networks")
    results = _network_results(model, source, rounds, chosen)
    if engines:
        progress("engines")
        results += engine_results(model, _batch(model, source, chosen), rounds, chosen)
    progress("bf16")
    results += _bf16_results(model, source, rounds, chosen)
    with tempfile.TemporaryDirectory() as folder:
        series = write_patient(Path(folder), source)
        progress("DICOM to DICOM")
        results.append(_pipeline_result(model, series, rounds, chosen))
        progress("memory")
        results += _memory_results(model_name, series, Path(folder), device)
    return Benchmark("apply", results, machine)


# ---- the networks -------------------------------------------------------------------------------------------


def _batch(model: TrainedModel, source: RepeatedSlices, device: torch.device) -> Tensor:
    """Return as many slices as the device denoises at once, network units."""
    count = GPU_BATCH if device.type == "cuda" else 1
    hu = np.stack([source.read_hu(index) for index in range(count)])
    return torch.from_numpy(model.scale.to_input(hu))[:, None].to(device)


def _network_results(
    model: TrainedModel, source: RepeatedSlices, rounds: int, device: torch.device
) -> list[Result]:
    """Measure the model as ``apply`` runs it and published networks in plain PyTorch, in fp32."""
    image = _batch(model, source, device)
    ours = f"{model.name}, shipped" if model.name == "lir-ct" else model.name
    networks = {name: build().eval().to(device) for name, build in PEERS.items()}
    runs: dict[str, Callable[[], object]] = {ours: partial(_restored, ready(model.method, device), image)}
    runs |= {name: partial(_inferred, network, image) for name, network in networks.items()}
    seconds = {name: value / len(image) for name, value in fastest(runs, rounds, device).items()}
    counts = {ours: sum(value.numel() for value in model.method.restoration_parameters().values())}
    counts |= {name: parameter_count(network) for name, network in networks.items()}
    results = [
        Result(f"speed of {name}", 1 / each, "slices/s", f"fp32, {MATRIX}×{MATRIX}, {counts[name]} parameters")
        for name, each in seconds.items()
    ]
    results += [Result(f"{ours} against {name}", seconds[name] / seconds[ours], "times") for name in PEERS]
    return results + _matrix_rate_results(model, image, seconds[ours], device)


@torch.inference_mode()
def _restored(method: Method[Any], image: Tensor) -> Tensor:
    restored: Tensor = method.restore(repeat_slice(image, method.context_slices))
    return restored


@torch.inference_mode()
def _inferred(network: nn.Module, image: Tensor) -> Tensor:
    restored: Tensor = network(image)
    return restored


def _matrix_rate_results(model: TrainedModel, image: Tensor, seconds: float, device: torch.device) -> list[Result]:
    """Compare the network's rate of operations with that of a product of large matrices on the same device."""
    with FlopCounterMode(display=False) as counter:
        _restored(model.method, image[:1])
    work = counter.get_total_flops()
    results = []
    precisions = (
        {"fp32": torch.float32, "bf16": torch.bfloat16} if device.type == "cuda" else {"fp32": torch.float32}
    )
    for name, dtype in precisions.items():
        each = seconds if name == "fp32" else _bf16_seconds(model, image, device)
        rate = _matrix_rate(device, dtype)
        note = f"{work / each / 1e12:.3g} of {rate / 1e12:.3g} TFLOP/s; {work / 1e9:.0f} GFLOP per slice"
        results.append(Result(f"fraction of the {name} matrix rate", work / each / rate, "", note))
    return results


def _bf16_seconds(model: TrainedModel, image: Tensor, device: torch.device) -> float:
    with torch.autocast(device.type, torch.bfloat16):
        run = partial(_restored, model.method, image)
        return fastest({"bf16": run}, 3, device)["bf16"] / len(image)


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a product of large square matrices."""
    side = 8192 if device.type == "cuda" else 2048
    factors = torch.randn(2, side, side, device=device, dtype=dtype)
    product = partial(torch.mm, factors[0], factors[1])
    return float(2 * side**3 / fastest({"product": product}, 5, device)["product"])


# ---- bf16 ---------------------------------------------------------------------------------------------------


def _bf16_results(model: TrainedModel, source: RepeatedSlices, rounds: int, device: torch.device) -> list[Result]:
    """Measure the speed of bf16 against fp32 and the difference of the images."""
    exact, fast = (ApplySettings(device=device.type, precision=precision) for precision in ("fp32", "bf16"))
    image = _batch(model, source, device)

    def in_bf16() -> object:
        with torch.autocast(device.type, torch.bfloat16):
            return _restored(model.method, image)

    runs: dict[str, Callable[[], object]] = {"bf16": in_bf16}
    runs["fp32"] = partial(_restored, ready(model.method, device), image)
    seconds = fastest(runs, rounds, device)
    short = RepeatedSlices(source.source, min(2, len(source)))
    difference, limit = "bf16: mean absolute difference from fp32", f"apply refuses more than {BF16_LIMIT_HU} HU"
    with contextlib.suppress(ModelError):  # raised above the limit
        in_bf16_hu = np.stack([hu for _, hu in restore_slices(short, model, fast)])
        in_fp32_hu = np.stack([hu for _, hu in restore_slices(short, model, exact)])
        return [
            Result(difference, float(np.abs(in_bf16_hu - in_fp32_hu).mean()), "HU", limit),
            Result("bf16: speed against fp32", seconds["fp32"] / seconds["bf16"], "times", _matrix_unit(device)),
        ]
    return [Result(difference, float("inf"), "HU", limit)]


def _matrix_unit(device: torch.device) -> str:
    if device.type == "cuda":
        return ""
    has_amx = "amx_bf16" in describe_machine(device)["instructions"]
    return "AMX" if has_amx else "this processor has no AMX"


# ---- DICOM to DICOM -----------------------------------------------------------------------------------------


def _pipeline_result(model: TrainedModel, series: Series, rounds: int, device: torch.device) -> Result:
    """Compare denoising from DICOM files to DICOM files with the network alone."""
    settings = ApplySettings(device=device.type)
    loaded = Volume.of(series)

    def network() -> None:
        for _ in restore_slices(loaded, model, settings):
            pass

    def pipeline() -> None:
        with tempfile.TemporaryDirectory() as folder:
            apply_series(series, model, Path(folder) / "out", settings)

    seconds = fastest({"network": network, "pipeline": pipeline}, rounds, device)
    rate = len(series) / seconds["pipeline"]
    return Result(
        "DICOM to DICOM: speed against the network alone",
        seconds["network"] / seconds["pipeline"],
        "times",
        f"{rate:.3g} slices/s over {len(series)} slices",
    )


# ---- memory -------------------------------------------------------------------------------------------------


def _memory_results(model_name: str, series: Series, folder: Path, device: str) -> list[Result]:
    """Measure peak memory above the loaded model.

    Long series are only read and written (strength 0): the memory of the network does not depend on their length.
    """
    path = series.slices[0].path.parent
    _, denoised = peak_memory(_prepare_apply, model_name, path, folder / "denoised", device, 1.0)
    if len(series) >= LONG:
        return [Result(f"peak memory above the model, {len(series)} slices", denoised, "GiB")]
    with _long_series(folder) as long_path:
        _, long = peak_memory(_prepare_apply, model_name, long_path, folder / "long", device, 0.0)
        _, short = peak_memory(_prepare_apply, model_name, path, folder / "short", device, 0.0)
    growth = max(0.0, long - short)
    note = f"{denoised:.2f} GiB over {len(series)} slices, and {growth:.2f} GiB more for the files of {LONG}"
    return [Result(f"peak memory above the model, {LONG} slices", denoised + growth, "GiB", note)]


@contextlib.contextmanager
def _long_series(folder: Path) -> Iterator[Path]:
    """Write a long series; links to a few files would be duplicates of one UID."""
    with tempfile.TemporaryDirectory(dir=folder) as path:
        yield write_patient(Path(path), patient(LONG), 2).slices[0].path.parent


def _prepare_apply(model_name: str, path: Path, output: Path, device: str, strength: float) -> Callable[[], float]:
    """Load a model; return the task of denoising a series, which returns its seconds."""
    from ldct_denoise.io.dicom.scan import scan

    model = load_model(model_name)
    model.method.to(choose_device(device))

    def task() -> float:
        series = scan(path).series[0]
        settings = ApplySettings(strength, device)
        return timed(lambda: apply_series(series, model, output, settings), choose_device(device))

    return task
