"""Every pump stands in every place where it has to: none can be half there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.targets import TARGETS, kind
from tests.contract.cases import CASES
from tests.golden import loader
from tyk_pump import pumps
from tyk_pump.cli.options import options, schema

ROOT = Path(__file__).parent.parent

TYPES = frozenset(
    {
        *("csv", "dogstatsd", "dummy", "elasticsearch", "graylog", "hybrid", "influx"),
        *("influx2", "kafka", "kinesis", "logzio", "moesif", "mongo", "mongo-graph"),
        *("mongo-mcp", "mongo-mcp-aggregate", "mongo-pump-aggregate"),
        *("mongo-pump-selective", "prometheus", "resurfaceio", "segment", "splunk"),
        *("sql", "sql-graph", "sql-graph-aggregate", "sql-mcp", "sql-mcp-aggregate"),
        *("sql_aggregate", "sqs", "statsd", "stdout", "syslog", "timestream"),
    }
)
"""What a configuration of the reference may name: a fact, and never made shorter."""

ARCHIVES = {"resurfaceio": "resurface"}
"""Type -> archive of what the reference sent, where it is not called by the type."""
NOT_CAPTURED = {"timestream": "the service cannot be had outside its cloud"}
"""Type -> why there is no archive."""
MEASURED_AS = {
    "mongo-graph": "mongo",
    "mongo-mcp": "mongo",
    "mongo-mcp-aggregate": "mongo-pump-aggregate",
    "mongo-pump-selective": "mongo",
    "sql-graph": "sql",
    "sql-graph-aggregate": "sql_aggregate",
    "sql-mcp": "sql",
    "sql-mcp-aggregate": "sql_aggregate",
}
"""Types that share all that costs time with another one, which has a benchmark."""


def pages() -> set[str]:
    """Return what has a reference page of its own; the uptime pumps have, too."""
    folder = ROOT / "docs" / "reference" / "pumps"
    return {path.stem for path in folder.glob("*.md")} - set(pumps.UPTIME)


def in_the_readme() -> set[str]:
    """Return the types in the README's table."""
    table = (ROOT / "README.md").read_text().partition("Back ends of this version")[2]
    rows = table.partition("Uptime reports")[0]
    return set(re.findall(r"`([a-z0-9_-]+)`", rows)) - {"type"}


def in_the_schema() -> set[str]:
    """Return the types for whose options editors have rules, as the command prints."""
    printed: Any = json.loads(CliRunner().invoke(schema).output)
    rules = printed["properties"]["pumps"]["additionalProperties"]["allOf"]
    return {rule["if"]["properties"]["type"]["const"] for rule in rules}


def in_the_example() -> set[str]:
    """Return the types in the example configuration."""
    file = json.loads((ROOT / "conf" / "pump.example.conf").read_text())
    return {name.lower() for name in file["pumps"]}


def listed() -> set[str]:
    """Return the types that `tyk-pump options` lists."""
    last = CliRunner().invoke(options).output.rpartition("Types of pumps")[2]
    return set(re.findall(r"^ +([a-z0-9_-]+)$", last, re.MULTILINE))


def captured() -> set[str]:
    """Return the types of which the reference's output is kept and compared."""
    tests = "".join(
        path.read_text() for path in (ROOT / "tests" / "golden").glob("test_*.py")
    )
    found = set(NOT_CAPTURED)
    for name in TYPES - found:
        archive = ARCHIVES.get(name, name)
        if (loader.HERE / f"{archive}.tar.xz").exists() and f'"{archive}"' in tests:
            found.add(name)
    return found


def measured() -> set[str]:
    """Return the types that a benchmark covers, as themselves or as another."""
    own = {kind(way) for way in TARGETS}
    return own | {name for name, other in MEASURED_AS.items() if other in own}


PLACES: dict[str, Callable[[], set[str]]] = {
    "the registry": lambda: set(pumps.REGISTRY),
    "the reference's display names": lambda: set(pumps.DISPLAY_NAMES),
    "the pages of docs/reference/pumps": pages,
    "the README's table": in_the_readme,
    "the JSON schema": in_the_schema,
    "conf/pump.example.conf": in_the_example,
    "tyk-pump options": listed,
    "the contract suite": lambda: {case.type for case in CASES} - {"faulty"},
    "the archives of tests/golden": captured,
    "the benchmarks": measured,
}


@pytest.mark.parametrize("place", PLACES)
def test_every_type_is_in_every_place(place: str) -> None:
    """None is missing, and nothing stands there that the reference does not know."""
    assert PLACES[place]() == TYPES


def test_no_exception_stands_that_is_none() -> None:
    """Exceptions are no longer than they have to be."""
    assert {kind(way) for way in TARGETS} & set(MEASURED_AS) == set()
    names = {path.name for path in loader.HERE.glob("*.tar.xz")}
    assert {name for name in NOT_CAPTURED if f"{name}.tar.xz" in names} == set()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_the_options_of_every_type_are_listed(name: str) -> None:
    """`tyk-pump options TYPE`, for each."""
    done = CliRunner().invoke(options, [name])
    assert done.exit_code == 0
    assert "(" in done.output or "no options of its own" in done.output


def test_every_pump_is_tested_by_name() -> None:
    """A file of its own, or one of its family, speaks of its options."""
    text = "".join(
        path.read_text()
        for folder in ("pumps", "golden")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
    )
    assert {name for name in TYPES if f'"{name}"' not in text} == set()
