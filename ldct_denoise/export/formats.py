"""Write ONNX, torch.export and TorchScript files of a network from HU to HU."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ldct_denoise.errors import ModelError
from ldct_denoise.export.network import SMALLEST_SIDE, HuModel, describe
from ldct_denoise.export.verify import sample_hu
from ldct_denoise.models.trained import TrainedModel

Format = Literal["onnx", "pt2", "torchscript", "monai-bundle"]


def write_torchscript(path: Path, model: TrainedModel, network: HuModel) -> None:
    """Trace the network and write it, with its description as the extra file ``model.json``.

    Parameters
    ----------
    path : Path
        Output file.
    model : TrainedModel
        The model, for its description.
    network : HuModel
        The same as one network.

    Raises
    ------
    ModelError
        If the network cannot be traced.
    """
    with _tracing(model, "torchscript"):
        traced = torch.jit.trace(network, _example(model), check_trace=False)
        whole = io.BytesIO()  # torch.jit.save to a path requires a certain suffix
        torch.jit.save(traced, whole, _extra_files={"model.json": json.dumps(describe(model, network)).encode()})
    path.write_bytes(whole.getvalue())


def write_pt2(path: Path, model: TrainedModel, network: HuModel) -> None:
    """Write the network as a program of ``torch.export``, with its description as the extra file ``model.json``.

    Parameters
    ----------
    path : Path
        Output file.
    model : TrainedModel
        The model, for its description.
    network : HuModel
        The same as one network.

    Raises
    ------
    ModelError
        If the network cannot be exported.
    """
    with _tracing(model, "pt2"):
        # Sides of code maps are equal for every size, but not provably so: checked when it runs.
        program = torch.export.export(
            network,
            (_example(model),),
            dynamic_shapes={"hu": _dynamic_sides()},
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        whole = io.BytesIO()  # torch.export.save to a path requires a certain suffix
        torch.export.save(program, whole, extra_files={"model.json": json.dumps(describe(model, network))})
    path.write_bytes(whole.getvalue())


def write_onnx(path: Path, model: TrainedModel, network: HuModel) -> None:
    """Write the network as an ONNX file with dynamic batch, rows and columns; its description is metadata.

    Parameters
    ----------
    path : Path
        Output file.
    model : TrainedModel
        The model, for its description.
    network : HuModel
        The same as one network.

    Raises
    ------
    ModelError
        If the network cannot be exported, or a package is missing.
    """
    onnx = _import("onnx")
    _import("onnxscript")
    with _tracing(model, "onnx"):
        program = torch.onnx.export(
            network,
            (_example(model),),
            input_names=["hu"],
            output_names=["restored_hu"],
            dynamic_shapes={"hu": _dynamic_sides()},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, describe(model, network))
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _example(model: TrainedModel) -> Tensor:
    """Return the input for tracing: two images whose sides are not multiples of 2."""
    return torch.from_numpy(sample_hu((2, 61, 83), channels=model.method.in_channels))


def _dynamic_sides() -> dict[int, Any]:
    """Axes of any length: images, rows and columns."""
    return {
        0: torch.export.Dim("n"),
        2: torch.export.Dim("rows", min=SMALLEST_SIDE),
        3: torch.export.Dim("columns", min=SMALLEST_SIDE),
    }


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ModelError(f"{name} is not installed; pip install 'ldct-denoise[onnx]'") from None


@contextmanager
def _tracing(model: TrainedModel, format: str) -> Iterator[None]:
    """Silence warnings of the exporters, and raise their errors as ModelError."""
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
