"""``ldct-denoise serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completion, options, terminal

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ldct_denoise.node.rules import Rules


@click.command(short_help="Run a DICOM node that denoises the series it receives.")
@click.argument("rules", type=options.PATH, required=False)
@click.option(
    "--check",
    is_flag=True,
    help="Only check RULES: settings, models, certificates, spool, C-ECHO to destinations. "
    "Exit status 1 if it warns.",
)
@click.option("--init", is_flag=True, help="Write a commented template to RULES, then exit.")
@click.option(
    "--folder",
    nargs=2,
    type=options.PATH,
    metavar="IN OUT",
    help="Denoise the CT series of folder IN into folder OUT, then exit. Without RULES and --folder, the "
    "environment variables MERCURE_IN_DIR and MERCURE_OUT_DIR name the folders.",
)
@click.option(
    "--model",
    shell_complete=completion.models,
    help="With --folder: the model.  [default: that of IN/task.json, else lir-ct]",
)
@click.option(
    "--strength",
    type=float,
    help="With --folder: weight of the network's output: 0 returns the input, 1 the network alone.",
)
@click.option("--device", metavar="auto|cpu|cuda|cuda:N|mps", help="With --folder: where to compute.")
@options.assume_hu
@click.option("--verbose", "-v", is_flag=True, help="Log every series, not only warnings and errors.")
def command(
    rules: Path | None,
    check: bool,
    init: bool,
    folder: tuple[Path, Path] | None,
    model: str | None,
    strength: float | None,
    device: str | None,
    assume_hu: bool,
    verbose: bool,
) -> None:
    """Run a DICOM node: receive CT series, denoise them by rules, and send the derived series on.

    RULES is a YAML file (docs/reference/dicom-node.md). It states who may send, how each series is denoised, and
    where the result is sent. The node listens only on 127.0.0.1 unless RULES gives another address. SIGTERM or
    Ctrl-C stops it; unfinished work stays in its spool and continues at the next start. SIGHUP makes it read
    RULES again. `ldct-denoise node` lists what is waiting. Research use only.
    """
    from ldct_denoise.io.process_limits import let_waiting_threads_sleep

    let_waiting_threads_sleep()
    terminal.log_to_stderr(verbose)
    folder = folder or _mercure_folders() if rules is None else folder
    if (rules is None) == (folder is None):
        raise click.UsageError("give RULES for a node, or --folder IN OUT for one step")
    if folder:
        from ldct_denoise.node.folder import denoise_folder, step_settings

        _interrupt_on_sigterm()
        settings = step_settings(
            folder[0], model=model, strength=strength, device=device, assume_hu=assume_hu or None
        )
        for path in denoise_folder(*folder, settings):
            click.echo(path)
        return
    if model or strength is not None or device or assume_hu:
        raise click.UsageError(
            "--model, --strength, --device and --assume-hu belong to --folder; a node takes them from RULES"
        )
    assert rules is not None
    if init:
        from ldct_denoise.node.starting_rules import write_starting_rules

        write_starting_rules(rules)
        click.echo(f"{rules}: edit it, then run ldct-denoise serve --check {rules}")
        return
    _run_node(rules, check)


def _run_node(path: Path, check: bool) -> None:
    from ldct_denoise.node.rules import load_rules

    rules = load_rules(path)
    from ldct_denoise.node import serve

    if check:
        warnings = serve.check(rules, contact=True)
        click.echo(f"{path} is valid. Rules: {len(rules.rules)}; destinations: {len(rules.destinations)}.")
        for warning in warnings:
            click.echo(f"warning: {warning}")
        if warnings:
            raise click.exceptions.Exit(1)
        return
    serve.Node(rules).run(_stop_event(), _reload_on_sighup(path))


def _reload_on_sighup(path: Path) -> Callable[[], Rules | None]:
    """A function that returns the rules anew after SIGHUP, else None."""
    import logging
    import signal
    import threading

    from ldct_denoise.errors import ConfigError
    from ldct_denoise.node.rules import load_rules

    asked = threading.Event()
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: asked.set())

    def reload() -> Rules | None:
        if not asked.is_set():
            return None
        asked.clear()
        try:
            return load_rules(path)
        except ConfigError as error:
            logging.getLogger("ldct_denoise.node").error("the new rules are not used: %s", error)
            return None

    return reload


def _stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    import signal
    import threading

    event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: event.set())
    return event


def _interrupt_on_sigterm() -> None:
    """Treat SIGTERM as Ctrl-C, so that a router that ends the step finds no partial output."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _mercure_folders() -> tuple[Path, Path] | None:
    source, output = os.environ.get("MERCURE_IN_DIR"), os.environ.get("MERCURE_OUT_DIR")
    return (Path(source), Path(output)) if source and output else None
