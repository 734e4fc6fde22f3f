"""Replays by the command, with processes that are killed on the way."""

from __future__ import annotations

import json
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
    LIST,
    Daemon,
    assert_exactly_once,
    count_lines,
    csv_names,
    csv_pump,
    record,
    settled,
    two_pumps,
    wait_for,
    wait_names,
)
from tyk_pump.record import edit

DISK = {"type": "disk"}


def replay(daemon: Daemon, *words: str) -> Any:
    """Ask for a replay; return what the command says."""
    done = daemon.command("replay", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def push(client: Any, count: int) -> list[str]:
    """Push records of the last hours, one in ten an error; return their names."""
    made = [f"r{number:06}" for number in range(count)]
    now = int(time.time()) - 10
    for start in range(0, count, 500):
        client.rpush(
            LIST,
            *(
                record(
                    name,
                    timestamp=(now, 0),
                    response_code=200 if int(name[1:]) % 10 else 500,
                )
                for name in made[start : start + 500]
            ),
        )
    return made


@pytest.mark.timeout(KILLS_TIMEOUT)
def test_a_new_pump_is_back_filled_through_kills(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """Killed again and again while it goes on, it delivers each record once."""
    server = make_redis()
    client = server.client()
    old, new = tmp_path / "old", tmp_path / "new"
    chance = random.Random(5)
    daemon = Daemon(
        tmp_path / "a",
        server.port,
        {"old": csv_pump(old)},
        journal=DISK,
        window_records=50,
    )
    with daemon:
        daemon.start().wait_ready()
        pushed = push(client, 5000)
        wait_names(old, pushed, daemon)
        wait_for("the end", lambda: daemon.status()["journal_records"] == 0)
        assert daemon.stop() == 0
        daemon.write(
            pumps={
                "old": csv_pump(old),
                "new": csv_pump(new),
            }
        )
        said = replay(daemon, "--from", "1h ago", "--to-pump", "new")
        assert said["pumps"]["NEW"]["records"] == 5000 and not said["running"]
        for _ in range(max(4, KILLS // 6)):
            daemon.start()
            before = count_lines(new) if new.is_dir() else 0
            if before < 2500:
                wait_for(
                    "progress",
                    lambda: new.is_dir() and count_lines(new) != before,  # noqa: B023
                )
            time.sleep(chance.random() * 0.1)
            if chance.random() < 0.5:
                for pid in daemon.children():
                    os.kill(pid, signal.SIGKILL)
            daemon.kill()
        daemon.start()
        wait_names(new, pushed, daemon)
        wait_for("the books", lambda: not daemon.audit()["replays"][0]["pending"])
        daemon.wait_ready()
        assert daemon.stop() == 0
        (line,) = daemon.audit()["replays"]
    assert (line["asked"], line["delivered"]) == (5000, 5000)
    assert_exactly_once(new, pushed)
    assert_exactly_once(old, pushed)
    assert settled(client)


def test_a_running_pump_delivers_again_what_it_was_owed(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """At once, through its filters, beside the traffic; the books stay balanced."""
    server = make_redis()
    client = server.client()
    out, picky = tmp_path / "out", tmp_path / "picky"
    pumps = {
        "out": csv_pump(out),
        "picky": csv_pump(picky, filters={"response_codes": [500]}),
    }
    daemon = Daemon(tmp_path / "a", server.port, pumps, journal=DISK, window_records=50)
    with daemon:
        daemon.start().wait_ready()
        pushed = push(client, 1000)
        wait_names(out, pushed, daemon)
        wait_for("the end", lambda: daemon.status()["journal_records"] == 0)
        words = ("--from", "1h ago", "--where", "response_code=500", "--wait")
        said = replay(daemon, *words, "--pump", "out")
        assert said["replays"][0]["delivered"] == 100
        said = replay(daemon, "--from", "1h ago", "--pump", "picky", "--wait")
        (one,) = said["replays"]
        assert (one["delivered"], one["filtered"]) == (100, 900)
        late = [f"late{number}" for number in range(100)]
        client.rpush(LIST, *map(record, late))
        errors = pushed[::10]
        wait_names(out, pushed + errors + late, daemon)
        books = daemon.audit()
        assert {one["pump"]: one["filtered"] for one in books["replays"]} == {
            "OUT": 0,
            "PICKY": 900,
        }
        assert daemon.stop() == 0
        daemon.audit()
    names = csv_names(out)
    assert {name for name, times in names.items() if times == 2} == set(errors)
    assert len(names) == 1100
    assert set(csv_names(picky).values()) == {2}


def test_what_a_pump_is_still_owed_is_not_repeated(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """It is in trouble; what waits for it on the disk comes once."""
    server = make_redis()
    client = server.client()
    healthy, blocked = tmp_path / "healthy", tmp_path / "blocked"
    blocked.write_text("not a folder")
    pumps = two_pumps(healthy, blocked)
    daemon = Daemon(tmp_path / "a", server.port, pumps, journal=DISK, window_records=50)
    with daemon:
        daemon.start()
        pushed = push(client, 500)
        wait_names(healthy, pushed, daemon)
        wait_for("the disk", lambda: daemon.status()["journal_records"] == 500)
        said = replay(daemon, "--from", "1h ago", "--pump", "blocked")
        assert said["pumps"]["BLOCKED"] == {
            "records": 0,
            "bytes": 0,
            "on_their_way": 500,
        }
        blocked.unlink()
        wait_names(blocked, pushed, daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert_exactly_once(blocked, pushed)


def test_what_waits_on_the_disk_is_returned_to_the_lists(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """In order, before what came later; a later start has nothing of it."""
    server = make_redis()
    client = server.client()
    healthy, blocked = tmp_path / "healthy", tmp_path / "blocked"
    blocked.write_text("not a folder")
    pumps = two_pumps(healthy, blocked)
    daemon = Daemon(tmp_path / "a", server.port, pumps, journal=DISK, window_records=50)
    with daemon:
        daemon.start()
        pushed = push(client, 700)
        wait_names(healthy, pushed, daemon)
        wait_for("the disk", lambda: daemon.status()["journal_records"] == 700)
        daemon.kill()
        client.delete(*client.keys("*lease*"))
        client.rpush(LIST, record("last"))
        done = daemon.command("claims", "return", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["returned"] == {LIST: 700}
        raws = client.lrange(LIST, 0, -1)
        found = [edit.decode("msgpack", raw).alias for raw in raws]
        assert found == [*pushed, "last"]
        blocked.unlink()
        daemon.start().wait_ready()
        wait_names(blocked, [*pushed, "last"], daemon)
        assert daemon.stop() == 0
        (line,) = [one for one in daemon.audit()["pumps"] if one["pump"] == "BLOCKED"]
    assert (line["handed_over"], line["delivered"]) == (700, 701)
    assert_exactly_once(blocked, [*pushed, "last"])
