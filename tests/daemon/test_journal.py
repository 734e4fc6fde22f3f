"""Records that wait on the disk: through kills, and for a pump in trouble."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import (
    DISK,
    KILLS,
    KILLS_TIMEOUT,
    Daemon,
    assert_exactly_once,
    count_lines,
    in_claims,
    names,
    push,
    settled,
    two_pumps,
    wait_for,
    wait_names,
)

SPILL = {"type": "redis", "max_bytes": 100_000}


@pytest.mark.timeout(KILLS_TIMEOUT)
@pytest.mark.parametrize("journal", [DISK, SPILL], ids=["disk", "spill"])
def test_a_pump_in_trouble_costs_disk_and_not_redis(
    tmp_path: Path, make_redis: Callable[..., Any], journal: dict[str, Any]
) -> None:
    """Kills all along: the healthy pump gets all, the other one too, later, once."""
    server = make_redis()
    client = server.client()
    healthy, blocked = tmp_path / "healthy", tmp_path / "blocked"
    blocked.write_text("not a folder")
    chance = random.Random(3)
    pushed: list[str] = []
    daemon = Daemon(
        tmp_path / "a",
        server.port,
        two_pumps(healthy, blocked),
        window_records=50,
        journal=journal,
    )
    with daemon:
        for kill in range(max(3, KILLS // 6)):
            fresh = names(f"k{kill}", chance.randrange(1, 600))
            daemon.start()
            push(client, fresh)
            pushed += fresh
            if chance.random() < 0.7:
                wait_names(healthy, pushed, daemon)
            time.sleep(chance.random() * 0.1)
            daemon.kill()
        daemon.start()
        wait_names(healthy, pushed, daemon)
        wait_for("claims to be small", lambda: in_claims(client) <= 150)
        wait_for("an answer", lambda: daemon.get("/health")[0] == 200)
        wait_for("a purge", lambda: daemon.status()["purges"])
        status = daemon.status()
        assert status["journal_records"] >= len(pushed) - 150
        assert daemon.pump("BLOCKED")["pending"] == len(pushed)
        blocked.unlink()
        for kill in range(max(3, KILLS // 6)):
            if kill:
                daemon.start()
            before = count_lines(blocked) if blocked.is_dir() else 0
            time.sleep(chance.random())
            wait_for(
                "progress",
                lambda: blocked.is_dir() and count_lines(blocked) != before,  # noqa: B023
                5,
            ) if before < len(pushed) / 2 else None
            daemon.kill()
        daemon.start().wait_ready()
        wait_names(blocked, pushed, daemon)
        wait_for("the end", lambda: daemon.status()["journal_records"] == 0)
        daemon.audit()
        assert daemon.stop() == 0
    assert_exactly_once(healthy, pushed)
    assert_exactly_once(blocked, pushed)
    assert settled(client)


@pytest.mark.timeout(240)
def test_the_type_changes_with_work_in_hand(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """Disk, then Redis, then disk again, by reload and by restart: nothing is lost."""
    server = make_redis()
    client = server.client()
    healthy, blocked = tmp_path / "healthy", tmp_path / "blocked"
    blocked.write_text("not a folder")
    pumps = two_pumps(healthy, blocked)
    daemon = Daemon(tmp_path / "a", server.port, pumps, window_records=50, journal=DISK)
    pushed: list[str] = []

    def more(run: str) -> None:
        fresh = names(run, 500)
        push(client, fresh)
        pushed.extend(fresh)
        wait_names(healthy, pushed, daemon)

    with daemon:
        daemon.start()
        more("disk")
        wait_for("the disk", lambda: in_claims(client) == 0)
        daemon.write(journal={"type": "redis"})
        assert daemon.command("reload").returncode == 0
        more("redis")
        assert in_claims(client) == 500
        daemon.kill()
        daemon.write(journal=DISK)
        daemon.start()
        more("again")
        wait_for("the disk", lambda: in_claims(client) == 0)
        daemon.write(journal={"type": "redis"})
        assert daemon.stop() == 0
        daemon.start()
        more("last")
        blocked.unlink()
        wait_names(blocked, pushed, daemon)
        daemon.wait_ready()
        daemon.audit()
        assert daemon.stop() == 0
    assert_exactly_once(healthy, pushed)
    assert_exactly_once(blocked, pushed)
    assert settled(client)


@pytest.mark.timeout(240)
def test_what_another_instance_took_over_is_not_delivered_by_both(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """An instance dies with a part of a stream on its disk; the rest is adopted.

    It comes back and delivers what is its own, although the adopter is further.
    """
    server = make_redis()
    client = server.client()
    healthy, blocked = tmp_path / "healthy", tmp_path / "blocked"
    blocked.write_text("not a folder")
    pumps = two_pumps(healthy, blocked)
    first = Daemon(tmp_path / "a", server.port, pumps, window_records=50, journal=SPILL)
    second = Daemon(
        tmp_path / "b", server.port, pumps, window_records=50, journal={"type": "redis"}
    )
    pushed = names("a", 1000)
    with first, second:
        first.start()
        push(client, pushed)
        wait_names(healthy, pushed, first)
        wait_for("claims to be small", lambda: 0 < in_claims(client) <= 150)
        there = in_claims(client)
        first.kill()
        blocked.unlink()
        second.start().wait_ready()
        wait_names(blocked, pushed[:there], second)
        late = names("b", 100)
        push(client, late)
        wait_names(blocked, pushed[:there] + late, second)
        first.start().wait_ready()
        wait_names(blocked, pushed + late, first)
        for daemon in (first, second):
            daemon.audit()
            assert daemon.stop() == 0
    assert_exactly_once(healthy, pushed + late)
    assert_exactly_once(blocked, pushed + late)
    assert settled(client)


def test_two_processes_do_not_share_a_folder(tmp_path: Path, redis_server: Any) -> None:
    """The second says which folder it is and leaves."""
    pumps = two_pumps(tmp_path / "one", tmp_path / "two")
    with Daemon(tmp_path / "a", redis_server.port, pumps, journal=DISK) as daemon:
        daemon.start().wait_ready()
        other = daemon.command("start")
        assert other.returncode == 1 and str(tmp_path / "a") in other.stderr
        assert daemon.stop() == 0


def test_a_full_journal_delays_no_pump_that_is_in_step(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """At `journal.max_bytes` records wait in Redis, and /ready says so."""
    server = make_redis()
    client = server.client()
    healthy, blocked = tmp_path / "healthy", tmp_path / "blocked"
    blocked.write_text("not a folder")
    daemon = Daemon(
        tmp_path / "a",
        server.port,
        two_pumps(healthy, blocked),
        window_records=50,
        journal={"type": "disk", "max_bytes": 100_000},
    )
    pushed = names("a", 2000)
    with daemon:
        daemon.start()
        push(client, pushed)
        wait_names(healthy, pushed, daemon)
        wait_for("the reason", lambda: "journal is full" in daemon.get("/ready")[1])
        assert in_claims(client) > 500
        blocked.unlink()
        wait_names(blocked, pushed, daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert_exactly_once(blocked, pushed)
    shutil.rmtree(blocked)
