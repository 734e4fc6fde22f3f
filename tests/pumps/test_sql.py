"""The SQL pumps on real servers: rows, tables, options, faults, each record once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pumps.stores import (
    KINDS,
    MARKS,
    NOW,
    Store,
    batch,
    batches,
    failing,
    numbered,
    proxied,
    record,
    store,
    threads,
)
from tests.servers.database import PASSWORD
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.record.analytics import ZERO_TIME, GraphQLStats, MCPStats
from tyk_pump.record.columns import ANALYTICS, INDEXED
from tyk_pump.transport import sql as transport

SERVERS = ("postgres", "mysql")


@pytest.fixture(params=KINDS)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database of each kind."""
    made = store(request, tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database of each kind that is a server."""
    made = store(request, tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database of PostgreSQL."""
    made = store(request, tmp_path, "postgres")
    yield made
    made.close()


@pytest.fixture
def maria(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database of MariaDB."""
    made = store(request, tmp_path, "mysql")
    yield made
    made.close()


# Once


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_random_windows_and_repeats_store_each_record_once(
    db: Store, data: st.DataObject
) -> None:
    """Wherever a retry begins and ends, and whichever records were filtered."""
    stream = f"S{time.monotonic_ns()}"
    positions = sorted(data.draw(st.sets(st.integers(0, 60), min_size=1)))
    names = {at: f"{stream}-{at}" for at in positions}
    done = 0
    pump = db.pump(batch_size=7)
    while done < len(positions):
        # What was written last may be written again, from any earlier place.
        begin = data.draw(st.integers(0, done))
        end = data.draw(st.integers(done + 1, len(positions)))
        part = positions[begin:end]
        made = batch([record(names[at]) for at in part], stream=stream)
        made.positions = part
        if data.draw(st.booleans()):
            pump.close()
            pump = db.pump(batch_size=7)
        pump.write(made)
        done = end
    pump.close()
    found = [name for name in db.aliases() if name.startswith(f"{stream}-")]
    assert found == [names[at] for at in positions]


def test_a_commit_without_an_answer(server: Store) -> None:
    """The rows are there or not; the retry finds out."""
    with proxied(server) as (proxy, dsn):
        pump = server.pump(dsn=dsn)
        pump.write(batches(numbered(0, 5)))
        proxy.lose_answer()
        failing(pump, batches(numbered(5, 10), 5))
        proxy.heal()
        pump.write(batches(numbered(5, 10), 5))
        pump.close()
    assert server.aliases() == numbered(0, 10)


@pytest.mark.parametrize("size", [1, 200, 3000, 20_000, 60_000])
def test_a_connection_that_breaks_at_any_byte(server: Store, size: int) -> None:
    """In the middle of a statement, too."""
    names = numbered(0, 100)
    with proxied(server) as (proxy, dsn):
        pump = server.pump(dsn=dsn, batch_size=10)
        proxy.cut_after(size)
        for first in range(0, 100, 20):
            written = batches(names[first : first + 20], first)
            try:
                pump.write(written)
            except TransientError:
                proxy.heal()
                pump.write(written)
        pump.close()
    assert server.aliases() == names


def test_a_commit_that_was_done_but_fails(
    db: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is when the server dies between the two."""
    pump: Any = db.pump()
    dialect = pump._store._database.dialect
    commit = dialect.engine.dialect.do_commit
    error = dialect.errors[0]
    left = [2]

    def once(connection: Any) -> None:
        commit(connection)
        left[0] -= 1
        if left[0] == 0:
            raise error("gone away")

    pump.write(batches(["a"]))
    monkeypatch.setattr(dialect.engine.dialect, "do_commit", once)
    left[0] = 1
    failing(pump, batches(["b", "c"], 1))
    pump.write(batches(["b", "c", "d"], 1))
    assert db.aliases() == ["a", "b", "c", "d"]


def test_refused_records_stay_refused_when_the_answer_is_lost(db: Store) -> None:
    """They are dead letters of the retry, too: nobody has heard of them."""
    _refuse(db, "bad")
    pump = db.pump()
    written = batches(["a", "bad", "b", "bad", "c"])
    for _ in range(2):
        with pytest.raises(RejectedRecords) as found:
            pump.write(written)
        assert sorted(found.value.rejected) == [1, 3]
        assert all(found.value.rejected.values())
        pump.close()
        pump = db.pump()
    assert db.aliases() == ["a", "b", "c"]


def test_a_batch_that_is_refused_as_a_whole_is_tried_again(db: Store) -> None:
    """The fault may be ours, and pass: nothing is marked as done."""
    _refuse(db, "bad")
    pump = db.pump()
    with pytest.raises(RejectedRecords) as found:
        pump.write(batches(["bad", "bad"]))
    assert sorted(found.value.rejected) == [0, 1]
    _accept(db)
    pump.write(batches(["bad", "bad"]))
    assert db.aliases() == ["bad", "bad"]


def _refuse(db: Store, name: str) -> None:
    """Let the table not take records of this name."""
    db.pump().close()
    if db.kind == "sqlite":
        db.query(
            "CREATE TRIGGER r BEFORE INSERT ON tyk_analytics WHEN NEW.alias = "
            f"'{name}' BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    else:
        db.query(
            f"ALTER TABLE tyk_analytics ADD CONSTRAINT r CHECK (alias <> '{name}')"
        )


def _accept(db: Store) -> None:
    if db.kind == "sqlite":
        db.query("DROP TRIGGER r")
    else:
        db.query("ALTER TABLE tyk_analytics DROP CONSTRAINT r")


def test_streams_and_cursors_do_not_mix(db: Store) -> None:
    """Each has a watermark of its own: a replay, a lane, another pump."""
    pump = db.pump()
    for stream, cursor in (("S", "A"), ("S", "A 1"), ("R", "A"), ("S", "x" * 300)):
        made = batches([f"{stream} {cursor[:9]}"], 0, stream)
        made.cursor = cursor
        pump.write(made)
        pump.write(made)
    assert len(db.aliases()) == 4


def test_watermarks_of_streams_long_gone_are_removed(db: Store) -> None:
    """When a new stream comes."""
    pump = db.pump()
    pump.write(batches(["a"], 0, "OLD"))
    pump.write(batches(["b"], 0, "YOUNG"))
    old = int(time.time()) - transport.KEEP_SECONDS - 1
    db.query(f'UPDATE "{MARKS}" SET "touched_at" = {old} WHERE "stream" = \'OLD\'')
    pump.write(batches(["c"], 0, "NEW"))
    found = db.query(f'SELECT "stream", "position" FROM "{MARKS}" ORDER BY 1')
    assert found == [("NEW", 1), ("YOUNG", 1)]
    # Should it come back, it begins anew.
    failing(pump, batches(["d"], 1, "OLD"))
    pump.write(batches(["d"], 1, "OLD"))
    assert db.aliases() == ["a", "b", "c", "d"]


def test_without_once_there_is_no_table_of_ours(db: Store) -> None:
    """Then a repeated batch is there twice."""
    pump = db.pump(once=False)
    pump.write(batches(["a"]))
    pump.write(batches(["a"]))
    assert db.aliases() == ["a", "a"]
    found = db.database.tables() if db.database else db.tables()
    assert MARKS not in found


def test_a_right_that_is_missing_is_told(postgres: Store) -> None:
    """Which table, and which option does without it."""
    postgres.pump(once=False).close()
    postgres.query("DROP ROLE IF EXISTS weak")
    postgres.query("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    postgres.query("GRANT INSERT, SELECT ON tyk_analytics TO weak")
    dsn = postgres.dsn.replace("user=tyk", "user=weak")
    dsn = dsn.replace(f"password={PASSWORD}", "password=weak")
    try:
        with pytest.raises(TransientError, match=r"permission denied.*option once"):
            postgres.pump(dsn=dsn)
        pump = postgres.pump(dsn=dsn, once=False)
        pump.write(batches(["a"]))
        assert postgres.aliases() == ["a"]
        pump.close()
    finally:
        postgres.query("DROP OWNED BY weak")
        postgres.query("DROP ROLE weak")


def test_two_instances_at_once(db: Store) -> None:
    """They make the same tables of days, and write into them, without a dead lock."""
    days = [(NOW[0] + day * 86_400, 0) for day in range(6)]

    def write(stream: str) -> None:
        pump = db.pump(table_sharding=True)
        for number in range(6):
            ordered = days if stream == "A" else days[::-1]
            records = [record(f"{stream}{number}", timestamp=at) for at in ordered]
            made = batch(records, number * 6, stream)
            for _ in range(20):
                try:
                    pump.write(made)
                    break
                except TransientError:
                    continue
        pump.close()

    threads(partial(write, "A"), partial(write, "B"))
    expected = sorted(f"{stream}{number}" for stream in "AB" for number in range(6))
    for at in days:
        day = time.strftime("%Y%m%d", time.gmtime(at[0]))
        assert sorted(db.aliases(f"tyk_analytics_{day}")) == expected


def test_an_old_incarnation_cannot_write_beside_the_new_one(server: Store) -> None:
    """Both have the same window: one waits for the other, and finds it done."""
    names = numbered(0, 300)

    def write() -> None:
        pump = server.pump()
        for first in range(0, 300, 50):
            written = batches(names[first : first + 50], first)
            while True:
                try:
                    pump.write(written)
                    break
                except TransientError:
                    continue
        pump.close()

    threads(write, write, write)
    assert server.aliases() == names


# Servers that fail


@pytest.mark.parametrize("fixture", ["make_postgres", "make_maria"])
def test_a_server_that_is_killed(request: pytest.FixtureRequest, fixture: str) -> None:
    """Writes fail while it is away, and go on when it is back; each record once."""
    made: PostgresServer | MariaServer = request.getfixturevalue(fixture)()
    database = made.database()
    found = Store(database.dialect, database.dsn, database)
    pump = found.pump()
    names = numbered(0, 60)
    pump.write(batches(names[:20]))
    made.kill()
    failing(pump, batches(names[20:40], 20))
    failing(pump, batches(names[20:40], 20))
    made.restart()
    pump.write(batches(names[20:40], 20))
    pump.write(batches(names[40:], 40))
    found.close()
    assert found.aliases() == names


@pytest.mark.parametrize(
    "code",
    ["40001", "40P01", "55P03", "57P01", "57014", "53100", "53200", "25006", "08006"],
)
def test_postgres_says_later(postgres: Store, code: str) -> None:
    """Dead locks, time-outs, a full disk, read only: nothing is lost or doubled."""
    pump = postgres.pump()
    assert postgres.database is not None
    pump.write(batches(["a"]))
    postgres.database.refuse("tyk_analytics", code)
    assert code in failing(pump, batches(["b"], 1)).reason
    postgres.database.accept("tyk_analytics")
    pump.write(batches(["b"], 1))
    assert postgres.aliases() == ["a", "b"]


@pytest.mark.parametrize("code", ["1213", "1205", "1114", "1021", "1290", "1053"])
def test_maria_says_later(maria: Store, code: str) -> None:
    """The same in MariaDB."""
    pump = maria.pump()
    assert maria.database is not None
    pump.write(batches(["a"]))
    maria.database.refuse("tyk_analytics", code)
    assert code in failing(pump, batches(["b"], 1)).reason
    maria.database.accept("tyk_analytics")
    pump.write(batches(["b"], 1))
    assert maria.aliases() == ["a", "b"]


def test_who_is_not_let_in(server: Store) -> None:
    """A wrong password, no such database, nobody there: one line without the secret."""
    wrong = server.dsn.replace(PASSWORD, "s3cret-wrong")
    assert server.database is not None
    nowhere = server.dsn.replace(server.database.name, "nowhere")
    nobody = server.dsn.replace(str(server.database.port), "1")
    for dsn, reason in (
        (wrong, "(?i)password|denied"),
        (nowhere, "nowhere"),
        (nobody, "(?i)refused|connect"),
    ):
        with pytest.raises(TransientError, match=reason) as found:
            server.pump(dsn=dsn)
        assert "s3cret" not in str(found.value) and PASSWORD not in str(found.value)
        assert "\n" not in found.value.reason
        assert transport.WATERMARKS not in found.value.reason  # it is not about that


def test_a_table_that_was_dropped_is_made_again(db: Store) -> None:
    """Ours, too."""
    pump = db.pump()
    pump.write(batches(["a"]))
    db.query('DROP TABLE "tyk_analytics"')
    failing(pump, batches(["b"], 1))
    pump.write(batches(["b"], 1))
    db.query(f'DROP TABLE "{MARKS}"')
    failing(pump, batches(["c"], 2))
    pump.write(batches(["c"], 2))
    assert db.aliases() == ["b", "c"]


# Tables


def test_an_older_table_gets_its_missing_columns(db: Store) -> None:
    """What is in it stays; a column of the operator's own, too."""
    for table in ("tyk_analytics", "tyk_analytics_20250305"):
        db.query(f'CREATE TABLE "{table}" ("alias" varchar(50), "custom" int)')
        db.query(f"INSERT INTO \"{table}\" VALUES ('old', 7)")
    db.pump().write(batches(["new"]))
    db.pump(table_sharding=True).write(batches(["new"], 0, "T"))
    for table in ("tyk_analytics", "tyk_analytics_20250305"):
        rows = db.query(f'SELECT "alias", "custom", "year" FROM "{table}"')
        assert rows == [("old", 7, None), ("new", None, 0)]


def test_new_tables_have_their_indexes(db: Store) -> None:
    """Under the reference's names, whoever makes them and when."""
    db.pump().close()
    db.pump(table_sharding=True).write(batches(["a"], 0, "T"))
    today = time.strftime("%Y%m%d")
    for table in (
        "tyk_analytics",
        "tyk_analytics_20250305",
        f"tyk_analytics_{today}",
    ):
        expected = {f"{table}_idx_{column}" for column in INDEXED}
        assert _indexes(db, table) == expected


def _indexes(db: Store, table: str) -> set[str]:
    if db.kind == "mysql":
        return {row[2] for row in db.query(f'SHOW INDEX FROM "{table}"')}
    if db.kind == "postgres":
        text = f"SELECT indexname FROM pg_indexes WHERE tablename = '{table}'"
    else:
        text = (
            "SELECT name FROM sqlite_master WHERE type = 'index'"
            f" AND tbl_name = '{table}'"
        )
    return {name for (name,) in db.query(text)}


def test_tables_of_days_are_migrated_at_the_start(db: Store) -> None:
    """Those whose name ends in a date that there is, and no others."""
    prefix = "tyk_analytics_"
    for tail in ("20250305", "20240229", "20250229", "2025030", "backup", "20250305x"):
        db.query(f'CREATE TABLE "{prefix}{tail}" ("alias" int)')
    db.query('CREATE TABLE "tyk_analyticsx20250305" ("alias" int)')
    db.pump(table_sharding=True, migrate_sharded_tables=True)
    wide = []
    for table in db.tables():
        try:
            # SQLite takes a quoted name alone for a text.
            db.query(f'SELECT t."year" FROM "{table}" AS t')
        except Exception:
            continue
        wide.append(table)
    assert wide == [f"{prefix}20240229", f"{prefix}20250305"]


def test_the_schema_of_the_connection(postgres: Store) -> None:
    """Tables are made, found and migrated where the search path says."""
    postgres.query("CREATE SCHEMA mine")
    postgres.query('CREATE TABLE mine.tyk_analytics_20250305 ("alias" text)')
    dsn = f"{postgres.dsn} search_path=mine"
    pump = postgres.pump(dsn=dsn, table_sharding=True, migrate_sharded_tables=True)
    pump.write(batches(["a"]))
    text = "SELECT alias, year FROM mine.tyk_analytics_20250305"
    assert postgres.query(text) == [("a", 0)]
    assert postgres.tables() == []


def test_a_name_of_the_table(db: Store) -> None:
    """With what stands in it in capitals and spaces."""
    stats = GraphQLStats(is_graphql=True)
    pump = db.pump("sql-graph", table_name="My Graph")
    pump.write(batch([record("a", graphql_stats=stats), record("b")]))
    pump.write(batch([record("a", graphql_stats=stats), record("b")]))
    assert db.query('SELECT "analytics_alias" FROM "My Graph"') == [("a",)]


def test_names_that_are_too_long_are_faults() -> None:
    """The day would be cut off."""
    kind: Any = __import__("tyk_pump.pumps.sql_mcp", fromlist=["x"]).SqlMcpOptions
    for name, sharded, fault in (
        ("x" * 63, False, ""),
        ("x" * 63, True, "longer than 54 bytes"),
        ("s." + "x" * 54, True, ""),
        ('a"b', False, "has a quote or a % in it"),
    ):
        options = kind(type="postgres", table_name=name, table_sharding=sharded)
        assert dict(options.faults()).get("table_name", "") == fault


def test_calls_go_to_the_tables_that_are_for_them(db: Store) -> None:
    """A GraphQL call also to the plain table, one of MCP never."""
    graph = {"graphql_stats": GraphQLStats(is_graphql=True)}
    mcp = {"mcp_stats": MCPStats(is_mcp=True, jsonrpc_method="tools/call")}
    records = [
        record("plain"),
        record("graph", **graph),
        record("mcp", **mcp),
        record("both", **graph, **mcp),
    ]
    for kind in ("sql", "sql-graph", "sql-mcp"):
        whole = batch(records, 0, kind)
        db.pump(kind).write(whole)
        assert whole.left_out == 2
    assert db.aliases() == ["plain", "graph"]
    found = db.query('SELECT "analytics_alias" FROM "tyk_analytics_graph"')
    assert found == [("graph",), ("both",)]
    text = 'SELECT "jsonrpc_method", "analytics_alias" FROM "tyk_analytics_mcp"'
    assert db.query(text) == [("tools/call", "mcp"), ("tools/call", "both")]


# Values


TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "\\",
        "\t",
        "\n\r",
        "'",
        '"',
        "\\N",
        "\\.",
        "a\0b",
        "\udcff",
        "é'\\",
        "%s",
        ":x",
        "\x1a",
    ]
)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(
        st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, st.integers(-(2**63), 2**63 - 1)),
        min_size=5,
        max_size=20,
    )
)
def test_any_text_and_number_comes_back(
    db: Store, rows: list[tuple[str, str, str, str, int]]
) -> None:
    """Whatever a database sees in it; bytes that are none are shown as such."""
    stream = f"S{time.monotonic_ns()}"
    records = [
        record(
            "x",
            raw_request=name,
            path=path,
            user_agent=agent,
            tags=[tag, "<"],
            request_time=number,
            api_version=stream,
        )
        for name, path, agent, tag, number in rows
    ]
    pump = db.pump(once=False)
    pump.write(batch(records, 0, stream))
    pump.close()
    text = (
        'SELECT "rawrequest", "path", "useragent", "requesttime" FROM "tyk_analytics"'
    )
    found = db.query(f"{text} WHERE \"apiversion\" = '{stream}'")
    assert found == [
        (*(_shown(db, text) for text in texts), number) for *texts, _, number in rows
    ]


def _shown(db: Store, text: str) -> str:
    shown = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return shown.replace("\0", "\ufffd") if db.kind == "postgres" else shown


def test_numbers_and_times_at_the_ends(db: Store) -> None:
    """What no column holds is cut to what it does, or refused with a reason."""
    big = record("big")
    big.geo.city.geoname_id = 2**64 - 1
    big.geo.location.latitude = float("nan")
    times = [(0, 999_999_999), (-1, 999_999_999), ZERO_TIME, (253_402_300_799, 0)]
    records = [big, *(record(f"t{i}", timestamp=at) for i, at in enumerate(times))]
    records.append(record("late", timestamp=(10**14, 0)))
    with pytest.raises(RejectedRecords, match="year 3170843 of a time") as found:
        db.pump().write(batch(records))
    assert list(found.value.rejected) == [5]
    text = {
        "postgres": '"timestamp"::text',
        "mysql": 'CAST("timestamp" AS CHAR)',
        "sqlite": '"timestamp"',
    }[db.kind]
    rows = db.query(f'SELECT {text}, "geo_city_geoname_id" FROM "tyk_analytics"')
    shown = [str(row[0]).removesuffix("+00") for row in rows[1:]]
    assert [text[:23] for text in shown[:2]] == [
        "1970-01-01 00:00:00.999",
        "1969-12-31 23:59:59.999",
    ]
    zero = "0000-00-00 00:00:00" if db.kind == "mysql" else "0001-01-01 00:00:00"
    assert shown[2].startswith(zero) and shown[3].startswith("9999-12-31 23:59:59")
    assert rows[0][1] == (2**64 - 1 if db.kind == "mysql" else 2**63 - 1)


def test_a_time_before_christ(postgres: Store) -> None:
    """PostgreSQL has years from 4713 BC on."""
    pump = postgres.pump()
    pump.write(batch([record("a", timestamp=(-62_198_755_200, 0))]))
    with pytest.raises(RejectedRecords, match="year -4800"):
        pump.write(batch([record("b", timestamp=(-213_640_000_000, 0))], 1))
    text = 'SELECT "timestamp"::text FROM tyk_analytics'
    assert postgres.query(text) == [("0002-01-01 00:00:00+00 BC",)]


def test_a_row_that_is_refused_stands_alone(server: Store) -> None:
    """Found by halving, in tables of several days; all others arrive in order."""
    dsn = server.dsn
    names = numbered(0, 64)
    records = [
        record(name, timestamp=(NOW[0] + i % 2 * 86_400, 0))
        for i, name in enumerate(names)
    ]
    for at in (3, 40, 41):
        records[at].content_length = 7
    server.pump(table_sharding=True).write(batches(["x"], 0, "first"))
    check = 'ADD CONSTRAINT c CHECK ("contentlength" <> 7)'
    server.query(f'ALTER TABLE "tyk_analytics_20250305" {check}')
    with pytest.raises(RejectedRecords) as found:
        server.pump(dsn=dsn, table_sharding=True, batch_size=10).write(batch(records))
    assert list(found.value.rejected) == [40]
    arrived = server.aliases("tyk_analytics_20250305")[1:]
    assert arrived == [name for name in names[::2] if name != names[40]]
    assert server.aliases("tyk_analytics_20250306") == names[1::2]


# MySQL


def test_modes_of_mysql(maria: Store) -> None:
    """No zero dates, no backslashes, a zone of the connection: as the server wants."""
    modes = "%27STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_BACKSLASH_ESCAPES%27"
    dsn = maria.dsn.replace("loc=UTC", f"loc=Asia%2FKolkata&sql_mode={modes}")
    made = record(r"a\'b", expire_at=ZERO_TIME)
    maria.pump(dsn=dsn).write(batch([made]))
    text = 'SELECT alias, CAST("timestamp" AS CHAR), "expireAt" FROM "tyk_analytics"'
    assert maria.query(text) == [(r"a\'b", "2025-03-05 19:37:09.123", None)]


def test_types_of_mysql(maria: Store) -> None:
    """Widths of the options; bodies and lists are not narrowed."""
    meta: dict[str, Any] = {
        "mysql": {"default_string_size": 20, "disable_datetime_precision": True}
    }
    made = record("a", raw_request="r" * 500, tags=["t" * 500])
    maria.pump(**meta).write(batch([made]))
    found = {row[0]: row[1] for row in maria.query("SHOW COLUMNS FROM tyk_analytics")}
    assert found["path"] == "varchar(20)" and found["rawrequest"] == "longtext"
    assert found["tags"] == "longtext" and found["timestamp"] == "datetime"
    with pytest.raises(RejectedRecords, match="'path'"):
        maria.pump(**meta).write(batch([record("b"), record("c", path="p" * 21)], 1))
    assert maria.aliases() == ["a", "b"]


def test_statements_stay_within_the_servers_limit(maria: Store) -> None:
    """Rows that are too large alone are refused, without a word with the server."""
    (before,) = maria.query("SELECT @@global.max_allowed_packet")
    maria.query("SET GLOBAL max_allowed_packet = 65536")
    try:
        pump = maria.pump()
        records = [record(f"n{i}", raw_request="r" * 20_000) for i in range(10)]
        records[4].raw_response = "r" * 60_000
        with pytest.raises(RejectedRecords, match="max_allowed_packet") as found:
            pump.write(batch(records))
        assert list(found.value.rejected) == [4]
    finally:
        maria.query(f"SET GLOBAL max_allowed_packet = {before[0]}")
    assert maria.aliases() == [f"n{i}" for i in range(10) if i != 4]


def test_tls_of_mysql(
    maria: Store, tmp_path: Path, authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`true` believes the system's authorities, `skip-verify` anyone."""
    maria.pump(dsn=f"{maria.dsn}&tls=skip-verify").write(batches(["a"]))
    maria.pump(dsn=f"{maria.dsn}&tls=preferred").write(batches(["b"], 1))
    with pytest.raises(TransientError, match=r"(?i)certificate"):
        maria.pump(dsn=f"{maria.dsn}&tls=true")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    maria.pump(dsn=f"{maria.dsn}&tls=true").write(batches(["c"], 2))
    assert maria.aliases() == ["a", "b", "c"]


# PostgreSQL


def test_tls_of_postgres(postgres: Store, authority: Any) -> None:
    """The connection string says whom to believe."""
    tls = postgres.dsn.replace("sslmode=disable", "sslmode=verify-full")
    with pytest.raises(TransientError, match=r"(?i)certificate"):
        postgres.pump(dsn=tls)
    postgres.pump(dsn=f"{tls} sslrootcert={authority.ca_file}").write(batches(["a"]))
    assert postgres.aliases() == ["a"]


def test_a_pooler_between_gets_no_settings(postgres: Store) -> None:
    """Nothing of a session is changed that the next client would meet."""
    simple: dict[str, Any] = {"postgres": {"prefer_simple_protocol": True}}
    pump: Any = postgres.pump(**simple)
    for number in range(12):
        pump.write(batches(["a"], number))
    with pump._store._database.transaction() as connection:
        prepared = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_prepared_statements"
        )
        assert prepared.scalar() == 0
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "0"


def test_the_zone_of_the_session(postgres: Store) -> None:
    """It changes nothing about the instants that are stored."""
    pump: Any = postgres.pump(dsn=f"{postgres.dsn} TimeZone=Asia/Kolkata")
    pump.write(batches(["a"]))
    with pump._store._database.transaction() as connection:
        assert connection.exec_driver_sql("SHOW TimeZone").scalar() == "Asia/Kolkata"
    text = 'SELECT extract(epoch FROM "timestamp")::text FROM tyk_analytics'
    assert postgres.query(text) == [("1741183629.123456",)]


# Options


def test_faults_of_the_options() -> None:
    """A kind that is missing, a string of another form."""
    from tyk_pump.config.options import Secret
    from tyk_pump.transport.sql import SqlOptions

    def faults(kind: str, dsn: str) -> dict[str, str]:
        return dict(SqlOptions(type=kind, connection_string=Secret(dsn)).faults())

    assert faults("", "") == {"type": "missing: postgres or mysql"}
    assert list(faults("mysql", "host=h")) == ["connection_string"]
    assert list(faults("postgres", "u:p@tcp(h)/d")) == ["connection_string"]
    assert list(faults("sqlite", "")) == ["connection_string"]
    assert faults("postgres", "") == {}


def test_what_is_logged(db: Store, caplog: pytest.LogCaptureFixture) -> None:
    """All transactions with `debug`, errors with `warning`; never what is in them."""
    caplog.set_level(logging.INFO)
    db.pump(log_level="debug").write(batches(["s3cret"]))
    assert any(entry.getMessage() == "transaction" for entry in caplog.records)
    caplog.clear()
    _refuse(db, "s3cret-bad")
    with pytest.raises(RejectedRecords):
        db.pump(log_level="warning").write(batches(["a", "s3cret-bad"], 1))
    assert "statement failed" in caplog.text
    assert "s3cret" not in "".join(str(vars(entry)) for entry in caplog.records)


def test_a_probe_says_what_answers(db: Store) -> None:
    """In one line, and writes nothing."""
    assert db.kind in db.pump().probe()
    assert db.aliases() == []


def test_every_column_is_indexed_or_not_by_a_name_that_there_is() -> None:
    """The table's own description holds together."""
    assert set(INDEXED) <= {column.name for column in ANALYTICS}
