"""The SQLite file: dead letters, replays, and stream fields that Redis had no room for.

Every row is keyed so that storing it again replaces it: what a retry or a crash
repeats is repeated without harm. The file is written with `synchronous=FULL`: when
a method returns, the disk has it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tyk_pump.errors import DamagedState, StateError
from tyk_pump.state import journal, ledger, replay
from tyk_pump.worker.outcome import DeadRecord

_APPLICATION: Final = 0x54594B50  # "TYKP", so that `file` and others know it
_VERSION_1: Final = (
    """CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pump TEXT NOT NULL,
        record_id TEXT NOT NULL,
        list TEXT NOT NULL,
        codec TEXT NOT NULL,
        reason TEXT NOT NULL,
        raw BLOB NOT NULL,
        at REAL NOT NULL,
        refusals INTEGER NOT NULL DEFAULT 1,
        replay_stream TEXT,
        replay_position INTEGER,
        UNIQUE (pump, record_id)
    )""",
    """CREATE INDEX dead_letters_replay
        ON dead_letters (replay_stream, replay_position)
        WHERE replay_stream IS NOT NULL""",
    "CREATE INDEX dead_letters_time ON dead_letters (at)",
    """CREATE TABLE stream_fields (
        stream TEXT NOT NULL,
        field TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (stream, field)
    ) WITHOUT ROWID""",
)
_VERSION_2: Final[tuple[str, ...]] = (
    *ledger.TABLES,
    *journal.TABLES,
    *replay.TABLES,
)
_VERSIONS: Final = (_VERSION_1, _VERSION_2)
"""What makes each version of the file from the one before; the first from nothing."""
VERSION: Final = len(_VERSIONS)


def schema(version: int, *, data: bool = False) -> list[str]:
    """Return the statements that make the tables of a version, as the file has them.

    With `data` also those that fill them.
    """
    statements = [one for part in _VERSIONS[:version] for one in part]
    return [one for one in statements if data or one.startswith("CREATE ")]


class Letter(msgspec.Struct, kw_only=True):
    """One dead letter as commands show it."""

    id: int
    pump: str
    record_id: str
    list: str
    codec: str
    reason: str
    at: float
    """When it was refused last, in seconds since the epoch."""
    refusals: int
    replaying: bool
    size: int
    raw: bytes = b""


class Reason(msgspec.Struct):
    """Letters of one pump that were refused in the same words."""

    pump: str
    reason: str
    letters: int
    replaying: int
    first: float
    """When the oldest of them was refused last, in seconds since the epoch."""
    last: float
    example: int
    """The number of one of them."""


class Replay(msgspec.Struct, kw_only=True):
    """Letters of one pump that wait to be written again: a stream of its own."""

    stream: str
    pump: str
    first: int
    end: int


class ReplayWindow(msgspec.Struct, kw_only=True):
    """Letters of a replay with neighbouring positions, one list and one codec."""

    stream: str
    list: str
    codec: str
    first: int
    ids: Sequence[str]
    records: Sequence[bytes]


class StateFile:
    """The open state file; each thread that uses it gets a connection of its own."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self.ledger = ledger.Ledger(self)
        self.replay_store = replay.ReplayStore(self)
        try:
            with self.transaction() as db:
                self._check_version(db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = threading.local()

    # --- dead letters ---

    def store_dead(
        self,
        pump: str,
        list: str,
        codec: str,
        letters: Sequence[DeadRecord],
        now: float,
    ) -> None:
        """Keep refused records; one that was kept before is replaced.

        A letter that was refused again during a replay ends that replay for it.
        """

        def reason(one: DeadRecord) -> str:
            # SQLite takes UTF-8 only; a back end's words may hold bytes that are none.
            return one.reason.encode("utf-8", "backslashreplace").decode()

        with self.transaction() as db:
            known = sum(
                _count(db, "pump = ? AND record_id = ?", (pump, identity))
                for identity in {one.record_id for one in letters}
            )
            db.executemany(
                """INSERT INTO dead_letters
                    (pump, record_id, list, codec, reason, raw, at)
                VALUES (?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (pump, record_id) DO UPDATE SET
                    list = excluded.list, codec = excluded.codec,
                    reason = excluded.reason, raw = excluded.raw, at = excluded.at,
                    refusals = refusals + 1,
                    replay_stream = NULL, replay_position = NULL""",
                (
                    (pump, one.record_id, list, codec, reason(one), one.raw, now)
                    for one in letters
                ),
            )
            stored = len({one.record_id for one in letters}) - known
            ledger.book_letters(db, pump, now, stored=stored)

    def letters(
        self,
        *,
        pump: str = "",
        reason: str = "",
        since: float = 0,
        limit: int = 100,
        after: int = 0,
    ) -> list[Letter]:
        """Return dead letters without their bytes, oldest first."""
        with self.transaction(write=False) as db:
            rows = db.execute(
                """SELECT id, pump, record_id, list, codec, reason, at, refusals,
                    replay_stream IS NOT NULL, length(raw)
                FROM dead_letters
                WHERE id > :after AND (:pump = '' OR pump = :pump)
                    AND (:reason = '' OR instr(lower(reason), lower(:reason)) > 0)
                    AND at >= :since
                ORDER BY id LIMIT :limit""",
                {
                    "pump": pump,
                    "reason": reason,
                    "since": since,
                    "limit": limit,
                    "after": after,
                },
            ).fetchall()
        return [_letter(row) for row in rows]

    def letter(self, id: int) -> Letter | None:
        """Return one dead letter with its bytes."""
        with self.transaction(write=False) as db:
            row = db.execute(
                """SELECT id, pump, record_id, list, codec, reason, at, refusals,
                    replay_stream IS NOT NULL, length(raw), raw
                FROM dead_letters WHERE id = ?""",
                (id,),
            ).fetchone()
        return None if row is None else _letter(row)

    def reasons(
        self, *, pump: str = "", reason: str = "", since: float = 0
    ) -> list[Reason]:
        """Return how many letters have which reason, the most frequent first."""
        with self.transaction(write=False) as db:
            rows = db.execute(
                """SELECT pump, reason, count(*), sum(replay_stream IS NOT NULL),
                    min(at), max(at), max(id)
                FROM dead_letters
                WHERE (:pump = '' OR pump = :pump)
                    AND (:reason = '' OR instr(lower(reason), lower(:reason)) > 0)
                    AND at >= :since
                GROUP BY pump, reason ORDER BY count(*) DESC, pump, reason""",
                {"pump": pump, "reason": reason, "since": since},
            ).fetchall()
        return [Reason(*row) for row in rows]

    def edit(self, id: int, raw: bytes) -> bool:
        """Replace a letter's bytes; False when it is gone or in a replay by now."""
        with self.transaction() as db:
            found = db.execute(
                """UPDATE dead_letters SET raw = ?
                WHERE id = ? AND replay_stream IS NULL""",
                (raw, id),
            )
            return found.rowcount == 1

    def counts(self) -> dict[str, int]:
        """Return how many dead letters each pump has."""
        with self.transaction(write=False) as db:
            rows = db.execute(
                "SELECT pump, count(*) FROM dead_letters GROUP BY pump ORDER BY pump"
            ).fetchall()
        return dict(rows)

    def drop(self, *, pump: str = "", ids: Iterable[int] | None = None) -> int:
        """Remove letters for good, by id or all of a pump; return how many."""
        where, values = _chosen(pump, ids)
        with self.transaction() as db:
            return _remove(db, where, values, replayed=False)

    # --- replays ---

    def mark_replay(
        self, stream: str, pump: str, *, ids: Iterable[int] | None = None
    ) -> int:
        """Put a pump's letters into a replay named `stream`; return how many.

        Letters that are in a replay already stay there. `stream` is a new ULID. The
        letters are ordered by list, so that windows of one list are long.
        """
        where, values = _chosen(pump, ids)
        with self.transaction() as db:
            rows = db.execute(
                f"""SELECT id FROM dead_letters
                WHERE {where} AND replay_stream IS NULL ORDER BY list, codec, id""",
                values,
            ).fetchall()
            db.executemany(
                """UPDATE dead_letters SET replay_stream = ?, replay_position = ?
                WHERE id = ?""",
                ((stream, position, row[0]) for position, row in enumerate(rows)),
            )
        return len(rows)

    def replays(self, pump: str = "") -> list[Replay]:
        """Return the replays that are not finished, oldest first."""
        with self.transaction(write=False) as db:
            rows = db.execute(
                """SELECT replay_stream, pump, min(replay_position),
                    max(replay_position) + 1
                FROM dead_letters
                WHERE replay_stream IS NOT NULL AND (:pump = '' OR pump = :pump)
                GROUP BY replay_stream, pump ORDER BY replay_stream""",
                {"pump": pump},
            ).fetchall()
        return [Replay(stream=s, pump=p, first=f, end=e) for s, p, f, e in rows]

    def read_replay(
        self, stream: str, position: int, max_records: int, max_bytes: int
    ) -> ReplayWindow | None:
        """Return letters from the first at or after `position`, None at the end.

        At least one letter is returned, however large it is.
        """
        found: list[tuple[int, str, bytes]] = []
        origin, size = ("", ""), 0
        with self.transaction(write=False) as db:
            rows = db.execute(
                """SELECT replay_position, record_id, raw, list, codec
                FROM dead_letters WHERE replay_stream = ? AND replay_position >= ?
                ORDER BY replay_position LIMIT ?""",
                (stream, position, max_records),
            )
            for at, record_id, raw, list_name, codec in rows:
                if not found:
                    origin = (list_name, codec)
                elif (
                    at != found[-1][0] + 1
                    or origin != (list_name, codec)
                    or size + len(raw) > max_bytes
                ):
                    break
                found.append((at, record_id, raw))
                size += len(raw)
            rows.close()
        if not found:
            return None
        return ReplayWindow(
            stream=stream,
            list=origin[0],
            codec=origin[1],
            first=found[0][0],
            ids=[record_id for _, record_id, _ in found],
            records=[raw for _, _, raw in found],
        )

    def settle_replay(self, stream: str, end: int) -> int:
        """Remove the letters before `end` that the replay delivered; return how many.

        Refused ones have left the replay by then: `store_dead` comes first.
        """
        with self.transaction() as db:
            return _remove(
                db,
                "replay_stream = :stream AND replay_position < :end",
                {"stream": stream, "end": end},
                replayed=True,
            )

    def cancel_replay(self, stream: str) -> int:
        """Make the letters of a replay ordinary dead letters again."""
        with self.transaction() as db:
            return db.execute(
                """UPDATE dead_letters SET replay_stream = NULL, replay_position = NULL
                WHERE replay_stream = ?""",
                (stream,),
            ).rowcount

    # --- stream fields: what Redis had no memory for (the source's FieldBook) ---

    def put(self, stream: str, fields: Mapping[str, bytes]) -> None:
        """Keep fields of a stream's hash until Redis has room for them."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO stream_fields VALUES (?, ?, ?)",
                ((stream, field, bytes(value)) for field, value in fields.items()),
            )

    def pending(self) -> dict[str, dict[str, bytes]]:
        """Return the fields that wait, by stream."""
        found: dict[str, dict[str, bytes]] = {}
        with self.transaction(write=False) as db:
            rows = db.execute(
                "SELECT stream, field, value FROM stream_fields ORDER BY stream, field"
            )
            for stream, field, value in rows:
                found.setdefault(stream, {})[field] = value
        return found

    def clear(self, stream: str, fields: Iterable[str]) -> None:
        """Forget fields that Redis has now."""
        with self.transaction() as db:
            db.executemany(
                "DELETE FROM stream_fields WHERE stream = ? AND field = ?",
                ((stream, field) for field in fields),
            )

    def vacuum(self) -> None:
        """Write the file anew without its free pages."""
        try:
            db = self._connection()
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as exc:
            raise StateError(f"state file {self.path}: {exc}") from exc

    # --- inside ---

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        """Yield this thread's connection; commit at the end, all or nothing."""
        try:
            db = self._connection()
            # IMMEDIATE: a reader that turns writer cannot wait for its turn.
            db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield db
            except BaseException:
                db.rollback()
                raise
            db.commit()
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                self._reuse_log()
            if is_damage(exc):
                self._suspect()
                raise DamagedState(
                    f"state file {self.path}: {exc}; the next start saves what can be"
                    " read"
                ) from exc
            raise StateError(f"state file {self.path}: {exc}") from exc

    def _reuse_log(self) -> None:
        """Let the next transaction begin where the write-ahead log begins.

        SQLite does that after a commit only; on a full disk there would be none.
        """
        with contextlib.suppress(sqlite3.Error):
            self._connection().execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _suspect(self) -> None:
        """Let the next start look closely, whatever the size of the file."""
        with contextlib.suppress(OSError):
            suspect(self.path).touch()

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is not None:
            return found
        # Used by this thread only, but closed by whoever closes the file.
        made = sqlite3.connect(
            self.path, timeout=10, isolation_level=None, check_same_thread=False
        )
        with self._lock:
            self._connections.append(made)
        # Large pages: a frame is a megabyte. Of effect in a new file only.
        made.execute("PRAGMA page_size=65536")
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("PRAGMA synchronous=FULL")
        # 16 MiB, written again and again: a log that grows costs blocks and cache.
        made.execute("PRAGMA wal_autocheckpoint=256")
        self._local.connection = made
        return made

    def _check_version(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StateError(
                f"state file {self.path}: written by a newer tyk-pump (schema"
                f" {version}, this one knows {VERSION}); use that version, or another"
                " state_dir"
            )
        if version == VERSION:
            return
        if not version and db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise StateError(f"state file {self.path}: not written by tyk-pump")
        for statements in _VERSIONS[version:]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute(f"PRAGMA user_version = {VERSION}")


def suspect(path: Path) -> Path:
    """Return the file that says that the state file was found damaged."""
    return path.with_name(f"{path.name}-suspect")


def is_damage(exc: sqlite3.Error) -> bool:
    """Say whether SQLite means that the file's bytes are wrong."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    known = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return code in known or "decode to UTF-8" in str(exc)


def _count(db: sqlite3.Connection, where: str, values: Sequence[Any]) -> int:
    found = db.execute(f"SELECT count(*) FROM dead_letters WHERE {where}", values)
    return int(found.fetchone()[0])


def _remove(
    db: sqlite3.Connection, where: str, values: Mapping[str, Any], *, replayed: bool
) -> int:
    """Remove letters and book what became of them; return how many."""
    counts = db.execute(
        f"SELECT pump, count(*) FROM dead_letters WHERE {where} GROUP BY pump", values
    ).fetchall()
    for pump, count in counts:
        gone = {"replayed" if replayed else "dropped": count}
        ledger.book_letters(db, pump, time.time(), **gone)
    db.execute(f"DELETE FROM dead_letters WHERE {where}", values)
    return sum(count for _, count in counts)


def _chosen(pump: str, ids: Iterable[int] | None) -> tuple[str, dict[str, Any]]:
    """Return the condition for letters of a pump ("" = any) and ids (None = all)."""
    values: dict[str, Any] = {"pump": pump}
    where = "(:pump = '' OR pump = :pump)"
    if ids is not None:
        # JSON, because the number of values in an IN list is limited.
        values["ids"] = msgspec.json.encode([int(one) for one in ids]).decode()
        where += " AND id IN (SELECT value FROM json_each(:ids))"
    return where, values


def _letter(row: Sequence[Any]) -> Letter:
    return Letter(
        id=row[0],
        pump=row[1],
        record_id=row[2],
        list=row[3],
        codec=row[4],
        reason=row[5],
        at=row[6],
        refusals=row[7],
        replaying=bool(row[8]),
        size=row[9],
        raw=row[10] if len(row) > 10 else b"",
    )
