"""The reference's SQL tables and rows, from its own captures, on real servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.deliver import Delivered, deliver
from tests.golden.loader import Case, cases
from tests.golden.sql import (
    Row,
    captured,
    columns,
    database_of,
    indexes,
    named,
    rows,
    same,
    schema,
    tables,
)
from tests.servers.database import Database
from tyk_pump.config.load import load
from tyk_pump.record.columns import ANALYTICS, Kind

PUMPS = ("sql", "sql-graph", "sql-mcp")
FOUND = [case for pump in PUMPS for case in cases(pump) if case.name != "bad-type"]
UNBOUNDED = {Kind.BODY, Kind.LIST, Kind.MAP}
LOST = {
    "edge-nul",
    "edge-invalid-utf8",
    "bad-row-small-batches",
    "mysql-edge-nul-and-utf8",
    "batch-size-over-parameter-limit",
    "mysql-string-size",
    "sharded-old-tables",
}
"""Cases in which the reference loses records; here all arrive."""


@pytest.fixture(params=FOUND, ids=lambda case: f"{case.pump}-{case.name}")
def case(request: pytest.FixtureRequest) -> Case:
    """Each case in turn."""
    found: Case = request.param
    return found


@pytest.fixture
def database(case: Case, request: pytest.FixtureRequest) -> Database:
    """What the case is delivered to."""
    return database_of(case, request)


@pytest.fixture
def done(
    case: Case, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Delivered:
    """The case, delivered."""
    return deliver(case, database.live, tmp_path, monkeypatch)


def test_golden(case: Case, done: Delivered, database: Database) -> None:
    """Rows, tables, columns and indexes are those of the reference."""
    assert done.openings == [] and done.refused == {}
    found = rows(database)
    if case.name in LOST:
        assert sum(map(len, found.values())) == len(done.names)
        _same_where_there(found, captured(case))
    else:
        same(found, _repaired(case, done))
    made, indexed = schema(case)
    for table in tables(database):
        _same_columns(case, database, table, made)
    if "unknown-zone" in case.name:
        # The day of times that the reference does not know.
        indexed = {k: v for k, v in indexed.items() if "00010101" not in k}
    assert indexed.items() <= indexes(database).items()


def _repaired(case: Case, done: Delivered) -> dict[str, list[Row]]:
    """Return what the reference should have written."""
    expected = captured(case)
    if case.pump == "sql" and case.codec == "protobuf" and _edge(case):
        # It knows neither the zones X and Y nor the names of cities in protobuf.
        known = _edge_rows(case)
        found = [known[name] for name in done.names if name in known]
        if len(expected) == 1:
            # Nor do the paths of GraphQL errors travel.
            key = "graphql_stats_errors"
            (those,) = expected.values()
            found = [{**o, key: r[key]} for o, r in zip(found, those, strict=True)]
        sharded = "sharded" in case.name
        expected = {}
        for row in found:
            day = f"_{row['timestamp'][:10].replace('-', '')}" if sharded else ""
            expected.setdefault(f"tyk_analytics{day}", []).append(row)
    elif case.codec == "protobuf":
        for table in expected.values():
            for row in table:
                prefix = "" if case.pump == "sql" else "analytics_"
                row[f"{prefix}geo_city_names"] = '{"en":"London","fr":"Londres"}'
    return expected


def _edge(case: Case) -> bool:
    return bool(case.about["corpus"] == "edge")


def _edge_rows(case: Case) -> dict[str, Row]:
    """Return the rows of the odd records by name, as msgpack brings them."""
    whole = next(one for one in cases(case.pump) if one.name == "edge")
    (table,) = captured(whole).values()
    kept = [name for name in whole.about["names"] if not name.startswith("mcp-")]
    # The gateway's own time does not travel in protobuf.
    rows = [{**row, "latency_gateway": 0} for row in table]
    return dict(zip(kept, rows, strict=True))


def _same_where_there(
    found: dict[str, list[Row]], expected: dict[str, list[Row]]
) -> None:
    for table, those in expected.items():
        for row in those:
            assert row in found[table]


def _same_columns(
    case: Case,
    database: Database,
    table: str,
    made: dict[str, list[tuple[str, str]]],
) -> None:
    found, expected = columns(database, table), made[named(table)]
    if case.name == "mysql-string-size":
        # Bodies and lists are not narrowed: the reference loses them by it.
        unbounded = {c.name for c in ANALYTICS if c.kind in UNBOUNDED}
        expected = [(c, "longtext" if c in unbounded else k) for c, k in expected]
    if case.name == "sharded-old-tables":
        assert set(expected) <= set(found)
    elif "prepare_sql" in case.about:
        assert sorted(found) == sorted(expected)
    else:
        assert found == expected


def test_a_type_that_is_none_is_a_fault(tmp_path: Path) -> None:
    """SQLite is one here, but what was meant for PostgreSQL is no file."""
    case = next(case for case in cases("sql") if case.name == "bad-type")
    path = tmp_path / "pump.conf"
    path.write_text(json.dumps({"pumps": case.pumps}))
    (pump,) = load(str(path), {}).pumps
    assert (
        pump.fault == "pumps.sql.meta.connection_string: not the path of an SQLite file"
    )
