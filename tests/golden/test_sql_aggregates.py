"""The reference's aggregated rows, from its own captures, on real servers.

Where the reference booked records of several hours on one, or rows of several
organisations on the first, rows are summed up before they are compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.aggregate.test_golden import (
    ELSEWHERE,
    aggregated,
    by_owner,
    decoded,
    name_of,
)
from tests.golden.deliver import deliver
from tests.golden.loader import Case, cases
from tests.golden.run import zone
from tests.golden.sql import Row, captured, columns, database_of, indexes, rows, schema
from tests.golden.sql import named as named_as_captured
from tests.servers.database import Database
from tyk_pump.record.analytics import MAX_INT

PUMPS: Final = ("sql_aggregate", "sql-graph-aggregate", "sql-mcp-aggregate")
FOUND: Final = [case for pump in PUMPS for case in cases(pump)]
LOST: Final = {
    "sql_aggregate/edge-nul",
    "sql_aggregate/edge-control-untracked",
    "sql_aggregate/network-crash",
    "sql_aggregate/network-only-twice",
    "sql_aggregate/mysql-omit-index",
    "sql_aggregate/mysql-string-size",
    "sql_aggregate/mysql-traffic",
    "sql-graph-aggregate/minus1-only",
    "sql-graph-aggregate/mysql-edge",
    "sql-mcp-aggregate/mysql-edge",
}
"""What the reference loses; here all is counted: compared with a count of our own."""
UNHEEDED: Final = {f"{pump}/ignored-options" for pump in PUMPS}
"""Options that the reference takes and does not heed; here they have an effect."""
PATHS: Final = {"endpoints", "apiendpoints", "keyendpoints", "oauthendpoints"}
AVERAGES: Final = {
    "counter_request_time": "counter_total_request_time",
    "counter_upstream_latency": "counter_total_upstream_latency",
    "counter_latency": "counter_total_latency",
}
NETWORK: Final = {
    *("counter_open_connections", "counter_closed_connections"),
    *("counter_bytes_in", "counter_bytes_out"),
}
OWN: Final = {
    *("operation", "types", "fields", "rootfields", "methods", "primitives", "names"),
}


Tables = Mapping[str, list[Row]]


@pytest.fixture(params=FOUND, ids=lambda case: f"{case.pump}-{case.name}")
def case(request: pytest.FixtureRequest) -> Case:
    """Each case in turn."""
    found: Case = request.param
    return found


@pytest.fixture
def database(case: Case, request: pytest.FixtureRequest) -> Database:
    """What the case is delivered to."""
    return database_of(case, request)


def test_golden(
    case: Case, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, tables, columns and indexes are those of the reference."""
    done = deliver(case, database.live, tmp_path, monkeypatch)
    assert done.openings == [] and done.refused == {}
    stored = rows(database)
    found: Tables = {name: those for name, those in stored.items() if those}
    with zone(case.about.get("timezone", "UTC"), monkeypatch):
        purges = [aggregated(case, records) for records in decoded(case)]
    if name_of(case) in LOST:
        assert counted(found) == own_count(purges)
    else:
        expected: Tables = captured(case)
        if name_of(case) in UNHEEDED:
            found, expected = heeded(case, found, expected)
        whole = all(len(starts) == 1 for starts in by_owner(case, purges))
        orgs = {(key.api_id, key.org_id) for purge in purges for key in purge}
        whole = whole and len(orgs) == len({api or org for api, org in orgs})
        if whole and name_of(case) not in ELSEWHERE:
            same_rows(found, expected)
        else:
            same_sums(found, expected, by_api=case.pump != "sql_aggregate")
    same_schema(case, database)


def heeded(case: Case, found: Tables, expected: Tables) -> tuple[Tables, Tables]:
    """Return what there should be beside what the options bring, without the rest."""
    (table,) = found
    everywhere = case.pump != "sql_aggregate"
    paths = [row for row in found[table] if row["dimension"] in PATHS]
    prefix = {"sql-graph-aggregate": "env", "sql-mcp-aggregate": "mcp"}
    left_out = [
        row
        for row in expected[table]
        if row["dimension"] == "apikeys"
        or (row["dimension"] == "tags" and not everywhere)
        or (
            row["dimension"] == "tags"
            and row["dimension_value"].startswith(prefix[case.pump])
        )
    ]
    assert left_out
    if not everywhere:
        return found, {table: [r for r in expected[table] if r not in left_out]}
    assert paths
    return (
        {table: [row for row in found[table] if row not in paths]},
        {table: [row for row in expected[table] if row not in left_out]},
    )


def counted(found: Mapping[str, Iterable[Row]]) -> dict[Any, int]:
    return {
        (row["org_id"], row.get("api_id", ""), row["timestamp"]): row["counter_hits"]
        for those in found.values()
        for row in those
        if row["dimension"] == ""
    }


def own_count(purges: Iterable[Any]) -> dict[Any, int]:
    hits: dict[Any, int] = defaultdict(int)
    for purge in purges:
        for key, aggregate in purge.items():
            hits[key[:3]] += aggregate.total.hits
    return dict(hits)


def same_rows(found: Tables, expected: Tables) -> None:
    assert found.keys() == expected.keys()
    for table, those in expected.items():
        mine = {row["id"]: row for row in found[table]}
        theirs = {row["id"]: row for row in those}
        assert mine.keys() == theirs.keys()
        wrong = [
            (row["dimension"], row["dimension_value"], name, mine[i][name], row[name])
            for i, row in theirs.items()
            for name in differing(mine[i], row)
        ]
        assert wrong == []


def differing(mine: Row, theirs: Row) -> Iterator[str]:
    """Yield the columns that are not as in the reference, but for its defects."""
    if mine.keys() != theirs.keys():
        yield "columns"
    for name, value in theirs.items():
        own = mine[name]
        if own == value:
            continue
        if name in AVERAGES:
            right = exact_average(mine, name)
            if float(own) != pytest.approx(right, rel=1e-14):
                yield name
        elif name == "counter_last_time":
            # The reference keeps the first one's, or the last one's that came.
            if own < value:
                yield name
        elif name.startswith("counter_min"):
            # An error's latency is no minimum.
            only_errors = mine["counter_hits"] == mine["counter_error"]
            some = mine["counter_error"] or any(mine[n] for n in NETWORK)
            if (own is None) != only_errors or not (own is None or some):
                yield name
        elif name == "counter_human_identifier":
            # Of the keys' aliases it is that of the latest record.
            if mine["dimension"] != "apikeys":
                yield name
        elif name in {"counter_total_latency", "counter_total_upstream_latency"}:
            if own != MAX_INT or value >= 0:
                yield name
        elif name == "counter_total_request_time":
            if float(own) != pytest.approx(float(value), rel=1e-14):
                yield name
        elif name in NETWORK:
            # The reference counts the first report there, or none.
            if mine["dimension"] not in OWN or own < value:
                yield name
        elif name == "counter_success":
            # A GraphQL error has cost a success that was never counted.
            if mine["dimension"] not in OWN or (own, value) != (own, own - 1):
                yield name
        else:
            yield name


def exact_average(row: Row, name: str) -> float:
    hits = row["counter_hits"]
    return float(row[AVERAGES[name]]) / hits if hits else 0.0


def same_sums(
    found: Tables,
    expected: Tables,
    *,
    by_api: bool,
) -> None:
    mine, theirs = summed(found, by_api), summed(expected, by_api)
    assert mine.keys() == theirs.keys()
    wrong = [
        (what, name, mine[what][name], value)
        for what, sums in theirs.items()
        for name, value in sums.items()
        if different(what[1], name, mine[what][name], value)
    ]
    assert wrong == []


def summed(tables: Tables, by_api: bool) -> dict[Any, dict[str, int]]:
    sums: dict[Any, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for those in tables.values():
        for row in those:
            owner = row["api_id"] if by_api else row["org_id"]
            mine = sums[owner, row["dimension"], row["dimension_value"]]
            for name, value in row.items():
                if name.startswith("code_") or name in SUMMED:
                    mine[name] += int(value)
                elif name.startswith("counter_max"):
                    mine[name] = max(mine[name], int(value))
    return sums


SUMMED: Final = {
    *("counter_hits", "counter_success", "counter_error", "counter_total_request_time"),
    *("counter_total_latency", "counter_total_upstream_latency", *NETWORK),
}


def different(dimension: str, name: str, mine: int, theirs: int) -> bool:
    if dimension in OWN and name in NETWORK:
        return mine < theirs
    if dimension in OWN and name == "counter_success":
        return mine - theirs not in {0, 1}
    if "latency" in name and theirs < 0:
        # Either the sum has wrapped around, or there are latencies below zero.
        return mine < MAX_INT and mine != theirs
    if name == "counter_total_request_time":
        return mine != pytest.approx(theirs, rel=1e-14)
    return mine != theirs


def same_schema(case: Case, database: Database) -> None:
    made, indexed = schema(case)
    # A day that has nothing to count gets no table.
    there = {named_as_captured(name): name for name in database.tables()}
    for name, theirs in made.items():
        if name in there:
            mine = columns(database, there[name])
            if "prepare_sql" in case.about:
                # The reference adds columns in an order of its own.
                mine, theirs = sorted(mine), sorted(theirs)
            assert mine == theirs
    found = indexes(database)
    for name, parts in indexed.items():
        if name.removesuffix("_idx_dimension") in there:
            assert found[name] == parts
    if case.name in {"omit-index-creation", "mysql-omit-index", "sharded-omit-index"}:
        assert found == {}
