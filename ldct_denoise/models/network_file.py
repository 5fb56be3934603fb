"""Networks in files of other programs: ONNX, torch.export (``.pt2``) and TorchScript, as models ready for use."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ldct_denoise.errors import ConfigError, ModelError
from ldct_denoise.intensity import Scale
from ldct_denoise.methods import base
from ldct_denoise.methods.base import Method

#: A network as a function of arrays, shape (n, channels, rows, columns) to (n, 1, rows, columns).
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class NetworkFile:
    """A network in a file; a function of arrays.

    Parameters
    ----------
    run : callable
    description : mapping of str to str
        What :mod:`ldct_denoise.export` wrote about it; empty for files of other programs.
    """

    run: Run
    description: Mapping[str, str]

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network."""
        return self.run(image)


def read_torchscript(path: Path) -> NetworkFile:
    """Load a TorchScript file."""
    extra = {"model.json": b""}
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = torch.jit.load(file, map_location="cpu", _extra_files=extra).eval()
    return NetworkFile(_run_of(loaded), json.loads(extra["model.json"] or b"{}"))


def read_pt2(path: Path) -> NetworkFile:
    """Load a program of ``torch.export``."""
    extra = {"model.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra).module()
    return NetworkFile(_run_of(loaded), json.loads(extra["model.json"] or "{}"))


def read_onnx(path: Path) -> NetworkFile:
    """Load an ONNX file with ONNX Runtime."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise ModelError("onnxruntime is not installed; pip install 'ldct-denoise[onnx]'") from None
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, so do not print them
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = session.run(None, {name: image})[0]
        return result

    return NetworkFile(run, session.get_modelmeta().custom_metadata_map)


def _run_of(module: Any) -> Run:
    @torch.inference_mode()
    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = module(torch.tensor(image)).numpy()
        return result

    return run


#: Reader of each format, by the suffix of its files.
READERS: Mapping[str, tuple[str, Callable[[Path], NetworkFile]]] = {
    ".onnx": ("onnx", read_onnx),
    ".pt2": ("pt2", read_pt2),
    ".ts": ("torchscript", read_torchscript),
    ".pt": ("torchscript", read_torchscript),
    ".torchscript": ("torchscript", read_torchscript),
}


class NetworkFileSettings(base.Settings):
    """How the network of a file takes its images."""

    low_hu: float | None = Field(None, description="HU that the network takes as 0; null: it takes HU")
    high_hu: float | None = Field(None, description="HU that the network takes as 1")


class NetworkFileMethod(Method[NetworkFileSettings]):
    """The network of a file as a method; it computes on the CPU.

    Parameters
    ----------
    settings : NetworkFileSettings
    scale : Scale
        HU range of network units; without ``low_hu`` they are converted to HU and back.
    network : NetworkFile
    name : str
        Name of the file, for errors.
    """

    Settings = NetworkFileSettings

    def __init__(self, settings: NetworkFileSettings, scale: Scale, network: NetworkFile, name: str) -> None:
        super().__init__(settings, scale)
        self.network, self.name = network, name

    @property
    def context_slices(self) -> int:
        """As an export of this package states; 0 for files of other programs."""
        return int(self.network.description.get("context_slices", 0))

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        """Denoise a batch of slices; see :meth:`Method.restore`.

        Raises
        ------
        ModelError
            If the network fails, or returns another shape.
        """
        takes_hu = self.settings.low_hu is None
        given = (self.scale.to_hu(image) if takes_hu else image).float().cpu().numpy()
        try:
            result = torch.from_numpy(np.asarray(self.network(given), np.float32))
        except Exception as error:  # each engine raises its own types
            reason = str(error).strip().splitlines()[:1]
            raise ModelError(
                f"{self.name}: fails on float32 images of shape {given.shape} ({' '.join(reason)}); it must take "
                "(n, 1, rows, columns)"
            ) from error
        wanted = (given.shape[0], 1, *given.shape[2:])
        if tuple(result.shape) != wanted:
            raise ModelError(f"{self.name}: returns shape {tuple(result.shape)} for {given.shape}, not {wanted}")
        restored = self.scale.to_unit(result) if takes_hu else result
        return restored.to(image.device)


def is_network_file(text: str) -> bool:
    """Whether ``FILE`` or ``FILE:low_hu=…,high_hu=…`` names a network file, by its suffix."""
    return _split(text) is not None


def load_network_file(
    text: str, settings: Callable[[str, str], dict[str, Any]]
) -> tuple[str, NetworkFileMethod, str, str]:
    """Load a network file.

    Parameters
    ----------
    text : str
        ``FILE``, or ``FILE:low_hu=-1024,high_hu=3072`` for a network that takes HU as 0 to 1.
    settings : callable
        Parses the text after the colon.

    Returns
    -------
    name : str
        Name of the file, without its suffix.
    method : NetworkFileMethod
    format : {"onnx", "pt2", "torchscript"}
    checksum : str
        SHA-256 of the file and the settings.

    Raises
    ------
    ModelError
        If it cannot be read, or a package is missing.
    ConfigError
        If only one of the two settings is given.
    """
    parts = _split(text)
    assert parts is not None
    path, rest = parts
    if not path.is_file():
        raise ModelError(f"model {text!r}: no such file")
    given = NetworkFileSettings(**settings(text, rest))
    if (given.low_hu is None) != (given.high_hu is None):
        raise ConfigError(f"model {text!r}: give both, {path.name}:low_hu=-1024,high_hu=3072")
    format_, read = READERS[path.suffix.lower()]
    try:
        network = read(path)
    except ModelError:
        raise
    except Exception as error:  # each engine raises its own types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: not a file of format {format_}, or damaged ({reason})") from None
    if given.low_hu is not None and given.high_hu is not None:
        scale = Scale(given.low_hu, given.high_hu)
    elif "range_hu" in network.description:
        scale = Scale(*map(float, network.description["range_hu"].split()))
    else:
        scale = Scale()
    digest = hashlib.sha256(path.read_bytes() + given.model_dump_json().encode()).hexdigest()
    return path.stem, NetworkFileMethod(given, scale, network, path.name), format_, digest


def _split(text: str) -> tuple[Path, str] | None:
    """File and settings of ``FILE`` or ``FILE:SETTINGS``; None if the file has another suffix."""
    if Path(text).suffix.lower() in READERS:
        return Path(text), ""
    file, colon, rest = text.rpartition(":")
    return (Path(file), rest) if colon and Path(file).suffix.lower() in READERS else None
