"""A damaged state file: recognised, read as far as it goes, and replaced.

What can be read is written into a fresh file, row by row; then the two change places.
The damaged one stays beside it under a name with the time, with a report. Nothing of
this is done to a file of a newer version or of somebody else.

Where it is not certain how far a pump had come in what is on the disk, it begins at
the first frame: that costs a repeat, the other way a record.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tyk_pump import channel, cursors
from tyk_pump.errors import CodecError, StateError
from tyk_pump.state import journal
from tyk_pump.state.file import VERSION, StateFile, schema, suspect
from tyk_pump.state.pages import MAGIC, Pages, Row, read_log

logger = logging.getLogger(__name__)

WHOLE_LOOK: Final = 256 << 20
"""Bytes of a file up to which all of it is looked at when it is opened."""
LOG_LOOK: Final = 80 << 20
"""The same of its write-ahead log; SQLite begins that anew at 64 MiB."""
NEWER: Final = 1000
"""A version up to which it is a newer one's file; beyond, the number is damaged."""
LAST_FORMAT: Final = 4
"""The highest schema format number that SQLite has, in the file's head."""
MARK: Final = "damaged"
UPTIME_CODEC: Final = "uptime"
_DRAFT: Final = "-draft"
_READY: Final = "-rescued"


class Report(msgspec.Struct, kw_only=True):
    """What became of a damaged state file."""

    at: float
    reason: str
    kept: str
    """Where the damaged file is now."""
    saved: dict[str, int] = {}
    """Rows by table."""
    damaged_frames: int = 0
    lost_records: int = 0
    """Positions on the disk of which nothing is left, before which a pump stands."""
    unreadable: int = 0
    """Pages and rows that could not be read; what they held is not known."""

    @property
    def remains(self) -> bool:
        """Say whether the damaged file is still there for a person to look at."""
        return Path(self.kept).exists()

    @property
    def text(self) -> str:
        """Say it in one line."""
        saved = ", ".join(f"{n:,} {name}" for name, n in self.saved.items() if n)
        return (
            f"the state file was damaged ({self.reason}): saved {saved or 'nothing'};"
            f" lost {self.lost_records:,} records on their way,"
            f" {self.unreadable:,} pages or rows were unreadable;"
            f" it is kept as {self.kept}: remove it once you have looked"
        )


def reports(folder: Path) -> list[Report]:
    """Return what was written of damaged files that are still there, oldest first."""
    found = []
    for path in sorted(folder.glob(f"*.{MARK}-*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            report = msgspec.json.decode(path.read_bytes(), type=Report)
            if report.remains:
                found.append(report)
    return found


def opened(
    path: Path,
    names: Collection[str] = (),
    position: Callable[[int], bytes] = lambda at: b"",
    *,
    reason: str = "",
) -> tuple[StateFile, Report | None]:
    """Open the state file; where it is damaged, what could be saved of it.

    `names` are cursors of pumps that are configured, `position` packs one for a
    place. A `reason` says that it is known to be damaged already.
    """
    _finish(path)
    reason = reason or fault_of(path)
    report = _save(path, reason, names, position) if reason else None
    return StateFile(path), report


# Looking


def fault_of(path: Path) -> str:
    """Return what is wrong with a file's bytes, empty when nothing seems to be.

    StateError for a file that is not ours to touch.
    """
    if path.is_dir():
        return "a folder is in its place"
    log = read_log(_beside(path, "-wal"), LOG_LOOK)
    size = path.stat().st_size if path.exists() else 0
    if not size:
        return "it is empty beside its write-ahead log" if log.pages else ""
    with path.open("rb") as file:
        head = file.read(100)
    if fault := _head_fault(head) or log.fault:
        return fault
    if suspect(path).exists():
        return "SQLite found it damaged while it was used"
    if size % (int.from_bytes(head[16:18], "big") & ~1 or 65536) and not log.pages:
        return "it was cut"
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
            return _look(path, db, size)
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", None)
        known = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        if code is None or code & 0xFF in known or "malformed" in str(exc):
            return str(exc)
        raise StateError(f"state file {path}: {exc}") from exc


def _head_fault(head: bytes) -> str:
    if len(head) < 100:
        return "it was cut"
    if head[:16] != MAGIC:
        return "it is not a database any more"
    size = int.from_bytes(head[16:18], "big")
    fixed = head[18:20] in (b"\1\1", b"\2\2") and head[20:24] == b"\0\x40\x20\x20"
    fixed = fixed and int.from_bytes(head[44:48], "big") <= LAST_FORMAT
    if not fixed or (size != 1 and (size < 512 or size & (size - 1))):
        return "its head is damaged"
    return ""


def _look(path: Path, db: sqlite3.Connection, size: int) -> str:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if VERSION < version <= NEWER:
        return ""  # whoever opens it refuses it
    found = {row[0] for row in db.execute("SELECT sql FROM sqlite_master")}
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    tables = set(_shapes(schema(VERSION)))
    if not version and not names:
        return ""
    if not version and not names & tables:
        raise StateError(f"state file {path}: not written by tyk-pump")
    known = range(1, VERSION + 1)
    fits = max((v for v in known if set(schema(v)) <= found), default=0)
    if version != fits:
        return f"its tables are not those of version {version}"
    whole = size <= WHOLE_LOOK
    for name, columns in _shapes(schema(version)).items():
        if not whole and name in ("frames", "dead_letters", "ledger"):
            continue
        if fault := _look_at(db, name, columns):
            return fault
    if whole:
        (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        return "" if said == "ok" else str(said)
    return ""


def _look_at(db: sqlite3.Connection, name: str, columns: Sequence[_Column]) -> str:
    """See whether each value is of its column's type, and texts are text."""
    wrong = " OR ".join(
        f"typeof({one.name}) <> '{one.type.lower()}'"
        + ("" if one.needed else f" AND {one.name} IS NOT NULL")
        for one in columns
    )
    if db.execute(f"SELECT 1 FROM {name} WHERE {wrong} LIMIT 1").fetchone():
        return f"a value in {name} is of a wrong type"
    small = [one.name for one in columns if one.type != "BLOB"]
    for _ in db.execute(f"SELECT {', '.join(small)} FROM {name}"):
        pass
    checks: dict[str, tuple[str, Callable[..., bool]]] = {
        "parts": ("stream, kept, digest", _part_fits),
        "part_cursors": ("stream, cursor, value, digest", _cursor_fits),
        "stream_fields": ("stream, field, value", _field_fits),
    }
    if name in checks:
        wanted, fits = checks[name]
        for row in db.execute(f"SELECT {wanted} FROM {name}"):
            if not fits(*row):
                return f"a check sum in {name} is wrong"
    return ""


def _part_fits(stream: str, kept: int, digest: int) -> bool:
    return journal.part_sum(stream, kept) == digest


def _cursor_fits(stream: str, cursor: str, value: bytes, digest: int) -> bool:
    return journal.cursor_sum(stream, cursor, value) == digest


def _field_fits(stream: str, field: str, value: bytes) -> bool:
    try:
        msgspec.msgpack.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return field.startswith(("claim:", "pump:", "holder:"))


class _Column(msgspec.Struct, frozen=True):
    name: str
    type: str
    needed: bool


class _Shape(msgspec.Struct):
    """How the rows of a table stand in its pages."""

    columns: list[_Column]
    keyed: bool
    """True where rows are kept under their key and have no number."""
    number: str = ""
    """The column that is the row's number."""

    def values(self, row: Row) -> dict[str, Any] | None:
        """Return a row's values by column, None where it is no row of this table."""
        if (row.number is None) is not self.keyed:
            return None
        values = row.values + (None,) * (len(self.columns) - len(row.values))
        if len(values) != len(self.columns) or len(row.values) < 2:
            return None
        found: dict[str, Any] = {}
        for column, value in zip(self.columns, values, strict=True):
            if column.name == self.number:
                value = row.number
            if not _is_of(value, column):
                return None
            found[column.name] = value
        return found


def _is_of(value: Any, column: _Column) -> bool:
    if value is None:
        return not column.needed
    kinds: dict[str, tuple[type, ...]] = {
        "TEXT": (str,),
        "BLOB": (bytes,),
        "INTEGER": (int,),
        "REAL": (int, float),
    }
    return isinstance(value, kinds[column.type])


def _shape_of(db: sqlite3.Connection, name: str, sql: str) -> _Shape:
    keyed = "WITHOUT ROWID" in sql
    info = db.execute(f"PRAGMA table_info({name})").fetchall()
    number = ""
    if keyed:
        # The key's columns stand first.
        info.sort(key=lambda row: (not row[5], row[5] or row[0]))
    else:
        keys = [row for row in info if row[5]]
        if len(keys) == 1 and keys[0][2] == "INTEGER":
            number = keys[0][1]
    columns = [_Column(row[1], row[2], bool(row[3] or row[5])) for row in info]
    return _Shape(columns, keyed, number)


def _shapes(statements: Sequence[str]) -> dict[str, list[_Column]]:
    return {name: shape.columns for name, shape in _made(statements).items()}


def _made(statements: Sequence[str]) -> dict[str, _Shape]:
    """Return the shapes of the tables that statements make."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for statement in statements:
            db.execute(statement)
        tables = db.execute(
            """SELECT name, sql FROM sqlite_master
            WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"""
        ).fetchall()
        return {name: _shape_of(db, name, sql) for name, sql in tables}


# Saving


def _save(
    path: Path,
    reason: str,
    names: Collection[str],
    position: Callable[[int], bytes],
) -> Report:
    now = time.time()
    kept = _free_name(path, now)
    logger.error(
        "the state file is damaged, what can be read is brought over",
        extra={"prefix": "main", "path": str(path), "reason": reason},
    )
    report = Report(at=now, reason=reason, kept=str(kept), saved={})
    draft = _beside(path, _DRAFT)
    _remove(draft)
    with contextlib.closing(StateFile(draft)) as file:
        if not path.is_dir():
            pages = Pages(path)
            try:
                _Salvage(file, pages, report, names, position).run()
            finally:
                pages.close()
    try:
        _sync(draft)
        note = kept.with_name(kept.name + ".json")
        note.write_bytes(msgspec.json.encode(report))
        _sync(note)
        ready = _beside(path, _READY)
        os.replace(draft, ready)
        _move_aside(path, kept)
        os.replace(ready, path)
        _sync(path.parent)
        suspect(path).unlink(missing_ok=True)
    except OSError as exc:
        raise StateError(f"state file {path}: {exc.strerror}") from exc
    logger.error(report.text, extra={"prefix": "main", "path": str(kept)})
    return report


def _finish(path: Path) -> None:
    """Go on with a change of places that a crash has cut off."""
    ready = _beside(path, _READY)
    if not ready.exists():
        return
    if path.exists():
        ready.unlink()  # the damaged file is still there: all of it again
        return
    _move_aside(path, _free_name(path, time.time()))
    os.replace(ready, path)
    suspect(path).unlink(missing_ok=True)


def _move_aside(path: Path, kept: Path) -> None:
    for ending in ("", "-wal"):
        if _beside(path, ending).exists():
            os.replace(_beside(path, ending), _beside(kept, ending))
    for ending in ("-shm", "-journal"):
        _beside(path, ending).unlink(missing_ok=True)
    _sync(path.parent)


def _free_name(path: Path, now: float) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    for number in range(1000):
        tail = f"-{number}" if number else ""
        name = path.with_name(f"{path.name}.{MARK}-{stamp}{tail}")
        if not any(name.parent.glob(name.name + "*")):
            return name
    raise StateError(f"{path.parent}: too many damaged files")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _remove(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        _beside(path, ending).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Salvage:
    """Brings over what can be read."""

    def __init__(
        self,
        file: StateFile,
        pages: Pages,
        report: Report,
        names: Collection[str],
        position: Callable[[int], bytes],
    ) -> None:
        self._file = file
        self._pages = pages
        self._report = report
        self._names = set(names)
        self._position = position
        self._shapes = _made(schema(VERSION))
        self._whole: set[str] = set()
        """Tables of which every row was there."""
        self._taken: dict[str, int] = {}

    def run(self) -> None:
        """Bring over rows from trees, then from pages that no tree reaches."""
        with self._file.transaction() as db:
            triggers = db.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall()
            for name, _ in triggers:
                db.execute(f"DROP TRIGGER {name}")  # sums are brought over as such
            for name, row in self._rows():
                if self._take(db, name, row):
                    self._taken[name] = self._taken.get(name, 0) + 1
            self._mend(db)
            for _, sql in triggers:
                db.execute(sql)
        self._report.saved = dict(sorted(self._taken.items()))

    # Reading

    def _rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        faults: list[str] = []
        roots = list(self._roots(faults))
        bad = len(faults)
        for kind, name, root, sql in roots:
            shape = self._shapes.get(name) if kind == "table" else None
            if shape is not None and sql:
                shape = self._shape(name, sql) or shape
            mine: list[str] = []
            for row in self._pages.tree(root, mine):
                if shape is None:
                    continue
                values = shape.values(row)
                if values is None:
                    mine.append(f"a row of {name}")
                elif self._fits(name, values):
                    yield name, values
                else:
                    mine.append(f"a row of {name}")
            if shape is not None:
                bad += len(mine)
                if not mine:
                    self._whole.add(name)
        free = self._pages.free()
        for number in range(1, self._pages.count + 1):
            if number not in self._pages.reached and number not in free:
                bad += 1
                yield from self._orphans(self._pages.page(number))
        for page in self._pages.loose():
            yield from self._orphans(page)
        self._report.unreadable = bad

    def _roots(self, faults: list[str]) -> Iterator[tuple[str, str, int, str]]:
        for row in self._pages.tree(1, faults):
            match row.values:
                case (str(kind), str(name), str(), int(root), sql) if root > 1:
                    yield kind, name, root, str(sql or "")

    def _shape(self, name: str, sql: str) -> _Shape | None:
        """Return how the rows of a table stand that an older version has made."""
        try:
            return _made([sql]).get(name)
        except sqlite3.Error:
            return None

    def _orphans(self, page: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in self._pages.rows(page):
            for name, shape in self._shapes.items():
                values = shape.values(row)
                if values is not None and self._fits(name, values):
                    yield name, values
                    break

    def _fits(self, name: str, row: Mapping[str, Any]) -> bool:
        match name:
            case "parts":
                return _part_fits(**_some(row, "stream kept digest"))
            case "part_cursors":
                return _cursor_fits(**_some(row, "stream cursor value digest"))
            case "stream_fields":
                return _field_fits(**_some(row, "stream field value"))
            case "frames":
                return bool(0 <= row["first"] < row["end"])
        return True

    # Writing

    def _take(self, db: sqlite3.Connection, name: str, row: dict[str, Any]) -> bool:
        if name == "frames":
            return self._take_frame(db, row)
        columns = {one.name for one in self._shapes[name].columns}
        row = {key: value for key, value in row.items() if key in columns}
        return _insert(db, name, row)

    def _take_frame(self, db: sqlite3.Connection, row: dict[str, Any]) -> bool:
        stream, first, data = row["stream"], row["first"], row["data"]
        good = journal.check_sum(stream, first, data) == row["digest"]
        if good and data:
            try:
                _, row["list"], row["codec"], _, _, records = channel.decode_frame(data)
                row["end"] = first + len(records)
            except (CodecError, msgspec.MsgspecError, ValueError):
                good = False
        if not good:
            row |= {"data": b"", "size": 0}
            row["digest"] = journal.check_sum(stream, first, b"")
        if not _insert(db, "frames", row):
            return False
        if not good:
            self._report.damaged_frames += 1
            note = _some(row, "stream first end claim at")
            note |= {"reason": "its check sum is wrong", "at": self._report.at}
            _insert(db, "damaged_frames", note)
        return bool(good)

    # What fits together no longer

    def _mend(self, db: sqlite3.Connection) -> None:
        if "ledger_letters" not in self._whole and not self._taken.get(
            "ledger_letters"
        ):
            for statement in schema(VERSION, data=True):
                if "INTO ledger_letters" in statement:
                    db.execute(statement)
        self._mend_parts(db)
        self._mend_cursors(db)
        self._report.lost_records = self._missing(db)

    def _mend_parts(self, db: sqlite3.Connection) -> None:
        ends = db.execute("SELECT stream, max(end) FROM frames GROUP BY stream")
        for stream, end in ends.fetchall():
            row = db.execute(
                "SELECT kept FROM parts WHERE stream = ?", (stream,)
            ).fetchone()
            if row is None and "parts" in self._whole:
                continue  # settled, and kept for a replay
            values = (stream, max(row[0] if row else 0, end))
            db.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?)",
                (*values, journal.part_sum(*values)),
            )

    def _mend_cursors(self, db: sqlite3.Connection) -> None:
        if "part_cursors" in self._whole:
            return
        seen = db.execute("SELECT DISTINCT cursor FROM part_cursors")
        names = self._names | {row[0] for row in seen}
        parts = db.execute(
            """SELECT stream, kept,
                (SELECT min(first) FROM frames WHERE frames.stream = parts.stream),
                (SELECT max(codec) FROM frames WHERE frames.stream = parts.stream)
            FROM parts"""
        )
        for stream, kept, first, codec in parts.fetchall():
            for name in names:
                if cursors.of_uptime(name) is not (codec == UPTIME_CODEC):
                    continue
                value = self._position(kept if first is None else first)
                digest = journal.cursor_sum(stream, name, value)
                db.execute(
                    "INSERT OR IGNORE INTO part_cursors VALUES (?, ?, ?, ?)",
                    (stream, name, value, digest),
                )

    def _missing(self, db: sqlite3.Connection) -> int:
        """Return how many positions a pump still has to pass that are nowhere."""
        missing = 0
        for stream, kept in db.execute("SELECT stream, kept FROM parts").fetchall():
            values = db.execute(
                "SELECT value FROM part_cursors WHERE stream = ?", (stream,)
            ).fetchall()
            begins = [_begin(value) for (value,) in values]
            at = min(begins, default=kept)
            for first, end, size in db.execute(
                "SELECT first, end, size FROM frames WHERE stream = ? ORDER BY first",
                (stream,),
            ):
                missing += max(0, min(first, kept) - at)
                if not size:
                    missing += max(0, min(end, kept) - max(first, at))
                at = max(at, end)
            missing += max(0, kept - at)
        return missing


def _begin(value: bytes) -> int:
    """Return the position of a packed cursor, its first number."""
    found = msgspec.msgpack.decode(value)
    return int(found[0]) if isinstance(found, list) and found else 0


def _some(row: Mapping[str, Any], names: str) -> dict[str, Any]:
    return {name: row[name] for name in names.split()}


def _insert(db: sqlite3.Connection, name: str, row: Mapping[str, Any]) -> bool:
    marks = ", ".join("?" for _ in row)
    try:
        done = db.execute(
            f"INSERT OR IGNORE INTO {name} ({', '.join(row)}) VALUES ({marks})",
            list(row.values()),
        )
    except (sqlite3.DataError, sqlite3.IntegrityError, OverflowError, UnicodeError):
        return False
    return bool(done.rowcount > 0)


__all__ = ["Report", "fault_of", "opened", "reports"]
