"""`tyk-pump audit` after kills, hand-overs and restarts: it balances, or says so."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import (
    ALL_KILLS,
    Daemon,
    count_lines,
    csv_pump,
    names,
    progress,
    push,
    record,
    wait_for,
    wait_names,
)

LEDGER_KILLS = max(12, ALL_KILLS // 10)


def line(found: dict[str, Any], pump: str = "CSV") -> dict[str, Any]:
    """Return a pump's line of an audit."""
    lines: list[dict[str, Any]] = found["pumps"]
    return next(one for one in lines if one["pump"] == pump)


@pytest.mark.timeout(120 + 10 * LEDGER_KILLS)
@pytest.mark.parametrize("journal", ["redis", "disk"])
def test_two_instances_and_kills_balance(
    tmp_path: Path, make_redis: Callable[..., Any], journal: str
) -> None:
    """Killed at random moments, each takes over from the other: both books balance."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    chance = random.Random(5)
    pushed: list[str] = []
    pumps = {"csv": csv_pump(out)}
    pumps["few"] = {
        "type": "dummy",
        "workers": 2,
        "filters": {"response_codes": [404]},
    }
    both = [
        Daemon(
            tmp_path / name,
            server.port,
            pumps,
            window_records=40,
            journal={"type": journal},
        )
        for name in "ab"
    ]
    with both[0], both[1]:
        for turn in range(LEDGER_KILLS):
            one = both[turn % 2]
            if one.process is None or one.process.poll() is not None:
                one.start()
            fresh = names(f"t{turn}", chance.randrange(1, 900))
            push(client, fresh)
            pushed += fresh
            if chance.random() < 0.6:
                progress(out, count_lines(out))
            time.sleep(chance.random() * 0.1)
            if chance.random() < 0.7:
                one.kill()
                one.audit()
        for one in both:
            if one.process is None or one.process.poll() is not None:
                one.start()
            one.wait_ready()
        wait_names(out, pushed, both[0])
        wait_for("all settled", lambda: not any(map(_pending, both)))
        running = [one.audit() for one in both]
        for one in both:
            assert one.stop() == 0
        stopped = [one.audit() for one in both]
    for before, after in zip(running, stopped, strict=True):
        assert before["pumps"] == after["pumps"]
    booked = [line(found) for found in stopped]
    own = sum(one["claimed"] - one["handed_over"] for one in booked)
    # Killed between the row and the cursor, a claim is in the books of both.
    assert own >= len(pushed)
    few = [line(found, "FEW") for found in stopped]
    assert sum(one["filtered"] for one in few) > 0
    assert not any(one["pending"] or one["lost"] for one in (*booked, *few))


def _pending(daemon: Daemon) -> int:
    return sum(pump["pending"] for pump in daemon.audit()["pumps"])


@pytest.mark.timeout(120)
def test_a_killed_instance_hands_over(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """What its heir has settled is booked as handed over, before and after a start."""
    server = make_redis()
    out = tmp_path / "csv"
    pumps = {"csv": csv_pump(out)}
    first = Daemon(tmp_path / "a", server.port, pumps, window_records=20)
    second = Daemon(tmp_path / "b", server.port, pumps)
    with first, second:
        first.start().wait_ready()
        for pid in first.children():
            os.kill(pid, signal.SIGSTOP)  # nothing is delivered by this one
        pushed = names("h", 700)
        push(server.client(), pushed)
        wait_for("the claim", lambda: line(first.audit())["pending"] == 700)
        first.kill()
        assert line(first.audit())["pending"] == 700
        second.start().wait_ready()
        wait_names(out, pushed, second)
        wait_for("settled", lambda: not _pending(second))
        assert line(second.audit())["adopted"] == 700
        assert line(first.audit())["handed_over"] == 700
        first.start().wait_ready()
        wait_for("booked", lambda: line(first.audit())["handed_over"] == 700)
        assert first.stop() == 0 and second.stop() == 0
        assert line(first.audit())["claimed"] == 700


@pytest.mark.timeout(120)
@pytest.mark.parametrize("with_heir", [True, False])
def test_a_lease_that_is_lost_and_won_again(
    tmp_path: Path, make_redis: Callable[..., Any], with_heir: bool
) -> None:
    """Frozen beyond the lease, adopted or not: one process, and its books balance."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    pumps = {"csv": csv_pump(out)}
    first = Daemon(tmp_path / "a", server.port, pumps, window_records=20)
    second = Daemon(tmp_path / "b", server.port, pumps, window_records=20)
    with first, second:
        first.start().wait_ready()
        pushed = names("f", 3000)
        push(client, pushed)
        wait_for("the first rows", lambda: count_lines(out) > 10)
        os.kill(first.pid, signal.SIGSTOP)
        if with_heir:
            second.start().wait_ready()
            wait_names(out, pushed, second)
        else:
            lease = "analytics-tyk-pump:lease:*"
            wait_for("the end of the lease", lambda: not client.keys(lease))
        os.kill(first.pid, signal.SIGCONT)
        late = names("g", 500)
        push(client, late)
        wait_names(out, pushed + late, first)
        both = [first, second] if with_heir else [first]
        wait_for("all settled", lambda: not any(map(_pending, both)))
        booked = [line(one.audit()) for one in both if one.audit()["pumps"]]
        own = sum(one["claimed"] - one["handed_over"] for one in booked)
        assert own >= len(pushed + late)
        for one in both:
            assert one.stop() == 0
            one.audit()


@pytest.mark.timeout(120)
def test_uptime_reports_are_books_of_their_own(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """What one kind of pump is owed is not claimed for the other."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    base = {"collection_name": "c", "mongo_url": "mongodb://127.0.0.1:1/nowhere"}
    daemon = Daemon(
        tmp_path / "a",
        server.port,
        {"csv": csv_pump(out)},
        dont_purge_uptime_data=False,
        uptime_pump_config=base,
    )
    with daemon:
        daemon.start()
        push(client, names("u", 30))
        client.rpush("host-checker:tyk-uptime-analytics", b"1", b"2", b"3")

        def booked() -> bool:
            done = daemon.command("audit", "--json")
            if done.returncode:
                return False
            found = {p["pump"]: p["claimed"] for p in json.loads(done.stdout)["pumps"]}
            return found == {"CSV": 30, "uptime": 3}

        wait_for("both kinds in the books", booked)
        wait_for("delivered", lambda: line(daemon.audit())["delivered"] == 30)
        daemon.kill()
        assert line(daemon.audit(), "uptime")["claimed"] == 3


@pytest.mark.timeout(120)
def test_dead_letters_replays_and_metrics(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """Letters stored, replayed and dropped add up; so does what /metrics shows."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    daemon = Daemon(tmp_path / "a", server.port, {"csv": csv_pump(out)})
    with daemon:
        daemon.start().wait_ready()
        client.rpush("analytics-tyk-system-analytics", b"junk", record("good"), b"bad")
        wait_for("letters", lambda: line(daemon.audit())["dead"] == 2)
        found = daemon.audit()
        assert line(found)["claimed"] == 3 and line(found)["delivered"] == 1
        assert found["letters"][0]["kept"] == 2
        daemon.command("dead-letters", "drop", "1")
        daemon.command("dead-letters", "replay", "--all")

        def refused_again() -> bool:
            shown = daemon.command("dead-letters", "show", "--json", "2")
            return bool(json.loads(shown.stdout)["refusals"] == 2)

        wait_for("the replay", refused_again)
        found = daemon.audit()
        assert found["letters"] == [
            {
                "pump": "CSV",
                "stored": 2,
                "replayed": 0,
                "dropped": 1,
                "kept": 1,
                "difference": 0,
            }
        ]
        text = 'tyk_pump_ledger_records{pump="CSV",state="claimed"} 3.0'
        wait_for("metrics", lambda: text in daemon.get("/metrics")[1])
        assert 'tyk_pump_ledger_difference{pump="CSV"} 0.0' in daemon.get("/metrics")[1]
        assert daemon.pump("CSV")["ledger"]["dead"] == 2
        shown = daemon.command("audit", "--hours")
        assert shown.returncode == 0 and "balanced" in shown.stdout
        assert "HOUR" in shown.stdout and "DELIVERED" in shown.stdout
        assert not daemon.audit("--pump", "other")["pumps"]
        assert daemon.stop() == 0


@pytest.mark.timeout(120)
def test_the_audit_fails_where_a_record_is_missing(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """A row that says less than was claimed: exit 1, stopped and running."""
    server = make_redis()
    out = tmp_path / "csv"
    daemon = Daemon(tmp_path / "a", server.port, {"csv": csv_pump(out)})
    with daemon:
        daemon.start().wait_ready()
        pushed = names("m", 50)
        push(server.client(), pushed)
        wait_for("delivered", lambda: line(daemon.audit())["delivered"] == 50)
        assert daemon.stop() == 0
        with contextlib.closing(
            sqlite3.connect(next(tmp_path.glob("a/*.state")) / "state.sqlite")
        ) as db:
            db.execute("UPDATE ledger SET delivered = delivered - 1")
            db.commit()
        done = daemon.command("audit")
        assert done.returncode == 1 and "does not balance" in done.stdout
        daemon.start().wait_ready()
        done = daemon.command("audit", "--json")
        assert done.returncode == 1
        assert line(json.loads(done.stdout))["difference"] == 1
        text = "the books of CSV do not balance"
        wait_for("the status", lambda: text in daemon.command("status").stdout)
        assert daemon.stop() == 0
