"""Write a model as a MONAI bundle: a folder that ``python -m monai.bundle`` runs without this package.

The files are those of MONAI's bundle specification (docs.monai.io, mb_specification). The network is TorchScript.
"""

from __future__ import annotations

import json
import secrets
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldct_denoise import __version__, methods
from ldct_denoise.errors import ModelError, OutputError
from ldct_denoise.export.formats import write_torchscript
from ldct_denoise.export.network import HuModel, describe
from ldct_denoise.export.verify import require_same
from ldct_denoise.models.network_file import read_torchscript
from ldct_denoise.models.trained import TrainedModel

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
METADATA = Path("configs/metadata.json")


def write_bundle(model: TrainedModel, network: HuModel, output: Path, overwrite: bool) -> float:
    """Write the folder atomically.

    Parameters
    ----------
    model : TrainedModel
        The model.
    network : HuModel
        The same as one network.
    output : Path
        The folder to write.
    overwrite : bool
        Whether an existing bundle is replaced.

    Returns
    -------
    float
        Largest absolute difference of the export from the original, HU.

    Raises
    ------
    ModelError
        If the model is 2.5-D, or the export differs from the original.
    OutputError
        If the folder exists or cannot be written.
    """
    if model.method.context_slices:
        raise ModelError(
            f"model {model.name!r}: takes adjacent slices as input, but MONAI bundles run slice by slice; "
            "export to onnx or torchscript"
        )
    _check_writable(output, overwrite)
    try:
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        part = output.absolute().with_name(f".part-{secrets.token_hex(4)}-{output.name}")
        part.mkdir()  # not mkdtemp: the umask sets the permissions
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        for folder in ("configs", "models", "docs"):
            (part / folder).mkdir()
        write_torchscript(part / "models" / "model.ts", model, network)
        difference = require_same(network, read_torchscript(part / "models" / "model.ts"), "monai-bundle")
        _write_json(part / METADATA, _metadata(model, network))
        _write_json(part / "configs" / "inference.json", _inference())
        (part / "docs" / "README.md").write_text(_readme(model, network), encoding="utf-8")
        (part / "LICENSE").write_text(_licence(), encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return difference


def _check_writable(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{output}: already exists; use --overwrite, or choose another name")
    if not (output / METADATA).is_file():
        raise OutputError(f"{output}: not a bundle, so it is not replaced; choose another folder")


def _metadata(model: TrainedModel, network: HuModel) -> dict[str, Any]:
    """Return the content of ``metadata.json``."""
    low, high = model.scale.low_hu, model.scale.high_hu
    image = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": 1,
        "spatial_shape": ["32 * n", "32 * n"],
        "dtype": "float32",
        "value_range": [low, high],
        "is_patch_data": False,
        "channel_def": {"0": "image"},
    }
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: "exported by ldct-denoise"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": metadata.version("nibabel")},
        "name": model.name,
        "task": "Denoising of low-dose CT slices",
        "description": "Denoises axial CT slices of 32 x 32 pixels or more. HU in, HU out.",
        "authors": "ldct-denoise",
        "copyright": "Apache-2.0",
        "data_type": "nibabel",
        "intended_use": "Research use only, not for diagnosis",
        "references": [methods.describe(model.method_name).reference],
        "ldct_denoise": describe(model, network),
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pred": {**image, "channel_def": {"0": "restored"}}},
        },
    }


def _inference() -> dict[str, Any]:
    """Return ``inference.json``: denoise every file or DICOM folder in ``dataset_dir``, write NIfTI."""
    return {
        "imports": ["$import pathlib", "$import torch", "$import monai"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "data": "$[{'image': str(p)} for p in sorted(pathlib.Path(@dataset_dir).iterdir())]",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@data", "transform": "@preprocessing"},
        "inferer": {
            "_target_": "SliceInferer",
            "roi_size": [-1, -1],
            "spatial_dim": 2,
            "sw_batch_size": 1,
            "sw_device": "@device",
            "device": "cpu",
        },
        # The first axis of MONAI is x, that of the network y.
        "slices": "$lambda x: @network_def(x.transpose(-1, -2)).transpose(-1, -2)",
        "restore": "$lambda x: monai.data.MetaTensor(@inferer(x.as_tensor()[None], @slices)[0], meta=x.meta)",
        "save": {
            "_target_": "SaveImage",
            "output_dir": "@output_dir",
            "output_postfix": "denoised",
            "separate_folder": False,
            "resample": False,
            "output_dtype": "$torch.float32",
        },
        "run": ["$[@save(@restore(item['image'])) for item in @dataset]"],
    }


def _readme(model: TrainedModel, network: HuModel) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in describe(model, network).items())
    method = methods.describe(model.method_name)
    return f"""# {model.name}

Denoises low-dose CT slice by slice. {method.title}: {method.reference}.
Research use only, not for diagnosis.

| | |
| --- | --- |
{rows}

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir IN --output_dir OUT

IN contains NIfTI files, or one folder for each DICOM series. For derived DICOM series use `ldct-denoise apply`.
"""


def _licence() -> str:
    """Return the text of this package's licence, which covers the model."""
    found = [file for file in metadata.files("ldct-denoise") or () if file.name == "LICENSE"]
    return found[0].read_text() if found else "Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0\n"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
