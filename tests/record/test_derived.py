"""The GraphQL and MCP forms of a record, held against what the reference stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden import loader
from tests.golden.loader import Case
from tyk_pump.record import codec, graph, mcp
from tyk_pump.record.analytics import (
    AnalyticsRecord,
    GraphQLError,
    GraphQLStats,
    MCPStats,
)
from tyk_pump.record.graph import GraphRecord
from tyk_pump.record.mcp import MCPRecord

# The reference drops an open batch when the purge's last record is not stored.
DROPPED = {("mongo-graph", "batch-size"): ["m-and-graph"]}


def stored(*pumps: str) -> list[Any]:
    """Return the cases whose expectation has rows or documents, as parameters."""
    return [
        pytest.param(case, id=f"{pump}-{case.name}")
        for pump in pumps
        for case in loader.cases(pump)
        if expected(case)
    ]


def expected(case: Case) -> list[dict[str, Any]]:
    """Return what the reference stored: documents, or rows whose lists are parsed."""
    found: list[dict[str, Any]] = []
    for line in loader.json_lines(case.files.get("expected.jsonl", b"")):
        if "row" in line:
            found.append(line["row"])
        elif line["command"] == "insert":
            found += line["body"]["documents"]
    return found


def records(case: Case, *fields: str) -> list[AnalyticsRecord]:
    """Return the records of a case; a Mongo store leaves those of code -1 out."""
    decode = codec.decoder(case.codec, [*fields, "path", "response_code"])
    dropped = DROPPED.get((case.pump, case.name), [])
    found = [
        decode(raw)
        for _, _, wire in case.pushed()
        if (raw := wire.bytes_in(case.codec)) is not None and wire.name not in dropped
    ]
    skipped = -1 if case.pump.startswith("mongo") else None
    return [record for record in found if record.response_code != skipped]


def ordered(found: list[Any]) -> list[str]:
    """Return values as texts, sorted: stores write in any order."""
    return sorted(json.dumps(one, sort_keys=True) for one in found)


def whole(path: list[Any]) -> list[Any]:
    """Return an error's path with the numbers of extended JSON as such."""
    return [int(one["$numberLong"]) if isinstance(one, dict) else one for one in path]


def parsed(text: str) -> Any:
    """Return a column's list or map; one mode of the reference stored it as hex."""
    raw = bytes.fromhex(text[2:]) if text.startswith("\\x") else text
    return json.loads(raw)


def graph_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the form that a row or a document shows."""
    if "operationtype" in row:
        errors = [{**one, "path": whole(one["path"])} for one in row["errors"]]
        return {
            "path": row["path"],
            "types": row["types"],
            "operation_type": row["operationtype"],
            "variables": row["variables"],
            "root_fields": row["rootfields"],
            "errors": errors,
            "has_errors": row["haserrors"],
        }
    return {
        "path": row["analytics_path"],
        "types": parsed(row["types"]),
        "operation_type": row["operation_type"],
        "variables": row["variables"],
        "root_fields": parsed(row["root_fields"]),
        "errors": parsed(row["errors"]),
        "has_errors": bool(row["has_errors"]),
    }


@pytest.mark.parametrize("case", stored("mongo-graph", "sql-graph"))
def test_graph_golden(case: Case) -> None:
    """All that the reference derived from a GraphQL call is derived here."""
    derived = [
        {"path": record.path, **{n: getattr(form, n) for n in form.__struct_fields__}}
        for record in records(case, *graph.FIELDS)
        if (form := graph.derive(record)) is not None
    ]
    assert ordered(derived) == ordered([graph_of(row) for row in expected(case)])


@pytest.mark.parametrize("case", stored("mongo-mcp", "sql-mcp"))
def test_mcp_golden(case: Case) -> None:
    """All that the reference derived from an MCP call is derived here."""
    derived = [
        [record.path, *form]
        for record in records(case, *mcp.FIELDS)
        if (form := mcp.derive(record)) is not None
    ]
    assert ordered(derived) == ordered([mcp_of(row) for row in expected(case)])


def mcp_of(row: dict[str, Any]) -> list[str]:
    """Return path, method, type and name that a row or a document shows."""
    if "jsonrpcmethod" in row:
        names = ("path", "jsonrpcmethod", "primitivetype", "primitivename")
    else:
        names = ("analytics_path", "jsonrpc_method", "primitive_type", "primitive_name")
    return [row[name] for name in names]


def test_graph_of_nothing() -> None:
    """Lists that were never set are empty ones; an unknown operation has no name."""
    stats = GraphQLStats(
        types={"Query": None}, errors=[GraphQLError("a")], operation_type=9
    )
    assert graph.derive(AnalyticsRecord(graphql_stats=stats)) is None
    stats.is_graphql = True
    assert graph.derive(AnalyticsRecord(graphql_stats=stats)) == GraphRecord(
        {"Query": []}, "", "", [], [{"message": "a", "path": []}], False
    )


@pytest.mark.parametrize(
    ("code", "said", "has"),
    [(399, False, False), (400, False, True), (200, True, True), (-1, False, False)],
)
def test_graph_errors(code: int, said: bool, has: bool) -> None:
    """A status from 400 on is an error, whatever the answer says."""
    stats = GraphQLStats(is_graphql=True, has_errors=said)
    form = graph.derive(AnalyticsRecord(response_code=code, graphql_stats=stats))
    assert form is not None
    assert form.has_errors is has
    assert stats.has_errors is said


def test_mcp() -> None:
    """A call that names no primitive is one all the same."""
    stats = MCPStats(jsonrpc_method="initialize")
    assert mcp.derive(AnalyticsRecord(mcp_stats=stats)) is None
    stats.is_mcp = True
    form = mcp.derive(AnalyticsRecord(mcp_stats=stats))
    assert form == MCPRecord("initialize", "", "")
