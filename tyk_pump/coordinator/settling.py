"""Answers of workers become dead letters in the state file, cursors, and trims.

The order is the promise: dead letters are stored first, then the cursor moves, then
what every cursor has passed is trimmed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from tyk_pump import cursors
from tyk_pump.clock import Clock
from tyk_pump.coordinator import audit
from tyk_pump.coordinator.books import Books
from tyk_pump.coordinator.journal import Journal
from tyk_pump.coordinator.lanes import Lane, Sent
from tyk_pump.coordinator.snapshot import Numbers
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.errors import StateError
from tyk_pump.source.claims import Counts, Progress, Source, Stream
from tyk_pump.state.file import StateFile
from tyk_pump.worker.outcome import DeadRecord, Outcome

logger = logging.getLogger(__name__)

COUNT_SECONDS = 5.0
"""How often the ledger is added up for status and metrics."""
DISK_PAUSE = 1.0
"""Seconds until a refused disk write is tried again."""


class Settler:
    """Keeps what is settled and not yet written, for all workers."""

    def __init__(self, state: StateFile, journal: Journal, clock: Clock) -> None:
        self._state = state
        self._journal = journal
        self._clock = clock
        self._moved: set[tuple[str, str]] = set()
        self._due = False
        self._disk_at = 0.0
        self.books = Books(state, journal.parts, clock)
        self.numbers: dict[str, Numbers] = {}
        self._count_at = 0.0
        self.error = ""
        """Why the ledger cannot be written, empty while it can."""

    @property
    def due(self) -> bool:
        """True when there are cursors to write or streams to look through."""
        if self.error and self._clock.monotonic() < self._disk_at:
            return False
        return self._due or bool(self._moved) or bool(self.error) or self._journal.due

    def knows(self, stream: str) -> bool:
        """Say whether there is a book for a stream; before that nothing is offered."""
        return self.books.book(stream) is not None

    def forget(self) -> None:
        """Drop everything: another instance may own our streams."""
        self._moved.clear()
        self.books.forget()

    def look_at_streams(self, source: Source) -> None:
        """Open the books of streams that are new in our hands."""
        for stream, fields in self.books.sync(source).items():
            self._moved |= {(stream, field) for field in fields}
        self._due = True

    def all_written(self, source: Source) -> bool:
        """Say whether Redis and the disk have every cursor as it is."""
        if self.books.undecided:
            return False  # what follows a part on the disk is not in our hands yet
        return not (self._moved or self._journal.unwritten or source.owing)

    def leave(self, field: str, source: Source) -> None:
        """Remove a cursor everywhere, and book what it was owed."""
        for name in {*source.streams, *self._journal.parts}:
            self.books.leave(name, field)
        self._journal.forget(field)
        source.forget(field)
        self._due = True

    # From an answer to a cursor

    def accept(self, worker: WorkerHandle, done: Outcome, source: Source) -> None:
        """Take in one settled frame, in the worker's order."""
        if worker.unsettled or not self.store(worker, done):
            worker.unsettled.append(done)
            return
        self._move(worker.lane, done, source)

    def retry(self, workers: Sequence[WorkerHandle], source: Source) -> None:
        """Store what the disk refused before; meanwhile the worker gets no frames."""
        if self._clock.monotonic() < self._disk_at:
            return
        for worker in workers:
            while worker.unsettled:
                if not self.store(worker, worker.unsettled[0]):
                    return
                self._move(worker.lane, worker.unsettled.popleft(), source)

    def store(self, worker: WorkerHandle, done: Outcome) -> bool:
        """Store the dead letters; False while the disk refuses them."""
        if not done.dead:
            return True
        name = worker.config.name
        try:
            self._state.store_dead(
                name, done.list, done.codec, done.dead, self._clock.now()
            )
        except StateError as exc:
            self._disk_at = self._clock.monotonic() + DISK_PAUSE
            if worker.last_error != str(exc):
                worker.last_error = str(exc)
                logger.error(
                    "dead letters cannot be stored, their claims wait",
                    extra={"pump": name, "reason": str(exc)},
                )
            return False
        logger.error(
            "records refused",
            extra={
                "pump": name,
                "list": done.list,
                "records": len(done.dead),
                "reason": done.dead[0].reason,
            },
        )
        return True

    def bury(self, worker: WorkerHandle, poison: Sent, source: Source) -> None:
        """Make a dead letter of the one record that kills workers."""
        if self._journal.part_at(poison.stream, poison.first) is not None:
            window = self._journal.read(poison.stream, poison.first)
        elif poison.stream in source.streams:
            window = source.read(poison.stream, poison.first, 1)
        else:
            return
        if not window.records and not window.lost:
            return  # Redis does not have it just now; its time comes again
        identity = f"{poison.stream}:{poison.first}"
        reason = f"the worker died on this record: {worker.last_error}"
        done = Outcome(
            stream=poison.stream,
            first=poison.first,
            end=poison.end,
            delivered=0,
            filtered=0,
            dead=[
                DeadRecord(poison.first, identity, reason, raw)
                for raw in window.records
            ],
            seconds=0.0,
            attempts=0,
            list=window.list,
            codec=window.codec,
            lost=window.lost,
        )
        worker.counts.dead += len(done.dead)
        worker.lane.skip(poison.stream, poison.end)
        self.accept(worker, done, source)

    def owe(self, field: str, source: Source) -> None:
        """Owe a new pump everything from here on, also while Redis is away.

        The cursors are set now and written with the next ones: were they set when
        Redis answers again, what is claimed by then would not be owed.
        """
        for stream in source.streams.values():
            owed = cursors.of_uptime(field) is stream.uptime
            if owed and field not in stream.progress:
                stream.progress[field] = Progress(position=stream.end)
                self._moved.add((stream.id, field))
        source.owe(field)  # and streams to come; nothing is left for it to write

    def pass_over(
        self, lane: Lane, stream: Stream, first: int, end: int, *, lost: bool = True
    ) -> None:
        """Move a cursor over positions that hold nothing any more."""
        lane.skip(stream.id, end)
        for stop in self.books.cuts(stream.id, first, end):
            self._add(lane, stream, stop, Counts(lost=stop - first if lost else 0))
            first = stop

    def _move(self, lane: Lane, done: Outcome, source: Source) -> None:
        became = Counts(done.delivered, done.filtered, len(done.dead), done.lost)
        if not self.knows(done.stream):
            self.look_at_streams(source)
        stream = source.streams.get(done.stream)
        part = self._journal.part_at(done.stream, done.first)
        if part is not None:
            self._add(lane, part, done.end, became)
            if done.end > part.end and stream is not None:
                # It was read in Redis, and the beginning has been copied since.
                self._moved.add((stream.id, lane.field))
        elif stream is not None:
            self._add(lane, stream, done.end, became)

    def _add(self, lane: Lane, stream: Stream, end: int, became: Counts) -> None:
        if lane.field in stream.progress:
            self.books.record(lane, stream, end, became)
            self._mark(stream, lane.field)

    def _mark(self, stream: Stream, field: str) -> None:
        if stream.disk:
            self._journal.moved(stream.id, field)
        else:
            self._moved.add((stream.id, field))

    def copied(self, streams: Sequence[Stream]) -> None:
        """Cursors stand behind what was copied to the disk: write them, and trim."""
        for stream in streams:
            self._moved.update((stream.id, field) for field in stream.progress)
            self._due = True

    # From cursors to Redis

    def write(self, source: Source, workers: Sequence[WorkerHandle]) -> None:
        """Write rows of the ledger, then cursors, then trim what all have passed."""
        lanes = {worker.lane.field: worker.lane for worker in workers}

        def settled(stream: Stream) -> int:
            passed = stream.end
            for field, progress in stream.progress.items():
                lane = lanes.get(field)
                at = lane.settled(stream) if lane else progress.position
                passed = min(passed, at)
            return passed

        undecided = self.books.undecided
        for stream in self._journal.streams(source.streams.values()):
            if stream.id not in undecided:
                self._relay(stream, source, workers)
        self.look_at_streams(source)
        held = self._write_books(source)
        self._journal.write(settled, held)
        # In Redis a cursor is not ahead of what the disk says of the same stream: it
        # would be behind itself after a crash, with counts that meet no more.
        held = held | self._journal.unwritten
        moved: dict[str, dict[str, Progress]] = {}
        for name, field in self._moved:
            stream_ = source.streams.get(name)
            if (name, field) in held:
                continue
            if stream_ is not None and field in stream_.progress:
                moved.setdefault(name, {})[field] = stream_.progress[field]
        trims: dict[str, int] = {}
        waiting = {name for name, _ in held}
        for stream in source.streams.values():
            if stream.id in waiting:
                continue
            passed = settled(stream)
            if passed > stream.trimmed:
                trims[stream.id] = passed
        # What came into our hands settled has been looked at, and is in the books.
        if moved or trims or source.settled - waiting:
            known = set(source.streams)
            source.settle(moved, trims, waiting)
            _drop_streams(
                known - set(source.streams) - set(self._journal.parts), workers
            )
        waiting = {*source.streams, *self.books.undecided}
        _drop_streams(self._journal.prune(waiting), workers)
        self._moved &= held
        # One that was read again in the meantime goes through the books once more.
        self._due = any(stream.raised for stream in source.streams.values())
        self._count(source)

    def insist(self) -> None:
        """Try a disk that has refused at once: it is the last time."""
        self._disk_at = 0.0
        self._journal.insist()
        self._due = True

    def bring_to_book(self, source: Source) -> None:
        """Write what is not in the ledger yet; StateError while the disk refuses."""
        self.look_at_streams(source)
        self.books.write(source)

    def _count(self, source: Source) -> None:
        """Have the books' numbers for people, now and then."""
        now = self._clock.monotonic()
        if now < self._count_at or self.error:
            return
        self._count_at = now + COUNT_SECONDS
        self.numbers = audit.numbers(self.books, source)

    def _write_books(self, source: Source) -> set[tuple[str, str]]:
        """Write the ledger; return whose cursors wait because the disk refuses."""
        try:
            self.books.write(source)
        except StateError as exc:
            self._disk_at = self._clock.monotonic() + DISK_PAUSE
            if self.error != str(exc):
                self.error = str(exc)
                logger.error(
                    "the ledger cannot be written, cursors and claims wait",
                    extra={"prefix": "main", "reason": str(exc)},
                )
            return self.books.unwritten
        if self.error:
            logger.info("the ledger is written again", extra={"prefix": "main"})
        self.error = ""
        return set()

    def _relay(
        self, stream: Stream, source: Source, workers: Sequence[WorkerHandle]
    ) -> None:
        """When a pump's number of workers has changed, its new lanes go on.

        They begin where the old lanes leave nothing unsettled; what one of those had
        done beyond that is repeated.
        """
        for worker in workers:
            lane = worker.lane
            if lane.field in stream.progress:
                continue
            old = [
                other
                for field in stream.progress
                if (other := _lane_of(field)).pump == lane.pump
                and other.lanes != lane.lanes
            ]
            if old:
                position = min(other.settled(stream) for other in old)
                rest = source.streams.get(stream.id)
                if stream.disk and position >= stream.end and rest is not None:
                    # They are in Redis, all of them: the part has that place too.
                    position = min(other.settled(rest) for other in old)
                stream.progress[lane.field] = Progress(position=position)
                self._mark(stream, lane.field)


def _drop_streams(names: Iterable[str], workers: Sequence[WorkerHandle]) -> None:
    for name in names:
        for worker in workers:
            worker.lane.drop_stream(name)


def _lane_of(field: str) -> Lane:
    """Return the lane that a field of the stream's hash belongs to."""
    return Lane(*cursors.parts(field))


def outdated(field: str, workers: Sequence[WorkerHandle]) -> bool:
    """Say whether a field is that of an old number of workers of a present pump."""
    lane = _lane_of(field)
    return any(
        worker.lane.pump == lane.pump and worker.lane.lanes != lane.lanes
        for worker in workers
    )
