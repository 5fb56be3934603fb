"""Export a trained model to ONNX, TorchScript or a MONAI bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ldct_denoise.errors import ModelError
from ldct_denoise.export.formats import Format, read_onnx, read_torchscript, write_onnx, write_torchscript
from ldct_denoise.export.network import HuModel
from ldct_denoise.export.verify import require_same
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.output import atomic_write, check_writable


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
        from ldct_denoise.export.bundle import write_bundle

        return Exported(output, format, write_bundle(model, network, output, overwrite))
    check_writable(output, overwrite)
    differences: list[float] = []

    def write(part: Path) -> None:
        writer, reader = (write_onnx, read_onnx) if format == "onnx" else (write_torchscript, read_torchscript)
        writer(part, model, network)
        differences.append(require_same(network, reader(part), format))

    atomic_write(output, write)
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
