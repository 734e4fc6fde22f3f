"""Commands that start, stop and reload the pump."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

import tyk_pump
from tyk_pump import log as lines
from tyk_pump.admin.control import NotRunning, ask
from tyk_pump.cli.common import (
    conf_option,
    json_option,
    named,
    print_json,
    state_folder,
)
from tyk_pump.config.load import Config, hide_secrets, load
from tyk_pump.coordinator.demo_options import DemoOptions
from tyk_pump.errors import ConfigError, TykPumpError
from tyk_pump.state.folder import holder

log = logging.getLogger(__name__)

REFUSED = 2
"""Exit code when the configuration is refused: starting again cannot help."""
LOG_NAME = "tyk-pump.log"
_DETACH_SECONDS = 60.0


def run(
    conf: str,
    *,
    debug: bool = False,
    strict: bool = False,
    demo: DemoOptions | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run the pump in this process; return the exit code."""
    environment = dict(os.environ if environ is None else environ)
    if debug:
        environment["TYK_LOGLEVEL"] = "debug"
    config = load(conf, environment)
    hide_secrets(config)
    level = lines.chosen_level(config.root, environment)
    lines.setup(lines.chosen_format(config.root, environment), level)
    lines.banner(tyk_pump.__version__)
    if not _acceptable(config, strict):
        if config.passing and not strict:
            # Another start may find the store of secrets there.
            log.critical("a store of secrets does not answer")
            return 1
        log.critical("the configuration is refused")
        return REFUSED
    try:
        from tyk_pump.coordinator import loop

        options = _demo(config, demo)
        return loop.run(config, conf_path=conf, environ=environment, demo=options)
    except ConfigError as exc:
        for fault in exc.faults:
            log.critical(fault)
        return REFUSED
    except TykPumpError as exc:
        log.critical(str(exc))
        return 1
    except Exception:
        # The outermost loop of the parent process.
        log.critical("the pump ends by a fault of its own", exc_info=True)
        return 1


def _acceptable(config: Config, strict: bool) -> bool:
    for warning in config.warnings:
        log.warning(warning)
    for fault in config.every_fault():
        log.error(fault)
    return not config.faults and not (
        strict and (config.warnings or config.every_fault())
    )


def _demo(config: Config, demo: DemoOptions | None) -> DemoOptions | None:
    """Return what demo mode needs; the environment's organisation wins."""
    if config.demo_org:
        return msgspec.structs.replace(demo or DemoOptions(org=""), org=config.demo_org)
    return demo if demo is not None and demo.org else None


@click.command()
@conf_option
@click.option("--detach", is_flag=True, help="Return once it runs; log to a file.")
@click.option("--strict", is_flag=True, help="Refuse what is otherwise a warning.")
@click.option("--debug", is_flag=True, help="Log everything.")
def start(conf: str, detach: bool, strict: bool, debug: bool) -> None:
    """Run the pump until SIGTERM or SIGINT."""
    if detach:
        _detach(conf, strict, debug)
        return
    sys.exit(run(conf, debug=debug, strict=strict))


def _detach(conf: str, strict: bool, debug: bool) -> None:
    folder = state_folder(conf)
    if pid := holder(folder):
        raise click.ClickException(f"it runs already, pid {pid}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tyk_pump", "start", "--conf", conf]
    command += ["--strict"] * strict + ["--debug"] * debug
    path = folder / LOG_NAME
    with path.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            # Records of a stdout pump that were sent somewhere still go there.
            stdout=subprocess.DEVNULL if sys.stdout.isatty() else None,
            stderr=file,
            start_new_session=True,
        )
    _wait_until_up(process, folder, path, begin)
    click.echo(f"tyk-pump runs, pid {process.pid}, log {path}", err=True)


def _wait_until_up(
    process: subprocess.Popen[bytes], folder: Path, path: Path, begin: int
) -> None:
    until = time.monotonic() + _DETACH_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            with path.open("rb") as file:
                file.seek(begin)
                click.echo(file.read().decode(errors="replace"), err=True, nl=False)
            sys.exit(process.returncode or 1)
        try:
            ask(folder, "status")
        except NotRunning:
            time.sleep(0.05)
        else:
            return
    raise click.ClickException(f"it does not answer yet; see {path}")


@click.command()
@conf_option
@click.option(
    "--timeout",
    type=float,
    default=0.0,
    help="Seconds to wait for its end; 0 means shutdown_timeout and a little more.",
)
def stop(conf: str, timeout: float) -> None:
    """Ask the running pump to finish what is in hand and to leave; wait for that."""
    folder = state_folder(conf)
    pid = holder(folder)
    if not pid:
        click.echo("no pump runs", err=True)
        return
    try:
        ask(folder, "stop")
    except TykPumpError:
        # It may be too busy to listen, or too early: a signal is never missed.
        os.kill(pid, signal.SIGTERM)
    seconds = timeout or named(conf, "shutdown_timeout").shutdown_timeout + 5
    until = time.monotonic() + seconds
    while holder(folder) == pid:
        if time.monotonic() > until:
            raise click.ClickException(f"pid {pid} still runs after {seconds:g} s")
        time.sleep(0.05)
    click.echo("stopped", err=True)


@click.command()
@conf_option
@json_option
def reload(conf: str, as_json: bool) -> None:
    """Let the running pump read its configuration again."""
    answer = ask(state_folder(conf), "reload")
    if as_json:
        print_json(answer)
    else:
        for kind, colour in (("faults", "red"), ("warnings", "yellow")):
            for text in answer[kind]:
                click.secho(text, fg=colour)
        if not answer["faults"]:
            click.echo("changed: " + (", ".join(answer["changed"]) or "no pump"))
    if answer["faults"]:
        click.echo("the old configuration stays in force", err=True)
        sys.exit(1)
