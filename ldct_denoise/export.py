"""Hand a trained model on: ONNX, TorchScript or a MONAI bundle; HU in, HU out, slices of any size.

What is written is read back by its own engine and compared with the original on several sizes before it gets its
name.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldct_denoise import __version__
from ldct_denoise.checkpoint import TrainedModel
from ldct_denoise.errors import ModelError
from ldct_denoise.methods.base import middle
from ldct_denoise.output import require_free, write_whole

Format = Literal["onnx", "torchscript", "monai-bundle"]
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
#: Slices have at least so many rows and columns.
SMALLEST_SIDE = 32
#: (images, rows, columns) on which an export is compared with its original: smallest, odd, even, one and two.
CHECKED = ((1, SMALLEST_SIDE, SMALLEST_SIDE), (1, 61, 83), (2, 64, 96), (1, 127, 40), (1, 512, 512))
#: Largest difference that an export may have, HU.
LIMIT_HU = 0.1


@dataclass(frozen=True)
class Exported:
    """What was written.

    Parameters
    ----------
    path : Path
        A file, or the folder of a bundle.
    format : str
    difference_hu : float
        Largest absolute difference from the original, over all pixels of all checked sizes.
    """

    path: Path
    format: Format
    difference_hu: float


class HuModel(nn.Module):
    """A method with its HU range: what a site's own program calls.

    Values outside the range, and those that are no numbers, come out as they went in, as with ``apply``.
    """

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.method = copy.deepcopy(model.method).cpu().eval().requires_grad_(False)
        self.scale = model.scale

    def forward(self, hu: Tensor) -> Tensor:
        """HU, shape (n, channels, rows, columns), at least 32 rows and columns; gives (n, 1, rows, columns).

        One channel is the slice; a 2.5-D model sees as many slices before it as after it, in order.
        """
        low, high = self.scale.low_hu, self.scale.high_hu
        # One that is no number would spread over all that the network sees.
        seen = torch.where(torch.isfinite(hu), hu, low).clamp(low, high)
        change = self.scale.to_hu(self.method.restore(self.scale.to_unit(seen))) - middle(seen)
        own = middle(hu)
        return own + torch.where((own >= low) & (own <= high), change, torch.zeros_like(change))


def export(model: TrainedModel, format: Format, output: Path, *, overwrite: bool = False) -> Exported:
    """Write a model for other programs.

    Parameters
    ----------
    model : TrainedModel
    format : {"onnx", "torchscript", "monai-bundle"}
    output : Path
        A file; for a bundle, a folder.
    overwrite : bool

    Raises
    ------
    ModelError
        If the method is no network, the result differs from the original, or a package is missing.
    OutputError
        If the output exists, or cannot be written.
    """
    network = _network(model)
    if format == "monai-bundle":
        from ldct_denoise.export_bundle import write_bundle

        return Exported(output, format, write_bundle(model, network, output, overwrite))
    require_free(output, overwrite)
    differences: list[float] = []

    def write(part: Path) -> None:
        writer, reader = (write_onnx, read_onnx) if format == "onnx" else (write_torchscript, read_torchscript)
        writer(part, model, network)
        differences.append(require_same(network, reader(part), format))

    write_whole(output, write)
    return Exported(output, format, differences[0])


def _network(model: TrainedModel) -> HuModel:
    """The model as one network.

    Raises
    ------
    ModelError
        If it is none.
    """
    if next(model.method.parameters(), None) is None:
        raise ModelError(f"model {model.name!r}: is no network, so it cannot be exported; give a trained model")
    if model.method.is_random:
        raise ModelError(f"model {model.name!r}: draws random numbers, so it cannot be exported; give another")
    return HuModel(model).eval()


def described(model: TrainedModel) -> dict[str, str]:
    """What an export says of itself."""
    beside, channels = model.method.neighbours, model.method.channels
    order = f"; {beside} slices before, the slice, {beside} after; at an end the last again" if beside else ""
    return {
        "name": model.name,
        "method": model.method_name,
        "sha256": model.checksum,
        "ldct_denoise": __version__,
        "range_hu": f"{model.scale.low_hu:g} {model.scale.high_hu:g}",
        "input": f"hu: float32, (n, {channels}, rows, columns), HU, at least {SMALLEST_SIDE} rows and columns"
        + order,
        "output": "restored_hu: float32, (n, 1, rows, columns), HU",
        "use": "research use only, not for diagnosis",
    }


# ---- the two formats ----------------------------------------------------------------------------------------


def write_torchscript(path: Path, model: TrainedModel, network: HuModel) -> None:
    """Record the network, with its description as the extra file ``model.json``."""
    with _recorded(model, "torchscript"):
        traced = torch.jit.trace(network, _example(model), check_trace=False)
        whole = io.BytesIO()  # a file's name would have to end as torch likes it
        torch.jit.save(traced, whole, _extra_files={"model.json": json.dumps(described(model)).encode()})
    path.write_bytes(whole.getvalue())


def read_torchscript(path: Path) -> Run:
    """The function of a TorchScript file."""
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = torch.jit.load(file, map_location="cpu").eval()

    @torch.inference_mode()
    def run(hu: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = loaded(torch.tensor(hu)).numpy()
        return result

    return run


def write_onnx(path: Path, model: TrainedModel, network: HuModel) -> None:
    """Record the network as one ONNX file with free batch, rows and columns, and its description as metadata."""
    onnx = _import("onnx")
    _import("onnxscript")
    sides = {2: torch.export.Dim("rows", min=SMALLEST_SIDE), 3: torch.export.Dim("columns", min=SMALLEST_SIDE)}
    with _recorded(model, "onnx"):
        program = torch.onnx.export(
            network,
            (_example(model),),
            input_names=["hu"],
            output_names=["restored_hu"],
            dynamic_shapes={"hu": {0: torch.export.Dim("n"), **sides}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, described(model))
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def read_onnx(path: Path) -> Run:
    """The function of an ONNX file, by ONNX Runtime."""
    runtime = _import("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # it would print what it raises as well
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(hu: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = session.run(None, {"hu": hu})[0]
        return result

    return run


def _example(model: TrainedModel) -> Tensor:
    """What a network is recorded with: two images, sides that no down-sampling divides."""
    return torch.from_numpy(sample_hu((2, 61, 83), channels=model.method.channels))


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ModelError(f"{name} is not installed; pip install 'ldct-denoise[onnx]'") from None


@contextmanager
def _recorded(model: TrainedModel, format: str) -> Iterator[None]:
    """Within: the recorders' remarks are silenced, and their errors told in a line."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in noisy]
    try:
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"model {model.name!r}: cannot be exported to {format} ({reason})") from error
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


# ---- the comparison -----------------------------------------------------------------------------------------


def sample_hu(shape: tuple[int, int, int], seed: int = 0, channels: int = 1) -> NDArray[np.float32]:
    """Smooth tissue with noise, some values outside any model's range and some no numbers.

    Returns
    -------
    ndarray, shape (n, channels, rows, columns)
        HU.
    """
    rng = np.random.default_rng([seed, *shape])
    count, rows, columns = shape
    waves = np.sin(np.arange(rows)[:, None] / 9) * np.cos(np.arange(columns) / 7)
    hu = 300 * waves + rng.normal(0, 40, (count, channels, rows, columns))
    hu[..., :4, :4] = -2000
    hu[..., -4:, -4:] = 5000
    hu[..., rows // 2, columns // 2], hu[..., rows // 3, columns // 3] = np.nan, np.inf
    return hu.astype(np.float32)


def require_same(network: HuModel, run: Run, format: str) -> float:
    """Compare on every checked size; gives the largest absolute difference, HU.

    Raises
    ------
    ModelError
        If it is more than the limit, or the engine cannot run the export on one of the sizes.
    """
    largest = 0.0
    for shape in CHECKED:
        hu = sample_hu(shape, seed=1, channels=network.method.channels)
        with torch.inference_mode():
            expected = network(torch.from_numpy(hu)).numpy()
        try:
            given = run(hu)
        except Exception as error:  # each engine has its own
            size = f"{shape[1]}×{shape[2]}"
            raise ModelError(
                f"{format}: fails on slices of {size} pixels, so it is not written; give another model"
            ) from error
        largest = max(largest, _difference(given, expected))
    if not largest <= LIMIT_HU:
        raise ModelError(
            f"{format}: differs from the original by {largest:.3g} HU (limit {LIMIT_HU} HU), so it is not written"
        )
    return largest


def _difference(given: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest absolute difference, HU; infinite where only one has a number, or the shapes differ."""
    if given.shape != expected.shape:
        return float("inf")
    same = (given == expected) | (np.isnan(given) & np.isnan(expected))
    apart = np.subtract(given, expected, out=np.zeros_like(given), where=~same)
    return float(np.nan_to_num(np.abs(apart), nan=np.inf, posinf=np.inf).max())
