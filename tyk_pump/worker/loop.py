"""The worker's loop: take, decode, select, write, answer; retry is here only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from tyk_pump import backoff, channel, cursors
from tyk_pump.channel import WorkerEnd
from tyk_pump.clock import Clock
from tyk_pump.config.root import PumpConfig, RootOptions
from tyk_pump.errors import CodecError, RejectedRecords, TransientError
from tyk_pump.log import masked
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record import codec as codecs
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.worker import outcome, select
from tyk_pump.worker.runs import Runs

logger = logging.getLogger(__name__)

PAUSE_AFTER_BATCHES = 3
PAUSE_AFTER_RECORDS = 10
PAUSE_BEYOND_RECORDS = 100
"""So many wholly refused batches in a row, with so many records in all, are taken
for a fault of ours (a wrong mapping, say) and not of the records; so is any number of
batches with more than PAUSE_BEYOND_RECORDS."""
LONGEST_RETRY_AFTER = 300.0
POLL = 0.05


class _Stop(Exception):
    """We were told to leave while a frame was in hand; it stays unanswered."""


class _Delivery(msgspec.Struct):
    """What became of one batch."""

    delivered: int = 0
    left_out: int = 0
    """Settled by the pump without being sent; see `Batch.left_out`."""
    rejected: dict[int, str] = msgspec.field(default_factory=dict)
    attempts: int = 0
    seconds: float = 0.0


class Worker:
    """Takes frames from the channel until told to stop."""

    def __init__(
        self,
        config: PumpConfig,
        root: RootOptions,
        pump: Pump,
        end: WorkerEnd,
        *,
        lane: int,
        clock: Clock,
        parent_alive: Callable[[], bool],
    ) -> None:
        self._config = config
        self._pump = pump
        self._end = end
        self._slot = end.slot
        self._lane = lane
        self._cursor = cursors.name(config.name, lane, config.workers)
        self._clock = clock
        self._parent_alive = parent_alive
        self._selector = select.compile(config, root, pump.fields)
        self._decoders: dict[str, Callable[[bytes], Any]] = {}
        self._runs = Runs(lane, config.workers)
        self._refused_batches = 0
        self._refused_records = 0

    def run(self) -> None:
        """Settle frames until told to stop or the parent is gone."""
        while not self._slot[channel.STOP] and self._parent_alive():
            data = self._end.take(0.2)
            if data is None:
                continue
            try:
                self._settle(data)
            except _Stop:
                self._lay_down()
                return
            except BaseException:
                # The slot goes on naming the frame: it is to blame for our end. And
                # should a driver hang on our way out, we count as stuck.
                self._stage(channel.WORK)
                raise
            self._lay_down()

    def _lay_down(self) -> None:
        """Show that no frame is in hand."""
        self._slot[channel.FRAME] = channel.NO_FRAME
        self._stage(channel.IDLE)

    def _settle(self, data: bytes) -> None:
        stream, list_name, codec, first, ids, raws = channel.decode_frame(data)
        self._slot[channel.FRAME] = first
        self._wait_for_lease()
        self._stage(channel.WORK)
        batch, sources, dead = self._decode(stream, list_name, codec, first, ids, raws)
        batch.start = self._runs.begin(stream, first, first + len(raws))
        filtered = len(raws) - len(batch) - len(dead)
        delivery = self._deliver(batch) if len(batch) else _Delivery()
        for index, reason in delivery.rejected.items():
            position = batch.positions[index]
            identity = batch.record_id(index)
            raw = raws[sources[index]]
            dead.append(outcome.DeadRecord(position, identity, masked(reason), raw))
        self._end.answer(
            outcome.Outcome(
                stream=stream,
                first=first,
                end=first + len(raws),
                delivered=delivery.delivered,
                filtered=filtered + delivery.left_out,
                dead=dead,
                seconds=delivery.seconds,
                attempts=delivery.attempts,
                list=list_name,
                codec=codec,
            )
        )

    def _decode(
        self,
        stream: str,
        list_name: str,
        codec: str,
        first: int,
        ids: list[str] | None,
        raws: list[bytes],
    ) -> tuple[Batch, list[int], list[outcome.DeadRecord]]:
        """Return the selected records, where each stood in the frame, and the rest."""
        decode = self._decoders.get(codec)
        if decode is None:
            decode = codecs.reader(codec, self._selector.needs)
            self._decoders[codec] = decode
        wanted = self._selector.select
        records: list[AnalyticsRecord] = []
        sources: list[int] = []
        dead: list[outcome.DeadRecord] = []
        for index, raw in enumerate(raws):
            try:
                record = decode(raw)
            except CodecError as exc:
                position = first + index
                identity = ids[index] if ids else f"{stream}:{position}"
                reason = f"{outcome.UNDECODABLE}{exc}"
                dead.append(outcome.DeadRecord(position, identity, reason, raw))
                continue
            if wanted is None or wanted(record):
                records.append(record)
                sources.append(index)
        batch = Batch(
            stream=stream,
            lane=self._lane,
            list=list_name,
            positions=[first + index for index in sources],
            records=records,
            ids=[ids[index] for index in sources] if ids else None,
            cursor=self._cursor,
        )
        return batch, sources, dead

    def _deliver(self, batch: Batch) -> _Delivery:
        """Write until each record has arrived or is refused for good."""
        done = _Delivery()
        pending = list(range(len(batch)))
        if reason := self._given_up():
            done.rejected = dict.fromkeys(pending, reason)
            self._slot[channel.TROUBLE] = 0.0
            return done
        while pending:
            whole = len(pending) == len(batch)
            part = batch if whole else batch.part(pending)
            part.left_out = 0
            done.attempts += 1
            began = self._clock.monotonic()
            self._stage(channel.WRITE)
            try:
                self._pump.write(part)
            except (TransientError, RejectedRecords) as exc:
                failure: TransientError | RejectedRecords | None = exc
            else:
                failure = None
            self._stage(channel.WORK)
            done.seconds += self._clock.monotonic() - began
            done.left_out += part.left_out
            if failure is None:
                done.delivered += len(pending) - part.left_out
                self._refused_batches = self._refused_records = 0
                break
            again, rejected = _verdict(failure, len(part))
            if whole and len(rejected) == len(part) and self._too_many_refused(part):
                self._pause(failure, done.attempts)
                if reason := self._given_up():
                    done.rejected.update(dict.fromkeys(pending, reason))
                    break
                continue
            if len(rejected) < len(part) and not again:
                self._refused_batches = self._refused_records = 0
            settled = len(part) - len(rejected) - len(again)
            done.delivered += settled - part.left_out
            for index, why in rejected.items():
                done.rejected[pending[index]] = why
            pending = [pending[index] for index in again]
            if not pending:
                break
            self._mark_trouble()
            if reason := self._given_up(failure.reason):
                done.rejected.update(dict.fromkeys(pending, reason))
                break
            self._back_off(failure, done.attempts)
        if self._slot[channel.TROUBLE]:
            self._slot[channel.TROUBLE] = 0.0
            if done.delivered or not done.rejected:
                self._end.answer(outcome.Recovered(done.attempts))
        return done

    def _too_many_refused(self, part: Batch) -> bool:
        """Say whether a wholly refused batch is one too many; count it."""
        few = self._refused_batches < PAUSE_AFTER_BATCHES or (
            self._refused_records < PAUSE_AFTER_RECORDS
        )
        if few and self._refused_records + len(part) <= PAUSE_BEYOND_RECORDS:
            self._refused_batches += 1
            self._refused_records += len(part)
            return False
        return True

    def _mark_trouble(self) -> None:
        if not self._slot[channel.TROUBLE]:
            self._slot[channel.TROUBLE] = self._clock.monotonic()

    def _given_up(self, reason: str = "the write did not return in time") -> str:
        """Return why a batch goes to the dead letters now, or nothing."""
        since = self._slot[channel.TROUBLE]
        limit = self._config.retry.max_elapsed
        if not since or not limit:
            return ""
        elapsed = self._clock.monotonic() - since
        return f"given up after {elapsed:.0f} s: {reason}" if elapsed > limit else ""

    def _pause(self, failure: TransientError | RejectedRecords, attempt: int) -> None:
        """The back end refuses everything: keep the batch, shout, probe with it."""
        self._mark_trouble()
        reason = next(iter(failure.rejected.values()), failure.reason)
        if attempt == 1:
            logger.error(
                "back end refuses every record, pump pauses and probes",
                extra={"pump": self._config.name, "reason": reason},
            )
        self._end.answer(outcome.Trouble(masked(reason), attempt, True))
        self._wait(self._pause_seconds(attempt))

    def _back_off(
        self, failure: TransientError | RejectedRecords, attempt: int
    ) -> None:
        if attempt == 1:
            logger.warning(
                "write failed, trying again",
                extra={"pump": self._config.name, "reason": failure.reason},
            )
        trouble = outcome.Trouble(masked(failure.reason), attempt, False)
        self._end.answer(trouble)
        seconds = self._pause_seconds(attempt)
        if failure.retry_after is not None:
            seconds = max(seconds, min(failure.retry_after, LONGEST_RETRY_AFTER))
        self._wait(seconds)

    def _pause_seconds(self, attempt: int) -> float:
        retry = self._config.retry
        return backoff.delay(
            attempt,
            initial=retry.initial,
            ceiling=retry.max,
            multiplier=retry.multiplier,
        )

    def _wait(self, seconds: float) -> None:
        """Sleep, but leave at once when told to stop; then ask for the lease anew."""
        self._stage(channel.WAIT)
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            self._leave_if_told()
            self._clock.sleep(min(left, POLL))
        self._wait_for_lease()
        self._stage(channel.WORK)

    def _wait_for_lease(self) -> None:
        """Begin nothing after the end of the lease: someone else may own it then."""
        while True:
            self._leave_if_told()
            if self._slot[channel.LEASE] > self._clock.monotonic():
                return
            self._stage(channel.WAIT)
            self._clock.sleep(POLL)

    def _leave_if_told(self) -> None:
        if self._slot[channel.STOP] or not self._parent_alive():
            raise _Stop

    def _stage(self, stage: float) -> None:
        self._slot[channel.SINCE] = self._clock.monotonic()
        self._slot[channel.STAGE] = stage


def _verdict(
    failure: TransientError | RejectedRecords, count: int
) -> tuple[list[int], dict[int, str]]:
    """Return the indexes to send again and the ones refused, none in both."""
    rejected = {i: why for i, why in failure.rejected.items() if 0 <= i < count}
    if isinstance(failure, RejectedRecords) and not rejected:
        rejected = dict.fromkeys(range(count), failure.reason)
    if isinstance(failure, RejectedRecords):
        return [], rejected
    named = range(count) if failure.pending is None else failure.pending
    again = sorted({i for i in named if 0 <= i < count and i not in rejected})
    return again, rejected
