"""Series on the disk: what has been counted, and how far, in one transaction.

A SQLite file with one row per series and one per watermark. Both change together, so
whoever reads it after a crash knows exactly which records its numbers include.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tyk_pump.errors import ConfigError
from tyk_pump.transport.series import Family, Series

log = logging.getLogger(__name__)

NAME: Final = "series.sqlite"
VERSION: Final = 1
KEEP_SECONDS: Final = 30 * 86_400.0
_TABLES: Final = (
    "CREATE TABLE metrics (id INTEGER PRIMARY KEY, shape BLOB NOT NULL UNIQUE)",
    """CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        metric INTEGER NOT NULL,
        names BLOB NOT NULL,
        created REAL NOT NULL,
        state NOT NULL
    )""",
    """CREATE TABLE marks (
        key TEXT PRIMARY KEY,
        position INTEGER NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID""",
)

Rows = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]


class SeriesFile:
    """The open file; its user lets one thread in at a time."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = folder / NAME
        self._fsync = fsync
        self._metrics: dict[int, int] = {}
        """Number of a family -> its row."""
        self._last = 0
        try:
            self._db = self._opened()
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError):
                raise
            # Not ours, or torn: the numbers begin anew, the file is kept to look at.
            aside = self.path.with_suffix(".damaged")
            log.error(
                "the stored series cannot be read, counting begins anew",
                extra={"reason": f"{exc}: kept as {aside}"},
            )
            self.path.rename(aside)
            for ending in ("-wal", "-shm"):
                Path(f"{self.path}{ending}").unlink(missing_ok=True)
            self._db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=20
        )
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'OFF'}")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise ConfigError(f"{self.path} was written by a newer version of ours")
            if not version:
                with _transaction(db):
                    for table in _TABLES:
                        db.execute(table)
                    db.execute(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            db.close()
            raise
        return db

    def restore(self, families: Sequence[Family]) -> dict[str, int]:
        """Put the stored series into these metrics; return the watermarks.

        What was counted for a metric that is no more, or is made otherwise now, goes.
        """
        with _transaction(self._db) as db:
            stored = dict(db.execute("SELECT shape, id FROM metrics"))
            by_row: dict[int, Family] = {}
            for family in families:
                shape = msgspec.json.encode(family.shape())
                row = stored.pop(shape, None)
                if row is None:
                    insert = "INSERT INTO metrics (shape) VALUES (?)"
                    row = db.execute(insert, (shape,)).lastrowid or 0
                by_row[row] = family
                self._metrics[family.number] = row
            for row in stored.values():
                db.execute("DELETE FROM series WHERE metric = ?", (row,))
                db.execute("DELETE FROM metrics WHERE id = ?", (row,))
            old = time.time() - KEEP_SECONDS
            db.execute("DELETE FROM marks WHERE at < ?", (old,))
            for row, metric, names, created, state in db.execute(
                "SELECT id, metric, names, created, state FROM series"
            ):
                values = msgspec.json.decode(names, type=tuple[str, ...])
                by_row[metric].restore(values, created, state).row = row
                self._last = max(self._last, row)
            return dict(db.execute("SELECT key, position FROM marks"))

    def rows(self, touched: Iterable[Series]) -> Rows:
        """Return what `save` is to write of these series: new ones, known ones."""
        new, known = [], []
        for one in touched:
            if one.row:
                known.append((one.state(), one.row))
            else:
                self._last += 1
                names = msgspec.json.encode(one.values)
                metric = self._metrics[one.metric]
                new.append((self._last, metric, names, one.created, one.state(), one))
        return new, known

    def save(self, rows: Rows, marks: Mapping[str, int]) -> None:
        """Write both, or neither."""
        new, known = rows
        now = time.time()
        with _transaction(self._db) as db:
            db.executemany(
                "INSERT INTO series (id, metric, names, created, state)"
                " VALUES (?, ?, ?, ?, ?)",
                (row[:-1] for row in new),
            )
            db.executemany("UPDATE series SET state = ? WHERE id = ?", known)
            db.executemany(
                "INSERT INTO marks (key, position, at) VALUES (?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE"
                " SET position = excluded.position, at = excluded.at",
                [(key, position, now) for key, position in marks.items()],
            )
        for row, *_, one in new:
            one.row = row

    def close(self) -> None:
        """Close the file."""
        self._db.close()


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back where the disk was full.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
