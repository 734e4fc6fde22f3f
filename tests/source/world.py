"""A small world for the source: a state book, a clock, a link that dies, a consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tests.servers.redis import RedisServer
from tyk_pump.clock import Clock
from tyk_pump.config.root import RedisOptions
from tyk_pump.source.claims import Look, Progress, Source, Stream
from tyk_pump.source.redis import Link

LIST = "analytics-tyk-system-analytics"
SHARD = "analytics-tyk-system-analytics_3_protobuf"
LEASE = 10.0


class Died(BaseException):
    """The process was killed: no handler of the program may run."""


class FakeClock(Clock):
    """A clock that a test can move."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class WallClock(Clock):
    """A clock whose wall time a test can set, as operators and NTP do."""

    def __init__(self) -> None:
        self.step = 0.0

    def now(self) -> float:
        return super().now() + self.step


class Book:
    """A FieldBook in memory: it outlives its process as the state file does."""

    def __init__(self) -> None:
        self.fields: dict[str, dict[str, bytes]] = {}

    def put(self, stream: str, fields: Mapping[str, bytes]) -> None:
        self.fields.setdefault(stream, {}).update(fields)

    def pending(self) -> dict[str, dict[str, bytes]]:
        return {stream: dict(fields) for stream, fields in self.fields.items()}

    def clear(self, stream: str, fields: Iterable[str]) -> None:
        kept = self.fields.get(stream, {})
        for field in list(fields):
            kept.pop(field, None)
        if not kept:
            self.fields.pop(stream, None)


class NoDisk:
    """A Shelf that holds nothing."""

    def kept(self, stream: str) -> int:
        return 0

    def reached(self, stream: str, field: str) -> int:
        return 0


class FaultyLink(Link):
    """A link on which something happens at the n-th exchange with Redis, or at the
    first one with a command that begins with a word."""

    def __init__(
        self,
        options: RedisOptions,
        at: int = 0,
        fault: Callable[[Callable[[], Any], Sequence[Any]], Any] | None = None,
    ) -> None:
        super().__init__(options)
        self.at = at
        self.word = ""
        self.fault = fault
        self.count = 0
        self.log: list[Sequence[Any]] = []

    def execute(self, commands: Sequence[Any], *, atomic: bool = False) -> list[Any]:
        def go(part: Sequence[Any] = commands) -> list[Any]:
            return Link.execute(self, part, atomic=atomic)

        found: list[Any] = self._pass(go, commands)
        return found

    def compare_and_set(
        self, key: str, field: str, old: bytes, new: str | bytes
    ) -> bool:
        def go() -> bool:
            return Link.compare_and_set(self, key, field, old, new)

        return bool(self._pass(go, [("CAS", key, field, old, new)]))

    def _pass(self, go: Callable[..., Any], commands: Sequence[Any]) -> Any:
        if not commands:
            return go()
        self.count += 1
        self.log.append(commands)
        due = self.count == self.at
        if self.word and any(command[0].startswith(self.word) for command in commands):
            due, self.word = True, ""
        if due and self.fault is not None:
            return self.fault(go, commands)
        return go()


def options(server: RedisServer, **more: Any) -> RedisOptions:
    """Return the options that lead to a server."""
    values = {"host": "127.0.0.1", "port": server.port, "timeout": 5.0, **more}
    return msgspec.convert(values, RedisOptions)


def make_source(link: Link, **more: Any) -> Source:
    """Return a source with settings that suit most tests."""
    settings: dict[str, Any] = {
        "prefix": "analytics-",
        "name": "a",
        "incarnation": "1",
        "lease_time": LEASE,
        "fields": ["P"],
        "book": Book(),
        "shelf": NoDisk(),
        "clock": Clock(),
        **more,
    }
    return Source(link, **settings)


class Consumer:
    """A back end that remembers, per stream, up to which position it has records."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.lost = 0
        self.marks: dict[str, int] = {}

    def take(self, stream: str, first: int, records: Sequence[bytes]) -> None:
        mark = self.marks.get(stream, 0)
        self.records += list(records)[max(0, mark - first) :]
        self.marks[stream] = max(mark, first + len(records))

    def drain(self, source: Source, field: str = "P", window: int = 4) -> None:
        """Deliver and settle all that the source has, window by window."""
        for stream in list(source.streams.values()):
            progress = stream.progress.get(field)
            while progress is not None and progress.position < stream.end:
                found = source.read(stream.id, progress.position, window)
                self.take(stream.id, found.first, found.records)
                self.lost += found.lost
                moved = len(found.records) + found.lost
                if not moved:
                    break
                progress = msgspec.structs.replace(
                    progress, position=progress.position + moved
                )
                stream.progress[field] = progress
                settle(source, stream, field)
            settle(source, stream, field)


def look(source: Source) -> Look:
    """One round, and what the coordinator does behind it."""
    found = source.round()
    if source.settled:
        source.settle({}, {})
    return found


def settle(source: Source, stream: Stream, field: str) -> None:
    """Settle a stream as the coordinator does: the cursor, then what all passed."""
    if stream.id not in source.streams:
        return
    passed = min([p.position for p in stream.progress.values()], default=stream.end)
    progress: dict[str, dict[str, Progress]] = {}
    if field in stream.progress:
        progress = {stream.id: {field: stream.progress[field]}}
    trims = {stream.id: passed} if passed > stream.trimmed else {}
    source.settle(progress, trims)


def push(server: RedisServer, key: str, records: Sequence[bytes]) -> None:
    """Push as the gateway does."""
    client = server.client()
    client.rpush(key, *records)
    client.close()


def end_leases(server: RedisServer, name: str = "*") -> None:
    """Let time pass in Redis: the leases (of one instance) end."""
    client = server.client()
    for key in client.scan_iter(f"*tyk-pump:lease:{name}#*"):
        client.delete(key)
    client.close()
