"""Records as rows in a database's own form, and the fastest way to insert them.

PostgreSQL takes them by COPY, MySQL as the values of long statements, SQLite as
parameters. A row is made by one attribute getter and one format; only texts with
characters that mean something to the database are looked at singly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final, Protocol

from tyk_pump.errors import CodecError
from tyk_pump.record.analytics import MAX_INT, ZERO_TIME, Time
from tyk_pump.record.columns import Column, Kind, list_text, map_text
from tyk_pump.record.gotime import civil, clock_text
from tyk_pump.record.text import clean

_REPLACEMENT: Final = "\ufffd"
_FIRST_YEAR: Final = ZERO_TIME[0]
_LAST_YEAR: Final = 253_402_300_799  # the end of 9999
_POSTGRES_FIRST: Final = -4712
_POSTGRES_LAST: Final = 294_276

Convert = Callable[[Any], Any]
COPY_BYTES: Final = 1 << 20
"""COPY data is handed to the driver in pieces of about this size."""


class Encoder(Protocol):
    """Makes rows of a table in the form of one database."""

    def row(self, record: Any) -> Any:
        """Return a record's row; CodecError says what of it the table cannot hold."""

    def insert(
        self, cursor: Any, table: str, rows: Sequence[Any], conflict: str = ""
    ) -> None:
        """Insert rows into a table whose name is quoted.

        `conflict` is the statement's end: what to do with a row that is there.
        """


class _Values:
    """Reads the values of a row out of a record.

    Where no column has a source the record is the list of its values.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        convert: Callable[[Column], Convert | None],
    ) -> None:
        paths = [column.source for column in columns]
        self._read: Callable[[Any], Sequence[Any]] = _whole
        if any(paths):
            # Two at least, else the getter returns no tuple.
            self._read = attrgetter(*paths, "__class__")
        self._size = len(columns)
        self._changes = []
        for at, column in enumerate(columns):
            change = _both(column.make, convert(column))
            if change is not None:
                self._changes.append((at, change))
        self.texts = [at for at, column in enumerate(columns) if is_text(column.kind)]

    def of(self, record: Any) -> list[Any]:
        """Return the values in the order of the columns."""
        values = list(self._read(record))
        del values[self._size :]
        for at, change in self._changes:
            values[at] = change(values[at])
        return values


def _whole(record: Sequence[Any]) -> Sequence[Any]:
    return record


def _both(first: Convert | None, then: Convert | None) -> Convert | None:
    if first is None or then is None:
        return first or then
    return lambda value: then(first(value))


def is_text(kind: Kind) -> bool:
    """Say whether a column holds text."""
    return kind in _TEXTS


_TEXTS: Final = {Kind.TEXT, Kind.BODY, Kind.KEY, Kind.LIST, Kind.MAP}


class PostgresRows:
    """Lines of COPY's text format."""

    def __init__(self, columns: Sequence[Column], quoted: Sequence[str]) -> None:
        self._values = _Values(columns, self._convert)
        self._template = "\t".join(["%s"] * len(columns)) + "\n"
        self._tabs = len(columns) - 1
        self._columns = ", ".join(quoted)

    @staticmethod
    def _convert(column: Column) -> Convert | None:
        changes: dict[Kind, Convert] = {
            Kind.LIST: list_text,
            Kind.MAP: map_text,
            Kind.UINT: _capped,
            Kind.FLOAT: _float,
            Kind.TIME: postgres_time,
        }
        return changes.get(column.kind)

    def row(self, record: Any) -> bytes:
        """Return a record's line."""
        values = self._values.of(record)
        line = self._template % tuple(values)
        if (
            "\\" not in line
            and "\0" not in line
            and "\r" not in line
            and line.count("\t") == self._tabs
            and line.count("\n") == 1
        ):
            try:
                return line.encode()
            except UnicodeEncodeError:
                pass  # bytes that are no UTF-8 are put right below
        for at in self._values.texts:
            values[at] = _copied(values[at])
        return (self._template % tuple(values)).encode()

    def insert(
        self, cursor: Any, table: str, rows: Sequence[bytes], conflict: str = ""
    ) -> None:
        """Copy lines into a table; COPY knows nothing of rows that are there."""
        assert not conflict
        with cursor.copy(f"COPY {table} ({self._columns}) FROM STDIN") as copy:
            for part in _parts(rows, COPY_BYTES):
                copy.write(b"".join(part))


def _copied(text: str) -> str:
    text = clean(text)
    if "\0" in text:
        text = text.replace("\0", _REPLACEMENT)
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "\t" in text:
        text = text.replace("\t", "\\t")
    if "\n" in text:
        text = text.replace("\n", "\\n")
    if "\r" in text:
        text = text.replace("\r", "\\r")
    return text


class PostgresArrays:
    """Columns as arrays, one each: an INSERT of any size in one short statement.

    Other than COPY it can be told what to do with rows that are there.
    """

    def __init__(
        self, columns: Sequence[Column], quoted: Sequence[str], types: Sequence[str]
    ) -> None:
        self._values = _Values(columns, self._convert)
        self._columns = ", ".join(quoted)
        self._arrays = ", ".join(f"%s::{kind}[]" for kind in types)

    @staticmethod
    def _convert(column: Column) -> Convert | None:
        changes: dict[Kind, Convert] = {
            Kind.INT: str,
            Kind.MAYBE: _maybe,
            Kind.FLOAT: _float,
            Kind.TIME: _quoted_time,
        }
        return _element if is_text(column.kind) else changes[column.kind]

    def row(self, record: Any) -> list[str]:
        """Return a record's values as they stand in arrays."""
        return self._values.of(record)

    def insert(
        self, cursor: Any, table: str, rows: Sequence[list[str]], conflict: str = ""
    ) -> None:
        """Insert rows in their order by one statement."""
        arrays = [f"{{{','.join(column)}}}" for column in zip(*rows, strict=True)]
        cursor.execute(
            f"INSERT INTO {table} ({self._columns})"
            f" SELECT * FROM unnest({self._arrays}){conflict}",
            arrays,
        )


def _element(text: str) -> str:
    """Return a text as an element of an array."""
    if text.isalnum() and text.isascii() and text.upper() != "NULL":
        return text
    text = clean(text)
    if "\0" in text:
        text = text.replace("\0", _REPLACEMENT)
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if '"' in text:
        text = text.replace('"', '\\"')
    return f'"{text}"'


def _quoted_time(time: Time) -> str:
    return f'"{postgres_time(time)}"'


class MySqlRows:
    """Parenthesised values of an INSERT statement."""

    def __init__(
        self,
        columns: Sequence[Column],
        quoted: Sequence[str],
        *,
        zone: str,
        backslashes: bool,
        zero_dates: bool,
        max_bytes: int,
    ) -> None:
        """`backslashes` escape in texts, and `zero_dates` are allowed, as the
        server's modes say; a statement has at most `max_bytes`."""
        self._zone = zone
        self._zero = "0000-00-00 00:00:00" if zero_dates else ""
        self._escape = _escaped if backslashes else _doubled
        self._values = _Values(columns, self._convert)
        # A fixed number of quotes tells that no text has one of its own.
        time = "'%s'" if zero_dates else "NULLIF('%s','')"
        forms = [
            time if c.kind is Kind.TIME else "'%s'" if is_text(c.kind) else "%s"
            for c in columns
        ]
        self._template = f"({','.join(forms)})"
        self._quotes = self._template.count("'")
        self._columns = ", ".join(quoted)
        self._max_bytes = max_bytes - 1024

    def _convert(self, column: Column) -> Convert | None:
        changes: dict[Kind, Convert] = {
            Kind.LIST: list_text,
            Kind.MAP: map_text,
            Kind.MAYBE: _maybe,
            Kind.FLOAT: _double,
            Kind.TIME: self._time,
        }
        return changes.get(column.kind)

    def _time(self, time: Time) -> str:
        """Return a time in the connection's zone, cut to milliseconds."""
        # The zero time is not moved to the zone, nor is it the year 1.
        if time == ZERO_TIME:
            return self._zero
        seconds, nanoseconds = time
        if not _FIRST_YEAR <= seconds <= _LAST_YEAR:
            year = civil(seconds, self._zone).year
            if not 0 <= year <= 9999:
                raise CodecError(f"the year {year} of a time is beyond the database's")
        text = clock_text(seconds, self._zone)
        return f"{text}.{nanoseconds // 1_000_000:03d}"

    def row(self, record: Any) -> bytes:
        """Return a record's values."""
        values = self._values.of(record)
        line = self._template % tuple(values)
        if "\\" in line or "\0" in line or line.count("'") != self._quotes:
            row = self._clean(values)
        else:
            try:
                row = line.encode()
            except UnicodeEncodeError:
                row = self._clean(values)
        if len(row) > self._max_bytes:
            raise CodecError(f"{len(row)} bytes are more than max_allowed_packet takes")
        return row

    def _clean(self, values: list[Any]) -> bytes:
        for at in self._values.texts:
            values[at] = self._escape(clean(values[at]))
        return (self._template % tuple(values)).encode()

    def insert(
        self, cursor: Any, table: str, rows: Sequence[bytes], conflict: str = ""
    ) -> None:
        """Insert rows by as few statements as the server's limit allows."""
        head = f"INSERT INTO {table} ({self._columns}) VALUES ".encode()
        end = conflict.encode()
        for part in _parts(rows, self._max_bytes - len(end)):
            cursor.execute(head + b",".join(part) + end)


def _escaped(text: str) -> str:
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    if "'" in text:
        text = text.replace("'", "\\'")
    return text.replace("\0", "\\0") if "\0" in text else text


def _doubled(text: str) -> str:
    return text.replace("'", "''")


class SqliteRows:
    """Parameters of a statement."""

    def __init__(self, columns: Sequence[Column], quoted: Sequence[str]) -> None:
        self._values = _Values(columns, self._convert)
        self._columns = ", ".join(quoted)
        self._marks = ", ".join("?" * len(columns))

    @staticmethod
    def _convert(column: Column) -> Convert | None:
        changes: dict[Kind, Convert] = {
            Kind.LIST: list_text,
            Kind.MAP: map_text,
            Kind.UINT: _capped,
            Kind.TIME: postgres_time,
        }
        return changes.get(column.kind)

    def row(self, record: Any) -> tuple[Any, ...]:
        """Return a record's values."""
        values = self._values.of(record)
        for at in self._values.texts:
            values[at] = clean(values[at])
        return tuple(values)

    def insert(
        self,
        cursor: Any,
        table: str,
        rows: Sequence[tuple[Any, ...]],
        conflict: str = "",
    ) -> None:
        """Insert rows by one statement, executed again and again."""
        statement = f"INSERT INTO {table} ({self._columns}) VALUES ({self._marks})"
        cursor.executemany(statement + conflict, rows)


def _capped(number: int) -> int:
    return number if number <= MAX_INT else MAX_INT


def _maybe(number: int | None) -> str:
    return "NULL" if number is None else str(number)


def _float(number: float) -> str:
    # Without the end, a numeric column would keep a digit that nobody has given.
    return repr(number).removesuffix(".0")


def _double(number: float) -> str:
    return repr(number) if math.isfinite(number) else "NULL"


def postgres_time(time: Time) -> str:
    """Return a time in UTC, cut to microseconds as the reference does."""
    seconds, nanoseconds = time
    text = f"{clock_text(seconds, 'UTC')}.{nanoseconds // 1000:06d}+00"
    if _FIRST_YEAR <= seconds <= _LAST_YEAR:
        return text
    year = civil(seconds, "UTC").year
    if not _POSTGRES_FIRST <= year <= _POSTGRES_LAST:
        raise CodecError(f"the year {year} of a time is beyond the database's")
    if year > 0:
        return text
    _, _, rest = text.removeprefix("-").partition("-")
    return f"{1 - year:04d}-{rest} BC"


def _parts(rows: Sequence[bytes], max_bytes: int) -> Iterator[Sequence[bytes]]:
    """Cut rows into runs of so many bytes, each with one row at least."""
    first = size = 0
    for at, row in enumerate(rows):
        size += len(row) + 1
        if size > max_bytes and at > first:
            yield rows[first:at]
            first, size = at, len(row) + 1
    if first < len(rows):
        yield rows[first:]
