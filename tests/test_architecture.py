"""The layout's rules, read from the imports of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "ldct_denoise"
FRONT_DOOR = {"__init__", "__main__", "api", "arrays", "monai"}
ROOT_MODULES = {
    "config",
    "training_config",
    "context_slices",
    "demo",
    "distributed",
    "errors",
    "intensity",
    "output",
    "setting_errors",
    "volume",
}
#: Files outside `io/` that know DICOM: the node speaks its protocol and stores what it receives.
KNOW_DICOM = ("node.",)
METHODS_MAY_IMPORT = ("methods.base", "networks.", "intensity", "regions.", "errors")
LONGEST_FILE = 420


def files() -> dict[str, Path]:
    """Every file by its module name below the package (``io.dicom.scan``)."""
    found = {}
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "cli").glob("*.py")]):
        parts = path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__") or "__init__"] = path
    return found


FILES = files()


@cache
def imports(module: str) -> frozenset[str]:
    """Modules that a file imports anywhere; our own by their names below the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {name.removeprefix("ldct_denoise.") for name in found if name.startswith("ldct_denoise.")} & {*FILES}
    return frozenset(ours | {name for name in found if not name.startswith("ldct_denoise")})


def under(prefix: str) -> list[str]:
    return [module for module in FILES if module == prefix or module.startswith(f"{prefix}.")]


def offences(modules: Iterable[str], forbidden: str) -> Iterator[str]:
    for module in modules:
        for name in imports(module):
            if name == forbidden or name.startswith(f"{forbidden}."):
                yield f"{module} imports {name}"


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [
        ("evaluation", "report"),
        ("inference", "report"),
        ("networks", "methods"),
        ("io.dicom", "io.derived"),
        ("training", "inference"),
        ("metrics", "io"),
        ("physics", "report"),
        ("report", "node"),
    ],
)
def test_a_room_does_not_import_another(importer: str, forbidden: str) -> None:
    assert list(offences(under(importer), forbidden)) == []


def test_the_library_never_imports_the_command_line() -> None:
    library = [module for module in FILES if not module.startswith("cli")]
    assert list(offences(library, "cli")) == []


def test_only_io_knows_dicom() -> None:
    outside = [module for module in FILES if not module.startswith(("io.", *KNOW_DICOM))]
    assert [
        line for name in ("pydicom", "pynetdicom", "highdicom", "gdcm") for line in offences(outside, name)
    ] == []


def test_a_method_imports_only_what_methods_share() -> None:
    found = []
    for module in under("methods"):
        for name in imports(module) & {*FILES}:
            shared = name.startswith(("methods._", *METHODS_MAY_IMPORT)) or name == "methods"
            if module not in ("methods", "methods.base") and not shared:
                found.append(f"{module} imports {name}")
    assert found == []


@pytest.mark.parametrize("depth", [1, 99], ids=["packages", "files"])
def test_nothing_imports_in_a_circle(depth: int) -> None:
    graph: dict[str, set[str]] = {}
    for module in FILES:
        importer, imported = (
            shortened(module, depth),
            {shortened(name, depth) for name in imports(module) & {*FILES}},
        )
        graph.setdefault(importer, set()).update(imported - {importer})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_layers_of_the_architecture_page_hold() -> None:
    """A package imports only from rows above its own; every package is listed."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = page.partition("## Layers")[2].split("```")[1].strip().splitlines()
    row_of = {name.strip(): number for number, row in enumerate(rows) for name in row.split(",")}
    packages = {shortened(module, 1) for module in FILES}
    assert {*row_of} == packages - {"__init__", "__main__"}
    found = [
        f"{module} imports {name}"
        for module in FILES
        for name in imports(module) & {*FILES}
        if (importer := shortened(module, 1)) in row_of
        and (imported := shortened(name, 1)) in row_of
        and imported != importer
        and row_of[imported] >= row_of[importer]
    ]
    assert found == []


def shortened(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def test_the_library_neither_prints_nor_exits() -> None:
    found = []
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "sys.exit",
                "exit",
                "click.echo",
            ):
                found.append(f"{module}:{node.lineno}")
    assert [place for place in found if not place.startswith("cli.")] == []


def test_the_root_holds_these_modules_alone() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_MODULES | FRONT_DOOR


def test_no_file_is_a_drawer_or_too_long() -> None:
    assert [module for module in FILES if "util" in module or "helper" in module or "misc" in module] == []
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > LONGEST_FILE} == {}
