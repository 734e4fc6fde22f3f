"""Processes die, freeze or lose Redis at random moments: nothing lost or doubled."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import (
    KILLS,
    KILLS_TIMEOUT,
    Daemon,
    assert_exactly_once,
    count_lines,
    csv_pump,
    names,
    progress,
    push,
    settled,
    wait_for,
    wait_names,
)


@pytest.mark.timeout(KILLS_TIMEOUT)
def test_kill_the_coordinator_at_random_moments(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """kill -9 of the coordinator under load: each record in the files exactly once."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    chance = random.Random(1)
    pushed: list[str] = []
    daemon = Daemon(
        tmp_path / "a", server.port, {"csv": csv_pump(out)}, window_records=50
    )
    with daemon:
        for kill in range(KILLS):
            fresh = names(f"k{kill}", chance.randrange(1, 600))
            daemon.start()
            push(client, fresh)
            pushed += fresh
            if chance.random() < 0.7:
                progress(out, count_lines(out))
            time.sleep(chance.random() * 0.1)
            daemon.kill()
        daemon.start().wait_ready()
        wait_names(out, pushed, daemon)
        assert daemon.stop() == 0
    assert_exactly_once(out, pushed)
    assert settled(client)


@pytest.mark.timeout(KILLS_TIMEOUT)
def test_kill_workers_at_random_moments(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """kill -9 of workers under load: the next incarnation goes on, exactly once."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    chance = random.Random(2)
    pushed: list[str] = []
    daemon = Daemon(
        tmp_path / "a", server.port, {"csv": csv_pump(out)}, window_records=50
    )
    with daemon:
        daemon.start().wait_ready()
        for kill in range(KILLS):
            fresh = names(f"w{kill}", chance.randrange(1, 600))
            push(client, fresh)
            pushed += fresh
            time.sleep(chance.random() * 0.2)
            for pid in daemon.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait_names(out, pushed, daemon)
        dead = daemon.pump("CSV")["dead"]
        assert daemon.stop() == 0
    assert dead == 0
    assert_exactly_once(out, pushed)


@pytest.mark.timeout(120)
def test_a_stopped_worker_is_replaced(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """SIGSTOP of a worker: it gives no sign of life and is replaced."""
    server = make_redis()
    out = tmp_path / "csv"
    daemon = Daemon(tmp_path / "a", server.port, {"csv": csv_pump(out)}, beat_timeout=2)
    with daemon:
        daemon.start().wait_ready()
        (pid,) = daemon.children()
        os.kill(pid, signal.SIGSTOP)
        pushed = names("s", 500)
        push(server.client(), pushed)
        wait_names(out, pushed, daemon)
        assert pid not in daemon.children()
        assert daemon.stop() == 0
    assert_exactly_once(out, pushed)


@pytest.mark.timeout(120)
def test_a_frozen_coordinator_wakes_up_after_its_lease(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """SIGSTOP until the lease is gone and another took over: no record goes twice."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    first = Daemon(
        tmp_path / "a", server.port, {"csv": csv_pump(out)}, window_records=20
    )
    second = Daemon(
        tmp_path / "b", server.port, {"csv": csv_pump(out)}, window_records=20
    )
    with first, second:
        first.start().wait_ready()
        pushed = names("f", 3000)
        push(client, pushed)
        wait_for("the first rows", lambda: count_lines(out) > 10)
        os.kill(first.pid, signal.SIGSTOP)
        second.start().wait_ready()
        more = names("g", 500)
        push(client, more)
        pushed += more
        wait_names(out, pushed, second)
        os.kill(first.pid, signal.SIGCONT)
        late = names("h", 500)
        push(client, late)
        pushed += late
        wait_names(out, pushed, first)
        first.wait_ready()
        assert first.stop() == 0
        assert second.stop() == 0
    assert_exactly_once(out, pushed)


@pytest.mark.timeout(180)
def test_redis_restarts_in_the_middle(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """Redis with a durable log is killed and started again under load."""
    server = make_redis(appendonly="yes", appendfsync="always")
    out = tmp_path / "csv"
    daemon = Daemon(
        tmp_path / "a", server.port, {"csv": csv_pump(out)}, window_records=50
    )
    pushed: list[str] = []
    with daemon:
        daemon.start().wait_ready()
        for turn in range(4):
            fresh = names(f"r{turn}", 1500)
            push(server.client(), fresh)
            pushed += fresh
            time.sleep(0.05 * turn)
            server.kill()
            server.restart()
        wait_names(out, pushed, daemon)
        assert daemon.stop() == 0
    assert_exactly_once(out, pushed)


@pytest.mark.timeout(180)
def test_two_instances_share_lists_and_folder(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """Two instances on the same lists and one csv_dir, one killed for good."""
    server = make_redis()
    client = server.client()
    out = tmp_path / "csv"
    pushed: list[str] = []
    first = Daemon(
        tmp_path / "a", server.port, {"csv": csv_pump(out)}, window_records=50
    )
    second = Daemon(
        tmp_path / "b", server.port, {"csv": csv_pump(out)}, window_records=50
    )
    with first, second:
        first.start().wait_ready()
        second.start().wait_ready()
        for turn in range(20):
            fresh = names(f"t{turn}", 300)
            push(client, fresh)
            pushed += fresh
            time.sleep(0.02)
            if turn == 10:
                first.kill()
        wait_names(out, pushed, second)
        assert second.stop() == 0
    assert_exactly_once(out, pushed)
