"""Replays of kept records on their way: killers, damage, full disks, cancelling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.coordinator.test_settling import FullDisk, handle, journal, running
from tyk_pump import channel
from tyk_pump.clock import Clock
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator.replay import Replays
from tyk_pump.coordinator.settling import Settler
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.coordinator.windows import Windows
from tyk_pump.errors import StateError
from tyk_pump.state.ledger import ReplaySums
from tyk_pump.state.replay import ReplayFrame
from tyk_pump.worker.outcome import DeadRecord, Outcome


class World:
    """A pump without a process, and a replay of eight records for it."""

    def __init__(self, folder: Path) -> None:
        self.state = FullDisk(folder / "state.db")
        self.store = self.state.replay_store
        self.store.begin("R", "P", {}, 1.0)
        for first in (0, 6):
            end = min(first + 6, 8)
            frame = ReplayFrame(
                stream="R",
                list="l",
                codec="msgpack",
                first=first,
                ids=[f"S:{n}" for n in range(first, end)],
                records=[b"%d" % n for n in range(first, end)],
            )
            self.store.append([frame], 1.0)
        self.store.complete(["R"], 1.0)
        settler = Settler(self.state, journal(self.state), Clock())
        self.replays = Replays(self.state, settler.store, Clock())
        self.worker = handle()
        self.frames = running(self.worker)
        self.windows = Windows(RootOptions())

    def offered(self) -> list[int]:
        """Let the next part be offered; return its records' numbers."""
        before = len(self.frames)
        self.replays.offer(self.worker, self.windows)
        if len(self.frames) == before:
            return []
        _, _, _, first, ids, records = channel.decode_frame(self.frames[-1])
        numbers = [int(raw) for raw in records]
        assert numbers[0] == first and ids == [f"S:{n}" for n in numbers]
        return numbers

    def answer(self, numbers: list[int], *, dead: int = 0) -> None:
        """Let the worker answer; its first `dead` records are refused."""
        refused = [DeadRecord(n, f"S:{n}", "no", b"%d" % n) for n in numbers[:dead]]
        done = Outcome(
            stream="R",
            first=numbers[0],
            end=numbers[-1] + 1,
            delivered=len(numbers) - dead,
            filtered=0,
            dead=refused,
            seconds=0.0,
            attempts=1,
            list="l",
            codec="msgpack",
        )
        assert self.replays.owns(self.worker, done)
        self.replays.settle(self.worker, done)

    def sums(self) -> ReplaySums:
        """Return what is booked; it balances at every moment."""
        sums = self.state.ledger.replays()["P"]
        assert sums.asked == sums.settled + sums.pending == 8
        return sums


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A replay of two frames."""
    made = World(tmp_path)
    with contextlib.closing(made.state):
        yield made


def test_a_replay_goes_frame_by_frame(world: World) -> None:
    """Each is removed when it is settled, the next is not offered before."""
    first = world.offered()
    assert first == [0, 1, 2, 3, 4, 5] and world.offered() == []
    world.answer(first, dead=2)
    assert world.sums() == ReplaySums(asked=8, delivered=4, dead=2, pending=2)
    assert [letter.record_id for letter in world.state.letters()] == ["S:0", "S:1"]
    world.answer(world.offered())
    assert world.offered() == [] and world.store.next("P") is None
    assert world.sums() == ReplaySums(asked=8, delivered=6, dead=2)
    (kept,) = world.store.replays()
    assert kept.ended is not None and kept.waiting == 0


def test_it_comes_behind_the_traffic(world: World) -> None:
    """A worker that has frames of claims gets none of a replay."""
    from tyk_pump.coordinator.lanes import Span

    world.worker.lane.offered(Span("S", 0, 10), 10, 100)
    assert world.offered() == []


def test_a_record_that_kills_is_found(world: World) -> None:
    """Workers die on number 4: all others arrive, it becomes a dead letter."""
    arrived: list[int] = []
    deaths = 0
    while numbers := world.offered():
        if 4 in numbers:
            deaths += 1
            assert deaths < 20
            assert world.replays.worker_died(world.worker)
        else:
            arrived += numbers
            world.answer(numbers)
    assert arrived == [0, 1, 2, 3, 5, 6, 7]
    (letter,) = world.state.letters()
    assert letter.record_id == "S:4" and "the worker died" in letter.reason
    assert world.sums() == ReplaySums(asked=8, delivered=7, dead=1)


@pytest.mark.parametrize("how", ["hung", "stopping", "failed"])
def test_a_worker_that_ends_for_another_reason_blames_nothing(
    world: World, how: str
) -> None:
    """A back end that hangs makes no dead letters, however often."""
    for _ in range(20):
        assert len(world.offered()) == 6
        if how == "hung":
            world.worker._killed, world.worker._killed_writing = "hung", True
        elif how == "stopping":
            world.worker.stop = lambda: None  # type: ignore[method-assign]
            world.worker._stopping = True
        else:
            from tyk_pump.worker.outcome import Failed

            world.worker._failed = Failed("no", permanent=False)
        assert world.replays.worker_died(world.worker)
        world.worker._killed, world.worker._stopping = "", False
        world.worker._failed = None
    assert world.state.counts() == {}


def test_a_full_disk_repeats_nothing(world: World) -> None:
    """What has arrived waits in memory until the disk can say so."""
    numbers = world.offered()

    def full(*_: object) -> bool:
        raise StateError("disk full")

    settle = world.store.settle
    world.store.settle = full  # type: ignore[assignment,method-assign]
    world.answer(numbers)
    assert world.offered() == []
    world.store.settle = settle  # type: ignore[method-assign]
    assert world.offered() == [6, 7]


def test_a_damaged_frame_is_passed_over(world: World) -> None:
    """Its records are lost to the replay, and booked so; so are those that vanish."""
    with world.state.transaction() as db:
        db.execute("UPDATE replay_frames SET data = x'00' WHERE first = 0")
    assert world.offered() == [6, 7]
    assert world.sums() == ReplaySums(asked=8, lost=6, pending=2)
    with world.state.transaction() as db:
        db.execute("DELETE FROM replay_frames")
    world.replays.dropped(world.worker)
    assert world.offered() == []
    assert world.sums() == ReplaySums(asked=8, lost=8)


def test_what_is_cancelled_in_the_workers_hand(world: World) -> None:
    """Its answer changes nothing any more: it is booked once."""
    numbers = world.offered()
    assert world.store.cancel(["R"], 1.0) == 8
    world.answer(numbers)
    assert world.offered() == []
    assert world.sums() == ReplaySums(asked=8, cancelled=8)


def test_what_waits_is_counted(world: World) -> None:
    """For `status` and the metrics."""
    world.replays.look()
    assert world.replays.waiting == {"P": 8}
    world.answer(world.offered())
    world.replays.look()
    assert world.replays.waiting == {"P": 2}


def test_only_the_first_lane_replays(world: World) -> None:
    """The others know nothing of it."""
    other: WorkerHandle = handle(index=1, lanes=2)
    frames = running(other)
    world.replays.offer(other, world.windows)
    assert frames == [] and not world.replays.worker_died(other)


def test_each_replay_has_watermarks_of_its_own(world: World) -> None:
    """Else a back end would take the letters for what it has from last time."""
    for number in range(2):
        letters = [DeadRecord(number, f"S:{number}", "no", b"x")]
        world.state.store_dead("Q", "l", "msgpack", letters, 1.0)
        assert world.replays.mark("Q") == 1
    first, second = (one.stream for one in world.state.replays("Q"))
    assert first != second and "S" not in (first, second)
