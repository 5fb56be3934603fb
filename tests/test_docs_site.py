"""The documentation site: generated tables are complete, examples run, and the build is strict and needs no network."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml
from pydantic import BaseModel

import ldct_denoise
from ldct_denoise import methods
from ldct_denoise.config import Config, recipes
from ldct_denoise.io.dicom.instance import STORAGE_CLASSES, TRANSFER_SYNTAXES
from ldct_denoise.io.inventory import ExclusionKind
from tests.conftest import ROOT

DOCS = ROOT / "docs"
#: Small sizes for the examples: text of the page, and what runs here.
SMALLER = {
    "--patients 1 --slices 6 --size 256": "--patients 3 --slices 2 --size 160",
    "training.iterations=400": "training.iterations=2 --set settings.base_channels=4",
    "training.validate_every=100": "training.validate_every=2",
}


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """`docs/hooks.py`, which MkDocs loads by its path."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and description of every setting below a model."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description or ""


def cells(text: str) -> dict[str, list[str]]:
    """Rows of all tables of a page by their first cell."""
    rows = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_every_setting_stands_in_the_reference_with_default_and_meaning(hook: ModuleType) -> None:
    text = hook.run_settings()
    rows = cells(text)
    for key, description in fields(Config):
        if key != "settings":  # by method, below
            _, default, meaning = rows[f"`{key}`"]
            assert default, key
            assert meaning == hook.cell(description), key
    for name in methods.names():
        own = cells(text.partition(f"### {name}\n")[2].partition("\n### ")[0])
        for key, description in fields(methods.find(name).Settings, "settings."):
            assert own[f"`{key}`"][-1] == hook.cell(description) != "", (name, key)


def test_every_setting_of_the_node_stands_in_the_reference(hook: ModuleType) -> None:
    rules = pytest.importorskip("ldct_denoise.node.rules")
    text = hook.node_settings()
    for model in vars(rules).values():
        if isinstance(model, type) and issubclass(model, BaseModel) and model not in (BaseModel, rules.Section):
            for key, description in fields(model):
                assert re.search(
                    rf"^\| `(\w+\.)?{key}` \|.*\| {re.escape(hook.cell(description))} \|$", text, re.M
                )


def test_every_command_and_option_stands_in_the_reference(hook: ModuleType) -> None:
    text = hook.commands()

    def check(command: click.Command, path: str) -> None:
        for param in command.params:
            if isinstance(param, click.Option):
                section = text.partition(f"\n{path}")[2].partition("\n```\nldct-denoise")[0]
                assert [one for one in param.opts if one not in section] == [], path
                assert param.help, f"{path} {param.name}: no help"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                check(inner, f"{path} {name}")

    from ldct_denoise.cli.main import cli

    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        check(command, f"ldct-denoise {name}")


def test_dicom_tables_are_complete(hook: ModuleType) -> None:
    from ldct_denoise.io.derived import attributes, enhanced

    assert all(uid in hook.storage_classes() for uid in STORAGE_CLASSES)
    assert all(uid in hook.transfer_syntaxes() for uid in TRANSFER_SYNTAXES)
    text = hook.dicom_attributes()
    groups = (attributes.STALE, attributes.EQUIPMENT, enhanced.CLASSIC_ATTRIBUTES, enhanced.MULTIFRAME_ONLY)
    assert [keyword for group in groups for keyword in group if f"| {keyword} |" not in text] == []
    assert all(f"## {name}\n" in hook.configurations() for name in recipes())


def test_every_marker_has_a_table_and_every_table_a_page(hook: ModuleType) -> None:
    used = [name for page in DOCS.rglob("*.md") for name in hook.MARKER.findall(page.read_text(encoding="utf-8"))]
    assert sorted(used) == sorted(hook.TABLES)


def test_the_navigation_names_every_page() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = re.findall(r"[\w./-]+\.md", yaml.safe_dump(yaml.safe_load(settings)["nav"]))
    assert sorted(pages) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_every_kind_of_skipped_file_has_a_remedy() -> None:
    text = (DOCS / "help/troubleshooting.md").read_text(encoding="utf-8")
    assert [kind for kind in ExclusionKind if f"`{kind}`" not in text] == []


def test_the_api_page_has_every_public_name() -> None:
    documented = re.findall(r"^::: [\w.]+\.(\w+)$", (DOCS / "reference/api.md").read_text(encoding="utf-8"), re.M)
    assert set(ldct_denoise.__all__) <= set(documented)


@pytest.mark.slow
def test_the_examples_of_the_tutorials_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, as a reader would, on smaller images."""
    from ldct_denoise.cli.main import cli

    monkeypatch.chdir(tmp_path)
    for name in ("first_series.sh", "train_lir.sh", "compare.sh", "compare.py", "blinded_reading.py"):
        text = (DOCS / "examples" / name).read_text(encoding="utf-8")
        for large, small in SMALLER.items():
            text = text.replace(large, small)
        if name.endswith(".py"):
            exec(compile(text, name, "exec"), {})
            continue
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("ldct-denoise"):
                cli.main(args=shlex.split(line)[1:], standalone_mode=False)
    assert (tmp_path / "results/report.html").is_file()
    assert (tmp_path / "reading.html").is_file()


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_a_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [*(tmp_path / "site").rglob("*.html")]
    assert len(pages) > 50
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//[^>]*", text) == [], page
        assert (
            re.findall(r"<link(?![^>]*rel=\"?(?:canonical|license))[^>]+href=\"?(?:https?:)?//[^>]*", text) == []
        )
        assert "<!-- generated:" not in text
        assert not re.search(r"--8(<|&lt;)", text)  # a snippet that was not inserted
    assert (tmp_path / "site/search/search_index.js").stat().st_size > 100_000
