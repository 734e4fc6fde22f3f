"""Workers as processes: start, watch, replace with growing pauses, stop."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import deque
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from tyk_pump import backoff, channel
from tyk_pump.channel import Channel
from tyk_pump.clock import Clock
from tyk_pump.config.root import PumpConfig, RootOptions
from tyk_pump.coordinator.lanes import Lane, Sent
from tyk_pump.coordinator.snapshot import WRITE_BUCKETS
from tyk_pump.worker import outcome, process

logger = logging.getLogger(__name__)

MAX_FRAMES = 8
LONGEST_PAUSE = 60.0
DUMP_SECONDS = 0.5
"""From SIGABRT (stack dump) to SIGKILL."""
HISTORY = 60
TOLD_TO = "told to"
JOIN_SECONDS = 1.0
START_SECONDS = 30.0
READ_PAUSE = 1.0
"""Seconds until the disk is asked again for what it could not give."""
"""What a new process may take until its first beat: on a busy machine many at once
read their code and their drivers."""
"""A killed process is gone at once, except when the kernel holds it (a dead NFS)."""

_context: Any = multiprocessing.get_context("spawn")


class Counts(msgspec.Struct):
    """What one worker has done since the start of this process."""

    delivered: int = 0
    filtered: int = 0
    dead: int = 0
    retried: int = 0
    restarts: int = 0
    write_seconds: float = 0.0
    write_buckets: list[int] = msgspec.field(
        default_factory=lambda: [0] * (len(WRITE_BUCKETS) + 1)
    )

    def add(self, done: outcome.Outcome) -> None:
        """Count one settled frame."""
        self.delivered += done.delivered
        self.filtered += done.filtered
        self.dead += len(done.dead)
        self.write_seconds += done.seconds
        bucket = 0
        while bucket < len(WRITE_BUCKETS) and done.seconds > WRITE_BUCKETS[bucket]:
            bucket += 1
        self.write_buckets[bucket] += 1


class WorkerHandle:
    """One worker of one pump, through all its incarnations."""

    def __init__(
        self,
        config: PumpConfig,
        root: RootOptions,
        lane: Lane,
        *,
        state_dir: str,
        log_format: str,
        log_level: str,
        clock: Clock,
    ) -> None:
        self.config = config
        self.lane = lane
        self.counts = Counts()
        self.state = "starting"
        self.last_error = ""
        self.history = [0] * HISTORY
        self.unsettled: deque[outcome.Outcome] = deque()
        """Answers whose dead letters the disk has refused so far."""
        self.read_error = ""
        """Why the disk does not give what it keeps for this worker."""
        self.read_at = 0.0
        """When the disk is asked again."""
        self.channel: Channel | None = None
        self.process: BaseProcess | None = None
        self._root = root
        self._state_dir = state_dir
        self._log = (log_format, log_level)
        self._clock = clock
        self._killed = ""  # why we are killing it, empty when we are not
        self._killed_writing = False
        self._kill_at = 0.0
        self._failed: outcome.Failed | None = None
        self._failures = 0  # in a row, for the pauses
        self._trouble_since = 0.0
        self._began = 0.0
        self._stopping = False
        self.start_at: float | None = clock.monotonic()
        self.lease_end = 0.0
        if config.fault:
            self._refuse(config.fault)

    # Life

    def start(self) -> None:
        """Start a new incarnation with a new channel."""
        self.start_at = None
        self._killed, self._failed, self._stopping = "", None, False
        self.lane.restarted()
        made = Channel(_context, MAX_FRAMES)
        slot = made.slot
        now = self._clock.monotonic()
        slot[channel.BEAT] = slot[channel.SINCE] = self._began = now
        slot[channel.STAGE] = channel.IDLE
        slot[channel.LEASE] = self.lease_end
        slot[channel.TROUBLE] = self._trouble_since
        log_format, log_level = self._log
        assignment = process.Assignment(
            pump=self.config,
            root=self._root,
            lane=self.lane.index,
            parent=os.getpid(),
            state_dir=self._state_dir,
            log_format=log_format,
            log_level=log_level,
            again=self.counts.restarts > 0 or self.lane.index > 0,
        )
        child = _context.Process(
            target=process.main,
            args=(assignment, made.worker_end()),
            name=f"tyk-pump {self.lane.field}",
            daemon=True,
        )
        self.state = "starting" if not self.counts.restarts else "restarting"
        try:
            child.start()
        except OSError:
            made.close()
            raise
        made.started()
        self.process, self.channel = child, made

    def set_lease(self, end: float) -> None:
        """Tell the worker until when it may begin frames."""
        self.lease_end = end
        if self.channel is not None:
            self.channel.slot[channel.LEASE] = end

    def due(self) -> bool:
        """Say whether it is time to start the next incarnation."""
        return (
            self.process is None
            and self.start_at is not None
            and self._clock.monotonic() >= self.start_at
        )

    def ready(self) -> bool:
        """Say whether it takes frames."""
        return (
            self.process is not None
            and not self._stopping
            and not self._killed
            and self.state in ("running", "retrying", "paused")
        )

    def unread(self, reason: str) -> None:
        """The disk does not give the next frame; it is asked again after a while."""
        if self.read_error != reason:
            logger.error(
                "records cannot be read from the disk",
                extra={"pump": self.lane.field, "reason": reason},
            )
        self.read_error = self.last_error = reason
        self.read_at = self._clock.monotonic() + READ_PAUSE

    def has_room(self, queue_bytes: int) -> bool:
        """Say whether one more frame may be offered."""
        if not self.ready():
            return False
        if self.unsettled:
            return False
        if self.lane.suspect is not None:
            # One frame at a time: then the one in hand is the guilty one.
            return not self.lane.sent
        if len(self.lane.sent) >= MAX_FRAMES:
            return False
        return self.lane.bytes_sent < queue_bytes

    def note(self, message: outcome.Message) -> None:
        """Take in what the worker says of itself."""
        match message:
            case outcome.Ready():
                self.state = "running"
                logger.info(
                    f"Init Pump: {self.config.name}",
                    extra={"prefix": "main", "pump": self.lane.field},
                )
            case outcome.Failed():
                self._failed = message
            case outcome.Outcome():
                self.counts.add(message)
                self._failures = 0
                self._trouble_since = 0.0
                if message.delivered and self.state in ("retrying", "paused"):
                    # After records were given up nobody says "recovered".
                    self.state = "running"
                self.history[-1] += message.end - message.first
            case outcome.Trouble():
                self.counts.retried += 1
                self.state = "paused" if message.paused else "retrying"
                self.last_error = message.reason
            case outcome.Recovered():
                self.state = "running"
                logger.info(
                    "back end takes records again",
                    extra={"pump": self.config.name, "attempt": message.attempts},
                )
            case outcome.Stopped():
                self.state = "stopped"

    def stop(self) -> None:
        """Ask it to finish the write in hand and leave."""
        self._stopping = True
        self.start_at = None
        if self.channel is not None:
            self.channel.slot[channel.STOP] = 1

    def kill(self) -> None:
        """End it now, without blame for any record."""
        if self.process is not None:
            self._killed = self._killed or TOLD_TO
            self.process.kill()

    def drop(self) -> None:
        """End it now and do not listen to it any more; it is offered all again."""
        if self.process is not None:
            self.process.kill()
            self.process.join(JOIN_SECONDS)
            if self.process.exitcode is not None:
                self.process.close()
        if self.channel is not None:
            self.channel.close()
        self.process = self.channel = None
        if self._stopping:
            self.state, self.start_at = "stopped", None
        elif self.state != "failed" or self.start_at is not None:
            # What only the operator can mend is not tried again.
            self.state, self.start_at = "restarting", self._clock.monotonic()
        self.lane.restarted()
        self.lane.suspect = None
        self.unsettled.clear()

    def watch(self) -> None:
        """Replace it when it is silent, stuck, or past the time-out of its pump."""
        if self.process is None or self.channel is None:
            return
        now = self._clock.monotonic()
        if self._killed:
            if self._kill_at and now >= self._kill_at:
                self._kill_at = 0.0
                self.process.kill()
            return
        slot = self.channel.slot
        stage, age = slot[channel.STAGE], now - slot[channel.SINCE]
        writing = stage == channel.WRITE
        if writing and 0 < self.config.timeout < age:
            if not slot[channel.TROUBLE]:
                slot[channel.TROUBLE] = slot[channel.SINCE]
            self._shoot(f"write abandoned after {age:.1f} s (timeout)", True)
            self.counts.retried += 1
        elif stage == channel.WORK and age > self._root.stuck_timeout:
            self._shoot(f"stuck for {age:.0f} s while decoding or selecting", False)
        elif now - slot[channel.BEAT] > self._patience(slot[channel.BEAT]):
            self._shoot("gives no sign of life", writing or stage != channel.WORK)

    def _patience(self, beat: float) -> float:
        """Return how long it may be silent after its last beat, if it has had one."""
        seconds = self._root.beat_timeout
        return max(seconds, START_SECONDS) if beat == self._began else seconds

    def reap(self, *, blame: bool = True) -> Sent | None:
        """Handle its end; return the frame of a single record that is poison.

        Without `blame` what it had in hand was none of the lane's frames.
        """
        process_, ended = self.process, self.channel
        assert process_ is not None and ended is not None
        process_.join(0)
        code = process_.exitcode
        in_hand = int(ended.slot[channel.FRAME])
        self._trouble_since = ended.slot[channel.TROUBLE]
        ended.close()
        process_.close()
        self.process = self.channel = None
        poison: Sent | None = None
        name = self.config.name
        if self._stopping:
            self.state = "stopped"
        elif self._failed is not None:
            if self._failed.permanent:
                self._refuse(self._failed.reason)
                return None
            self._again("failed", self._failed.reason)
        elif self._killed and self._killed_writing:
            self._again("retrying", self._killed, ceiling=self.config.retry.max)
        elif self._killed == TOLD_TO:
            self.state = "stopped"
        else:
            reason = self._killed or _exit_text(code)
            if in_hand >= 0 and blame:
                poison = self.lane.died(in_hand)
            self._again("restarting", reason)
            if self.lane.splitting:
                self.start_at = self._clock.monotonic()
            logger.error("worker died", extra={"pump": name, "reason": reason})
        if not poison:
            self.lane.restarted()
        return poison

    def died_of_its_frame(self) -> bool:
        """Say whether a worker that has ended can only have done so for what it had.

        To be asked before `reap`: not one that was told to leave, could not open its
        pump, or waited too long for a back end.
        """
        told = self._stopping or self._killed == TOLD_TO
        waited = bool(self._killed) and self._killed_writing
        return not told and self._failed is None and not waited

    def tick(self) -> None:
        """Move the history on; called once a second."""
        self.history = [*self.history[1:], 0]

    # Inner parts

    def _shoot(self, reason: str, writing: bool) -> None:
        assert self.process is not None and self.process.pid is not None
        if self.process.exitcode is not None:
            return  # it is dead already, and its number may be another's
        self._killed, self._killed_writing = reason, writing
        self.last_error = reason
        logger.error(
            "worker is replaced", extra={"pump": self.config.name, "reason": reason}
        )
        os.kill(self.process.pid, signal.SIGABRT)
        self._kill_at = self._clock.monotonic() + DUMP_SECONDS

    def _again(self, state: str, reason: str, ceiling: float = LONGEST_PAUSE) -> None:
        self._failures += 1
        self.counts.restarts += 1
        self.state = state
        self.last_error = reason
        pause = backoff.delay(self._failures, initial=0.5, ceiling=ceiling)
        self.start_at = self._clock.monotonic() + pause
        logger.warning(
            "worker starts again",
            extra={"pump": self.config.name, "reason": reason, "seconds": pause},
        )

    def _refuse(self, reason: str) -> None:
        self.state = "failed"
        self.last_error = reason
        self.start_at = None
        logger.error(
            "pump cannot start, its records wait",
            extra={"pump": self.config.name, "reason": reason},
        )


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"died by {signal.Signals(-code).name}"
        except ValueError:
            return f"died by signal {-code}"
    return f"died with exit code {code}"
