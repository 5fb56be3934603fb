"""Docstrings name their parameters rightly (numpydoc's own validation) and begin with the thing they describe."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from enum import Enum
from types import ModuleType

import pytest
from pydantic import BaseModel

from tests.conftest import ROOT

validation = pytest.importorskip("numpydoc.validate", reason="numpydoc checks docstrings; it is not installed")

#: From so many parameters on, a Parameters section is required; below, one that is there must be right.
FEW = 3
#: Methods whose parameters the protocol documents that they implement (`regions.Region.mask`).
BY_PROTOCOL = {"mask"}
MODULES = [
    found.name
    for found in pkgutil.walk_packages([str(ROOT / "ldct_denoise")], "ldct_denoise.")
    if not found.name.endswith("__main__")
]


def public_objects(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Public functions, classes and methods that are defined in the module, by dotted name."""
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(item):
            yield f"{module.__name__}.{name}", item
        elif inspect.isclass(item):
            yield f"{module.__name__}.{name}", item
            for attribute, method in vars(item).items():
                function = getattr(method, "__func__", method)
                if inspect.isfunction(function) and not attribute.startswith("_"):
                    yield f"{module.__name__}.{name}.{attribute}", function


def parameters(item: object) -> list[str]:
    """Names as a caller sees them."""
    try:
        signature = inspect.signature(item)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []
    return [name for name in signature.parameters if name not in ("self", "cls")]


def complaints(name: str, item: object) -> list[str]:
    if inspect.isclass(item) and issubclass(item, BaseException | Enum):
        return []
    if inspect.isclass(item) and issubclass(item, BaseModel):  # settings: each field has its description
        return [
            f"{field} has no description"
            for field, info in item.model_fields.items()
            if not info.description
            and not (inspect.isclass(info.annotation) and issubclass(info.annotation, BaseModel))
        ]
    text = inspect.getdoc(item)
    if not text:
        return ["GL08 no docstring"]
    if "Parameters\n" not in text and (len(parameters(item)) < FEW or name.rsplit(".", 1)[-1] in BY_PROTOCOL):
        return []
    validator = validation.Validator(validation.get_doc_object(validation.Validator._load_obj(name)))
    found = dict(validator.parameter_mismatches)  # PR01 missing, PR02 unknown, PR03 wrong order
    private = re.findall(r"'(\w+)'", found.get("PR01", ""))
    if inspect.isclass(item) and all(field.startswith("_") for field in private):
        found.pop("PR01", None)  # fields of a dataclass that are not for callers
    return [f"{code} {message}" for code, message in found.items()]


@pytest.mark.parametrize("module", MODULES)
def test_parameters_are_documented(module: str) -> None:
    found = {
        name: lines
        for name, item in public_objects(importlib.import_module(module))
        if (lines := complaints(name, item))
    }
    assert found == {}, "\n" + "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines)


@pytest.mark.parametrize("module", MODULES)
def test_no_summary_begins_with_what(module: str) -> None:
    imported = importlib.import_module(module)
    described = [(module, imported), *public_objects(imported)]
    begun = [
        name for name, item in described if (inspect.getdoc(item) or "").startswith(("What ", "Whether what "))
    ]
    assert begun == []
