"""What the SQL servers share: a database of its own for every test."""

from __future__ import annotations

import itertools
import os
from typing import Any, ClassVar

USER, PASSWORD = "tyk", "sesame"
"""Who may do all, on each server."""

_numbers = itertools.count(1)


class Database:
    """One database, as clients see it; `close` drops it."""

    dialect: ClassVar[str]
    """The reference's word for the kind of server."""

    def __init__(self, port: int, name: str, tls: dict[str, str] | None = None) -> None:
        """`tls` is what a helper's connection needs beside the address."""
        self.host = "127.0.0.1"
        self.port = port
        self.name = name
        self._tls = tls or {}

    @property
    def dsn(self) -> str:
        """Return the connection string in the reference's form, without TLS."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Return SQLAlchemy's address, without TLS."""
        raise NotImplementedError

    @property
    def live(self) -> dict[str, str]:
        """Return what fills the gaps of a golden case's connection string."""
        return {
            "host": self.host,
            "port": str(self.port),
            "user": USER,
            "password": PASSWORD,
            "dbname": self.name,
        }

    def connect(self) -> Any:
        """Return a connection of the driver, in autocommit."""
        raise NotImplementedError

    def query(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement with %s for each parameter; return its rows, if it has any.

        A connection of its own each time: it works as well after a restart.
        """
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(text, parameters or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        raise NotImplementedError

    def refuse(self, table: str, code: str) -> None:
        """Let each insert into a table fail with this code, from now on."""
        raise NotImplementedError

    def accept(self, table: str) -> None:
        """Let inserts into a table pass again."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop it, whoever is connected."""
        raise NotImplementedError


class Databases:
    """A running server: gives a database to each test and takes it back."""

    def __init__(
        self, kind: type[Database], port: int, tls: dict[str, str] | None = None
    ) -> None:
        self.port = port
        self._kind = kind
        self._tls = tls
        self._given: list[Database] = []

    def database(self, **options: str) -> Database:
        """Return a new database; `options` are those of CREATE DATABASE."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        words = " ".join(f"{key} {value}" for key, value in options.items())
        self.system().query(f"CREATE DATABASE {name} {words}")
        self._given.append(self._kind(self.port, name, self._tls))
        return self._given[-1]

    def system(self) -> Database:
        """Return the database that is always there."""
        name = "postgres" if self._kind.dialect == "postgres" else "mysql"
        return self._kind(self.port, name, self._tls)

    def clear(self) -> None:
        """Drop all that were given."""
        while self._given:
            self._given.pop().close()
