"""A model as a MONAI bundle: a folder that ``python -m monai.bundle`` verifies and runs, without this package.

The parts are those of MONAI's bundle specification (docs.monai.io, mb_specification); the network is TorchScript.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldct_denoise import __version__
from ldct_denoise.errors import ModelError, OutputError
from ldct_denoise.export.formats import read_torchscript, write_torchscript
from ldct_denoise.export.network import HuModel, described
from ldct_denoise.export.verify import require_same
from ldct_denoise.models.trained import TrainedModel

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
METADATA = Path("configs/metadata.json")


def write_bundle(model: TrainedModel, network: HuModel, output: Path, overwrite: bool) -> float:
    """Write the folder, whole or not at all.

    Returns
    -------
    float
        Largest absolute difference from the original, HU.

    Raises
    ------
    ModelError, OutputError
    """
    if model.method.context_slices:
        raise ModelError(
            f"model {model.name!r}: sees slices beside each other, which MONAI's bundles run one by one; "
            "export to onnx or torchscript"
        )
    _require_free(output, overwrite)
    try:
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=output.absolute().parent))
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another place") from None
    try:
        for folder in ("configs", "models", "docs"):
            (part / folder).mkdir()
        write_torchscript(part / "models" / "model.ts", model, network)
        difference = require_same(network, read_torchscript(part / "models" / "model.ts"), "monai-bundle")
        _write_json(part / METADATA, _metadata(model))
        _write_json(part / "configs" / "inference.json", _inference())
        (part / "docs" / "README.md").write_text(_readme(model), encoding="utf-8")
        (part / "LICENSE").write_text(_licence(), encoding="utf-8")
        part.chmod(0o755)
        if output.exists():
            shutil.rmtree(output)
        part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return difference


def _require_free(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{output}: exists; give --overwrite or another name")
    if not (output / METADATA).is_file():
        raise OutputError(f"{output}: is no bundle, so it is not replaced; choose another folder")


def _metadata(model: TrainedModel) -> dict[str, Any]:
    """``metadata.json``: versions, what the model is, and its input and output."""
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
        "description": "Restores axial CT slices. HU in, HU out; rows and columns are any number from 32 on.",
        "authors": "ldct-denoise",
        "copyright": "Apache-2.0",
        "data_type": "nibabel",
        "intended_use": "Research use only, not for diagnosis",
        "references": [model.method.reference],
        "ldct_denoise": described(model),
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pred": {**image, "channel_def": {"0": "restored"}}},
        },
    }


def _inference() -> dict[str, Any]:
    """``inference.json``: every file or DICOM folder in ``dataset_dir``, slice by slice, to NIfTI."""
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
        # MONAI's first axis is x; the network's is y.
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


def _readme(model: TrainedModel) -> str:
    told = "\n".join(f"| {name} | {value} |" for name, value in described(model).items())
    return f"""# {model.name}

Restores low-dose CT, slice by slice; {model.method.title}. {model.method.reference}.
Research use only, not for diagnosis.

| | |
| --- | --- |
{told}

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir IN --output_dir OUT

IN holds NIfTI files, or DICOM series in a folder each. For derived DICOM series use `ldct-denoise apply`.
"""


def _licence() -> str:
    """The licence of this package, under which the model comes."""
    found = [file for file in metadata.files("ldct-denoise") or () if file.name == "LICENSE"]
    return found[0].read_text() if found else "Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0\n"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
