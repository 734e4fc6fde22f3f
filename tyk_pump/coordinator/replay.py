"""Records that are delivered once more: dead letters, and replays of kept records.

Each replay is a stream of its own, owed to one pump and kept in the state file. It has
the original record ids, so that a back end which tells records apart still does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from tyk_pump import channel
from tyk_pump.clock import Clock
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.coordinator.windows import Windows
from tyk_pump.cursors import Counts
from tyk_pump.errors import StateError
from tyk_pump.state.file import ReplayWindow, StateFile
from tyk_pump.state.journal import Damaged
from tyk_pump.state.replay import ReplayFrame
from tyk_pump.ulid import ulid
from tyk_pump.worker.outcome import DeadRecord, Outcome

logger = logging.getLogger(__name__)

DEATHS = 2
"""So many workers may die on a frame before it is tried in smaller parts."""
TIDY_SECONDS = 600.0


class _Suspect(msgspec.Struct):
    """Records of a replay in whose hands workers have died."""

    stream: str
    end: int
    limit: int
    """So many records are tried at once."""
    deaths: int = 0


class Replays:
    """Offers what is to be replayed to idle workers, one frame at a time."""

    def __init__(
        self,
        state: StateFile,
        store: Callable[[WorkerHandle, Outcome], bool],
        clock: Clock,
    ) -> None:
        self._state = state
        self._kept = state.replay_store
        self._store = store
        self._clock = clock
        self._in_hand: dict[str, ReplayWindow | ReplayFrame] = {}
        self._answered: dict[str, tuple[ReplayWindow | ReplayFrame, Outcome]] = {}
        """What is settled and not yet in the state file."""
        self._ended: set[str] = set()  # to be cancelled in the state file
        self._suspects: dict[str, _Suspect] = {}
        self._tidy_at = 0.0
        self.waiting: dict[str, int] = {}
        """Records of replays that wait, by pump, as they were counted last."""

    def mark(self, pump: str = "", ids: list[int] | None = None) -> int:
        """Mark letters of one pump, or of all; each pump has a replay of its own."""
        names = [pump] if pump else list(self._state.counts())
        return sum(self._state.mark_replay(ulid(), name, ids=ids) for name in names)

    def look(self) -> None:
        """Count what waits, and remove what nobody completes."""
        try:
            now = self._clock.monotonic()
            if now >= self._tidy_at:
                self._tidy_at = now + TIDY_SECONDS
                self._kept.tidy(self._clock.now())
            self.waiting = self._kept.waiting()
        except StateError as exc:
            logger.error("replays wait", extra={"reason": str(exc)})

    def offer(self, worker: WorkerHandle, windows: Windows) -> None:
        """Give an idle worker the next part of a replay, if there is any."""
        name = worker.config.name
        if worker.lane.index or worker.channel is None:
            return
        try:
            if not self._catch_up(worker) or name in self._in_hand:
                return
            if not worker.ready() or worker.lane.sent:
                return
            window = self._next(name, windows)
        except StateError as exc:
            logger.error("replay waits", extra={"pump": name, "reason": str(exc)})
            return
        if window is None:
            return
        frame = channel.encode_frame(
            window.stream,
            window.list,
            window.codec,
            window.first,
            window.ids,
            window.records,
        )
        if worker.channel.offer(frame):
            self._in_hand[name] = window

    def owns(self, worker: WorkerHandle, done: Outcome) -> bool:
        """Say whether an outcome is that of the replay in hand."""
        window = self._in_hand.get(worker.config.name)
        return window is not None and window.stream == done.stream

    def settle(self, worker: WorkerHandle, done: Outcome) -> None:
        """Drop what has arrived; what was refused is a dead letter, with its reason.

        While the disk refuses that, nothing more is replayed to this pump: what has
        arrived would arrive again.
        """
        name = worker.config.name
        window = self._in_hand.pop(name)
        suspect = self._suspects.get(name)
        if suspect is not None and suspect.stream == done.stream:
            suspect.deaths = 0
            if done.end >= suspect.end:
                del self._suspects[name]
        self._answered[name] = window, done
        self._try_to_catch_up(worker)

    def worker_died(self, worker: WorkerHandle) -> bool:
        """What was in hand of a worker that died is not tried for ever.

        Letters stay dead letters; of a frame the record that kills becomes one. True
        when there was something: it was before all other frames on the queue.
        """
        if worker.lane.index:
            return False
        name = worker.config.name
        window = self._in_hand.pop(name, None)
        if window is None:
            return False
        if not worker.died_of_its_frame():
            return True  # it is offered again
        if isinstance(window, ReplayWindow):
            logger.error("replay ends: its worker died", extra={"pump": name})
            self._ended.add(window.stream)
        else:
            self._suspect(worker, window)
        self._try_to_catch_up(worker)
        return True

    def dropped(self, worker: WorkerHandle) -> None:
        """A worker that we have ended is to blame for nothing: it is replayed again."""
        if not worker.lane.index:
            self._in_hand.pop(worker.config.name, None)

    def _suspect(self, worker: WorkerHandle, frame: ReplayFrame) -> None:
        """Halve what is tried after some deaths, until the guilty record is alone."""
        name, count = worker.config.name, len(frame.records)
        found = self._suspects.get(name)
        if found is None or found.stream != frame.stream:
            found = _Suspect(frame.stream, frame.end, count)
            self._suspects[name] = found
        found.deaths += 1
        if found.deaths < DEATHS:
            return
        found.deaths = 0
        found.limit = max(1, count // 2)
        if count > 1:
            return
        reason = f"the worker died on this record: {worker.last_error}"
        dead = DeadRecord(frame.first, frame.ids[0], reason, frame.records[0])
        done = Outcome(
            stream=frame.stream,
            first=frame.first,
            end=frame.end,
            delivered=0,
            filtered=0,
            dead=[dead],
            seconds=0.0,
            attempts=0,
            list=frame.list,
            codec=frame.codec,
        )
        worker.counts.dead += 1
        if frame.end >= found.end:
            del self._suspects[name]
        self._answered[name] = frame, done

    def _try_to_catch_up(self, worker: WorkerHandle) -> None:
        try:
            self._catch_up(worker)
        except StateError as exc:
            extra = {"pump": worker.config.name, "reason": str(exc)}
            logger.error("replay waits", extra=extra)

    def _catch_up(self, worker: WorkerHandle) -> bool:
        """Write what the disk may have refused; False while it does."""
        for stream in list(self._ended):
            self._state.cancel_replay(stream)
            self._ended.discard(stream)
        name = worker.config.name
        if name not in self._answered:
            return True
        window, done = self._answered[name]
        if not self._store(worker, done):
            return False
        if isinstance(window, ReplayWindow):
            dropped = self._state.settle_replay(done.stream, done.end)
            extra = {"pump": name, "records": dropped}
            logger.info("dead letters replayed", extra=extra)
        else:
            became = Counts(done.delivered, done.filtered, len(done.dead), done.lost)
            ended = self._kept.settle(
                done.stream, done.first, done.end, became, self._clock.now()
            )
            if ended:
                extra = {"pump": name, "records": done.end}
                logger.info("kept records replayed", extra=extra)
        del self._answered[name]
        return True

    def _next(self, name: str, windows: Windows) -> ReplayWindow | ReplayFrame | None:
        for replay in self._state.replays(name):
            window = self._state.read_replay(
                replay.stream,
                replay.first,
                windows.records(),
                windows.root.window_bytes,
            )
            if window is not None:
                return window
        while (stream := self._kept.next(name)) is not None:
            suspect = self._suspects.get(name)
            if suspect is not None and suspect.stream != stream:
                del self._suspects[name]
                suspect = None
            try:
                return self._kept.read(stream, suspect.limit if suspect else 0)
            except Damaged as exc:
                count = exc.end - exc.first
                logger.error(
                    "a frame of a replay is damaged, its records are passed over",
                    extra={"pump": name, "records": count, "reason": str(exc)},
                )
                became = Counts(lost=count)
                now = self._clock.now()
                self._kept.settle(stream, exc.first, exc.end, became, now)
        return None
