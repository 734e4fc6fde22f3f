"""The command line: it parses and calls, and decides nothing.

tyk-pump COMMAND [OPTIONS]     our own commands
tyk-pump [FLAGS]               the reference's flags, so that what ran it runs this
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

import tyk_pump
from tyk_pump.cli import flags
from tyk_pump.errors import TykPumpError

COMMANDS = {
    "start": "tyk_pump.cli.daemon:start",
    "stop": "tyk_pump.cli.daemon:stop",
    "status": "tyk_pump.cli.status:status",
    "reload": "tyk_pump.cli.daemon:reload",
    "check": "tyk_pump.cli.check:check",
    "options": "tyk_pump.cli.options:options",
    "schema": "tyk_pump.cli.options:schema",
    "dead-letters": "tyk_pump.cli.letters:letters",
    "replay": "tyk_pump.cli.replay:replay",
    "claims": "tyk_pump.cli.claims:claims",
    "audit": "tyk_pump.cli.audit:audit",
    "demo": "tyk_pump.cli.demo:demo",
}
"""Command -> where it is; imported when it is called, so that each starts fast."""


class Commands(click.Group):
    """Finds the commands of the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.command(
    cls=Commands,
    no_args_is_help=False,
    epilog="Without a command the reference's flags are taken: " + flags.SUMMARY,
)
def commands() -> None:
    """Take analytics records out of Redis and write them to back ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        return _run(words)
    try:
        given = flags.parse(words)
    except flags.UsageError as exc:
        click.echo(f"tyk-pump: error: {exc}, try --help", err=True)
        return 1
    if given.help:
        return _run(["--help"])
    if given.version:
        click.echo(f"v{tyk_pump.__version__}", err=True)
        return 0
    from tyk_pump.cli.daemon import run

    # The reference knows one exit code for all that keeps it from running.
    return min(run(given.conf, debug=given.debug, demo=given.demo()), 1)


def _run(words: list[str]) -> int:
    try:
        commands.main(words, prog_name="tyk-pump", standalone_mode=False)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except TykPumpError as exc:
        click.echo(f"tyk-pump: {exc}", err=True)
        return 1
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    return 0
