"""One instance: its folder and state file, its link to Redis, and its lives."""

from __future__ import annotations

import contextlib
import sqlite3
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenlet import greenlet
from redis.exceptions import OutOfMemoryError, ResponseError

from tests.faults.redis_model import RedisModel
from tests.faults.simulation.ends import BackEnd
from tests.faults.simulation.workers import (
    Sentinel,
    SimChannel,
    SimContext,
    SimProcess,
    Table,
)
from tests.faults.simulation.world import EPOCH, Died, SimClock, World
from tyk_pump import cursors, ulid
from tyk_pump.config.load import Config
from tyk_pump.coordinator import lifeline, loop, supervisor
from tyk_pump.coordinator.loop import Coordinator
from tyk_pump.errors import ConfigError, SourceError, StateError
from tyk_pump.source.redis import Command, Link
from tyk_pump.state.file import StateFile

if TYPE_CHECKING:
    from tests.faults.simulation.plan import Plan

LANE_BLOCK = 5
"""Positions of a lane in a row; small, so that a history has many."""


class SimSignals:
    """As `Signals`, without a pipe."""

    def __init__(self) -> None:
        self.stop = 0
        self.reload = 0
        self.fd = self
        self.woken = False

    def wake(self) -> None:
        self.woken = True

    def drain(self) -> None:
        self.woken = False


class SimFolder:
    """As `StateFolder`; what it wrote down outlives the process."""

    path = Path("/nowhere")

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.name = instance.name
        self.previous = instance.written
        self.incarnation = self._new()

    def _new(self) -> str:
        world = self._instance.world
        incarnation = f"{world.rng.getrandbits(32):08x}"
        if not self._instance.disk_full:
            self._instance.written = incarnation
        return incarnation

    def renew(self) -> None:
        self.previous, self.incarnation = self.incarnation, self._new()


class SimState(StateFile):
    """The state file in memory, on a disk that may be full, of a mortal process."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._opening = True
        super().__init__(Path("state.sqlite"))
        self._opening = False

    def _check_version(self, db: sqlite3.Connection) -> None:
        """The disk has it from a template."""

    def _connection(self) -> sqlite3.Connection:
        return self._instance.disk

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        with super().transaction(write=write) as db:
            yield db
            if write and not self._opening:
                self._instance.commits()
        if write and not self._opening:
            self._instance.committed()


class SimLink(Link):
    """As `Link`: every exchange may go wrong in each of its ways."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def execute(
        self, commands: Sequence[Command], *, atomic: bool = False
    ) -> list[Any]:
        if not commands:
            return []
        return self._instance.exchange(commands, atomic)

    def compare_and_set(
        self, key: str, field: str, old: bytes, new: str | bytes
    ) -> bool:
        redis = self._instance.redis
        watched: list[object] = []

        def watch() -> bool:
            watched.append(redis.data.get(key))
            return True

        # WATCH goes before HGET: what changes while the answer is on its way counts.
        (found,) = self._instance.exchange([("HGET", key, field)], False, guard=watch)
        if found != old:
            return False
        done = self._instance.exchange(
            [("HSET", key, field, new)],
            True,
            # A value of the model is never changed in place.
            guard=lambda: redis.data.get(key) is watched[0],
        )
        if done and isinstance(done[0], OutOfMemoryError):
            return False
        return bool(done)

    def info(self, section: str = "") -> dict[str, str]:
        self._instance.exchange([("EXISTS", "x")], False)
        used = sum(map(len, self._instance.redis.data))
        return {
            "maxmemory": "0",
            "maxmemory_policy": "noeviction",
            "used_memory": str(used),
        }

    def infos(self, section: str) -> dict[str, dict[str, str]]:
        return {"": self.info(section)}

    def close(self) -> None:
        pass


class Instance:
    """A name, a folder with a state file, and the process that holds them."""

    def __init__(
        self,
        name: str,
        world: World,
        redis: RedisModel,
        plan: Plan,
        ends: dict[str, BackEnd],
        config: Callable[[str], Config],
    ) -> None:
        self.name = name
        self.world = world
        self.redis = redis
        self.plan = plan
        self.ends = ends
        self.table = Table()
        self.clock = SimClock(world)
        self.disk = _new_disk()
        self.disk_full = False
        self.written = ""
        """The incarnation that the folder remembers."""
        self.coordinator: Coordinator | None = None
        self.lives = 0
        self.wanted = True
        """Whether it is started again when it has died."""
        self.without = ""
        """A pump that is not in its configuration, from its next life on."""
        self.frozen_until = 0.0
        self._config = config
        self._lacks = ""  # in this life
        self._life: greenlet | None = None
        self._token = 0
        self._listening = False

    # Life and death

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self._life is not None or not self.wanted:
            return
        self.lives += 1
        self.world.tell(self.name, f"starts, life {self.lives}")
        self._life = greenlet(self._live)
        self._turn(self._life.switch)

    def crash(self) -> None:
        """Kill -9, at whatever it waits for."""
        if self._life is not None:
            self.world.tell(self.name, "crashes")
            self._turn(self._life.throw, Died)

    def stop(self) -> None:
        """SIGTERM; it is not started again."""
        self.wanted = False
        if self.coordinator is not None:
            self.coordinator.signals.stop += 1
            self.wake()

    def again(self) -> None:
        """SIGTERM; the service manager starts it again."""
        if self.coordinator is not None:
            self.coordinator.signals.stop += 1
            self.wake()

    def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a time; workers go on."""
        self.world.tell(self.name, f"is frozen for {seconds:.1f} s")
        self.frozen_until = self.world.now + seconds

    @property
    def alive(self) -> bool:
        """Say whether the process runs."""
        return self._life is not None

    def ask(self, command: str, arguments: dict[str, Any]) -> None:
        """Send a command to the running coordinator."""
        if self.coordinator is not None:
            self.world.tell(self.name, f"is told: {command}")
            future: Future[Any] = Future()
            self.coordinator._requests.put((command, arguments, future))
            self.coordinator.signals.wake()
            self.wake()

    def _live(self) -> None:
        self._lacks = self.without
        try:
            self.coordinator = Coordinator(
                self._configured(),
                SimFolder(self),  # type: ignore[arg-type]
                SimState(self),
                reload=self._configured,
                environ={},
                clock=self.clock,
            )
            self.coordinator.make_workers(self.coordinator.config.pumps)
            self.coordinator._loop()
            self.coordinator._shut_down()
            self.world.tell(self.name, "has left")
        except Died:
            pass
        except ConfigError as exc:
            # A rival of our name: the service manager starts us again.
            self.world.tell(self.name, f"leaves: {exc}")
        except Exception:
            self.world.fail(f"{self.name} ended with {traceback.format_exc()}")
        finally:
            self._over()

    def _configured(self) -> Config:
        return self._config(self._lacks)

    def _over(self) -> None:
        if self.disk.in_transaction:
            self.disk.rollback()
        for process in list(self.table.alive.values()):
            process.die(-9)
        self.coordinator = None
        self._life = None
        if self.wanted:
            pause = self.world.rng.choice((0.05, 0.5, 3.0))
            self.world.after(pause, self.start)

    # Whose turn it is

    def _turn(self, switch: Callable[..., Any], *arguments: Any) -> None:
        self.world.current = self
        switch(*arguments)
        self.world.current = None

    def sleep(self, seconds: float) -> None:
        """Let time pass; others have their turn."""
        self._token += 1
        self.world.after(seconds, self._resume, self._token)
        self.world.back()

    def wake(self) -> None:
        """Something to listen to is there."""
        if self._listening:
            self._listening = False
            self._token += 1
            self.world.after(0.0002, self._resume, self._token)

    def _resume(self, token: int) -> None:
        if token != self._token or self._life is None:
            return
        if self.world.now < self.frozen_until:
            left = self.frozen_until - self.world.now
            self.world.after(left, self._resume, token)
            return
        self._turn(self._life.switch)

    def listen(self, items: Sequence[Any], seconds: float) -> list[Any]:
        """As `multiprocessing.connection.wait`."""
        self.sleep(0.0002)  # nothing is done in no time
        found = [item for item in items if _is_ready(item)]
        if not found and seconds > 0:
            self._listening = True
            self.sleep(seconds)
            self._listening = False
            found = [item for item in items if _is_ready(item)]
        return found

    def _die_here(self, where: str) -> None:
        self.world.tell(self.name, f"crashes {where}")
        raise Died

    # Redis

    def exchange(
        self,
        commands: Sequence[Command],
        atomic: bool,
        guard: Callable[[], bool] | None = None,
    ) -> list[Any]:
        """One round trip, or what is left of it."""
        world, faults = self.world, self.plan.links
        rng = world.rng
        way = 0.0005
        if world.chance(faults.slow):
            way = rng.choice((0.05, 0.5, 2.5))
        self.sleep(way)
        if world.chance(faults.crash):
            if world.chance(0.5):
                self._run_some(commands, atomic, guard)
            self._die_here(f"at {commands[0][:2]}")
        if self.plan.redis_away > world.now:
            self._tell(commands, "Redis is away")
            raise SourceError("Redis: connection refused")
        if world.chance(faults.lost):
            return self._lose(commands, atomic, guard)
        if guard is not None and not guard():
            self._tell(commands, "changed meanwhile")
            return []
        if atomic or len(commands) == 1 or not world.chance(faults.torn):
            replies = self._run(commands, atomic)
        else:
            # A pipeline is no transaction: others come in between.
            at = rng.randrange(1, len(commands))
            replies = self._run(commands[:at])
            self.sleep(rng.choice((0.0005, 0.05)))
            replies += self._run(commands[at:])
        self._tell(commands, replies)
        self.sleep(0.0003)
        return replies

    def _run(
        self, commands: Sequence[Command], atomic: bool = False, lacks: str = ""
    ) -> list[Any]:
        """Have Redis run them; what is claimed without a pump is not owed to it."""
        for name in {lacks, self._lacks} - {""}:
            for command in commands:
                if command[0] == "RENAMENX":
                    claimed = self.redis.run(("LRANGE", command[1], 0, -1))
                    if isinstance(claimed, ResponseError):
                        continue  # a tombstone
                    unowed = self.plan.unowed.setdefault(name, set())
                    unowed.update(int(raw.split(b" ")[0]) for raw in claimed)
        return self.redis.execute(commands, atomic=atomic)

    def _run_some(
        self,
        commands: Sequence[Command],
        atomic: bool,
        guard: Callable[[], bool] | None,
        lacks: str = "",
    ) -> None:
        if guard is not None and not guard():
            return
        if not atomic:
            commands = commands[: self.world.rng.randrange(len(commands) + 1)]
        self._tell(commands, self._run(commands, atomic, lacks))

    def _lose(
        self,
        commands: Sequence[Command],
        atomic: bool,
        guard: Callable[[], bool] | None,
    ) -> list[Any]:
        """The answer is lost: it ran in part or whole, not at all, or runs later."""
        rng = self.world.rng
        what = rng.choice(("ran", "ran", "never", "late"))
        self._tell(commands, f"answer lost, {what}")
        if what == "ran":
            self._run_some(commands, atomic, guard)
        elif what == "late":
            era, lacks = self.plan.era, self._lacks

            def late() -> None:
                if era == self.plan.era:  # else it went to a server that is gone
                    self._run_some(commands, atomic, guard, lacks)

            self.world.after(rng.choice((0.01, 0.3, 1.5, 4.0)), late)
        self.sleep(rng.choice((0.001, 0.2, 1.0)))
        raise SourceError("Redis: Timeout reading from socket")

    def _tell(self, commands: Sequence[Command], replies: Any) -> None:
        if not self.world.tracing:
            return
        if isinstance(replies, str):
            self.world.tell(self.name, f"{replies}: {_shown(commands)}")
            return
        if all(c[0] in ("PEXPIRE", "LLEN", "EXISTS", "HGETALL") for c in commands):
            return
        lines = [
            f"{_text(command)} -> {_text(reply)}"
            for command, reply in zip(commands, replies, strict=True)
        ]
        self.world.tell(self.name, "\n                        ".join(lines))

    # The disk

    def commits(self) -> None:
        """A transaction is about to be committed."""
        if self.disk_full:
            raise StateError("state file: database or disk is full")
        faults = self.plan.disks
        if self.world.chance(faults.refuse):
            self.world.tell(self.name, "the disk refuses a transaction")
            raise StateError("state file: disk I/O error")
        if self.world.chance(faults.crash):
            self._die_here("before a commit")

    def committed(self) -> None:
        """A transaction is on the disk."""
        if self.world.tracing:
            self.world.tell(self.name, "has committed")
        if self.world.chance(self.plan.disks.crash):
            self._die_here("after a commit")


def _is_ready(item: Any) -> bool:
    if isinstance(item, SimChannel):
        return bool(item.heard)
    if isinstance(item, Sentinel):
        return item.process.exitcode is not None
    return bool(item.woken)


def _shown(commands: Sequence[Command]) -> str:
    return "; ".join(map(_text, commands))


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(_text, value))
    if isinstance(value, dict):
        return " ".join(f"{_text(k)}={_text(v)}" for k, v in value.items())
    if isinstance(value, bytes):
        try:
            value = value.decode("ascii")
        except UnicodeDecodeError:
            value = repr(value)
    text = str(value).replace("tyk-system-analytics", "~").replace("tyk-pump:", "")
    return text if len(text) < 120 else text[:117] + "..."


# The production modules, made to run in a world

_world: list[World] = []
_template = b""


def _new_disk() -> sqlite3.Connection:
    disk = sqlite3.connect(":memory:", isolation_level=None)
    disk.deserialize(_template)
    return disk


def _current() -> Instance:
    found = _world[0].current
    assert found is not None
    return found


class _Chance:
    """As `secrets`, out of the seed."""

    @staticmethod
    def randbits(count: int) -> int:
        return _world[0].rng.getrandbits(count)


class _Time:
    """As `time`, of the world."""

    @staticmethod
    def time() -> float:
        return EPOCH + _world[0].now


class _Os:
    """As `os`, as far as a supervisor needs it."""

    @staticmethod
    def getpid() -> int:
        return 1

    @staticmethod
    def kill(pid: int, number: int) -> None:
        process: SimProcess | None = _current().table.alive.get(pid)
        if process is not None:
            process.abort()


class _Connection:
    """As `multiprocessing.connection`."""

    @staticmethod
    def wait(items: Sequence[Any], seconds: float) -> list[Any]:
        return _current().listen(items, seconds)


def install() -> None:
    """Put made-up things where the coordinator finds the system's; for good."""
    global _template
    made: Any
    for module, name, made in (
        (loop, "connection", _Connection),
        (loop, "Signals", SimSignals),
        (lifeline, "Link", lambda _: SimLink(_current())),
        (supervisor, "_context", SimContext(_current)),
        (supervisor, "Channel", SimChannel),
        (supervisor, "os", _Os),
        (ulid, "secrets", _Chance),
        (ulid, "time", _Time),
        (cursors, "BLOCK", LANE_BLOCK),
    ):
        setattr(module, name, made)
    disk = sqlite3.connect(":memory:", isolation_level=None)
    StateFile._check_version(StateFile.__new__(StateFile), disk)
    _template = disk.serialize()
    disk.close()


def enter(world: World) -> None:
    """Make a world the one that all this happens in."""
    _world[:] = [world]
