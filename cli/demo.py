"""``ldct-denoise demo``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options, terminal


@click.command(short_help="Train, denoise and evaluate on synthetic patients, without download.")
@click.option(
    "--output",
    "-o",
    type=options.PATH,
    default=Path("demo-output"),
    show_default=True,
    help="Output folder.",
)
@options.open_report
@options.overwrite
def command(output: Path, open_report: bool, overwrite: bool) -> None:
    """Make synthetic patients, train briefly, denoise a series, evaluate it, and draw a picture.

    Takes some minutes on two cores.
    """
    with terminal.TrainingDisplay().shown() as display:
        from ldct_denoise.demo import run_demo

        def say(line: str) -> None:
            terminal.say(line)
            display.bar.stage(line.partition(",")[0])

        demo = run_demo(output, overwrite=overwrite, say=say, progress=display)
    for line in demo.evaluation.lines():
        click.echo(line)
    click.echo(f"picture: {demo.picture}")
    click.echo(f"report:  {demo.report}")
    click.echo(demo.verdict)
    if open_report:
        options.open_in_browser(demo.report)
