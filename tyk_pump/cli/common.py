"""What several commands share: the configuration, the state folder, tables."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from tyk_pump.config.environment import PREFIX
from tyk_pump.config.load import Config, load
from tyk_pump.config.root import RootOptions
from tyk_pump.state.folder import locate

conf_option = click.option(
    "-c",
    "--conf",
    default="pump.conf",
    show_default=True,
    metavar="FILE",
    help="The configuration.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of text."
)


def read(conf: str, *, remote: bool = True) -> Config:
    """Return the configuration, whatever faults it has."""
    return load(conf, os.environ, remote=remote)


def named(conf: str, option: str) -> RootOptions:
    """Return the options of which only this one is wanted: no store of secrets is
    asked for the others."""
    return load(
        conf, os.environ, only=(option, f"{PREFIX}_{option.replace('_', '').upper()}")
    ).root


def state_folder(conf: str) -> Path:
    """Return the state folder of the process that runs with this configuration."""
    return locate(named(conf, "state_dir").state_dir, conf, os.environ)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> str:
    """Return a table; `right` has an `r` for each column that is set to the right.

    Cells may be coloured: what the terminal does not show takes no width.
    """
    cells = [[click.style(head, bold=True) for head in heads], *rows]
    widths = [
        max(len(click.unstyle(row[column])) for row in cells)
        for column in range(len(heads))
    ]
    lines = []
    for row in cells:
        parts = []
        for column, cell in enumerate(row):
            gap = " " * (widths[column] - len(click.unstyle(cell)))
            to_right = right[column : column + 1] == "r"
            parts.append(gap + cell if to_right else cell + gap)
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)
