"""Plain technical English: no home-made or Germanic words, short sentences, cells and lines, in all that people read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

from tests.conftest import ROOT

#: Words and phrases that readers did not understand, with what to write instead.
BANNED = {
    r"told (by|as)": "stated by, given as",
    r"foretold": "predicted",
    r"beside": "next to, with",
    r"the way up": "in the decoder",
    r"least slice": "worst slice",
    r"slabs?": "averaged slices",
    r"set aside": "skipped, held out",
    r"share to keep": "fraction of the noise that is kept",
    r"broad (family|noise)": "random spectra",
    r"form for CT": "CT architecture",
    r"weigh\w* alike": "weighted equally",
    r"(was|were|is|are) not at hand": "was not available",
    r"are worth|each is worth|what pairs": "the gain from",
    r"whole story": "end to end",
    r"put right": "correct",
    r"noise in its own place": "noise simulated for each slice",
    r"equal but for|needed but for|, but where|all but": "except",
    r"lies? apart": "are separate",
    r"the hold": "the low-frequency passthrough",
    r"(Taken|Free|Laid|Handed) (are|is)": "subject first",
    r"Who \w+ ": "Readers who",
    r"of then": "of that time",
    r"\.\./shared": "a public source (docs/how-to/get-the-data.md)",
}
PATTERN = re.compile("|".join(rf"(?<![\w-])({phrase})(?![\w-])" for phrase in BANNED))
LONGEST_MEAN_WORDS, LONGEST_CELL, LONGEST_LINE = 25, 100, 100
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings, messages and help texts of a module, by line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"\s+", " ", node.value)


def prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def sentences(text: str) -> list[str]:
    """Sentences outside tables."""
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#"))]
    parts = re.split(r"\n\s*\n|\n(?=\s*[*-] |\s*\d+\. |:   )", "\n".join(lines))
    found = [one for part in parts for one in re.split(r"(?<=[.!?])\s+", " ".join(part.split()))]
    return [one for one in found if len(one.split()) > 2]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_are_plain(page: Path) -> None:
    whole = page.read_text(encoding="utf-8")
    assert [match.group() for match in PATTERN.finditer(whole)] == []
    text = prose(page)
    lengths = [len(one.split()) for one in sentences(text)]
    assert not lengths or mean(lengths) <= LONGEST_MEAN_WORDS
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert [cell for cell in cells if len(re.sub(r"\]\([^)]*\)", "]", cell)) > LONGEST_CELL] == []
    lines = [
        line for line in text.splitlines() if not line.startswith(("|", "!", "#", "    ")) and " " in line.strip()
    ]
    assert [line for line in lines if len(line) > LONGEST_LINE and "](" not in line] == []


@pytest.mark.parametrize("folder", ["ldct_denoise", "cli"])
def test_docstrings_messages_and_help_are_plain(folder: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}": match.group()
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in strings(path)
        if (match := PATTERN.search(text))
    }
    assert found == {}


def test_comments_of_configurations_are_plain() -> None:
    found = [
        f"{path.name}: {match.group()}"
        for path in sorted((ROOT / "configs").glob("*.yaml"))
        if (match := PATTERN.search(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_changelog_is_plain() -> None:
    assert [match.group() for match in PATTERN.finditer((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))] == []
