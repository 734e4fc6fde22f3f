"""Many pumps at once, their back ends ill and their processes killed: all arrives."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.daemon.harness import (
    KILLS,
    KILLS_TIMEOUT,
    LIST,
    SETTLE_SECONDS,
    Daemon,
    count_lines,
    names,
    progress,
    settled,
    wait_for,
)
from tests.daemon.mix import (
    MAKERS,
    Ferret,
    HttpSide,
    Mix,
    Postgres,
    Side,
    Stdout,
    Topic,
    named,
)
from tests.faults.plant import environment
from tests.servers.go import FERRETDB
from tests.servers.java import KAFKA
from tests.servers.kafka import topic_name
from tests.servers.postgres import programs
from tyk_pump import pumps

LONG = KILLS >= 100
PARTS = 4
"""In how many parts the mix is tested: each start is one of so many workers."""
ROUNDS = max(3, KILLS // 4 // PARTS)
"""A round has a kill or a stop, and costs more than in the tests with one pump."""
NAMES = [name for name in MAKERS if name not in ("csv", "faulty")]
CHOSEN = [["csv", "faulty", *NAMES[part::PARTS]] for part in range(PARTS)]
POISON = "poison"
POISONED = ["faulty", *NAMES] if LONG else ["faulty"]
"""Pumps whose workers die of one record."""


@pytest.fixture
def heavy(
    request: pytest.FixtureRequest, chosen: list[str]
) -> list[Callable[[], Side]]:
    """The real servers of a long run, where they are prepared; in the last part."""
    if not LONG or chosen is not CHOSEN[-1]:
        return []
    made: list[Callable[[], Side]] = []
    if KAFKA.folder.is_dir():
        broker = request.getfixturevalue("kafka_server")
        made.append(lambda: Topic(broker, topic_name(request.node.name)))
    if programs() is not None:
        databases = request.getfixturevalue("postgres_server")
        made.append(lambda: Postgres(databases.database()))
    if FERRETDB.folder.is_dir():
        store = request.getfixturevalue("mongo_server")
        made.append(lambda: Ferret(store))
    return made


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


def mixed_daemon(folder: Path, port: int, mix: Mix, **settings: Any) -> Daemon:
    """Return an instance with the pumps of a mix, some of which a record kills."""
    poisoned = [name.upper() for name in POISONED]
    around = {**environment(), "TYK_TEST_POISON": " ".join([POISON, *poisoned])}
    daemon = Daemon(
        *(folder, port, mix.sections),
        environment=around,
        window_records=50,
        **settings,
    )
    for side in mix.sides:
        if isinstance(side, Stdout):
            daemon.out = side.path
    return daemon


@pytest.mark.timeout(KILLS_TIMEOUT)
@pytest.mark.parametrize("chosen", CHOSEN, ids=range(PARTS))
def test_kills_among_ill_back_ends(
    tmp_path: Path,
    make_redis: Callable[..., Any],
    chosen: list[str],
    heavy: list[Callable[[], Side]],
) -> None:
    """Each record is at each back end, once where it has ids, and the books balance.

    The only dead letter of a pump is the record of which its worker dies.
    """
    server = make_redis()
    client = server.client()
    chance = random.Random(7)
    folder = tmp_path / "mix"
    with (
        Mix(folder, chosen, *heavy) as mix,
        mixed_daemon(tmp_path / "a", server.port, mix, beat_timeout=3) as daemon,
    ):
        daemon.start().wait_ready()
        killed = [side for side in mix.sides if side.name in POISONED]
        pushed = push(client, [*names("p", 30), POISON, *names("q", 30)])
        for side in mix.sides:
            if side not in killed:
                side.trouble(chance)
        # No other death comes in between: nobody else is to be blamed.
        wait_for(
            "a dead letter of each",
            lambda: len(dead_letters(daemon)) == len(killed),
            SETTLE_SECONDS,
        )
        for number in range(ROUNDS):
            pushed += push(client, names(f"m{number}", chance.randrange(1, 400)))
            before = count_lines(folder / "csv")
            for side in mix.sides:
                side.trouble(chance)
            time.sleep(chance.random() * 0.2)
            strike(daemon, chance)
            progress(folder / "csv", before)
        for side in mix.sides:
            side.calm()
        wait_settled(daemon, client, SETTLE_SECONDS)
        letters = dead_letters(daemon)
        found = sorted(letter["pump"] for letter in letters)
        assert found == sorted(side.name.upper() for side in killed), daemon.tail()
        assert all("died" in letter["reason"] for letter in letters)
        for side in mix.sides:
            side.last_look()
        daemon.audit()
        assert daemon.stop() == 0
        for side in mix.sides:
            spared = POISON if side in killed else None
            side.check(name for name in pushed if name != spared)
        daemon.audit()


def test_every_type_is_in_the_mix() -> None:
    """But for the one that does nothing, and those that write uptime reports."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mix = stack.enter_context(Mix(folder, MAKERS))
        found = {side.section["type"] for side in mix.sides}
    assert found == {*pumps.REGISTRY, "faulty"} - {"dummy", "kafka"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["elasticsearch", "splunk"])
def test_a_hung_back_end_holds_up_no_other(
    tmp_path: Path, make_redis: Callable[..., Any], name: str
) -> None:
    """While one answers nothing, all others get everything; later it gets it, too."""
    server = make_redis()
    client = server.client()
    others = ["csv", "logzio", "kinesis", "syslog", "statsd", "sql", "mongo"]
    with (
        Mix(tmp_path / "mix", [name, *others]) as mix,
        mixed_daemon(tmp_path / "a", server.port, mix) as daemon,
    ):
        hung, *well = mix.sides
        assert isinstance(hung, HttpSide)
        hung.held = released = threading.Event()
        daemon.start()
        pushed = push(client, names("h", 1000))
        for side in well:
            expected = len(side.expected(pushed))
            wait_for(side.name, lambda s=side, n=expected: s.count() >= n)  # type: ignore[misc]
            side.check(pushed)
        assert not hung.names()
        hung.held = None
        released.set()
        wait_settled(daemon, client, SETTLE_SECONDS)
        assert dead_letters(daemon) == []
        assert daemon.stop() == 0
        for side in mix.sides:
            side.check(pushed)
