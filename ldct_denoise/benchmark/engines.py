"""Other ways to run the same network, with the time that each needs to start."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ldct_denoise.benchmark.results import Result, fastest, timed
from ldct_denoise.errors import ModelError
from ldct_denoise.export.formats import write_onnx
from ldct_denoise.export.network import HuModel
from ldct_denoise.methods.base import repeat_slice
from ldct_denoise.models.network_file import read_onnx
from ldct_denoise.models.trained import TrainedModel

Run = Callable[[], object]


def engine_results(model: TrainedModel, image: Tensor, rounds: int, device: torch.device) -> list[Result]:
    """Measure the speed of every available engine relative to plain PyTorch, and its start-up time.

    Parameters
    ----------
    model : TrainedModel
        The model to run.
    image : Tensor, shape (n, 1, rows, columns)
        Slices on the device, network units.
    rounds : int
        Number of timed rounds; the fastest counts.
    device : torch.device
        Where the network runs.

    Returns
    -------
    list of Result
        One for each engine; NaN for an engine that failed.
    """
    network = HuModel(model).to(device)
    hu = model.scale.to_hu(repeat_slice(image, model.method.context_slices))
    engines: dict[str, Callable[[], Run]] = {
        "channels-last": partial(_channels_last, network, hu),
        "torch.compile": partial(_compiled, network, hu),
    }
    if device.type == "cpu":
        engines["ONNX Runtime"] = partial(_onnx, model, network, hu)
    runs: dict[str, Run] = {"plain PyTorch": _plain(network, hu)}
    startup_seconds, failed = {}, []
    for name, build in engines.items():

        def start(name: str = name, build: Callable[[], Run] = build) -> None:
            runs[name] = build()
            runs[name]()

        try:
            startup_seconds[name] = timed(start, device)
        except (ModelError, RuntimeError) as error:
            runs.pop(name, None)
            failed.append(Result(f"{name}: speed", float("nan"), "times", str(error).splitlines()[0][:100]))
    seconds = fastest(runs, rounds, device)
    plain = seconds.pop("plain PyTorch")
    return [_result(name, plain, each, startup_seconds[name], len(hu)) for name, each in seconds.items()] + failed


def _result(name: str, plain_seconds: float, seconds: float, startup_seconds: float, batch: int) -> Result:
    saved = (plain_seconds - seconds) / batch
    worth = f"worth it from {startup_seconds / saved:.0f} slices on" if saved > 0 else "not worth it"
    return Result(
        f"{name}: speed against plain PyTorch",
        plain_seconds / seconds,
        "times",
        f"{startup_seconds:.1f} s to start; {worth}",
    )


def _plain(network: nn.Module, hu: Tensor) -> Run:
    return torch.inference_mode()(lambda: network(hu))


def _channels_last(network: nn.Module, hu: Tensor) -> Run:
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _plain(other, hu.to(memory_format=torch.channels_last))


def _compiled(network: nn.Module, hu: Tensor) -> Run:
    return _plain(torch.compile(copy.deepcopy(network)), hu)  # type: ignore[arg-type]


def _onnx(model: TrainedModel, network: HuModel, hu: Tensor) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(path, model, network)
        run = read_onnx(path)
    array = hu.cpu().numpy()
    return lambda: run(array)
