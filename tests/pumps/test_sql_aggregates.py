"""Aggregated rows on real servers: sums, minima, keys, options, faults, each once."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.database import Database, Databases
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tyk_pump import pumps
from tyk_pump.config.options import Secret
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record.analytics import (
    MAX_INT,
    AnalyticsRecord,
    GraphQLStats,
    Latency,
    MCPStats,
    Network,
)
from tyk_pump.transport.sql import MySqlOptions
from tyk_pump.transport.sql_dialects import MySql, _has_row_alias

HOUR = 1_773_478_800  # 2026-03-14 09:00 UTC
TABLE = "tyk_aggregated"
SERVERS = ("postgres", "mysql")
INCOMPRESSIBLE = "".join(sha256(b"%d" % n).hexdigest() for n in range(200))


class Store:
    """An empty database, and pumps on it."""

    def __init__(self, kind: str, dsn: str, database: Database | None) -> None:
        self.kind = kind
        self.dsn = dsn
        self.database = database
        self.timestamp = "`timestamp`" if kind == "mysql" else '"timestamp"'

    def pump(
        self, kind: str = "sql_aggregate", *, dsn: str = "", **options: Any
    ) -> Pump:
        """Return an open pump."""
        made = pumps.load(kind)
        chosen = {"type": self.kind, "connection_string": Secret(dsn or self.dsn)}
        pump = made(made.options_type(**{**chosen, **options}))
        pump.open()
        return pump

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Run a statement; return its rows."""
        if self.database is not None:
            return self.database.query(text)
        connection = sqlite3.connect(self.dsn)
        try:
            found = connection.execute(text).fetchall()
            connection.commit()
            return found
        finally:
            connection.close()

    def rows(self, columns: str, table: str = TABLE) -> dict[tuple[str, str], Any]:
        """Return columns of rows by dimension and value."""
        found = self.query(f"SELECT dimension, dimension_value, {columns} FROM {table}")
        return {(row[0], row[1]): row[2:] for row in found}

    def hits(self, table: str = TABLE) -> int:
        """Return the hits of all hours."""
        sql = f"SELECT counter_hits FROM {table} WHERE dimension = ''"
        return sum(row[0] for row in self.query(sql))

    def all(self) -> list[list[Any]]:
        """Return all rows, with averages that can be compared."""
        return [
            [round(float(x), 6) if i in AVERAGES else x for i, x in enumerate(row)]
            for row in self.query(f"SELECT * FROM {TABLE} ORDER BY id")
        ]


AVERAGES = (4, 5, 16, 20)
"""Where the numbers stand that are no whole ones."""


def make(request: pytest.FixtureRequest, folder: Path, kind: str) -> Store:
    """Return an empty database of a kind."""
    if kind == "sqlite":
        return Store(kind, str(folder / "file.sqlite"), None)
    name = "maria_server" if kind == "mysql" else "postgres_server"
    databases: Databases = request.getfixturevalue(name)
    utf8 = {"CHARACTER SET": "utf8mb4"} if kind == "mysql" else {}
    database = databases.database(**utf8)
    return Store(kind, database.dsn, database)


@pytest.fixture(params=(*SERVERS, "sqlite"))
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of database."""
    return make(request, tmp_path, request.param)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind that is a server."""
    return make(request, tmp_path, request.param)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """PostgreSQL."""
    return make(request, tmp_path, "postgres")


@pytest.fixture
def maria(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """MariaDB."""
    return make(request, tmp_path, "mysql")


def record(**fields: Any) -> AnalyticsRecord:
    """Return a record with its path tracked, without latency unless given."""
    latency = fields.pop("latency", 0)
    plain: dict[str, Any] = {
        "org_id": "o",
        "api_id": "a",
        "path": "/p",
        "track_path": True,
        "response_code": 200,
        "timestamp": (HOUR, 0),
        "latency": Latency(total=latency, upstream=latency),
        "request_time": latency,
    }
    return AnalyticsRecord(**{**plain, **fields})


def varied(number: int) -> AnalyticsRecord:
    """Return one of many different records of three hours."""
    return record(
        api_id=f"a{number % 3}",
        api_key=f"k{number % 5}",
        path=f"/p/{number % 7}",
        response_code=(200, 404, 301, 500, 200)[number % 5],
        latency=number * 7 % 31 + 1,
        timestamp=(HOUR + number * 311 % 10_800, number),
        tags=[f"t{number % 4}"],
    )


def batch(
    records: Sequence[AnalyticsRecord],
    first: int = 0,
    *,
    stream: str = "S",
    positions: Sequence[int] | None = None,
) -> Batch:
    """Return a run of a stream."""
    if positions is None:
        positions = range(first, first + len(records))
    return Batch(
        stream=stream,
        lane=0,
        list="l",
        positions=positions,
        records=records,
        cursor="p",
    )


def insist(store: Store, what: Batch, *, dsn: str = "") -> None:
    """Write until it is done, with a new pump where need be."""
    for _ in range(200):
        try:
            pump = store.pump(dsn=dsn)
        except TransientError:
            time.sleep(0.02)
            continue
        try:
            pump.write(what)
            return
        except TransientError:
            time.sleep(0.02)
        finally:
            pump.close()
    raise AssertionError("never done")


def at_once(*jobs: Callable[[], None]) -> None:
    """Run functions in threads of their own; see that none fails."""
    failed: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as exc:
            failed.append(exc)

    running = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        raise failed[0]


# Once


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_windows_and_repeats_change_nothing(db: Store, data: st.DataObject) -> None:
    """Wherever a retry begins and ends: the same rows as from one write."""
    positions = sorted(data.draw(st.sets(st.integers(0, 80), min_size=1)))
    pump = db.pump(batch_size=7)
    for table in (TABLE, "_tyk_pump_watermarks"):
        db.query(f"DELETE FROM {table}")
    pump.close()
    pump = db.pump(batch_size=7)
    done = 0
    while done < len(positions):
        begin = data.draw(st.integers(0, done))
        end = data.draw(st.integers(done + 1, len(positions)))
        part = positions[begin:end]
        if data.draw(st.booleans()):
            pump.close()
            pump = db.pump(batch_size=7)
        pump.write(batch([varied(n) for n in part], positions=part))
        done = end
    pump.close()
    found = db.all()
    db.query(f"DELETE FROM {TABLE}")
    pump = db.pump()
    pump.write(batch([varied(n) for n in positions], stream="other"))
    pump.close()
    assert found == db.all()


def proxied(store: Store, proxy: Proxy) -> str:
    """Return the store's connection string through a proxy."""
    assert store.database is not None
    port = str(store.database.port)
    assert port in store.dsn
    return store.dsn.replace(port, str(proxy.port), 1)


def test_a_commit_without_an_answer(server: Store) -> None:
    """The rows are there or not; the retry finds out."""
    assert server.database is not None
    with Proxy("127.0.0.1", server.database.port) as proxy:
        pump = server.pump(dsn=proxied(server, proxy))
        pump.write(batch([varied(n) for n in range(20)]))
        for first in (20, 40, 60):
            part = batch([varied(n) for n in range(first, first + 20)], first)
            proxy.lose_answer()
            with pytest.raises(TransientError):
                pump.write(part)
            proxy.heal()
            pump.write(part)
        pump.close()
    assert server.hits() == 80


@pytest.mark.parametrize("size", [100, 1500, 6000, 12_000, 20_000])
def test_cut_in_the_middle(server: Store, size: int) -> None:
    """Nothing is applied by halves, whichever byte was the last."""
    assert server.database is not None
    with Proxy("127.0.0.1", server.database.port) as proxy:
        pump = server.pump(dsn=proxied(server, proxy))
        pump.write(batch([varied(n) for n in range(20)]))
        part = batch([varied(n) for n in range(10, 60)], 10)
        proxy.cut_after(size)
        try:
            pump.write(part)
        except TransientError:
            proxy.heal()
            pump.write(part)
        pump.close()
    assert server.hits() == 60


def test_several_instances_in_the_same_hour(server: Store) -> None:
    """Sums are exact; who is locked out comes again."""

    def instance(stream: str) -> Callable[[], None]:
        def run() -> None:
            for first in range(0, 200, 20):
                part = [varied(n) for n in range(first, first + 20)]
                insist(server, batch(part, first, stream=stream))

        return run

    server.pump().close()
    at_once(instance("A"), instance("B"), instance("C"))
    columns = (
        "id, counter_hits, counter_error, counter_success, counter_total_latency,"
        " code_404, code_500"
    )
    together = {
        row[0]: row[1:] for row in server.query(f"SELECT {columns} FROM {TABLE}")
    }
    server.query(f"DELETE FROM {TABLE}")
    pump = server.pump()
    pump.write(batch([varied(n) for n in range(200)], stream="D"))
    pump.close()
    alone = {row[0]: row[1:] for row in server.query(f"SELECT {columns} FROM {TABLE}")}
    assert together == {key: tuple(3 * x for x in row) for key, row in alone.items()}


@pytest.mark.parametrize("kind", SERVERS)
def test_killed_in_the_middle(
    kind: str,
    make_postgres: Callable[..., PostgresServer],
    make_maria: Callable[..., MariaServer],
) -> None:
    """A database that dies again and again while batches come has each record once."""
    own = make_postgres() if kind == "postgres" else make_maria()
    database = own.database()
    store = Store(kind, database.dsn, database)
    finished = threading.Event()

    def feed() -> None:
        try:
            for first in range(0, 600, 20):
                part = [varied(n) for n in range(first, first + 20)]
                # From a little before: what may have been done is sent again.
                early = [varied(n) for n in range(max(0, first - 10), first)]
                insist(store, batch(early + part, first - len(early)))
        finally:
            finished.set()

    def die() -> None:
        for _ in range(3):
            if finished.wait(0.3):
                return
            own.kill()
            own.restart()

    at_once(feed, die)
    assert store.hits() == 600


def test_a_deadlock_is_tried_again(server: Store) -> None:
    """The database took back all of it: nothing is applied, nothing is refused."""
    assert server.database is not None
    pump = server.pump()
    server.database.refuse(TABLE, "40P01" if server.kind == "postgres" else "1213")
    with pytest.raises(TransientError):
        pump.write(batch([record()]))
    server.database.accept(TABLE)
    pump.write(batch([record()]))
    pump.close()
    assert server.hits() == 1


def test_without_watermarks_a_repeat_counts(db: Store) -> None:
    """That is what `once` says."""
    pump = db.pump(once=False)
    pump.write(batch([record()]))
    pump.write(batch([record()]))
    pump.close()
    assert db.hits() == 2


def test_a_refused_record_is_named(db: Store) -> None:
    """All others are counted, in any part of the batch; a repeat says it again."""
    if db.kind == "sqlite":
        pytest.skip("it takes every record")
    beyond = record(timestamp=(10**13, 0))
    what = [varied(n) for n in range(9)]
    what[4] = beyond
    pump = db.pump()
    for _ in range(2):
        with pytest.raises(RejectedRecords) as caught:
            pump.write(batch(what))
        assert list(caught.value.rejected) == [4]
        assert db.hits() == 8
    with pytest.raises(RejectedRecords) as caught:
        pump.write(batch([beyond], 9))
    assert list(caught.value.rejected) == [0]
    pump.close()


# Values


def test_a_minimum_that_there_is_not(db: Store) -> None:
    """It is NULL, and an error's latency is none."""
    what = [
        record(response_code=500, latency=1),
        record(response_code=500, latency=2),
        record(latency=9),
        record(latency=0),
        record(response_code=404, latency=3),
    ]
    found = []
    pump = db.pump()
    for at, one in enumerate(what):
        pump.write(batch([one], at))
        found.append(db.rows("counter_min_latency")["", "total"][0])
    pump.close()
    assert found == [None, None, 9, 0, 0]
    assert db.rows("counter_max_latency")["", "total"] == (9,)


def test_rows_of_the_reference_are_added_to(db: Store) -> None:
    """An error's minimum of theirs is left behind by the first hit; so is a 0."""
    db.pump().close()
    total = f"{HOUR}ototal".encode().hex()
    api = f"{HOUR}oapiida".encode().hex()
    columns = (
        "id, counter_hits, counter_success, counter_error, counter_request_time,"
        " counter_total_request_time, counter_min_latency, counter_max_latency,"
        f" counter_total_latency, {db.timestamp},"
        " org_id, dimension, dimension_value, code_500"
    )
    for values in (
        f"'{total}', 2, 0, 2, 5, 10, 3, 7, 10, {HOUR}, 'o', '', 'total', 2",
        f"'{api}', 0, 0, 0, 0, 0, 0, 0, 0, {HOUR}, 'o', 'apiid', 'a', 0",
    ):
        db.query(f"INSERT INTO {TABLE} ({columns}) VALUES ({values})")
    pump = db.pump()
    pump.write(batch([record(latency=20), record(response_code=500, latency=1)]))
    pump.close()
    found = db.rows(
        "counter_hits, counter_success, counter_error, counter_total_request_time,"
        " counter_min_latency, counter_max_latency, code_500, counter_bytes_in,"
        " counter_request_time"
    )
    assert [float(x) for x in found["", "total"]] == [4, 1, 3, 31, 20, 20, 3, 0, 7.75]
    assert [float(x) for x in found["apiid", "a"]] == [2, 1, 1, 21, 20, 20, 1, 0, 10.5]


def test_rows_without_hits(db: Store) -> None:
    """Reports of the network alone, twice: nothing is divided by zero."""
    report = record(response_code=-1, network=Network(bytes_in=5, open_connections=1))
    pump = db.pump()
    pump.write(batch([report]))
    pump.write(batch([report], 1))
    pump.close()
    found = db.rows("counter_hits, counter_bytes_in, counter_latency")
    assert [float(x) for x in found["", "total"]] == [0, 10, 0]
    assert [float(x) for x in found["apiid", "a"]] == [0, 10, 0]


def test_sums_end_at_64_bits(db: Store) -> None:
    """Within a write and across writes, and the average with them."""
    pump = db.pump()
    for at in range(3):
        pump.write(batch([record(latency=MAX_INT - 5)] * 2, at * 2))
    pump.close()
    (found,) = {
        row for key, row in db.rows("counter_total_latency").items() if key[0] == ""
    }
    assert found == (MAX_INT,)


def test_averages_of_many_hits(db: Store) -> None:
    """They do not lose what a 32-bit number cannot hold."""
    pump = db.pump()
    pump.write(batch([record(latency=3)]))
    db.query(f"UPDATE {TABLE} SET counter_hits = 16777216, counter_total_latency = 0")
    pump.write(batch([record(latency=16_777_217)], 1))
    pump.close()
    assert float(db.rows("counter_latency")["", "total"][0]) == pytest.approx(1, 1e-14)


def test_odd_texts(db: Store) -> None:
    """NUL, bytes that are no UTF-8, quotes, braces, NULL: each key has its row."""
    keys = [
        "a\0b",
        "a\udcffb",
        'q"q',
        "b\\s",
        "{x,y}",
        "NULL",
        "null",
        "",
        "'; --",
        "é€😀",
    ]
    pump = db.pump()
    pump.write(batch([record(api_key=key, tags=[key]) for key in keys]))
    pump.write(batch([record(api_key=key, tags=[key]) for key in keys], len(keys)))
    pump.close()
    for dimension in ("apikeys", "tags"):
        found = [
            (row[0], row[1])
            for row in db.query(
                "SELECT dimension_value, counter_hits FROM"
                f" {TABLE} WHERE dimension = '{dimension}'"
            )
        ]
        assert len(found) == len(keys) - 1
        assert {hits for _, hits in found} == {2}
        assert {key for key in keys[2:] if key} <= {value for value, _ in found}


# Long keys


def test_keys_as_long_as_they_are(db: Store) -> None:
    """What an index has room for stays; what not is cut, with a check sum."""
    plain, odd = "/a" * 4000, f"/{INCOMPRESSIBLE}"
    pump = db.pump()
    for at in range(2):
        what = [record(path=plain), record(path=odd), record(path=odd + "!")]
        pump.write(batch(what, at * 3))
    pump.close()
    found = {
        row[0]: row[1]
        for row in db.query(
            f"SELECT id, counter_hits FROM {TABLE} WHERE dimension = 'apiendpoints'"
        )
    }
    assert list(found.values()) == [2, 2, 2]
    whole = f"{HOUR}oapiendpoints{f'a::{plain}'.encode().hex()}".encode().hex()
    assert (whole in found) == (db.kind != "mysql")
    if db.kind != "sqlite":
        assert min(map(len, found)) == 191


@pytest.mark.parametrize("size", [20, 100])
def test_narrow_columns(maria: Store, size: int) -> None:
    """Texts are cut to what the table's columns take, also in a table that is there."""
    maria.pump(mysql=MySqlOptions(default_string_size=size)).close()
    pump = maria.pump()
    for at in range(2):
        what = [record(path=f"/{'x' * 200}{n}", api_name="n" * 300) for n in range(3)]
        pump.write(batch(what, at * 3))
    pump.close()
    found = maria.query(
        f"SELECT counter_hits FROM {TABLE} WHERE dimension = 'endpoints'"
    )
    assert list(found) == [(2,), (2,), (2,)]


# GraphQL and MCP


@pytest.mark.parametrize(
    ("kind", "table", "fields"),
    [
        (
            "sql-graph-aggregate",
            "tyk_graph_aggregated",
            {"graphql_stats": GraphQLStats(is_graphql=True)},
        ),
        (
            "sql-mcp-aggregate",
            "tyk_mcp_aggregated",
            {"mcp_stats": MCPStats(is_mcp=True)},
        ),
    ],
)
def test_an_api_id_of_two_organisations(
    db: Store, kind: str, table: str, fields: dict[str, Any]
) -> None:
    """Each has its own rows, in the same write and in later ones; ids stay."""
    pump = db.pump(kind)
    for at in range(3):
        orgs = ("o1", "o2") if at else ("o2",)
        what = [record(org_id=org, **fields) for org in orgs]
        pump.write(batch(what, at * 2))
    pump.close()
    found = db.query(
        f"SELECT id, org_id, api_id, counter_hits FROM {table} WHERE dimension = ''"
    )
    assert sorted(found) == sorted(
        [
            (f"{HOUR}atotal".encode().hex(), "o2", "a", 3),
            (f"{HOUR}o1atotal".encode().hex(), "o1", "a", 2),
        ]
    )


def test_ids_that_are_one(db: Store) -> None:
    """They have no separators: what makes the same id shares a row."""
    what = [record(org_id="o"), record(org_id="oa", api_id="", path="")]
    twin = record(org_id="", api_id="")
    pump = db.pump()
    pump.write(batch([*what, twin]))
    again = [
        record(org_id="x", api_id="", tags=["apiidy"], track_path=False),
        record(org_id="xtags", api_id="y", track_path=False),
    ]
    pump.write(batch(again, 3))
    pump.close()
    shared = f"{HOUR}xtagsapiidy".encode().hex()
    assert [
        tuple(row)
        for row in db.query(
            f"SELECT org_id, counter_hits FROM {TABLE} WHERE id = '{shared}'"
        )
    ] == [("x", 2)]


# Options


def test_rows_of_minutes(db: Store) -> None:
    """`store_analytics_per_minute`."""
    what = [record(timestamp=(HOUR + seconds, 0)) for seconds in (0, 59, 60, 3599)]
    pump = db.pump(store_analytics_per_minute=True)
    pump.write(batch(what))
    pump.close()
    quote = "`" if db.kind == "mysql" else '"'
    sql = (
        f"SELECT {quote}timestamp{quote}, counter_hits FROM {TABLE} WHERE dimension=''"
    )
    assert sorted(map(tuple, db.query(sql))) == [
        (HOUR, 2),
        (HOUR + 60, 1),
        (HOUR + 3540, 1),
    ]


def test_a_table_for_each_day(server: Store) -> None:
    """With its index; older ones get what they lack when they are written to."""
    assert server.database is not None
    key = "varchar(191)" if server.kind == "mysql" else "text"
    server.query(f"CREATE TABLE {TABLE}_20260315 (id {key} PRIMARY KEY)")
    pump = server.pump(table_sharding=True)
    days = [record(timestamp=(HOUR + day * 86_400, 0)) for day in (1, 0, 1, 2)]
    pump.write(batch(days))
    pump.close()
    hits = [server.hits(f"{TABLE}_2026031{day}") for day in (4, 5, 6)]
    assert hits == [1, 2, 1]
    for day in (4, 5, 6):
        assert indexes(server, f"{TABLE}_2026031{day}") == {
            f"{TABLE}_2026031{day}_idx_dimension"
        }
    assert TABLE not in server.database.tables()


def indexes(store: Store, table: str) -> set[str]:
    """Return the names of indexes that are no keys."""
    if store.kind == "mysql":
        found = {row[2] for row in store.query(f"SHOW INDEX FROM {table}")}
    else:
        sql = f"SELECT indexname FROM pg_indexes WHERE tablename = '{table}'"
        found = {row[0] for row in store.query(sql)}
    return {name for name in found if name != "PRIMARY" and not name.endswith("pkey")}


def test_an_index_that_lacks_and_one_that_is_not_wanted(server: Store) -> None:
    """`omit_index_creation`, for a table of our own and for one that was there."""
    server.pump(omit_index_creation=True).close()
    assert indexes(server, TABLE) == set()
    server.pump(omit_index_creation=True).close()
    assert indexes(server, TABLE) == set()
    server.pump().close()
    assert indexes(server, TABLE) == {f"{TABLE}_idx_dimension"}


def test_what_is_not_counted(db: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Ignored dimensions and tags; an unknown name is said at the start, once."""
    pump = db.pump(
        ignore_aggregations=["Errors", "apikeys", "Keys"],
        ignore_tag_prefix_list=["x"],
        track_all_paths=True,
    )
    what = record(
        api_key="k", tags=["x1", "y"], response_code=400, track_path=False, path="/q"
    )
    pump.write(batch([what]))
    pump.write(batch([what], 1))
    pump.close()
    found = {key for key in db.rows("id") if key[0] not in {"apiendpoints"}}
    assert {name for name, _ in found} == {
        *("", "apiid", "tags", "endpoints", "keyendpoints"),
    }
    assert ("tags", "y") in found and ("tags", "x1") not in found
    said = [r for r in caplog.records if r.getMessage() == "no dimension to ignore"]
    assert [getattr(r, "reason", "") for r in said] == ["Keys"]


def test_many_tags_are_said(db: Store, caplog: pytest.LogCaptureFixture) -> None:
    """`threshold_len_tag_list`, with what they have in common."""
    caplog.set_level(logging.WARNING)
    tags = [f"user-{n}" for n in range(4)]
    for most, told in ((4, 0), (3, 1), (-1, 0), (0, 0)):
        caplog.clear()
        pump = db.pump(threshold_len_tag_list=most)
        pump.write(batch([record(tags=tags)], stream=f"S{most}"))
        pump.close()
        said = [r for r in caplog.records if "tags" in r.getMessage()]
        assert len(said) == told
        assert all("user-" in getattr(r, "reason", "") for r in said)


def test_nothing_to_count_touches_nothing(db: Store) -> None:
    """A batch of other records does not reach the database; it is left out."""
    pump = db.pump()
    pump.close()
    graph = record(graphql_stats=GraphQLStats(is_graphql=True))
    none = batch([graph, record(org_id="")])
    pump.write(none)
    assert (db.hits(), none.left_out) == (0, 2)
    some = batch([graph, record(), record(org_id="")])
    db.pump().write(some)
    assert (db.hits(), some.left_out) == (1, 2)


@pytest.mark.parametrize(
    ("version", "alias"),
    [
        ("8.0.36", True),
        ("9.1.0", True),
        ("8.0.18", False),
        ("5.7.44-log", False),
        ("8.0.11-TiDB-v7.5.0", False),
        ("10.11.6-MariaDB-0+deb12u1", False),
        ("5.5.5-10.11.6-MariaDB", False),
        ("odd", False),
    ],
)
def test_how_a_server_names_the_new_row(version: str, alias: bool) -> None:
    """MySQL takes VALUES() away, MariaDB does not know what replaces it."""
    assert _has_row_alias(version) is alias
    dialect = MySql("u:p@tcp(h:1)/d")
    dialect._row_alias = alias
    words = dialect.upsert("`t`")
    assert words.incoming == ("incoming.{}" if alias else "VALUES({})")
    assert words.update.startswith(" AS incoming ON") == alias
