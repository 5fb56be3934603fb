"""``ldct-denoise check-method``."""

from __future__ import annotations

from pathlib import Path

import click

from . import terminal


@click.command(short_help="Check that a method of your own meets the interface.")
@click.argument("method", metavar="FILE.py|NAME")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable.")
def command(method: str, changes: tuple[str, ...]) -> None:
    """Check that a method meets the interface: shapes, seeds, training, saving.

    Give a Python file (docs/tutorials/add-a-method.md) or the name of a method. Make a large network small, so
    that the check is fast: --set channels=8. The exit status is 1 if a check fails.
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
