"""The coordinator: claim, read windows, offer frames, settle, trim; then sleep."""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing import connection
from typing import Any

import msgspec

import tyk_pump
from tyk_pump import backoff, cursors, log
from tyk_pump.admin.control import ControlServer
from tyk_pump.admin.http import AdminServer
from tyk_pump.clock import Clock
from tyk_pump.config.load import Config, hide_secrets, load
from tyk_pump.config.root import PumpConfig
from tyk_pump.coordinator import audit, instrumentation, notify
from tyk_pump.coordinator.demo_options import DemoOptions
from tyk_pump.coordinator.instrumentation import Instrumentation
from tyk_pump.coordinator.journal import Journal
from tyk_pump.coordinator.lanes import Lane, Sent, Span
from tyk_pump.coordinator.lifeline import Lifeline
from tyk_pump.coordinator.reload import keep_fixed, keep_running, same_for_workers
from tyk_pump.coordinator.replay import Replays
from tyk_pump.coordinator.report import pump_snapshot
from tyk_pump.coordinator.room import wait_for_room
from tyk_pump.coordinator.settling import Settler, outdated
from tyk_pump.coordinator.signals import Signals
from tyk_pump.coordinator.snapshot import Snapshot
from tyk_pump.coordinator.supervisor import WorkerHandle
from tyk_pump.coordinator.windows import Frame, Windows
from tyk_pump.errors import ConfigError, DamagedState, SourceError, StateError
from tyk_pump.source.claims import Progress, Source, Stream, pack
from tyk_pump.state import rescue
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import StateFolder, locate
from tyk_pump.worker import outcome

logger = logging.getLogger(__name__)

PASSES = 8
"""Frames offered to each worker before the answers are looked at again."""
OFFER_SECONDS = 0.5
"""After that long, too."""
DRAIN_SHARE = 0.6
"""Share of shutdown_timeout in which frames are still offered."""
STOP_SHARE = 0.9
"""Share of it after which all workers are told to leave."""
COMMAND_SECONDS = 30.0
LOOK_SECONDS = 5.0
"""First pause before a store of secrets is asked again."""
RETIRE_SECONDS = 2.0
"""What a worker gets to finish its write when its pump is changed or removed."""


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
        stats: Instrumentation | None = None,
    ) -> None:
        self.config = config
        self.root = config.root
        self.signals = Signals()
        self.clock = clock or Clock()
        self.workers: list[WorkerHandle] = []
        self._folder = folder
        self._reload = reload
        self._environ = environ
        self._stats = stats
        self._started = self.clock.now()
        self._journal = Journal(config.root, state, self.clock)
        self._lifeline = Lifeline(
            config.root,
            folder,
            state,
            self._journal,
            self.clock,
            fields=lambda: [worker.lane.field for worker in self.workers],
            on_lease=self._tell_lease,
            on_lost=self._drop_everything,
        )
        self._windows = Windows(config.root, self._journal.frame)
        self._settler = Settler(state, self._journal, self.clock)
        self._replays = Replays(state, self._settler.store, self.clock)
        self._replay_next = 0.0
        self._unknown: dict[str, float] = {}
        self._requests: queue.SimpleQueue[tuple[str, dict[str, Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._stopping = False
        self._damages = rescue.reports(folder.path)
        self._leaving: list[WorkerHandle] = []
        self._announced = False
        self._waiting = {pump.name: pump for pump in config.pumps if pump.passing}
        """Pumps that wait for a store of secrets."""
        self._looks = 1
        self._next_look = math.inf
        self._plan_look()
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
            self.make_workers(self.config.pumps)
            if self.config.uptime_left:
                logger.warning(self.config.uptime_left, extra={"prefix": "main"})
            logger.info(
                f"Starting purge loop @{root.purge_delay:g}, "
                f"chunk size {root.purge_chunk}",
                extra={"prefix": "main"},
            )
            self._loop()
            return self._shut_down()
        finally:
            for worker in self.workers:
                worker.kill()
            control.close()
            admin.close()
            self._lifeline.close()

    def call(self, command: str, arguments: dict[str, Any]) -> Any:
        """Answer a command from another thread; the loop does the work."""
        future: Future[Any] = Future()
        self._requests.put((command, arguments, future))
        self.signals.wake()
        return future.result(timeout=COMMAND_SECONDS)

    def _loop(self) -> None:
        next_purge = next_tick = self.clock.monotonic()
        while not self.signals.stop:
            now = self.clock.monotonic()
            if self.signals.reload:
                self.signals.reload = 0
                self._read_again()
            if now >= next_tick:
                next_tick = now + 1.0
                self._tick()
            if now >= self._next_look:
                self._read_again(command="look again")
            if now >= next_purge or self._lifeline.recovering:
                next_purge = now + self.root.purge_delay
                self._purge()
            self._lifeline.keep()
            busy = self._turn(offering=True)
            timeout = 0.0 if busy else min(next_tick, next_purge) - now
            self.listen(max(0.0, min(timeout, 0.5)))

    def _purge(self) -> None:
        began = self.clock.monotonic()
        if self._lifeline.purge():
            self._lifeline.run(self._look_at_fields)
            if self._stats is not None:
                self._stats.purged(began, self._lifeline.streams())

    def _turn(self, *, offering: bool) -> bool:
        """Start what is due, offer, settle; say whether there is more to do at once."""
        now = self.clock.monotonic()
        for worker in self.workers:
            worker.watch()
            if offering and worker.due():
                self._start(worker)
        source = self._lifeline.source
        if source is None:
            return False
        self._settler.retry(self.workers, source)
        busy = self._lifeline.usable and self._copy()
        busy = (offering and self._lifeline.usable and self._offer()) or busy
        if offering and now >= self._replay_next and not self._stopping:
            self._replay_next = now + 1.0
            self._replays.look()
            for worker in self.workers:
                self._replays.offer(worker, self._windows)
        if self._settler.due and self._lifeline.usable:
            self._lifeline.run(lambda s: self._settler.write(s, self.workers))
        if self._stats is not None:
            now = self.clock.monotonic()
            self._stats.look(now, self._streams(), self.workers)
        return busy

    def listen(self, seconds: float, *, answering: bool = True) -> None:
        """Wait for answers, deaths, signals and requests, and handle them."""
        waiting: dict[Any, WorkerHandle] = {}
        for worker in self.workers:
            if worker.process is not None and worker.channel is not None:
                waiting[worker.channel.answers] = worker
                waiting[worker.process.sentinel] = worker
        heeded = [self.signals.fd] if answering else []
        ready = connection.wait([*waiting, *heeded], seconds)
        if self.signals.fd in ready:
            self.signals.drain()
            self._answer_requests()
        heard: list[WorkerHandle] = []
        for item in ready:
            found = waiting.get(item)
            if found is not None and found not in heard:
                heard.append(found)
                self._hear(found)

    def _hear(self, worker: WorkerHandle) -> None:
        """Take in what a worker has said, then its end when it has ended."""
        if worker.process is None or worker.channel is None:
            return
        dead = not worker.process.is_alive()
        for message in worker.channel.receive():
            worker.note(message)
            if isinstance(message, outcome.Outcome):
                self._accept(worker, message)
        if not dead:
            return
        blame = True
        if self._stopping or worker in self._leaving:
            self._replays.dropped(worker)
        else:
            blame = not self._replays.worker_died(worker)
        poison = worker.reap(blame=blame)
        if poison is not None:
            self._bury(worker, poison)

    def _accept(self, worker: WorkerHandle, done: outcome.Outcome) -> None:
        if self._replays.owns(worker, done):
            self._replays.settle(worker, done)
            self._replay_next = 0.0  # it may have the next part at once
        elif worker.lane.acknowledged(done.stream, done.first, done.end):
            if self._lifeline.source is not None:
                self._settler.accept(worker, done, self._lifeline.source)
                if self._stats is not None:
                    self._stats.settled(worker, done)
            else:  # demo mode: no claim, no cursor, but dead letters are kept
                self._settler.store(worker, done)

    def _bury(self, worker: WorkerHandle, poison: Sent) -> None:
        self._lifeline.run(lambda s: self._settler.bury(worker, poison, s))
        worker.lane.restarted()

    # Workers

    def make_workers(self, pumps: list[PumpConfig]) -> None:
        """Add the workers of these pumps; they are started when they are due."""
        for config in pumps:
            for index in range(config.workers):
                lane = Lane(config.name, index, config.workers)
                handle = WorkerHandle(
                    config,
                    self.root,
                    lane,
                    state_dir=str(self._folder.path),
                    log_format=log.chosen_format(self.root, self._environ),
                    log_level=log.chosen_level(self.root, self._environ),
                    clock=self.clock,
                )
                self.workers.append(handle)

    def _start(self, worker: WorkerHandle) -> None:
        worker.lease_end = self._lifeline.lease_end
        try:
            worker.start()
        except OSError as exc:
            worker.last_error = f"cannot start a process: {exc}"
            worker.start_at = self.clock.monotonic() + 5.0
            logger.error(
                "worker cannot be started",
                extra={"pump": worker.config.name, "reason": str(exc)},
            )

    def _tell_lease(self, end: float) -> None:
        for worker in self.workers:
            worker.set_lease(end)

    def _drop(self, workers: list[WorkerHandle]) -> None:
        """End workers; all are told before the first is waited for."""
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.drop()
            self._replays.dropped(worker)

    def _drop_everything(self) -> None:
        self._drop(self.workers)
        self._windows.clear()
        self._settler.forget()

    def _look_at_fields(self, source: Source) -> None:
        """A pump that is configured no more holds claims only for a time."""
        self._settler.look_at_streams(source)
        known = {worker.lane.field for worker in self.workers}
        present = {field for s in self._streams() for field in s.progress}
        foreign = present - known
        self._unknown = {f: at for f, at in self._unknown.items() if f in foreign}
        now = self.clock.monotonic()
        for field in foreign:
            if outdated(field, self.workers):
                self._settler.write(source, self.workers)  # its new lanes go on first
                if self._settler.all_written(source):
                    self._settler.leave(field, source)
            elif field not in self._unknown:
                self._unknown[field] = now
                logger.warning(
                    "claims are kept for a pump that is not configured",
                    extra={"pump": field},
                )
            elif now - self._unknown[field] > self.root.removed_pump_grace:
                self._settler.leave(field, source)
                logger.warning("removed pump is forgotten", extra={"pump": field})

    # Frames

    def _streams(self) -> list[Stream]:
        """Return all places to read from, on the disk and in Redis."""
        return self._journal.streams(self._lifeline.streams())

    def _offer(self) -> bool:
        """Offer each worker what it is owed; True when there may be more at once."""
        streams = [s for s in self._streams() if self._settler.knows(s.id)]
        until = self.clock.monotonic() + OFFER_SECONDS
        for _ in range(PASSES):
            offered = False
            for worker in self.workers:
                self._lifeline.keep()  # reads may be slow, the lease must not end
                if not self._lifeline.usable:
                    return False
                if not worker.has_room(self.root.queue_bytes):
                    continue
                if self.clock.monotonic() < worker.read_at:
                    continue
                span = worker.lane.next_span(streams)
                if span is None:
                    continue
                frames: list[Frame] = []
                fetch = partial(self._fetch, worker, span, frames)
                if not self._lifeline.run(fetch):
                    return False
                for frame in frames:
                    offered = self._hand_over(worker, span, frame) or offered
            if not offered:
                return False
            if self.clock.monotonic() > until:
                break
        return True

    def _copy(self) -> bool:
        """Copy to the disk what should not wait in Redis; True when there is more."""
        copied: list[Stream] = []

        def copy(source: Source) -> None:
            wanted = self._journal.wanted(source, self._windows)
            if not wanted:
                return
            if self._settler.due:
                # A cursor that is ahead of what is copied stays in Redis: after a
                # crash it must not be found behind it.
                self._settler.write(source, self.workers)
            if self._settler.error:
                return  # rows come before the cursors beyond them, and the disk refuses
            owed = self._settler.books.owed
            copied.extend(self._journal.copy(source, self._windows, wanted, owed))

        self._lifeline.run(copy)
        self._settler.copied(copied)
        return bool(copied)

    def _fetch(
        self, worker: WorkerHandle, span: Span, frames: list[Frame], source: Source
    ) -> None:
        try:
            frame = self._windows.frame(source, span)
        except StateError as exc:  # ours alone: others may read what is elsewhere
            worker.unread(str(exc))
            return
        worker.read_error = ""
        if frame is not None:
            frames.append(frame)

    def _hand_over(self, worker: WorkerHandle, span: Span, frame: Frame) -> bool:
        if not frame.data:
            if worker.lane.sent:
                return False  # the cursor may not go over what is with the worker
            source = self._lifeline.source
            part = self._journal.part_at(span.stream, span.first)
            stream = part or (source and source.streams.get(span.stream))
            if stream:
                if frame.lost:
                    self._windows.given_up(span.stream, frame)
                self._settler.pass_over(
                    worker.lane, stream, frame.first, frame.end, lost=frame.lost
                )
            return True
        if worker.channel is None or not worker.channel.offer(frame.data):
            return False
        worker.lane.offered(span, frame.end, len(frame.data))
        return True

    # Commands

    def _answer_requests(self) -> None:
        while not self._requests.empty():
            command, arguments, future = self._requests.get()
            if command == "reload":
                self._read_again(future)
                continue
            try:
                future.set_result(self._do(command, arguments))
            except (ConfigError, SourceError, StateError) as exc:
                future.set_exception(exc)

    def _do(self, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "status":
                self.snapshot = self._take_snapshot()
                return msgspec.to_builtins(self.snapshot)
            case "stop":
                self.signals.stop += 1
                return {"stopping": True}
            case "take over":
                return self._take_over(arguments["config"])
            case "look again":
                return self._look_again(arguments["config"])
            case "dead-letters.replay":
                self._replay_next = 0.0
                pump, ids = str(arguments.get("pump") or ""), arguments.get("ids")
                if ids is not None and not all(isinstance(one, int) for one in ids):
                    raise ConfigError("ids: expected numbers")
                return {"marked": self._replays.mark(pump, ids)}
            case "replay":
                self._replay_next = 0.0
                return {"pumps": sorted({w.config.name for w in self.workers})}
            case "audit":
                return self._audit(arguments)
            case "claims.forget":
                return self._forget(cursors.pump_named(str(arguments.get("pump", ""))))
            case _:
                raise ConfigError(f"unknown command: {command}")

    def _audit(self, arguments: dict[str, Any]) -> Any:
        source = self._lifeline.source
        if source is not None:
            self._settler.bring_to_book(source)
        views = audit.live(self._settler.books, source)
        pump, since = arguments.get("pump") or "", arguments.get("since") or 0.0
        found = audit.audit(
            self._settler.books.ledger, views, pump=str(pump), since=float(since)
        )
        return msgspec.to_builtins(found)

    def _forget(self, pump: str) -> dict[str, Any]:
        if any(worker.config.name == pump for worker in self.workers):
            raise ConfigError(f"{pump} is configured: remove it first, then reload")
        forgotten: list[str] = []

        def forget(source: Source) -> None:
            present = {f for s in self._streams() for f in s.progress}
            for field in present:
                if cursors.is_of(field, pump):
                    self._settler.leave(field, source)
                    forgotten.append(field)

        if not self._lifeline.run(forget):
            raise SourceError(self._lifeline.error)
        return {"forgotten": forgotten}

    def _read_again(
        self, future: Future[Any] | None = None, command: str = "take over"
    ) -> None:
        """Read the configuration aside: a silent store of secrets must hold up nobody.

        What is read comes back as a request.
        """
        self._next_look = math.inf
        answered: Future[Any] = future or Future()

        def read() -> None:
            try:
                arguments = {"config": self._reload()}
            except Exception as exc:
                # The outermost loop of this thread.
                logger.exception("configuration is not taken over")
                self._next_look = self.clock.monotonic() + 60.0
                answered.set_exception(ConfigError(f"{type(exc).__name__}: {exc}"))
                return
            self._requests.put((command, arguments, answered))
            self.signals.wake()

        threading.Thread(target=read, name="reload", daemon=True).start()

    def _look_again(self, config: Config) -> None:
        """Take over the pumps for whose secrets a store answers by now, only these."""
        new = {pump.name: pump for pump in config.pumps}
        for name, waiting in list(self._waiting.items()):
            pump = new.get(name)
            if pump is None or pump.passing or pump.meta != waiting.meta:
                continue
            del self._waiting[name]
            log.hide_secrets([pump.options, pump.secrets])
            workers = [w for w in self.workers if w.config.name == name]
            if all(worker.config == pump for worker in workers):
                continue
            logger.info("secrets are there", extra={"pump": name})
            self._retire(workers)
            self.workers = [w for w in self.workers if w not in workers]
            self.make_workers([pump])
        self._looks += 1
        self._plan_look()

    def _plan_look(self) -> None:
        """Ask stores of secrets again, after a growing pause, while pumps need it."""
        pause = backoff.delay(self._looks, initial=LOOK_SECONDS, ceiling=60.0)
        now = self.clock.monotonic()
        self._next_look = now + pause if self._waiting else math.inf

    def _take_over(self, config: Config) -> dict[str, list[str]]:
        """Take over a configuration; pumps that did not change keep running."""
        self._plan_look()
        if config.faults:
            for fault in config.faults:
                logger.error("configuration is not taken over", extra={"reason": fault})
            return {"faults": config.faults, "warnings": config.warnings, "changed": []}
        self._waiting = {pump.name: pump for pump in config.pumps if pump.passing}
        running = {worker.config.name: worker.config for worker in self.workers}
        for name in keep_running(config, running):
            reason = f"{self._waiting[name].fault}; the pump keeps what it has"
            config.warnings.extend(reason.splitlines())
        self._looks = 1
        self._plan_look()
        for warning in config.warnings:
            logger.warning(warning)
        same = same_for_workers(self.root, config.root)
        new = {pump.name: pump for pump in config.pumps}
        old = {worker.config.name for worker in self.workers}
        keep = [w for w in self.workers if same and new.get(w.config.name) == w.config]
        kept = {worker.config.name for worker in keep}
        self._retire([worker for worker in self.workers if worker not in keep])
        self.workers = keep
        self.config, self.root = config, keep_fixed(self.root, config.root)
        self._windows.root = self._journal.root = self.root
        log.setup(
            log.chosen_format(self.root, self._environ),
            log.chosen_level(self.root, self._environ),
        )
        hide_secrets(config)
        fresh = [pump for pump in config.pumps if pump.name not in kept]
        self.make_workers(fresh)
        if self._lifeline.source is not None:
            self._lifeline.source.take_uptime(cursors.UPTIME in new)
            for worker in self.workers:
                if worker.config.name not in old:
                    self._settler.owe(worker.lane.field, self._lifeline.source)
        self._lifeline.run(self._look_at_fields)
        changed = sorted((old | set(new)) - kept)
        logger.info(
            "configuration read again",
            extra={"prefix": "main", "reason": ", ".join(changed) or "no pump changed"},
        )
        return {"faults": [], "warnings": config.warnings, "changed": changed}

    def _retire(self, workers: list[WorkerHandle]) -> None:
        """Let workers finish their writes, then drop them.

        What they leave is offered anew. They share one time: the lease must not end.
        """
        self._leaving = workers
        for worker in workers:
            worker.stop()
        until = self.clock.monotonic() + RETIRE_SECONDS
        while self.clock.monotonic() < until:
            if all(worker.process is None for worker in workers):
                break
            self.listen(0.05, answering=False)
        self._drop(workers)
        self._leaving = []

    # Numbers and readiness

    def _tick(self) -> None:
        for worker in self.workers:
            worker.tick()
        self.snapshot = self._take_snapshot()
        if self._lifeline.purges and not self._announced:
            self._announced = True
            notify.ready()
        notify.watchdog()

    def _reasons(self) -> list[str]:
        reasons = [
            f"pump {worker.lane.field} is {worker.state}"
            + (f": {worker.last_error}" if worker.last_error else "")
            for worker in self.workers
            if worker.state != "running"
        ]
        if self._lifeline.error:
            reasons.append(f"Redis: {self._lifeline.error}")
        elif not self._lifeline.purges:
            reasons.append("no purge yet")
        reasons += [
            f"claims are kept for the removed pump {field}" for field in self._unknown
        ]
        reasons += [
            f"dead letters of pump {worker.lane.field} cannot be stored"
            for worker in self.workers
            if worker.unsettled
        ]
        reasons += [
            f"pump {worker.lane.field} waits for the disk: {worker.read_error}"
            for worker in self.workers
            if worker.read_error
        ]
        if self._settler.error:
            reasons.append(f"the ledger cannot be written: {self._settler.error}")
        if self._journal.error:
            reasons.append(f"the journal cannot be written: {self._journal.error}")
        if self._journal.full:
            reasons.append("the journal is full, records wait in Redis")
        memory = self._lifeline.memory
        reasons += [one for one in (memory.evicting, memory.danger) if one]
        reasons += [report.text for report in self._damages if report.remains]
        if self._stopping:
            reasons.append("stopping")
        return reasons

    def _take_snapshot(self) -> Snapshot:
        lifeline = self._lifeline
        streams = self._streams()
        by_pump: dict[str, list[WorkerHandle]] = {}
        for worker in self.workers:
            by_pump.setdefault(worker.config.name, []).append(worker)
        reasons = self._reasons()
        claims, records = lifeline.source.backlog() if lifeline.source else (0, 0)
        now = self.clock.now()
        return Snapshot(
            version=tyk_pump.__version__,
            instance=self._folder.name,
            started=self._started,
            ready=not reasons,
            reasons=reasons,
            pumps=[
                pump_snapshot(
                    group,
                    streams,
                    now,
                    self._settler.numbers,
                    self._replays.waiting,
                )
                for group in by_pump.values()
            ],
            redis=lifeline.error,
            redis_used=lifeline.memory.used,
            redis_limit=lifeline.memory.limit,
            redis_full_seconds=(
                lifeline.memory.full_in
                if math.isfinite(lifeline.memory.full_in)
                else -1
            ),
            lists=lifeline.lengths,
            streams=len(lifeline.streams()),
            claims=claims,
            claimed_records=records,
            claimed_total=lifeline.claimed,
            lost_records=self._windows.lost,
            journal=self.root.journal.type,
            journal_records=self._journal.backlog(),
            journal_frames=self._journal.frames,
            journal_bytes=self._journal.bytes,
            purges=lifeline.purges,
            source_errors=lifeline.errors,
            statsd_errors=self._stats.errors if self._stats is not None else 0,
            pid=os.getpid(),
        )

    # The end

    def _shut_down(self) -> int:
        """Last claim, finish what is in hand, give the rest back."""
        self._stopping = True
        first = self.signals.stop
        notify.stopping()
        count = len({worker.config.name for worker in self.workers})
        logger.info(f"Shutting down {count} pumps...", extra={"prefix": "main"})
        began = self.clock.monotonic()
        deadline = began + self.root.shutdown_timeout
        self._lifeline.deadline = deadline + 0.5
        if self._lifeline.usable:
            self._purge()
        self._drain(
            began + self.root.shutdown_timeout * DRAIN_SHARE,
            began + self.root.shutdown_timeout * STOP_SHARE,
            first,
        )
        for worker in self.workers:
            worker.stop()
        while self._patient(deadline, first):
            if all(worker.process is None for worker in self.workers):
                break
            self.listen(0.05)
        self._drop(self.workers)
        for worker in self.workers:
            logger.info(
                f"{worker.config.name} pump stopped.",
                extra={"prefix": "main", "pump": worker.lane.field},
            )
        self._settler.insist()
        self._turn(offering=False)
        if self._lifeline.usable:
            self._lifeline.run(lambda source: source.give_back())
        logger.info("Tyk-pump stopped.", extra={"prefix": "main"})
        return 0 if self.signals.stop == first else 1

    def _drain(self, offer_until: float, deadline: float, first: int) -> None:
        while self._patient(deadline, first):
            offering = self.clock.monotonic() < offer_until
            busy = self._turn(offering=offering)
            if self._nothing_in_hand(offering):
                return
            self.listen(0.0 if busy else 0.05)
            self._lifeline.keep()

    def _patient(self, deadline: float, first: int) -> bool:
        """Say whether there is time left and no second signal has come."""
        return self.clock.monotonic() < deadline and self.signals.stop == first

    def _nothing_in_hand(self, offering: bool) -> bool:
        """Say whether no worker has a frame, nor is about to get one."""
        streams = self._streams()
        for worker in self.workers:
            if worker.lane.sent:
                return False
            alive = worker.state not in ("failed", "stopped")
            if offering and alive and worker.lane.next_span(streams) is not None:
                return False
        return True


def run(
    config: Config,
    *,
    conf_path: str | None,
    environ: dict[str, str] | None = None,
    demo: DemoOptions | None = None,
) -> int:
    """Run the coordinator in this process; return the exit code."""
    environment = dict(os.environ if environ is None else environ)
    place = locate(config.root.state_dir, conf_path or "", environment)
    clock = Clock()
    folder = wait_for_room(
        lambda: StateFolder.open(place, config.root.instance_name),
        place,
        config.root,
        clock,
    )
    state: StateFile | None = None
    stats: Instrumentation | None = None

    def opened(reason: str = "") -> StateFile:
        return wait_for_room(
            lambda: _open_state(config, folder, reason), place, config.root, clock
        )

    try:
        state = opened()
        folder.record()
        stats = instrumentation.start(config)

        def made(state: StateFile) -> Coordinator:
            return Coordinator(
                config,
                folder,
                state,
                reload=lambda: load(conf_path, environment),
                environ=environment,
                stats=stats,
            )

        try:
            coordinator = made(state)
        except DamagedState as exc:  # too large a file to be looked at whole
            state.close()
            state = opened(str(exc))
            coordinator = made(state)
        if demo is not None:
            from tyk_pump.coordinator import demo as demo_mode

            return demo_mode.run(coordinator, demo)
        return coordinator.run()
    finally:
        if stats is not None:
            stats.close()
        if state is not None:
            state.close()
        folder.close()


def _open_state(config: Config, folder: StateFolder, reason: str) -> StateFile:
    """Open the state file; a damaged one is replaced by what can be read of it."""
    names = [
        cursors.name(pump.name, lane, pump.workers)
        for pump in config.pumps
        for lane in range(pump.workers)
    ]
    state, _ = rescue.opened(
        folder.file, names, lambda at: pack(Progress(position=at)), reason=reason
    )
    return state
