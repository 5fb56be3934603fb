"""The documents name files that exist, and the map of the house leaves none out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAP = ROOT / "docs" / "architecture.md"


def modules(folder: str) -> list[str]:
    return [
        path.name for path in sorted((ROOT / "ldct_denoise" / folder).glob("*.py")) if path.name != "__init__.py"
    ]


@pytest.mark.parametrize(
    "folder", ["", "io", "data", "physics", "networks", "metrics", "report", "view", "node", "benchmark"]
)
def test_the_map_names_every_module(folder):
    text = MAP.read_text(encoding="utf-8")
    assert [name for name in modules(folder) if f"`{name}`" not in text] == []


def test_the_map_names_no_module_that_is_not_there():
    there = {path.name for path in (ROOT / "ldct_denoise").rglob("*.py")} | {"test_docs.py"}
    named = {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", MAP.read_text(encoding="utf-8"))}
    assert named - there - {path.name for path in (ROOT / "cli").glob("*.py")} == set()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_recipe_and_command_is_documented():
    text = "".join(
        path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    )
    recipes = [path.stem for path in (ROOT / "configs").glob("*.yaml")]
    commands = [path.stem for path in (ROOT / "cli").glob("*.py")]
    commands = [name for name in commands if name not in ("__init__", "__main__", "main", "options")]
    assert [name for name in recipes if name not in text] == []
    assert [name for name in commands if f"ldct-denoise {name.replace('_', '-')}" not in text] == []
