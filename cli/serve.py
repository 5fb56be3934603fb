"""``ldct-denoise serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    import threading


@click.command(short_help="A DICOM node: receives series, denoises, sends on; or the step of a router.")
@click.argument("rules", type=options.EXISTING, required=False)
@click.option("--check", is_flag=True, help="Only try the RULES: settings, models, certificates.")
@click.option("--retry", is_flag=True, help="Try the dead letters again; also beside a running node.")
@click.option(
    "--folder",
    nargs=2,
    type=options.PATH,
    metavar="IN OUT",
    help="Denoise the CT series of one folder into another and end. Without RULES and --folder, "
    "MERCURE_IN_DIR and MERCURE_OUT_DIR are meant, where they are set.",
)
@click.option("--model", help="With --folder: instead of IN/task.json's or the model that ships.")
@click.option("--strength", type=float, help="With --folder: 0 gives the input back, 1 the model's output.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="With --folder: where to compute.")
@click.option("--verbose", "-v", is_flag=True, help="Log every series, not only what goes wrong.")
def command(
    rules: Path | None,
    check: bool,
    retry: bool,
    folder: tuple[Path, Path] | None,
    model: str | None,
    strength: float | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Run a DICOM node as RULES says: who may send, which series are denoised how, where they go.

    RULES is a YAML file (docs/serve.md). The node listens on loopback unless RULES names another address. It ends
    on SIGTERM or Ctrl-C; what is not done lies in its spool and is done after the next start. Research use only.
    """
    _log_to_stderr(verbose)
    folder = folder or _folders_of_mercure() if rules is None else folder
    if (rules is None) == (folder is None):
        raise click.UsageError("give RULES for a node, or --folder IN OUT for one step")
    if folder:
        from ldct_denoise.node.folder import denoise_folder, step_settings

        _stop_as_by_ctrl_c()
        settings = step_settings(folder[0], model=model, strength=strength, device=device)
        for path in denoise_folder(*folder, settings):
            click.echo(path)
        return
    if model or strength is not None or device:
        raise click.UsageError("--model, --strength and --device belong to --folder; a node takes them from RULES")
    assert rules is not None
    _run_node(rules, check, retry)


def _run_node(path: Path, check: bool, retry: bool) -> None:
    from ldct_denoise.node.rules import load_rules

    rules = load_rules(path)
    if retry:
        from ldct_denoise.node.spool import requeue

        click.echo(f"{requeue(rules.spool)} batches are tried again")
        return
    from ldct_denoise.node import serve

    if check:
        serve.check(rules)
        click.echo(
            f"{path}: {len(rules.rules)} rules, {len(rules.destinations)} destinations; all of it can be used"
        )
        return
    serve.Node(rules).run(_told_to_stop())


def _told_to_stop() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    import signal
    import threading

    event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: event.set())
    return event


def _stop_as_by_ctrl_c() -> None:
    """A router that ends the step by SIGTERM finds nothing half done in its output."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _folders_of_mercure() -> tuple[Path, Path] | None:
    given, wanted = os.environ.get("MERCURE_IN_DIR"), os.environ.get("MERCURE_OUT_DIR")
    return (Path(given), Path(wanted)) if given and wanted else None


def _log_to_stderr(verbose: bool) -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ldct_denoise").setLevel(logging.INFO if verbose else logging.WARNING)
