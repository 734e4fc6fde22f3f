"""`tyk-pump status`: how the running pump is doing."""

from __future__ import annotations

import time

import click
import msgspec

from tyk_pump.admin.control import ask
from tyk_pump.admin.page import duration, redis_memory, size
from tyk_pump.cli.common import (
    conf_option,
    json_option,
    print_json,
    state_folder,
    table,
)
from tyk_pump.coordinator.snapshot import PumpSnapshot, Snapshot
from tyk_pump.log import masked

_COLOURS = {"running": "green", "failed": "red", "paused": "red", "stopped": "white"}


@click.command()
@conf_option
@json_option
def status(conf: str, as_json: bool) -> None:
    """Show what the running pump is doing."""
    answer = ask(state_folder(conf), "status")
    if as_json:
        print_json(answer)
        return
    now = msgspec.convert(answer, Snapshot)
    word = (
        click.style("ready", fg="green")
        if now.ready
        else click.style("not ready", fg="red")
    )
    age = duration(max(0.0, time.time() - now.started))
    click.echo(
        f"{word}  {now.instance}  version {now.version}  pid {now.pid}  up {age}"
    )
    for reason in now.reasons:
        click.echo("  " + click.style(masked(reason), fg="red"))
    click.echo()
    heads = ("PUMP", "STATE", "RATE", "DELIVERED", "DEAD", "PENDING", "LAG", "ERROR")
    click.echo(table(heads, [_row(pump) for pump in now.pumps], "  rrrrr "))
    click.echo()
    waiting = sum(now.lists.values())
    click.echo(
        f"{now.claimed_records:,} records in {now.claims} claims,"
        f" {waiting:,} in the gateway's lists, {now.claimed_total:,} claimed since"
        " the start"
    )
    if now.journal_frames:
        click.echo(
            f"{now.journal_records:,} records wait on the disk, where frames take"
            f" {size(now.journal_bytes)}"
        )
    click.echo(redis_memory(now))
    if now.lost_records:
        click.secho(f"{now.lost_records:,} claimed records were lost", fg="red")
    for pump in now.pumps:
        if pump.replaying:
            click.echo(f"{pump.replaying:,} records are being replayed to {pump.name}")
        if pump.ledger.difference:
            click.secho(
                f"the books of {pump.name} do not balance, by"
                f" {pump.ledger.difference:,}: see tyk-pump audit",
                fg="red",
            )


def _row(pump: PumpSnapshot) -> list[str]:
    dead = f"{pump.dead:,}"
    return [
        pump.name,
        click.style(pump.state, fg=_COLOURS.get(pump.state, "yellow")),
        f"{pump.rate:,.0f}/s",
        f"{pump.delivered:,}",
        click.style(dead, fg="red") if pump.dead else dead,
        f"{pump.pending:,}",
        duration(pump.lag_seconds) if pump.pending else "-",
        masked(pump.last_error),
    ]
