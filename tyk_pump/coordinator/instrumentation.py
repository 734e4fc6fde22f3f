"""What the reference says of itself over StatsD (TYK_INSTRUMENTATION=1), said by us."""

from __future__ import annotations

import gc
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tyk_pump import cursors
from tyk_pump.config.load import Config
from tyk_pump.config.root import split_address
from tyk_pump.coordinator.statsd_sink import Sink
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.pumps import DISPLAY_NAMES
from tyk_pump.source.claims import Stream
from tyk_pump.transport.datagram import Datagrams
from tyk_pump.worker.outcome import UNDECODABLE, Outcome

logger = logging.getLogger(__name__)

PURGE: Final = "PumpRecordsPurge"
GC: Final = "GCActivity"
QUANTILES: Final = ("min", "25", "50", "75", "max")
_PAUSES: Final = 256


class Instrumentation:
    """Turns what the coordinator sees into the reference's events.

    The uptime pump is left out, as it is there.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._counted = _Counted()
        self._began: float | None = None
        self._targets: dict[str, int] = {}

    @property
    def errors(self) -> int:
        """How much StatsD has not taken."""
        return self._sink.errors

    def settled(self, worker: WorkerHandle, done: Outcome) -> None:
        """A worker has settled a frame: count its records once, and time the write."""
        if worker.config.name == cursors.UPTIME:
            return
        number = 0
        for first, end in self._counted.new(done.stream, done.first, done.end):
            number += end - first
            number -= sum(
                first <= one.position < end and one.reason.startswith(UNDECODABLE)
                for one in done.dead
            )
        if number:
            self._sink.count(PURGE, "record", number)
        if done.attempts:
            name = DISPLAY_NAMES.get(worker.config.type, worker.config.type)
            self._sink.timing(PURGE, f"purge_time_{name}", done.seconds)

    def purged(self, began: float, streams: Sequence[Stream]) -> None:
        """A round over the lists is over; what it found is with the pumps now."""
        streams = [stream for stream in streams if not stream.uptime]
        self._counted.forget(streams)
        if self._began is None:
            self._began = began
            self._targets = {stream.id: stream.end for stream in streams}

    def look(
        self, now: float, streams: Sequence[Stream], workers: Sequence[WorkerHandle]
    ) -> None:
        """See whether every pump has settled what the round found.

        Until then no other round is timed: there the next one would not have begun.
        """
        if self._began is None:
            return
        for stream in streams:
            target = min(self._targets.get(stream.id, 0), stream.end)
            for worker in workers:
                waits = worker.state != "failed" and not stream.uptime
                if waits and worker.lane.settled(stream) < target:
                    return
        self._sink.timing(PURGE, "purge_time_all", now - self._began)
        self._began = None

    def close(self) -> None:
        """Send what is left."""
        self._sink.close()
        _pauses.stop()


class _Counted:
    """Up to where the records of each block are counted, whichever pump was first.

    Lanes share out blocks, and each settles a block in order.
    """

    def __init__(self) -> None:
        self._marks: dict[str, dict[int, int]] = {}

    def new(self, stream: str, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield what of these positions nobody has counted, and take it as counted."""
        marks = self._marks.setdefault(stream, {})
        while first < end:
            block = first // cursors.BLOCK
            stop = min(end, (block + 1) * cursors.BLOCK)
            mark = marks.get(block, first)
            if stop > mark:
                marks[block] = stop
                yield max(first, mark), stop
            first = stop

    def forget(self, streams: Sequence[Stream]) -> None:
        """Drop what every pump has passed."""
        trimmed = {stream.id: stream.trimmed // cursors.BLOCK for stream in streams}
        self._marks = {
            name: {b: mark for b, mark in marks.items() if b >= trimmed[name]}
            for name, marks in self._marks.items()
            if name in trimmed
        }


class _Pauses:
    """How long the last collections of garbage have held up this process."""

    def __init__(self) -> None:
        self._last: deque[int] = deque(maxlen=_PAUSES)
        self._began = 0

    def start(self) -> None:
        """Listen to the collector."""
        if self._heard not in gc.callbacks:
            gc.callbacks.append(self._heard)

    def stop(self) -> None:
        """Listen no more."""
        if self._heard in gc.callbacks:
            gc.callbacks.remove(self._heard)

    def look(self, sink: Sink) -> None:
        """Put down the quantiles, in nanoseconds."""
        pauses = sorted(self._last.copy()) or [0]
        for number, name in enumerate(QUANTILES):
            at = (len(pauses) - 1) * number // (len(QUANTILES) - 1)
            sink.gauge(GC, f"pauses_quantile_{name}", float(pauses[at]))

    def _heard(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter_ns()
        else:
            self._last.append(time.perf_counter_ns() - self._began)


_pauses = _Pauses()


def reach(config: Config) -> str:
    """Resolve the server's name, and say in one line what was found."""
    place = config.root.statsd_connection_string
    datagrams = Datagrams(*split_address(place, 0))
    datagrams.open()
    datagrams.close()
    return f"{place} over udp, which nobody confirms"


def start(config: Config) -> Instrumentation | None:
    """Return what reports to StatsD, where the operator wants it."""
    root = config.root
    if not config.instrumentation or not root.statsd_connection_string:
        return None
    host, port = split_address(root.statsd_connection_string, 0)
    sink = Sink(host, port, root.statsd_prefix, _pauses.look)
    _pauses.start()
    logger.info(
        f"Sending stats to: {root.statsd_connection_string} "
        f"with prefix: {root.statsd_prefix}",
        extra={"prefix": "main"},
    )
    return Instrumentation(sink)
