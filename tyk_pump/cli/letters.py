"""`tyk-pump dead-letters`: records that were refused for good."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

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
from tyk_pump.record import edit as records
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.state.file import Letter, Reason, StateFile
from tyk_pump.state.folder import FILE_NAME
from tyk_pump.ulid import ulid

pump_option = click.option(
    "--pump", default="", metavar="NAME", help="Only letters of this pump."
)


@click.group()
def letters() -> None:
    """List, show, export, edit, replay or drop records that were refused for good."""


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
@click.option("--by-reason", is_flag=True, help="Count the letters of each reason.")
def list_letters(
    conf: str,
    as_json: bool,
    pump: str,
    reason: str,
    since: float,
    limit: int,
    after: int,
    by_reason: bool,
) -> None:
    """List dead letters, oldest first."""
    if by_reason:
        _list_reasons(conf, as_json, pump, reason, _begin(since), limit)
        return
    found: list[Letter] = []
    total = 0
    with _opened(conf) as file:
        if file is not None:
            found = file.letters(
                pump=pump_named(pump),
                reason=reason,
                since=_begin(since),
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


def _begin(hours: float) -> float:
    return time.time() - hours * 3600 if hours else 0.0


def _list_reasons(
    conf: str, as_json: bool, pump: str, reason: str, since: float, limit: int
) -> None:
    found: list[Reason] = []
    with _opened(conf) as file:
        if file is not None:
            found = file.reasons(pump=pump_named(pump), reason=reason, since=since)
    if as_json:
        print_json(
            [
                {
                    **msgspec.structs.asdict(one),
                    "first": rfc3339(one.first),
                    "last": rfc3339(one.last),
                }
                for one in found
            ]
        )
        return
    if not found:
        click.echo("no dead letters")
        return
    rows = [
        [
            f"{one.letters:,}",
            one.pump,
            rfc3339(one.first),
            rfc3339(one.last),
            str(one.example),
            one.reason + (f" ({one.replaying:,} in replay)" if one.replaying else ""),
        ]
        for one in found[:limit]
    ]
    heads = ("LETTERS", "PUMP", "FROM", "TO", "EXAMPLE", "REASON")
    click.echo(table(heads, rows, "r   r"))
    if len(found) > limit:
        click.echo(f"{limit:,} of {len(found):,} reasons", err=True)


@letters.command()
@conf_option
@pump_option
@click.option("--reason", default="", help="Only reasons that hold this text.")
@click.option(
    "--since", type=float, default=0.0, metavar="HOURS", help="Only the last hours."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write into a new file, for its owner only, instead of standard output.",
)
@click.argument("numbers", type=int, nargs=-1)
def export(
    conf: str,
    pump: str,
    reason: str,
    since: float,
    output: Path | None,
    numbers: tuple[int, ...],
) -> None:
    """Write dead letters as JSON lines, all or NUMBERS, with bytes and record."""
    count = 0
    with _opened(conf) as file, _target(output) as write:
        if numbers:
            chosen: Iterable[Letter | None] = (
                file.letter(number) if file else None for number in numbers
            )
        else:
            chosen = _all(file, pump_named(pump), reason, _begin(since))
        for number, letter in enumerate(chosen):
            if letter is None:
                raise click.ClickException(f"no dead letter {numbers[number]}")
            whole = _shown(letter)
            whole["raw"] = base64.b64encode(letter.raw).decode()
            whole["record"] = _decoded(letter)
            write(json.dumps(whole))
            count += 1
    where = f" to {output}" if output else ""
    click.echo(f"{count:,} dead letters written{where}", err=True)


def _all(
    file: StateFile | None, pump: str, reason: str, since: float
) -> Iterator[Letter]:
    after = 0
    while file is not None and (
        found := file.letters(pump=pump, reason=reason, since=since, after=after)
    ):
        for one in found:
            after = one.id
            letter = file.letter(one.id)
            if letter is not None:  # a replay may have delivered it meanwhile
                yield letter


@contextlib.contextmanager
def _target(output: Path | None) -> Iterator[Callable[[str], None]]:
    if output is None:
        yield click.echo
        return
    try:
        # They hold requests and responses.
        number = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise click.ClickException(f"{output}: {exc.strerror}") from exc
    with open(number, "w", encoding="utf-8") as file:
        yield lambda line: print(line, file=file)


@letters.command()
@conf_option
@click.option(
    "--file",
    "source",
    type=click.File("rb"),
    metavar="FILE",
    help="Take the JSON from a file (- is standard input) instead of an editor.",
)
@click.argument("number", type=int)
def edit(conf: str, source: IO[bytes] | None, number: int) -> None:
    """Change the record of the dead letter NUMBER, as JSON, in $EDITOR or from a file.

    What is left out stays as it is. The letter keeps its id; `replay` sends it.
    """
    with _opened(conf) as file:
        letter = file.letter(number) if file is not None else None
        if file is None or letter is None:
            raise click.ClickException(f"no dead letter {number}")
        if letter.replaying:
            raise click.ClickException(f"dead letter {number} is in a replay")
        try:
            record = records.decode(letter.codec, letter.raw)
        except CodecError as exc:
            click.echo(f"its bytes are no record ({exc}): a new one", err=True)
            record = records.empty(letter.codec)
        if source is not None:
            raw = _edited(letter, record, source.read())
        else:
            raw = _edited_by_hand(letter, record)
        if raw is None or raw == letter.raw:
            click.echo("nothing changed")
            return
        if not file.edit(number, raw):
            raise click.ClickException(f"dead letter {number} is gone, or in a replay")
    click.echo(f"changed; send it with: tyk-pump dead-letters replay {number}")


def _edited(letter: Letter, record: Any, text: bytes | str) -> bytes | None:
    """Return the changed record's bytes, None where nothing was changed."""
    try:
        written = json.loads(text)
        now = records.changed(record, letter.codec, written)
    except ValueError as exc:  # JSON's own, and those of what is no record
        raise click.ClickException(f"{exc}") from exc
    if now == record:
        return None
    try:
        return records.encode(now, letter.codec)
    except records.Unfit as exc:
        raise click.ClickException(f"{exc}") from exc


def _edited_by_hand(letter: Letter, record: Any) -> bytes | None:
    text = json.dumps(records.shown(record, letter.codec), indent=2)
    while True:
        found = click.edit(text, extension=".json")
        if found is None:
            return None
        try:
            return _edited(letter, record, found)
        except click.ClickException as exc:
            exc.show()
            click.confirm("Edit it again?", default=True, abort=True, err=True)
            text = found


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
    except CodecError:
        return None
    try:
        found: object = msgspec.json.decode(record_json.encode(record))
    except CodecError:
        # The reference's JSON has no word for it, such as for a date of no calendar.
        text = json.dumps(records.shown(record, letter.codec), ensure_ascii=False)
        found = json.loads(text.encode("utf-8", "replace"))
    return found


def _report(report: UptimeRecord) -> dict[str, object]:
    """Return an uptime report by the names that it travels under."""
    shown = {name: getattr(report, own) for own, name in uptime.WIRE_NAMES.items()}
    for name, value in shown.items():
        if isinstance(value, tuple):
            shown[name] = gotime.rfc3339_any_year(value)
    return shown
