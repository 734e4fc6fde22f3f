"""SQL databases: options, connection, tables per day, and rows written just once.

With the rows of a batch, in the same transaction, a watermark moves: the position up
to which the database holds the records of a stream. A retry, after a COMMIT without
an answer or a crash, inserts what is at or beyond it, wherever its windows begin.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Final

import msgspec
import sqlalchemy as sa

from tyk_pump.config.options import Options, Secret, doc
from tyk_pump.errors import CodecError, RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import BLANK_TIME, AnalyticsRecord, Time
from tyk_pump.record.columns import Column, Kind
from tyk_pump.record.gotime import clock_text, days_in
from tyk_pump.transport import sql_dialects
from tyk_pump.transport.sql_dialects import Dialect, Fault, Index
from tyk_pump.transport.sql_dsn import DsnError
from tyk_pump.transport.sql_rows import Encoder, is_text

log = logging.getLogger(__name__)

WATERMARKS: Final = "_tyk_pump_watermarks"
KEEP_SECONDS: Final = 7 * 86_400
BATCH_SIZE: Final = 1000
SLOW_SECONDS: Final = 0.2
MAX_REFUSED: Final = 1000
"""Refused positions that a watermark remembers, should their answer be lost."""
LONGEST_REASON: Final = 200
LONGEST_KEY: Final = 191
LONGEST_NAME: Final = 63
"""Bytes of a table's name in PostgreSQL, the day included."""
DAY: Final = len("_20260314")


GUARANTEE: Final = (
    "Each record once, across crashes, restarts and answers that were lost: the rows "
    f"and the position up to which they are there, in `{WATERMARKS}`, are one "
    "transaction. With `once` off, and in tables without transactions, at least once. "
    "A replay of dead letters is not held against the rows of an earlier one."
)
DIFFERENCES: Final = (
    "Older tables get their missing columns when they are first written to; tables of "
    "days are looked for in the schema that they are written to.",
    "A row that the database refuses goes to the dead letters; the rest arrives.",
    "Bytes that are no UTF-8 are U+FFFD, in PostgreSQL NUL characters too.",
    "Lists and maps are JSON also with `postgres.prefer_simple_protocol`.",
    "`batch_size` may be of any size, and rows go in by COPY on PostgreSQL.",
    "Bodies, lists and maps are `longtext` whatever `mysql.default_string_size`.",
    "Where MySQL takes no zero dates, a time that was never set is NULL.",
    "`type` may be `sqlite`.",
)
"""What every pump of rows puts right."""


class PostgresOptions(Options, frozen=True, kw_only=True):
    """What is for PostgreSQL only."""

    prefer_simple_protocol: Annotated[
        bool,
        doc("No prepared statements and session settings: for a pooler between."),
    ] = False


class MySqlOptions(Options, frozen=True, kw_only=True):
    """What is for MySQL and MariaDB only."""

    default_string_size: Annotated[
        int,
        doc(
            "Characters of the text columns of new tables, bodies and lists excepted; "
            "0 makes them `longtext`.",
            ge=0,
            le=16_383,
            numeral=True,
        ),
    ] = 0
    disable_datetime_precision: Annotated[
        bool, doc("`datetime` in new tables instead of `datetime(3)`.")
    ] = False
    dont_support_rename_index: Annotated[
        bool, doc("Accepted and without effect: no index is ever renamed.")
    ] = False
    dont_support_rename_column: Annotated[
        bool, doc("Accepted and without effect: no column is ever renamed.")
    ] = False
    skip_initialize_with_version: Annotated[
        bool, doc("Accepted and without effect: nothing depends on the version.")
    ] = False


class SqlOptions(Options, frozen=True, kw_only=True):
    """Where the database is, and how its tables are kept."""

    type: Annotated[
        str,
        doc(
            "The kind of database; `mysql` is for MariaDB, too.",
            choices=("postgres", "mysql", "sqlite"),
            example="postgres",
        ),
    ] = ""
    connection_string: Annotated[
        Secret,
        doc(
            "PostgreSQL: `host=... user=... dbname=...` or a URL; MySQL: "
            "`user:password@tcp(host:3306)/db?parseTime=True&loc=UTC`; SQLite: a file.",
            example="host=localhost user=tyk password=<password> dbname=analytics",
        ),
    ] = Secret()
    postgres: Annotated[PostgresOptions, doc("For PostgreSQL.")] = PostgresOptions()
    mysql: Annotated[MySqlOptions, doc("For MySQL and MariaDB.")] = MySqlOptions()
    table_sharding: Annotated[
        bool, doc("A table for each day, `..._20260314`, by the record's own zone.")
    ] = False
    migrate_sharded_tables: Annotated[
        bool,
        doc(
            "Add missing columns to the tables of all days at the start; else each "
            "day's gets them when it is first written to."
        ),
    ] = False
    batch_size: Annotated[
        int, doc("Rows of a statement; 0 means 1000.", ge=0, numeral=True)
    ] = BATCH_SIZE
    log_level: Annotated[
        str,
        doc("Which statements are logged: `debug` all, `info` slow ones, else none."),
    ] = ""
    once: Annotated[
        bool,
        doc(
            f"Keep the positions of what was written in a table `{WATERMARKS}`, so "
            "that no retry writes a record twice; without it a retry may."
        ),
    ] = True

    def faults(self) -> Iterator[tuple[str, str]]:
        """The connection string has the form that the kind of database asks for."""
        if not self.type:
            yield "type", "missing: postgres or mysql"
            return
        try:
            sql_dialects.check(self.type.lower(), self.connection_string.reveal())
        except DsnError as exc:
            yield "connection_string", str(exc)

    def dialect(self) -> Dialect:
        """Return the dialect of the database."""
        simple = self.postgres.prefer_simple_protocol
        return sql_dialects.make(
            self.type.lower(),
            self.connection_string.reveal(),
            {"prefer_simple_protocol": simple},
            {
                "default_string_size": self.mysql.default_string_size,
                "disable_datetime_precision": self.mysql.disable_datetime_precision,
            },
        )


class NamedTableOptions(SqlOptions, frozen=True, kw_only=True):
    """Where the database is, and what its table is called."""

    table_name: Annotated[
        str, doc("The table, or with `table_sharding` what stands before the day.")
    ] = ""

    def faults(self) -> Iterator[tuple[str, str]]:
        """PostgreSQL would cut a long name, and with it the day."""
        yield from super().faults()
        longest = LONGEST_NAME - (DAY if self.table_sharding else 0)
        name = self.table_name.rpartition(".")[2]
        if len(name.encode()) > longest:
            yield "table_name", f"longer than {longest} bytes"
        if set(self.table_name) & set("\"`%'"):
            yield "table_name", "has a quote or a % in it"


class Table(msgspec.Struct, frozen=True):
    """A table, or the prefix of one table per day."""

    name: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...] = ()


class Refused(Exception):
    """The database does not take these rows, and never will."""


class AllRefused(Refused):
    """No row of a batch was taken; nothing is written."""

    def __init__(self, refused: dict[int, str]) -> None:
        super().__init__(next(iter(refused.values())))
        self.refused = refused


class Database:
    """One connection, made when it is needed; used by one thread."""

    def __init__(self, options: SqlOptions) -> None:
        self.dialect = options.dialect()
        self.generation = 0
        """Counts connections: what was learnt from one may not hold for the next."""
        self.forget: Callable[[], None] = lambda: None
        """Called when a table is not as it was."""
        self._log_level = options.log_level.lower()
        self._connection: sa.Connection | None = None

    def quote(self, name: str) -> str:
        """Return a name as it stands in statements, with a schema where it has one."""
        quote = self.dialect.engine.dialect.identifier_preparer.quote_identifier
        return ".".join(quote(part) for part in name.split("."))

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction, which is committed at the end.

        Raises Refused, or TransientError with the connection given up: whether a
        COMMIT without an answer was done, only a look into the database can tell.
        """
        began = time.monotonic()
        try:
            connection = self._connected()
            with connection.begin():
                yield connection
        except self.dialect.errors as exc:
            fault = self._fault(exc)
            if fault.table:
                self.forget()
            if fault.refused:
                raise Refused(fault.reason) from exc
            self._give_up()
            raise TransientError(fault.reason) from exc
        except (Refused, TransientError):
            raise
        except BaseException:
            self._give_up()
            raise
        if self._log_level in {"debug", "info"}:
            self._note(time.monotonic() - began)

    @contextmanager
    def savepoint(self, connection: sa.Connection) -> Iterator[None]:
        """Undo just this when the database refuses rows: raises Refused then."""
        try:
            with connection.begin_nested():
                yield
        except self.dialect.errors as exc:
            fault = self._fault(exc)
            if fault.refused:
                raise Refused(fault.reason) from exc
            raise

    def ping(self) -> str:
        """Ask the database something; return what it is."""
        with self.transaction() as connection:
            connection.exec_driver_sql("SELECT 1")
            driver = connection.dialect.server_version_info or ()
            version = ".".join(map(str, driver))
        return f"{self.dialect.name} {version} answers"

    def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # An error says that it was broken; nothing was in hand.
            with suppress(*self.dialect.errors):
                connection.close()
        self.dialect.engine.dispose()

    def _connected(self) -> sa.Connection:
        if self._connection is None:
            connection = self.dialect.engine.connect()
            try:
                self.dialect.connected(connection)
                connection.commit()
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
            self._connection = connection
            self.generation += 1
        return self._connection

    def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _fault(self, exc: BaseException) -> Fault:
        if isinstance(exc, sa.exc.DBAPIError) and exc.orig is not None:
            exc = exc.orig
        fault = self.dialect.fault(exc)
        if self._log_level in {"debug", "info", "warning"}:
            log.warning("statement failed", extra={"reason": fault.reason})
        return fault

    def _note(self, seconds: float) -> None:
        slow = seconds > SLOW_SECONDS
        if slow or self._log_level == "debug":
            message = "slow transaction" if slow else "transaction"
            log.info(message, extra={"seconds": round(seconds, 4)})


class Tables:
    """Makes tables, and adds the columns that older ones lack."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database = database
        self._table = table
        self._ready: set[str] = set()
        database.forget = self._ready.clear

    def ensure(self, name: str) -> None:
        """Have a table of this name with all columns."""
        if name in self._ready:
            return
        if not self._columns(name):
            self._create(name)
        self._migrate(name)
        self._ready.add(name)

    def start(self, *, sharding: bool, migrate: bool) -> None:
        """Have the tables ready that are known at the start."""
        if not sharding:
            self.ensure(self._table.name)
        elif migrate:
            with self._database.transaction() as connection:
                found = self._database.dialect.tables(connection)
            for name in sorted(found):
                if is_day(name, self._table.name):
                    self.ensure(name)
        else:
            self.ensure(day_table(self._table.name, (int(time.time()), 0), ""))

    def index(self, name: str) -> None:
        """Give an older table the indexes that it lacks, while others write to it."""
        database, dialect = self._database, self._database.dialect
        for own, parts, older in self._indexes(name):
            quoted = database.quote(name)
            with database.transaction() as connection:
                there = [
                    dialect.has_index(connection, quoted, one)
                    for one in (own, older)
                    if one
                ]
            if any(there):
                continue
            statement = dialect.index(
                database.quote(own), database.quote(name), parts, later=True
            )
            try:
                # One that stands in no transaction locks nobody out.
                with dialect.engine.connect() as connection:
                    dialect.connected(connection)
                    connection.commit()
                    alone = connection.execution_options(isolation_level="AUTOCOMMIT")
                    alone.exec_driver_sql(statement)
            except dialect.errors as exc:
                # Only those who read are slower without it.
                reason = dialect.fault(getattr(exc, "orig", None) or exc).reason
                log.warning("no index made", extra={"reason": f"{own}: {reason}"})
            else:
                log.info("index made", extra={"reason": own})

    def _indexes(self, name: str) -> Iterator[tuple[str, list[str], str]]:
        """Yield the names of a table's indexes, their columns as they name them, and
        the names that they may have in older tables."""
        base = name.rpartition(".")[2]
        for index in self._table.indexes:
            parts = [self._indexed(column) for column in index.columns]
            yield f"{base}_{index.name}", parts, index.older

    def _columns(self, name: str) -> set[str]:
        with self._database.transaction() as connection:
            quoted = self._database.quote(name)
            return self._database.dialect.columns(connection, quoted)

    def _create(self, name: str) -> None:
        dialect, quote = self._database.dialect, self._database.quote
        keys = [quote(c.name) for c in self._table.columns if c.kind is Kind.KEY]
        columns = [self._defined(column) for column in self._table.columns]
        if keys:
            columns.append((f"PRIMARY KEY ({', '.join(keys)})", ""))
        indexes = [
            dialect.index(quote(own), quote(name), parts)
            for own, parts, _ in self._indexes(name)
        ]
        with self._database.transaction() as connection:
            dialect.lock(connection)
            for statement in dialect.create(quote(name), columns, indexes):
                connection.exec_driver_sql(statement)
        log.info("table made", extra={"reason": name})

    def _migrate(self, name: str) -> None:
        dialect, quote = self._database.dialect, self._database.quote
        with self._database.transaction() as connection:
            there = dialect.columns(connection, quote(name))
        missing = [c for c in self._table.columns if dialect.key(c.name) not in there]
        if not missing:
            return
        parts = ["ADD COLUMN " + " ".join(self._defined(column)) for column in missing]
        if dialect.name != "sqlite":
            parts = [", ".join(parts)]
        with self._database.transaction() as connection:
            dialect.lock(connection)
            for part in parts:
                connection.exec_driver_sql(f"ALTER TABLE {quote(name)} {part}")
        log.info(
            "missing columns added", extra={"reason": name, "records": len(missing)}
        )

    def _defined(self, column: Column) -> tuple[str, str]:
        dialect = self._database.dialect
        indexed = any(column.name in index.columns for index in self._table.indexes)
        kind = dialect.type(column, indexed=indexed)
        return self._database.quote(column.name), kind.compile(dialect.engine.dialect)

    def _indexed(self, name: str) -> str:
        """Return a column as an index names it."""
        quoted = self._database.quote(name)
        column = next(c for c in self._table.columns if c.name == name)
        if self._database.dialect.name != "mysql" or not is_text(column.kind):
            return quoted
        width = getattr(self._database.dialect.type(column, indexed=True), "length", 0)
        return f"{quoted}({min(width or sql_dialects.PREFIX, sql_dialects.PREFIX)})"


class Work:
    """A transaction that begins at a watermark and moves it."""

    def __init__(
        self,
        connection: sa.Connection,
        position: int,
        fresh: Sequence[int],
        refused: dict[int, str],
    ) -> None:
        self.connection = connection
        self.fresh = fresh
        """Indexes of the batch's records that the database does not hold yet."""
        self.refused = refused
        """Positions before the mark that the database did not take, and why."""
        self.position = position
        """Where the mark moves to."""


class Watermarks:
    """The table of positions; without it, every transaction begins at 0."""

    def __init__(self, database: Database, *, on: bool) -> None:
        self._database = database
        self._on = on
        self._known: set[tuple[str, str]] = set()
        self._made = False
        quote = database.quote
        columns = ("stream", "cursor", "position", "touched_at", "refused")
        self._names = {name: quote(name) for name in columns}
        self._name = quote(WATERMARKS)

    def start(self) -> None:
        """Make the table; says what to do where that is not allowed."""
        if not self._on or self._made:
            return
        columns = (
            Column("stream", Kind.KEY),
            Column("cursor", Kind.KEY),
            Column("position", Kind.INT),
            Column("touched_at", Kind.INT),
            Column("refused", Kind.BODY),
        )
        # What fails here is not about the table.
        self._database.ping()
        ready = self._database.forget
        try:
            Tables(self._database, Table(WATERMARKS, columns)).ensure(WATERMARKS)
        except TransientError as exc:
            hint = f"{exc.reason}: table {WATERMARKS}, see the option once"
            raise TransientError(hint) from exc
        finally:
            self._database.forget = ready
        self._made = True

    @contextmanager
    def begin(self, batch: Batch) -> Iterator[Work]:
        """Yield the work of a batch, alone with its stream; commit both at the end."""
        if not self._on:
            with self._database.transaction() as connection:
                yield Work(connection, 0, range(len(batch)), {})
            return
        base = batch.cursor or str(batch.lane)
        key = batch.stream, short(batch.watermark)
        self.start()
        if key not in self._known:
            self._enter(key)
        n = self._names
        where = f"WHERE {n['stream']} = :stream AND {n['cursor']} = :cursor"
        lock = "" if self._database.dialect.name == "sqlite" else " FOR UPDATE"
        names = {"stream": key[0], "cursor": key[1]}
        # Those of instances that had the stream before us, and of whoever has it after
        # us: all are locked, so that one writer waits for the other.
        family = {**names, "base": base, "more": f"{base}@%"}
        try:
            with self._database.transaction() as connection:
                rows = connection.execute(
                    sa.text(
                        f"SELECT {n['cursor']}, {n['position']}, {n['refused']}"
                        f" FROM {self._name} WHERE {n['stream']} = :stream AND"
                        f" ({n['cursor']} = :cursor OR {n['cursor']} = :base"
                        f" OR {n['cursor']} LIKE :more){lock}"
                    ),
                    family,
                ).all()
                found = {str(row[0]): row for row in rows}
                if key[1] not in found:
                    self._known.discard(key)
                    raise TransientError("the watermark of the stream was removed")
                marks = {name: int(row[1]) for name, row in found.items()}
                marks[batch.watermark] = marks[key[1]]
                refused: dict[int, str] = {}
                for row in rows:
                    refused |= _refusals(row[2])
                work = Work(connection, marks[key[1]], batch.fresh(marks), refused)
                yield work
                connection.execute(
                    sa.text(
                        f"UPDATE {self._name} SET {n['position']} = :position,"
                        f" {n['touched_at']} = :now, {n['refused']} = :refused {where}"
                    ),
                    {
                        "position": work.position,
                        "now": int(time.time()),
                        "refused": _refusals_text(work.refused),
                        **names,
                    },
                )
        except TransientError:
            # Somebody may have removed the table, too.
            self._known.clear()
            self._made = False
            raise

    def _enter(self, key: tuple[str, str]) -> None:
        """Have a row for a stream, and remove those of streams long gone."""
        n = self._names
        now = int(time.time())
        ignore, conflict = {
            "postgres": ("", " ON CONFLICT DO NOTHING"),
            "mysql": (" IGNORE", ""),
            "sqlite": (" OR IGNORE", ""),
        }[self._database.dialect.name]
        names = ", ".join(n[name] for name in ("stream", "cursor", "position"))
        with self._database.transaction() as connection:
            connection.execute(
                sa.text(
                    f"INSERT{ignore} INTO {self._name} ({names}, {n['touched_at']})"
                    f" VALUES (:stream, :cursor, 0, :now){conflict}"
                ),
                {"stream": key[0], "cursor": key[1], "now": now},
            )
        with self._database.transaction() as connection:
            connection.execute(
                sa.text(
                    f"DELETE FROM {self._name} WHERE {n['touched_at']} < :old AND NOT"
                    f" ({n['stream']} = :stream AND {n['cursor']} = :cursor)"
                ),
                {"old": now - KEEP_SECONDS, "stream": key[0], "cursor": key[1]},
            )
        self._known.add(key)


class Store:
    """What writes batches into tables: its connection, from `open` to `close`."""

    def __init__(self, options: SqlOptions, table: Table) -> None:
        self._options = options
        self._table = table
        self._size = options.batch_size or BATCH_SIZE
        self._database: Database | None = None
        self._encoder: Encoder | None = None
        self._generation = 0

    def open(self) -> None:
        """Connect, and have the tables ready."""
        self._database = Database(self._options)
        self._tables = Tables(self._database, self._table)
        self._marks = Watermarks(self._database, on=self._options.once)
        try:
            self._marks.start()
            self._tables.start(
                sharding=self._options.table_sharding,
                migrate=self._options.migrate_sharded_tables,
            )
        except BaseException:
            self.close()
            raise

    def probe(self) -> str:
        """Ask the database something."""
        return self._opened().ping()

    def close(self) -> None:
        """Let go of the connection."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _opened(self) -> Database:
        if self._database is None:
            raise TransientError("not connected")
        return self._database


class RowStore(Store):
    """Writes one row per record, each once."""

    def write(self, batch: Batch, records: Sequence[Any] | None = None) -> None:
        """Insert the rows that the database does not hold yet.

        `records` are what the columns read, where that is not the batch's own; a
        record in whose place stands None has no row.
        """
        if not len(batch):
            return
        items = batch.records if records is None else records
        rows, rejected = self._rows(items)
        tables = self._by_table(rows, batch.records)
        try:
            for name in tables:
                self._tables.ensure(name)
            try:
                refused = self._insert(batch, rows, tables, singly=False)
            except Refused:
                refused = self._insert(batch, rows, tables, singly=True)
        except AllRefused as exc:
            refused = exc.refused
        except Refused as exc:
            # Not of the rows, then: of the table, say.
            raise TransientError(str(exc)) from exc
        except TransientError as exc:
            exc.rejected.update(rejected)
            raise
        batch.left_out = sum(record is None for record in items)
        rejected.update(refused)
        if rejected:
            raise RejectedRecords(next(iter(rejected.values())), rejected=rejected)

    def _rows(self, records: Sequence[Any]) -> tuple[dict[int, Any], dict[int, str]]:
        """Return the rows by index, and why the other records have none."""
        database = self._opened()
        if self._encoder is None or self._generation != database.generation:
            with database.transaction():
                pass  # connects, if need be: the server says how it is written to
            quoted = [database.quote(column.name) for column in self._table.columns]
            self._encoder = database.dialect.encoder(self._table.columns, quoted)
            self._generation = database.generation
        make = self._encoder.row
        rows: dict[int, Any] = {}
        rejected: dict[int, str] = {}
        for index, record in enumerate(records):
            if record is None:
                continue
            try:
                rows[index] = make(record)
            except CodecError as exc:
                rejected[index] = str(exc)
        return rows, rejected

    def _by_table(
        self, rows: Mapping[int, Any], records: Sequence[AnalyticsRecord]
    ) -> dict[str, list[int]]:
        """Return which rows go into which table, in their order."""
        if not self._options.table_sharding:
            return {self._table.name: list(rows)} if rows else {}
        tables: dict[str, list[int]] = {}
        for index in rows:
            record = records[index]
            name = day_table(self._table.name, record.timestamp, record.zone)
            tables.setdefault(name, []).append(index)
        return tables

    def _insert(
        self,
        batch: Batch,
        rows: Mapping[int, Any],
        tables: Mapping[str, Sequence[int]],
        *,
        singly: bool,
    ) -> dict[int, str]:
        """Insert in one transaction; with `singly`, find out what is refused."""
        positions = batch.positions
        refused: dict[int, str] = {}
        if not rows:
            return refused
        with self._marks.begin(batch) as work:
            known, fresh = work.refused, work.fresh
            wanted = fresh if isinstance(fresh, range) else frozenset(fresh)
            tried = 0
            for name, indexes in tables.items():
                new = []
                for index in indexes:
                    if index in wanted:
                        new.append(index)
                    elif positions[index] in known:
                        refused[index] = known[positions[index]]
                tried += len(new)
                for first in range(0, len(new), self._size):
                    part = new[first : first + self._size]
                    if singly:
                        refused.update(self._isolate(work, name, part, rows))
                    else:
                        self._put(work, name, part, rows)
            if len(refused) == len(rows) and tried:
                # The worker takes that for a fault of ours, and will ask again.
                raise AllRefused(refused)
            if tried:
                work.position = positions[-1] + 1
                work.refused.update({positions[i]: why for i, why in refused.items()})
        return refused

    def _put(
        self, work: Work, name: str, part: Sequence[int], rows: Mapping[int, Any]
    ) -> None:
        assert self._encoder is not None
        cursor = work.connection.connection.cursor()
        try:
            quoted = self._opened().quote(name)
            self._encoder.insert(cursor, quoted, [rows[index] for index in part])
        finally:
            cursor.close()

    def _isolate(
        self, work: Work, name: str, part: Sequence[int], rows: Mapping[int, Any]
    ) -> dict[int, str]:
        """Insert all rows but those that are refused; halve until each stands alone."""
        try:
            with self._opened().savepoint(work.connection):
                self._put(work, name, part, rows)
        except Refused as exc:
            if len(part) == 1:
                return {part[0]: str(exc)}
            middle = len(part) // 2
            first = self._isolate(work, name, part[:middle], rows)
            return first | self._isolate(work, name, part[middle:], rows)
        return {}


def day_table(prefix: str, time: Time, zone: str) -> str:
    """Return the name of a day's table, by the clock of a zone."""
    if time is BLANK_TIME:
        zone = "UTC"
    date = clock_text(time[0], zone).rpartition(" ")[0]
    return f"{prefix}_{date.replace('-', '')}"


def is_day(name: str, prefix: str) -> bool:
    """Say whether a name is that of a day's table, with a date that there is."""
    date = name.removeprefix(f"{prefix}_")
    if len(date) != DAY - 1 or name == date or not (date.isascii() and date.isdigit()):
        return False
    year, month, day = int(date[:4]), int(date[4:6]), int(date[6:])
    return 1 <= month <= 12 and 1 <= day <= days_in(year, month)


def short(key: str) -> str:
    """Return a key that fits into an index, made so by a check sum where need be."""
    if len(key) <= LONGEST_KEY:
        return key
    tail = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{key[: LONGEST_KEY - 65]}:{tail}"


def _refusals(text: str | None) -> dict[int, str]:
    return {int(position): why for position, why in json.loads(text or "{}").items()}


def _refusals_text(refused: Mapping[int, str]) -> str | None:
    if not refused:
        return None
    last = sorted(refused)[-MAX_REFUSED:]
    return json.dumps({at: refused[at][:LONGEST_REASON] for at in last})
