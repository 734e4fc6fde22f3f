"""The coordinator: claim, read windows, offer frames, settle, trim; then sleep."""

from __future__ import annotations

import logging
import os
import queue
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import connection
from typing import Any

import msgspec

import tyk_pump
from tyk_pump import backoff, channel, log
from tyk_pump.admin.control import ControlServer
from tyk_pump.admin.http import AdminServer
from tyk_pump.clock import Clock
from tyk_pump.config.load import Config, load
from tyk_pump.config.root import PumpConfig, RootOptions
from tyk_pump.coordinator import lanes, notify
from tyk_pump.coordinator.demo import note_version
from tyk_pump.coordinator.demo_options import DemoOptions
from tyk_pump.coordinator.lanes import Lane, Sent
from tyk_pump.coordinator.signals import Signals
from tyk_pump.coordinator.snapshot import PumpSnapshot, Snapshot
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.errors import ConfigError, LeaseLost, SourceError, StateError
from tyk_pump.source.claims import Progress, Source, Stream
from tyk_pump.source.redis import Link
from tyk_pump.state.file import ReplayWindow, StateFile
from tyk_pump.state.folder import StateFolder, locate
from tyk_pump.ulid import ulid
from tyk_pump.worker import outcome

logger = logging.getLogger(__name__)

FIRST_WINDOW = 64
CACHED_FRAMES = 8
PASSES = 8
"""Frames offered to each worker before the answers are looked at again."""
DRAIN_SHARE = 0.6
"""Share of shutdown_timeout in which frames are still offered."""


class Frame(msgspec.Struct):
    """One encoded window, shared by all workers that are in step."""

    first: int
    end: int
    data: bytes


class Coordinator:
    """The parent process of one instance."""

    def __init__(
        self,
        config: Config,
        folder: StateFolder,
        state: StateFile,
        *,
        reload: Callable[[], Config],
        environ: dict[str, str],
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.root = config.root
        self.signals = Signals()
        self.clock = clock or Clock()
        self._folder = folder
        self._state = state
        self._reload = reload
        self._environ = environ
        self._started = self.clock.now()
        self._workers: list[WorkerHandle] = []
        self._link: Link | None = None
        self._source: Source | None = None
        self._source_ready = False
        self._source_error = "not connected yet"
        self._source_attempt = 0
        self._source_next = 0.0
        self._source_errors = 0
        self._dirty: set[tuple[str, str]] = set()
        self._unsettled: deque[tuple[WorkerHandle, outcome.Outcome]] = deque()
        self._unsettled_next = 0.0
        self._cache: OrderedDict[tuple[str, int], Frame] = OrderedDict()
        self._window = FIRST_WINDOW
        self._largest = 2048
        self._frames_offered = 0
        self._lost = 0
        self._lengths: dict[str, int] = {}
        self._claimed = 0
        self._purges = 0
        self._unknown: dict[str, float] = {}
        self._requests: queue.SimpleQueue[
            tuple[str, dict[str, Any], Future[Any]]
        ] = queue.SimpleQueue()
        self._replays: dict[str, ReplayWindow] = {}
        self._replay_next = 0.0
        self._stopping = False
        self._announced = False
        self.snapshot = self._take_snapshot()

    # The whole run

    def run(self) -> int:
        """Run until told to stop; return the exit code."""
        root = self.root
        self.signals.install()
        admin = AdminServer(lambda: self.snapshot, root)
        admin.start()
        control = ControlServer(self._folder, self.call)
        control.start()
        try:
            self._make_workers(self.config.pumps)
            if not root.dont_purge_uptime_data:
                logger.warning(
                    "uptime records are left in their list: "
                    "this version has no uptime pump",
                    extra={"prefix": "main"},
                )
            logger.info(
                f"Starting purge loop @{root.purge_delay:g}, "
                f"chunk size {root.purge_chunk}",
                extra={"prefix": "main"},
            )
            self._loop()
            return self._shut_down()
        finally:
            for worker in self._workers:
                worker.kill()
            control.close()
            admin.close()
            if self._link is not None:
                self._link.close()

    def call(self, command: str, arguments: dict[str, Any]) -> Any:
        """Answer a command from another thread; the loop does the work."""
        if command == "status":
            pass  # also done in the loop: it is never older than the moment
        future: Future[Any] = Future()
        self._requests.put((command, arguments, future))
        self.signals.wake()
        return future.result(timeout=30)

    def _loop(self) -> None:
        next_purge = next_tick = self.clock.monotonic()
        while not self.signals.stop:
            now = self.clock.monotonic()
            if self.signals.reload:
                self.signals.reload = 0
                self._reload_configuration()
            if now >= next_tick:
                next_tick = now + 1.0
                self._tick()
            if now >= next_purge:
                self._purge()
                next_purge = now + self.root.purge_delay
            elif self._source_ready and self._lease_is_short():
                self._guarded(self._renew)
            busy = self._turn()
            timeout = 0.0 if busy else min(next_tick, next_purge) - now
            self._listen(max(0.0, min(timeout, 0.5)))

    def _turn(self) -> bool:
        """Start what is due, offer, settle; say whether there is more to do at once."""
        now = self.clock.monotonic()
        for worker in self._workers:
            worker.watch()
            if worker.due():
                self._start(worker)
        self._retry_unsettled()
        busy = self._offer() if self._source_usable() else False
        if now >= self._replay_next:
            self._replay_next = now + 1.0
            self._offer_replays()
        if self._dirty and self._source_usable():
            self._guarded(self._settle)
        return busy

    def _listen(self, seconds: float) -> None:
        """Wait for answers, deaths, signals and requests, and handle them."""
        waiting: dict[Any, WorkerHandle] = {}
        for worker in self._workers:
            if worker.process is not None and worker.channel is not None:
                waiting[worker.channel.answers] = worker
                waiting[worker.process.sentinel] = worker
        ready = connection.wait([*waiting, self.signals.fd], seconds)
        if self.signals.fd in ready:
            self.signals.drain()
            self._answer_requests()
        seen: set[int] = set()
        for item in ready:
            found = waiting.get(item)
            if found is None or id(found) in seen:
                continue
            seen.add(id(found))
            self._hear(found)

    def _hear(self, worker: WorkerHandle) -> None:
        process, channel_ = worker.process, worker.channel
        if process is None or channel_ is None:
            return
        dead = not process.is_alive()
        for message in channel_.receive():
            worker.note(message)
            if isinstance(message, outcome.Ready):
                logger.info(
                    f"Init Pump: {worker.config.name}",
                    extra={"prefix": "main", "pump": worker.lane.field},
                )
            if isinstance(message, outcome.Outcome):
                self._accept(worker, message)
        if dead:
            self._end_replay(worker)
            poison = worker.reap()
            if poison is not None:
                self._bury(worker, poison)

    # Workers

    def _make_workers(self, pumps: list[PumpConfig]) -> None:
        for config in pumps:
            for index in range(config.workers):
                self._workers.append(self._worker(config, index))

    def _worker(self, config: PumpConfig, index: int) -> WorkerHandle:
        return WorkerHandle(
            config,
            self.root,
            Lane(config.name, index, config.workers),
            state_dir=str(self._folder.path),
            log_format=log.chosen_format(self.root, self._environ),
            log_level=log.chosen_level(self.root, self._environ),
            clock=self.clock,
        )

    def _start(self, worker: WorkerHandle) -> None:
        worker.lease_end = self._lease_end()
        try:
            worker.start()
        except OSError as exc:
            worker.last_error = f"cannot start a process: {exc}"
            worker.start_at = self.clock.monotonic() + 5.0
            logger.error(
                "worker cannot be started",
                extra={"pump": worker.config.name, "reason": str(exc)},
            )

    def _fields(self) -> list[str]:
        return [worker.lane.field for worker in self._workers]

    # Redis: claims and the lease

    def _source_usable(self) -> bool:
        return self._source_ready and self.clock.monotonic() >= self._source_next

    def _lease_end(self) -> float:
        return self._source.lease_end if self._source is not None else 0.0

    def _lease_is_short(self) -> bool:
        left = self._lease_end() - self.clock.monotonic()
        return left < self.root.lease_time * 2 / 3

    def _renew(self, source: Source) -> None:
        source.renew()
        self._tell_lease(source)

    def _tell_lease(self, source: Source) -> None:
        for worker in self._workers:
            worker.set_lease(source.lease_end)

    def _purge(self) -> None:
        """One round: claim what has come, adopt what nobody owns."""
        if self.clock.monotonic() < self._source_next:
            return
        if not self._source_ready:
            self._guarded(lambda source: self._begin(source))
        if self._source_ready:
            self._guarded(self._round)

    def _begin(self, source: Source) -> None:
        source.start()
        self._source_ready = True
        self._tell_lease(source)

    def _round(self, source: Source) -> None:
        look = source.round()
        self._tell_lease(source)
        self._purges += 1
        self._lengths = look.lengths
        self._claimed += look.claimed
        for stream in look.adopted:
            logger.info("stream adopted", extra={"batch": stream})
        self._forget_removed_pumps(source)

    def _guarded(self, action: Callable[[Source], None]) -> bool:
        """Do something with Redis; note trouble and back off, never raise."""
        try:
            if self._source is None:
                self._source = self._new_source()
            if self._source_ready and (
                self.clock.monotonic() >= self._source.lease_end
            ):
                # We may have been frozen: ask before anything else is believed.
                self._source.renew()
                self._tell_lease(self._source)
            action(self._source)
        except LeaseLost as exc:
            self._lose_lease(str(exc))
            return False
        except SourceError as exc:
            self._source_trouble(str(exc))
            return False
        if self._source_error:
            if self._source_attempt:
                logger.info("Redis answers again", extra={"prefix": "main"})
            self._source_error = ""
        self._source_attempt = 0
        return True

    def _new_source(self) -> Source:
        if self._link is None:
            self._link = Link(self.root.analytics_storage_config)
        return Source(
            self._link,
            prefix=self.root.analytics_storage_config.prefix(),
            name=self._folder.name,
            incarnation=self._folder.incarnation,
            previous=self._folder.previous,
            lease_time=self.root.lease_time,
            fields=self._fields(),
            book=self._state,
            clock=self.clock,
        )

    def _source_trouble(self, reason: str) -> None:
        self._source_errors += 1
        self._source_attempt += 1
        if self._source_attempt == 1:
            logger.error(
                "Redis cannot serve us now",
                extra={"prefix": "main", "reason": reason},
            )
        self._source_error = reason
        pause = backoff.delay(self._source_attempt, initial=0.1, ceiling=2.0)
        self._source_next = self.clock.monotonic() + pause

    def _lose_lease(self, reason: str) -> None:
        """We are no longer the owner: drop all that is in hand and begin anew."""
        logger.error(
            "lease lost, what was in hand is dropped",
            extra={"prefix": "main", "reason": reason},
        )
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.join(5)
                self._drop(worker)
                worker.start_at = self.clock.monotonic()
        self._cache.clear()
        self._dirty.clear()
        self._unsettled.clear()
        self._folder.renew()
        self._source = None
        self._source_ready = False
        self._source_trouble(reason)

    def _drop(self, worker: WorkerHandle) -> None:
        """Take the worker's process away; its answers count for nothing."""
        if worker.channel is not None:
            worker.channel.close()
        worker.channel = worker.process = None
        worker.state = "restarting"
        worker.lane.restarted()
        worker.lane.suspect = None

    def _forget_removed_pumps(self, source: Source) -> None:
        """A pump that is configured no more holds claims only for a time."""
        known = set(self._fields())
        present = {field for s in source.streams.values() for field in s.progress}
        for field in [f for f in self._unknown if f not in present - known]:
            del self._unknown[field]
        now = self.clock.monotonic()
        for field in present - known:
            if field not in self._unknown:
                self._unknown[field] = now
                logger.warning(
                    "claims are kept for a pump that is not configured",
                    extra={"pump": field},
                )
            elif now - self._unknown[field] > self.root.removed_pump_grace:
                source.forget(field)
                logger.warning("removed pump is forgotten", extra={"pump": field})

    # Windows and frames

    def _streams(self) -> list[Stream]:
        return list(self._source.streams.values()) if self._source else []

    def _offer(self) -> bool:
        """Offer each worker what it is owed; True when a worker could take more."""
        source = self._source
        if source is None:
            return False
        streams = self._streams()
        for _ in range(PASSES):
            offered = False
            for worker in self._workers:
                if not worker.has_room(self.root.queue_bytes):
                    continue
                span = worker.lane.next_span(streams)
                if span is None:
                    continue
                frame: Frame | None = None

                def fetch(source: Source, span: lanes.Span = span) -> None:
                    nonlocal frame
                    frame = self._frame(source, span)

                if not self._guarded(fetch):
                    return False
                if frame is None:
                    continue
                if frame.data and worker.channel is not None:
                    if not worker.channel.offer(frame.data):
                        continue
                    worker.lane.offered(span, frame.end, len(frame.data))
                else:
                    self._pass_over(worker, span, frame.end)
                offered = True
            if not offered:
                return False
        return True

    def _frame(self, source: Source, span: lanes.Span) -> Frame | None:
        """Return the frame that begins there, from the cache or from Redis."""
        key = (span.stream, span.first)
        found = self._cache.get(key)
        if found is not None and found.end <= span.end:
            self._cache.move_to_end(key)
            return found
        limit = min(self._window_records(), span.end - span.first)
        window = source.read(span.stream, span.first, limit)
        if window.lost:
            self._lost += window.lost
            logger.error(
                "Redis has lost claimed records",
                extra={"batch": span.stream, "records": window.lost},
            )
            return Frame(span.first, span.first + window.lost, b"")
        if not window.records:
            return None
        data = channel.encode_frame(
            window.stream, window.list, window.codec, window.first, None, window.records
        )
        self._learn(len(data), len(window.records), max(map(len, window.records)))
        frame = Frame(window.first, window.first + len(window.records), data)
        self._cache[key] = frame
        while len(self._cache) > CACHED_FRAMES or (
            len(self._cache) > 1
            and sum(len(f.data) for f in self._cache.values()) > self.root.queue_bytes
        ):
            self._cache.popitem(last=False)
        return frame

    def _window_records(self) -> int:
        limit = self.root.window_records
        if self.root.purge_chunk > 0:
            limit = min(limit, self.root.purge_chunk)
        return max(1, min(self._window, limit))

    def _learn(self, size: int, records: int, largest: int) -> None:
        """Grow towards the byte limit by the largest record seen lately."""
        self._largest = max(largest, int(self._largest * 0.9), 1)
        fitting = max(1, self.root.window_bytes // max(self._largest, 1))
        typical = max(1, self.root.window_bytes // max(1, size // records))
        goal = min(typical, fitting * 4)
        self._window = max(1, min(self._window * 4, goal))

    def _pass_over(self, worker: WorkerHandle, span: lanes.Span, end: int) -> None:
        worker.lane.skip(span.stream, end)
        self._move(worker.lane, span.stream, end, 0, 0)

    # Settling

    def _accept(self, worker: WorkerHandle, done: outcome.Outcome) -> None:
        replay = self._replays.get(worker.config.name)
        if replay is not None and replay.stream == done.stream:
            del self._replays[worker.config.name]
            self._accept_replay(worker, done)
            return
        if not worker.lane.acknowledged(done.stream, done.first, done.end):
            return
        if self._unsettled or not self._store(worker, done):
            self._unsettled.append((worker, done))
            return
        dead = len(done.dead)
        self._move(worker.lane, done.stream, done.end, done.filtered, dead)

    def _store(self, worker: WorkerHandle, done: outcome.Outcome) -> bool:
        """Store dead letters; False while the disk refuses them."""
        if not done.dead:
            return True
        name = worker.config.name
        try:
            self._state.store_dead(
                name, done.list, done.codec, done.dead, self.clock.now()
            )
        except StateError as exc:
            logger.error(
                "dead letters cannot be stored, their claims wait",
                extra={"pump": name, "records": len(done.dead), "reason": str(exc)},
            )
            worker.last_error = str(exc)
            self._unsettled_next = self.clock.monotonic() + 1.0
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

    def _retry_unsettled(self) -> None:
        """Store what the disk refused before; cursors move in their order."""
        if not self._unsettled or self.clock.monotonic() < self._unsettled_next:
            return
        while self._unsettled:
            worker, done = self._unsettled[0]
            if not self._store(worker, done):
                return
            self._unsettled.popleft()
            dead = len(done.dead)
            self._move(worker.lane, done.stream, done.end, done.filtered, dead)

    def _move(
        self, lane: Lane, stream_id: str, end: int, filtered: int, dead: int
    ) -> None:
        stream = self._source.streams.get(stream_id) if self._source else None
        if stream is None:
            return
        progress = stream.progress.get(lane.field)
        if progress is None:
            return
        lanes.add(progress, end, filtered, dead)
        self._dirty.add((stream_id, lane.field))

    def _bury(self, worker: WorkerHandle, poison: Sent) -> None:
        """Make a dead letter of the one record that kills workers."""
        reason = f"the worker died on this record: {worker.last_error}"

        def take(source: Source) -> None:
            window = source.read(poison.stream, poison.first, 1)
            identity = f"{poison.stream}:{poison.first}"
            dead = [
                outcome.DeadRecord(poison.first, identity, reason, raw)
                for raw in window.records
            ]
            done = outcome.Outcome(
                stream=poison.stream,
                first=poison.first,
                end=poison.end,
                delivered=0,
                filtered=0,
                dead=dead,
                seconds=0.0,
                attempts=0,
                list=window.list,
                codec=window.codec,
            )
            if not self._store(worker, done):
                return
            worker.counts.dead += len(dead)
            worker.lane.skip(poison.stream, poison.end)
            self._move(worker.lane, poison.stream, poison.end, 0, len(dead))

        self._guarded(take)
        worker.lane.restarted()

    def _settle(self, source: Source) -> None:
        """Write the cursors that moved, then trim what all have passed."""
        moved: dict[str, dict[str, Progress]] = {}
        for stream_id, field in self._dirty:
            stream = source.streams.get(stream_id)
            if stream is not None and field in stream.progress:
                moved.setdefault(stream_id, {})[field] = stream.progress[field]
        known = {worker.lane.field: worker.lane for worker in self._workers}
        trims: dict[str, int] = {}
        for stream_id in moved:
            stream = source.streams[stream_id]
            passed = stream.end
            for field, progress in stream.progress.items():
                lane = known.get(field)
                settled = lane.settled(stream) if lane else progress.position
                passed = min(passed, settled)
            if passed > stream.trimmed:
                trims[stream_id] = passed
        source.settle(moved, trims)
        self._dirty.clear()
        for stream_id in moved:
            if stream_id not in source.streams:
                for worker in self._workers:
                    worker.lane.drop_stream(stream_id)

    # Replays of dead letters

    def _offer_replays(self) -> None:
        """Give idle workers what was marked for replay, one frame at a time."""
        for worker in self._workers:
            name = worker.config.name
            if worker.lane.index or worker.channel is None or name in self._replays:
                continue
            if not worker.ready() or worker.lane.sent:
                continue
            for replay in self._state.replays(name)[:1]:
                window = self._state.read_replay(
                    replay.stream,
                    replay.first,
                    self._window_records(),
                    self.root.window_bytes,
                )
                if window is None:
                    continue
                frame = channel.encode_frame(
                    window.stream,
                    window.list,
                    window.codec,
                    window.first,
                    window.ids,
                    window.records,
                )
                if worker.channel.offer(frame):
                    self._replays[name] = window

    def _end_replay(self, worker: WorkerHandle) -> None:
        """A worker ended with replayed letters in hand: they are not tried for ever."""
        window = self._replays.pop(worker.config.name, None)
        if window is None or worker.lane.index or self._stopping:
            return
        logger.error(
            "replay ends: its worker died", extra={"pump": worker.config.name}
        )
        self._state.cancel_replay(window.stream)

    def _accept_replay(self, worker: WorkerHandle, done: outcome.Outcome) -> None:
        """Drop the letters that have arrived; the refused ones stay, with reasons."""
        name = worker.config.name
        if not self._store(worker, done):
            return  # still marked: it is replayed once more
        dropped = self._state.settle_replay(done.stream, done.end)
        logger.info("dead letters replayed", extra={"pump": name, "records": dropped})

    # Commands

    def _answer_requests(self) -> None:
        while not self._requests.empty():
            command, arguments, future = self._requests.get()
            try:
                future.set_result(self._do(command, arguments))
            except Exception as exc:
                if not isinstance(exc, (ConfigError, SourceError, StateError)):
                    logger.exception("command failed", extra={"reason": command})
                future.set_exception(exc)

    def _do(self, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "status":
                self.snapshot = self._take_snapshot()
                return msgspec.to_builtins(self.snapshot)
            case "stop":
                self.signals.stop += 1
                return {"stopping": True}
            case "reload":
                return self._reload_configuration()
            case "dead-letters.replay":
                return {"marked": self._mark_replay(**arguments)}
            case "claims.forget":
                if self._source is None:
                    raise SourceError("Redis is not connected yet")
                self._source.forget(str(arguments["pump"]))
                return {"forgotten": arguments["pump"]}
            case _:
                raise ConfigError(f"unknown command: {command}")

    def _mark_replay(self, pump: str = "", ids: list[int] | None = None) -> int:
        """Mark letters of one pump, or of all, each pump with a replay of its own."""
        names = [pump] if pump else list(self._state.counts())
        self._replay_next = 0.0
        return sum(self._state.mark_replay(ulid(), name, ids=ids) for name in names)

    def _reload_configuration(self) -> dict[str, list[str]]:
        """Read the configuration again; pumps that did not change keep running."""
        config = self._reload()
        if config.faults:
            for fault in config.faults:
                logger.error("configuration is not taken over: " + fault)
            return {"faults": config.faults, "warnings": config.warnings, "changed": []}
        for warning in config.warnings:
            logger.warning(warning)
        changed: list[str] = []
        old = {worker.config.name: worker.config for worker in self._workers}
        new = {pump.name: pump for pump in config.pumps}
        shared = self._shared_options(self.root) != self._shared_options(config.root)
        keep: list[WorkerHandle] = []
        for worker in self._workers:
            if new.get(worker.config.name) == worker.config and not shared:
                keep.append(worker)
                continue
            changed.append(worker.config.name)
            self._retire(worker)
        self._workers = keep
        self.config, self.root = config, self._keep_fixed(config.root)
        log.setup(
            log.chosen_format(self.root, self._environ),
            log.chosen_level(self.root, self._environ),
        )
        kept = {worker.config.name for worker in keep}
        fresh = [pump for pump in config.pumps if pump.name not in kept]
        self._make_workers(fresh)
        for pump in fresh:
            changed.append(pump.name)
            if pump.name not in old or old[pump.name].workers != pump.workers:
                self._owe(pump)
        changed = sorted(set(changed))
        logger.info(
            "configuration read again",
            extra={"prefix": "main", "reason": ", ".join(changed) or "no pump changed"},
        )
        return {"faults": [], "warnings": config.warnings, "changed": changed}

    def _keep_fixed(self, root: RootOptions) -> RootOptions:
        """Some options are taken over by a restart only; say so, once each time."""
        fixed = (
            "analytics_storage_config",
            "health_check_endpoint_port",
            "health_check_endpoint_name",
            "state_dir",
            "instance_name",
            "lease_time",
        )
        kept: dict[str, Any] = {}
        for name in fixed:
            if getattr(self.root, name) != getattr(root, name):
                logger.warning(f"{name}: the new value counts from the next start")
                kept[name] = getattr(self.root, name)
        return msgspec.structs.replace(root, **kept)

    @staticmethod
    def _shared_options(root: Any) -> tuple[Any, ...]:
        """Root options that change what each worker does."""
        names = (
            "max_record_size",
            "omit_detailed_recording",
            "stuck_timeout",
            "log_level",
            "log_format",
        )
        return tuple(getattr(root, name) for name in names)

    def _owe(self, pump: PumpConfig) -> None:
        if self._source is None:
            return
        for worker in self._workers:
            if worker.config.name == pump.name:
                field = worker.lane.field
                self._guarded(lambda source, field=field: source.owe(field))  # type: ignore[misc]

    def _retire(self, worker: WorkerHandle) -> None:
        """Let a worker finish its write, then drop it; what is left is offered anew."""
        worker.stop()
        until = self.clock.monotonic() + 2.0
        while worker.process is not None and self.clock.monotonic() < until:
            if connection.wait([worker.process.sentinel], 0.05):
                break
            self._hear(worker)
        if worker.process is not None:
            self._hear(worker)
        if worker.process is not None:
            worker.process.kill()
            worker.process.join(5)
            self._hear(worker)

    # Numbers and readiness

    def _tick(self) -> None:
        for worker in self._workers:
            worker.tick()
        self.snapshot = self._take_snapshot()
        if self.snapshot.ready or self._purges:
            if not self._announced:
                self._announced = True
                notify.ready()
        notify.watchdog()

    def _reasons(self) -> list[str]:
        reasons = [
            f"pump {worker.lane.field} is {worker.state}"
            + (f": {worker.last_error}" if worker.last_error else "")
            for worker in self._workers
            if worker.state != "running"
        ]
        if self._source_error:
            reasons.append(f"Redis: {self._source_error}")
        elif not self._purges:
            reasons.append("no purge yet")
        reasons += [
            f"claims are kept for the removed pump {field}" for field in self._unknown
        ]
        if self._unsettled:
            reasons.append("dead letters cannot be stored")
        if self._stopping:
            reasons.append("stopping")
        return reasons

    def _take_snapshot(self) -> Snapshot:
        streams = self._streams()
        now = self.clock.now()
        by_pump: dict[str, list[WorkerHandle]] = {}
        for worker in self._workers:
            by_pump.setdefault(worker.config.name, []).append(worker)
        reasons = self._reasons()
        claims, records = self._source.backlog() if self._source else (0, 0)
        return Snapshot(
            version=tyk_pump.__version__,
            instance=self._folder.name,
            started=self._started,
            ready=not reasons,
            reasons=reasons,
            pumps=[self._pump_snapshot(w, streams, now) for w in by_pump.values()],
            redis=self._source_error,
            lists=self._lengths,
            streams=len(streams),
            claims=claims,
            claimed_records=records,
            claimed_total=self._claimed,
            lost_records=self._lost,
            purges=self._purges,
            source_errors=self._source_errors,
            pid=os.getpid(),
        )

    @staticmethod
    def _pump_snapshot(
        workers: list[WorkerHandle], streams: list[Stream], now: float
    ) -> PumpSnapshot:
        worst = next((w for w in workers if w.state != "running"), workers[0])
        history = [sum(column) for column in zip(*(w.history for w in workers))]
        oldest = [at for w in workers for at in _waiting_since(w.lane, streams)]
        counts = [w.counts for w in workers]
        buckets = [sum(column) for column in zip(*(c.write_buckets for c in counts))]
        return PumpSnapshot(
            name=workers[0].config.name,
            type=workers[0].config.type,
            state=worst.state,
            delivered=sum(c.delivered for c in counts),
            filtered=sum(c.filtered for c in counts),
            dead=sum(c.dead for c in counts),
            retried=sum(c.retried for c in counts),
            pending=sum(w.lane.pending(streams) for w in workers),
            lag_seconds=max(0.0, now - min(oldest)) if oldest else 0.0,
            restarts=sum(c.restarts for c in counts),
            last_error=worst.last_error,
            rate=sum(history[-11:-1]) / 10,
            history=history,
            write_buckets=buckets,
            write_seconds=sum(c.write_seconds for c in counts),
            pids=[w.process.pid for w in workers if w.process and w.process.pid],
        )

    # Demo mode: frames that come from no list

    def open_for_demo(self, lease_end: float) -> bool:
        """Start the workers; say whether each pump is open."""
        self.signals.install()
        self._make_workers(self.config.pumps)
        link = Link(self.root.analytics_storage_config)
        note_version(link, tyk_pump.__version__)
        link.close()
        for worker in self._workers:
            worker.lease_end = lease_end
            if worker.due():
                worker.start()
                worker.set_lease(lease_end)
        while not self.signals.stop:
            if any(worker.state == "failed" for worker in self._workers):
                return False
            if all(worker.ready() for worker in self._workers):
                return True
            self._listen(0.1)
        return False

    def deliver_demo(self, span: lanes.Span, frame: bytes) -> bool:
        """Hand one frame to every pump, waiting for room; False when told to stop."""
        waiting = [w for w in self._workers if w.lane.index == 0]
        while waiting and not self.signals.stop:
            self._retry_unsettled()
            for worker in list(waiting):
                worker.watch()
                if worker.due():
                    return False  # it died with frames that no claim keeps
                if not worker.has_room(self.root.queue_bytes):
                    continue
                if worker.channel is not None and worker.channel.offer(frame):
                    worker.lane.offered(span, span.end, len(frame))
                    waiting.remove(worker)
            self._listen(0.05 if waiting else 0.0)
        return not waiting

    def close_demo(self) -> bool:
        """Wait until all is settled, stop the workers; say whether all arrived."""
        while not self.signals.stop and any(w.lane.sent for w in self._workers):
            for worker in self._workers:
                worker.watch()
            self._listen(0.1)
            if any(worker.process is None for worker in self._workers):
                break
        complete = not any(worker.lane.sent for worker in self._workers)
        for worker in self._workers:
            complete = complete and worker.process is not None
            worker.stop()
        until = self.clock.monotonic() + self.root.shutdown_timeout
        while self.clock.monotonic() < until:
            if all(worker.process is None for worker in self._workers):
                break
            self._listen(0.1)
        for worker in self._workers:
            worker.kill()
        return complete

    # The end

    def _shut_down(self) -> int:
        """Last claim, finish what is in hand, give the rest back."""
        self._stopping = True
        count = len({worker.config.name for worker in self._workers})
        notify.stopping()
        logger.info(f"Shutting down {count} pumps...", extra={"prefix": "main"})
        began = self.clock.monotonic()
        deadline = began + self.root.shutdown_timeout
        offer_until = began + self.root.shutdown_timeout * DRAIN_SHARE
        if self._source_ready:
            self._guarded(self._round)
        signals = self.signals.stop
        while self.clock.monotonic() < deadline and self.signals.stop == signals:
            open_ = self.clock.monotonic() < offer_until
            for worker in self._workers:
                worker.watch()
                if worker.due() and open_:
                    self._start(worker)
            self._retry_unsettled()
            busy = self._offer() if open_ and self._source_usable() else False
            if self._dirty and self._source_usable():
                self._guarded(self._settle)
            if self._nothing_in_hand(open_):
                break
            self._listen(0.0 if busy else 0.05)
            if self._source_ready and self._lease_is_short():
                self._guarded(self._renew)
        again = self.signals.stop != signals
        for worker in self._workers:
            worker.stop()
        while not again and self.clock.monotonic() < deadline:
            if all(worker.process is None for worker in self._workers):
                break
            self._listen(0.05)
            again = self.signals.stop != signals
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.join(2)
                self._hear(worker)
            logger.info(
                f"{worker.config.name} pump stopped.",
                extra={"prefix": "main", "pump": worker.lane.field},
            )
        self._retry_unsettled()
        if self._source_ready and self._source is not None:
            if self._dirty:
                self._guarded(self._settle)
            self._guarded(lambda source: source.give_back())
        logger.info("Tyk-pump stopped.", extra={"prefix": "main"})
        return 1 if again else 0

    def _nothing_in_hand(self, offering: bool) -> bool:
        """Say whether no worker has a frame, nor should have one."""
        streams = self._streams()
        for worker in self._workers:
            if worker.lane.sent:
                # A pump that only fails cannot be waited for in vain for long, but
                # within the time-out it may succeed.
                return False
            waits = worker.state in ("starting", "restarting", "retrying", "running")
            if offering and waits and worker.lane.next_span(streams) is not None:
                return False
        return True


def _waiting_since(lane: Lane, streams: list[Stream]) -> Iterator[float]:
    """Yield when the oldest claim came that this lane has not settled."""
    for stream in streams:
        if lane.field not in stream.progress:
            continue
        position = lane.settled(stream)
        for claim in stream.claims:
            if claim.base + claim.length > position:
                yield claim.at
                return


def run(
    config: Config,
    *,
    conf_path: str | None,
    environ: dict[str, str] | None = None,
    demo: DemoOptions | None = None,
) -> int:
    """Run the coordinator in this process; return the exit code."""
    environment = dict(os.environ if environ is None else environ)
    root = config.root
    place = locate(root.state_dir, conf_path or "", environment)
    folder = StateFolder.open(place, root.instance_name)
    state = StateFile(folder.file)
    coordinator = Coordinator(
        config,
        folder,
        state,
        reload=lambda: load(conf_path, environment),
        environ=environment,
    )
    try:
        if demo is not None:
            from tyk_pump.coordinator import demo as demo_mode

            return demo_mode.run(coordinator, demo)
        return coordinator.run()
    finally:
        state.close()
        folder.close()

