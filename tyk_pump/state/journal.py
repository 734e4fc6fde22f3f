"""Frames of streams in the state file: records that do not wait in Redis any more.

A frame is one window as the workers get it, with a check sum. All frames of a stream
touch each other: together they are its part on the disk. Where each pump is in a part
stands beside the frames, in the same file.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from crc32c import crc32c

from tyk_pump.errors import DamagedState

if TYPE_CHECKING:
    from tyk_pump.state.file import StateFile

logger = logging.getLogger(__name__)

GAP: Final = "gap"
"""In a codec's place: positions that another instance had while it held the stream."""
PRUNE_ROWS: Final = 256
"""Frames removed in one transaction."""
SHRINK_BYTES: Final = 64 << 20
"""Free bytes in the file that are worth the work of writing it anew."""

TABLES: Final = (
    # The data comes last: whoever reads the rest need not walk over it.
    """CREATE TABLE frames (
        stream TEXT NOT NULL,
        first INTEGER NOT NULL,
        end INTEGER NOT NULL,
        claim TEXT NOT NULL,
        list TEXT NOT NULL,
        codec TEXT NOT NULL,
        at REAL NOT NULL,
        pumps TEXT NOT NULL,
        size INTEGER NOT NULL,
        digest INTEGER NOT NULL,
        data BLOB NOT NULL,
        UNIQUE (stream, first)
    )""",
    "CREATE INDEX frames_time ON frames (at)",
    """CREATE TABLE damaged_frames (
        stream TEXT NOT NULL,
        first INTEGER NOT NULL,
        end INTEGER NOT NULL,
        claim TEXT NOT NULL,
        reason TEXT NOT NULL,
        at REAL NOT NULL
    )""",
    """CREATE TABLE parts (
        stream TEXT PRIMARY KEY,
        kept INTEGER NOT NULL,
        digest INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE part_cursors (
        stream TEXT NOT NULL,
        cursor TEXT NOT NULL,
        value BLOB NOT NULL,
        digest INTEGER NOT NULL,
        PRIMARY KEY (stream, cursor)
    ) WITHOUT ROWID""",
)


class Frame(msgspec.Struct, kw_only=True):
    """One window on the disk: positions `first` to `end` of a stream."""

    stream: str
    first: int
    end: int
    claim: str
    list: str
    codec: str
    at: float
    """When its records were claimed, in seconds since the epoch."""
    data: bytes
    """As on a worker's queue; empty where Redis had lost the records."""
    pumps: Sequence[str] = ()
    """Those that were owed it, for a replay."""


class KeptClaim(msgspec.Struct, kw_only=True):
    """What of a claim is on the disk."""

    name: str
    list: str
    codec: str
    at: float
    first: int
    end: int


class Part(msgspec.Struct, kw_only=True):
    """A stream's part on the disk, as it was written last."""

    stream: str
    kept: int
    """Position behind its last frame; what follows is in Redis."""
    cursors: dict[str, bytes]
    """Cursor name -> Progress, packed."""
    claims: Sequence[KeptClaim] = ()
    gaps: Sequence[tuple[int, int]] = ()
    """From where to where another instance had the stream."""


class Damaged(Exception):
    """A frame cannot be read; its positions are lost."""

    def __init__(self, first: int, end: int, reason: str) -> None:
        super().__init__(reason)
        self.first = first
        self.end = end


class FrameStore:
    """The tables `frames`, `parts` and `part_cursors` of the state file."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    # What there is

    def parts(self) -> list[Part]:
        """Return all parts, the oldest first."""
        with self._file.transaction(write=False) as db:
            parts = {
                stream: Part(stream=stream, kept=kept, cursors={})
                for stream, kept, digest in db.execute(
                    "SELECT stream, kept, digest FROM parts ORDER BY stream"
                )
                if self._whole(digest, part_sum(stream, kept))
            }
            for stream, cursor, value, digest in db.execute(
                "SELECT stream, cursor, value, digest FROM part_cursors"
            ):
                self._whole(digest, cursor_sum(stream, cursor, value))
                if stream in parts:
                    parts[stream].cursors[cursor] = value
            claims: dict[str, list[KeptClaim]] = {}
            gaps: dict[str, list[tuple[int, int]]] = {}
            for stream, *values in db.execute(
                """SELECT stream, claim, list, codec, at, min(first), max(end)
                FROM frames GROUP BY stream, claim, CASE codec WHEN ? THEN first END
                ORDER BY stream, min(first)""",
                (GAP,),
            ):
                name, list_name, codec, at, first, end = values
                if codec == GAP:
                    gaps.setdefault(stream, []).append((first, end))
                    continue
                claims.setdefault(stream, []).append(
                    KeptClaim(
                        name=name,
                        list=list_name,
                        codec=codec,
                        at=at,
                        first=first,
                        end=end,
                    )
                )
        for stream, part in parts.items():
            part.claims = claims.get(stream, ())
            part.gaps = gaps.get(stream, ())
        return list(parts.values())

    def _whole(self, digest: int, wanted: int) -> bool:
        if digest != wanted:
            raise DamagedState(f"state file {self._file.path}: a check sum is wrong")
        return True

    def size(self) -> tuple[int, int]:
        """Return how many frames there are, and their bytes."""
        with self._file.transaction(write=False) as db:
            row = db.execute("SELECT count(*), total(size) FROM frames").fetchone()
        return int(row[0]), int(row[1])

    def read(self, stream: str, position: int) -> Frame | None:
        """Return the frame that holds a position, or the next one; None at the end.

        Damaged where its bytes are not those that were written.
        """
        with self._file.transaction(write=False) as db:
            row = _find(db, stream, position)
            if row is None:
                return None
            number, *head, digest = row
            _, first, end, *_ = head
            following = db.execute(
                "SELECT min(first) FROM frames WHERE stream = ? AND first > ?",
                (stream, max(first, position)),
            ).fetchone()[0]
            # A damaged row says nothing true of its own end.
            upto = max(end, position + 1)
            upto = upto if following is None else min(upto, following)
            try:
                (data,) = db.execute(
                    "SELECT data FROM frames WHERE rowid = ?", (number,)
                ).fetchone()
            except sqlite3.DatabaseError as exc:
                raise Damaged(first, upto, f"{exc}") from exc
        if not isinstance(data, bytes) or check_sum(head[0], head[1], data) != digest:
            raise Damaged(first, upto, "its check sum is wrong")
        stream, first, end, claim, list_name, codec, at = head
        end = end if following is None else min(end, following)
        return Frame(
            stream=stream,
            first=first,
            end=end,
            claim=claim,
            list=list_name,
            codec=codec,
            at=at,
            data=data,
        )

    def places(self, stream: str, claim: str) -> list[int]:
        """Return where the frames of a claim begin."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                """SELECT first FROM frames
                WHERE stream = ? AND claim = ? ORDER BY first""",
                (stream, claim),
            ).fetchall()
        return [row[0] for row in rows]

    # What changes

    def append(
        self,
        frames: Sequence[Frame],
        cursors: Mapping[str, Mapping[str, bytes]],
    ) -> None:
        """Keep frames, and where the pumps are in their parts, all or nothing.

        On return the disk has them. A frame that was kept before is replaced.
        """
        ends = {frame.stream: frame.end for frame in frames}
        with self._file.transaction() as db:
            db.executemany(
                """INSERT OR REPLACE INTO frames
                    (stream, first, end, claim, list, codec, at, pumps, size, digest,
                    data)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    (
                        *(one.stream, one.first, one.end, one.claim),
                        *(one.list, one.codec, one.at),
                        msgspec.json.encode(one.pumps).decode(),
                        len(one.data),
                        *(check_sum(one.stream, one.first, one.data), one.data),
                    )
                    for one in frames
                ),
            )
            for stream, end in ends.items():
                _put_part(db, stream, kept=end)
            put_cursors(db, cursors)

    def move(self, cursors: Mapping[str, Mapping[str, bytes]]) -> None:
        """Write where pumps are in parts: stream -> cursor name -> Progress, packed."""
        with self._file.transaction() as db:
            put_cursors(db, cursors)

    def forget_cursor(self, cursor: str) -> None:
        """A removed pump is owed nothing of any part."""
        with self._file.transaction() as db:
            db.execute("DELETE FROM part_cursors WHERE cursor = ?", (cursor,))

    def set_aside(self, stream: str, first: int, reason: str, now: float) -> None:
        """Move a damaged frame out of the way; a person may look at it."""
        with self._file.transaction() as db:
            db.execute(
                """INSERT INTO damaged_frames (stream, first, end, claim, reason, at)
                SELECT stream, first, end, claim, ?, ? FROM frames
                WHERE stream = ? AND first = ?""",
                (reason, now, stream, first),
            )
            db.execute(
                "UPDATE frames SET size = 0, digest = ?, data = x'' "
                "WHERE stream = ? AND first = ?",
                (check_sum(stream, first, b""), stream, first),
            )

    def prune(
        self, settled: Mapping[str, int], *, before: float, over: int = 0
    ) -> tuple[int, int]:
        """Remove frames that all pumps have settled; return how many, and their bytes.

        Those claimed before a time go, then the oldest until `over` bytes are gone.
        `settled` says up to which position a part is settled; what is no part any
        more is settled whole.
        """
        limits = msgspec.json.encode(settled).decode()
        with self._file.transaction() as db:
            rows = db.execute(
                """SELECT rowid, size, at FROM frames
                WHERE stream NOT IN (SELECT stream FROM parts) OR end <=
                    (SELECT value FROM json_each(?) WHERE key = frames.stream)
                ORDER BY at, first LIMIT ?""",
                (limits, PRUNE_ROWS),
            ).fetchall()
            doomed: list[tuple[int]] = []
            freed = 0
            for number, size, at in rows:
                if at >= before and freed >= over:
                    break
                doomed.append((number,))
                freed += size
            db.executemany("DELETE FROM frames WHERE rowid = ?", doomed)
        return len(doomed), freed

    def shrink(self) -> None:
        """Give the disk back the room of frames that are gone, where that is a lot."""
        with self._file.transaction(write=False) as db:
            free, total, size = (
                db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("freelist_count", "page_count", "page_size")
            )
        if free * size > SHRINK_BYTES and free > total * 3 // 4:
            self._file.vacuum()

    def drop_parts(self, streams: Iterable[str]) -> None:
        """Forget parts of which nothing is left to deliver; their frames may stay."""
        with self._file.transaction() as db:
            for stream in streams:
                db.execute("DELETE FROM parts WHERE stream = ?", (stream,))
                db.execute("DELETE FROM part_cursors WHERE stream = ?", (stream,))


_HEAD: Final = "rowid, stream, first, end, claim, list, codec, at, digest"


def _find(db: sqlite3.Connection, stream: str, position: int) -> Any:
    """Return the frame that holds a position, or the next one, without its data."""
    row = db.execute(
        f"""SELECT {_HEAD} FROM frames WHERE stream = ? AND first <= ?
        ORDER BY first DESC LIMIT 1""",
        (stream, position),
    ).fetchone()
    if row is not None and row[3] > position:
        return row
    # A hole, or an index that is damaged: the table itself is asked.
    return db.execute(
        f"""SELECT {_HEAD} FROM frames NOT INDEXED WHERE stream = ? AND end > ?
        ORDER BY first LIMIT 1""",
        (stream, position),
    ).fetchone()


def _put_part(db: sqlite3.Connection, stream: str, *, kept: int) -> None:
    """Raise the position up to which a stream is on the disk."""
    row = db.execute("SELECT kept FROM parts WHERE stream = ?", (stream,)).fetchone()
    end = max(row[0] if row else 0, kept)
    db.execute(
        "INSERT OR REPLACE INTO parts (stream, kept, digest) VALUES (?, ?, ?)",
        (stream, end, part_sum(stream, end)),
    )


def put_cursors(
    db: sqlite3.Connection, cursors: Mapping[str, Mapping[str, bytes]]
) -> None:
    """Write where pumps are in parts, in a transaction of somebody."""
    db.executemany(
        """INSERT OR REPLACE INTO part_cursors (stream, cursor, value, digest)
        VALUES (?, ?, ?, ?)""",
        (
            (stream, cursor, value, cursor_sum(stream, cursor, value))
            for stream, fields in cursors.items()
            for cursor, value in fields.items()
        ),
    )


def check_sum(stream: str, first: int, data: bytes) -> int:
    """Return the check sum of a frame, which depends on its place as well."""
    return crc32c(data, crc32c(f"{stream}:{first}".encode()))


def part_sum(stream: str, kept: int) -> int:
    """Return the check sum of a part's row."""
    return zlib.crc32(f"part {stream} {kept}".encode())


def cursor_sum(stream: str, cursor: str, value: bytes) -> int:
    """Return the check sum of a cursor's row."""
    return zlib.crc32(value, zlib.crc32(f"cursor {stream} {cursor}".encode()))
