"""Words that the shell completes: models, recipes, settings. Answers without importing torch."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def _items(words: Iterable[str], incomplete: str, *, files: bool = False) -> list[CompletionItem]:
    found = [CompletionItem(word) for word in sorted(words) if word.startswith(incomplete)]
    return found or ([CompletionItem(incomplete, type="file")] if files else [])


def models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped models and methods that need no training; otherwise files."""
    from ldct_denoise import methods
    from ldct_denoise.models.catalogue import ALIASES, shipped_models

    untrained = [name for name in methods.names() if methods.describe(name).supervision == "none"]
    return _items([*shipped_models(), *ALIASES, *untrained], incomplete, files=True)


def recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Recipes and methods; otherwise files."""
    from ldct_denoise import methods
    from ldct_denoise.config import recipes as shipped

    return _items({*shipped(), *methods.names()}, incomplete, files=True)


def settings(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of ``--set`` (of all methods), with the sign behind them."""
    from pydantic import BaseModel

    from ldct_denoise.config import Config

    keys = []
    for section, field in Config.model_fields.items():
        inside = field.annotation
        if isinstance(inside, type) and issubclass(inside, BaseModel):
            keys += [f"{section}.{key}=" for key in inside.model_fields]
    return _items(keys, incomplete)
