"""Many pumps at once, their back ends ill and their processes killed: all arrives."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.daemon.harness import LIST, Daemon, count_lines, settled, wait_for
from tests.daemon.mix import HttpSide, Mix, Topic, named
from tests.daemon.test_kills import (
    KILLS,
    KILLS_TIMEOUT,
    SETTLE_SECONDS,
    names,
    progress,
)
from tests.servers.java import KAFKA
from tests.servers.kafka import topic_name

ROUNDS = max(6, KILLS // 4)
"""A round has a kill or a stop, and costs more than in the tests with one pump."""


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> Topic | None:
    """A topic of the real broker, where it is prepared."""
    if not KAFKA.folder.is_dir():
        return None
    broker = request.getfixturevalue("kafka_server")
    return Topic(broker, topic_name(request.node.name))


def push(client: redis.Redis, wanted: list[str]) -> list[str]:
    """Push records of these names; return the names."""
    client.rpush(LIST, *map(named, wanted))
    return wanted


def wait_settled(daemon: Daemon, client: redis.Redis, seconds: float) -> None:
    """Wait until every pump has settled every record; else say which has not."""
    try:
        wait_for("everything settled", lambda: settled(client), seconds)
    except AssertionError:
        pumps = [
            f"{pump['name']}: {pump['state']}, {pump['pending']} pending, "
            f"{pump['restarts']} restarts, {pump['last_error']}"
            for pump in daemon.status()["pumps"]
        ]
        told = "\n".join([*pumps, daemon.tail()])
        raise AssertionError(f"not settled in {seconds:.0f} s:\n{told}") from None


def dead_letters(daemon: Daemon) -> list[Any]:
    """Return the dead letters."""
    done = daemon.command("dead-letters", "list", "--json")
    found: list[Any] = json.loads(done.stdout)
    return found


STRIKES = ("worker", "worker", "coordinator", "freeze", "pause")


def strike(
    daemon: Daemon, chance: random.Random, strikes: Sequence[str] = STRIKES
) -> None:
    """Kill or freeze one process of the running command."""
    workers = daemon.children()
    worker = chance.choice(workers) if workers else daemon.pid
    what = chance.choice(strikes)
    with contextlib.suppress(ProcessLookupError):
        if what == "coordinator":
            daemon.kill()
            daemon.start()
        elif what == "freeze":
            os.kill(worker, signal.SIGSTOP)  # until it is replaced
        elif what == "pause":
            os.kill(daemon.pid, signal.SIGSTOP)
            time.sleep(chance.random() * 0.5)
            os.kill(daemon.pid, signal.SIGCONT)
        elif worker != daemon.pid:
            os.kill(worker, signal.SIGKILL)


@pytest.mark.timeout(KILLS_TIMEOUT)
def test_kills_among_ill_back_ends(
    tmp_path: Path, make_redis: Callable[..., Any], topic: Topic | None
) -> None:
    """Each record is at each back end, once where it has ids; no dead letters."""
    server = make_redis()
    client = server.client()
    chance = random.Random(7)
    pushed: list[str] = []
    with (
        Mix(tmp_path / "csv", topic) as mix,
        Daemon(
            tmp_path / "a",
            server.port,
            mix.sections,
            window_records=50,
            beat_timeout=3,
        ) as daemon,
    ):
        daemon.start().wait_ready()
        for number in range(ROUNDS):
            pushed += push(client, names(f"m{number}", chance.randrange(1, 400)))
            before = count_lines(tmp_path / "csv")
            for side in mix.sides:
                side.trouble(chance)
            time.sleep(chance.random() * 0.2)
            strike(daemon, chance)
            progress(tmp_path / "csv", before)
        for side in mix.sides:
            side.calm()
        wait_settled(daemon, client, SETTLE_SECONDS)
        assert dead_letters(daemon) == [], daemon.tail()
        for side in mix.sides:
            side.last_look()
        assert daemon.stop() == 0
        for side in mix.sides:
            side.check(pushed)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["elasticsearch", "splunk"])
def test_a_hung_back_end_holds_up_no_other(
    tmp_path: Path, make_redis: Callable[..., Any], name: str
) -> None:
    """While one answers nothing, all others get everything; later it gets it, too."""
    server = make_redis()
    client = server.client()
    with (
        Mix(tmp_path / "csv") as mix,
        Daemon(tmp_path / "a", server.port, mix.sections, window_records=50) as daemon,
    ):
        hung = mix.side(name)
        assert isinstance(hung, HttpSide)
        others = [side for side in mix.sides if side is not hung]
        hung.held = released = threading.Event()
        daemon.start()
        pushed = push(client, names("h", 1000))
        for side in others:
            wait_for(side.name, lambda side=side: side.count() >= len(pushed))  # type: ignore[misc]
            side.check(pushed)
        assert not hung.names()
        hung.held = None
        released.set()
        wait_settled(daemon, client, SETTLE_SECONDS)
        assert dead_letters(daemon) == []
        for side in mix.sides:
            side.last_look()
        assert daemon.stop() == 0
        for side in mix.sides:
            side.check(pushed)
