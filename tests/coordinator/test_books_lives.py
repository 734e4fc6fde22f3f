"""Random lives of two instances, with parts of streams on the disk: books balance.

Production code from the claims to the ledger, over a Redis in memory; workers are
answers that a test makes up. What is killed is killed at any exchange with Redis, or
at any transaction of the state file.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.coordinator.test_settling import FullDisk
from tests.faults.redis_model import RedisModel
from tests.source.world import LEASE, Died, FakeClock
from tyk_pump import channel, cursors
from tyk_pump.cli.audit import read_views
from tyk_pump.config.root import JournalOptions, PumpConfig, RootOptions
from tyk_pump.coordinator import audit
from tyk_pump.coordinator.audit import Audit, Line
from tyk_pump.coordinator.journal import Journal
from tyk_pump.coordinator.lanes import Lane, Span
from tyk_pump.coordinator.settling import Settler, outdated
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.coordinator.windows import Frame, Windows
from tyk_pump.errors import ConfigError, LeaseLost, SourceError, StateError
from tyk_pump.source.claims import Source
from tyk_pump.worker.outcome import DeadRecord, Outcome

LIVES = int(os.environ.get("TYK_PUMP_LIVES", "60"))
STEPS = 60
PREFIX = "analytics-"
LISTS = ("analytics-tyk-system-analytics", "analytics-tyk-system-analytics_1")
HAPPENS = {
    "push": 3,
    "round": 3,
    "copy": 3,
    "work": 6,
    "write": 3,
    "turn": 6,
    "doom": 2,
    "end": 1,
    "stop": 1,
    "redis": 0.5,
    "disk": 0.5,
}
"""What may happen, and how often."""
JOURNALS = (
    JournalOptions(type="redis"),
    JournalOptions(type="redis", max_bytes=2000),
    JournalOptions(type="disk"),
    JournalOptions(type="disk", max_bytes=6000),
)


class Deathbed:
    """Counts what happens, and kills when the number is up."""

    def __init__(self) -> None:
        self.left = 0

    def pass_by(self) -> None:
        if self.left:
            self.left -= 1
            if not self.left:
                raise Died


class Wire:
    """A link to the Redis in memory on which the process may die."""

    def __init__(self, model: RedisModel, death: Deathbed) -> None:
        self.model = model
        self.death = death

    def execute(self, commands: Sequence[Any], *, atomic: bool = False) -> list[Any]:
        """Run commands; the process dies before or after."""
        self.death.pass_by()
        replies = self.model.execute(commands, atomic=atomic)
        self.death.pass_by()
        return replies

    def compare_and_set(self, key: str, field: str, old: bytes, new: str) -> bool:
        """Set a field of a hash if it still has a value."""
        self.death.pass_by()
        return self.model.compare_and_set(key, field, old, new)


class Disk(FullDisk):
    """A state file that may be full, and in whose transactions the process may die."""

    death = Deathbed()

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Any]:
        if write:
            self._refuse()
            self.death.pass_by()
        with super().transaction(write=write) as db:
            yield db
        if write:
            self.death.pass_by()


class Instance:
    """A coordinator without processes."""

    def __init__(self, life: Life, name: str) -> None:
        self.life, self.name = life, name
        self.death = Deathbed()
        self.wire: Any = Wire(life.model, self.death)
        self.state = Disk(life.path / f"{name}.sqlite")
        self.state.death = self.death
        self.lanes = {"A": 1, "B": 2}
        self.born = 0
        self.root = RootOptions(window_records=40, queue_bytes=1 << 20)
        self.alive = False
        self.delivered: dict[str, set[bytes]] = {}

    def start(self, options: JournalOptions | None = None) -> None:
        """A new incarnation, that knows what Redis and the state file know."""
        previous, self.born = self.born, self.born + 1
        if options is not None:
            self.root = RootOptions(
                window_records=40, queue_bytes=1 << 20, journal=options
            )
        clock = self.life.clock
        self.workers = [
            WorkerHandle(
                PumpConfig(name=pump, type="dummy", workers=lanes),
                RootOptions(),
                Lane(pump, index, lanes),
                state_dir="",
                log_format="text",
                log_level="info",
                clock=clock,
            )
            for pump, lanes in self.lanes.items()
            for index in range(lanes)
        ]
        self.hands: dict[str, deque[tuple[Span, Frame]]] = {
            worker.lane.field: deque() for worker in self.workers
        }
        self.journal = Journal(self.root, self.state, clock)
        self.settler = Settler(self.state, self.journal, clock)
        self.windows = Windows(self.root, self.journal.frame)
        self.source = Source(
            self.wire,
            prefix=PREFIX,
            name=self.name,
            incarnation=str(self.born),
            previous=str(previous) if previous else "",
            lease_time=LEASE,
            fields=list(self.hands),
            book=self.state,
            shelf=self.journal,
            clock=clock,
        )
        self.source.start()
        self.alive = True
        self.round()

    def round(self) -> None:
        """Claim, adopt, look for pumps that are gone."""
        self.source.round()
        self.settler.look_at_streams(self.source)
        known = set(self.hands)
        streams = self.journal.streams(self.source.streams.values())
        for field in sorted({f for s in streams for f in s.progress} - known):
            if outdated(field, self.workers):
                self.write()
                if self.settler.all_written(self.source):
                    self.settler.leave(field, self.source)
            elif cursors.parts(field)[0] not in self.lanes:
                self.settler.leave(field, self.source)

    def write(self) -> None:
        """Settle."""
        self.settler._disk_at = self.journal._disk_at = self.journal._prune_at = 0.0
        self.settler.write(self.source, self.workers)

    def copy(self) -> None:
        """Copy a batch to the disk."""
        self.journal._disk_at = self.settler._disk_at = 0.0
        wanted = self.journal.wanted(self.source, self.windows)
        if not wanted:
            return
        if self.settler.due:
            self.write()
        if not self.settler.error:
            self.settler.copied(self.journal.copy(self.source, self.windows, wanted))

    def offer(self) -> None:
        """Put a frame before some worker."""
        worker = self.life.chance.choice(self.workers)
        streams = self.journal.streams(self.source.streams.values())
        streams = [one for one in streams if self.settler.knows(one.id)]
        span = worker.lane.next_span(streams)
        if span is None or worker.unsettled:
            return
        frame = self.windows.frame(self.source, span)
        if frame is None:
            return
        if frame.data:
            worker.lane.offered(span, frame.end, len(frame.data))
            self.hands[worker.lane.field].append((span, frame))
        elif not worker.lane.sent:
            part = self.journal.part_at(span.stream, span.first)
            stream = part or self.source.streams[span.stream]
            self.settler.pass_over(
                worker.lane, stream, span.first, frame.end, lost=frame.lost
            )

    def answer(self) -> None:
        """Have some worker answer for its first frame."""
        worker = self.life.chance.choice(self.workers)
        if not self.hands[worker.lane.field]:
            return
        span, frame = self.hands[worker.lane.field].popleft()
        records = channel.decode_frame(frame.data)[5]
        self.delivered.setdefault(worker.lane.pump, set()).update(records)
        assert worker.lane.acknowledged(span.stream, span.first, frame.end)
        done = self._outcome(span, frame.end)
        self.settler.accept(worker, done, self.source)

    def _outcome(self, span: Span, end: int) -> Outcome:
        chance, count = self.life.chance, end - span.first
        dead = chance.randint(0, min(2, count)) if chance.random() < 0.1 else 0
        filtered = chance.randint(0, count - dead)
        letters = [
            DeadRecord(p, f"{span.stream}:{p}", "no", b"x")
            for p in range(span.first, span.first + dead)
        ]
        left = count - dead - filtered
        return Outcome(
            *(span.stream, span.first, end, left, filtered, letters, 0.0, 1),
            *("l", "msgpack"),
        )

    def stop(self) -> None:
        """Orderly: everything is given back."""
        self.write()
        self.source.give_back()
        self.alive = False

    # Books

    def audit(self) -> Audit:
        """Return the books, of the running instance or of the stopped one."""
        if self.alive:
            self.settler.bring_to_book(self.source)
            views = audit.live(self.settler.books, self.source)
        else:
            wire: Any = Wire(self.life.model, Deathbed())
            views = read_views(wire, PREFIX, self.state, self.name)
        return audit.audit(self.state.ledger, views)

    def check(self) -> None:
        """Assert that the books balance, asked in each way."""
        found = self.audit()
        assert found.balanced, (self.name, self.alive, found)
        if self.alive and not self.settler.error:
            self.settler._count_at = 0.0
            self.settler._count(self.source)
            assert {n.difference for n in self.settler.numbers.values()} <= {0}
            sums = {line.pump: line.pending for line in found.pumps}
            assert sums == {n: one.pending for n, one in self.settler.numbers.items()}


class Life:
    """Two instances, one Redis, and what befalls them."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.clock = FakeClock()
        self.model = RedisModel(self.clock.monotonic)
        self.both = [Instance(self, name) for name in "xy"]
        self.pushed = 0
        self.log: list[str] = []

    def push(self) -> None:
        """Records come."""
        count = self.chance.choice([1, 5, 60, 400, 1500])
        names = [b"r%d" % n for n in range(self.pushed, self.pushed + count)]
        self.model.run(("RPUSH", self.chance.choice(LISTS), *names))
        if not self.model.full:
            self.pushed += count

    def step(self) -> None:
        """Something happens to somebody."""
        one = self.chance.choice(self.both)
        if not one.alive:
            options = None
            if self.chance.random() < 0.3:
                options = self.chance.choice(JOURNALS)
            if self.chance.random() < 0.2:
                one.lanes["B"] = self.chance.choice([1, 2, 3])
            self.attempt_start(one, options)
            return
        happens = self.chance.choices(list(HAPPENS), list(HAPPENS.values()))[0]
        self.log.append(f"{one.name} {happens}")
        getattr(self, f"_{happens}")(one)

    def _push(self, one: Instance) -> None:
        self.push()
        self.attempt(one, one.round)

    def _round(self, one: Instance) -> None:
        self.attempt(one, one.round)

    def _copy(self, one: Instance) -> None:
        self.attempt(one, one.copy)

    def _work(self, one: Instance) -> None:
        for _ in range(self.chance.randint(1, 30)):
            self.attempt(one, self.chance.choice([one.offer, one.answer]))

    def _write(self, one: Instance) -> None:
        self.attempt(one, one.write)

    def _turn(self, one: Instance) -> None:
        for _ in range(self.chance.randint(1, 6)):
            for _ in range(8):
                self.attempt(one, one.answer)
            self.attempt(one, one.copy)
            for _ in range(8):
                self.attempt(one, one.offer)
            self.attempt(one, one.write)

    def _doom(self, one: Instance) -> None:
        one.death.left = self.chance.randint(1, 25)

    def _stop(self, one: Instance) -> None:
        self.attempt(one, one.stop)

    def _end(self, one: Instance) -> None:
        """Killed, or frozen; its lease ends, and the other one adopts."""
        other = self.both[one is self.both[0]]
        for _ in range(2):
            self.clock.ahead += LEASE * 0.6
            self.attempt(other, lambda: other.source.renew())
        if self.chance.random() < 0.5:
            self.kill(one)
        if other.alive:
            for _ in range(2):
                self.attempt(other, other.round)

    def _redis(self, one: Instance) -> None:
        self.model.full = not self.model.full

    def _disk(self, one: Instance) -> None:
        one.state.full = not one.state.full

    def kill(self, one: Instance) -> None:
        """End a process; the disk works when it is looked at."""
        one.alive, one.death.left, one.state.full = False, 0, False
        self.log.append(f"{one.name} killed")

    def attempt_start(
        self, one: Instance, options: JournalOptions | None = None
    ) -> None:
        """Start one that does not live."""
        try:
            one.start(options)
        except ConfigError:
            self.clock.ahead += LEASE * 2  # killed twice: its own lease has to end
        except (LeaseLost, SourceError, StateError, Died) as exc:
            self.log.append(f"{one.name} does not start: {exc}")
            self.kill(one)

    def attempt(self, one: Instance, action: Callable[[], None]) -> None:
        """Do something that may be refused, or be the last thing that is done."""
        if not one.alive:
            return
        try:
            action()
        except LeaseLost:
            self.log.append(f"{one.name} lease lost")
            one.death.left = 0
            one.settler.forget()
            self.kill(one)
        except (SourceError, StateError) as exc:
            self.log.append(f"{one.name} {exc}")
        except Died:
            self.kill(one)

    def check(self) -> None:
        """Assert that all books balance."""
        for one in self.both:
            if one.state.full or (one.alive and self.chance.random() < 0.4):
                continue  # to ask a living one writes to its disk
            doom, one.death.left = one.death.left, 0
            if one.alive:
                one.settler.retry(one.workers, one.source)
            one.check()
            one.death.left = doom

    def finish(self) -> None:
        """Let them work until nothing is left."""
        self.model.full = False
        for one in self.both:
            one.state.full, one.death.left = False, 0
        for _ in range(80):
            self.clock.ahead += LEASE / 4
            for one in self.both:
                if not one.alive:
                    self.attempt_start(one)
                self.attempt(one, one.round)
                for _ in range(25):
                    for _ in range(6):
                        self.attempt(one, one.answer)
                        self.attempt(one, one.offer)
                    self.attempt(one, one.copy)
                if one.alive:
                    self.attempt(
                        one,
                        lambda: one.settler.retry(one.workers, one.source),  # noqa: B023
                    )
                self.attempt(one, one.write)
            self.check()
            if self.quiet():
                return
        raise AssertionError([one.audit() for one in self.both])

    def quiet(self) -> bool:
        """Say whether nothing is pending anywhere."""
        if any(self.model.run(("LLEN", key)) for key in LISTS):
            return False
        return not any(line.pending for one in self.both for line in one.audit().pumps)


def line(found: Audit, pump: str = "A") -> Line:
    """Return a pump's line."""
    return next(one for one in found.pumps if one.pump == pump)


def lead(path: Path, seed: int) -> None:
    """Lead a life, and see what is left."""
    life = Life(path, seed)
    for one in life.both:
        one.start(life.chance.choice(JOURNALS))
    for _ in range(STEPS):
        life.step()
        life.check()
    life.finish()
    for pump in "AB":
        arrived = set().union(*(one.delivered.get(pump, set()) for one in life.both))
        missing = {b"r%d" % n for n in range(life.pushed)} - arrived
        assert not missing, (pump, len(missing), min(missing))
        booked = [one for each in life.both for one in each.audit().pumps]
        booked = [one for one in booked if one.pump == pump]
        assert not sum(one.lost for one in booked), booked
        own = sum(one.claimed - one.handed_over for one in booked)
        assert own >= life.pushed, (pump, own, life.pushed, booked)
    for one in life.both:
        one.state.close()


@pytest.mark.parametrize("seed", range(LIVES))
def test_books_balance_whatever_happens(tmp_path: Path, seed: int) -> None:
    """At each step the books of both balance, and in the end nothing is missing."""
    lead(tmp_path, seed)
