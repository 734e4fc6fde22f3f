"""A state file that is damaged, full or in the way: the command goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import (
    DISK,
    Daemon,
    csv_names,
    in_claims,
    names,
    push,
    settled,
    two_pumps,
    wait_for,
    wait_names,
)
from tyk_pump.state.pages import PAGE

pytestmark = pytest.mark.timeout(240)


def test_a_damaged_file_costs_what_was_hit(
    tmp_path: Path, make_redis: Callable[..., Any]
) -> None:
    """Killed, damaged, started: the rest arrives; check and /ready say what was."""
    server = make_redis()
    client = server.client()
    healthy, blocked = tmp_path / "healthy", tmp_path / "blocked"
    blocked.write_text("not a folder")
    pumps = two_pumps(healthy, blocked)
    with Daemon(
        tmp_path / "a", server.port, pumps, window_records=50, journal=DISK
    ) as daemon:
        daemon.start()
        pushed = names("a", 1000)
        push(client, pushed)
        wait_names(healthy, pushed, daemon)
        wait_for("the disk", lambda: in_claims(client) == 0)
        assert daemon.stop() == 0
        state = daemon.conf.with_suffix(".state") / "state.sqlite"
        data = bytearray(state.read_bytes())
        at = data.index(pushed[500].encode())
        data[at] ^= 0xFF
        data[at // PAGE * PAGE : at // PAGE * PAGE + 4] = b"\xff" * 4
        state.write_bytes(data)
        blocked.unlink()
        daemon.start()
        late = names("b", 50)
        push(client, late)
        wait_names(healthy, pushed + late, daemon)
        wait_for("the rest", lambda: daemon.status()["journal_records"] == 0)
        found = csv_names(blocked)
        assert set(late) <= set(found)
        assert 0 < len(set(pushed) - set(found)) <= 200
        assert max(found.values()) == 1
        assert "state file was damaged" in daemon.get("/ready")[1]
        assert "saved" in daemon.log.read_text()
        checked = daemon.command("check", "--json")
        assert checked.returncode == 1 and "was damaged" in checked.stdout
        (note,) = state.parent.glob("*.damaged-*.json")
        report = json.loads(note.read_text())
        assert report["lost_records"] == len(set(pushed) - set(found))
        Path(report["kept"]).unlink()
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert settled(client)


def test_a_folder_in_the_files_place(tmp_path: Path, redis_server: Any) -> None:
    """It is moved aside, and the pump runs."""
    pumps = two_pumps(tmp_path / "one", tmp_path / "two")
    with Daemon(tmp_path / "a", redis_server.port, pumps) as daemon:
        state = daemon.conf.with_suffix(".state") / "state.sqlite"
        state.mkdir(parents=True)
        daemon.start()
        pushed = names("a", 50)
        push(redis_server.client(), pushed)
        for folder in ("one", "two"):
            wait_names(tmp_path / folder, pushed, daemon)
        assert "a folder is in its place" in daemon.get("/ready")[1]
        for path in state.parent.glob("*.damaged-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        daemon.wait_ready()
        assert daemon.stop() == 0
