"""The uptime list into its store, by the command as users run it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.daemon.harness import (
    Daemon,
    assert_exactly_once,
    count_lines,
    csv_names,
    csv_pump,
    push,
    wait_for,
)
from tests.servers import free_port
from tests.servers.database import Database, Databases
from tests.servers.mongo import MongoServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer
from tyk_pump.record import wire
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.source.lists import UPTIME_LIST

pytestmark = pytest.mark.timeout(180)

COLLECTION = "tyk_uptime_analytics"
HOUR = 1_773_478_800
KILLS = int(os.environ.get("TYK_PUMP_KILLS", "30")) // 3


def report(number: int, **fields: Any) -> bytes:
    """Return a report that is known by its URL."""
    values: dict[str, Any] = {
        "url": f"http://up/{number}",
        "request_time": 10,
        "response_code": 200,
        "timestamp": (HOUR + number % 3600, 0),
        "api_id": "api",
        "org_id": "org",
        **fields,
    }
    return wire.pack_uptime(UptimeRecord(**values))


def push_reports(client: redis.Redis, numbers: range) -> None:
    """Push as a gateway's host checker does."""
    client.rpush(UPTIME_LIST, *[report(number) for number in numbers])


def mongo_daemon(folder: Path, redis_port: int, url: str, **settings: Any) -> Daemon:
    """Return an instance with a csv pump and the uptime pump."""
    return Daemon(
        folder,
        redis_port,
        {"csv": csv_pump(folder / "csv")},
        dont_purge_uptime_data=False,
        uptime_pump_config={"mongo_url": url},
        **settings,
    )


def sql_daemon(
    folder: Path, redis_port: int, database: Database, **settings: Any
) -> Daemon:
    """Return an instance with a csv pump and the uptime pump into SQL."""
    section = {
        "uptime_type": "sql",
        "type": database.dialect,
        "connection_string": database.dsn,
    }
    return Daemon(
        folder,
        redis_port,
        {"csv": csv_pump(folder / "csv")},
        dont_purge_uptime_data=False,
        uptime_pump_config=section,
        **settings,
    )


def hits(database: Database, dimension: str = "url") -> Counter[tuple[str, int]]:
    """Return the hits of each value of a dimension by hour."""
    if COLLECTION not in database.tables():
        return Counter()
    rows = database.query(
        "SELECT dimension_value, timestamp, counter_hits FROM tyk_uptime_analytics"
        " WHERE dimension = %s",
        dimension,
    )
    return Counter({(value, start): count for value, start, count in rows})


def urls(server: MongoServer) -> Counter[str]:
    """Return how often each report is in the collection."""
    return Counter(document["url"] for document in server.documents(COLLECTION))


def expected(count: int) -> Counter[str]:
    """Return each report once."""
    return Counter(f"http://up/{number}" for number in range(count))


def test_reports_and_calls_go_their_own_ways(
    tmp_path: Path, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    """Each pump has just its own, counts just that, and is shown like any other."""
    client = redis_server.client()
    with mongo_daemon(tmp_path, redis_server.port, mongo_server.url()) as daemon:
        daemon.start().wait_ready()
        push(client, ["a", "b", "c"])
        push_reports(client, range(20))
        client.rpush(UPTIME_LIST, b"no report")
        wait_for("the reports", lambda: sum(urls(mongo_server).values()) == 20)
        wait_for("the calls", lambda: count_lines(tmp_path / "csv") == 4)
        wait_for("the letter", lambda: daemon.pump("uptime")["dead"] == 1)
        calls, reports = daemon.pump("CSV"), daemon.pump("uptime")
        numbers = ("delivered", "filtered", "dead", "pending")
        assert [calls[name] for name in numbers] == [3, 0, 0, 0]
        assert [reports[name] for name in numbers] == [20, 0, 1, 0]
        assert reports["type"] == "uptime-mongo"
        assert UPTIME_LIST in daemon.status()["lists"]
        metrics = daemon.get("/metrics")[1]
        assert 'tyk_pump_records_delivered_total{pump="uptime"' in metrics
        letters = json.loads(daemon.command("dead-letters", "list", "--json").stdout)
        assert [letter["pump"] for letter in letters] == ["uptime"]
        assert daemon.stop() == 0
    assert urls(mongo_server) == expected(20)
    assert_exactly_once(tmp_path / "csv", ["a", "b", "c"])
    assert client.keys("*claim*") == client.keys("*stream*") == []


def test_dont_purge_uptime_data(
    tmp_path: Path, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    """The list stays as it is; a reload begins with it, and ends it."""
    client = redis_server.client()
    push_reports(client, range(5))
    daemon = mongo_daemon(tmp_path, redis_server.port, mongo_server.url())
    daemon.write(dont_purge_uptime_data=True)
    with daemon:
        daemon.start().wait_ready()
        push(client, ["a"])
        wait_for("the call", lambda: count_lines(tmp_path / "csv") == 2)
        assert client.llen(UPTIME_LIST) == 5
        daemon.write(dont_purge_uptime_data=False)
        assert daemon.command("reload").returncode == 0
        wait_for("the reports", lambda: urls(mongo_server) == expected(5))
        wait_for("their end", lambda: daemon.pump("uptime")["pending"] == 0)
        daemon.write(dont_purge_uptime_data=True)
        assert daemon.command("reload").returncode == 0
        push_reports(client, range(5, 8))
        push(client, ["b"])
        wait_for("the other call", lambda: count_lines(tmp_path / "csv") == 3)
        assert client.llen(UPTIME_LIST) == 3
        assert daemon.stop() == 0


def test_a_wrong_configuration_stops_that_pump_only(
    tmp_path: Path, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    """It is said at the start; reports wait, calls do not."""
    client = redis_server.client()
    with mongo_daemon(tmp_path, redis_server.port, "no url") as daemon:
        daemon.start()
        push(client, ["a"])
        push_reports(client, range(5))
        wait_for("the call", lambda: count_lines(tmp_path / "csv") == 2)
        assert "uptime_pump_config.mongo_url: does not begin with" in daemon.tail()
        state = daemon.pump("uptime")
        assert (state["state"], state["pending"]) == ("failed", 5)
        checked = daemon.command("check", "--offline")
        assert checked.returncode == 1
        assert "uptime_pump_config.mongo_url" in checked.stdout
        daemon.write(uptime_pump_config={"mongo_url": mongo_server.url()})
        assert daemon.command("reload").returncode == 0
        wait_for("the reports", lambda: urls(mongo_server) == expected(5))
        wait_for("readiness", daemon.ready)
        assert daemon.stop() == 0
    assert_exactly_once(tmp_path / "csv", ["a"])


def test_without_a_word_reports_stay(tmp_path: Path, redis_server: RedisServer) -> None:
    """A configuration without a store for them is as good as it was, with a warning."""
    client = redis_server.client()
    push_reports(client, range(5))
    daemon = Daemon(
        tmp_path,
        redis_server.port,
        {"csv": csv_pump(tmp_path / "csv")},
        dont_purge_uptime_data=False,
    )
    with daemon:
        daemon.start().wait_ready()
        assert "uptime reports stay in their list" in daemon.tail()
        assert daemon.stop() == 0
    assert client.llen(UPTIME_LIST) == 5


def test_a_dead_store_delays_only_reports(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Calls pass it by; what is claimed can be returned to the gateway's list."""
    client = redis_server.client()
    url = f"mongodb://127.0.0.1:{free_port()}/tyk?serverSelectionTimeoutMS=100"
    with mongo_daemon(tmp_path, redis_server.port, url) as daemon:
        daemon.start()
        push_reports(client, range(5))
        push(client, ["a"])
        wait_for("the call", lambda: count_lines(tmp_path / "csv") == 2)
        wait_for("the claim", lambda: daemon.pump("uptime")["pending"] == 5)
        assert daemon.pump("CSV")["pending"] == 0
        assert daemon.get("/ready")[0] == 503
        daemon.stop()
        returned = daemon.command("claims", "return", "--json")
        assert returned.returncode == 0, returned.stderr
    assert client.llen(UPTIME_LIST) == 5
    assert client.keys("*claim*") == []


@pytest.mark.timeout(300 + 10 * KILLS)
def test_killed_at_random_moments(
    tmp_path: Path, redis_server: RedisServer, mongo_server: MongoServer
) -> None:
    """kill -9 of the command and of its workers: each report and each call once."""
    client = redis_server.client()
    chance = random.Random(3)
    names: list[str] = []
    pushed = 0
    url = mongo_server.url()
    daemon = mongo_daemon(tmp_path, redis_server.port, url, window_records=20)
    with daemon:
        for kill in range(KILLS):
            daemon.start()
            fresh = [f"k{kill}-{number}" for number in range(chance.randrange(1, 50))]
            push(client, fresh)
            names += fresh
            more = chance.randrange(1, 200)
            push_reports(client, range(pushed, pushed + more))
            pushed += more
            if chance.random() < 0.7:
                seen = mongo_server.documents(COLLECTION)
                with contextlib.suppress(AssertionError):
                    wait_for(
                        "progress",
                        lambda: len(mongo_server.documents(COLLECTION)) > len(seen),  # noqa: B023
                        5,
                    )
            time.sleep(chance.random() * 0.2)
            if chance.random() < 0.3:
                for pid in daemon.children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(chance.random() * 0.2)
            daemon.kill()
        daemon.start().wait_ready()
        wait_for("all reports", lambda: sum(urls(mongo_server).values()) >= pushed)
        wait_for("all calls", lambda: len(csv_names(tmp_path / "csv")) >= len(names))
        assert daemon.pump("uptime")["dead"] == 0
        assert daemon.stop() == 0
    assert urls(mongo_server) == expected(pushed)
    assert_exactly_once(tmp_path / "csv", names)
    assert client.keys("*claim*") == []


@pytest.mark.parametrize("kind", ["postgres_server", "maria_server"])
def test_reports_are_counted_by_the_hour(
    tmp_path: Path,
    redis_server: RedisServer,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    """Into SQL: a row per URL, error and hour; what is no report is a letter."""
    servers: Databases = request.getfixturevalue(kind)
    database = servers.database()
    client = redis_server.client()
    with sql_daemon(tmp_path, redis_server.port, database) as daemon:
        daemon.start().wait_ready()
        push(client, ["a"])
        for start in (HOUR, HOUR + 3600):
            for code in (200, 200, 503):
                fields = {"timestamp": (start + 5, 0), "response_code": code}
                client.rpush(UPTIME_LIST, report(1, **fields))
        client.rpush(UPTIME_LIST, b"no report", report(2, org_id=""))
        wait_for("the letter", lambda: daemon.pump("uptime")["dead"] == 1)
        wait_for("the end", lambda: daemon.pump("uptime")["pending"] == 0)
        assert daemon.pump("uptime")["delivered"] == 6
        assert daemon.pump("uptime")["filtered"] == 1
        assert daemon.pump("uptime")["type"] == "uptime-sql"
        assert daemon.command("check").returncode == 0
        assert daemon.stop() == 0
    assert hits(database) == {("http://up/1", HOUR): 3, ("http://up/1", HOUR + 3600): 3}
    assert hits(database, "errors") == {("503", HOUR): 1, ("503", HOUR + 3600): 1}
    assert hits(database, "") == {("total", HOUR): 3, ("total", HOUR + 3600): 3}
    assert_exactly_once(tmp_path / "csv", ["a"])


@pytest.mark.timeout(300 + 10 * KILLS)
def test_counted_once_by_two_instances_that_are_killed(
    tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    """kill -9 of one of two at random moments: the sums are exact."""
    client = redis_server.client()
    database = postgres_server.database()
    chance = random.Random(4)
    pushed = 0
    one, other = (
        sql_daemon(tmp_path / name, redis_server.port, database, window_records=20)
        for name in "ab"
    )
    with one, other:
        other.start()
        for _ in range(KILLS):
            one.start()
            for _ in range(3):
                more = chance.randrange(1, 100)
                push_reports(client, range(pushed, pushed + more))
                pushed += more
                time.sleep(chance.random() * 0.3)
            one.kill()
        one.start().wait_ready()

        def total() -> int:
            return sum(hits(database).values())

        wait_for("all reports", lambda: total() >= pushed)
        for daemon in (one, other):
            wait_for("the end", lambda: daemon.pump("uptime")["pending"] == 0)  # noqa: B023
            assert daemon.pump("uptime")["dead"] == 0
            assert daemon.stop() == 0
    found = Counter(name for name, _ in hits(database).elements())
    assert found == expected(pushed)
    assert hits(database, "") == {("total", HOUR): pushed}
    assert client.keys("*claim*") == []
