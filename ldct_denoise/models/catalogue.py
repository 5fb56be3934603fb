"""Catalogue of methods and shipped models, read without importing torch so that it is listed at once."""

from __future__ import annotations

import importlib.resources
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ldct_denoise import methods as registry
from ldct_denoise.config import recipes
from ldct_denoise.errors import ModelError
from ldct_denoise.models.card_table import card_rows

#: Short names of shipped models.
ALIASES = {"fast": "lir-ct-small"}
#: The model file of a run folder.
MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class MethodEntry:
    """A method.

    Parameters
    ----------
    name : str
        Name on the command line and in configurations.
    title : str
        The method in a few words.
    supervision : str
        Training data that it requires.
    reference : str
        Publication that describes it.
    configs : tuple of str
        Shipped configurations that train it.
    """

    name: str
    title: str
    supervision: str
    reference: str
    configs: tuple[str, ...]


@dataclass(frozen=True)
class ModelEntry:
    """A shipped model.

    Parameters
    ----------
    name : str
        Name on the command line.
    method : str
        Name of its method.
    size_mb : float
        Size of its file, megabytes.
    trained_on : str
        Training data in a sentence.
    validation : str
        Validation results in a sentence.
    """

    name: str
    method: str
    size_mb: float
    trained_on: str
    validation: str


def methods() -> list[MethodEntry]:
    """Return every method, sorted by name."""
    contents = {name: yaml.safe_load(path.read_text(encoding="utf-8")) or {} for name, path in recipes().items()}
    configs: dict[str, list[str]] = {}
    for name in sorted(contents):
        configs.setdefault(_method_of(name, contents), []).append(name)
    found = map(registry.describe, registry.names())
    return [
        MethodEntry(one.name, one.title, one.supervision, one.reference, tuple(configs.get(one.name, ())))
        for one in found
    ]


def _method_of(recipe: str, contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Name of the method of a recipe: its own, else that of its base."""
    content = contents.get(recipe, {})
    if "method" not in content and "base" in content:
        return _method_of(content["base"], contents)
    return str(content.get("method", "lir"))


def shipped_models() -> dict[str, Path]:
    """Return the files of the shipped models by name, sorted by name."""
    folder = Path(str(importlib.resources.files("ldct_denoise.models")))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"), key=lambda path: path.stem)}


def models() -> list[ModelEntry]:
    """Return every shipped model, sorted by name."""
    return [_model(name, path) for name, path in shipped_models().items()]


def model_file(name: str | Path) -> tuple[str, Path] | None:
    """Name and file of a trained model; None if there is none.

    Parameters
    ----------
    name : str or Path
        A shipped model or its short name, a model file, or the output folder of a training run.

    Raises
    ------
    ModelError
        If a folder holds no model.
    """
    text = ALIASES.get(str(name), str(name))
    if text in shipped_models():
        return text, shipped_models()[text]
    path = Path(text)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise ModelError(f"{path}: has no {MODEL_FILE}; give the --output folder of a training run")
        return path.resolve().name, path / MODEL_FILE
    return (path.stem, path) if path.is_file() else None


def model_card(name: str | Path) -> list[tuple[str, str]]:
    """Ten lines about a trained model (:func:`~ldct_denoise.models.card_table.card_rows`).

    Raises
    ------
    ModelError
        If there is no such model or its file cannot be read.
    """
    found = model_file(name)
    if found is None:
        known = ", ".join(shipped_models())
        raise ModelError(f"model {str(name)!r}: give a shipped model ({known}), a model file or a run folder")
    try:
        return card_rows(found[0], json.loads(read_metadata(found[1])["card"]))
    except (OSError, ValueError, KeyError, struct.error):
        raise ModelError(f"{found[1]}: not a model file of ldct-denoise train") from None


def _model(name: str, path: Path) -> ModelEntry:
    metadata = read_metadata(path)
    card: dict[str, Any] = json.loads(metadata["card"])
    pools, figures = card.get("pools", {}), card.get("validation", {})
    gain = figures.get("synthetic_pair_psnr_gain_db")
    gains = [] if gain is None else [f"{gain:+.1f} dB on synthetic validation pairs"]
    if "psnr_gain_abdomen_db" in figures:
        gains.append(f"{figures['psnr_gain_abdomen_db']:+.1f} dB in the abdomen window on validation pairs")
    kernels = ", ".join(pools.get("kernels", ())) or "unknown"
    return ModelEntry(
        name=name,
        method=metadata["method"],
        size_mb=path.stat().st_size / 1e6,
        trained_on=f"{pools.get('low_slices', 0)} low- and {pools.get('normal_slices', 0)} normal-dose slices of "
        f"{len(pools.get('training_patients', ()))} patients; kernels {kernels}",
        validation="; ".join(gains),
    )


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, whose header is JSON after its length."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    return dict(header.get("__metadata__", {}))
