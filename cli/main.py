"""``ldct-denoise``: finds its commands by file and turns our errors into one line and an exit status."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

import click

from ldct_denoise import __version__
from ldct_denoise.errors import LdctDenoiseError, PartialError, did_you_mean

from .terminal import plain

NOT_COMMANDS = {"main", "__main__", "completion", "options", "terminal"}
#: Extra of pyproject.toml that installs an optional package.
EXTRAS = {
    "dicomanonymizer": "deid",
    "highdicom": "seg",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "pynetdicom": "node",
}


class Commands(click.Group):
    """A group whose commands are the files of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands in the order of a typical workflow: file names, with hyphens for underscores."""
        files = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])} - NOT_COMMANDS
        names = {name.replace("_", "-") for name in files}
        order = [
            "demo", "inspect", "view", "train", "apply", "evaluate", "compare", "image-quality",
            "simulate", "phantom", "serve", "node", "models",
        ]  # fmt: skip
        return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of a misspelt one, name the closest."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"no command is called {name!r}{did_you_mean(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command's file."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f".{cmd_name.replace('-', '_')}", __package__)
        command: click.Command = module.command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ldct-denoise")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Denoise low-dose CT series, train denoisers without image pairs, and measure the results.

    Research use only; not a medical device. `ldct-denoise COMMAND --help` lists the options of a command.
    The documentation begins with docs/index.md in the source.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 part was done, 2 nothing was done."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        # Commands return None; click returns the status of a command that raises click.exceptions.Exit.
        status = cli.main(args=_debug_first(arguments), prog_name="ldct-denoise", standalone_mode=False)
        if status:
            sys.exit(status)
    except click.Abort:
        click.echo(f"stopped; {_to_go_on(arguments)}", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
        else:
            click.echo(f"error: {plain(error.format_message())}", err=True)
        sys.exit(2)
    except LdctDenoiseError as error:
        for path in error.written if isinstance(error, PartialError) else ():
            click.echo(path)
        if debug:
            raise
        click.echo(f"error: {plain(str(error))}", err=True)
        for failure in getattr(error, "failures", ()):
            click.echo(f"  not done: {plain(failure)}", err=True)
        sys.exit(1 if isinstance(error, PartialError) else 2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package not in EXTRAS:
            raise
        remedy = f"pip install 'ldct-denoise[{EXTRAS[package]}]'"
        click.echo(f"error: {package} is not installed; {remedy}", err=True)
        sys.exit(2)
    except (OSError, MemoryError) as error:
        if debug:
            raise
        click.echo(f"error: {plain(str(error)) or type(error).__name__}", err=True)
        sys.exit(2)


def _to_go_on(arguments: list[str] | None) -> str:
    """What to do after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    if next((argument for argument in given if not argument.startswith("-")), "") == "train":
        return "to continue, run the same command with --resume and without --overwrite"
    return "to continue, run the same command again"


def _debug_first(arguments: list[str] | None) -> list[str]:
    """``--debug`` is understood anywhere on the line."""
    given: list[Any] = list(sys.argv[1:] if arguments is None else arguments)
    rest = [argument for argument in given if argument != "--debug"]
    return ["--debug", *rest] if len(rest) < len(given) else rest


if __name__ == "__main__":
    main()
