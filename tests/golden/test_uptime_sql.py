"""Uptime reports in SQL: the reference's rows and tables, on real servers."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from tests.golden.deliver import deliver
from tests.golden.loader import Case, cases
from tests.golden.sql import (
    Row,
    captured,
    columns,
    database_of,
    indexes,
    named,
    rows,
    schema,
    tables,
)
from tyk_pump.record import uptime

TABLE = "tyk_uptime_analytics"
FOUND = cases("uptime-sql")
NOTHING = {"mysql", "minus1-crash"}
"""Cases in which the reference stored nothing."""
FROZEN = ("counter_request_time", "counter_last_time", "counter_total_request_time")
"""The reference's average is that of the first purge, and so is the time; the total
has no time at all. Sums of times are inexact."""
SUMS = (
    *("counter_hits", "counter_success", "counter_error"),
    *("code_200", "code_201", "code_2x", "code_4x", "code_404", "code_5x", "code_500"),
)

Sums = dict[tuple[str, str, str], Counter[str]]


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_golden(
    case: Case,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows, tables, columns and indexes are those of the reference."""
    database = database_of(case, request)
    done = deliver(case, database.live, tmp_path, monkeypatch)
    assert done.openings == [] and done.refused == {}
    assert done.settled == len(done.names)
    found, expected = rows(database), captured(case) if case.name not in NOTHING else {}
    ours = {name: by_id(table) for name, table in found.items() if table}
    theirs = {name: by_id(table) for name, table in expected.items()}
    for row in (row for table in found.values() for row in table):
        hits = row["counter_hits"]
        total = Fraction(str(row["counter_total_request_time"]))
        mean = float(total / hits) if hits else 0
        assert float(row["counter_request_time"]) == pytest.approx(mean)
    if one_hour_each(case):
        assert ours == theirs
        assert times(found) == pytest.approx(times(expected), rel=1e-14)
    elif case.name in NOTHING:
        assert hits_of(found) == pushed(case)
    else:
        # It books a whole purge on the hour, and the day, of its first report.
        assert sums(found) == sums(expected)
        assert times(found) == pytest.approx(times(expected), rel=1e-14)
    made, indexed = schema(case)
    for table in tables(database):
        if named(table) in made:
            mine, theirs_ = columns(database, table), made[named(table)]
            if "prepare_sql" in case.about:
                # The reference adds columns in an order of its own.
                mine, theirs_ = sorted(mine), sorted(theirs_)
            # In MySQL it cuts long URLs, for an index; ours has their beginnings.
            wide = [(n, k.replace("varchar(191)", "longtext")) for n, k in theirs_[1:]]
            assert mine[1:] == wide
    # Under names of their own: the reference's is good for one table only.
    kept = list(indexes(database).values())
    assert all(columns_ in kept for columns_ in indexed.values())
    assert len(kept) >= len([t for t in tables(database) if "20260101" not in t])


def by_id(table: list[Row]) -> dict[str, Row]:
    """Return what is to be the same, by id."""
    return {
        row["id"]: {k: v for k, v in row.items() if k not in FROZEN} for row in table
    }


def one_hour_each(case: Case) -> bool:
    """Say whether each purge has reports of one hour (and day) only."""
    return case.name not in NOTHING and all(
        len({report.timestamp[0] // 3600 for report in reports if report.org_id}) == 1
        for reports in decoded(case)
    )


def decoded(case: Case) -> list[list[uptime.UptimeRecord]]:
    """Return the reports of each purge."""
    return [
        [uptime.decode(wire.msgpack or b"") for _, _, wire in purge]
        for purge in case.purges()
    ]


def sums(found: dict[str, list[Row]]) -> Sums:
    """Return what is added up over all hours and tables."""
    made: Sums = {}
    for row in (row for table in found.values() for row in table):
        key = row["org_id"], row["dimension"], row["dimension_value"]
        counts = made.setdefault(key, Counter())
        for name in SUMS:
            counts[name] += int(row[name])
    return made


def times(found: dict[str, list[Row]]) -> dict[tuple[str, str, str], float]:
    """Return the request times, added up over all hours and tables."""
    made: dict[tuple[str, str, str], float] = {}
    for row in (row for table in found.values() for row in table):
        key = row["org_id"], row["dimension"], row["dimension_value"]
        made[key] = made.get(key, 0) + float(row["counter_total_request_time"])
    return made


def hits_of(found: dict[str, list[Row]]) -> int:
    """Return the hits in all totals."""
    return sum(
        int(row["counter_hits"])
        for table in found.values()
        for row in table
        if row["dimension_value"] == "total" and not row["dimension"]
    )


def pushed(case: Case) -> int:
    """Return how many reports are hits of an organisation."""
    return sum(
        report.org_id != "" and report.response_code != -1
        for reports in decoded(case)
        for report in reports
    )
