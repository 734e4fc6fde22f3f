"""Worker processes that are none: what `WorkerHandle` starts, listens to and kills."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.faults.simulation.ends import WATERMARK, Item
from tyk_pump import channel, cursors
from tyk_pump.worker import outcome
from tyk_pump.worker.outcome import DeadRecord, Message, Outcome
from tyk_pump.worker.runs import Runs

if TYPE_CHECKING:
    from tests.faults.simulation.instance import Instance

FILTERED, REFUSED, POISON = "filtered", "refused", "poison"


class Slot:
    """The shared slot: one side's writes are seen by the other at once."""

    def __init__(self) -> None:
        self.values = [0.0] * channel.SLOTS
        self.values[channel.FRAME] = channel.NO_FRAME
        self.process: SimProcess | None = None

    def __getitem__(self, index: int) -> float:
        process = self.process
        if index == channel.BEAT and process is not None and process.beats:
            return process.world.now
        return self.values[index]

    def __setitem__(self, index: int, value: float) -> None:
        self.values[index] = value
        if index == channel.STOP and value and self.process is not None:
            self.process.world.after(0.05, self.process.look)


class SimChannel:
    """As `tyk_pump.channel.Channel`, for both sides."""

    def __init__(self, context: SimContext, max_frames: int) -> None:
        self.slot = Slot()
        self.answers = self
        self.frames: deque[bytes] = deque()
        self.heard: deque[Message] = deque()
        self._max_frames = max_frames

    def worker_end(self) -> SimChannel:
        return self

    def started(self) -> None:
        pass

    def offer(self, frame: bytes) -> bool:
        if len(self.frames) >= self._max_frames:
            return False
        self.frames.append(frame)
        process = self.slot.process
        if process is not None:
            process.world.after(0.0005, process.look)
        return True

    def receive(self) -> list[Message]:
        found = list(self.heard)
        self.heard.clear()
        return found

    def close(self) -> None:
        self.frames.clear()


class Sentinel:
    """Becomes ready when its process ends."""

    def __init__(self, process: SimProcess) -> None:
        self.process = process


class SimProcess:
    """One incarnation of a worker: frames to effects to answers, with accidents."""

    def __init__(self, *, args: tuple[Any, SimChannel], instance: Instance) -> None:
        assignment, self.channel = args
        self.config = assignment.pump
        self.instance = instance
        self.world = instance.world
        self.faults = instance.plan.workers
        self.sentinel = Sentinel(self)
        self.exitcode: int | None = None
        self.beats = False
        self.pid = instance.table.enter(self)
        self.slot = self.channel.slot
        self.slot.process = self
        self.cursor = cursors.name(
            self.config.name, assignment.lane, self.config.workers
        )
        self.end = instance.ends[self.config.name]
        self.runs = Runs(assignment.lane, self.config.workers)
        self.begin = 0
        self._ready = False
        self._busy = False
        self._attempts = 0
        self._numbers: list[int] = []
        """What was in the frame in hand for the back end."""
        self._lands = False
        """Whether what is on its way to the back end arrives after our death."""

    # What the supervisor does

    def start(self) -> None:
        self.world.after(self.world.rng.uniform(0.01, 0.1), self._open)

    def is_alive(self) -> bool:
        return self.exitcode is None

    def kill(self) -> None:
        self.die(-9)

    def join(self, timeout: float | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        """SIGABRT: it dumps its stack and dies, unless it is frozen."""
        if self.beats:
            self.world.after(0.05, self.die, -6)

    def die(self, code: int) -> None:
        """End; what is on its way may arrive all the same."""
        if self.exitcode is not None:
            return
        self.exitcode = code
        if self._busy:
            self.end.deaths.update(self._numbers)
        self.slot.values[channel.BEAT] = self.world.now
        self.beats = False
        self._lands = self.world.chance(0.5)
        self.instance.table.leave(self)
        if self.world.tracing:
            self._tell(f"ends with {code}")
        self.instance.wake()

    def freeze(self) -> None:
        """SIGSTOP to the worker alone: no beat any more, nothing goes on."""
        self.slot.values[channel.BEAT] = self.world.now
        self.beats = False
        self._tell("frozen")

    # What the worker does

    def _open(self) -> None:
        if self.exitcode is not None:
            return
        self.beats = True
        if self.world.chance(self.faults.not_open):
            self._answer(outcome.Failed("no driver just now", permanent=False))
            self.die(3)
            return
        self._ready = True
        self._answer(outcome.Ready())
        self.look()

    def _gone(self) -> bool:
        """Say whether nothing goes on: dead, or stopped by a signal for good."""
        return self.exitcode is not None or not self.beats

    def _told_to_leave(self) -> bool:
        if not self.slot.values[channel.STOP]:
            return False
        self._answer(outcome.Stopped())
        self.die(0)
        return True

    def look(self) -> None:
        """Take the next frame."""
        if self._gone() or self._busy or not self._ready or self._told_to_leave():
            return
        if not self.channel.frames:
            return
        self._busy = True
        frame = channel.decode_frame(self.channel.frames.popleft())
        self._stage(channel.WORK)
        self.slot.values[channel.FRAME] = frame[3]
        self._attempts = 0
        self._numbers = []
        self._begin(frame)

    def _begin(self, frame: Any) -> None:
        if self._gone() or self._told_to_leave():
            return
        if self.slot.values[channel.LEASE] <= self.world.now:
            self._stage(channel.WAIT)
            self.world.after(0.1, self._begin, frame)
            return
        self._stage(channel.WORK)
        stream, _, _, first, ids, raws = frame
        self.begin = self.runs.begin(stream, first, first + len(raws))
        fates = self.instance.plan.fates[self.config.name]
        mended = self.instance.plan.mended
        items: list[Item] = []
        dead: list[DeadRecord] = []
        for index, raw in enumerate(raws):
            number = int(raw.split(b" ")[0])
            fate = fates.get(number, "")
            identity = ids[index] if ids else f"{stream}:{first + index}"
            if fate == POISON:
                self.world.after(0.01, self.die, -11)
                return
            if fate == REFUSED and not (mended and ids):
                dead.append(DeadRecord(first + index, identity, "refused", raw))
                self.end.refused.add(number)
            elif fate != FILTERED:
                items.append(Item(first + index, identity, number))
        self._write(frame, items, dead)

    def _write(self, frame: Any, items: list[Item], dead: list[DeadRecord]) -> None:
        if self._gone() or self._told_to_leave():
            return
        rng, faults = self.world.rng, self.faults
        self._numbers = [item.number for item in items]
        self._stage(channel.WRITE)
        self._attempts += 1
        seconds = rng.uniform(0.0, faults.seconds)
        if self.world.chance(faults.die):
            self.world.after(rng.uniform(0.0, 0.02), self.die, -9)
        if self.world.chance(faults.hang):
            seconds += rng.choice((0.5, 3.0, 8.0))
        self.world.after(seconds, self._land, frame, items, dead)

    def _land(self, frame: Any, items: list[Item], dead: list[DeadRecord]) -> None:
        """The write arrives at the back end, whoever waits for its answer."""
        if self.exitcode is not None and not self._lands:
            return
        rng, faults = self.world.rng, self.faults
        part = items
        trouble = self.world.chance(faults.trouble)
        if trouble and self.end.kind != WATERMARK:
            part = items[: rng.randrange(len(items) + 1)]
        elif trouble:
            part = rng.choice(([], items))  # its store takes a batch whole or not
        if self.world.tracing:
            numbers = ",".join(str(item.number) for item in part)
            self._tell(f"lands {frame[0][-6:]}:{frame[3]} [{numbers}]")
        replay = frame[4] is not None
        self.end.take(
            self.instance.name,
            frame[0],
            self.cursor,
            part,
            start=self.begin,
            replay=replay,
            late=self.exitcode is not None,
        )
        self.end.unheard.update(item.number for item in part)
        if self._gone():
            return
        if trouble:
            self._stage(channel.WAIT)
            if not self.slot.values[channel.TROUBLE]:
                self.slot.values[channel.TROUBLE] = self.world.now
            self._answer(outcome.Trouble("try again", self._attempts, False))
            self.world.after(rng.uniform(0.01, 0.3), self._begin, frame)
            return
        stream, name, codec, first, _, raws = frame
        done = Outcome(
            stream=stream,
            first=first,
            end=first + len(raws),
            delivered=len(items),
            filtered=len(raws) - len(items) - len(dead),
            dead=dead,
            seconds=0.0,
            attempts=self._attempts,
            list=name,
            codec=codec,
        )
        if self.world.chance(faults.unanswered):
            # Delivered, and then silent: nobody hears of it.
            self.world.after(rng.uniform(0.0, 0.05), self.die, -9)
            return
        self.world.after(rng.uniform(0.0, 0.005), self._done, done)

    def _done(self, done: Outcome) -> None:
        if self._gone():
            return
        self.slot.values[channel.TROUBLE] = 0.0
        if self._attempts > 1:
            self._answer(outcome.Recovered(self._attempts))
        self._answer(done)
        self.end.unheard.difference_update(self._numbers)
        if self.world.chance(self.faults.twice):
            self._answer(done)
        elif self.world.chance(self.faults.twice):
            self.world.after(self.world.rng.uniform(0.0, 0.3), self._answer, done)
        self.slot.values[channel.FRAME] = channel.NO_FRAME
        self._stage(channel.IDLE)
        self._busy = False
        self.world.after(0.0005, self.look)

    def _stage(self, stage: float) -> None:
        self.slot.values[channel.SINCE] = self.world.now
        self.slot.values[channel.STAGE] = stage

    def _answer(self, message: Message) -> None:
        if self.exitcode is not None:
            return
        self.channel.heard.append(message)
        if self.world.tracing and isinstance(message, Outcome):
            self._tell(f"answers {message.stream[-6:]}:{message.first}-{message.end}")
        self.instance.wake()

    def _tell(self, what: str) -> None:
        self.world.tell(f"{self.instance.name}/{self.cursor}", what)


class Table:
    """The processes of one instance's coordinator."""

    def __init__(self) -> None:
        self.alive: dict[int, SimProcess] = {}
        self._last = 1000

    def enter(self, process: SimProcess) -> int:
        """Give a process its number."""
        self._last += 1
        self.alive[self._last] = process
        return self._last

    def leave(self, process: SimProcess) -> None:
        """A process has ended."""
        self.alive.pop(process.pid, None)


class SimContext:
    """As the context of multiprocessing: makes processes."""

    def __init__(self, current: Any) -> None:
        self._current = current

    def Process(
        self, *, target: Any, args: tuple[Any, SimChannel], name: str, daemon: bool
    ) -> SimProcess:
        """Make a process of whoever has the turn."""
        return SimProcess(args=args, instance=self._current())
