"""Replays and cursors while the disk or Redis is in trouble."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tyk_pump.clock import Clock
from tyk_pump.config.root import PumpConfig, RootOptions
from tyk_pump.coordinator.journal import Journal
from tyk_pump.coordinator.lanes import Lane, Span
from tyk_pump.coordinator.loop import Coordinator
from tyk_pump.coordinator.replay import Replays
from tyk_pump.coordinator.settling import Settler
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.coordinator.windows import Frame, Windows
from tyk_pump.errors import StateError
from tyk_pump.source.claims import Progress, Stream
from tyk_pump.state.file import StateFile
from tyk_pump.worker.outcome import DeadRecord, Outcome


class FullDisk(StateFile):
    """A state file whose disk is full when a test says so."""

    full = False

    def _refuse(self) -> None:
        if self.full:
            raise StateError("disk full")

    def settle_replay(self, stream: str, end: int) -> int:
        self._refuse()
        return super().settle_replay(stream, end)

    def cancel_replay(self, stream: str) -> int:
        self._refuse()
        return super().cancel_replay(stream)

    def store_dead(self, *args: Any, **named: Any) -> None:
        self._refuse()
        super().store_dead(*args, **named)


def handle(fault: str = "", index: int = 0, lanes: int = 1) -> WorkerHandle:
    """Return a worker that has no process."""
    return WorkerHandle(
        PumpConfig(name="P", type="dummy", fault=fault),
        RootOptions(),
        Lane("P", index, lanes),
        state_dir="",
        log_format="text",
        log_level="info",
        clock=Clock(),
    )


def journal(state: StateFile) -> Journal:
    """Return a journal of claims only."""
    return Journal(RootOptions(), state, Clock())


def running(worker: WorkerHandle) -> list[bytes]:
    """Make it look like a running one; return what it is offered."""
    frames: list[bytes] = []

    def offer(frame: bytes) -> bool:
        frames.append(frame)
        return True

    worker.state = "running"
    worker.process = SimpleNamespace()  # type: ignore[assignment]
    worker.channel = SimpleNamespace(offer=offer)  # type: ignore[assignment]
    return frames


def marked(folder: Path) -> tuple[FullDisk, Replays, Settler]:
    """Return a state file with one letter that is to be replayed."""
    state = FullDisk(folder / "state.db")
    state.store_dead("P", "l", "msgpack", [DeadRecord(0, "S:0", "no", b"x")], 1.0)
    settler = Settler(state, journal(state), Clock())
    replays = Replays(state, settler.store, Clock())
    assert replays.mark("P") == 1
    return state, replays, settler


def answer(stream: str) -> Outcome:
    """Return the outcome of a replayed frame that arrived."""
    return Outcome(stream, 0, 1, 1, 0, [], 0.1, 1, "l", "msgpack")


def test_a_full_disk_after_a_replay_ends_nothing_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    """What has arrived is not offered again while the disk cannot say so."""
    state, replays, _ = marked(tmp_path)
    worker, windows = handle(), Windows(RootOptions())
    frames = running(worker)
    replays.offer(worker, windows)
    done = answer(state.replays("P")[0].stream)
    assert len(frames) == 1 and replays.owns(worker, done)
    state.full = True
    replays.settle(worker, done)
    replays.offer(worker, windows)
    state.full = False
    assert len(frames) == 1
    replays.offer(worker, windows)
    assert len(frames) == 1 and state.counts() == {}
    state.close()


def test_a_full_disk_when_a_replay_kills_ends_nothing(tmp_path: Path) -> None:
    """The replay is cancelled as soon as the disk allows, before anything else."""
    state, replays, _ = marked(tmp_path)
    worker, windows = handle(), Windows(RootOptions())
    frames = running(worker)
    replays.offer(worker, windows)
    state.full = True
    assert replays.worker_died(worker)
    replays.offer(worker, windows)
    state.full = False
    replays.offer(worker, windows)
    assert len(frames) == 1 and state.replays("P") == []
    assert state.counts() == {"P": 1}
    state.close()


def test_a_replay_outlives_a_worker_that_we_ended(tmp_path: Path) -> None:
    """A lost lease or a reload drops the worker, and its successor gets the letters."""
    state, replays, _ = marked(tmp_path)
    worker, windows = handle(), Windows(RootOptions())
    frames = running(worker)
    replays.offer(worker, windows)
    replays.dropped(worker)
    replays.offer(worker, windows)
    assert len(frames) == 2
    state.close()


def test_another_lane_does_not_end_a_replay(tmp_path: Path) -> None:
    """The replay is with lane 0; the death of lane 1 says nothing about it."""
    state, replays, _ = marked(tmp_path)
    first, second = handle(lanes=2), handle(index=1, lanes=2)
    running(first)
    replays.offer(first, Windows(RootOptions()))
    assert not replays.worker_died(second)
    assert replays.owns(first, answer(state.replays("P")[0].stream))
    state.close()


def test_a_pump_that_cannot_start_stays_so_when_the_lease_is_lost() -> None:
    """What only the operator can mend is not started by dropping everything."""
    worker = handle(fault="driver missing")
    worker.drop()
    assert worker.state == "failed" and not worker.due()


def test_dead_letters_come_before_the_cursor(tmp_path: Path) -> None:
    """While the disk refuses them the cursor stays, and moves when it is mended."""
    state = FullDisk(tmp_path / "state.db")
    settler, worker = Settler(state, journal(state), Clock()), handle()
    stream = Stream(id="S", own=True, end=10, progress={"P": Progress()})
    source: Any = SimpleNamespace(streams={"S": stream})
    dead = [DeadRecord(3, "S:3", "no", b"x")]
    state.full = True
    done = Outcome("S", 0, 10, 9, 0, dead, 0.1, 1, "l", "msgpack")
    settler.accept(worker, done, source)
    assert stream.progress["P"].position == 0 and not settler.due
    assert not worker.has_room(1000)
    state.full = False
    settler._disk_at = 0.0
    settler.retry([worker], source)
    assert stream.progress["P"].position == 10
    assert state.counts() == {"P": 1}
    state.close()


def test_a_new_pump_is_owed_from_now_on_while_redis_is_away(tmp_path: Path) -> None:
    """Its cursor is set at once in every stream, and written later."""
    state = FullDisk(tmp_path / "state.db")
    settler = Settler(state, journal(state), Clock())
    streams = {n: Stream(id=n, own=n == "B", end=7) for n in "AB"}
    owed: list[str] = []
    source: Any = SimpleNamespace(streams=streams, owe=owed.append)
    settler.owe("NEW", source)
    assert [s.progress["NEW"].position for s in streams.values()] == [7, 7]
    assert settler.due and owed == ["NEW"]
    state.close()


def test_a_lost_window_waits_for_what_is_with_the_worker(tmp_path: Path) -> None:
    """The cursor does not go over frames that are still to be answered."""
    state = FullDisk(tmp_path / "state.db")
    disk = journal(state)
    settler, worker = Settler(state, disk, Clock()), handle()
    stream = Stream(id="S", own=True, end=20, progress={"P": Progress()})
    source: Any = SimpleNamespace(streams={"S": stream})
    settler.look_at_streams(source)
    coordinator: Any = Coordinator.__new__(Coordinator)
    coordinator._settler = settler
    coordinator._lifeline = SimpleNamespace(source=source)
    coordinator._windows = Windows(RootOptions())
    coordinator._journal = disk
    worker.lane.offered(Span("S", 0, 20), 10, 1)
    lost = Span("S", 10, 20)
    assert not coordinator._hand_over(worker, lost, Frame(10, 20, b"", lost=True))
    assert stream.progress["P"].position == 0
    assert worker.lane.acknowledged("S", 0, 10)
    settler.accept(worker, answer_of("S", 0, 10), source)
    assert coordinator._hand_over(worker, lost, Frame(10, 20, b"", lost=True))
    assert stream.progress["P"].position == 20
    assert coordinator._windows.lost == 10
    state.close()


def answer_of(stream: str, first: int, end: int) -> Outcome:
    """Return the outcome of a frame that arrived."""
    return Outcome(stream, first, end, end - first, 0, [], 0.1, 1, "l", "msgpack")
