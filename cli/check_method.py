"""``ldct-denoise check-method``."""

from __future__ import annotations

from pathlib import Path

import click

from . import terminal


@click.command(short_help="Put a method of your own through the trials that every method passes.")
@click.argument("method", metavar="FILE.py|NAME")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable.")
def command(method: str, changes: tuple[str, ...]) -> None:
    """Put a method through the trials that every method passes: shapes, seeds, training, what is saved.

    METHOD is a Python file (docs/tutorials/add-a-method.md) or a method's name. Give settings that make it small:
    --set channels=8. Exit status 1 if a trial fails.
    """
    from ldct_denoise import methods
    from ldct_denoise.config import assignment
    from ldct_denoise.training.check_method import check_method

    name = methods.register(Path(method)) if method.endswith(".py") else method
    settings = dict(assignment(change, "--set", "--set KEY=VALUE") for change in changes)
    info = methods.describe(name)
    click.echo(f"{name}: {info.title}; supervision {info.supervision}")
    trials = check_method(name, settings)
    for trial in trials:
        click.echo(f"{'FAILED' if trial.problem else 'passed'}  {trial.name}")
        if trial.problem:
            click.echo(f"        {terminal.plain(trial.problem)}")
    if any(trial.problem for trial in trials):
        raise click.exceptions.Exit(1)
