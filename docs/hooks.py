"""MkDocs hook: fills the reference pages with tables that are generated from the code when the site is built.

A page holds a line ``<!-- generated: NAME -->``; NAME is a key of :data:`TABLES`. The tables are complete by
construction, and `tests/test_docs_site.py` checks them against the code.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import pydicom.datadict
import yaml
from pydantic import BaseModel
from pydicom.uid import UID

from ldct_denoise import methods
from ldct_denoise.config import Config, recipes
from ldct_denoise.io import dose_words
from ldct_denoise.io.derived import attributes, enhanced
from ldct_denoise.io.dicom.instance import STORAGE_CLASSES, TRANSFER_SYNTAXES
from ldct_denoise.io.dose_labels import Dose
from ldct_denoise.training.explain import Setting, explain_settings, settings_of

ROOT = Path(__file__).resolve().parent.parent
MARKER = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)


# Markdown -----------------------------------------------------------------------------------------------------


def cell(text: object) -> str:
    """Text for a cell of a table."""
    escaped = str(text).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return re.sub(r"\s*\n\s*", " ", escaped)


def code(text: object) -> str:
    """Text as code in a cell of a table."""
    return f"`{text}`".replace("|", "\\|")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; the cells of the rows are Markdown already."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# Settings -----------------------------------------------------------------------------------------------------


def settings_table(settings: Iterable[Setting]) -> str:
    """Settings with type and limits, default and description."""
    rows = ([code(one.key), cell(one.type), default(one), cell(one.description)] for one in settings)
    return table(["setting", "type and limits", "default", "meaning and unit"], rows)


def default(setting: Setting) -> str:
    """Default of a setting as YAML has it; empty where the setting is required."""
    if setting.is_required:
        return "required"
    return code(yaml.safe_dump(setting.default, default_flow_style=True).split("\n")[0].strip())


def run_settings() -> str:
    """Settings of a training run, section by section, then those of every method."""
    everything = explain_settings(Config())
    common = [one for one in everything if not one.key.startswith("settings.")]
    parts = ["## General", settings_table(one for one in common if "." not in one.key)]
    for section in dict.fromkeys(one.key.partition(".")[0] for one in common if "." in one.key):
        parts += [f"## `{section}`", settings_table(one for one in common if one.key.startswith(f"{section}."))]
    parts.append("## `settings`: by method")
    for name in methods.names():
        own = explain_settings(Config(method=name), "settings")
        parts += [f"### {name}", settings_table(own) if own else "No settings."]
    return "\n\n".join(parts)


def node_settings() -> str:
    """Settings of the DICOM node, one table for each section of the file."""
    rules = importlib.import_module("ldct_denoise.node.rules")
    parts_of = importlib.import_module("ldct_denoise.node.settings")
    sections: dict[str, type[BaseModel]] = {
        "Top level": rules.Rules,
        "An entry of `accept`": parts_of.Peer,
        "`commitment` of an entry of `accept`": parts_of.CommitmentReports,
        "`tls`": parts_of.ServerTLS,
        "A source, C-FIND": parts_of.DimseSource,
        "A source, DICOMweb": parts_of.WebSource,
        "`audit`": parts_of.AuditSettings,
        "A destination, C-STORE": parts_of.DimseDestination,
        "A destination, STOW-RS": parts_of.StowDestination,
        "`tls` of a destination": parts_of.ClientTLS,
        "An entry of `rules`": rules.Rule,
        "An entry of `outputs`": rules.Output,
    }
    parts = [f"### {title}\n\n{settings_table(settings_of(model))}" for title, model in sections.items()]
    return "\n\n".join(parts)


def configurations() -> str:
    """The recipes of `configs/`: their first comment and their file."""
    parts = []
    for name, path in recipes().items():
        text = path.read_text(encoding="utf-8")
        comment = " ".join(re.findall(r"^# ?(.*)$", text, re.MULTILINE))
        body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        parts.append(f"## {name}\n\n{comment}\n\n```yaml\n{body}\n```")
    return "\n\n".join(parts)


# Commands -----------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its usage, help and options, in the order of ``ldct-denoise --help``."""
    group: click.Group = importlib.import_module("ldct_denoise.cli.main").cli
    context = click.Context(group, info_name="ldct-denoise", **group.context_settings)
    return "\n\n".join(_commands(group, context, 2))


def _commands(group: click.Group, context: click.Context, level: int) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        with click.Context(command, info_name=name, parent=context) as inner:
            yield f"{'#' * level} {inner.command_path.removeprefix('ldct-denoise ')}"
            usage = " ".join(command.collect_usage_pieces(inner))
            yield f"```\n{inner.command_path} {usage}\n```"
            yield _paragraphs(command.help or command.short_help or "")
            records = (param.get_help_record(inner) for param in command.get_params(inner))
            rows = [[code(names), cell(text)] for names, text in filter(None, records) if text]
            yield table(["option", "meaning"], rows)
            if isinstance(command, click.Group):
                yield from _commands(command, inner, level + 1)


def _paragraphs(text: str) -> str:
    """Help of a command without click's marks and indents."""
    return inspect.cleandoc(text.replace("\b", "")).replace("<", "&lt;").replace("*", "\\*")


# DICOM --------------------------------------------------------------------------------------------------------


def dose_word_tables() -> str:
    """Words that state a dose, by kind and dose."""
    kinds = {
        "with the word “dose”": dose_words.DOSE_ADJECTIVES,
        "terms": dose_words.DOSE_TERMS,
        "single words and abbreviations": dose_words.DOSE_WORDS,
    }
    rows = [
        [kind, *(", ".join(code(word) for word in words[dose]) for dose in (Dose.LOW, Dose.NORMAL))]
        for kind, words in kinds.items()
    ]
    neighbours = {
        "no dose beside one of these": dose_words.OTHER_NOUNS,
        "uncertain beside a body part": dose_words.ANATOMY_WORDS,
        "do not count in the name of PATH": dose_words.ROLE_WORDS,
        "do not change a description": dose_words.NEUTRAL_WORDS,
    }
    more = [[kind, ", ".join(sorted(words))] for kind, words in neighbours.items()]
    return (
        table(["words", "low dose", "normal dose"], rows)
        + "\n\n"
        + table(["rule for single words", "words"], more)
    )


def dicom_attributes() -> str:
    """Attributes that are removed, moved or converted, by tag."""
    groups = {
        "Removed from every derived image": (*attributes.STALE, *enhanced.CONCATENATION),
        "Moved to Contributing Equipment Sequence": attributes.EQUIPMENT,
        "Kept at the top level too": attributes.SHARED_EQUIPMENT,
        "Removed with the scanner's equipment": attributes.SCANNER_ONLY,
        "Removed where Enhanced CT becomes classic CT": enhanced.MULTIFRAME_ONLY,
        "Converted from functional groups to a classic image": enhanced.CLASSIC_ATTRIBUTES,
    }
    return "\n\n".join(f"### {title}\n\n{_attribute_table(keywords)}" for title, keywords in groups.items())


def _attribute_table(keywords: Iterable[object]) -> str:
    tags = {tag for keyword in keywords if (tag := pydicom.datadict.tag_for_keyword(str(keyword)) or keyword)}
    rows = [
        [
            f"({int(str(tag)) >> 16:04X},{int(str(tag)) & 0xFFFF:04X})",
            pydicom.datadict.keyword_for_tag(int(str(tag))),
            pydicom.datadict.dictionary_description(int(str(tag))),
        ]
        for tag in sorted(tags, key=lambda one: int(str(one)))
    ]
    return table(["tag", "keyword", "name"], rows)


def storage_classes() -> str:
    """Storage SOP classes of the node."""
    return _uid_table(STORAGE_CLASSES)


def node_services() -> str:
    """Services of the node other than storage, from the contexts that its code accepts and proposes."""
    scp = importlib.import_module("ldct_denoise.node.storage_scp")
    retrieve = importlib.import_module("ldct_denoise.node.query_retrieve")
    commitment = importlib.import_module("ldct_denoise.node.commitment")
    reachability = importlib.import_module("ldct_denoise.node.reachability")
    used = {
        **dict.fromkeys(map(str, retrieve.MODELS), "`node pull`"),
        str(commitment.StorageCommitmentPushModel): "destinations with `commitment: true`",
        str(reachability.Verification): "`serve --check`",
    }
    rows = [
        [UID(uid).name, code(uid), used.get(uid, "no"), "yes" if uid in scp.OTHER_SERVICES else "no"]
        for uid in sorted({*used, *map(str, scp.OTHER_SERVICES)})
    ]
    return table(["SOP class", "UID", "used as SCU by", "SCP"], rows)


def transfer_syntaxes() -> str:
    """Transfer syntaxes that are read and that the node accepts."""
    return _uid_table(TRANSFER_SYNTAXES)


def _uid_table(uids: Iterable[str]) -> str:
    return table(["name", "UID"], ([UID(uid).name, code(uid)] for uid in uids))


# Documents of the root ----------------------------------------------------------------------------------------


def root_document(name: str) -> Callable[[], str]:
    """A document of the root without its title, for a page of `docs/development/`."""

    def text() -> str:
        content = (ROOT / name).read_text(encoding="utf-8").partition("\n")[2]
        content = re.sub(r"\]\(docs/", "](../", content)
        return re.sub(r"\[([^]]*)\]\((?!https?:|#|\.\./)[^)]*\)", r"\1", content)

    return text


def notebook(name: str) -> Callable[[], str]:
    """A notebook's text and code, without its title and its output."""

    def text() -> str:
        content = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
        kinds = re.split(r"^# %%(.*)\n", content, flags=re.MULTILINE)[1:]
        parts = []
        for kind, body in zip(kinds[::2], kinds[1::2], strict=True):
            body = body.strip("\n")
            is_text = kind.strip() == "[markdown]"
            parts.append(re.sub(r"^# ?", "", body, flags=re.MULTILINE) if is_text else f"```python\n{body}\n```")
        title, _, rest = "\n\n".join(parts).partition("\n")
        assert title.startswith("# ")
        return f"The notebook `notebooks/{name}.ipynb`. It makes its own synthetic images.\n\n{rest}"

    return text


NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))

#: Generator of every table, by the name in the pages' markers.
TABLES: dict[str, Callable[[], str]] = {
    "run-settings": run_settings,
    "node-settings": node_settings,
    "configurations": configurations,
    "commands": commands,
    "dose-words": dose_word_tables,
    "dicom-attributes": dicom_attributes,
    "storage-classes": storage_classes,
    "transfer-syntaxes": transfer_syntaxes,
    "node-services": node_services,
    "changelog": root_document("CHANGELOG.md"),
    "contributing": root_document("CONTRIBUTING.md"),
    "security": root_document("SECURITY.md"),
    **{f"notebook-{name}": notebook(name) for name in NOTEBOOKS},
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the markers of a page (MkDocs event)."""
    return MARKER.sub(lambda marker: TABLES[marker[1]](), markdown)
