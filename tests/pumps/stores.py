"""A SQL database under a pump, of each kind, for tests."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.servers.database import PASSWORD, Database, Databases
from tests.servers.proxy import Proxy
from tyk_pump import pumps
from tyk_pump.errors import TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record.analytics import AnalyticsRecord

NOW = (1_741_183_629, 123_456_789)
KINDS = ("postgres", "mysql", "sqlite")
MARKS = "_tyk_pump_watermarks"


class Store:
    """A database, and the pumps that write into it."""

    def __init__(self, kind: str, dsn: str, database: Database | None) -> None:
        self.kind = kind
        self.dsn = dsn
        self.database = database
        self._pumps: list[Pump] = []

    def pump(self, type: str = "sql", dsn: str | None = None, **meta: Any) -> Pump:
        """Return a new pump that is open; it is closed after the test."""
        made = self.made(type, dsn, **meta)
        made.open()
        return made

    def made(self, type: str = "sql", dsn: str | None = None, **meta: Any) -> Pump:
        """Return a new pump that is not open."""
        kind = pumps.load(type)
        where = {"type": self.kind, "connection_string": dsn or self.dsn}
        options = msgspec.convert(
            {**where, **meta}, kind.options_type, dec_hook=_secret
        )
        assert list(options.faults()) == []
        pump = kind(options)
        self._pumps.append(pump)
        return pump

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Run a statement; names stand in double quotes."""
        if self.database is not None:
            quoted = text.replace('"', "`") if self.kind == "mysql" else text
            return self.database.query(quoted)
        with contextlib.closing(sqlite3.connect(self.dsn, isolation_level=None)) as one:
            return one.execute(text).fetchall()

    def aliases(self, table: str = "tyk_analytics") -> list[str]:
        """Return the names of the records that have arrived, in order."""
        return [name for (name,) in self.query(f'SELECT "alias" FROM "{table}"')]

    def tables(self) -> list[str]:
        """Return the tables but for our own."""
        if self.database is not None:
            found = self.database.tables()
        else:
            text = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
            found = [name for (name,) in self.query(text)]
        return [name for name in found if name != MARKS]

    def close(self) -> None:
        """Close the pumps."""
        for pump in self._pumps:
            pump.close()


def _secret(kind: type, value: Any) -> Any:
    return kind(value)


def store(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> Store:
    """Return an empty database of a kind."""
    if kind == "sqlite":
        return Store(kind, str(tmp_path / "rows.sqlite"), None)
    name = "maria_server" if kind == "mysql" else "postgres_server"
    databases: Databases = request.getfixturevalue(name)
    options = {"CHARACTER SET": "utf8mb4"} if kind == "mysql" else {}
    database = databases.database(**options)
    return Store(kind, database.dsn, database)


def record(name: str, **fields: Any) -> AnalyticsRecord:
    """Return a record with some of everything."""
    made = AnalyticsRecord(alias=name, timestamp=NOW, expire_at=NOW, tags=["a<b", "c"])
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def batch(
    records: Sequence[AnalyticsRecord], first: int = 0, stream: str = "S"
) -> Batch:
    """Return a batch of these records from a position on."""
    positions = range(first, first + len(records))
    return Batch(stream, 0, "analytics", positions, records, cursor="SQL")


def batches(names: Sequence[str], first: int = 0, stream: str = "S") -> Batch:
    """Return a batch of records with these names."""
    return batch([record(name) for name in names], first, stream)


def numbered(first: int, end: int) -> list[str]:
    """Return names of records."""
    return [f"n{number:05}" for number in range(first, end)]


def failing(pump: Pump, written: Batch) -> TransientError:
    """Return the error of a write."""
    with pytest.raises(TransientError) as found:
        pump.write(written)
    assert "\n" not in found.value.reason and PASSWORD not in found.value.reason
    return found.value


def threads(*actions: Callable[[], None]) -> None:
    """Do several things at once; raise the first error."""
    errors: list[BaseException] = []

    def run(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as exc:
            errors.append(exc)

    running = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def proxied(found: Store) -> Iterator[tuple[Proxy, str]]:
    """Yield a proxy before the server, and the connection string of it."""
    assert found.database is not None
    with Proxy(found.database.host, found.database.port) as proxy:
        yield proxy, found.dsn.replace(str(found.database.port), str(proxy.port), 1)
