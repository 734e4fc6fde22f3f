"""`tyk-pump audit`: whether every claimed record is accounted for."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tyk_pump.admin.control import NotRunning, ask
from tyk_pump.cli.common import (
    conf_option,
    json_option,
    print_json,
    read,
    state_folder,
    table,
)
from tyk_pump.cursors import pump_named
from tyk_pump.errors import ConfigError
from tyk_pump.log import rfc3339
from tyk_pump.state.folder import FILE_NAME, last_name

if TYPE_CHECKING:
    from tyk_pump.coordinator.audit import Audit, Line, View
    from tyk_pump.source.redis import Link
    from tyk_pump.state.file import StateFile

COLUMNS = (
    ("CLAIMED", "claimed"),
    ("DELIVERED", "delivered"),
    ("FILTERED", "filtered"),
    ("DEAD", "dead"),
    ("PENDING", "pending"),
    ("LOST", "lost"),
    ("UNKNOWN", "unknown"),
    ("FORGOTTEN", "forgotten"),
    ("HANDED OVER", "handed_over"),
    ("ADOPTED", "adopted"),
    ("DIFFERENCE", "difference"),
)


@click.command()
@conf_option
@json_option
@click.option("--pump", default="", metavar="NAME", help="Only this pump.")
@click.option(
    "--since",
    type=float,
    default=0.0,
    metavar="HOURS",
    help="Only what was claimed in the last hours.",
)
@click.option("--hours", is_flag=True, help="A line for each hour.")
def audit(conf: str, as_json: bool, pump: str, since: float, hours: bool) -> None:
    """Compare what was claimed with what became of it; exit 1 for a difference."""
    from tyk_pump.coordinator.audit import Audit

    begin = time.time() - since * 3600 if since else 0.0
    name = pump_named(pump)
    folder = state_folder(conf)
    try:
        answer = ask(folder, "audit", {"pump": name, "since": begin})
        found = msgspec.convert(answer, Audit)
    except NotRunning:
        found = _from_file(conf, folder, name, begin)
    if as_json:
        print_json(found)
    else:
        _print(found, hours)
    if not found.balanced:
        raise SystemExit(1)


def _from_file(conf: str, folder: Path, pump: str, since: float) -> Audit:
    """Do the audit of an instance that does not run."""
    from tyk_pump.coordinator.audit import Audit
    from tyk_pump.coordinator.audit import audit as compare
    from tyk_pump.source.redis import Link
    from tyk_pump.state.file import StateFile

    path = folder / FILE_NAME
    if not path.exists():
        return Audit(balanced=True, pumps=[], hours=[], letters=[])
    config = read(conf)
    if config.faults:
        raise ConfigError(config.faults)
    options = config.root.analytics_storage_config
    with (
        contextlib.closing(StateFile(path)) as file,
        contextlib.closing(Link(options)) as link,
    ):
        views = read_views(link, options.prefix(), file, last_name(folder))
        return compare(file.ledger, views, pump=pump, since=since)


def read_views(link: Link, prefix: str, file: StateFile, name: str) -> dict[str, View]:
    """Return what Redis and the disk have of the streams that are in the books."""
    from tyk_pump.coordinator.audit import View
    from tyk_pump.coordinator.books import Fate
    from tyk_pump.source.claims import Keys, Progress, finished, unpack
    from tyk_pump.source.upkeep import list_streams, read_stream
    from tyk_pump.state.journal import FrameStore

    parts = {part.stream: part for part in FrameStore(file).parts()}
    streams = list_streams(link, prefix)
    for stream, fields in file.pending().items():
        booked = read_stream(f"{name}#", fields)  # Redis had no memory for these
        known = streams.setdefault(stream, booked)
        known.claims |= booked.claims
        known.progress |= booked.progress
    sought = (file.ledger.open_streams() | set(parts)) - set(streams)
    ends = finished(link, Keys(prefix), sorted(sought))
    views = {}
    for stream, who in ends.items():
        fate = Fate.FINISHED if who == name else Fate.ELSEWHERE
        views[stream] = View(fate=fate if who else Fate.VANISHED)
    for stream, line in streams.items():
        owner = line.owner.partition("#")[0]
        if owner not in ("", name):
            views[stream] = View(fate=Fate.ELSEWHERE)
            continue
        views[stream] = View(
            progress=line.progress,
            claims=line.claims,
            shared=bool(line.holders - {name}) or not (line.maker or line.owner),
            ours=bool(line.owner) or line.maker == name or file.ledger.is_own(stream),
        )
    for stream, part in parts.items():
        view = views[stream]
        view.kept, view.gaps = part.kept, part.gaps
        view.part = {
            cursor: unpack(value, Progress) for cursor, value in part.cursors.items()
        }
        # As the stream is loaded: the disk knows what is before that.
        for cursor, progress in view.progress.items():
            here = view.part.get(cursor)
            known_ = here.position if here is not None else 0
            progress.go_behind(max(part.kept, known_))
    return views


def _print(found: Audit, hours: bool) -> None:
    lines = found.hours if hours else found.pumps
    if not lines:
        click.echo("nothing is booked yet")
    else:
        # A column of zeros says nothing, but for those that are always asked for.
        shown = [
            column
            for number, column in enumerate(COLUMNS)
            if number < 5
            or column[1] == "difference"
            or any(getattr(line, column[1]) for line in lines)
        ]
        heads = ["PUMP", *(["HOUR"] if hours else []), *(head for head, _ in shown)]
        rows = [
            [
                line.pump,
                *([rfc3339(line.hour or 0)] if hours else []),
                *(_cell(line, field) for _, field in shown),
            ]
            for line in lines
        ]
        right = " " * (2 if hours else 1) + "r" * len(shown)
        click.echo(table(heads, rows, right))
    for letters in found.letters:
        text = (
            f"{letters.pump}: {letters.stored:,} dead letters stored,"
            f" {letters.replayed:,} replayed, {letters.dropped:,} dropped,"
            f" {letters.kept:,} kept"
        )
        if letters.difference:
            text += click.style(f", difference {letters.difference:,}", fg="red")
        click.echo(text)
    for replays in found.replays:
        text = (
            f"{replays.pump}: {replays.asked:,} kept records replayed,"
            f" {replays.delivered:,} delivered, {replays.filtered:,} filtered,"
            f" {replays.dead:,} dead, {replays.pending:,} pending"
        )
        text += f", {replays.cancelled:,} cancelled" if replays.cancelled else ""
        text += f", {replays.lost:,} lost" if replays.lost else ""
        if replays.difference:
            text += click.style(f", difference {replays.difference:,}", fg="red")
        click.echo(text)
    if found.balanced:
        click.secho("balanced", fg="green")
    else:
        click.secho("it does not balance", fg="red")


def _cell(line: Line, field: str) -> str:
    number: int = getattr(line, field)
    text = f"{number:,}"
    alarm = field in ("difference", "lost", "unknown") and number
    return click.style(text, fg="red") if alarm else text
