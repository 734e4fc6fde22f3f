"""Without a subcommand the reference's own flags work, demo mode among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import Daemon, wait_for

pytestmark = pytest.mark.timeout(120)

STDOUT = {
    "stdout": {"type": "stdout", "meta": {"format": "json", "log_field_name": "rec"}}
}


def run(daemon: Daemon, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the reference's flags."""
    return subprocess.run(
        [sys.executable, "-m", "tyk_pump", "--conf", str(daemon.conf), *flags],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=daemon.folder,
        env={**os.environ, "TZ": "UTC", **env},
    )


def test_demo_mode_writes_straight_to_the_pumps(
    tmp_path: Path, redis_server: Any
) -> None:
    """Two days of two records an hour: 96 lines, no list touched, exit 0."""
    daemon = Daemon(tmp_path, redis_server.port, STDOUT)
    flags = ["--demo", "demo-org", "--demo-days", "2", "--demo-records-per-hour", "2"]
    done = run(daemon, *flags, "--demo-api", "api1", "--demo-track-path")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line)["rec"] for line in done.stdout.splitlines()]
    assert len(records) == 96
    assert {record["org_id"] for record in records} == {"demo-org"}
    assert {record["api_id"] for record in records} == {"api1"}
    assert all(record["track_path"] for record in records)
    assert len({record["method"] for record in records}) > 1
    assert redis_server.client().keys("*") == [b"version-check-pump"]
    assert "BUILDING DEMO DATA AND EXITING..." in done.stderr


def test_demo_mode_from_the_environment(tmp_path: Path, redis_server: Any) -> None:
    """TYK_PMP_BUILDDEMODATA names the organisation, whatever --demo says."""
    daemon = Daemon(tmp_path, redis_server.port, STDOUT)
    flags = ["--demo-days", "1", "--demo-records-per-hour", "1", "--demo", "other"]
    done = run(daemon, *flags, TYK_PMP_BUILDDEMODATA="orgenv")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 24
    assert json.loads(lines[0])["rec"]["org_id"] == "orgenv"


def test_the_reference_s_start(tmp_path: Path, redis_server: Any) -> None:
    """`tyk-pump -c FILE --debug` starts the pump, and SIGTERM ends it with code 0."""
    daemon = Daemon(tmp_path, redis_server.port, {"dummy": {"type": "dummy"}})
    with daemon, daemon.log.open("ab") as log:
        daemon.process = subprocess.Popen(
            [sys.executable, "-m", "tyk_pump", "-c", str(daemon.conf), "--debug"],
            stderr=log,
            cwd=daemon.folder,
        )
        daemon.wait_ready()
        wait_for("the banner", lambda: "## Tyk Pump, v" in daemon.tail())
        assert daemon.stop() == 0
