"""`tyk-pump claims`: what is claimed in Redis, and the ways to let go of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

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
from tyk_pump.cursors import pump_named
from tyk_pump.errors import ConfigError
from tyk_pump.log import rfc3339
from tyk_pump.source.redis import Link
from tyk_pump.source.upkeep import (
    ClaimLine,
    adopt_stream,
    forget_pump,
    list_claims,
    return_claims,
)
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import FILE_NAME, holder

if TYPE_CHECKING:
    from tyk_pump.coordinator.leftovers import LeftPart


@click.group()
def claims() -> None:
    """List claimed records, return, adopt or forget them."""


@contextlib.contextmanager
def _linked(conf: str) -> Iterator[tuple[Link, str]]:
    """Yield a way to Redis, and the prefix of our keys."""
    config = read(conf)
    if config.faults:
        raise ConfigError(config.faults)
    options = config.root.analytics_storage_config
    with contextlib.closing(Link(options)) as link:
        yield link, options.prefix()


@claims.command("list")
@conf_option
@json_option
def list_command(conf: str, as_json: bool) -> None:
    """List the claims of all instances, the oldest stream first."""
    with _linked(conf) as (link, prefix):
        found = list_claims(link, prefix)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("nothing is claimed")
        return
    heads = ("STREAM", "OWNER", "LIST", "CLAIMED", "RECORDS", "LEFT", "CURSORS")
    click.echo(table(heads, [_row(claim) for claim in found], "    rr"))


def _row(claim: ClaimLine) -> list[str]:
    owner = claim.owner.partition("#")[0] or "nobody"
    if not claim.alive:
        owner = click.style(f"{owner} (gone)" if claim.owner else owner, fg="yellow")
    # Cursors are positions in the stream; a person wants what is done of this claim.
    cursors = ", ".join(
        f"{pump} {min(max(position - claim.base, 0), claim.length):,}"
        for pump, position in sorted(claim.cursors.items())
    )
    return [
        claim.stream,
        owner,
        claim.list,
        rfc3339(claim.at),
        f"{claim.length:,}" if claim.base >= 0 else "?",
        f"{claim.left:,}",
        cursors,
    ]


@claims.command("return")
@conf_option
@json_option
def return_command(conf: str, as_json: bool) -> None:
    """Push claimed records back to the head of their lists, for another consumer.

    What waits in the state file goes back as well. Nobody may run meanwhile. What some
    pumps have settled and others not is delivered to all of them again.
    """
    from tyk_pump.coordinator.leftovers import left_parts

    folder = state_folder(conf)
    if pid := holder(folder):
        raise click.ClickException(f"the pump runs (pid {pid}): stop it first")
    with contextlib.ExitStack() as stack:
        parts: dict[str, LeftPart] = {}
        waiting: dict[str, int] = {}
        if (folder / FILE_NAME).exists():
            file = stack.enter_context(
                contextlib.closing(StateFile(folder / FILE_NAME))
            )
            if file.pending():
                # Redis had no memory for them; a claim that it does not know of would
                # be left behind.
                raise click.ClickException(
                    "some claims are noted in the state file only: start the pump once,"
                    " so that it moves them to Redis"
                )
            parts, waiting = left_parts(file), file.replay_store.waiting()
        link, prefix = stack.enter_context(_linked(conf))
        returned = return_claims(link, prefix, parts)
    damaged = [words for part in parts.values() for words in part.damaged]
    lost = sum(part.records_damaged for part in parts.values())
    if as_json:
        print_json({"returned": returned, "damaged": damaged, "damaged_records": lost})
        return
    for name, count in sorted(returned.items()):
        click.echo(f"{count:,} records to {name}")
    if not returned:
        click.echo("nothing was claimed")
    for words in damaged:
        click.secho(f"lost, damaged: {words}", fg="red", err=True)
    if damaged:
        click.secho(f"{lost:,} records cannot be returned", fg="red", err=True)
    if waiting:
        count = sum(waiting.values())
        click.echo(f"note: {count:,} records of replays stay here", err=True)


@claims.command()
@conf_option
@click.argument("stream")
def adopt(conf: str, stream: str) -> None:
    """Free a STREAM whose owner is gone, so that a living instance takes it."""
    with _linked(conf) as (link, prefix):
        adopt_stream(link, prefix, stream)
    click.echo(f"{stream} is free; the next round of an instance adopts it")


@claims.command()
@conf_option
@json_option
@click.argument("pump")
def forget(conf: str, as_json: bool, pump: str) -> None:
    """Let nothing wait any longer for a removed PUMP (`NAME`, or `NAME/LANE:LANES`)."""
    field = pump_named(pump)
    try:
        ask(state_folder(conf), "claims.forget", {"pump": field})
    except NotRunning:
        with _linked(conf) as (link, prefix):
            streams = forget_pump(link, prefix, field)
        text = f"{field} is forgotten in {len(streams)} streams"
    else:
        streams, text = [], f"{field} is forgotten by the running pump"
    if as_json:
        print_json({"forgotten": field, "streams": streams})
    else:
        click.echo(text)
