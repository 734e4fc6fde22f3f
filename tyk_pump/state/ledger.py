"""The ledger: what each pump was owed of each claim, and what became of it.

A row is a claim and a cursor. It is opened when the claim is noted, with what the
pump is owed of it, and closed when the cursor has passed it, with what the outcomes
said. Both are keyed: what a crash repeats replaces itself. Sums per pump and hour are
kept by triggers in the transactions that change rows, so that rows which nobody will
touch again can go without a sum being moved.

Dead letters are counted where they are stored, replayed and dropped, in the same
transaction: what is kept must be what was stored less what has gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from tyk_pump import cursors
from tyk_pump.cursors import Counts
from tyk_pump.state import journal

if TYPE_CHECKING:
    from tyk_pump.state.file import StateFile

HOUR: Final = 3600
ROWS_KEPT: Final = 3600.0
"""Seconds that a closed row stays: so long a repeat finds it."""
HOURS_KEPT: Final = 90 * 24 * HOUR
"""Seconds after which the hours of a day become one."""

_SUMS: Final = (
    "claimed",
    "adopted",
    "delivered",
    "filtered",
    "dead",
    "lost",
    "unknown",
    "forgotten",
    "handed_over",
)


def _columns() -> str:
    return ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in _SUMS)


def _add_up(sign: str) -> str:
    """Return the body of a trigger that brings a change of a row into the sums."""
    values = ", ".join(sign.format(name=name) for name in _SUMS)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
    return f"""INSERT INTO ledger_hours (pump, hour, {", ".join(_SUMS)})
        VALUES (new.pump, new.hour, {values})
        ON CONFLICT (pump, hour) DO UPDATE SET {sums};"""


TABLES: Final = (
    f"""CREATE TABLE ledger (
        stream TEXT NOT NULL,
        claim TEXT NOT NULL,
        cursor TEXT NOT NULL,
        pump TEXT NOT NULL,
        hour INTEGER NOT NULL,
        at REAL NOT NULL,
        base INTEGER NOT NULL,
        end INTEGER NOT NULL,
        closed REAL,
        passed INTEGER NOT NULL DEFAULT 0,
        {_columns()},
        PRIMARY KEY (stream, claim, cursor)
    ) WITHOUT ROWID""",
    "CREATE INDEX ledger_open ON ledger (stream, base) WHERE closed IS NULL",
    "CREATE INDEX ledger_closed ON ledger (closed) WHERE closed IS NOT NULL",
    f"""CREATE TABLE ledger_hours (
        pump TEXT NOT NULL,
        hour INTEGER NOT NULL,
        {_columns()},
        PRIMARY KEY (pump, hour)
    ) WITHOUT ROWID""",
    f"""CREATE TRIGGER ledger_opened AFTER INSERT ON ledger BEGIN
        {_add_up("new.{name}")} END""",
    f"""CREATE TRIGGER ledger_changed AFTER UPDATE ON ledger BEGIN
        {_add_up("new.{name} - old.{name}")} END""",
    """CREATE TABLE ledger_letters (
        pump TEXT NOT NULL,
        hour INTEGER NOT NULL,
        stored INTEGER NOT NULL DEFAULT 0,
        replayed INTEGER NOT NULL DEFAULT 0,
        dropped INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (pump, hour)
    ) WITHOUT ROWID""",
    """CREATE TABLE ledger_replays (
        pump TEXT NOT NULL,
        hour INTEGER NOT NULL,
        asked INTEGER NOT NULL DEFAULT 0,
        delivered INTEGER NOT NULL DEFAULT 0,
        filtered INTEGER NOT NULL DEFAULT 0,
        dead INTEGER NOT NULL DEFAULT 0,
        lost INTEGER NOT NULL DEFAULT 0,
        cancelled INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (pump, hour)
    ) WITHOUT ROWID""",
    # Letters of a file that is older than the ledger were stored by somebody.
    f"""INSERT INTO ledger_letters (pump, hour, stored)
        SELECT pump, CAST(at / {HOUR} AS INTEGER) * {HOUR}, count(*)
        FROM dead_letters GROUP BY 1, 2""",
)


class Row(msgspec.Struct, kw_only=True):
    """One claim as far as it is one cursor's."""

    stream: str
    claim: str
    cursor: str
    at: float
    """When the claim was made."""
    base: int
    end: int
    claimed: int
    """Records that the pump is owed of it, noted before the first was delivered; of
    a row that was read, those of which nothing is booked yet."""
    adopted: bool = False
    counts: Counts = msgspec.field(default_factory=Counts)
    forgotten: int = 0
    """Owed to a pump that was removed."""
    handed_over: int = 0
    """Another instance has the claim now, and books all of it."""
    relayed: int = 0
    """Owed to other lanes of the pump now: as if it had not been claimed here."""
    passed: bool = False
    """True when the cursor has gone over the claim's end in our hands."""
    begun: int = -1
    """Where the cursor in the part on the disk had begun to count; not written."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a repeat has in common with the row it replaces."""
        return self.stream, self.claim, self.cursor


class Sums(msgspec.Struct, kw_only=True):
    """What is booked for a pump, of one hour or of all."""

    claimed: int = 0
    adopted: int = 0
    """The part of `claimed` that other instances had claimed."""
    delivered: int = 0
    filtered: int = 0
    dead: int = 0
    lost: int = 0
    unknown: int = 0
    forgotten: int = 0
    handed_over: int = 0

    def add(self, counts: Counts) -> None:
        """Add what outcomes said."""
        self.delivered += counts.delivered
        self.filtered += counts.filtered
        self.dead += counts.dead
        self.lost += counts.lost
        self.unknown += counts.unknown

    @property
    def counts(self) -> Counts:
        """What outcomes said."""
        return Counts(self.delivered, self.filtered, self.dead, self.lost, self.unknown)

    @property
    def settled(self) -> int:
        """All of which is known what became of it."""
        return (
            self.delivered
            + self.filtered
            + self.dead
            + self.lost
            + self.unknown
            + self.forgotten
            + self.handed_over
        )


class LetterSums(msgspec.Struct, kw_only=True):
    """Dead letters of a pump: what came, what went, what is there."""

    stored: int = 0
    replayed: int = 0
    dropped: int = 0
    kept: int = 0


class ReplaySums(msgspec.Struct, kw_only=True):
    """Records kept in the journal that were delivered to a pump once more."""

    asked: int = 0
    delivered: int = 0
    filtered: int = 0
    dead: int = 0
    lost: int = 0
    cancelled: int = 0
    pending: int = 0

    @property
    def settled(self) -> int:
        """All of which is known what became of it."""
        return self.delivered + self.filtered + self.dead + self.lost + self.cancelled


class Ledger:
    """The ledger's tables in the state file."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    def write(
        self,
        opened: Iterable[Row],
        gaps: Iterable[tuple[Row, int, int]],
        closed: Iterable[Row],
        now: float,
        places: Mapping[str, Mapping[str, bytes]] | None = None,
    ) -> None:
        """Open rows, adjust open ones, then close rows, in one transaction.

        A gap is what another has done of a row (below zero, what is done twice), and
        what nobody knows of.
        `places` are cursors in parts on the disk: what they had counted is in rows now.
        """
        with self._file.transaction() as db:
            db.executemany(_OPEN, ([*_values(row), None] for row in opened))
            db.executemany(_ADJUST, ((*gap, *row.key) for row, *gap in gaps))
            db.executemany(
                _CLOSE,
                ([*_values(row), now, row.relayed, row.relayed, now] for row in closed),
            )
            journal.put_cursors(db, places or {})

    def fold(self, now: float) -> None:
        """Let go of rows that were closed long ago, and make old hours into days."""
        with self._file.transaction() as db:
            db.execute("DELETE FROM ledger WHERE closed < ?", (now - ROWS_KEPT,))
            # The hour of a row that may still change stays an hour.
            (oldest,) = db.execute("SELECT min(hour) FROM ledger").fetchone()
            old = (int(min(now - HOURS_KEPT, now if oldest is None else oldest)),)
            sums = ", ".join(f"sum({name})" for name in _SUMS)
            days = db.execute(
                f"""SELECT pump, hour / 86400 * 86400 AS day, {sums}
                FROM ledger_hours WHERE hour < ? AND hour / 86400 * 86400 IN (
                    SELECT hour / 86400 * 86400 FROM ledger_hours
                    WHERE hour < ? AND hour % 86400)
                GROUP BY pump, day""",
                old * 2,
            ).fetchall()
            for pump, day, *_ in days:
                db.execute(
                    """DELETE FROM ledger_hours
                    WHERE pump = ? AND hour >= ? AND hour < ? AND hour < ?""",
                    (pump, day, day + 86400, *old),
                )
            marks = ", ".join("?" for _ in _SUMS)
            db.executemany(
                f"""INSERT INTO ledger_hours (pump, hour, {", ".join(_SUMS)})
                VALUES (?, ?, {marks})
                ON CONFLICT (pump, hour) DO UPDATE SET
                {", ".join(f"{n} = {n} + excluded.{n}" for n in _SUMS)}""",
                days,
            )

    def open_rows(self, streams: Collection[str] | None = None) -> list[Row]:
        """Return the rows that are not closed, of these streams or of all."""
        condition, values = "closed IS NULL", []
        if streams is not None:
            condition += " AND stream IN (SELECT value FROM json_each(?))"
            values = [msgspec.json.encode(list(streams)).decode()]
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                f"""SELECT stream, claim, cursor, at, base, end,
                    claimed - {_BOOKED}, adopted > 0
                FROM ledger WHERE {condition} ORDER BY stream, base, cursor""",
                values,
            ).fetchall()
        return [
            Row(
                stream=stream,
                claim=claim,
                cursor=cursor,
                at=at,
                base=base,
                end=end,
                claimed=claimed,
                adopted=bool(adopted),
            )
            for stream, claim, cursor, at, base, end, claimed, adopted in rows
        ]

    def cursors(self, stream: str, claim: str) -> set[str]:
        """Return the cursors that have rows of a claim."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                "SELECT cursor FROM ledger WHERE stream = ? AND claim = ?",
                (stream, claim),
            ).fetchall()
        return {row[0] for row in rows}

    def open_streams(self) -> set[str]:
        """Return the streams that have rows which are not closed."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                "SELECT DISTINCT stream FROM ledger WHERE closed IS NULL"
            ).fetchall()
        return {row[0] for row in rows}

    def is_own(self, stream: str) -> bool:
        """Say whether a stream's claims were ours from the beginning."""
        with self._file.transaction(write=False) as db:
            row = db.execute(
                "SELECT 1 FROM ledger WHERE stream = ? AND adopted = 0 LIMIT 1",
                (stream,),
            ).fetchone()
        return row is not None

    def closed(self, stream: str) -> dict[tuple[str, str], int]:
        """Return up to where closed rows were passed by their cursors, -1 if not."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                """SELECT claim, cursor, CASE WHEN passed THEN end ELSE -1 END
                FROM ledger WHERE stream = ? AND closed IS NOT NULL""",
                (stream,),
            ).fetchall()
        return {(claim, cursor): end for claim, cursor, end in rows}

    def hours(self, since: float = 0.0) -> dict[tuple[str, int], Sums]:
        """Return the sums per pump and hour, hours as seconds since the epoch."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                f"""SELECT pump, hour, {", ".join(_SUMS)} FROM ledger_hours
                WHERE hour >= ? ORDER BY pump, hour""",
                (hour_of(since),),
            ).fetchall()
        return {(pump, hour): _sums(rest) for pump, hour, *rest in rows}

    def totals(self) -> dict[str, Sums]:
        """Return the sums per pump."""
        sums = ", ".join(f"sum({name})" for name in _SUMS)
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                f"SELECT pump, {sums} FROM ledger_hours GROUP BY pump"
            ).fetchall()
        return {pump: _sums(rest) for pump, *rest in rows}

    def letters(self) -> dict[str, LetterSums]:
        """Return the dead letters per pump; all are counted, whatever their hour."""
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                """SELECT pump, sum(stored), sum(replayed), sum(dropped)
                FROM ledger_letters GROUP BY pump"""
            ).fetchall()
            kept = db.execute(
                "SELECT pump, count(*) FROM dead_letters GROUP BY pump"
            ).fetchall()
        found = {
            pump: LetterSums(stored=stored, replayed=replayed, dropped=dropped)
            for pump, stored, replayed, dropped in rows
        }
        for pump, count in kept:
            found.setdefault(pump, LetterSums()).kept = count
        return found

    def replays(self) -> dict[str, ReplaySums]:
        """Return the replays of kept records per pump, of all times."""
        names = ReplaySums.__struct_fields__[:-1]
        with self._file.transaction(write=False) as db:
            rows = db.execute(
                f"""SELECT pump, {", ".join(f"sum({name})" for name in names)}
                FROM ledger_replays GROUP BY pump"""
            ).fetchall()
            pending = db.execute(
                """SELECT pump, sum(end - position) FROM replays
                WHERE complete AND ended IS NULL GROUP BY pump"""
            ).fetchall()
        found = {
            pump: ReplaySums(**dict(zip(names, numbers, strict=True)))
            for pump, *numbers in rows
        }
        for pump, count in pending:
            found.setdefault(pump, ReplaySums()).pending = count
        return found


def book_letters(
    db: sqlite3.Connection,
    pump: str,
    now: float,
    *,
    stored: int = 0,
    replayed: int = 0,
    dropped: int = 0,
) -> None:
    """Count dead letters that come or go, in the transaction that moves them."""
    if not (stored or replayed or dropped):
        return
    db.execute(
        """INSERT INTO ledger_letters (pump, hour, stored, replayed, dropped)
        VALUES (?, ?, ?, ?, ?) ON CONFLICT (pump, hour) DO UPDATE SET
            stored = stored + excluded.stored,
            replayed = replayed + excluded.replayed,
            dropped = dropped + excluded.dropped""",
        (pump, hour_of(now), stored, replayed, dropped),
    )


def book_replay(db: sqlite3.Connection, pump: str, now: float, **counts: int) -> None:
    """Count records of replays, in the transaction that moves them."""
    some = {name: count for name, count in counts.items() if count}
    if not some:
        return
    names = ", ".join(some)
    marks = ", ".join("?" for _ in some)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in some)
    db.execute(
        f"""INSERT INTO ledger_replays (pump, hour, {names}) VALUES (?, ?, {marks})
        ON CONFLICT (pump, hour) DO UPDATE SET {sums}""",
        (pump, hour_of(now), *some.values()),
    )


def hour_of(at: float) -> int:
    """Return the beginning of the hour, in seconds since the epoch."""
    return int(at // HOUR) * HOUR


_FIELDS: Final = (
    *("stream", "claim", "cursor", "pump", "hour", "at", "base", "end", "passed"),
    *_SUMS,
    "closed",
)
_INSERT: Final = (
    f"INSERT INTO ledger ({', '.join(_FIELDS)})"
    f" VALUES ({', '.join('?' for _ in _FIELDS)})"
)
_BECAME: Final = [name for name in _SUMS if name not in ("claimed", "adopted")]
_BOOKED: Final = f"({' + '.join(_BECAME)})"
_LEFT: Final = "max(0, excluded.claimed - handed_over - lost - forgotten)"
# Reopened: it was handed over, given up or relayed, and has come back. What is owed
# again is no more what it was booked as; what we have delivered of it before stays.
_OPEN: Final = f"""{_INSERT}
    ON CONFLICT (stream, claim, cursor) DO UPDATE SET
    handed_over = max(0, handed_over - excluded.claimed),
    lost = max(0, lost - max(0, excluded.claimed - handed_over)),
    forgotten = max(0, forgotten - max(0, excluded.claimed - handed_over - lost)),
    claimed = claimed + {_LEFT},
    adopted = CASE WHEN adopted THEN adopted + {_LEFT} ELSE 0 END,
    closed = NULL
    WHERE closed IS NOT NULL AND NOT passed"""
# What was owed is what was noted when the claim was made: closing tells no more of it
# than what became of it. Of an open row that is added, of a closed one it is a repeat.
_NUMBERS: Final = ", ".join(
    f"""{name} = CASE WHEN closed IS NULL THEN {name} ELSE 0 END + excluded.{name}"""
    for name in _BECAME
)
_CLOSE: Final = f"""{_INSERT}
    ON CONFLICT (stream, claim, cursor) DO UPDATE SET
    {_NUMBERS}, passed = excluded.passed,
    claimed = claimed - CASE WHEN closed IS NULL THEN ? ELSE 0 END,
    adopted = max(0, adopted - CASE WHEN closed IS NULL THEN ? ELSE 0 END),
    closed = ?"""
_ADJUST: Final = """UPDATE ledger SET handed_over = handed_over + max(0, ?1),
    claimed = claimed + max(0, -?1), unknown = unknown + ?2
    WHERE stream = ?3 AND claim = ?4 AND cursor = ?5 AND closed IS NULL"""


def _values(row: Row) -> list[object]:
    counts = row.counts
    return [
        row.stream,
        row.claim,
        row.cursor,
        cursors.parts(row.cursor)[0],
        hour_of(row.at),
        row.at,
        row.base,
        row.end,
        row.passed,
        row.claimed - row.relayed,
        row.claimed - row.relayed if row.adopted else 0,
        counts.delivered,
        counts.filtered,
        counts.dead,
        counts.lost,
        counts.unknown,
        row.forgotten,
        row.handed_over,
    ]


def _sums(numbers: Sequence[int]) -> Sums:
    return Sums(**dict(zip(_SUMS, numbers, strict=True)))


__all__ = [
    "Ledger",
    "LetterSums",
    "ReplaySums",
    "Row",
    "Sums",
    "book_letters",
    "book_replay",
    "hour_of",
]
