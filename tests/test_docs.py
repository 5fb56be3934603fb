"""The documents name files that exist, and the map of the house leaves none out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAP = ROOT / "docs" / "architecture.md"


def mapped_files() -> set[str]:
    """Files below the package that the map's tables name.

    A name without a folder belongs to the folder of the name before it in its row, else of its section.
    """
    files, section = set(), ""
    for line in MAP.read_text(encoding="utf-8").partition("## Files")[2].splitlines():
        if line.startswith("**`"):
            section = re.findall(r"`([\w/]+)/`", line)[0].removeprefix("ldct_denoise")
        folder = section
        for name in re.findall(r"`([\w/]+\.(?:py|js|html))`", line.partition(" | ")[0]):
            inner, _, file = name.rpartition("/")
            if inner:
                folder = inner if (ROOT / "ldct_denoise" / inner).is_dir() else f"{section}/{inner}"
            files.add(f"{folder}/{file}".lstrip("/"))
    return files


def test_the_map_names_every_file_and_no_other() -> None:
    package = ROOT / "ldct_denoise"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    listed = {name for name in modules if name == "__init__.py" or not name.endswith("__init__.py")}
    named = mapped_files()
    assert {name for name in listed - named if not re.fullmatch(r"methods/[a-z]\w*\.py", name)} == set()
    assert {name for name in named if not (package / name).is_file()} == set()


def test_every_path_in_the_map_leads_somewhere() -> None:
    text = MAP.read_text(encoding="utf-8").partition("## Files")[0]
    folders = (ROOT, ROOT / "ldct_denoise")
    named = [name for name in re.findall(r"[\w/]+\.py\b", text) if "<" not in name]
    assert [name for name in named if not any((folder / name).is_file() for folder in folders)] == []


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_recipe_and_command_is_documented():
    text = "".join(
        path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    )
    recipes = [path.stem for path in (ROOT / "configs").glob("*.yaml")]
    commands = [path.stem for path in (ROOT / "cli").glob("*.py")]
    commands = [
        name
        for name in commands
        if name not in ("__init__", "__main__", "main", "completion", "options", "terminal")
    ]
    assert [name for name in recipes if name not in text] == []
    assert [name for name in commands if f"ldct-denoise {name.replace('_', '-')}" not in text] == []


def test_the_changelog_keeps_its_form() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []
    assert {line for line in lines if line.startswith("### ")} <= {
        f"### {kind}" for kind in ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    }
    assert any(line.startswith("## [Unreleased]") for line in lines)
