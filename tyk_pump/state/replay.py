"""Replays of kept records: copies of what is to be delivered once more.

A replay is a stream of its own, owed to one pump. It is copied in pieces, offered when
it is complete, and its frames are removed as they are delivered; the row of the replay
says what became of its records, and is kept for a while.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tyk_pump import channel
from tyk_pump.cursors import Counts
from tyk_pump.state import ledger
from tyk_pump.state.journal import GAP, Damaged, check_sum

if TYPE_CHECKING:
    from tyk_pump.state.file import StateFile

ABANDONED: Final = 600.0
"""Seconds after which a replay that nobody completes is removed."""
KEPT: Final = 7 * 86_400.0
"""Seconds for which the row of a replay that has ended is kept."""

TABLES: Final = (
    """CREATE TABLE replays (
        stream TEXT PRIMARY KEY,
        pump TEXT NOT NULL,
        request TEXT NOT NULL,
        at REAL NOT NULL,
        touched REAL NOT NULL,
        complete INTEGER NOT NULL DEFAULT 0,
        ended REAL,
        position INTEGER NOT NULL DEFAULT 0,
        end INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,
        filtered INTEGER NOT NULL DEFAULT 0,
        dead INTEGER NOT NULL DEFAULT 0,
        lost INTEGER NOT NULL DEFAULT 0,
        cancelled INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    # The data comes last: whoever reads the rest need not walk over it.
    """CREATE TABLE replay_frames (
        stream TEXT NOT NULL,
        first INTEGER NOT NULL,
        end INTEGER NOT NULL,
        digest INTEGER NOT NULL,
        data BLOB NOT NULL,
        UNIQUE (stream, first)
    )""",
)


class KeptFrame(msgspec.Struct, kw_only=True):
    """A frame of the journal as a replay finds it, without its data."""

    row: int
    stream: str
    first: int
    end: int
    list: str
    codec: str
    at: float
    size: int
    pumps: Sequence[str]
    """Those that were owed it."""


class KeptReplay(msgspec.Struct, kw_only=True):
    """One replay: what was asked for and what became of it."""

    stream: str
    pump: str
    request: dict[str, Any]
    at: float
    complete: bool
    ended: float | None
    position: int
    """So many of its records are settled."""
    end: int
    bytes: int
    delivered: int = 0
    filtered: int = 0
    dead: int = 0
    lost: int = 0
    cancelled: int = 0

    @property
    def waiting(self) -> int:
        """Records that have not been settled."""
        return self.end - self.position


class ReplayFrame(msgspec.Struct, kw_only=True):
    """A part of a replay as it goes to the worker."""

    stream: str
    list: str
    codec: str
    first: int
    ids: Sequence[str]
    records: Sequence[bytes]

    @property
    def end(self) -> int:
        """Position behind the last record."""
        return self.first + len(self.records)


class ReplayStore:
    """The tables of replays, and the frames that they are taken from."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    # What is kept

    def frames(self, since: float = 0.0) -> list[KeptFrame]:
        """Return what was claimed since then and is kept, in the order of its time."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                """SELECT rowid, stream, first, end, list, codec, at, size, pumps
                FROM frames WHERE at >= ? AND codec != ? ORDER BY at, stream, first""",
                (since, GAP),
            ).fetchall()
        return [
            KeptFrame(
                row=row,
                stream=stream,
                first=first,
                end=end,
                list=list_name,
                codec=codec,
                at=at,
                size=size,
                pumps=msgspec.json.decode(pumps),
            )
            for row, stream, first, end, list_name, codec, at, size, pumps in rows
        ]

    def kept_since(self) -> float | None:
        """Return when the oldest frame was claimed; None when there is none."""
        with self._file.transaction(write=False) as db:
            found = db.execute(
                "SELECT min(at) FROM frames WHERE codec != ?", (GAP,)
            ).fetchone()[0]
        return None if found is None else float(found)

    def records(self, frame: KeptFrame) -> Sequence[bytes] | None:
        """Return a frame's records; None when its time has passed meanwhile.

        Damaged where its bytes are not those that were written.
        """
        with self._file.transaction(write=False) as db:
            try:
                found = db.execute(
                    """SELECT digest, data FROM frames
                    WHERE rowid = ? AND stream = ? AND first = ?""",
                    (frame.row, frame.stream, frame.first),
                ).fetchone()
            except sqlite3.DatabaseError as exc:
                raise Damaged(frame.first, frame.end, f"{exc}") from exc
        if found is None:
            return None
        digest, data = found
        if not isinstance(data, bytes) or (
            check_sum(frame.stream, frame.first, data) != digest
        ):
            raise Damaged(frame.first, frame.end, "its check sum is wrong")
        if not data:
            raise Damaged(frame.first, frame.end, "its records were lost before")
        records: Sequence[bytes] = channel.decode_frame(data)[5]
        return records

    # A replay in the making

    def begin(
        self, stream: str, pump: str, request: Mapping[str, Any], now: float
    ) -> None:
        """Note a replay that is about to be copied. `stream` is a new ULID."""
        words = msgspec.json.encode(request).decode()
        with self._file.transaction() as db:
            db.execute(
                """INSERT INTO replays (stream, pump, request, at, touched)
                VALUES (?, ?, ?, ?, ?)""",
                (stream, pump, words, now, now),
            )

    def append(self, frames: Sequence[ReplayFrame], now: float) -> None:
        """Keep a piece of a replay, or of several, all or nothing."""
        with self._file.transaction() as db:
            for frame in frames:
                data = channel.encode_frame(
                    frame.stream,
                    frame.list,
                    frame.codec,
                    frame.first,
                    frame.ids,
                    frame.records,
                )
                digest = check_sum(frame.stream, frame.first, data)
                db.execute(
                    "INSERT INTO replay_frames VALUES (?, ?, ?, ?, ?)",
                    (frame.stream, frame.first, frame.end, digest, data),
                )
                db.execute(
                    """UPDATE replays SET end = ?, bytes = bytes + ?, touched = ?
                    WHERE stream = ?""",
                    (frame.end, sum(map(len, frame.records)), now, frame.stream),
                )

    def complete(self, streams: Sequence[str], now: float) -> None:
        """Let replays be delivered, all together; what they ask for is booked."""
        with self._file.transaction() as db:
            for stream in streams:
                db.execute(
                    "UPDATE replays SET complete = 1, touched = ? WHERE stream = ?",
                    (now, stream),
                )
                (pump, end), *_ = db.execute(
                    "SELECT pump, end FROM replays WHERE stream = ?", (stream,)
                )
                ledger.book_replay(db, pump, now, asked=end)

    def withdraw(self, streams: Sequence[str]) -> None:
        """Remove replays that were not completed."""
        with self._file.transaction() as db:
            for stream in streams:
                _remove(db, "stream = ? AND NOT complete", (stream,))

    # A replay on its way

    def replays(self, pump: str = "") -> list[KeptReplay]:
        """Return the replays that are known, the oldest first."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                """SELECT stream, pump, request, at, complete, ended, position, end,
                    bytes, delivered, filtered, dead, lost, cancelled
                FROM replays WHERE :pump = '' OR pump = :pump ORDER BY stream""",
                {"pump": pump},
            ).fetchall()
        return [_replay(row) for row in rows]

    def next(self, pump: str) -> str | None:
        """Return the pump's oldest replay that waits."""
        with self._file.transaction(write=False) as db:
            row = db.execute(
                """SELECT stream FROM replays
                WHERE pump = ? AND complete AND ended IS NULL
                ORDER BY stream LIMIT 1""",
                (pump,),
            ).fetchone()
        return None if row is None else str(row[0])

    def read(self, stream: str, limit: int = 0) -> ReplayFrame | None:
        """Return what comes next in a replay, at most `limit` records (0 = any).

        None where nothing is left. Damaged where its bytes are not those written.
        """
        with self._file.transaction(write=False) as db:
            row = db.execute(
                """SELECT replays.position, replays.end, f.rowid, first, f.end, digest
                FROM replays LEFT JOIN replay_frames f
                    ON f.stream = replays.stream AND f.end > replays.position
                WHERE replays.stream = ? AND replays.position < replays.end
                ORDER BY first LIMIT 1""",
                (stream,),
            ).fetchone()
            if row is None:
                return None
            position, whole, number, first, end, digest = row
            if number is None or first > position:
                raise Damaged(position, first or whole, "it is not there")
            try:
                (data,) = db.execute(
                    "SELECT data FROM replay_frames WHERE rowid = ?", (number,)
                ).fetchone()
            except sqlite3.DatabaseError as exc:
                raise Damaged(position, end, f"{exc}") from exc
        if not isinstance(data, bytes) or check_sum(stream, first, data) != digest:
            raise Damaged(position, end, "its check sum is wrong")
        _, list_name, codec, _, ids, records = channel.decode_frame(data)
        part = slice(position - first, position - first + limit if limit else None)
        return ReplayFrame(
            stream=stream,
            list=list_name,
            codec=codec,
            first=position,
            ids=(ids or [])[part],
            records=records[part],
        )

    def settle(
        self, stream: str, first: int, end: int, became: Counts, now: float
    ) -> bool:
        """Move a replay behind what is settled, and book it; True when all of it is.

        A repeat changes nothing. Refused records are dead letters by then:
        `store_dead` comes first.
        """
        with self._file.transaction() as db:
            found = db.execute(
                """SELECT pump, end FROM replays
                WHERE stream = ? AND position = ? AND ended IS NULL""",
                (stream, first),
            ).fetchone()
            if found is None:
                return False  # it was cancelled while the worker had it
            db.execute(
                """UPDATE replays SET position = ?, delivered = delivered + ?,
                    filtered = filtered + ?, dead = dead + ?, lost = lost + ?,
                    ended = CASE WHEN end <= ? THEN ? END
                WHERE stream = ?""",
                (
                    *(end, became.delivered, became.filtered, became.dead),
                    *(became.lost, end, now, stream),
                ),
            )
            db.execute(
                "DELETE FROM replay_frames WHERE stream = ? AND end <= ?", (stream, end)
            )
            pump, whole = found
            ledger.book_replay(
                db,
                pump,
                now,
                delivered=became.delivered,
                filtered=became.filtered,
                dead=became.dead,
                lost=became.lost,
            )
        return bool(end >= whole)

    def cancel(self, streams: Sequence[str], now: float) -> int:
        """Deliver no more of replays; return how many records were left."""
        left = 0
        with self._file.transaction() as db:
            for stream in streams:
                for pump, count in db.execute(
                    """SELECT pump, end - position FROM replays
                    WHERE stream = ? AND complete AND ended IS NULL""",
                    (stream,),
                ).fetchall():
                    ledger.book_replay(db, pump, now, cancelled=count)
                    left += count
                db.execute(
                    """UPDATE replays SET ended = ?, cancelled = end - position,
                        position = end
                    WHERE stream = ? AND complete AND ended IS NULL""",
                    (now, stream),
                )
                db.execute("DELETE FROM replay_frames WHERE stream = ?", (stream,))
                db.execute(
                    "DELETE FROM replays WHERE stream = ? AND NOT complete", (stream,)
                )
        return left

    def tidy(self, now: float) -> None:
        """Remove replays that were never completed, and what has ended long ago."""
        with self._file.transaction() as db:
            _remove(db, "NOT complete AND touched < ?", (now - ABANDONED,))
            db.execute("DELETE FROM replays WHERE ended < ?", (now - KEPT,))

    def waiting(self) -> dict[str, int]:
        """Return how many records wait for each pump."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                """SELECT pump, sum(end - position) FROM replays
                WHERE complete AND ended IS NULL GROUP BY pump ORDER BY pump"""
            ).fetchall()
        return dict(rows)


def _remove(db: sqlite3.Connection, where: str, values: Sequence[Any]) -> None:
    db.execute(
        f"""DELETE FROM replay_frames
        WHERE stream IN (SELECT stream FROM replays WHERE {where})""",
        values,
    )
    db.execute(f"DELETE FROM replays WHERE {where}", values)


def _replay(row: Sequence[Any]) -> KeptReplay:
    return KeptReplay(
        stream=row[0],
        pump=row[1],
        request=msgspec.json.decode(row[2]),
        at=row[3],
        complete=bool(row[4]),
        ended=row[5],
        position=row[6],
        end=row[7],
        bytes=row[8],
        delivered=row[9],
        filtered=row[10],
        dead=row[11],
        lost=row[12],
        cancelled=row[13],
    )
