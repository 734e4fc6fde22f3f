"""Starting and stopping: signals, exit codes, readiness, one pump never the others'."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import (
    LIST,
    Daemon,
    assert_exactly_once,
    count_lines,
    csv_pump,
    push,
    record,
    wait_for,
)

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_records_pushed_just_before_the_stop_arrive(
    tmp_path: Path, redis_server: Any, number: int
) -> None:
    """The last thing before leaving is a claim, and what is in hand is finished."""
    out = tmp_path / "csv"
    pumps = {"csv": csv_pump(out)}
    with Daemon(tmp_path, redis_server.port, pumps, purge_delay=60) as daemon:
        daemon.start().wait_ready()
        push(redis_server.client(), ["a", "b", "c"])
        assert daemon.stop(number) == 0
    assert_exactly_once(out, ["a", "b", "c"])
    assert redis_server.client().keys("*claim*") == []


def test_nothing_is_left_in_redis_after_a_clean_stop(
    tmp_path: Path, redis_server: Any
) -> None:
    """Streams, claims and the lease are gone; only the version key stays."""
    out = tmp_path / "csv"
    with Daemon(tmp_path, redis_server.port, {"csv": csv_pump(out)}) as daemon:
        daemon.start().wait_ready()
        push(redis_server.client(), [f"n{i}" for i in range(100)])
        wait_for("rows", lambda: count_lines(out) == 101)
        assert daemon.stop() == 0
    left = sorted(redis_server.client().keys("*"))
    assert [key for key in left if b"claim" in key or b"lease" in key] == []


def test_the_workers_die_with_a_killed_coordinator(
    tmp_path: Path, redis_server: Any
) -> None:
    """kill -9 of the parent leaves no worker behind."""
    pumps = {"dummy": {"type": "dummy"}, "csv": csv_pump(tmp_path / "csv")}
    with Daemon(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start().wait_ready()
        children = daemon.children()
        assert len(children) == 2
        daemon.kill()
        wait_for(
            "the workers' end",
            lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in children),
        )


def test_a_blocked_pump_delays_no_other(tmp_path: Path, redis_server: Any) -> None:
    """A stdout pump whose reader has stopped reading does not hold up the csv pump."""
    out = tmp_path / "csv"
    read, write = os.pipe()
    pumps = {
        "csv": csv_pump(out),
        "stdout": {"type": "stdout", "meta": {"format": "json"}},
    }
    with Daemon(tmp_path, redis_server.port, pumps, shutdown_timeout=3) as daemon:
        pushed = [f"n{i}" for i in range(5000)]
        push(redis_server.client(), pushed)
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        daemon.out = tmp_path / "pipe"
        daemon.start()
        wait_for("all rows", lambda: count_lines(out) == len(pushed) + 1)
        behind = daemon.pump("STDOUT")
        assert behind["pending"] > 0
        assert daemon.stop() == 0
        os.close(reader)
    os.close(read)
    os.close(write)
    assert_exactly_once(out, pushed)
    # What the blocked pump still had to get is given back, not lost.
    assert redis_server.client().keys("*claim*") != []


def test_a_pump_that_cannot_start_leaves_the_others_running(
    tmp_path: Path, redis_server: Any
) -> None:
    """Its claims wait, readiness says why, and the other pump gets everything."""
    out = tmp_path / "csv"
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    pumps = {"csv": csv_pump(out), "other": csv_pump(blocked / "below")}
    with Daemon(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start()
        push(redis_server.client(), ["a", "b"])
        wait_for("rows", lambda: count_lines(out) == 3)
        status, body = daemon.get("/ready")
        assert status == 503 and "OTHER" in body
        assert daemon.pump("OTHER")["pending"] == 2
        blocked.unlink()
        wait_for("its rows", lambda: count_lines(blocked / "below") == 3)
        wait_for("readiness", daemon.ready)
        assert daemon.stop() == 0


def test_reload_keeps_the_pumps_that_did_not_change(
    tmp_path: Path, redis_server: Any
) -> None:
    """SIGHUP adds, changes and removes pumps; an unchanged one keeps its process."""
    out = tmp_path / "csv"
    pumps = {"csv": csv_pump(out), "dummy": {"type": "dummy"}}
    with Daemon(tmp_path, redis_server.port, pumps) as daemon:
        daemon.start().wait_ready()
        (kept,) = daemon.pump("CSV")["pids"]
        more = {"csv": csv_pump(out), "second": csv_pump(tmp_path / "second")}
        daemon.write(pumps=more)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        wait_for(
            "the new pump",
            lambda: {p["name"] for p in daemon.status()["pumps"]} == {"CSV", "SECOND"},
        )
        assert daemon.pump("CSV")["pids"] == [kept]
        push(redis_server.client(), ["a"])
        wait_for("both", lambda: count_lines(tmp_path / "second") == 2)
        daemon.conf.write_text("{ broken")
        done = daemon.command("reload")
        assert done.returncode == 1
        assert daemon.pump("CSV")["pids"] == [kept]
        assert daemon.stop() == 0


def test_a_refused_record_becomes_a_dead_letter_that_can_be_replayed(
    tmp_path: Path, redis_server: Any
) -> None:
    """Garbage is kept with its reason; list, show and drop work on the running pump."""
    out = tmp_path / "csv"
    with Daemon(tmp_path, redis_server.port, {"csv": csv_pump(out)}) as daemon:
        daemon.start().wait_ready()
        redis_server.client().rpush(LIST, record("good"), b"garbage", record("fine"))
        wait_for("rows", lambda: count_lines(out) == 3)
        wait_for("the letter", lambda: daemon.pump("CSV")["dead"] == 1)
        done = daemon.command("dead-letters", "list", "--json")
        assert done.returncode == 0, done.stderr
        assert "not a record" in done.stdout
        assert daemon.stop() == 0
    assert_exactly_once(out, ["good", "fine"])


def test_a_second_signal_leaves_now(tmp_path: Path, redis_server: Any) -> None:
    """While the first stop waits for a blocked pump, a second one ends it at once."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    pumps = {"stdout": {"type": "stdout", "meta": {"format": "json"}}}
    with Daemon(tmp_path, redis_server.port, pumps, shutdown_timeout=50) as daemon:
        daemon.out = tmp_path / "pipe"
        daemon.start().wait_ready()
        push(redis_server.client(), [f"n{i}" for i in range(3000)])
        wait_for("work in hand", lambda: daemon.pump("STDOUT")["pending"] > 0)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        wait_for("the stop", lambda: "Shutting down" in daemon.tail())
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(20) == 1
    os.close(reader)


def test_redis_away_at_the_start_is_not_fatal(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """Without Redis it starts, says so, and goes on when Redis comes."""
    server = make_redis()
    server.kill()
    out = tmp_path / "csv"
    with Daemon(tmp_path / "a", server.port, {"csv": csv_pump(out)}) as daemon:
        daemon.start()
        wait_for("health", lambda: daemon.get("/health") == (200, '{"status": "ok"}'))
        status, body = daemon.get("/ready")
        assert status == 503 and "Redis" in body
        server.restart()
        push(server.client(), ["a"])
        wait_for("the row", lambda: count_lines(out) == 2)
        assert daemon.stop() == 0


def test_two_processes_cannot_hold_one_state_folder(
    tmp_path: Path, redis_server: Any
) -> None:
    """The second start says who holds the folder and ends with code 1."""
    with Daemon(tmp_path, redis_server.port, {"dummy": {"type": "dummy"}}) as daemon:
        daemon.start().wait_ready()
        daemon.write(health_check_endpoint_port=daemon.health_port + 1)
        done = daemon.command("start")
        assert done.returncode == 1
        assert "in use" in done.stderr
        assert daemon.stop() == 0


def test_metrics_count_what_was_delivered(tmp_path: Path, redis_server: Any) -> None:
    """/metrics is Prometheus text with the counts of each pump."""
    with Daemon(tmp_path, redis_server.port, {"dummy": {"type": "dummy"}}) as daemon:
        daemon.start().wait_ready()
        push(redis_server.client(), [f"n{i}" for i in range(10)])
        wait_for("delivery", lambda: daemon.pump("DUMMY")["delivered"] == 10)

        def counted() -> bool:
            lines = daemon.get("/metrics")[1].splitlines()
            return any(
                "delivered" in line and "DUMMY" in line and line.endswith(" 10.0")
                for line in lines
            )

        wait_for("the metric", counted)
        assert json.loads(daemon.get("/health")[1]) == {"status": "ok"}
        assert daemon.stop() == 0
