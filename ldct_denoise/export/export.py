"""Export a trained model to ONNX, torch.export, TorchScript or a MONAI bundle: HU in, HU out, slices of any size.

Every export is read back by its own engine and compared with the original before it is written under its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ldct_denoise.errors import ModelError
from ldct_denoise.export.formats import (
    Format,
    write_onnx,
    write_pt2,
    write_torchscript,
)
from ldct_denoise.export.network import HuModel
from ldct_denoise.export.verify import require_same
from ldct_denoise.methods.base import NOMINAL_SPACING_MM
from ldct_denoise.models.network_file import read_onnx, read_pt2, read_torchscript
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.output import atomic_write, check_writable

#: Writer and reader of each format that is one file.
_FORMATS = {
    "onnx": (write_onnx, read_onnx),
    "pt2": (write_pt2, read_pt2),
    "torchscript": (write_torchscript, read_torchscript),
}


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Parameters
    ----------
    path : Path
        The file, or the folder of a bundle.
    format : {"onnx", "pt2", "torchscript", "monai-bundle"}
        Its format.
    difference_hu : float
        Largest absolute difference from the original over all checked sizes, HU.
    """

    path: Path
    format: Format
    difference_hu: float


def export(
    model: TrainedModel,
    format: Format,
    output: Path,
    *,
    spacing_mm: tuple[float, float] = NOMINAL_SPACING_MM,
    overwrite: bool = False,
) -> Exported:
    """Write a model for other programs.

    Parameters
    ----------
    model : TrainedModel
        The model.
    format : {"onnx", "pt2", "torchscript", "monai-bundle"}
        Format of the export.
    output : Path
        Output file; for a bundle, output folder.
    spacing_mm : tuple of 2 floats
        Row and column spacing of the slices that it is for, mm.
    overwrite : bool
        Whether existing output is replaced.

    Returns
    -------
    Exported
        Where the export is, and how exact.

    Raises
    ------
    ModelError
        If the method has no network, the export differs from the original, or a package is missing.
    OutputError
        If the output exists or cannot be written.
    """
    network = _network(model, spacing_mm)
    if format == "monai-bundle":
        from ldct_denoise.export.bundle import write_bundle

        return Exported(output, format, write_bundle(model, network, output, overwrite))
    check_writable(output, overwrite)
    differences: list[float] = []

    def write(part: Path) -> None:
        writer, reader = _FORMATS[format]
        writer(part, model, network)
        differences.append(require_same(network, reader(part), format))

    atomic_write(output, write)
    return Exported(output, format, differences[0])


def _network(model: TrainedModel, spacing_mm: tuple[float, float]) -> HuModel:
    """Return the model as one network; raise ModelError if it has none or is random."""
    if next(model.method.parameters(), None) is None:
        raise ModelError(f"model {model.name!r}: has no network, so it cannot be exported; give a trained model")
    if model.method.is_random:
        raise ModelError(
            f"model {model.name!r}: draws random numbers, so it cannot be exported; give another model"
        )
    return HuModel(model, spacing_mm).eval()
