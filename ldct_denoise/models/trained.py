"""Trained models: save them, and load shipped models, model files, run folders and methods without training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ldct_denoise import __version__, methods
from ldct_denoise.config import assignment, recipes
from ldct_denoise.errors import ConfigError, ModelError, did_you_mean
from ldct_denoise.intensity import Scale
from ldct_denoise.io.patients import is_unnamed
from ldct_denoise.methods import Supervision
from ldct_denoise.methods.base import Method
from ldct_denoise.models.catalogue import ALIASES, model_file, shipped_models
from ldct_denoise.models.network_file import is_network_file, load_network_file
from ldct_denoise.output import atomic_write

#: Settings that name files of weights.
_WEIGHT_FILES = ("vgg_weights", "resnet50_weights")
#: The model that ``apply`` uses by default.
DEFAULT_MODEL = "lir-ct"


@dataclass(frozen=True)
class TrainedModel:
    """A denoiser ready for use.

    Parameters
    ----------
    name : str
        Name of the shipped model, the method, the file or the run folder.
    method : Method
        The method with its weights, in evaluation mode, on the CPU.
    method_name : str
        Name of the method.
    scale : Scale
        HU range of its network units.
    card : mapping
        Model card: configuration, training data, seed, versions, validation results.
    checksum : str
        SHA-256 of all that decides its output (:func:`model_checksum`). It is part of the UIDs of derived series.
    """

    name: str
    method: Method[Any]
    method_name: str
    scale: Scale
    card: Mapping[str, Any] = field(default_factory=dict)
    checksum: str = ""

    @property
    def keeps_texture(self) -> bool:
        """Its card recommends the texture of normal dose as the default output of ``apply``."""
        return bool(self.card.get("keeps_texture", False))

    @property
    def training_patients(self) -> frozenset[str]:
        """Named patients of its training data, and of the model that its training began with."""
        return frozenset(chain.from_iterable(self._from_card("training_patients"))) - {""}

    @property
    def has_unnamed_patients(self) -> bool:
        """Whether some of its training images, or of the model that its training began with, name no patient."""
        names = chain.from_iterable(self._from_card("training_patients"))
        marked = self.card.get("started_from", {}).get("has_unnamed_patients", False)
        return marked or any(map(is_unnamed, names))

    @property
    def image_digests(self) -> frozenset[str]:
        """Digests of its training images; see :mod:`~ldct_denoise.data.image_digests`."""
        return frozenset(chain.from_iterable(self._from_card("image_digests")))

    def _from_card(self, key: str) -> list[list[str]]:
        """Values of the training data, and of the model that its training began with."""
        return [self.card.get(part, {}).get(key, []) for part in ("pools", "started_from")]


def save_model(path: Path, method_name: str, method: Method[Any], card: Mapping[str, Any]) -> None:
    """Write a model file: the weights that :meth:`Method.restore` uses; settings, HU range and card as metadata.

    Parameters
    ----------
    path : Path
        Output file, safetensors.
    method_name : str
        Name of the method.
    method : Method
        The trained method.
    card : mapping
        Model card.
    """
    tensors = {key: value.detach().contiguous().cpu() for key, value in method.restoration_parameters().items()}
    metadata = {
        "format": "ldct-denoise model 1",
        "version": __version__,
        "method": method_name,
        "settings": json.dumps(_portable_settings(method)),
        "range_hu": json.dumps([method.scale.low_hu, method.scale.high_hu]),
        "card": json.dumps(dict(card)),
    }
    metadata["checksum"] = model_checksum(metadata, tensors)
    atomic_write(path, lambda part: save_file(tensors, part, metadata))


def _portable_settings(method: Method[Any]) -> dict[str, Any]:
    """Return the settings without paths of this machine, which only training uses."""
    settings: dict[str, Any] = method.settings.model_dump(mode="json")
    return {key: None if key in _WEIGHT_FILES else value for key, value in settings.items()}


def load_model(name: str | Path) -> TrainedModel:
    """Load a trained model, or a method that needs no training.

    Only the networks that denoising uses are built, not those of training.

    Parameters
    ----------
    name : str or Path
        A shipped model (``lir-ct``, ``lir-ct-small``), a ``.safetensors`` file, the output folder of a training
        run, a network file (``net.onnx``, ``.pt2``, TorchScript ``.ts`` or ``.pt``; from HU to HU, or with
        ``net.onnx:low_hu=-1024,high_hu=3072`` from 0…1 to 0…1), or an untrained method with optional settings
        (``bm3d:sigma_hu=100,sigma_factor=0.8``).

    Returns
    -------
    TrainedModel
        On the CPU, in evaluation mode.

    Raises
    ------
    ModelError
        If there is no such model or its file cannot be used.
    ConfigError
        If a setting of an untrained method is unknown or impossible.

    Examples
    --------
    >>> model = load_model("lir-ct")
    >>> model.method_name, model.scale.low_hu, model.scale.high_hu
    ('lir', -1024.0, 3072.0)
    """
    text = str(name)
    if is_network_file(text):
        stem, method, format_, checksum = load_network_file(text, _settings)
        return TrainedModel(stem, method.eval(), format_, method.scale, {}, checksum)
    found = model_file(name)
    if found:
        return _read(found[1], found[0])
    if text.partition(":")[0] in methods.names():
        return _untrained(text)
    shipped = ", ".join(shipped_models()) or "none"
    meant = did_you_mean(text.partition(":")[0], [*shipped_models(), *ALIASES, *methods.names()])
    raise ModelError(
        f"model {text!r}: not a shipped model ({shipped}), a file, a run folder or a method{meant}; "
        "see `ldct-denoise models`"
    )


def _untrained(text: str) -> TrainedModel:
    name, _, settings = text.partition(":")
    if methods.describe(name).supervision is not Supervision.NONE:
        config = name if name in recipes() else f"{name}-ct"
        raise ModelError(
            f"model {name!r}: this method must be trained first: ldct-denoise train --config {config} …"
        )
    method = methods.build(name, _settings(text, settings), Scale()).eval()
    digest = hashlib.sha256(json.dumps([__version__, name, method.settings.model_dump(mode="json")]).encode())
    return TrainedModel(text, method, name, method.scale, {}, digest.hexdigest())


def _settings(text: str, settings: str) -> dict[str, Any]:
    """Parse the settings after a method's name, ``key=value,key=value``."""
    form = f"settings as {text.removesuffix(settings).rstrip(':')}:KEY=VALUE,KEY=VALUE"
    try:
        return dict(assignment(part, f"model {text!r}", form) for part in settings.split(",") if part)
    except ConfigError as error:
        raise ModelError(str(error)) from None


def _read(path: Path, name: str) -> TrainedModel:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a model file ({str(error).splitlines()[0]})") from None
    if metadata.get("format") != "ldct-denoise model 1":
        raise ModelError(f"{path}: a safetensors file, but not written by ldct-denoise train")
    try:
        scale = Scale(*map(float, json.loads(metadata["range_hu"])))
        settings, card = dict(json.loads(metadata["settings"])), dict(json.loads(metadata["card"]))
        method_name = metadata["method"]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: its metadata are damaged ({type(error).__name__}); get the file anew") from None
    checksum = model_checksum(metadata, tensors)
    if metadata.get("checksum", checksum) != checksum:
        raise ModelError(f"{path}: its weights or settings do not have its checksum; get the file anew")
    method = methods.build(method_name, settings, scale)
    wanted = method.restoration_parameters()
    if wanted.keys() != tensors.keys() or any(wanted[key].shape != tensors[key].shape for key in wanted):
        raise ModelError(f"{path}: its weights do not fit method {method_name} of version {__version__}")
    method.load_state_dict(tensors, strict=False)
    return TrainedModel(name, method.eval(), method_name, scale, card, checksum)


def model_checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that decides a model's output: method, settings, HU range, weights.

    Parameters
    ----------
    metadata : mapping
        Metadata of a model file.
    tensors : mapping
        Its weights by name.

    Returns
    -------
    str
        Hexadecimal digest.
    """
    digest = hashlib.sha256()
    for key in ("method", "settings", "range_hu"):
        digest.update(metadata[key].encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
