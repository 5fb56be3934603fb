"""``ldct-denoise models``."""

from __future__ import annotations

import json

import click

from . import completion, terminal


@click.command(short_help="List the methods and the shipped models; show a model's card.")
@click.argument("model", required=False, shell_complete=completion.models)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str | None, as_json: bool) -> None:
    """Show the card of MODEL, or list shipped models and methods with the supervision that each requires.

    MODEL is a shipped model, a model file or a run folder. Its card has ten lines: effect on images, training
    data, and how the model was made.
    """
    from ldct_denoise.models.catalogue import methods, model_card, models

    if model is not None:
        _print_card(model, model_card(model), as_json)
        return
    trained, known = models(), methods()
    if as_json:
        click.echo(
            json.dumps({"models": [vars(m) for m in trained], "methods": [vars(m) for m in known]}, indent=2)
        )
        return
    from rich.table import Table

    console = terminal.console()
    table = Table(title="Shipped models (apply --model NAME)", title_justify="left")
    for heading in ("name", "method", "size", "trained on", "validation"):
        table.add_column(heading, overflow="fold")
    for one in trained:
        table.add_row(one.name, one.method, f"{one.size_mb:.1f} MB", one.trained_on, one.validation)
    console.print(table)
    table = Table(
        title="Methods (train --config CONFIG; with supervision none: apply --model NAME)", title_justify="left"
    )
    for heading in ("name", "supervision", "title", "configs"):
        table.add_column(heading, overflow="fold")
    for method in known:
        table.add_row(method.name, method.supervision, method.title, ", ".join(method.configs))
    console.print(table)


def _print_card(model: str, rows: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dict(rows), indent=2, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table(title=f"Card of {model}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    terminal.console().print(table)
