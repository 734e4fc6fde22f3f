"""`tyk-pump check`: whether this configuration would run, asked before it does."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, NoReturn

import click
import msgspec

from tyk_pump import log as lines
from tyk_pump import pumps
from tyk_pump.cli.common import conf_option, json_option, print_json, read
from tyk_pump.config.load import Config, hide_secrets
from tyk_pump.config.root import PumpConfig
from tyk_pump.cursors import UPTIME
from tyk_pump.errors import TykPumpError
from tyk_pump.state.folder import holder, lasts, locate
from tyk_pump.state.rescue import reports

if TYPE_CHECKING:
    from tyk_pump.source.redis import Link

Kind = Literal["ok", "remark", "warning", "fault"]

_GATEWAY = (
    "while no instance runs, the gateway's own time to live counts for what is not yet"
    " claimed (60 s unless set): keep pauses between two runs short"
)
_THREAD = "check of "
_MARKS: dict[Kind, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "remark": ("note", "cyan"),
    "warning": ("warn", "yellow"),
    "fault": ("FAIL", "red"),
}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    kind: Kind
    about: str
    text: str


@click.command()
@conf_option
@json_option
@click.option("--offline", is_flag=True, help="Reach neither Redis nor back ends.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds that a back end has for its answer; all are asked side by side.",
)
def check(conf: str, as_json: bool, offline: bool, timeout: float) -> None:
    """Check the configuration, Redis, the state folder and every back end."""
    lines.setup("text", "error")
    config = read(conf, remote=not offline)
    hide_secrets(config)
    found: list[Finding] = []
    for finding in findings(config, conf, offline, timeout):
        finding = msgspec.structs.replace(finding, text=lines.masked(finding.text))
        found.append(finding)
        if not as_json:
            _print(finding)
    good = not any(one.kind in ("warning", "fault") for one in found)
    if as_json:
        print_json({"ok": good, "findings": found})
    _leave(0 if good else 1)


def findings(
    config: Config, conf: str, offline: bool, patience: float
) -> Iterator[Finding]:
    """Yield what is found, one thing after the other."""
    yield from _configuration(config)
    yield from _stores(config)
    yield from _state(config, conf)
    if not offline:
        yield from _redis(config)
        yield from _statsd(config)
    yield Finding("remark", "redis", _GATEWAY)
    yield from _pumps(config, conf, offline, patience)


def _configuration(config: Config) -> Iterator[Finding]:
    for fault in config.every_fault():
        yield Finding("fault", "configuration", fault)
    for warning in config.warnings:
        yield Finding("warning", "configuration", warning)
    if not config.every_fault() and not config.warnings:
        number = f"{len(config.pumps)} pump{'s' * (len(config.pumps) != 1)}"
        yield Finding("ok", "configuration", f"{config.path or 'variables'}: {number}")
    if config.uptime_left:
        yield Finding("remark", "configuration", config.uptime_left)


def _stores(config: Config) -> Iterator[Finding]:
    for store in config.stores:
        about = f"kv.stores.{store.name}"
        if store.left:
            text = f"{store.type}: not asked, {_counted(store.left)} left open"
            yield Finding("remark", about, text)
        elif store.texts:
            text = f"{store.type}: {_counted(store.texts)} looked up"
            yield Finding("ok", about, text)
        else:
            yield Finding("remark", about, f"{store.type}: has given nothing")


def _counted(number: int) -> str:
    return f"{number} reference{'s' * (number != 1)}"


def _state(config: Config, conf: str) -> Iterator[Finding]:
    place = locate(config.root.state_dir, conf, os.environ)
    above = place
    while not above.exists():
        above = above.parent
    if not os.access(above, os.W_OK | os.X_OK):
        yield Finding("fault", "state folder", f"{place}: {above} cannot be written")
        return
    pid = holder(place)
    held = f", held by the running pump (pid {pid})" if pid else ""
    yield Finding("ok", "state folder", f"{place}{held}")
    for report in reports(place):
        yield Finding("warning", "state folder", report.text)
    if reason := lasts(place):
        # For a trial that is fine, so it does not fail the check.
        text = f"{reason}: dead letters would be gone; set state_dir to keep them"
        yield Finding("remark", "state folder", text)


def _redis(config: Config) -> Iterator[Finding]:
    from tyk_pump.source.lists import acl_commands, acl_patterns, prefix_fault
    from tyk_pump.source.redis import Link

    options = config.root.analytics_storage_config
    if fault := prefix_fault(options.prefix(), options.enable_cluster):
        yield Finding("fault", "redis", fault)
    link = Link(options)
    try:
        answer = _reached("redis", link.ping)
        yield answer
        if answer.kind == "ok":
            yield from _eviction(link)
    finally:
        link.close()
    uptime = any(pump.name == UPTIME for pump in config.pumps)
    rule = " ".join(acl_patterns(options.prefix(), uptime=uptime))
    yield Finding("remark", "redis", f"enough for an ACL user: {rule} {acl_commands()}")


def _statsd(config: Config) -> Iterator[Finding]:
    from tyk_pump.coordinator import instrumentation

    wanted = config.instrumentation and config.root.statsd_connection_string
    if wanted and not config.faults:
        yield _reached("statsd", functools.partial(instrumentation.reach, config))


def _eviction(link: Link) -> Iterator[Finding]:
    try:
        nodes = link.infos("memory").values()
    except TykPumpError:
        return  # an ACL may keep INFO from us; nothing is known then
    policies = {node.get("maxmemory_policy", "") for node in nodes}
    for policy in sorted(one for one in policies if one.startswith("allkeys")):
        text = f"maxmemory-policy {policy} may evict claimed records; use noeviction"
        yield Finding("warning", "redis", text)


def _pumps(
    config: Config, conf: str, offline: bool, patience: float
) -> Iterator[Finding]:
    """Yield a finding for each pump, in their order; they are reached side by side."""
    pid = holder(locate(config.root.state_dir, conf, os.environ))
    # What has a fault was named with the configuration.
    wanted = [pump for pump in config.pumps if not pump.fault]
    if offline:
        for pump in wanted:
            yield Finding("ok", f"pumps.{pump.name}", f"{pump.type}, not reached")
        return
    found: dict[str, Finding | Future[Finding]] = {}
    looks: dict[str, Callable[[], str]] = {}
    for pump in wanted:
        about = f"pumps.{pump.name}"
        if pid and pump.type in pumps.SERVING:
            # Its port is taken, and by whom it should.
            text = f"{pump.type}, left to the running pump (pid {pid})"
            found[about] = Finding("ok", about, text)
            continue
        look = functools.partial(_probe, pump)
        if pump.type in pumps.SERVING:
            # Alone, or another pump could meet us at this port.
            found[about] = _reached(about, look)
        else:
            looks[about] = look
    found |= {about: _begin(about, look) for about, look in looks.items()}
    end = time.monotonic() + patience
    for pump in wanted:
        about = f"pumps.{pump.name}"
        one = found[about]
        if isinstance(one, Future):
            try:
                one = one.result(max(0.0, end - time.monotonic()))
            except TimeoutError:
                text = f"{pump.type}: no answer within {patience:g} s (--timeout)"
                one = Finding("fault", about, text)
        yield one


def _begin(about: str, look: Callable[[], str]) -> Future[Finding]:
    """Look in a thread of its own."""
    promised: Future[Finding] = Future()

    def run() -> None:
        promised.set_result(_reached(about, look))

    threading.Thread(target=run, name=f"{_THREAD}{about}", daemon=True).start()
    return promised


def _leave(code: int) -> NoReturn:
    """End the process, even where a driver waits for what does not come."""
    if any(one.name.startswith(_THREAD) for one in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _probe(pump: PumpConfig) -> str:
    made = pumps.load(pump.type)(pump.options)
    made.open()
    try:
        return f"{pump.type}: {made.probe()}"
    finally:
        made.close()


def _reached(about: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", about, look())
    except TykPumpError as exc:
        return Finding("fault", about, str(exc))
    except Exception as exc:
        # A driver's fault in one pump must not hide what the others say.
        return Finding("fault", about, f"{type(exc).__name__}: {exc}")


def _print(finding: Finding) -> None:
    mark, colour = _MARKS[finding.kind]
    label = click.style(f"{mark:<4}", fg=colour, bold=True)
    click.echo(f"{label}  {finding.about}: {finding.text}")
