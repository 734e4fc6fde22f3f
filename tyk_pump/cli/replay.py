"""`tyk-pump replay`: records that the disk journal keeps, delivered once more."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tyk_pump.admin.control import NotRunning, ask
from tyk_pump.cli.common import (
    conf_option,
    json_option,
    print_json,
    read,
    state_folder,
    table,
)
from tyk_pump.cli.times import FORMS, moment
from tyk_pump.config.fields import nearest
from tyk_pump.config.load import Config
from tyk_pump.cursors import pump_named
from tyk_pump.errors import TykPumpError
from tyk_pump.log import masked, rfc3339
from tyk_pump.record import condition
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import FILE_NAME
from tyk_pump.state.replay import KeptReplay, ReplayStore
from tyk_pump.ulid import ulid

if TYPE_CHECKING:
    from tyk_pump.coordinator.selection import Found, Wanted

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0


def _moment(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> float | None:
    if value is None:
        return None
    try:
        return moment(value, time.time())
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _where(
    ctx: click.Context, param: click.Parameter, value: Sequence[str]
) -> list[condition.Condition]:
    try:
        return [condition.parse(text) for text in value]
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


@click.command(epilog=f"A TIME is {FORMS}. --from is included, --to is not.")
@conf_option
@json_option
@click.option(
    "--from", "begin", callback=_moment, metavar="TIME", help="The first moment."
)
@click.option(
    "--to",
    "end",
    callback=_moment,
    default="now",
    show_default=True,
    metavar="TIME",
    help="The moment behind the last.",
)
@click.option(
    "--pump",
    default="",
    metavar="NAME",
    help="What this pump was owed, to it again or to another one.",
)
@click.option(
    "--to-pump",
    default="",
    metavar="NAME",
    help="Deliver to this pump, which may be new, whoever was owed it.",
)
@click.option(
    "--where",
    "conditions",
    callback=_where,
    multiple=True,
    metavar="FIELD=VALUE",
    help="Only records with this in a field, by its JSON name; several must all fit.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be delivered, no more.")
@click.option(
    "--wait/--no-wait",
    default=None,
    help="Stay until all is delivered; on a terminal that is what happens.",
)
@click.option("--list", "listing", is_flag=True, help="Show the replays of late.")
@click.option(
    "--cancel", is_flag=True, help="End what waits, of all pumps or of --pump."
)
def replay(
    conf: str,
    as_json: bool,
    begin: float | None,
    end: float,
    pump: str,
    to_pump: str,
    conditions: list[condition.Condition],
    dry_run: bool,
    wait: bool | None,
    listing: bool,
    cancel: bool,
) -> None:
    """Deliver records once more that the disk journal keeps.

    Without a pump every one gets again what it was owed. What a pump has not
    settled yet comes by itself and is not repeated.
    """
    folder, config = state_folder(conf), read(conf)
    if listing or cancel:
        _look_after(folder, pump_named(pump) if pump else "", cancel, as_json)
        return
    if begin is None:
        raise click.UsageError("Missing option '--from' / '--list' / '--cancel'.")
    if begin >= end:
        raise click.UsageError(
            f"nothing lies between --from {rfc3339(begin)} and --to {rfc3339(end)}"
        )
    with _opened(folder, config) as file:
        wanted = _wanted(config, file, begin, end, pump, to_pump, conditions)
        running = _runs(folder, wanted)
        request = {
            "from": rfc3339(begin),
            "to": rfc3339(end),
            "pump": pump_named(pump) if pump else "",
            "where": [one.text for one in conditions],
        }
        found, streams = _select(
            file, config, wanted, request, as_json=as_json, dry_run=dry_run
        )
        if not as_json:
            _tell(found, file.replay_store, begin, dry_run=dry_run)
        if streams and running:
            running = _wake(folder)
        waited = bool(streams) and running and _waits(wait, as_json)
        if waited:
            _watch(folder, file.replay_store, streams, as_json=as_json)
        replays = [r for r in file.replay_store.replays() if r.stream in streams]
    if as_json:
        print_json(_whole(found, replays, running))
    elif waited:
        _tell_results(replays)
    elif streams:
        by = "the running pump delivers them" if running else "the next start delivers"
        click.echo(f"{by}{'' if running else ' them'}; see `tyk-pump replay --list`")


@contextlib.contextmanager
def _opened(folder: Path, config: Config) -> Iterator[StateFile]:
    """Yield the state file; a clear word where nothing is kept."""
    nothing = f"nothing is kept in {folder}"
    if config.root.journal.type != "disk":
        nothing += (
            f": journal.type is {config.root.journal.type}. With journal.type disk and"
            " journal.retention (seconds) what is claimed from then on can be replayed"
        )
    elif not config.root.journal.retention:
        nothing += ": journal.retention is 0"
    if not (folder / FILE_NAME).exists():
        raise click.ClickException(nothing)
    with contextlib.closing(StateFile(folder / FILE_NAME)) as file:
        if file.replay_store.kept_since() is None:
            raise click.ClickException(nothing)
        yield file


def _wanted(
    config: Config,
    file: StateFile,
    begin: float,
    end: float,
    pump: str,
    to_pump: str,
    conditions: Sequence[condition.Condition],
) -> Wanted:
    from tyk_pump.coordinator.selection import Wanted

    configured = [one.name for one in config.pumps]
    source, target = pump_named(pump), pump_named(to_pump)
    if target and target not in configured:
        raise click.ClickException(
            f"--to-pump: no pump {target} is configured{nearest(target, configured)}"
        )
    if source and source not in configured:
        if not target:
            raise click.ClickException(
                f"--pump: no pump {source} is configured{nearest(source, configured)}"
            )
        owed = {name for one in file.replay_store.frames() for name in one.pumps}
        if source not in owed:
            raise click.ClickException(
                f"--pump: nothing is kept that a pump {source} was owed"
                f"{nearest(source, sorted(owed))}"
            )
    if target:
        targets = {target: source}
    else:
        targets = {name: name for name in ([source] if source else configured)}
    if not targets:
        raise click.ClickException("no pump is configured")
    return Wanted(begin=begin, end=end, targets=targets, conditions=conditions)


def _runs(folder: Path, wanted: Wanted) -> bool:
    """Say whether a pump runs, and has these pumps."""
    try:
        known = ask(folder, "replay")["pumps"]
    except NotRunning:
        return False
    for name in wanted.targets:
        if name not in known:
            raise click.ClickException(
                f"the running pump does not know {name} yet: `tyk-pump reload` first"
            )
    return True


def _wake(folder: Path) -> bool:
    try:
        ask(folder, "replay")
    except NotRunning:
        return False
    return True


def _waits(wait: bool | None, as_json: bool) -> bool:
    if wait is not None:
        return wait
    return not as_json and sys.stderr.isatty() and sys.stdout.isatty()


def _select(
    file: StateFile,
    config: Config,
    wanted: Wanted,
    request: dict[str, Any],
    *,
    as_json: bool,
    dry_run: bool,
) -> tuple[Found, list[str]]:
    """Go through the journal; return what was found, and the replays made of it."""
    from tyk_pump.coordinator.selection import SKEW, select
    from tyk_pump.state.journal import FrameStore

    store, root = file.replay_store, config.root
    frames = store.frames(wanted.begin - SKEW)
    streams = {} if dry_run else {name: ulid() for name in wanted.targets}
    now = time.time()
    store.tidy(now)
    for name, stream in streams.items():
        store.begin(stream, name, request, now)
    try:
        with _bar(sum(f.size for f in frames), "looking", as_json) as advance:
            found = select(
                store,
                FrameStore(file),
                wanted,
                root,
                streams=streams,
                keep=None if dry_run else lambda one: store.append(one, time.time()),
                read=advance,
                frames=frames,
            )
        full = [streams[n] for n, one in found.pumps.items() if one.records and streams]
        store.complete(full, time.time())
    finally:
        # Of no effect on those that are complete.
        store.withdraw(list(streams.values()))
    return found, full


@contextlib.contextmanager
def _bar(length: int, label: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def _tell(found: Found, store: ReplayStore, begin: float, *, dry_run: bool) -> None:
    since = store.kept_since()
    if since is not None and begin < since:
        click.echo(f"note: what is kept was claimed since {rfc3339(since)}", err=True)
    for words in found.damaged:
        click.secho(f"passed over, damaged: {words}", fg="red", err=True)
    if found.damaged:
        click.secho(
            f"{found.damaged_records:,} records in {len(found.damaged)} damaged frames"
            " cannot be replayed",
            fg="red",
            err=True,
        )
    if found.unreadable:
        click.echo(
            f"note: {found.unreadable:,} are no records; see `tyk-pump dead-letters`",
            err=True,
        )
    if not any(one.records or one.on_their_way for one in found.pumps.values()):
        click.echo("nothing that is kept fits")
        return
    heads = ["PUMP", "WOULD GET" if dry_run else "GETS", "BYTES", "ON THEIR WAY ANYWAY"]
    rows = [
        [name, f"{one.records:,}", size(one.bytes), f"{one.on_their_way:,}"]
        for name, one in found.pumps.items()
    ]
    if not any(one.on_their_way for one in found.pumps.values()):
        heads, rows = heads[:3], [row[:3] for row in rows]
    click.echo(table(heads, rows, " rrr"))


def _watch(
    folder: Path, store: ReplayStore, streams: Sequence[str], *, as_json: bool
) -> None:
    """Follow replays until they have ended, or the pump has."""

    def mine() -> list[KeptReplay]:
        return [one for one in store.replays() if one.stream in streams]

    def done() -> int:
        return sum(one.position for one in mine())

    total, at, look_at, trouble = sum(one.end for one in mine()), 0, 0.0, [""]
    quiet = as_json or not sys.stderr.isatty()
    bar: Any = click.progressbar(
        length=total,
        label="replaying",
        file=sys.stderr,
        show_pos=True,
        item_show_func=lambda _: trouble[0],
        hidden=quiet,
    )
    try:
        with bar:
            while any(one.ended is None for one in mine()):
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + LOOK_SECONDS
                    trouble[0] = _trouble(folder, {one.pump for one in mine()})
                    bar.render_progress()
                now = done()
                bar.update(now - at)
                at = now
                time.sleep(POLL_SECONDS)
            bar.update(done() - at)
    except KeyboardInterrupt:
        click.echo(
            "the pump goes on with it; `tyk-pump replay --cancel` ends it", err=True
        )
    except NotRunning:
        click.echo("the pump has stopped; its next start goes on with it", err=True)


def _trouble(folder: Path, pumps: set[str]) -> str:
    """Return what keeps pumps from their work."""
    words = []
    try:
        now = ask(folder, "status", timeout=5.0)
    except NotRunning:
        raise
    except TykPumpError:
        return ""
    for pump in now["pumps"]:
        if pump["name"] in pumps and pump["state"] != "running":
            error = masked(pump.get("last_error", ""))
            words.append(f"{pump['name']} is {pump['state']}: {error[:60]}")
    return "; ".join(words)


def _tell_results(replays: Sequence[KeptReplay]) -> None:
    heads = ("PUMP", "DELIVERED", "FILTERED", "DEAD", "LOST", "WAITING")
    rows = [
        [one.pump, *(f"{n:,}" for n in _numbers(one)), f"{one.waiting:,}"]
        for one in replays
    ]
    click.echo(table(heads, rows, " rrrrr"))
    if any(one.dead for one in replays):
        click.echo("what was refused: `tyk-pump dead-letters list`", err=True)


def _numbers(one: KeptReplay) -> tuple[int, int, int, int]:
    return one.delivered, one.filtered, one.dead, one.lost


def _whole(
    found: Found, replays: Sequence[KeptReplay], running: bool
) -> dict[str, Any]:
    return {
        "pumps": found.pumps,
        "damaged": found.damaged,
        "damaged_records": found.damaged_records,
        "unreadable": found.unreadable,
        "running": running,
        "replays": [_shown(one) for one in replays],
    }


def _shown(one: KeptReplay) -> dict[str, Any]:
    return {
        "replay": one.stream,
        "pump": one.pump,
        "asked": rfc3339(one.at),
        "request": one.request,
        "state": _state(one),
        "records": one.end,
        "bytes": one.bytes,
        "delivered": one.delivered,
        "filtered": one.filtered,
        "dead": one.dead,
        "lost": one.lost,
        "cancelled": one.cancelled,
        "waiting": one.waiting,
    }


def _state(one: KeptReplay) -> str:
    if not one.complete:
        return "being made"
    if one.ended is None:
        return "waiting" if not one.position else "under way"
    return "cancelled" if one.cancelled else "done"


def _look_after(folder: Path, pump: str, cancel: bool, as_json: bool) -> None:
    """List replays, or end those that wait."""
    found: list[KeptReplay] = []
    left = 0
    if (folder / FILE_NAME).exists():
        with contextlib.closing(StateFile(folder / FILE_NAME)) as file:
            store = file.replay_store
            found = store.replays(pump)
            if cancel:
                found = [one for one in found if one.ended is None]
                left = store.cancel([one.stream for one in found], time.time())
                ids = {one.stream for one in found}
                found = [one for one in store.replays(pump) if one.stream in ids]
    if as_json:
        print_json([_shown(one) for one in found])
    elif cancel:
        click.echo(f"{left:,} records in {len(found)} replays are not delivered")
    elif not found:
        click.echo("no replay in the last week")
    else:
        heads = (
            *("ASKED", "PUMP", "STATE", "RECORDS", "DELIVERED", "FILTERED", "DEAD"),
            *("LOST", "WAITING", "WHAT"),
        )
        rows = [
            [
                rfc3339(one.at),
                one.pump,
                _state(one),
                f"{one.end:,}",
                *(f"{number:,}" for number in _numbers(one)),
                f"{one.waiting:,}",
                _request(one.request),
            ]
            for one in found
        ]
        click.echo(table(heads, rows, "   rrrrrr"))


def _request(request: dict[str, Any]) -> str:
    words = [f"{request['from']} to {request['to']}"]
    if request["pump"]:
        words.append(f"of {request['pump']}")
    return " ".join([*words, *request["where"]])


def size(count: int) -> str:
    """Return bytes as a person reads them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:,.1f} {unit}"
