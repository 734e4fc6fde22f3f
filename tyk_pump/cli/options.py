"""`tyk-pump options` and `tyk-pump schema`: what the configuration may say."""

from __future__ import annotations

import click

from tyk_pump.cli.common import print_json
from tyk_pump.config import describe


@click.command()
@click.argument("pump", default="")
def options(pump: str) -> None:
    """List the options of a PUMP type, or those outside the pumps and all types."""
    if pump and pump not in describe.pump_types():
        known = ", ".join(describe.pump_types())
        raise click.ClickException(f"no pump type {pump!r}; there are {known}")
    click.echo(describe.text(pump) or f"the {pump} pump has no options of its own")
    if not pump:
        click.echo("\nTypes of pumps, each with options of its own (options TYPE):\n")
        for kind in describe.pump_types():
            click.echo(f"    {kind}")


@click.command()
def schema() -> None:
    """Print the JSON schema of pump.conf, for editors."""
    print_json(describe.schema())
