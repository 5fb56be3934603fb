"""Other ways to run the same network, each with what it costs to begin: does it pay?"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ldct_denoise.benchmark.figures import Figure, fastest, timed
from ldct_denoise.errors import ModelError
from ldct_denoise.export.formats import read_onnx, write_onnx
from ldct_denoise.export.network import HuModel
from ldct_denoise.methods.base import repeat_slice
from ldct_denoise.models.trained import TrainedModel

Run = Callable[[], object]


def engine_figures(model: TrainedModel, image: Tensor, rounds: int, device: torch.device) -> list[Figure]:
    """Speed against plain PyTorch, with start-up, for every engine that is there.

    Parameters
    ----------
    image : Tensor, shape (n, 1, rows, columns)
        Network units, on the device.
    """
    network = _Hu(model).to(device)
    hu = model.scale.to_hu(repeat_slice(image, model.method.context_slices))
    engines: dict[str, Callable[[], Run]] = {
        "channels-last": lambda: _channels_last(network, hu),
        "torch.compile": lambda: _compiled(network, hu),
    }
    if device.type == "cpu":
        engines["ONNX Runtime"] = lambda: _onnx(model, network, hu)
    runs: dict[str, Run] = {"plain PyTorch": _plain(network, hu)}
    begin, missing = {}, []
    for name, build in engines.items():
        made: list[Run] = []
        try:
            begin[name] = timed(lambda build=build, made=made: made.append(_once(build())), device)  # type: ignore[misc]
            runs[name] = made[0]
        except (ModelError, RuntimeError) as error:
            missing.append(Figure(f"{name}: speed", float("nan"), "times", note=str(error).splitlines()[0][:100]))
    seconds = fastest(runs, rounds, device)
    plain = seconds.pop("plain PyTorch")
    return [_figure(name, plain, each, begin[name], len(hu)) for name, each in seconds.items()] + missing


def _figure(name: str, plain: float, seconds: float, begin: float, batch: int) -> Figure:
    gained = (plain - seconds) / batch
    pays = f"pays from {begin / gained:.0f} slices on" if gained > 0 else "never pays"
    return Figure(
        f"{name}: speed against plain PyTorch", plain / seconds, "times", note=f"{begin:.1f} s to begin; {pays}"
    )


class _Hu(HuModel):
    """The model from HU to HU, as all engines run it."""


def _once(run: Run) -> Run:
    run()
    return run


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
