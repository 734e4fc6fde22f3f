"""Redis at `maxmemory` with noeviction, a pump dead: what was accepted arrives."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.daemon.harness import (
    DISK,
    LIST,
    Daemon,
    assert_exactly_once,
    record,
    settled,
    two_pumps,
    wait_for,
    wait_names,
)

pytestmark = pytest.mark.timeout(240)
SPILL = {"type": "redis", "max_bytes": 1 << 30}


@pytest.mark.parametrize("journal", [DISK, SPILL], ids=["disk", "redis"])
def test_everything_that_frees_goes_on(
    tmp_path: Path, make_redis: Callable[..., Any], journal: dict[str, Any]
) -> None:
    """The gateway is refused while Redis is full, soon no more, and all arrive."""
    server = make_redis(maxmemory="6mb", maxmemory_policy="noeviction")
    client = server.client()
    healthy, blocked = tmp_path / "healthy", tmp_path / "blocked"
    blocked.write_text("not a folder")
    pumps = two_pumps(healthy, blocked)
    accepted: list[str] = []

    def offer() -> bool:
        fresh = [f"r{len(accepted) + n:06}" for n in range(100)]
        try:
            client.rpush(LIST, *[record(name) for name in fresh])
        except redis.exceptions.OutOfMemoryError:
            return False
        accepted.extend(fresh)
        return True

    with Daemon(tmp_path / "a", server.port, pumps, journal=journal) as daemon:
        daemon.start()
        wait_for("a purge", lambda: daemon.get("/metrics")[0] == 200)
        assert daemon.process is not None
        # On a fast disk it is never full otherwise.
        daemon.process.send_signal(signal.SIGSTOP)
        while offer():
            assert len(accepted) < 50_000
        daemon.process.send_signal(signal.SIGCONT)
        until = time.monotonic() + 60
        refused = len(accepted)
        while len(accepted) < refused + 2000 and time.monotonic() < until:
            time.sleep(0 if offer() else 0.05)
        assert len(accepted) >= refused + 2000, daemon.tail()
        wait_names(healthy, accepted, daemon)
        if journal is SPILL:
            # Far below `journal.max_bytes`, and spilled all the same.
            wait_for("the disk", lambda: daemon.status()["journal_records"] > 0)
            assert daemon.status()["redis_limit"] == 6 << 20
        blocked.unlink()
        wait_names(blocked, accepted, daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert_exactly_once(healthy, accepted)
    assert_exactly_once(blocked, accepted)
    assert settled(client)
