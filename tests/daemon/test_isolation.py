"""One back end that hangs: the others' pace, the end, the recovery, and the memory.

What is a matter of time is measured and put among the figures; asserted is what is
there in the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.figures import LONG, figure
from tests.daemon.harness import (
    LIST,
    Daemon,
    names,
    record,
    wait_for,
)
from tests.daemon.mix import Csv, Elasticsearch, HttpSide, Index, Splunk, named
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.servers.tls import Authority

RECORDS = 60_000 if LONG else 1_000
PAIRS = 5 if LONG else 1
"""How often the pace is measured with and without the hung one."""
BACKLOG = 300_000 if LONG else 3_000
TURNS = 5 if LONG else 1
DELIVERED = re.compile(r'^tyk_pump_records_delivered_total\{pump="(\w+)"\} (\S+)', re.M)

JOURNALS: dict[str, dict[str, Any]] = {
    "redis": {"type": "redis"},
    "disk": {"type": "disk"},
}


def delivered(daemon: Daemon) -> dict[str, int]:
    """Return how many records each pump has delivered, by its metrics."""
    found = DELIVERED.findall(daemon.get("/metrics")[1])
    return {name: int(float(count)) for name, count in found}


def push(client: Any, records: list[bytes], count: int) -> None:
    """Push so many records, the same ones over and over."""
    left = count
    while left:
        some = records[:left]
        client.rpush(LIST, *some)
        left -= len(some)


@contextlib.contextmanager
def black_hole(side: HttpSide) -> Iterator[Proxy]:
    """Put a proxy in front of a back end that swallows everything."""
    with Proxy("127.0.0.1", side.server.port) as proxy:
        proxy.swallow()
        yield proxy


# The pace of the others


def three(folder: Path) -> dict[str, Any]:
    """Return B to D, which wait for nobody."""
    return {
        "b": Csv(folder).section,
        "c": {"type": "dummy"},
        "d": {"type": "stdout", "meta": {"format": "json"}},
    }


def seconds_of(
    folder: Path,
    port: int,
    client: Any,
    sections: dict[str, Any],
    journal: str,
    records: int = RECORDS,
) -> float:
    """Return how long B to D take for so many records."""
    raws = [record(f"r{number}") for number in range(1000)]
    client.flushall()
    with Daemon(folder, port, sections, journal=JOURNALS[journal]) as daemon:
        daemon.start().wait_ready()
        push(client, raws, 1000)

        def all_have(count: int) -> bool:
            found = delivered(daemon)
            return bool(found) and all(found[name] >= count for name in "BCD")

        wait_for("the first records", lambda: all_have(1000))
        push(client, raws, records)
        began = time.monotonic()
        wait_for("all records", lambda: all_have(1000 + records), 600)
        took = time.monotonic() - began
        if "a" in sections:
            assert delivered(daemon).get("A", 0) == 0
        # It has a black hole in hand; nobody waits for the records.
        daemon.kill()
    return took


@pytest.mark.timeout(300 + 120 * PAIRS)
@pytest.mark.parametrize("journal", JOURNALS)
def test_a_black_hole_takes_no_pace_from_the_others(
    tmp_path: Path, make_redis: Callable[..., RedisServer], journal: str
) -> None:
    """B to D have everything while A has nothing; how fast, beside a run without A."""
    server = make_redis()
    with server.client() as client, contextlib.closing(Splunk()) as splunk:
        sections = three(tmp_path / "csv")
        ratios = []
        with black_hole(splunk) as proxy:
            url = splunk.collector.url.replace(str(splunk.server.port), str(proxy.port))
            meta = {**splunk.section["meta"], "collector_url": url}
            hung = {"type": "splunk", "meta": meta | {"request_timeout": 2}}
            for pair in range(PAIRS):
                took = {}
                for who in (("without", "with"), ("with", "without"))[pair % 2]:
                    pumps = sections | ({"a": hung} if who == "with" else {})
                    folder = tmp_path / f"{who}{pair}"
                    took[who] = seconds_of(folder, server.port, client, pumps, journal)
                ratios.append(took["without"] / took["with"])
            assert proxy.connections
        assert not splunk.names()
    name = f"pace of B to D with A black-holed, of that without A ({journal})"
    figure(name, statistics.median(ratios), at_least=0.9, how="min")


@pytest.mark.timeout(300 + 120 * PAIRS)
def test_the_pace_of_a_disk_journal(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    """Everything arrives with both journals; how fast, one beside the other."""
    server = make_redis()
    ratios = []
    with server.client() as client:
        for pair in range(PAIRS):
            took = {}
            for journal in (list(JOURNALS), list(reversed(JOURNALS)))[pair % 2]:
                folder = tmp_path / f"{journal}{pair}"
                pumps = three(folder / "csv")
                took[journal] = seconds_of(
                    folder, server.port, client, pumps, journal, 4 * RECORDS
                )
            ratios.append(took["redis"] / took["disk"])
    name = "pace with a disk journal, of that with a redis journal"
    figure(name, statistics.median(ratios), at_least=0.85, how="min")


# Leaving


@pytest.mark.timeout(120)
def test_sigterm_with_a_black_hole(
    tmp_path: Path, make_redis: Callable[..., RedisServer]
) -> None:
    """It leaves in time, gives the rest back, and a later start delivers it."""
    server = make_redis()
    with contextlib.closing(Splunk()) as splunk, black_hole(splunk) as proxy:
        url = splunk.collector.url.replace(str(splunk.server.port), str(proxy.port))
        splunk.section["meta"] |= {"collector_url": url, "request_timeout": 3600}
        pumps = {"splunk": splunk.section}
        with Daemon(tmp_path, server.port, pumps, shutdown_timeout=3) as daemon:
            daemon.start().wait_ready()
            pushed = names("a", 2000)
            server.client().rpush(LIST, *map(named, pushed))
            wait_for("a request", lambda: proxy.connections)
            began = time.monotonic()
            assert daemon.stop(signal.SIGTERM) == 0
            figure(
                "SIGTERM with a hung back end (shutdown_timeout 3 s)",
                time.monotonic() - began,
                at_most=4,
                unit="s",
                how="max",
            )
            proxy.heal()
            daemon.start()
            wait_for("all", lambda: not set(pushed) - set(splunk.names()))
            assert daemon.stop() == 0
        splunk.check(pushed)


# Recovery


FAULTS = ("black hole", "cut", "refused", "worker killed", "Redis restarted")


@pytest.mark.timeout(120 + 60 * TURNS)
@pytest.mark.parametrize("fault", FAULTS)
def test_recovery(
    tmp_path: Path, make_redis: Callable[..., RedisServer], fault: str
) -> None:
    """After a fault the pump goes on by itself: everything arrives, once."""
    server = make_redis(appendonly="yes", appendfsync="always")
    pushed: list[str] = []
    with (
        contextlib.closing(Elasticsearch()) as index,
        Proxy("127.0.0.1", index.server.port) as proxy,
    ):
        url = index.index.url.replace(str(index.server.port), str(proxy.port))
        index.section["meta"]["elasticsearch_url"] = url
        # As an operator has it who said nothing.
        del index.section["retry"]
        pumps = {"elasticsearch": index.section}
        with Daemon(tmp_path, server.port, pumps) as daemon:
            daemon.start().wait_ready()

            def more(run: str) -> None:
                fresh = names(run, 100)
                server.client().rpush(LIST, *map(named, fresh))
                pushed.extend(fresh)

            def arrived(run: str) -> None:
                more(run)
                wait_for(run, lambda: len(index.index.by_id) >= len(pushed))

            arrived("before")
            for turn in range(TURNS):
                began = outage(
                    fault, daemon, proxy, server, partial(more, f"during{turn}")
                )
                arrived(f"after{turn}")
                took = time.monotonic() - began
                figure(f"recovery: {fault}", took, at_most=5, unit="s", how="max")
            assert daemon.stop() == 0
        index.check(pushed)


def outage(
    fault: str,
    daemon: Daemon,
    proxy: Proxy,
    server: RedisServer,
    push: Callable[[], None],
) -> float:
    """Let a fault come and go, records in hand; return when it had gone."""
    seconds = 8.0 if LONG else 0.3
    if fault == "worker killed":
        push()
        for pid in daemon.children():
            os.kill(pid, signal.SIGKILL)
        return time.monotonic()
    if fault == "Redis restarted":
        push()
        server.kill()
        time.sleep(seconds)
        server.restart()
        return time.monotonic()
    target = proxy.target
    if fault == "refused":
        proxy.target = ("127.0.0.1", 1)
    if fault == "black hole":
        proxy.swallow()
    else:
        proxy.cut()
    push()
    time.sleep(seconds)
    proxy.target = target
    proxy.heal()
    return time.monotonic()


# Memory


@pytest.mark.timeout(1200 if LONG else 180)
@pytest.mark.parametrize("journal", ["spill", "disk"])
def test_a_backlog_takes_no_memory(
    tmp_path: Path, make_redis: Callable[..., RedisServer], journal: str
) -> None:
    """Coordinator and workers are as large after a long time with a backlog."""
    server = make_redis()
    client = server.client()
    settings = {"disk": {"type": "disk"}, "spill": {"max_bytes": 4_000_000}}
    raws = [record(f"r{number}") for number in range(1000)]
    with contextlib.closing(Splunk()) as splunk, black_hole(splunk) as proxy:
        url = splunk.collector.url.replace(str(splunk.server.port), str(proxy.port))
        meta = {**splunk.section["meta"], "collector_url": url}
        pumps: dict[str, Any] = {
            "a": {"type": "splunk", "meta": meta | {"request_timeout": 2}},
            "b": Csv(tmp_path / "csv").section,
            "c": {"type": "dummy"},
        }
        with Daemon(
            tmp_path / "i", server.port, pumps, journal=settings[journal]
        ) as daemon:
            daemon.start().wait_ready()

            def deliver(count: int) -> None:
                # As gateways do it: all along, not at once.
                wanted = delivered(daemon).get("B", 0) + count
                for _ in range(0, count, 1000):
                    push(client, raws, 1000)
                    time.sleep(0.01)
                wait_for(
                    "the records", lambda: delivered(daemon).get("B", 0) >= wanted, 900
                )

            deliver(max(3000, BACKLOG // 10))
            before = sizes(daemon)
            deliver(BACKLOG)
            after = sizes(daemon)
            grown = max(now - then for then, now in zip(before, after, strict=True))
            name = f"memory that {BACKLOG:,} waiting records take ({journal})"
            figure(name, grown, at_most=16, unit="MiB", how="max")
            assert grown < 64
            daemon.kill()


def sizes(daemon: Daemon) -> list[float]:
    """Return the resident MiB of coordinator and workers."""
    page = os.sysconf("SC_PAGE_SIZE")
    return [
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page / 2**20
        for pid in (daemon.pid, *sorted(daemon.children()))
    ]


# All that a network does


@pytest.mark.timeout(300)
def test_a_network_that_does_everything(
    tmp_path: Path, make_redis: Callable[..., RedisServer], authority: Authority
) -> None:
    """Delays, cuts, black holes, lost answers, other bytes: once each, over TLS."""
    server = make_redis()
    chance = random.Random(9)
    index = Index(authority)
    with index, Proxy("127.0.0.1", index.http.port) as proxy:
        faults: list[Callable[[], object]] = [
            proxy.cut,
            proxy.swallow,
            proxy.corrupt,
            proxy.lose_answer,
            lambda: proxy.cut_after(chance.randrange(1, 50_000)),
            lambda: setattr(proxy, "delay", 0.05),
        ]
        section = {
            "type": "elasticsearch",
            "retry": {"initial": 0.05, "max": 0.3},
            "meta": {
                "elasticsearch_url": f"https://{proxy.place}",
                "use_ssl": True,
                "ssl_ca_file": str(authority.ca_file),
                "request_timeout": 1,
            },
        }
        pushed: list[str] = []
        pumps = {"elasticsearch": section}
        with Daemon(tmp_path, server.port, pumps, window_records=50) as daemon:
            daemon.start().wait_ready()
            for turn in range(2 * len(faults) * TURNS):
                fresh = names(f"n{turn}", chance.randrange(1, 400))
                server.client().rpush(LIST, *map(named, fresh))
                pushed += fresh
                faults[turn % len(faults)]()
                threading.Event().wait(0.2 + chance.random() * 0.5)
                proxy.heal()
                proxy.delay = 0.0
            wait_for("all", lambda: len(index.by_id) >= len(pushed))
            letters = daemon.command("dead-letters", "list", "--json").stdout
            assert letters.strip() == "[]"
            assert daemon.stop() == 0
    found = sorted(one.source["request_uri"] for one in index.by_id.values())
    assert found == sorted(pushed)
