"""`tyk-pump dead-letters`: records that were refused for good."""

from __future__ import annotations

import base64
import contextlib
import sys
import time
from collections.abc import Iterator

import click
import msgspec

from tyk_pump.admin.control import NotRunning, ask
from tyk_pump.cli.common import (
    conf_option,
    json_option,
    print_json,
    state_folder,
    table,
)
from tyk_pump.cursors import pump_named
from tyk_pump.errors import CodecError
from tyk_pump.log import rfc3339
from tyk_pump.record import analytics, codec, gotime, uptime
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.state.file import Letter, StateFile
from tyk_pump.state.folder import FILE_NAME
from tyk_pump.ulid import ulid

pump_option = click.option(
    "--pump", default="", metavar="NAME", help="Only letters of this pump."
)


@click.group()
def letters() -> None:
    """List, show, replay or drop records that were refused for good."""


@contextlib.contextmanager
def _opened(conf: str) -> Iterator[StateFile | None]:
    """Yield the state file, None where there is none yet."""
    path = state_folder(conf) / FILE_NAME
    if not path.exists():
        yield None
        return
    with contextlib.closing(StateFile(path)) as file:
        yield file


@letters.command("list")
@conf_option
@json_option
@pump_option
@click.option("--reason", default="", help="Only reasons that hold this text.")
@click.option(
    "--since", type=float, default=0.0, metavar="HOURS", help="Only the last hours."
)
@click.option("--limit", default=100, show_default=True, help="At most so many.")
@click.option("--after", default=0, metavar="ID", help="Only letters after this one.")
def list_letters(
    conf: str,
    as_json: bool,
    pump: str,
    reason: str,
    since: float,
    limit: int,
    after: int,
) -> None:
    """List dead letters, oldest first."""
    found: list[Letter] = []
    total = 0
    with _opened(conf) as file:
        if file is not None:
            begin = time.time() - since * 3600 if since else 0.0
            found = file.letters(
                pump=pump_named(pump),
                reason=reason,
                since=begin,
                limit=limit,
                after=after,
            )
            total = sum(file.counts().values())
    if as_json:
        print_json([_shown(letter) for letter in found])
        return
    if not found:
        click.echo("no dead letters" if not total else f"none of {total:,} fits")
        return
    rows = [
        [
            str(letter.id),
            rfc3339(letter.at),
            letter.pump,
            letter.record_id,
            f"{letter.size:,}",
            ("(in replay) " if letter.replaying else "") + letter.reason,
        ]
        for letter in found
    ]
    click.echo(
        table(("ID", "REFUSED", "PUMP", "RECORD", "BYTES", "REASON"), rows, "r   r")
    )
    if len(found) < total:
        click.echo(f"{len(found):,} of {total:,}", err=True)


@letters.command()
@conf_option
@json_option
@click.option("--raw", is_flag=True, help="Write the record's bytes as they are.")
@click.argument("number", type=int)
def show(conf: str, as_json: bool, raw: bool, number: int) -> None:
    """Show the dead letter NUMBER, with its record."""
    letter = None
    with _opened(conf) as file:
        if file is not None:
            letter = file.letter(number)
    if letter is None:
        raise click.ClickException(f"no dead letter {number}")
    if raw:
        sys.stdout.buffer.write(letter.raw)
        return
    record = _decoded(letter)
    if as_json:
        whole = {**_shown(letter), "raw": base64.b64encode(letter.raw).decode()}
        print_json({**whole, "record": record})
        return
    for name, value in _shown(letter).items():
        click.echo(f"{click.style(name, bold=True)}: {value}")
    if record is None:
        click.echo(f"{click.style('bytes', bold=True)}: {letter.raw[:200]!r}")
    else:
        click.echo(click.style("record", bold=True) + ":")
        print_json(record)


@letters.command()
@conf_option
@json_option
@pump_option
@click.option("--all", "everything", is_flag=True, help="Letters of all pumps.")
@click.argument("numbers", type=int, nargs=-1)
def replay(
    conf: str, as_json: bool, pump: str, everything: bool, numbers: tuple[int, ...]
) -> None:
    """Write dead letters to their pumps once more: NUMBERS, a pump's, or all."""
    _chosen(pump, everything, numbers)
    ids = list(numbers) if numbers else None
    folder = state_folder(conf)
    try:
        answer = ask(
            folder, "dead-letters.replay", {"pump": pump_named(pump), "ids": ids}
        )
        marked, note = int(answer["marked"]), "the running pump writes them now"
    except NotRunning:
        marked, note = _mark(conf, pump_named(pump), ids), "the next start writes them"
    if as_json:
        print_json({"marked": marked})
    else:
        click.echo(f"{marked:,} marked for replay; {note}" if marked else "none fits")


def _mark(conf: str, pump: str, ids: list[int] | None) -> int:
    with _opened(conf) as file:
        if file is None:
            return 0
        names = [pump] if pump else list(file.counts())
        return sum(file.mark_replay(ulid(), name, ids=ids) for name in names)


@letters.command()
@conf_option
@json_option
@pump_option
@click.option("--all", "everything", is_flag=True, help="Letters of all pumps.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("numbers", type=int, nargs=-1)
def drop(
    conf: str,
    as_json: bool,
    pump: str,
    everything: bool,
    yes: bool,
    numbers: tuple[int, ...],
) -> None:
    """Throw dead letters away: NUMBERS, a pump's, or all."""
    _chosen(pump, everything, numbers)
    if not numbers and not yes:
        whose = f"of pump {pump_named(pump)}" if pump else "of all pumps"
        click.confirm(f"Throw away every dead letter {whose}?", abort=True, err=True)
    dropped = 0
    with _opened(conf) as file:
        if file is not None:
            ids = list(numbers) if numbers else None
            dropped = file.drop(pump=pump_named(pump), ids=ids)
    if as_json:
        print_json({"dropped": dropped})
    else:
        click.echo(f"{dropped:,} dropped")


def _chosen(pump: str, everything: bool, numbers: tuple[int, ...]) -> None:
    if not (pump or everything or numbers):
        raise click.UsageError("name letters by number, or use --pump or --all")


def _shown(letter: Letter) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(letter)
    del shown["raw"]
    shown["at"] = rfc3339(letter.at)
    return shown


def _decoded(letter: Letter) -> object:
    """Return the record as JSON shows it, None where the bytes are no record."""
    from tyk_pump.record import json as record_json

    try:
        record = codec.reader(letter.codec, analytics.ALL)(letter.raw)
        if isinstance(record, UptimeRecord):
            return _report(record)
        found: object = msgspec.json.decode(record_json.encode(record))
    except CodecError:
        return None
    return found


def _report(report: UptimeRecord) -> dict[str, object]:
    """Return an uptime report by the names that it travels under."""
    shown = {name: getattr(report, own) for own, name in uptime.WIRE_NAMES.items()}
    for name, value in shown.items():
        if isinstance(value, tuple):
            shown[name] = gotime.rfc3339_any_year(value)
    return shown
