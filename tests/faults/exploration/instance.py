"""An instance that can be stopped between any two exchanges with Redis, and copied.

The production `Source` is no coroutine. It is deterministic all the same: what it does
next follows from how it was when an action began and from the answers since. So an
instance in the middle of an action is kept as just these, and its next step is found by
running the action again on a copy, with the answers that are known.
"""

from __future__ import annotations

import hashlib
import marshal
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from tyk_pump.clock import Clock
from tyk_pump.errors import ConfigError, LeaseLost, SourceError
from tyk_pump.source import claims
from tyk_pump.source.claims import Progress, Source, Stream
from tyk_pump.source.redis import Link

PREFIX = "analytics-"
LEASE = 10.0
EPOCH = 1000.0
"""What the clock moves by while an instance is frozen: longer than any lease."""
LATE = 3
"""Rounds after which it makes no difference any more how long ago something was."""

Exchange = tuple[tuple[tuple[Any, ...], ...], str]
"""Commands, and how they are run: plain, atomic, or compare-and-set."""
Book = tuple[tuple[str, tuple[tuple[str, bytes], ...]], ...]
Effect = tuple[str, str, int, tuple[bytes, ...], int]
"""What reached a back end: pump, stream, first position, records; what was lost."""


class Paused(BaseException):
    """The action has come to an exchange that has not happened yet."""


class Answer(msgspec.Struct, frozen=True):
    """What an exchange brought; and the time at which its reader went on."""

    value: Any
    epoch: int
    failed: bool = False

    def key(self) -> Any:
        """Return something to hash."""
        return self.failed, self.epoch, plain(self.value)


class Instance(msgspec.Struct, frozen=True):
    """One coordinator: what it has on its disk, in its memory, and under way."""

    name: str
    pumps: tuple[str, ...]
    incarnation: int = 0
    previous: int = 0
    alive: bool = False
    started: bool = False
    names: int = 0
    epoch: int = 0
    book: Book = ()
    image: bytes = b""
    """The source as it was when the action began; empty before the first."""
    digest: bytes = b""
    action: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()
    part: tuple[Any, ...] = ()
    """Replies of the present exchange, where it is run command by command."""
    late: bool = False
    """True where it sends this exchange after the end of its lease, not knowing."""
    # What follows from the above.
    pending: Exchange | None = None
    names_now: int = 0
    book_now: Book = ()
    effects: tuple[Effect, ...] = ()

    def key(self) -> Any:
        """Return something to hash: all that makes a difference."""
        return (
            (self.name, self.incarnation, self.previous, self.alive, self.started),
            (self.names, self.epoch, self.book, self.digest, self.action),
            tuple(answer.key() for answer in self.answers),
            plain(self.part),
            self.late,
        )

    @property
    def lease(self) -> str:
        """Name of the lease's key."""
        return f"{PREFIX}tyk-pump:lease:{self.name}#{self.incarnation}"


def replaced(instance: Instance, **fields: Any) -> Instance:
    """Return an instance with other fields."""
    return msgspec.structs.replace(instance, **fields)


def begin(instance: Instance, action: tuple[str, ...]) -> Instance:
    """Begin an action, up to its first exchange."""
    return run(replaced(instance, action=action))


def answer(instance: Instance, value: Any, *, failed: bool = False) -> Instance:
    """Go on with an answer, up to the next exchange."""
    last = instance.answers[-1].epoch if instance.answers else instance.epoch
    one = Answer(value, last + instance.late, failed)
    answers = (*instance.answers, one)
    return run(replaced(instance, answers=answers, part=(), late=False))


def thaw(instance: Instance, *, asked: bool) -> Instance:
    """Let time pass for a frozen instance: before or after it looked at the clock."""
    if not instance.action:
        return replaced(instance, epoch=instance.epoch + 1)
    if asked:
        # It has looked at the clock, and sends what it was about to send.
        return replaced(instance, late=True)
    if not instance.answers:
        return run(replaced(instance, epoch=instance.epoch + 1))
    *before, last = instance.answers
    last = msgspec.structs.replace(last, epoch=last.epoch + 1)
    return run(replaced(instance, answers=(*before, last)))


def killed(instance: Instance) -> Instance:
    """Return what a kill leaves: the state folder."""
    return Instance(
        name=instance.name,
        pumps=instance.pumps,
        incarnation=instance.incarnation,
        previous=instance.previous,
        names=instance.names_now,
        names_now=instance.names_now,
        book=instance.book_now,
        book_now=instance.book_now,
    )


def born(instance: Instance, *, folder: bool = True) -> Instance:
    """Start an instance again, on its state folder or without it."""
    fresh = replaced(
        instance,
        alive=True,
        incarnation=instance.incarnation + 1,
        previous=instance.incarnation if folder else 0,
    )
    if not folder:
        fresh = replaced(fresh, book=(), book_now=())
    return begin(fresh, ("start",))


# Running an action


class _Clock(Clock):
    epoch = 0

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return self.epoch * EPOCH


class _Book:
    def __init__(self, book: Book) -> None:
        self.fields = {stream: dict(fields) for stream, fields in book}

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

    def frozen(self) -> Book:
        return tuple((s, tuple(f.items())) for s, f in sorted(self.fields.items()))


class _NoDisk:
    def kept(self, stream: str) -> int:
        return 0

    def reached(self, stream: str, field: str) -> int:
        return 0


class _Recorded(Link):
    """Gives the answers that are known, and pauses at what comes next."""

    def __init__(self, answers: Sequence[Answer], clock: _Clock) -> None:
        self.answers = answers
        self.clock = clock
        self.at = 0
        self.pending: Exchange | None = None

    def execute(
        self, commands: Sequence[tuple[Any, ...]], *, atomic: bool = False
    ) -> list[Any]:
        if not commands:
            return []
        found: list[Any] = self._next(commands, "atomic" if atomic else "plain")
        return found

    def compare_and_set(
        self, key: str, field: str, old: bytes, new: str | bytes
    ) -> bool:
        return bool(self._next([(key, field, old, new)], "compare"))

    def _next(self, commands: Sequence[tuple[Any, ...]], how: str) -> Any:
        if self.at == len(self.answers):
            self.pending = tuple(commands), how
            raise Paused
        found = self.answers[self.at]
        self.at += 1
        self.clock.epoch = found.epoch
        if found.failed:
            raise SourceError("connection lost")
        return found.value


_names: Callable[[], str]


def _ulid(now: float | None = None) -> str:
    return _names()


def run(instance: Instance) -> Instance:
    """Run the action with the answers that there are, and say what comes next."""
    global _names
    made = instance.names
    effects: list[Effect] = []

    def name() -> str:
        nonlocal made
        made += 1
        return f"{instance.name}{made:03}"

    _names = name
    clock = _Clock()
    clock.epoch = instance.epoch
    link = _Recorded(instance.answers, clock)
    book = _Book(instance.book)
    source = _thawed(instance, link, book, clock)
    lost = started = False
    try:
        _act(instance, source, clock, effects)
        started = True
    except Paused:
        return replaced(
            instance,
            pending=link.pending,
            names_now=made,
            book_now=book.frozen(),
            effects=tuple(effects),
        )
    except LeaseLost:
        lost = True
    except (SourceError, ConfigError):
        pass
    if instance.action == ("leave",) and started:
        return killed(replaced(instance, names_now=made, book_now=book.frozen()))
    memory = {} if lost else _memory(source)
    return Instance(
        name=instance.name,
        pumps=instance.pumps,
        incarnation=instance.incarnation + lost,
        previous=instance.incarnation if lost else instance.previous,
        alive=True,
        started=(instance.started or started) and not lost,
        names=made,
        names_now=made,
        epoch=clock.epoch,
        book=book.frozen(),
        book_now=book.frozen(),
        image=pickle.dumps(memory) if memory else b"",
        digest=digest(plain(memory)) if memory else b"",
        effects=tuple(effects),
    )


def _act(
    instance: Instance, source: Source, clock: Clock, effects: list[Effect]
) -> None:
    """Do as the lifeline and the coordinator do."""
    if instance.started and clock.monotonic() >= source.lease_end:
        source.renew()
    kind, *names = instance.action
    if kind == "start":
        source.start()
    elif kind == "round":
        source.round()
    elif kind == "deliver":
        _deliver(source, names[0], effects)
    else:
        source.give_back()


def _deliver(source: Source, pump: str, effects: list[Effect]) -> None:
    """Read one window of each stream, deliver it, settle as the coordinator does."""
    moved: dict[str, dict[str, Progress]] = {}
    for stream in list(source.streams.values()):
        progress = stream.progress.get(pump)
        if progress is None:
            continue
        if progress.position < stream.end:
            found = source.read(stream.id, progress.position, 2)
            records = tuple(map(bytes, found.records))
            effects.append((pump, stream.id, found.first, records, found.lost))
            if records or found.lost:
                position = progress.position + len(records) + found.lost
                stream.progress[pump] = Progress(position)
                moved[stream.id] = {pump: stream.progress[pump]}
    trims = {}
    for stream in source.streams.values():
        passed = min([p.position for p in stream.progress.values()], default=stream.end)
        if passed > stream.trimmed:
            trims[stream.id] = passed
    if moved or trims or source.settled:
        source.settle(moved, trims)


def behind(instance: Instance, pump: str) -> bool:
    """Say whether an instance between two actions has something to deliver."""
    if not instance.image:
        return False
    streams: dict[str, Stream] = pickle.loads(instance.image)["streams"]
    return any(
        (pump in stream.progress and stream.progress[pump].position < stream.end)
        or min([p.position for p in stream.progress.values()], default=stream.end)
        > stream.trimmed
        for stream in streams.values()
    )


# Copies of a source

_OURS = ("_link", "_book", "_shelf", "_clock")


def _thawed(instance: Instance, link: _Recorded, book: _Book, clock: _Clock) -> Source:
    claims.ulid = _ulid  # type: ignore[attr-defined]
    if not instance.image:
        return Source(
            link,
            prefix=PREFIX,
            name=instance.name,
            incarnation=str(instance.incarnation),
            previous=str(instance.previous or ""),
            lease_time=LEASE,
            fields=instance.pumps,
            book=book,
            shelf=_NoDisk(),
            clock=clock,
        )
    source = Source.__new__(Source)
    source.__dict__.update(pickle.loads(instance.image))
    source._link, source._book, source._clock = link, book, clock
    source._shelf = _NoDisk()
    return source


def _memory(source: Source) -> dict[str, Any]:
    """Return a source's memory, without what can make no difference later."""
    fields = {k: v for k, v in source.__dict__.items() if k not in _OURS}
    fields["owners"] = None  # for the ledger
    rounds = fields["_rounds"]
    fields["_rounds"] = LATE
    fields["_missing"] = {
        claim: max(0, LATE - (rounds - at)) for claim, at in source._missing.items()
    }
    return fields


def plain(value: Any) -> Any:
    """Return a value as one that `marshal` writes the same way each time."""
    if value is None or isinstance(value, bytes | str | int | float):
        return value
    if isinstance(value, dict):
        return tuple((plain(k), plain(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(plain(one) for one in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(plain(one) for one in value))
    if isinstance(value, ResponseError):
        return type(value).__name__, str(value)
    if not isinstance(value, msgspec.Struct):
        return plain(vars(value))
    return tuple(plain(getattr(value, f)) for f in value.__struct_fields__)


def digest(value: Any) -> bytes:
    """Return the hash of a plain value."""
    return hashlib.blake2b(marshal.dumps(value, 2), digest_size=16).digest()
