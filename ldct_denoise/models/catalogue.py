"""What there is to choose from: trained models and methods, told without importing torch.

Method files are read as text (their syntax tree), and model files by their header alone, so that the list answers
at once.
"""

from __future__ import annotations

import ast
import importlib.resources
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ldct_denoise.config import recipes
from ldct_denoise.methods import names


@dataclass(frozen=True)
class MethodEntry:
    """A method: its name, the supervision it needs, one line on what it is, its source, recipes that train it."""

    name: str
    supervision: str
    title: str
    reference: str
    recipes: tuple[str, ...]


@dataclass(frozen=True)
class ModelEntry:
    """A trained model that ships."""

    name: str
    method: str
    size_mb: float
    trained_on: str
    validation: str


def methods() -> list[MethodEntry]:
    """Every method, sorted by name."""
    by_method: dict[str, list[str]] = {}
    for recipe, path in recipes().items():
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        by_method.setdefault(content.get("method", "lir"), []).append(recipe)
    return [_method(name, tuple(by_method.get(name, ()))) for name in names()]


def _method(name: str, its_recipes: tuple[str, ...]) -> MethodEntry:
    folder = importlib.resources.files("ldct_denoise.methods")
    tree = ast.parse(Path(str(folder / f"{name.replace('-', '_')}.py")).read_text(encoding="utf-8"))
    told: dict[str, str] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for statement in node.body:
            target: ast.expr
            value: ast.expr | None
            if isinstance(statement, ast.AnnAssign):
                target, value = statement.target, statement.value
            elif isinstance(statement, ast.Assign):
                target, value = statement.targets[0], statement.value
            else:
                continue
            if isinstance(target, ast.Name) and target.id in ("title", "reference") and value is not None:
                told[target.id] = str(ast.literal_eval(value))
            if isinstance(target, ast.Name) and target.id == "supervision" and isinstance(value, ast.Attribute):
                told["supervision"] = value.attr.lower().replace("_", " ")
    return MethodEntry(name, told["supervision"], told["title"], told["reference"], its_recipes)


def models() -> list[ModelEntry]:
    """Every shipped model, sorted by name."""
    folder = Path(str(importlib.resources.files("ldct_denoise.models")))
    return [_model(path) for path in sorted(folder.glob("*.safetensors"))]


def _model(path: Path) -> ModelEntry:
    metadata = read_metadata(path)
    card: dict[str, Any] = json.loads(metadata["card"])
    pools = card.get("pools", {})
    figures = card.get("validation", {})
    told = [f"{figures['probe_gain_db']:+.1f} dB on held-back normal dose"] if "probe_gain_db" in figures else []
    if "psnr_gain_abdomen_db" in figures:
        told.append(f"{figures['psnr_gain_abdomen_db']:+.1f} dB in the abdomen window on held-out pairs")
    kernels = ", ".join(pools.get("kernels", ())) or "unknown"
    return ModelEntry(
        name=path.stem,
        method=metadata["method"],
        size_mb=path.stat().st_size / 1e6,
        trained_on=f"{pools.get('low_slices', 0)} low- and {pools.get('normal_slices', 0)} normal-dose slices of "
        f"{len(pools.get('training_patients', ()))} patients; kernels {kernels}",
        validation="; ".join(told),
    )


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file: the length of the header, then the header as JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    return dict(header.get("__metadata__", {}))
