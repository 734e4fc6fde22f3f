"""SQLite's file format, read page by page, for files that SQLite itself gives up.

SQLite stops at the first page that it cannot use. Here every page stands for itself:
trees are followed from the roots that the schema names as far as that goes, and pages
that were not reached are looked at alone. What is written in the write-ahead log (WAL)
and committed takes the place of what stands in the file.

https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

MAGIC: Final = b"SQLite format 3\x00"
PAGE: Final = 65536
"""The size of a page in the files that we make."""
_WAL_MAGICS: Final = (0x377F0682, 0x377F0683)
_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_INTERIOR: Final = (2, 5)
_TABLE: Final = (5, 13)
_KINDS: Final = (2, 5, 10, 13)
_INTEGERS: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}

Values = tuple[Any, ...]


class Malformed(Exception):
    """Bytes that cannot be what they ought to be."""


class Row(msgspec.Struct, frozen=True):
    """One row: of a table with its number, of an index or keyed table without one."""

    number: int | None
    values: Values


class Log(msgspec.Struct, kw_only=True):
    """What stands in a write-ahead log."""

    pages: dict[int, int] = {}
    """Page -> offset of its last committed version."""
    loose: list[tuple[int, int]] = []
    """Pages and offsets behind the last commit: perhaps of one that was cut off."""
    page_size: int = 0
    fault: str = ""
    """What of it cannot be what was written; a write cut off by a crash is none."""


def read_log(path: Path, limit: int = sys.maxsize) -> Log:
    """Look through a write-ahead log, beyond damaged places too.

    One of more bytes than the limit is not looked at: each costs time.

    Each frame's check sum goes on from the one before, as it is written there or as
    its bytes make it: so the frame behind a damaged one is known to be whole.
    """
    log = Log(pages={}, loose=[])
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        size = path.stat().st_size
        head = file.read(_WAL_HEADER)
        if _WAL_HEADER + _FRAME_HEADER <= size <= limit:
            _read_frames(log, file, head, size)
    return log


def _read_frames(log: Log, file: Any, head: bytes, size: int) -> None:
    magic, _, page_size, _, *_ = numbers = struct.unpack(">8I", head)
    salts, wanted = head[16:24], tuple(numbers[6:])
    order = "<" if magic == _WAL_MAGICS[0] else ">"
    computed = _sum((0, 0), head[:24], order)
    good = magic in _WAL_MAGICS and computed == wanted and _is_page_size(page_size)
    if not good:
        order = "<" if sys.byteorder == "little" else ">"
        page_size = page_size if _is_page_size(page_size) else PAGE
        file.seek(_WAL_HEADER)
        salts = file.read(_FRAME_HEADER)[8:16]
    log.page_size = page_size
    before = {computed, wanted}
    waiting: list[tuple[int, int]] = []
    broken = behind = 0
    length = page_size + _FRAME_HEADER
    for start in range(_WAL_HEADER, size - length + 1, length):
        file.seek(start)
        frame = file.read(length)
        if frame[12:16] != salts[4:] and frame[8:12] != salts[:4]:
            break  # of an earlier use of this log
        number, commit = struct.unpack(">II", frame[:8])
        stored = struct.unpack(">II", frame[16:24])
        sums = [_sum(_sum(one, frame[:8], order), frame[24:], order) for one in before]
        whole = stored in sums and frame[8:16] == salts
        before = {stored}
        if not whole:
            before.update(sums[:2])
            broken += 1
            continue
        behind = broken
        waiting.append((number, start + _FRAME_HEADER))
        if commit:
            log.pages.update(waiting)
            waiting.clear()
    log.loose = waiting
    if not good:
        log.fault = "the head of its write-ahead log is damaged"
    elif broken:
        where = "" if behind else "the end of "
        log.fault = f"{where}its write-ahead log is damaged"


def _sum(start: tuple[int, int], data: bytes, order: str) -> tuple[int, int]:
    """Return SQLite's check sum of a log: Fibonacci-weighted, over pairs of words."""
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _is_page_size(size: int) -> bool:
    return 512 <= size <= 65536 and not size & (size - 1)


class Pages:
    """All pages of a file and its write-ahead log, as far as they are there."""

    def __init__(self, path: Path) -> None:
        wal = path.with_name(path.name + "-wal")
        self.log = read_log(wal)
        self._file = path.open("rb") if path.is_file() else None
        self._wal = wal.open("rb") if self.log.pages or self.log.loose else None
        size = path.stat().st_size if self._file else 0
        head = self._at(0, 100)
        found = struct.unpack(">H", head[16:18])[0] if len(head) == 100 else 0
        found = 65536 if found == 1 else found
        if self.log.page_size:
            found = self.log.page_size
        self.size = found if _is_page_size(found) else PAGE
        last = -(-size // self.size)
        self.count = max(last, *self.log.pages, *(n for n, _ in self.log.loose), 0)
        self.reached: set[int] = set()
        """Pages that were read on the way from a root."""

    def close(self) -> None:
        """Let go of the files."""
        for file in (self._file, self._wal):
            if file is not None:
                file.close()

    def _at(self, offset: int, length: int) -> bytes:
        if self._file is None:
            return b""
        self._file.seek(offset)
        return self._file.read(length)

    def page(self, number: int) -> bytes:
        """Return a page, filled up with zeros where the file ends."""
        if not 1 <= number <= self.count:
            raise Malformed(f"page {number} is not in the file")
        offset = self.log.pages.get(number)
        if offset is not None and self._wal is not None:
            self._wal.seek(offset)
            return self._wal.read(self.size)
        found = self._at((number - 1) * self.size, self.size)
        return found.ljust(self.size, b"\0")

    def loose(self) -> Iterator[bytes]:
        """Yield the pages behind the last commit."""
        assert self._wal is not None or not self.log.loose
        for _, offset in self.log.loose:
            if self._wal is not None:
                self._wal.seek(offset)
                yield self._wal.read(self.size)

    # Rows

    def tree(self, root: int, faults: list[str]) -> Iterator[Row]:
        """Yield the rows below a root; what cannot be read is added to the faults."""
        heap = [root]
        while heap:
            number = heap.pop()
            if number in self.reached:
                faults.append(f"page {number} is in two places")
                continue
            try:
                page = self.page(number)
                kind, starts, right = _head(page, number)
            except (Malformed, struct.error) as exc:
                faults.append(f"page {number}: {exc}")
                continue
            self.reached.add(number)
            if kind in _INTERIOR:
                heap.append(right)
                for start in starts:
                    if start + 4 <= len(page):
                        heap.append(struct.unpack_from(">I", page, start)[0])
            if not self._adds_up(page, number, kind, starts):
                faults.append(f"page {number} does not add up")
            if kind != 5:
                yield from self._cells(page, kind, starts, faults)

    def rows(self, page: bytes) -> Iterator[Row]:
        """Yield the rows of a page that stands for itself."""
        try:
            kind, starts, _ = _head(page, 2)
        except (Malformed, struct.error):
            return
        if kind != 5:
            yield from self._cells(page, kind, starts, [])

    def free(self) -> set[int]:
        """Return the pages that are in no tree, as far as their list can be read."""
        found: set[int] = set()
        try:
            trunk = struct.unpack_from(">I", self.page(1), 32)[0]
            while trunk and trunk not in found:
                page = self.page(trunk)
                found.add(trunk)
                trunk, count = struct.unpack_from(">II", page)
                if count > self.size // 4 - 2:
                    break
                found.update(struct.unpack_from(f">{count}I", page, 8))
        except Malformed:
            pass
        return found

    def _cells(
        self, page: bytes, kind: int, starts: list[int], faults: list[str]
    ) -> Iterator[Row]:
        for start in starts:
            try:
                row = self._cell(page, kind, start)
            except (Malformed, IndexError, struct.error, UnicodeDecodeError) as exc:
                faults.append(f"a row: {exc}")
                continue
            yield row

    def _cell(self, page: bytes, kind: int, start: int) -> Row:
        table = kind in _TABLE
        at = start + 4 if kind in _INTERIOR else start
        length, at = _varint(page, at)
        number = None
        if table:
            number, at = _varint(page, at)
        if not 0 <= length <= self.count * self.size:
            raise Malformed("longer than the file")
        local = self._local(length, table)
        data = bytearray(page[at : at + local])
        if len(data) < local:
            raise Malformed("beyond its page")
        passed = []
        if local < length:
            following = struct.unpack_from(">I", page, at + local)[0]
            while len(data) < length:
                if following in passed:
                    raise Malformed("goes round in circles")
                passed.append(following)
                more = self.page(following)
                following = struct.unpack_from(">I", more)[0]
                data += more[4 : 4 + length - len(data)]
        row = Row(number, _record(bytes(data)))
        self.reached.update(passed)
        return row

    def _adds_up(self, page: bytes, number: int, kind: int, starts: list[int]) -> bool:
        """Say whether cells and free blocks fill the page as its head says.

        Where they do not, a row may be missing without any other trace.
        """
        at = 100 if number == 1 else 0
        try:
            _, block, _, begin, loose = struct.unpack_from(">BHHHB", page, at)
            filled = loose + sum(self._extent(page, kind, start) for start in starts)
            seen: set[int] = set()
            while block and block not in seen:
                seen.add(block)
                block, size = struct.unpack_from(">HH", page, block)
                filled += size
        except (IndexError, struct.error):
            return False
        return bool(filled == self.size - (begin or 65536))

    def _extent(self, page: bytes, kind: int, start: int) -> int:
        """Return how many bytes a cell takes in its page."""
        at = start + 4 if kind in _INTERIOR else start
        length, at = _varint(page, at)
        if kind in _TABLE:
            if kind == 5:  # a child and a number, nothing else
                return at - start
            _, at = _varint(page, at)
        local = self._local(length, kind in _TABLE)
        return max(4, at - start + local + 4 * (local < length))

    def _local(self, length: int, table: bool) -> int:
        """Return how much of a row stands in its page; the rest is in others."""
        most = self.size - 35 if table else (self.size - 12) * 64 // 255 - 23
        if length <= most:
            return length
        least = (self.size - 12) * 32 // 255 - 23
        some = least + (length - least) % (self.size - 4)
        return some if some <= most else least


def _head(page: bytes, number: int) -> tuple[int, list[int], int]:
    """Return a tree page's kind, where its cells are, and its last child."""
    at = 100 if number == 1 else 0
    kind, _, count, _, _ = struct.unpack_from(">BHHHB", page, at)
    if kind not in _KINDS:
        raise Malformed("no page of a tree")
    right = struct.unpack_from(">I", page, at + 8)[0] if kind in _INTERIOR else 0
    at += 12 if kind in _INTERIOR else 8
    if at + 2 * count > len(page):
        raise Malformed("more cells than it has room for")
    starts = list(struct.unpack_from(f">{count}H", page, at))
    return kind, starts, right


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for step in range(8):
        byte = data[at + step]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + step + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) * (value >> 63), at + 9


def _record(data: bytes) -> Values:
    """Return the values of a row."""
    end, at = _varint(data, 0)
    types = []
    while at < end:
        kind, at = _varint(data, at)
        types.append(kind)
    values: list[Any] = []
    at = end
    for kind in types:
        if kind in _INTEGERS:
            size = _INTEGERS[kind]
            value: Any = int.from_bytes(data[at : at + size], "big", signed=True)
        elif kind == 7:
            size = 8
            value = struct.unpack_from(">d", data, at)[0]
        elif kind >= 12:
            size = (kind - 12) // 2
            value = data[at : at + size]
            value = value.decode() if kind % 2 else value
        elif kind in (0, 8, 9):
            size, value = 0, None if kind == 0 else kind - 8
        else:
            raise Malformed("a value of no kind")
        at += size
        if at > len(data):
            raise Malformed("values beyond their row")
        values.append(value)
    if at != len(data):
        raise Malformed("more bytes than values")
    return tuple(values)
