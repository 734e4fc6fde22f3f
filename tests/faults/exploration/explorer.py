"""All states within bounds: what can happen next, and what must hold in each."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from tests.faults.exploration.instance import (
    PREFIX,
    Exchange,
    Instance,
    answer,
    begin,
    behind,
    born,
    digest,
    killed,
    plain,
    replaced,
    thaw,
)
from tests.faults.redis_model import RedisModel, Value
from tyk_pump.source.claims import CLAIM, Claim, Keys
from tyk_pump.source.lists import BASE

LISTS = tuple(f"{PREFIX}{BASE}{end}" for end in ("", "_0"))
KEYS = Keys(PREFIX)
STREAM = KEYS.stream("")
MARK = ":claim:"


class Bounds(msgspec.Struct, frozen=True):
    """What may happen, and how often."""

    instances: tuple[tuple[str, ...], ...] = (("P",), ("P",))
    """The pumps of each; the names are a, b, c."""
    pushes: tuple[tuple[int, int], ...] = ((0, 2),)
    """Lists and records, in the order in which a gateway pushes."""
    kills: int = 0
    failures: int = 0
    """Exchanges that fail, whatever of them has happened."""
    ghosts: int = 0
    """How many of them may still reach Redis later."""
    freezes: int = 0
    """Leases that end while the owner only seems to be dead."""
    leaves: int = 0
    foreign: int = 0
    """How often another consumer takes a list."""
    shortages: int = 0
    """How often Redis is out of memory for a while."""
    folders: int = 0
    """How often an instance starts without its state folder."""
    fine: bool = False
    """True where others may act between two commands of a pipeline."""

    def budget(self) -> tuple[int, ...]:
        """Return what is left at the beginning, in the order of `_SPENT`."""
        return tuple(getattr(self, name) for name in _SPENT)


_SPENT = (
    "kills",
    "failures",
    "ghosts",
    "freezes",
    "leaves",
    "foreign",
    "shortages",
    "folders",
)
Identity = tuple[str, int]


class State(msgspec.Struct, frozen=True):
    """Everything there is: Redis, instances, what is on its way, what has arrived."""

    data: dict[str, Value]
    expiries: dict[str, float]
    full: bool
    instances: tuple[Instance, ...]
    ghosts: tuple[Exchange, ...]
    pushed: int
    taken: frozenset[bytes]
    arrived: dict[tuple[str, bytes], Identity]
    budget: tuple[int, ...]
    wrong: str = ""

    def digest(self) -> bytes:
        """Return the hash by which a state is known again."""
        return digest(
            (
                plain([(k, _plain(v)) for k, v in sorted(self.data.items())]),
                tuple(sorted(self.expiries)),
                self.full,
                tuple(one.key() for one in self.instances),
                plain(self.ghosts),
                self.pushed,
                tuple(sorted(self.taken)),
                tuple(sorted(self.arrived.items())),
                self.budget,
            )
        )


def _plain(value: Value) -> Any:
    return tuple(sorted(value.items())) if isinstance(value, dict) else value


class Violation(AssertionError):
    """A state that must not be."""


Step = tuple[str, bool, State]
"""What happened, whether it needs no bad luck and no gateway, and what is then."""


def first_state(bounds: Bounds) -> State:
    """Return the empty world."""
    names = "abc"
    instances = tuple(
        Instance(name=names[number], pumps=pumps)
        for number, pumps in enumerate(bounds.instances)
    )
    return State({}, {}, False, instances, (), 0, frozenset(), {}, bounds.budget())


class Explorer:
    """Walks through all states, each once."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.states = 0
        self.edges = 0
        self.settled = 0
        self._redis = RedisModel()
        self._numbers: dict[bytes, int] = {}
        self._from: list[tuple[int, str]] = []
        self._back: list[list[int]] = []
        self._quiet: list[int] = []

    def explore(self, limit: int = 10**9) -> None:
        """Visit every state; a Violation tells how one was reached that is wrong."""
        first = first_state(self.bounds)
        self._enter(first, -1, "")
        waiting = deque([(0, first)])
        while waiting:
            number, state = waiting.popleft()  # the shortest stories first
            for label, free, after in self._steps(state):
                self.edges += 1
                if after.wrong:
                    story = f"{self.story(number)}\n    {label}"
                    raise Violation(f"{after.wrong}\n{story}\n{picture(after)}")
                known = len(self._from)
                target = self._enter(after, number, label)
                if free:
                    self._back[target].append(number)
                if target == known:
                    waiting.append((target, after))
                    if known > limit:
                        raise Violation(f"more than {limit} states")
        self.states = len(self._from)
        self.settled = len(self._quiet)
        self._ask_for_an_end()

    def _enter(self, state: State, parent: int, label: str) -> int:
        key = state.digest()
        number = self._numbers.get(key)
        if number is not None:
            return number
        number = self._numbers[key] = len(self._from)
        self._from.append((parent, label))
        self._back.append([])
        wrong = fault(state, self.bounds)
        if wrong:
            raise Violation(f"{wrong}\n{self.story(number)}\n{picture(state)}")
        bounds = self.bounds
        crashes = any((bounds.kills, bounds.ghosts, bounds.freezes, bounds.shortages))
        if is_settled(state, crashes=crashes):
            self._quiet.append(number)
        return number

    def story(self, number: int) -> str:
        """Return what led to a state."""
        lines: list[str] = []
        while number > 0:
            number, label = self._from[number]
            lines.append(label)
        return "\n".join(f"{n:3} {s}" for n, s in enumerate(reversed(lines), 1))

    def _ask_for_an_end(self) -> None:
        """From each state everything can be settled, with no more luck than time."""
        reached = bytearray(self.states)
        stack = list(self._quiet)
        for number in stack:
            reached[number] = 1
        while stack:
            for number in self._back[stack.pop()]:
                if not reached[number]:
                    reached[number] = 1
                    stack.append(number)
        stuck = reached.find(0)
        if stuck >= 0:
            raise Violation(f"cannot be settled any more\n{self.story(stuck)}")

    # What can happen

    def _steps(self, state: State) -> Iterator[Step]:
        for at, instance in enumerate(state.instances):
            if not instance.alive:
                yield from self._births(state, at)
            elif instance.pending is None:
                yield from self._actions(state, at)
            else:
                yield from self._exchanges(state, at, instance.pending)
            if instance.alive and self._left(state, "kills"):
                after = self._spend(state, "kills")
                yield self._put(after, at, killed(instance), "is killed", free=False)
        yield from self._ends_of_leases(state)
        yield from self._outside(state)
        yield from self._late(state)

    def _births(self, state: State, at: int) -> Iterator[Step]:
        instance = state.instances[at]
        yield self._put(state, at, born(instance), "starts")
        if instance.incarnation and self._left(state, "folders"):
            after = self._spend(state, "folders")
            fresh = born(instance, folder=False)
            yield self._put(after, at, fresh, "starts without its folder", free=False)

    def _actions(self, state: State, at: int) -> Iterator[Step]:
        instance = state.instances[at]
        if not instance.started:
            yield self._put(state, at, begin(instance, ("start",)), "starts again")
            return
        yield self._put(state, at, begin(instance, ("round",)), "begins a round")
        for pump in instance.pumps:
            if behind(instance, pump):
                one = begin(instance, ("deliver", pump))
                yield self._put(state, at, one, f"delivers to {pump}")
        if self._left(state, "leaves"):
            after = self._spend(state, "leaves")
            yield self._put(after, at, begin(instance, ("leave",)), "leaves")

    def _exchanges(self, state: State, at: int, pending: Exchange) -> Iterator[Step]:
        instance = state.instances[at]
        commands, how = pending
        if how == "plain" and self.bounds.fine:
            done = len(instance.part)
            after, (reply,) = self._run(state, (commands[done : done + 1], how))
            part = (*instance.part, reply)
            if len(part) < len(commands):
                one = replaced(instance, part=part)
            else:
                one = answer(instance, list(part))
            yield self._put(after, at, one, f"runs {_said(commands[done])}")
        else:
            done = 0
            after, replies = self._run(state, pending)
            said = _all_said(commands)
            yield self._put(after, at, answer(instance, replies), f"{how} {said}")
        if how == "compare" and self._left(state, "failures"):
            one = answer(instance, False)
            after = self._spend(state, "failures")
            yield self._put(after, at, one, "meets another's write", free=False)
        for failed, word in self._bad_luck(state, at):
            gone = failed.instances[at]
            lost = (
                killed(instance) if word == "kill" else answer(gone, None, failed=True)
            )
            parts = [len(commands)] if how != "plain" else range(len(commands) + 1)
            if how != "plain" and word != "kill":
                parts = [0, len(commands)]
            if self.bounds.fine and how == "plain":
                parts = [0]  # as far as it has come; others are states of their own
            for count in parts:
                after = failed
                if count:
                    after, _ = self._run(failed, (commands[:count], how))
                said = f"{word} with {count} of {len(commands)} sent"
                yield self._put(after, at, lost, said, free=False)
            if how != "compare" and self._left(state, "ghosts"):
                after = self._spend(failed, "ghosts")
                ghost = (commands[len(instance.part) :], how)
                after = msgspec.structs.replace(after, ghosts=(*after.ghosts, ghost))
                yield self._put(after, at, lost, f"{word}, sent late", free=False)

    def _bad_luck(self, state: State, at: int) -> Iterator[tuple[State, str]]:
        if self._left(state, "kills"):
            yield self._spend(state, "kills"), "kill"
        if self._left(state, "failures"):
            yield self._spend(state, "failures"), "failure"

    def _ends_of_leases(self, state: State) -> Iterator[Step]:
        leases = [key for key in state.data if key.startswith(KEYS.lease(""))]
        for key in leases:
            after = _without(state, key)
            owner = [
                at
                for at, one in enumerate(state.instances)
                if one.alive and one.lease == key
            ]
            if not owner:
                yield f"{key[len(KEYS.lease('')) :]}: lease ends", True, after
            elif self._left(state, "freezes"):
                (at,) = owner
                instance = state.instances[at]
                after = self._spend(after, "freezes")
                for asked in {False, instance.pending is not None}:
                    one = thaw(instance, asked=asked)
                    said = f"is frozen, {'having' if asked else 'before it has'} looked"
                    yield self._put(after, at, one, said, free=False)

    def _outside(self, state: State) -> Iterator[Step]:
        if state.full:
            after = msgspec.structs.replace(state, full=False)
            yield "Redis has memory again", True, after
        elif self._left(state, "shortages"):
            after = self._spend(state, "shortages")
            after = msgspec.structs.replace(after, full=True)
            yield "Redis is full", False, after
        if state.pushed < len(self.bounds.pushes) and not state.full:
            which, count = self.bounds.pushes[state.pushed]
            begun = sum(n for _, n in self.bounds.pushes[: state.pushed])
            records = [b"%d" % n for n in range(begun, begun + count)]
            commands = (
                ("RPUSH", LISTS[which], *records),
                ("EXPIRE", LISTS[which], 60),
            )
            after, _ = self._run(state, (commands, "atomic"))
            after = msgspec.structs.replace(after, pushed=state.pushed + 1)
            yield f"gateway pushes {count} to {LISTS[which]}", False, after
        if self._left(state, "foreign"):
            for key in LISTS:
                found = state.data.get(key)
                if isinstance(found, tuple):
                    after = _without(self._spend(state, "foreign"), key)
                    taken = state.taken | set(found)
                    after = msgspec.structs.replace(after, taken=taken)
                    yield f"another consumer takes {key}", False, after

    def _late(self, state: State) -> Iterator[Step]:
        for at, (commands, how) in enumerate(state.ghosts):
            rest = state.ghosts[:at] + state.ghosts[at + 1 :]
            count = 1 if how == "plain" else len(commands)
            after, _ = self._run(state, (commands[:count], how))
            kept = ((commands[count:], how),) if commands[count:] else ()
            after = msgspec.structs.replace(after, ghosts=(*kept, *rest))
            said = "; ".join(map(_said, commands[:count]))
            yield f"late: {said}", False, after
            after = msgspec.structs.replace(state, ghosts=rest)
            yield "what was late never comes", True, after

    # Helpers

    def _left(self, state: State, name: str) -> int:
        return state.budget[_SPENT.index(name)]

    @staticmethod
    def _spend(state: State, name: str) -> State:
        at = _SPENT.index(name)
        budget = state.budget
        left = (*budget[:at], budget[at] - 1, *budget[at + 1 :])
        return msgspec.structs.replace(state, budget=left)

    def _run(self, state: State, exchange: Exchange) -> tuple[State, Any]:
        commands, how = exchange
        redis = self._redis
        redis.restore((state.data, state.expiries))
        redis.full = state.full
        replies: Any
        if how == "compare":
            replies = redis.compare_and_set(*commands[0])
        else:
            replies = redis.execute(commands, atomic=how == "atomic")
        after = msgspec.structs.replace(state, data=redis.data, expiries=redis.expiries)
        return after, replies

    def _put(
        self, state: State, at: int, one: Instance, said: str, *, free: bool = True
    ) -> Step:
        """Return the state with an instance as it is now, and what it delivered."""
        before = state.instances[at]
        known = len(before.effects) if before.action else 0
        arrived = state.arrived
        wrong = ""
        for pump, stream, first, records, lost in one.effects[known:]:
            for position in range(first, first + lost):
                # Whoever has adopted a stream from an owner that was only frozen, and
                # that trimmed what it had settled, finds nothing there: that is all.
                known_to = {one for (who, _), one in arrived.items() if who == pump}
                if (stream, position) not in known_to:
                    wrong = f"{stream}:{position} is taken for lost"
            for position, record in enumerate(records, first):
                identity = arrived.get((pump, record))
                if identity not in (None, (stream, position)):
                    wrong = f"{record!r} comes as {identity} and {stream}:{position}"
                arrived = arrived | {(pump, record): (stream, position)}
        if not one.action:
            one = replaced(one, effects=())
        instances = (*state.instances[:at], one, *state.instances[at + 1 :])
        after = msgspec.structs.replace(
            state, instances=instances, arrived=arrived, wrong=wrong
        )
        return f"{one.name}: {said}", free, after


def _without(state: State, key: str) -> State:
    data = {k: v for k, v in state.data.items() if k != key}
    expiries = {k: v for k, v in state.expiries.items() if k != key}
    return msgspec.structs.replace(state, data=data, expiries=expiries)


def _all_said(commands: Sequence[Sequence[Any]]) -> str:
    lists = [command for command in commands if command[0] == "LLEN"]
    said = [_said(c) for c in commands if c not in lists or len(lists) < 5]
    return "; ".join(said if len(lists) < 5 else [*said, "LLEN ..."])


def _said(command: Sequence[Any]) -> str:
    return " ".join(
        str(word)[:60].replace(PREFIX, "") for word in command[: 3 + len(command) % 2]
    )


# What must hold


@lru_cache(maxsize=100_000)
def _claim(raw: bytes) -> Claim:
    return msgspec.msgpack.decode(raw, type=Claim)


def _notes(state: State) -> dict[str, list[tuple[str, Claim]]]:
    """Return what is noted where somebody will look, by the claims' keys."""
    streams = state.data.get(KEYS.streams, {})
    assert isinstance(streams, dict)
    noted: dict[str, list[tuple[str, Claim]]] = {}
    hashes: list[tuple[str, Any]] = []
    for raw in streams:
        name = raw.decode()
        fields = state.data.get(KEYS.stream(name), {})
        assert isinstance(fields, dict)
        hashes.append((name, [(f.decode(), v) for f, v in fields.items()]))
    for instance in state.instances:
        hashes += instance.book_now
    for name, items in hashes:
        for field, value in items:
            if field.startswith(CLAIM):
                claim = _claim(value)
                noted.setdefault(claim.key, []).append((name, claim))
    return noted


def fault(state: State, bounds: Bounds) -> str:
    """Return what is wrong with a state, or nothing."""
    noted = _notes(state)
    places: dict[bytes, str] = {}
    identities: dict[bytes, set[Identity]] = {}
    for (_, record), identity in state.arrived.items():
        identities.setdefault(record, set()).add(identity)
    for key, items in state.data.items():
        if not isinstance(items, tuple):
            continue
        for record in items:
            if record in places:
                return f"{record!r} is in {places[record]} and in {key}"
            places[record] = key
        if MARK not in key:
            continue
        if key not in noted:
            return f"{key} is noted nowhere"
        for stream, claim in noted[key]:
            if claim.base < 0:
                continue
            if key in state.expiries:
                return f"{key} has an end of life"
            for at, record in enumerate(items):
                position = claim.base - claim.offset + claim.total - len(items) + at
                identities.setdefault(record, set()).add((stream, position))
    count = sum(n for _, n in bounds.pushes[: state.pushed])
    for record in (b"%d" % n for n in range(count)):
        found = identities.get(record, set())
        if len(found) > 1:
            return f"{record!r} has two ids: {sorted(found)}"
        if record in state.taken:
            if record in places or found:
                return f"{record!r} went to another consumer and is here"
        elif record not in places:
            if not found:
                return f"{record!r} is lost"
            ((stream, _),) = found
            for pump in bounds.instances["abc".index(stream[0])]:
                if (pump, record) not in state.arrived:
                    return f"{record!r} is lost to {pump}"
    return ""


def is_settled(state: State, *, crashes: bool) -> bool:
    """Say whether nothing waits anywhere, and nothing was left lying about."""
    if state.ghosts or any(one.book_now for one in state.instances):
        return False
    streams = state.data.get(KEYS.streams, {})
    assert isinstance(streams, dict)
    for key, value in state.data.items():
        if isinstance(value, tuple):
            return False
        left = key.startswith(STREAM) and key[len(STREAM) :].encode() not in streams
        if left and not crashes:
            # Else it may be what was written by a dead man's hand.
            return False
    return True


def picture(state: State) -> str:
    """Return what is in Redis, to be read by a person."""
    lines = []
    for key, value in sorted(state.data.items()):
        if isinstance(value, dict):
            shown: Any = {
                f.decode(): msgspec.msgpack.decode(v)
                if f[:5] in (b"claim", b"pump:")
                else v
                for f, v in value.items()
            }
        else:
            shown = value
        lines.append(f"  {key} = {shown}")
    return "\n".join(itertools.chain(["in Redis:"], lines))
