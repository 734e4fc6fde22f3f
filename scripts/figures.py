#!/usr/bin/env python3
"""Print the figures of `make torture` as a table; exit 1 where a bound is broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

WAYS: dict[str, Callable[[Iterable[float]], float]] = {
    "sum": sum,
    "max": max,
    "min": min,
}
EXPECTED = (
    "kills",
    "records lost",
    "repeats where a back end can tell",
)
"""A run in which these are missing has shown nothing."""


class Row(NamedTuple):
    """A line of the table."""

    name: str
    value: str
    bound: str
    good: bool


def main(paths: list[str]) -> int:
    """Print the table of these files."""
    lines = [
        json.loads(line)
        for path in map(Path, paths)
        if path.exists()
        for line in path.read_text().splitlines()
    ]
    rows = [merged(name, lines) for name in dict.fromkeys(one["name"] for one in lines)]
    rows += [
        absent(name) for name in EXPECTED if name not in {row.name for row in rows}
    ]
    first = max(len(row.name) for row in rows)
    second = max(len(row.value) for row in rows)
    third = max(len(row.bound) for row in rows)
    for row in rows:
        line = f"{row.name:<{first}}  {row.value:>{second}}  {row.bound:<{third}}"
        print(line + ("" if row.good else "  BROKEN"))
    return 0 if all(row.good for row in rows) else 1


def merged(name: str, lines: list[dict[str, Any]]) -> Row:
    """Return the row of all figures of a name."""
    mine = [line for line in lines if line["name"] == name]
    way = WAYS[mine[0]["how"]]
    value = way(line["value"] for line in mine)
    unit = mine[0]["unit"]
    bound, good = [], True
    for which, word in (("at_most", "at most"), ("at_least", "at least")):
        limits = [line[which] for line in mine if line[which] is not None]
        if limits:
            limit = way(limits)
            good = good and (value <= limit if which == "at_most" else value >= limit)
            bound.append(f"{word} {shown(limit, unit)}")
    return Row(name, shown(value, unit), ", ".join(bound), good)


def absent(name: str) -> Row:
    """Return the row of a figure that nobody measured."""
    return Row(name, "-", "not measured", False)


def shown(value: float, unit: str) -> str:
    """Return a figure as people read it."""
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
    return f"{text} {unit}".rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
