"""kill -9, SIGSTOP and restarts of Redis, whatever the journal and the topology.

Each run counts, per pump, what was lost and what came twice. What a back end that can
tell has twice is a fault; one that cannot may have what was in flight at the kills.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.daemon.figures import figure
from tests.daemon.harness import (
    ALL_KILLS,
    LIST,
    Daemon,
    names,
    record,
    wait_for,
)
from tests.daemon.mix import Csv, Elasticsearch, HttpSide, Side, Splunk
from tests.servers.http import Answer, Request
from tests.servers.redis import RedisServer, cluster
from tyk_pump.coordinator.supervisor import MAX_FRAMES

JOURNALS: dict[str, dict[str, Any]] = {
    "redis": {"type": "redis"},
    "disk": {"type": "disk"},
    "spill": {"type": "redis", "max_bytes": 60_000},
}
ALL = list(itertools.product(JOURNALS, (1, 2), ("single", "cluster")))
FEW = [
    ("redis", 1, "cluster"),
    ("redis", 2, "single"),
    ("disk", 1, "single"),
    ("disk", 2, "cluster"),
    ("spill", 1, "cluster"),
    ("spill", 2, "single"),
]
"""For every run."""
WORLDS = FEW if ALL_KILLS < 100 else ALL
KILLS_HERE = -(-ALL_KILLS // len(WORLDS))
TIMEOUT = 300 + 15 * KILLS_HERE
WINDOW = 50
SHARDS = ("", *(f"_{number}" for number in range(10)))

STRIKES = (
    *("worker", "coordinator") * 5,
    *("pause", "freeze", "redis"),
)


def plain(name: str) -> bytes:
    """Return a record that every pump takes, whose path is its name."""
    return record(name, path=name)


class Sqlite(Side):
    """Rows and watermark in one transaction."""

    once = True

    def __init__(self, path: Path) -> None:
        self._path = path
        meta = {"type": "sqlite", "connection_string": str(path)}
        super().__init__("sql", meta)

    def names(self) -> Counter[str]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=60)) as one:
            try:
                rows = one.execute("SELECT path FROM tyk_analytics").fetchall()
            except sqlite3.OperationalError:
                return Counter()  # before its first record
        return Counter(path for (path,) in rows)


class Redis:
    """One server with a durable log, or a cluster; gateways push into it."""

    def __init__(self, servers: list[RedisServer], *, clustered: bool) -> None:
        self.servers = servers
        self.clustered = clustered
        self._client: Any = None
        if clustered:
            self._client = redis.RedisCluster(host="127.0.0.1", port=servers[0].port)

    @property
    def settings(self) -> dict[str, Any]:
        """Return what a configuration says of it."""
        if not self.clustered:
            return {}
        addresses = [f"127.0.0.1:{server.port}" for server in self.servers]
        storage = {"addrs": addresses, "enable_cluster": True}
        return {"analytics_storage_config": storage}

    @property
    def client(self) -> Any:
        """Return a client of all of it."""
        if self._client is None:
            self._client = self.servers[0].client()
        return self._client

    def push(self, pushed: list[str], chance: random.Random) -> list[str]:
        """Push these records as gateways do; return them."""
        shard = chance.choice(SHARDS) if self.clustered else ""
        self.client.rpush(LIST + shard, *map(plain, pushed))
        return pushed

    def restart(self) -> None:
        """kill -9, and start with what the log has."""
        if not self.clustered:
            self.servers[0].kill()
            self.servers[0].restart()

    def holds(self) -> list[bytes]:
        """Return the lists that hold records."""
        return list(self.client.scan_iter("*analytics*", count=1000, _type="list"))

    def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            self._client.close()


@contextlib.contextmanager
def topology(
    which: str, folder: Path, make_redis: Callable[..., RedisServer]
) -> Iterator[Redis]:
    """Start a single server or a cluster."""
    with contextlib.ExitStack() as stack:
        if which == "cluster":
            servers = stack.enter_context(cluster(folder))
        else:
            servers = [make_redis(appendonly="yes", appendfsync="always")]
        made = Redis(servers, clustered=which == "cluster")
        stack.callback(made.close)
        yield made


class Sides:
    """The back ends of a run: three that can tell repeats, and one that cannot."""

    def __init__(self, folder: Path) -> None:
        self.splunk = Splunk()
        self.index = Elasticsearch()
        self.all: list[Side] = [
            Csv(folder / "csv"),
            Sqlite(folder / "rows.sqlite"),
            self.index,
            self.splunk,
        ]
        self.busy = False
        """Whether the collector takes nothing; its pump falls behind, then."""
        answer = self.splunk.server.respond

        def respond(request: Request) -> Answer:
            return Answer(503, b"busy") if self.busy else answer(request)

        self.splunk.server.respond = respond

    @property
    def sections(self) -> dict[str, Any]:
        """Return the pumps of the configuration."""
        return {side.name: side.section for side in self.all}

    def missing(self, pushed: list[str]) -> dict[str, int]:
        """Return how many records each of them does not have yet."""
        wanted = set(pushed)
        found = {side.name: len(wanted - set(side.names())) for side in self.all}
        return {name: count for name, count in found.items() if count}

    def close(self) -> None:
        """End those that listen."""
        for side in (self.splunk, self.index):
            assert isinstance(side, HttpSide)
            side.close()

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Strikes:
    """Kills and freezes, counted, with what each of them may cost."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.kills = 0
        self.others = 0
        self.in_flight = 0
        """Records that may come twice: a frame of a killed worker; all frames before
        the workers of a coordinator that did not live to settle them."""

    def strike(self, daemon: Daemon, server: Redis) -> None:
        """Do one of them."""
        what = self._chance.choice(STRIKES)
        workers = daemon.children()
        if what in ("worker", "freeze") and not workers:
            what = "coordinator"
        frames = 1 if what in ("worker", "freeze") else MAX_FRAMES
        self.in_flight += frames * WINDOW
        if what in ("worker", "coordinator"):
            self.kills += 1
        else:
            self.others += 1
        with contextlib.suppress(ProcessLookupError):
            if what == "worker":
                os.kill(self._chance.choice(workers), signal.SIGKILL)
            elif what == "freeze":
                os.kill(self._chance.choice(workers), signal.SIGSTOP)
            elif what == "coordinator":
                daemon.kill()
                daemon.start()
            elif what == "redis":
                server.restart()
            else:
                os.kill(daemon.pid, signal.SIGSTOP)
                time.sleep(self._chance.random() * 0.5)
                os.kill(daemon.pid, signal.SIGCONT)


def note(sides: Sides, pushed: list[str], strikes: Strikes) -> None:
    """Put what was counted among the figures."""
    lost = sum(sides.missing(pushed).values())
    twice = {side.name: side.names().total() - len(side.names()) for side in sides.all}
    can_tell = sum(twice[side.name] for side in sides.all if side.once)
    cannot = sum(twice[side.name] for side in sides.all if not side.once)
    figure("kills", strikes.kills)
    figure("freezes, pauses, restarts of Redis", strikes.others)
    figure("records sent", len(pushed))
    figure("records lost", lost, at_most=0)
    figure("repeats where a back end can tell", can_tell, at_most=0)
    figure(
        "repeats where none can (bound: in flight)", cannot, at_most=strikes.in_flight
    )


def settle(
    instances: list[Daemon], sides: Sides, server: Redis, pushed: list[str]
) -> None:
    """Wait until everything is everywhere and nothing is left to do."""
    seconds = 120 + KILLS_HERE

    def idle() -> bool:
        return not any(
            pump["pending"] for one in instances for pump in one.status()["pumps"]
        )

    try:
        wait_for("all records", lambda: not sides.missing(pushed), seconds)
        wait_for("an end", lambda: idle() and not server.holds(), seconds)
    except AssertionError as exc:
        told = "\n".join(
            f"{one.folder.name}: {pump['name']} {pump['state']}, {pump['pending']} "
            f"pending, {pump['last_error']}"
            for one in instances
            for pump in one.status()["pumps"]
        )
        raise AssertionError(f"{exc}: {sides.missing(pushed)}\n{told}") from None


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize(("journal", "count", "which"), WORLDS)
def test_kills_lose_nothing(
    tmp_path: Path,
    make_redis: Callable[..., RedisServer],
    journal: str,
    count: int,
    which: str,
) -> None:
    """Everything is everywhere, once where a back end can tell; no dead letters."""
    chance = random.Random(f"{journal} {count} {which}")
    strikes = Strikes(chance)
    pushed: list[str] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(topology(which, tmp_path, make_redis))
        sides = stack.enter_context(Sides(tmp_path))
        instances = [
            Daemon(
                tmp_path / f"i{number}",
                server.servers[0].port,
                sides.sections,
                window_records=WINDOW,
                beat_timeout=5,
                journal=JOURNALS[journal],
                **server.settings,
            )
            for number in range(count)
        ]
        for one in instances:
            stack.enter_context(one).start()
        for one in instances:
            one.wait_ready()
        for turn in itertools.count():
            fresh = names(f"n{turn}", chance.randrange(1, 500))
            pushed += server.push(fresh, chance)
            sides.busy = chance.random() < 0.4
            time.sleep(chance.random() * 0.4)
            strikes.strike(chance.choice(instances), server)
            if strikes.kills >= KILLS_HERE:
                break
            if chance.random() < 0.5:
                ready = chance.choice(instances)
                wait_for("readiness", lambda: ready.get("/health")[0] == 200)  # noqa: B023
        sides.busy = False
        for one in instances:
            one.wait_ready()
        try:
            settle(instances, sides, server, pushed)
            for one in instances:
                one.audit()
                letters = one.command("dead-letters", "list", "--json").stdout
                assert letters.strip() == "[]", letters
                assert one.stop() == 0, one.tail()
        finally:
            note(sides, pushed, strikes)
        for side in sides.all:
            side.check(pushed)
        times = sides.splunk.names()
        assert times.total() - len(times) <= strikes.in_flight


# A cluster with replicas


@pytest.mark.timeout(300)
def test_a_master_of_a_cluster_dies(tmp_path: Path) -> None:
    """Its replica goes on under load: what was replicated is delivered."""
    chance = random.Random("master")
    out = tmp_path / "csv"
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(cluster(tmp_path / "cluster", 3, 1))
        made = Redis(servers, clustered=True)
        stack.callback(made.close)
        side = Csv(out)
        daemon = stack.enter_context(
            Daemon(
                tmp_path / "a",
                0,
                {"csv": side.section},
                window_records=WINDOW,
                **made.settings,
            )
        )
        wait_for("the replicas", lambda: all(map(replicated, servers)))
        daemon.start().wait_ready()
        pushed: list[str] = []
        for turn in range(30):
            fresh = names(f"c{turn}", chance.randrange(1, 200))
            pushed += replicated_push(made, fresh, LIST + chance.choice(SHARDS))
            if turn == 10:
                victim = made.client.get_node_from_key(LIST + SHARDS[0])
                (server,) = (one for one in servers if one.port == victim.port)
                server.kill()
        with contextlib.suppress(AssertionError):
            wait_for("all", lambda: not set(pushed) - set(side.names()), 120)
        wait_for("an end", lambda: not made.holds(), 120)
        daemon.wait_ready()
        assert daemon.stop() == 0
    found = side.names()
    lost = set(pushed) - set(found)
    figure("records lost with a master of a cluster", len(lost), at_most=0)
    figure("repeated after its failover (csv)", found.total() - len(found))
    assert not lost


def replicated(server: RedisServer) -> bool:
    """Say whether a server has a replica, or is one that is in step."""
    with contextlib.closing(server.client()) as client:
        found: Any = client.info("replication")
    if found["role"] == "master":
        return bool(found["connected_slaves"])
    return bool(found["master_link_status"] == "up")


def replicated_push(made: Redis, fresh: list[str], key: str) -> list[str]:
    """Push until a replica has confirmed it, else its loss were no fault of ours.

    Return the names of the attempt that was; others may be there, too.
    """
    for attempt in itertools.count():
        tried = [f"{name}-{attempt}" for name in fresh]
        node = made.client.get_node_from_key(key)
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis(port=node.port, single_connection_client=True) as client,
        ):
            client.rpush(key, *map(plain, tried))
            # One that was promoted has no replica, and is not killed.
            found: Any = client.info("replication")
            if not found["connected_slaves"] or client.wait(1, 5000):
                return tried
        assert attempt < 100, "no replica confirms"
        time.sleep(0.2)
        with contextlib.suppress(redis.RedisError):
            made.client.nodes_manager.initialize()
    raise AssertionError
