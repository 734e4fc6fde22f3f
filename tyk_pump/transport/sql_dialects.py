"""What differs between PostgreSQL, MySQL and SQLite: the one place that knows.

How to connect, the types of columns, how tables are found and made, what an error
means. MariaDB is a MySQL here.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
import pymysql
import sqlalchemy as sa
from pymysql.constants import SERVER_STATUS
from sqlalchemy.dialects import mysql as mysql_types
from sqlalchemy.pool import NullPool

from tyk_pump.record.columns import Column, Kind
from tyk_pump.transport import sql_dsn
from tyk_pump.transport.sql_rows import (
    Encoder,
    MySqlRows,
    PostgresArrays,
    PostgresRows,
    SqliteRows,
)

Errors = tuple[type[Exception], ...]
CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 300.0
LOCK_SECONDS: Final = 30.0
PREFIX: Final = 191
"""Characters of a long text that MySQL puts into an index: every row format of every
version has room for them."""
_LOCK: Final = 0x74796B70756D70
"""Key of the lock that all instances take while they make tables."""


class Index(msgspec.Struct, frozen=True):
    """An index of a table: what follows the table's name in its own, and columns."""

    name: str
    columns: tuple[str, ...]
    older: str = ""
    """Whole name of the same index in tables that the reference has made."""


class Upsert(msgspec.Struct, frozen=True):
    """How one database writes an INSERT that updates the rows that are there."""

    table: str
    """What stands after INSERT INTO."""
    stored: str
    """The name of the row that is there."""
    incoming: str
    """What the row would have in a column that is put in for `{}`."""
    update: str
    """Begins the list of assignments; `{}` stands for the key."""
    one: str = "1e0"
    """A number 1 that makes no whole number of a quotient."""
    lock: str = ""
    """Ends a SELECT that must see what others have committed by now."""


class Fault(msgspec.Struct, frozen=True):
    """What an error of a driver means."""

    reason: str
    refused: bool = False
    """The rows are to blame, and would be the next time."""
    table: bool = False
    """The table is not as we knew it."""


class Dialect(Protocol):
    """One kind of database."""

    name: str
    engine: sa.Engine
    errors: Errors
    """What its driver raises."""

    def connected(self, connection: sa.Connection) -> None:
        """Set up a new connection."""

    def encoder(self, columns: Sequence[Column], quoted: Sequence[str]) -> Encoder:
        """Return what makes and inserts rows; needs a connection made before."""

    def upserter(self, columns: Sequence[Column], quoted: Sequence[str]) -> Encoder:
        """Return an encoder whose `insert` can be told of rows that are there."""

    def upsert(self, table: str) -> Upsert:
        """Return how an INSERT that updates is written."""

    def widths(self, connection: sa.Connection, table: str) -> dict[str, int]:
        """Return how many characters the columns take that take few."""

    def type(self, column: Column, *, indexed: bool) -> sa.types.TypeEngine[Any]:
        """Return the type of a new column."""

    def create(
        self, table: str, columns: Sequence[tuple[str, str]], indexes: Sequence[str]
    ) -> list[str]:
        """Return the statements that make a table, given names and types quoted."""

    def index(
        self, name: str, table: str, columns: Sequence[str], *, later: bool = False
    ) -> str:
        """Return what makes an index, as `create` takes it.

        With `later` it is a statement for a table that is in use.
        """

    def has_index(self, connection: sa.Connection, table: str, name: str) -> bool:
        """Say whether a table has an index of this name."""

    def lock(self, connection: sa.Connection) -> None:
        """Let no other instance make tables until the transaction ends."""

    def columns(self, connection: sa.Connection, table: str) -> set[str]:
        """Return the columns of a table in the form `key` gives; none: no table."""

    def key(self, column: str) -> str:
        """Return a column's name as the database compares it."""

    def tables(self, connection: sa.Connection) -> list[str]:
        """Return the names of the tables where ours are."""

    def fault(self, exc: BaseException) -> Fault:
        """Say what an error means."""


def make(
    kind: str, dsn: str, postgres: Mapping[str, Any], mysql: Mapping[str, Any]
) -> Dialect:
    """Return the dialect of a connection string; DsnError when it has not the form."""
    if kind == "postgres":
        return Postgres(dsn, **postgres)
    if kind == "mysql":
        return MySql(dsn, **mysql)
    return Sqlite(dsn)


def check(kind: str, dsn: str) -> None:
    """Raise DsnError when a connection string has not the form; connects nowhere."""
    if kind == "postgres":
        sql_dsn.postgres(dsn)
    elif kind == "mysql":
        sql_dsn.mysql(dsn)
    elif not dsn or re.match(r"\w+\s*=|\w+://", dsn):
        raise sql_dsn.DsnError("not the path of an SQLite file")


def one_line(text: object, secret: str = "") -> str:
    """Return an error's text in one line, without the password."""
    line = "; ".join(part.strip() for part in str(text).splitlines() if part.strip())
    return line.replace(secret, "***") if secret else line


def _has_row_alias(version: str) -> bool:
    """Say whether a server knows `VALUES (...) AS incoming`."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if numbers is None or "mariadb" in version.lower():
        return False
    return tuple(map(int, numbers.groups())) >= (8, 0, 19)


_ON_CONFLICT: Final = " ON CONFLICT ({}) DO UPDATE SET "


def _plain_create(
    table: str, columns: Sequence[tuple[str, str]], indexes: Sequence[str]
) -> list[str]:
    cells = ", ".join(f"{name} {kind}" for name, kind in columns)
    return [f"CREATE TABLE IF NOT EXISTS {table} ({cells})", *indexes]


class Postgres:
    """PostgreSQL by psycopg 3."""

    name = "postgres"
    _TYPES: Final[Mapping[Kind, sa.types.TypeEngine[Any]]] = {
        Kind.INT: sa.BigInteger(),
        Kind.MAYBE: sa.BigInteger(),
        Kind.UINT: sa.BigInteger(),
        Kind.FLOAT: sa.Numeric(asdecimal=False),
        Kind.BOOL: sa.Boolean(),
        Kind.TIME: sa.TIMESTAMP(timezone=True),
    }
    # Data exceptions, constraints, a value too long for an index, what a trigger says.
    _REFUSED: Final = re.compile("22...|23...|54000|P0001|44000")
    _TABLE: Final = frozenset({"42P01", "42703", "42701", "42P07", "23505"})

    def __init__(self, dsn: str, *, prefer_simple_protocol: bool = False) -> None:
        import psycopg

        self._driver = psycopg
        self._keywords = sql_dsn.postgres(dsn)
        self._secret = self._keywords.get("password", "")
        self._pooled = prefer_simple_protocol
        self.errors: tuple[type[Exception], ...] = (
            psycopg.Error,
            sa.exc.SQLAlchemyError,
        )
        self.engine = sa.create_engine(
            "postgresql+psycopg://", creator=self._connect, poolclass=NullPool
        )

    def _connect(self) -> Any:
        given: dict[str, Any] = {
            "connect_timeout": int(CONNECT_SECONDS),
            "tcp_user_timeout": 60_000,
            "fallback_application_name": "tyk-pump",
            **self._keywords,
            "client_encoding": "UTF8",
        }
        # Behind a pooler of transactions a prepared statement is soon another's.
        return self._driver.connect(
            prepare_threshold=None if self._pooled else 5, **given
        )

    def connected(self, connection: sa.Connection) -> None:
        """Wait for no lock for ever."""
        if not self._pooled:
            # One that the operator has given stays.
            connection.exec_driver_sql(
                "SELECT set_config('lock_timeout', %s, false)"
                " WHERE current_setting('lock_timeout') = '0'",
                (f"{int(LOCK_SECONDS)}s",),
            )

    def encoder(self, columns: Sequence[Column], quoted: Sequence[str]) -> Encoder:
        """Return the encoder for COPY."""
        return PostgresRows(columns, quoted)

    def upserter(self, columns: Sequence[Column], quoted: Sequence[str]) -> Encoder:
        """Return the encoder for arrays."""
        dialect = self.engine.dialect
        kinds = [self.type(c, indexed=False).compile(dialect) for c in columns]
        return PostgresArrays(columns, quoted, kinds)

    def upsert(self, table: str) -> Upsert:
        """Return the words of ON CONFLICT."""
        stored = f"{table} AS stored"
        # Not with 1e0, which is numeric here: that fills quotients up with zeros.
        return Upsert(stored, "stored", "excluded.{}", _ON_CONFLICT, "1::float8")

    def widths(self, connection: sa.Connection, table: str) -> dict[str, int]:
        """Texts have no bound."""
        return {}

    def type(self, column: Column, *, indexed: bool) -> sa.types.TypeEngine[Any]:
        """Return the type of a new column."""
        return self._TYPES.get(column.kind, sa.Text())

    create = staticmethod(_plain_create)

    def index(
        self, name: str, table: str, columns: Sequence[str], *, later: bool = False
    ) -> str:
        """Return the statement that makes an index."""
        how = "CONCURRENTLY IF NOT EXISTS" if later else "IF NOT EXISTS"
        return f"CREATE INDEX {how} {name} ON {table} ({', '.join(columns)})"

    def has_index(self, connection: sa.Connection, table: str, name: str) -> bool:
        """Look among the indexes of the table that the search path finds."""
        found = connection.exec_driver_sql(
            "SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
            " WHERE indrelid = to_regclass(%s) AND relname = %s",
            (table, name),
        )
        return found.first() is not None

    def lock(self, connection: sa.Connection) -> None:
        """Take the lock of those who make tables."""
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    def columns(self, connection: sa.Connection, table: str) -> set[str]:
        """Return the columns of the table that the search path finds."""
        found = connection.exec_driver_sql(
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s)"
            " AND attnum > 0 AND NOT attisdropped",
            (table,),
        )
        return {row[0] for row in found}

    def key(self, column: str) -> str:
        """Names differ by case."""
        return column

    def tables(self, connection: sa.Connection) -> list[str]:
        """Return the tables of the current schema."""
        found = connection.exec_driver_sql(
            "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        )
        return [row[0] for row in found]

    def fault(self, exc: BaseException) -> Fault:
        """Judge by the SQL state."""
        diagnosis = getattr(exc, "diag", None)
        message = getattr(diagnosis, "message_primary", None) or exc
        state = getattr(exc, "sqlstate", None) or ""
        # The detail would show values of a record.
        reason = one_line(message, self._secret)
        if state:
            reason = f"{reason} (SQLSTATE {state})"
        return Fault(
            reason or type(exc).__name__,
            refused=bool(self._REFUSED.fullmatch(state)),
            table=state in self._TABLE,
        )


class MySql:
    """MySQL and MariaDB by PyMySQL."""

    name = "mysql"
    # Too long, out of range, no such character, no date, not null, duplicate, foreign
    # key, no default, checks of either server, what a trigger says, a row too wide.
    _REFUSED: Final = frozenset(
        {1406, 1264, 1366, 1292, 1265, 1048, 1062, 1452, 1364, 3819, 4025, 1644, 1118}
        | {1690, 1367, 1411, 3988, 1300}
    )
    _TABLE: Final = frozenset({1146, 1054, 1060, 1050})

    def __init__(
        self,
        dsn: str,
        *,
        default_string_size: int = 0,
        disable_datetime_precision: bool = False,
    ) -> None:
        self._place = sql_dsn.mysql(dsn)
        self._size = default_string_size
        self._modes: set[str] = set()
        self._max_bytes = 1 << 22
        self._backslashes = True
        self._row_alias = False
        self.errors: tuple[type[Exception], ...] = (
            pymysql.Error,
            sa.exc.SQLAlchemyError,
        )
        self.engine = sa.create_engine(
            "mysql+pymysql://", creator=self._connect, poolclass=NullPool
        )
        precision = None if disable_datetime_precision else 3
        self._types: Mapping[Kind, sa.types.TypeEngine[Any]] = {
            Kind.INT: sa.BigInteger(),
            Kind.MAYBE: sa.BigInteger(),
            Kind.UINT: mysql_types.BIGINT(unsigned=True),
            Kind.FLOAT: mysql_types.DOUBLE(),
            Kind.BOOL: sa.Boolean(),
            Kind.TIME: mysql_types.DATETIME(fsp=precision),
            Kind.KEY: sa.String(default_string_size or PREFIX),
        }
        if default_string_size:
            self._types = {**self._types, Kind.TEXT: sa.String(default_string_size)}

    def _connect(self) -> Any:
        place = self._place
        options: dict[str, Any] = {}
        if place.socket:
            options["unix_socket"] = place.socket
        if place.tls != "false":
            context = ssl.create_default_context()
            if place.tls != "true":
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            options["ssl"] = context
        made = pymysql.connect(
            host=place.host or "localhost",
            port=place.port,
            user=place.user,
            password=place.password,
            database=place.database or None,
            charset="utf8mb4",
            connect_timeout=max(1, int(place.timeout or CONNECT_SECONDS)),
            read_timeout=place.read_timeout or ANSWER_SECONDS,
            write_timeout=place.write_timeout or ANSWER_SECONDS,
            autocommit=False,
            **options,
        )
        if place.tls in {"true", "skip-verify"} and not getattr(made, "_secure", False):
            made.close()
            raise pymysql.err.OperationalError(2026, "the server offers no TLS")
        return made

    def connected(self, connection: sa.Connection) -> None:
        """Set the session's variables, and learn what this server takes."""
        for name, value in self._place.variables:
            connection.exec_driver_sql(f"SET {name} = {value}".replace("%", "%%"))
        row = connection.exec_driver_sql(
            "SELECT @@sql_mode, @@max_allowed_packet"
        ).one()
        self._modes = set(str(row[0]).split(","))
        self._max_bytes = int(row[1])
        driver: Any = connection.connection.driver_connection
        # VALUES() is on its way out of MySQL; MariaDB does not know what replaces it.
        self._row_alias = _has_row_alias(driver.get_server_info())
        no_escapes = SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES
        self._backslashes = not driver.server_status & no_escapes

    def encoder(self, columns: Sequence[Column], quoted: Sequence[str]) -> Encoder:
        """Return the encoder for statements that this server takes."""
        return MySqlRows(
            columns,
            quoted,
            zone=self._place.loc,
            backslashes=self._backslashes,
            zero_dates="NO_ZERO_DATE" not in self._modes,
            max_bytes=min(self._max_bytes, 1 << 24),
        )

    upserter = encoder

    def upsert(self, table: str) -> Upsert:
        """Return the words of ON DUPLICATE KEY, old or new."""
        words = " ON DUPLICATE KEY UPDATE "
        if self._row_alias:
            words = f" AS incoming{words}"
            return Upsert(table, table, "incoming.{}", words, lock=" FOR UPDATE")
        return Upsert(table, table, "VALUES({})", words, lock=" FOR UPDATE")

    def widths(self, connection: sa.Connection, table: str) -> dict[str, int]:
        """Return the lengths of VARCHAR columns."""
        *schema, name = table.replace("`", "").split(".")
        found = connection.exec_driver_sql(
            "SELECT column_name, character_maximum_length"
            " FROM information_schema.columns WHERE data_type = 'varchar'"
            " AND table_schema = COALESCE(%s, DATABASE()) AND table_name = %s",
            (schema[0] if schema else None, name),
        )
        return {str(row[0]).lower(): int(row[1]) for row in found}

    def type(self, column: Column, *, indexed: bool) -> sa.types.TypeEngine[Any]:
        """Return the type of a new column."""
        return self._types.get(column.kind, mysql_types.LONGTEXT())

    def create(
        self, table: str, columns: Sequence[tuple[str, str]], indexes: Sequence[str]
    ) -> list[str]:
        """Indexes come with the table: no transaction would hold them together."""
        return _plain_create(table, [*columns, *((index, "") for index in indexes)], ())

    def index(
        self, name: str, table: str, columns: Sequence[str], *, later: bool = False
    ) -> str:
        """Return the part of a CREATE TABLE."""
        head = f"ALTER TABLE {table} ADD " if later else ""
        return f"{head}KEY {name} ({', '.join(columns)})"

    def has_index(self, connection: sa.Connection, table: str, name: str) -> bool:
        """Look into the statistics of the current database."""
        *schema, base = table.replace("`", "").split(".")
        found = connection.exec_driver_sql(
            "SELECT 1 FROM information_schema.statistics"
            " WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s"
            " AND index_name = %s",
            (schema[0] if schema else None, base, name),
        )
        return found.first() is not None

    def lock(self, connection: sa.Connection) -> None:
        """Each statement about a table is whole by itself."""

    def columns(self, connection: sa.Connection, table: str) -> set[str]:
        """Return the columns of a table of the current database."""
        *schema, name = table.replace("`", "").split(".")
        found = connection.exec_driver_sql(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s",
            (schema[0] if schema else None, name),
        )
        return {str(row[0]).lower() for row in found}

    def key(self, column: str) -> str:
        """Names do not differ by case."""
        return column.lower()

    def tables(self, connection: sa.Connection) -> list[str]:
        """Return the tables of the current database."""
        found = connection.exec_driver_sql(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = DATABASE()"
        )
        return [row[0] for row in found]

    def fault(self, exc: BaseException) -> Fault:
        """Judge by the server's number."""
        number = exc.args[0] if exc.args and isinstance(exc.args[0], int) else 0
        text = exc.args[1] if len(exc.args) > 1 else exc
        reason = one_line(text, self._place.password) or type(exc).__name__
        return Fault(
            f"{reason} (error {number})" if number else reason,
            refused=number in self._REFUSED,
            table=number in self._TABLE,
        )


class Sqlite:
    """SQLite, for a laptop."""

    name = "sqlite"
    _TYPES: Final[Mapping[Kind, sa.types.TypeEngine[Any]]] = {
        Kind.INT: sa.Integer(),
        Kind.MAYBE: sa.Integer(),
        Kind.UINT: sa.Integer(),
        Kind.FLOAT: sa.REAL(),
        Kind.BOOL: sa.NUMERIC(),
        Kind.TIME: sa.DATETIME(),
    }

    def __init__(self, dsn: str) -> None:
        import sqlite3

        check("sqlite", dsn)
        self._driver = sqlite3
        self._path = dsn
        self.errors: tuple[type[Exception], ...] = (
            sqlite3.Error,
            sa.exc.SQLAlchemyError,
        )
        self.engine = sa.create_engine(
            "sqlite://", creator=self._connect, poolclass=NullPool
        )
        # The driver begins no transaction before it has to; then it is too late to
        # wait for another writer.
        sa.event.listen(self.engine, "begin", self._begin)

    def _connect(self) -> Any:
        return self._driver.connect(
            self._path,
            timeout=LOCK_SECONDS,
            isolation_level=None,
            uri=self._path.startswith("file:"),
        )

    @staticmethod
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def connected(self, connection: sa.Connection) -> None:
        """Nothing is set."""

    def encoder(self, columns: Sequence[Column], quoted: Sequence[str]) -> Encoder:
        """Return the encoder for parameters."""
        return SqliteRows(columns, quoted)

    upserter = encoder

    def upsert(self, table: str) -> Upsert:
        """Return the words of ON CONFLICT."""
        return Upsert(f"{table} AS stored", "stored", "excluded.{}", _ON_CONFLICT)

    def widths(self, connection: sa.Connection, table: str) -> dict[str, int]:
        """Texts have no bound."""
        return {}

    def type(self, column: Column, *, indexed: bool) -> sa.types.TypeEngine[Any]:
        """Return the type of a new column."""
        return self._TYPES.get(column.kind, sa.Text())

    create = staticmethod(_plain_create)

    def index(
        self, name: str, table: str, columns: Sequence[str], *, later: bool = False
    ) -> str:
        """Return the statement that makes an index."""
        return f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({', '.join(columns)})"

    def has_index(self, connection: sa.Connection, table: str, name: str) -> bool:
        """Look among all indexes: their names are those of the file."""
        found = connection.exec_driver_sql(
            "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = ?", (name,)
        )
        return found.first() is not None

    def lock(self, connection: sa.Connection) -> None:
        """A transaction is alone anyway."""

    def columns(self, connection: sa.Connection, table: str) -> set[str]:
        """Return the columns of a table."""
        found = connection.exec_driver_sql(
            "SELECT name FROM pragma_table_info(?)", (table.strip('"'),)
        )
        return {str(row[0]).lower() for row in found}

    def key(self, column: str) -> str:
        """Names do not differ by case."""
        return column.lower()

    def tables(self, connection: sa.Connection) -> list[str]:
        """Return the tables of the file."""
        found = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        )
        return [row[0] for row in found]

    def fault(self, exc: BaseException) -> Fault:
        """Judge by the kind of error."""
        refused = (self._driver.IntegrityError, self._driver.DataError)
        text = one_line(exc)
        return Fault(
            f"{self._path}: {text}",
            refused=isinstance(exc, refused),
            table="no such table" in text or "no column named" in text,
        )
