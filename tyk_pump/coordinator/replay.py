"""Dead letters that were marked for replay, on their way to their pump again.

A replay is a stream of its own, owed to one pump and kept in the state file. It keeps
the original record ids, so that a back end which tells records apart still does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tyk_pump import channel
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.coordinator.windows import Windows
from tyk_pump.errors import StateError
from tyk_pump.state.file import ReplayWindow, StateFile
from tyk_pump.ulid import ulid
from tyk_pump.worker.outcome import Outcome

logger = logging.getLogger(__name__)


class Replays:
    """Offers marked letters to idle workers, one frame at a time."""

    def __init__(
        self, state: StateFile, store: Callable[[WorkerHandle, Outcome], bool]
    ) -> None:
        self._state = state
        self._store = store
        self._in_hand: dict[str, ReplayWindow] = {}
        self._answered: dict[str, Outcome] = {}  # and not yet in the state file
        self._ended: set[str] = set()  # to be cancelled in the state file

    def mark(self, pump: str = "", ids: list[int] | None = None) -> int:
        """Mark letters of one pump, or of all; each pump has a replay of its own."""
        names = [pump] if pump else list(self._state.counts())
        return sum(self._state.mark_replay(ulid(), name, ids=ids) for name in names)

    def offer(self, worker: WorkerHandle, windows: Windows) -> None:
        """Give an idle worker its next letters, if there are any."""
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
        """Drop the letters that have arrived; the refused ones stay, with reasons.

        While the disk refuses that, nothing more is replayed to this pump: what has
        arrived would arrive again.
        """
        del self._in_hand[worker.config.name]
        self._answered[worker.config.name] = done
        try:
            self._catch_up(worker)
        except StateError as exc:
            extra = {"pump": worker.config.name, "reason": str(exc)}
            logger.error("replay waits", extra=extra)

    def worker_died(self, worker: WorkerHandle) -> bool:
        """Letters in hand of a worker that died are not tried for ever.

        True when it had some: they were before all other frames on its queue.
        """
        if worker.lane.index:
            return False
        window = self._in_hand.pop(worker.config.name, None)
        if window is None:
            return False
        logger.error("replay ends: its worker died", extra={"pump": worker.config.name})
        self._ended.add(window.stream)
        try:
            self._cancel_ended()
        except StateError as exc:
            extra = {"pump": worker.config.name, "reason": str(exc)}
            logger.error("replay waits", extra=extra)
        return True

    def dropped(self, worker: WorkerHandle) -> None:
        """A worker that we have ended is to blame for nothing: it is replayed again."""
        if not worker.lane.index:
            self._in_hand.pop(worker.config.name, None)

    def _catch_up(self, worker: WorkerHandle) -> bool:
        """Write what the disk may have refused; False while it does."""
        self._cancel_ended()
        name = worker.config.name
        done = self._answered.get(name)
        if done is None:
            return True
        if not self._store(worker, done):
            return False
        dropped = self._state.settle_replay(done.stream, done.end)
        del self._answered[name]
        logger.info("dead letters replayed", extra={"pump": name, "records": dropped})
        return True

    def _cancel_ended(self) -> None:
        for stream in list(self._ended):
            self._state.cancel_replay(stream)
            self._ended.discard(stream)

    def _next(self, name: str, windows: Windows) -> ReplayWindow | None:
        for replay in self._state.replays(name):
            window = self._state.read_replay(
                replay.stream,
                replay.first,
                windows.records(),
                windows.root.window_bytes,
            )
            if window is not None:
                return window
        return None
