"""``ldct-denoise models``."""

from __future__ import annotations

import json

import click

from . import options


@click.command(short_help="The methods and trained models there are.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(as_json: bool) -> None:
    """List trained models with how good they are, and methods with the supervision each needs."""
    from ldct_denoise.models.catalogue import methods, models

    trained, known = models(), methods()
    if as_json:
        click.echo(
            json.dumps({"models": [vars(m) for m in trained], "methods": [vars(m) for m in known]}, indent=2)
        )
        return
    from rich.table import Table

    console = options.console()
    table = Table(title="Trained models that ship (apply --model NAME)", title_justify="left")
    for heading in ("name", "method", "size", "trained on", "validation"):
        table.add_column(heading, overflow="fold")
    for model in trained:
        table.add_row(model.name, model.method, f"{model.size_mb:.1f} MB", model.trained_on, model.validation)
    console.print(table)
    table = Table(
        title="Methods (train --config RECIPE, or apply --model NAME where none is needed)", title_justify="left"
    )
    for heading in ("name", "supervision", "what it is", "recipes"):
        table.add_column(heading, overflow="fold")
    for method in known:
        table.add_row(method.name, method.supervision, method.title, ", ".join(method.recipes))
    console.print(table)
