"""What stands in a SQL database, in the form of the captures, and what should."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.golden.loader import Case, json_lines
from tests.servers.database import Database, Databases

Row = dict[str, Any]
OURS = "_tyk_pump_watermarks"
_CREATE = re.compile(
    r"CREATE TABLE (?:public\.)?[\"`]?([\w<>]+)[\"`]? \(\n(.*?)\n\)", re.S
)
_PG_INDEX = re.compile(r"CREATE INDEX (\S+) ON public\.(\S+) USING btree \((.*)\);")
_MY_INDEX = re.compile(r"\s*KEY `(.*?)` \((.*)\)")
_HEX = re.compile(r"\\x((?:[0-9a-f]{2})+)")

DAY = 86_400


def database_of(case: Case, request: pytest.FixtureRequest) -> Database:
    """Return an empty database of the kind that the case was captured from."""
    metas = [case.uptime] if case.uptime else [p["meta"] for p in case.pumps.values()]
    kinds = {meta["type"] for meta in metas}
    name = "maria_server" if kinds == {"mysql"} else "postgres_server"
    databases: Databases = request.getfixturevalue(name)
    utf8 = {"CHARACTER SET": "utf8mb4"} if name == "maria_server" else {}
    database = databases.database(**utf8)
    for statement in case.about.get("prepare_sql", ()):
        database.query(statement)
    return database


def rows(database: Database) -> dict[str, list[Row]]:
    """Return all rows by table, in the order written, with what is inexact as text."""
    return {named(name): _rows(database, name) for name in tables(database)}


def tables(database: Database) -> list[str]:
    """Return the names of the tables but for our own."""
    return [name for name in database.tables() if name != OURS]


def named(table: str) -> str:
    """Return a table's name as the captures have it."""
    # In the zone of a case it may be another day than here.
    for seconds in (0, -DAY, DAY):
        today = time.strftime("%Y%m%d", time.localtime(time.time() + seconds))
        table = table.replace(today, "<today>")
    return table


def _rows(database: Database, table: str) -> list[Row]:
    cells = []
    for name, kind in columns(database, table):
        if database.dialect == "mysql":
            text = kind.startswith(("datetime", "double"))
            cells.append(f"CAST(`{name}` AS CHAR)" if text else f"`{name}`")
        else:
            text = kind.startswith(("timestamp", "numeric"))
            cells.append(f'"{name}"::text' if text else f'"{name}"')
    quote = "`" if database.dialect == "mysql" else '"'
    statement = f"SELECT {', '.join(cells)} FROM {quote}{table}{quote}"
    names = [name for name, _ in columns(database, table)]
    return [dict(zip(names, row, strict=True)) for row in database.query(statement)]


def columns(database: Database, table: str) -> list[tuple[str, str]]:
    """Return names and types of a table's columns."""
    if database.dialect == "mysql":
        found = database.query(f"SHOW COLUMNS FROM `{table}`")
        return [(row[0], row[1]) for row in found]
    return database.query(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        f'"{table}"',
    )


def indexes(database: Database) -> dict[str, str]:
    """Return the indexes that are no keys, with their columns."""
    found: dict[str, list[str]] = {}
    for table in tables(database):
        if database.dialect == "mysql":
            rows = database.query(f"SHOW INDEX FROM `{table}`")
            for name, column in ((row[2], row[4]) for row in rows):
                found.setdefault(named(name), []).append(column)
        else:
            rows = database.query(
                "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s", table
            )
            for name, definition in rows:
                inner = definition[definition.index("(") + 1 : -1]
                found[named(name)] = inner.replace('"', "").split(", ")
    return {
        name: ",".join(parts)
        for name, parts in found.items()
        if name != "PRIMARY" and not name.endswith("_pkey")
    }


def schema(case: Case) -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """Return the columns by table and the indexes that the reference has made."""
    text = case.files["expected.schema.sql"].decode()
    made: dict[str, list[tuple[str, str]]] = {}
    found: dict[str, str] = {}
    for table, body in _CREATE.findall(text):
        made[table] = []
        for line in body.splitlines():
            if match := _MY_INDEX.match(line):
                found[match[1]] = re.sub(r"[`]|\(\d+\)", "", match[2])
            elif not line.strip().startswith("PRIMARY"):
                name, _, kind = line.strip().rstrip(",").partition(" ")
                kind = re.sub(r" (DEFAULT|NOT) NULL$", "", kind)
                made[table].append((name.strip('"`'), kind))
    for name, _, inner in _PG_INDEX.findall(text):
        found[name] = inner.replace('"', "").replace(" ", "")
    return made, found


def captured(case: Case) -> dict[str, list[Row]]:
    """Return the rows of the capture by table, with lists that are lists."""
    found: dict[str, list[Row]] = {}
    for line in json_lines(case.files["expected.jsonl"]):
        found.setdefault(line["table"], []).append(line["row"])
    if "simple" in case.name:
        # The reference's driver has sent their JSON as bytes there.
        for table in found.values():
            for row in table:
                row.update(_unhexed(row))
    return found


def _unhexed(row: Row) -> Row:
    return {
        name: bytes.fromhex(value[2:]).decode()
        for name, value in row.items()
        if isinstance(value, str) and _HEX.fullmatch(value)
    }


def same(found: Mapping[str, list[Row]], expected: Mapping[str, list[Row]]) -> None:
    """Compare the rows of all tables that have any."""
    found = {name: rows for name, rows in found.items() if rows}
    assert list(found) == sorted(expected)
    for name, rows in expected.items():
        assert len(found[name]) == len(rows)
        for one, other in zip(found[name], rows, strict=True):
            different = {
                key: (one.get(key), value)
                for key, value in other.items()
                if one.get(key) != value
            }
            assert not different, different
            assert set(one) == set(other)
