"""``ldct-denoise models``."""

from __future__ import annotations

import json

import click

from . import options


@click.command(short_help="List the methods and the shipped models.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List shipped models with their validation results, and methods with the supervision that each requires."""
    from ldct_denoise.models.catalogue import methods, models

    trained, known = models(), methods()
    if as_json:
        click.echo(
            json.dumps({"models": [vars(m) for m in trained], "methods": [vars(m) for m in known]}, indent=2)
        )
        return
    from rich.table import Table

    console = options.console()
    table = Table(title="Shipped models (apply --model NAME)", title_justify="left")
    for heading in ("name", "method", "size", "trained on", "validation"):
        table.add_column(heading, overflow="fold")
    for model in trained:
        table.add_row(model.name, model.method, f"{model.size_mb:.1f} MB", model.trained_on, model.validation)
    console.print(table)
    table = Table(
        title="Methods (train --config CONFIG; with supervision none: apply --model NAME)", title_justify="left"
    )
    for heading in ("name", "supervision", "title", "configs"):
        table.add_column(heading, overflow="fold")
    for method in known:
        table.add_row(method.name, method.supervision, method.title, ", ".join(method.configs))
    console.print(table)
