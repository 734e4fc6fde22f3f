"""A folder of growing files into which each batch is written exactly once.

Beside the files stands `_tyk_pump/`: a lock that all writers of the folder share, and
a journal of checked lines. Before a batch is appended its intent is journalled (file,
start, length, check sums, position); afterwards the intent is closed, which moves the
watermark of its key. After a crash the last intent is looked up in its file: complete,
and the watermark moves; a beginning of it, and exactly that tail is cut off.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tyk_pump.errors import ConfigError, TransientError

log = logging.getLogger(__name__)

OURS: Final = "_tyk_pump"
BLOCK: Final = 4096
"""A write that is torn ends at such a boundary of the file, so check sums per block
tell its beginning from other bytes."""
VERSION: Final = 1
LONGEST_JOURNAL: Final = 1_048_576
KEEP_SECONDS: Final = 30 * 86_400.0
LOCK_SECONDS: Final = 20.0


class Intent(msgspec.Struct):
    """What is about to be appended, and what it settles."""

    key: str
    position: int
    """The watermark once the bytes are in the file."""
    file: str
    start: int
    length: int
    sums: list[int]
    """A check sum for each block of the file that the bytes touch."""


class OnceFolder:
    """The folder's lock and journal; used by one thread."""

    def __init__(self, path: Path, *, fsync: bool) -> None:
        self.path = path
        self._ours = path / OURS
        self._fsync = fsync
        self._lock = -1
        self._journal = -1
        self._read = 0
        self._marks: dict[str, tuple[int, float]] = {}
        self._intent: Intent | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the folder's only writer; what a crash left behind is settled first."""
        self._acquire()
        try:
            self._catch_up()
            if self._intent is not None:
                self._settle(self._intent)
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def marks(self, prefix: str) -> dict[str, int]:
        """Return the positions up to which the folder holds the records of keys.

        Of keys with this beginning, by the rest of their names.
        """
        return {
            key[len(prefix) :]: position
            for key, (position, _) in self._marks.items()
            if key.startswith(prefix)
        }

    def append(self, fd: int, file: str, data: bytes, key: str, position: int) -> None:
        """Append to an open file of the folder and move the key's watermark."""
        start = os.fstat(fd).st_size
        intent = Intent(key, position, file, start, len(data), _sums(data, start))
        self._note({"intent": msgspec.to_builtins(intent)}, sync=True)
        self._intent = intent
        written = 0
        try:
            view = memoryview(data)
            while written < len(data):
                written += os.write(fd, view[written:])
            if self._fsync:
                os.fdatasync(fd)
                if start == 0:
                    _sync_folder(self.path)
        except OSError:
            # Only what is the beginning of our own bytes is taken back.
            length = os.fstat(fd).st_size - start
            if length <= len(data) and data.startswith(os.pread(fd, length, start)):
                os.ftruncate(fd, start)
                self._drop()
            raise
        self._close_intent(intent)

    def close(self) -> None:
        """Let go of lock and journal."""
        for fd in (self._journal, self._lock):
            if fd >= 0:
                os.close(fd)
        self._journal = self._lock = -1

    # Lock

    def _acquire(self) -> None:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            if self._lock < 0:
                self._ours.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._lock = os.open(self._ours / "lock", flags, 0o666)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    reason = f"another process holds {self._ours / 'lock'}"
                    raise TransientError(reason) from None
                time.sleep(0.002)
                continue
            if _same_file(self._lock, self._ours / "lock"):
                return
            os.close(self._lock)  # the folder was removed meanwhile
            self._lock = -1

    # Journal

    def _catch_up(self) -> None:
        """Read what other writers have journalled since our last look."""
        path = self._ours / "journal"
        if self._journal >= 0 and not _same_file(self._journal, path):
            os.close(self._journal)
            self._journal = -1
        if self._journal < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._journal = os.open(path, flags, 0o666)
            self._read, self._marks, self._intent = 0, {}, None
        size = os.fstat(self._journal).st_size
        if size < self._read:
            raise TransientError(f"{path} has become shorter")
        if size == self._read == 0:
            self._note({"version": VERSION}, sync=False)
        if size > self._read:
            self._take_in(os.pread(self._journal, size - self._read, self._read))

    def _take_in(self, data: bytes) -> None:
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].split(b"\n")[:-1]:
            entry = _entry(line)
            if entry is None:
                log.warning(
                    "unreadable line in the journal of a folder, left out",
                    extra={"reason": str(self._ours)},
                )
            else:
                self._apply(entry)
        self._read += whole
        if whole < len(data):
            # A line that a crash has cut: what it announces was never begun.
            os.ftruncate(self._journal, self._read)

    def _apply(self, entry: dict[str, Any]) -> None:
        if entry.get("version", VERSION) > VERSION:
            raise ConfigError(f"{self._ours} was written by a newer version of ours")
        if "marks" in entry:
            for key, (position, at) in entry["marks"].items():
                self._marks[key] = (position, at)
        if "intent" in entry:
            self._intent = msgspec.convert(entry["intent"], Intent)
        if "done" in entry and self._intent is not None:
            intent, self._intent = self._intent, None
            self._marks[intent.key] = (intent.position, entry["done"])
        if "dropped" in entry:
            self._intent = None

    def _note(self, entry: dict[str, Any], *, sync: bool) -> None:
        line = _line(entry)
        written = 0
        try:
            while written < len(line):
                written += os.write(self._journal, line[written:])
            if sync and self._fsync:
                os.fdatasync(self._journal)
        except OSError:
            # Half a line must not stand before the next one.
            os.ftruncate(self._journal, self._read)
            raise
        self._read += len(line)

    def _close_intent(self, intent: Intent) -> None:
        # Without a sync: after a power cut the intent is found complete in its file.
        self._intent = None
        now = time.time()
        self._marks[intent.key] = (intent.position, now)
        self._note({"done": now}, sync=False)
        if self._read > LONGEST_JOURNAL:
            self._shorten(now)

    def _drop(self) -> None:
        self._intent = None
        self._note({"dropped": True}, sync=False)

    def _shorten(self, now: float) -> None:
        """Begin the journal anew with the watermarks that are still of use."""
        self._marks = {
            key: (position, at)
            for key, (position, at) in self._marks.items()
            if at > now - KEEP_SECONDS
        }
        data = _line({"version": VERSION}) + _line({"marks": self._marks})
        path = self._ours / "journal"
        new = self._ours / "journal.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(new, flags, 0o666)
        try:
            os.write(fd, data)
            os.fsync(fd)
            os.rename(new, path)
        except OSError:
            os.close(fd)  # the long journal goes on
            return
        _sync_folder(self._ours)
        os.close(self._journal)
        self._journal, self._read = fd, len(data)

    # After a crash

    def _settle(self, intent: Intent) -> None:
        """Find out how far the last append of a crashed writer came."""
        try:
            fd = os.open(self.path / intent.file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            self._drop()
            return
        try:
            size = os.fstat(fd).st_size
            length = min(size - intent.start, intent.length)
            if length <= 0:
                self._drop()
                return
            found = os.pread(fd, length, intent.start)
            if length == intent.length:
                if _sums(found, intent.start) == intent.sums:
                    self._close_intent(intent)
                    return
            elif _is_beginning(found, intent):
                os.ftruncate(fd, intent.start)
                if self._fsync:
                    os.fdatasync(fd)
                self._drop()
                return
        finally:
            os.close(fd)
        log.warning(
            "a file was changed by someone else during a crash, rows may repeat",
            extra={"reason": str(self.path / intent.file)},
        )
        self._drop()


def _is_beginning(found: bytes, intent: Intent) -> bool:
    """Say whether bytes are a torn write of the intent, ending where writes tear."""
    if (intent.start + len(found)) % BLOCK:
        return False
    sums = _sums(found, intent.start)
    return sums == intent.sums[: len(sums)]


def _sums(data: bytes, start: int) -> list[int]:
    view = memoryview(data)
    first = min(BLOCK - start % BLOCK, len(data))
    edges = range(first, len(data), BLOCK)
    sums = [zlib.crc32(view[:first])]
    sums += [zlib.crc32(view[edge : edge + BLOCK]) for edge in edges]
    return sums


def _line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _entry(line: bytes) -> dict[str, Any] | None:
    text = line[9:]
    if line[:9] != b"%08x " % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
