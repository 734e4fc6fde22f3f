"""The ledger balances, whatever is killed, adopted, added or removed; or it says so."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.coordinator.test_settling import FullDisk
from tests.source.world import WallClock
from tyk_pump import cursors
from tyk_pump.config.root import PumpConfig, RootOptions
from tyk_pump.coordinator import audit, books
from tyk_pump.coordinator.audit import Audit, Line
from tyk_pump.coordinator.books import Fate
from tyk_pump.coordinator.journal import Journal
from tyk_pump.coordinator.lanes import Lane
from tyk_pump.coordinator.settling import Settler, outdated
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.cursors import Counts
from tyk_pump.source.claims import Claim, Progress, Stream
from tyk_pump.state.file import StateFile
from tyk_pump.state.ledger import Row
from tyk_pump.worker.outcome import DeadRecord, Outcome


class Disk(FullDisk):
    """A state file that refuses the ledger too."""

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Any]:
        if write:
            self._refuse()
        with super().transaction(write=write) as db:
            yield db


class FakeRedis:
    """The hashes of streams, as far as the ledger sees them."""

    def __init__(self) -> None:
        self.owners: dict[str, str] = {}
        self.claims: dict[str, dict[str, Claim]] = {}
        self.progress: dict[str, dict[str, Progress]] = {}
        self.trimmed: dict[str, int] = {}
        self.holders: dict[str, list[str]] = {}
        """Who has held a stream, who has made it first."""
        self.finished: dict[str, str] = {}
        self.full = False
        self.at = 3600.0 * 5
        """When lists are claimed."""


class FakeSource:
    """The part of the source that settling needs: no network, the same promises."""

    def __init__(self, redis: FakeRedis, owner: str) -> None:
        self.redis = redis
        self.owner = owner
        self.owners: dict[str, str] | None = None
        self.sought: Collection[str] = ()
        self.finished: dict[str, str] = {}
        self.streams: dict[str, Stream] = {}
        self.settled: set[str] = set()

    def look(self) -> None:
        """One round: what is nobody's is ours."""
        name = self.owner.partition("#")[0]
        self.owners = dict(self.redis.owners)
        gone = set(self.sought) - set(self.owners)
        self.finished = {one: self.redis.finished.get(one, "") for one in gone}
        for stream, owner in self.owners.items():
            if stream in self.streams:
                continue
            if not owner or owner.partition("#")[0] == name:
                self.redis.owners[stream] = self.owner
                self.streams[stream] = self._load(stream)

    def _load(self, name: str) -> Stream:
        redis = self.redis
        claims = copy.deepcopy(redis.claims[name])
        stream = Stream(id=name, own=False, claims=claims)
        us, holders = self.owner.partition("#")[0], redis.holders[name]
        stream.maker, stream.adopted = holders[0], holders[0] != us
        stream.shared = bool(set(holders) - {us})
        if us not in holders:
            holders.append(us)
        stream.progress = copy.deepcopy(redis.progress[name])
        stream.trimmed = redis.trimmed[name]
        for field, progress in stream.progress.items():
            if progress.position < stream.trimmed:
                stream.raised[field] = progress.position
                progress.position = stream.trimmed
        ends = [claim.end for claim in claims.values()]
        cursors_ = [progress.position for progress in stream.progress.values()]
        stream.end = max([*ends, *cursors_], default=0)
        return stream

    def claim(self, name: str, length: int, fields: list[str]) -> None:
        """Claim a list of so many records into a stream of our own."""
        if name not in self.streams:
            stream = Stream(id=name, own=True)
            stream.progress = {field: Progress() for field in fields}
            self.streams[name] = stream
            self.redis.owners[name] = self.owner
            self.redis.holders[name] = [self.owner.partition("#")[0]]
            self.redis.claims[name] = {}
            self.redis.progress[name] = copy.deepcopy(stream.progress)
            self.redis.trimmed[name] = 0
        stream = self.streams[name]
        number = f"C{stream.end:06}"
        made = Claim("l", "msgpack", number, stream.end, length, at=self.redis.at)
        self.redis.claims[name][number] = copy.deepcopy(made)
        stream.claims[number] = made
        stream.end = made.end

    def owe(self, field: str) -> None:
        """Nothing to do: the test owes in all streams."""

    def forget(self, field: str) -> None:
        """A removed pump is owed nothing."""
        for stream in self.streams.values():
            stream.progress.pop(field, None)
            self.redis.progress[stream.id].pop(field, None)

    def settle(
        self,
        progress: Mapping[str, Mapping[str, Progress]],
        trims: Mapping[str, int],
        keep: Collection[str] = (),
    ) -> None:
        """Write cursors, unless there is no memory for them, and trim."""
        if not self.redis.full:
            for name, fields in progress.items():
                self.redis.progress[name].update(copy.deepcopy(dict(fields)))
        for name, upto in trims.items():
            stream = self.streams[name]
            stream.trimmed = self.redis.trimmed[name] = upto
            for claim in [c for c, one in stream.claims.items() if one.end <= upto]:
                del stream.claims[claim]
                del self.redis.claims[name][claim]
            gone = not stream.own and not stream.claims
            if gone and stream.trimmed >= stream.hole:
                del self.streams[name]
                del self.redis.owners[name]
                self.redis.finished[name] = self.owner.partition("#")[0]


class Instance:
    """An instance whose workers answer when, and what, a test wants."""

    def __init__(self, redis: FakeRedis, path: Path, name: str, chance: random.Random):
        self.redis, self.chance, self.name = redis, chance, name
        self.state = Disk(path / f"{name}.sqlite")
        self.lanes = {"A": 1, "B": 2}
        self.clock = WallClock()
        self.born = 0
        self.start()

    def start(self) -> None:
        """A new incarnation, that knows what Redis and the state file know."""
        self.born += 1
        self.source: Any = FakeSource(self.redis, f"{self.name}#{self.born}")
        self.journal = Journal(RootOptions(), self.state, self.clock)
        self.settler = Settler(self.state, self.journal, self.clock)
        self.workers = [
            WorkerHandle(
                PumpConfig(name=pump, type="dummy", workers=lanes),
                RootOptions(),
                Lane(pump, index, lanes),
                state_dir="",
                log_format="text",
                log_level="info",
                clock=self.clock,
            )
            for pump, lanes in self.lanes.items()
            for index in range(lanes)
        ]
        self.round()

    def round(self, claims: int = 0) -> None:
        """Look at Redis, claim, and write what is due."""
        self.source.look()
        fields = [worker.lane.field for worker in self.workers]
        for _ in range(claims):
            length = self.chance.choice([1, 30, 700, 2500])
            self.source.claim(f"{self.name}{self.born}", length, fields)
        self.settler.look_at_streams(self.source)
        present = {f for s in self.source.streams.values() for f in s.progress}
        for field in sorted(present - set(fields)):
            if outdated(field, self.workers):
                self.settler.write(self.source, self.workers)
                self.settler.leave(field, self.source)
            elif cursors.parts(field)[0] not in self.lanes:
                self.settler.leave(field, self.source)
        self.write()

    def write(self) -> None:
        self.settler._disk_at = 0.0
        self.settler.write(self.source, self.workers)

    def work(self, frames: int) -> None:
        """Have workers settle so many frames, with all kinds of ends."""
        for _ in range(frames):
            worker = self.chance.choice(self.workers)
            if worker.unsettled:
                continue
            streams = list(self.source.streams.values())
            span = worker.lane.next_span(streams)
            if span is None:
                continue
            stream = self.source.streams[span.stream]
            found = stream.find(span.first)
            if found is None or found[1].base > span.first:
                end = min(span.end, found[1].base) if found else span.end
                self.settler.pass_over(worker.lane, stream, span.first, end)
                continue
            end = min(span.end, found[1].end, span.first + self.chance.randint(1, 900))
            if self.chance.random() < 0.05:
                self.settler.pass_over(worker.lane, stream, span.first, end)
                continue
            done = self.outcome(span.stream, span.first, end)
            worker.lane.offered(span, end, 1)
            assert worker.lane.acknowledged(span.stream, span.first, end)
            self.settler.accept(worker, done, self.source)

    def outcome(self, stream: str, first: int, end: int) -> Outcome:
        """Return what a worker could say of a frame."""
        count = end - first
        dead = (
            self.chance.randint(0, min(2, count)) if self.chance.random() < 0.1 else 0
        )
        filtered = self.chance.randint(0, count - dead)
        letters = [
            DeadRecord(p, f"{stream}:{p}", "no", b"x")
            for p in range(first, first + dead)
        ]
        left = count - dead - filtered
        return Outcome(
            stream, first, end, left, filtered, letters, 0.0, 1, "l", "msgpack"
        )

    def finish(self) -> None:
        """Work until nothing is owed."""
        self.state.full = False
        for _ in range(400):
            self.settler.retry(self.workers, self.source)
            self.work(20)
            self.write()
            if not any(
                w.lane.pending(self.source.streams.values()) for w in self.workers
            ):
                return
        raise AssertionError("it does not end")

    def audit(self) -> Audit:
        """Return the books of the running instance."""
        self.settler.bring_to_book(self.source)
        views = audit.live(self.settler.books, self.source)
        return audit.audit(self.state.ledger, views)

    def audit_stopped(self) -> Audit:
        """Return what `tyk-pump audit` finds when nothing runs."""
        views = {
            stream: audit.View(
                progress=self.redis.progress[stream],
                claims=self.redis.claims[stream],
                shared=self.redis.holders[stream] != [self.name],
                ours=bool(owner) or self.redis.holders[stream][0] == self.name,
            )
            if owner.partition("#")[0] in ("", self.name)
            else audit.View(fate=Fate.ELSEWHERE)
            for stream, owner in self.redis.owners.items()
        }
        for stream in self.state.ledger.open_streams() - set(views):
            gone = stream in self.redis.finished
            views[stream] = audit.View(fate=Fate.ELSEWHERE if gone else Fate.VANISHED)
        return audit.audit(self.state.ledger, views)

    def check(self) -> None:
        """Assert that the books balance, asked in each way."""
        self.write()
        found = self.audit()
        assert found.balanced, found
        self.settler._count_at = 0.0
        self.settler._count(self.source)
        assert {n.difference for n in self.settler.numbers.values()} <= {0}
        sums = {line.pump: line.pending for line in found.pumps}
        assert sums == {name: n.pending for name, n in self.settler.numbers.items()}


@pytest.fixture
def redis() -> FakeRedis:
    """An empty Redis."""
    return FakeRedis()


def instance(redis: FakeRedis, path: Path, name: str = "a", seed: int = 1) -> Instance:
    """Return a started instance."""
    return Instance(redis, path, name, random.Random(seed))


def line(found: Audit, pump: str = "A") -> Line:
    """Return a pump's line."""
    return next(one for one in found.pumps if one.pump == pump)


def test_all_is_booked_once(redis: FakeRedis, tmp_path: Path) -> None:
    """Every claimed record is delivered, filtered, dead or lost in the end."""
    one = instance(redis, tmp_path)
    one.round(claims=6)
    one.check()
    one.finish()
    one.check()
    claimed = one.source.streams["a1"].end
    for pump in "AB":
        booked = line(one.audit(), pump)
        assert booked.claimed == claimed == booked.settled
        assert booked.pending == booked.handed_over == booked.unknown == 0
    assert one.audit_stopped() == one.audit()
    one.state.close()


@pytest.mark.parametrize("seed", range(25))
def test_kills_full_disks_and_heirs_leave_it_balanced(
    redis: FakeRedis, tmp_path: Path, seed: int
) -> None:
    """A random life of two instances: at each step both balance."""
    live(redis, tmp_path, random.Random(seed))


@pytest.mark.parametrize("seed", range(15))
def test_steps_of_the_clock_leave_it_balanced(
    redis: FakeRedis, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours and weeks, to and fro, while old rows are let go of at every write."""
    monkeypatch.setattr(books, "FOLD_SECONDS", 0.0)
    live(redis, tmp_path, random.Random(seed), steps=True)


def live(
    redis: FakeRedis, folder: Path, chance: random.Random, *, steps: bool = False
) -> None:
    """Live at random, also with steps of the clock; at the end all is settled."""
    both = [Instance(redis, folder, name, chance) for name in "xy"]
    for _ in range(40):
        one = chance.choice(both)
        if steps and chance.random() < 0.4:
            hours = chance.choice([0.5, 2, 26, 24 * 40])
            one.clock.step += 3600 * hours * chance.choice([-1, 1])
            redis.at = one.clock.now()
        match chance.randrange(9):
            case 0 | 1:
                one.round(claims=chance.randint(0, 3))
            case 2 | 3:
                one.work(chance.randint(1, 8))
            case 4:
                one.write()
            case 5:
                one.start()  # killed: what is in memory is gone
            case 6:
                for stream, owner in redis.owners.items():  # its lease has ended
                    if owner == one.source.owner:
                        redis.owners[stream] = ""
                other = both[one is both[0]]
                other.round()
                one.start()
            case 7:
                one.state.full = not one.state.full
                continue
            case _:
                redis.full = not redis.full
        if not one.state.full:
            one.settler.retry(one.workers, one.source)
            one.check()
    redis.full = False
    for one in both:
        one.state.full = False
        one.round()
        one.finish()
        one.round()
        one.check()
        assert all(not pump.pending for pump in one.audit().pumps)
        assert one.audit_stopped().balanced
        one.state.close()


def test_the_audit_of_a_killed_instance_balances(
    redis: FakeRedis, tmp_path: Path
) -> None:
    """From Redis and the state file alone, also where a claim was not noted yet."""
    one = instance(redis, tmp_path)
    one.round(claims=3)
    one.work(9)
    one.write()
    one.work(5)  # not written
    one.source.claim("a1", 77, [])  # not noted
    found = one.audit_stopped()
    assert found.balanced
    whole = one.source.streams["a1"].end
    assert line(found).claimed == line(found, "B").claimed == whole
    one.start()
    one.check()
    one.finish()
    assert line(one.audit()).claimed == whole
    one.state.close()


def test_an_outcome_counted_twice_is_seen(redis: FakeRedis, tmp_path: Path) -> None:
    """The audit is able to fail: more was delivered than was claimed."""
    one = instance(redis, tmp_path)
    one.round(claims=1)
    stream = one.source.streams["a1"]
    end = min(10, stream.end)
    worker = one.workers[0]
    for _ in range(2):
        one.settler._move(worker.lane, one.outcome("a1", 0, end), one.source)
    found = one.audit()
    assert not found.balanced and line(found).difference == -end
    one.finish()
    one.write()
    assert line(one.audit()).difference == -end, "it is still seen when all is closed"
    assert not one.audit_stopped().balanced
    one.state.close()


def test_a_skipped_position_is_seen(redis: FakeRedis, tmp_path: Path) -> None:
    """A cursor that goes over what nobody has settled leaves a difference."""
    one = instance(redis, tmp_path)
    one.source.claim("a1", 100, ["A", "B/0:2", "B/1:2"])
    one.settler.look_at_streams(one.source)
    one.settler._move(one.workers[0].lane, one.outcome("a1", 40, 60), one.source)
    assert line(one.audit()).difference == 40
    one.settler._move(one.workers[0].lane, one.outcome("a1", 60, 100), one.source)
    assert line(one.audit()).difference == 40
    one.state.close()


def test_a_forgotten_claim_is_seen(redis: FakeRedis, tmp_path: Path) -> None:
    """A cursor beyond a claim that nobody has settled: all of it is the difference."""
    one = instance(redis, tmp_path)
    one.source.claim("a1", 100, ["A"])
    one.source.claim("a1", 50, ["A"])
    one.settler.look_at_streams(one.source)
    one.write()
    redis.progress["a1"]["A"] = Progress(position=120)
    assert line(one.audit_stopped()).difference == 120
    one.start()
    assert line(one.audit()).difference == 120
    one.state.close()


def test_a_lost_dead_letter_is_seen(redis: FakeRedis, tmp_path: Path) -> None:
    """Letters that are stored and neither there nor replayed nor dropped."""
    one = instance(redis, tmp_path)
    letters = [DeadRecord(p, f"S:{p}", "no", b"x") for p in range(5)]
    one.state.store_dead("A", "l", "msgpack", letters, 1.0)
    one.state.store_dead("A", "l", "msgpack", letters[:2], 1.0)
    assert one.state.drop(ids=[1]) == 1
    assert one.state.mark_replay("R", "A", ids=[2, 3]) == 2
    assert one.state.settle_replay("R", 1) == 1
    (found,) = one.audit().letters
    assert (found.stored, found.dropped, found.replayed) == (5, 1, 1)
    assert found.kept == 3 and one.audit().balanced
    with one.state.transaction() as db:
        db.execute("DELETE FROM dead_letters WHERE id = 4")
    assert not one.audit().balanced and one.audit().letters[0].difference == 1
    one.state.close()


def test_the_cursor_waits_for_the_ledger(redis: FakeRedis, tmp_path: Path) -> None:
    """While the disk refuses a row the cursor stays, and nothing is trimmed."""
    one = instance(redis, tmp_path)
    one.source.claim("a1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    one.state.full = True
    one.settler._move(one.workers[0].lane, one.outcome("a1", 0, 60), one.source)
    one.write()
    assert redis.progress["a1"]["A"].position == 60, "no row is due yet"
    one.settler._move(one.workers[0].lane, one.outcome("a1", 60, 100), one.source)
    one.settler.write(one.source, one.workers)
    assert redis.progress["a1"]["A"].position == 60
    assert redis.trimmed["a1"] == 60 and redis.claims["a1"]
    assert one.settler.error
    one.state.full = False
    one.write()
    found = redis.progress["a1"]["A"]
    assert (found.position, found.since, found.counts) == (100, 100, Counts())
    assert redis.trimmed["a1"] == 100 and not one.settler.error
    one.state.close()


def test_redis_is_not_told_more_than_the_disk(
    redis: FakeRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stream in both places the cursor in Redis waits for the one on the disk.

    Else a crash finds one behind itself, and what was counted between is forgotten.
    """
    one = instance(redis, tmp_path)
    one.source.claim("a1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    part = Stream(id="a1", own=False, disk=True, end=40)
    part.progress["A"] = Progress(40, since=0, counts=Counts(delivered=40))
    one.journal.parts["a1"], one.journal._kept["a1"] = part, 40
    one.journal.moved("a1", "A")
    one.source.streams["a1"].progress["A"] = Progress(60, since=40)
    one.settler._moved.add(("a1", "A"))
    with monkeypatch.context() as patch:
        patch.setattr(one.journal._store, "move", lambda *_: one.state._refuse())
        one.state.full = True
        one.write()
        assert one.journal.error
    assert redis.progress["a1"]["A"].position == redis.trimmed["a1"] == 0
    one.state.full = False
    one.settler.write(one.source, one.workers)
    assert redis.progress["a1"]["A"].position == 0, "the disk has a pause"
    one.settler.insist()
    one.settler.write(one.source, one.workers)
    assert redis.progress["a1"]["A"].position == redis.trimmed["a1"] == 60
    one.state.close()


def test_a_cursor_goes_on_where_its_row_says(redis: FakeRedis, tmp_path: Path) -> None:
    """Killed between the row and the HSET: the claim is not delivered again."""
    one = instance(redis, tmp_path)
    one.source.claim("a1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    one.settler._move(one.workers[0].lane, one.outcome("a1", 0, 100), one.source)
    one.settler.books.write(one.source)
    assert redis.progress["a1"]["A"].position == 0
    one.start()
    assert redis.progress["a1"]["A"].position == 100
    one.check()
    one.state.close()


def test_a_removed_pump_is_forgotten_in_the_books(
    redis: FakeRedis, tmp_path: Path
) -> None:
    """What it was owed has a column of its own, with or without us running."""
    one = instance(redis, tmp_path)
    one.round(claims=4)
    one.work(5)
    one.write()
    del one.lanes["B"]
    one.workers = one.workers[:1]
    one.round()
    found = one.audit()
    assert found.balanced and line(found, "B").pending == 0
    assert line(found, "B").forgotten > 0
    one.state.close()


def test_a_command_that_forgets_is_seen_at_the_next_start(
    redis: FakeRedis, tmp_path: Path
) -> None:
    """`claims forget` removes cursors from Redis only; the rows say what was owed."""
    one = instance(redis, tmp_path)
    one.round(claims=4)
    for field in ("B/0:2", "B/1:2"):
        del redis.progress["a1"][field]
    assert one.audit_stopped().balanced
    assert line(one.audit_stopped(), "B").forgotten > 0
    one.lanes = {"A": 1}
    one.start()
    one.check()
    assert line(one.audit(), "B").forgotten == line(one.audit(), "B").claimed
    one.state.close()


@pytest.mark.parametrize("seed", range(8))
def test_another_number_of_workers_is_booked_honestly(
    redis: FakeRedis, tmp_path: Path, seed: int
) -> None:
    """New lanes are owed what the old ones had not settled; repeats count twice."""
    one = instance(redis, tmp_path, seed=seed)
    for lanes in (3, 1, 2):
        one.round(claims=3)
        one.work(25)
        if seed % 2:
            one.write()
        one.lanes["B"] = lanes
        one.start()
        one.check()
    one.finish()
    one.round()
    one.check()
    booked = line(one.audit(), "B")
    assert booked.pending == booked.forgotten == 0
    assert booked.claimed >= line(one.audit(), "A").claimed
    one.state.close()


def test_a_pump_added_in_the_middle_is_owed_from_there(
    redis: FakeRedis, tmp_path: Path
) -> None:
    """Nothing before its cursor is claimed for it."""
    one = instance(redis, tmp_path)
    one.round(claims=2)
    before = one.source.streams["a1"].end
    one.settler.owe("NEW", one.source)
    one.round(claims=2)
    one.lanes["NEW"] = 1
    one.start()
    one.check()
    one.finish()
    assert line(one.audit(), "NEW").claimed == line(one.audit()).claimed - before
    one.check()
    one.state.close()


def test_claims_that_redis_lost_are_lost_in_the_books(
    redis: FakeRedis, tmp_path: Path
) -> None:
    """Redis came back without a claim in the middle, and without the last one."""
    one = instance(redis, tmp_path)
    for _ in range(3):
        one.source.claim("a1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    one.write()
    del redis.claims["a1"]["C000100"], redis.claims["a1"]["C000200"]
    assert line(one.audit_stopped()).lost == 200
    one.start()
    one.check()
    one.finish()
    one.check()
    booked = line(one.audit())
    assert booked.lost >= 200 and booked.settled == 300 == booked.claimed
    one.state.close()


def test_a_lost_claim_at_the_end_is_waited_for(
    redis: FakeRedis, tmp_path: Path
) -> None:
    """The stream stays until the pumps have gone over it: else nobody books it."""
    one = instance(redis, tmp_path)
    one.lanes = {"A": 1}
    for _ in range(2):
        one.source.claim("a1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    one.write()
    del redis.claims["a1"]["C000100"]
    one.start()
    lane, stream = one.workers[0].lane, one.source.streams["a1"]
    one.settler._move(lane, one.outcome("a1", 0, 100), one.source)
    one.write()
    assert "a1" in one.source.streams and not stream.claims
    one.settler.pass_over(lane, stream, 100, 200)
    one.write()
    assert not one.source.streams
    booked = line(one.audit())
    assert booked.lost == 100 and booked.settled == 200 == booked.claimed
    one.state.close()


def test_a_hole_ends_where_a_claim_begins(redis: FakeRedis, tmp_path: Path) -> None:
    """A claim that nobody has noted is lost beside one that is booked."""
    one = instance(redis, tmp_path)
    one.lanes = {"A": 1}
    one.source.claim("a1", 3, ["A"])
    one.settler.look_at_streams(one.source)
    one.source.claim("a1", 3, ["A"])
    one.source.claim("a1", 10, ["A"])
    del one.source.streams["a1"].claims["C000003"]
    one.settler.look_at_streams(one.source)
    one.write()
    for claim in ("C000003", "C000006"):
        del redis.claims["a1"][claim]
    one.start()
    lane, stream = one.workers[0].lane, one.source.streams["a1"]
    one.settler._move(lane, one.outcome("a1", 0, 3), one.source)
    one.settler.pass_over(lane, stream, 3, 11)
    one.settler.pass_over(lane, stream, 11, 16)
    one.write()
    booked = line(one.audit())
    assert booked.lost == 10 and booked.settled == 13 == booked.claimed
    one.state.close()


def test_what_is_handed_over_and_comes_back(redis: FakeRedis, tmp_path: Path) -> None:
    """The one who finishes a claim books all of it; the other has handed it over."""
    one, two = instance(redis, tmp_path, "x"), instance(redis, tmp_path, "y")
    one.round(claims=3)
    one.work(2)
    one.write()
    claimed = line(one.audit()).claimed
    redis.owners["x1"] = ""
    two.round()
    one.start()
    assert line(one.audit()).handed_over == claimed - line(one.audit()).delivered - (
        line(one.audit()).filtered + line(one.audit()).dead + line(one.audit()).lost
    )
    assert line(two.audit()).adopted == line(two.audit()).claimed > 0
    redis.owners["x1"] = ""
    one.round()
    two.start()
    assert line(one.audit()).handed_over == 0
    assert line(two.audit()).handed_over == line(two.audit()).claimed
    one.finish()
    for each in (one, two):
        each.check()
        each.state.close()


@pytest.mark.parametrize("room", [False, True])
def test_what_another_does_before_the_disk_has_the_row(
    redis: FakeRedis, tmp_path: Path, room: bool
) -> None:
    """The row keeps what was owed at first; what was done elsewhere is beside it."""
    one, two = instance(redis, tmp_path, "x"), instance(redis, tmp_path, "y")
    one.source.claim("x1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    one.write()
    redis.owners["x1"] = ""
    two.state.full = not room
    two.round()
    two.settler.forget()
    two.source = FakeSource(redis, "y#2")
    redis.progress["x1"]["A"] = Progress(40, since=40)
    redis.owners["x1"] = ""
    two.round()
    two.state.full = False
    two.write()
    found = line(two.audit())
    assert (found.claimed, found.adopted, found.handed_over) == (100, 100, 40)
    assert (found.pending, found.difference) == (60, 0)
    for each in (one, two):
        each.state.close()


@pytest.mark.parametrize("room", [False, True])
def test_a_vanished_stream_that_is_there_again(
    redis: FakeRedis, tmp_path: Path, room: bool
) -> None:
    """Redis came back without it, and then with it: nothing of it is lost."""
    one = instance(redis, tmp_path)
    one.source.claim("a1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    one.write()
    owner = redis.owners.pop("a1")
    one.settler.forget()
    one.source = FakeSource(redis, "a#2")
    one.state.full = not room
    for _ in range(2):
        one.round()
    assert bool(one.settler.error) is not room
    if room:
        assert line(one.audit()).lost == 100
    redis.owners["a1"] = owner
    one.round()
    one.finish()
    one.check()
    found = line(one.audit())
    assert (found.claimed, found.lost) == (100, 0)
    assert found.delivered + found.filtered + found.dead == 100
    one.state.close()


def test_what_was_given_back_stays_our_own(redis: FakeRedis, tmp_path: Path) -> None:
    """Nobody else has held it: nothing is adopted, and what is skipped is seen."""
    one = instance(redis, tmp_path)
    one.source.claim("a1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    one.write()
    redis.owners["a1"] = ""
    one.start()
    assert line(one.audit()).adopted == 0 and line(one.audit()).pending == 100
    redis.progress["a1"]["A"] = Progress(position=100)
    redis.owners["a1"] = ""
    assert line(one.audit_stopped()).difference == 100
    one.start()
    assert line(one.audit()).difference == 100
    assert line(one.audit()).handed_over == 0
    one.state.close()


@pytest.mark.parametrize("finished", [True, False])
def test_a_stream_that_is_gone_was_finished_or_is_lost(
    redis: FakeRedis, tmp_path: Path, finished: bool
) -> None:
    """Who has finished another's stream leaves a note; without one it has vanished."""
    one = instance(redis, tmp_path)
    one.source.claim("a1", 100, ["A"])
    one.settler.look_at_streams(one.source)
    one.write()
    for kept in (redis.owners, redis.claims, redis.progress):
        kept.clear()
    if finished:
        redis.finished["a1"] = "b"
    for found in (one.audit_stopped(), _after_a_start(one)):
        assert found.balanced
        assert line(found).handed_over == (100 if finished else 0)
        assert line(found).lost == (0 if finished else 100)
    one.state.close()


def _after_a_start(one: Instance) -> Audit:
    one.start()
    assert line(one.audit()).pending == 100, "Redis has not been asked yet"
    one.round()
    one.check()
    return one.audit()


def test_hours_become_days_and_rows_go(tmp_path: Path) -> None:
    """Old rows leave their sums behind, and folding twice changes nothing."""
    with contextlib.closing(StateFile(tmp_path / "s.sqlite")) as state:
        ledger, now = state.ledger, 200 * 86400.0
        rows = [
            Row(
                stream="S",
                claim=f"C{number}",
                cursor="A",
                at=3600.0 * number,
                base=10 * number,
                end=10 * number + 10,
                claimed=10,
                counts=Counts(delivered=7, filtered=3),
                passed=True,
            )
            for number in range(48)
        ]
        opened = [msgspec.structs.replace(row, counts=Counts()) for row in rows]
        for _ in range(2):
            ledger.write(opened, (), rows, 1.0)
        before = ledger.totals()
        assert before["A"].claimed == 480 and len(ledger.hours()) == 48
        for _ in range(2):
            ledger.fold(now)
            assert ledger.totals() == before
            assert len(ledger.hours()) == 2 and not ledger.closed("S")
