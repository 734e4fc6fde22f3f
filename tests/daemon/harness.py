"""The command as users run it: started, watched, killed; and what it wrote."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from tests.servers import free_port
from tyk_pump.record import wire
from tyk_pump.record.analytics import AnalyticsRecord

LIST = "analytics-tyk-system-analytics"
PATIENCE = 60.0
ALL_KILLS = int(os.environ.get("TYK_PUMP_KILLS", "30"))
"""Kills in the laboratory; `make torture` sets many more."""
KILLS = max(30, ALL_KILLS // 10)
"""Kills in each of the other kill tests."""
KILLS_TIMEOUT = 300 + 10 * KILLS
"""Seconds for such a test: each kill costs a start and a wait for some progress."""
SETTLE_SECONDS = 90 + KILLS
"""Seconds for what the kills have left undone."""
DISK = {"type": "disk"}
"""A journal on the disk."""


def wait_for(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the condition's first true value; fail with `what` when none came."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.02)


def record(name: str, **fields: Any) -> bytes:
    """Return the wire form of a record that is known by its name."""
    made = AnalyticsRecord(
        api_id="api",
        org_id="org",
        method="GET",
        path="/x",
        response_code=200,
        alias=name,
        raw_request="R" * 200,
    )
    for key, value in fields.items():
        setattr(made, key, value)
    return wire.pack(made)


def names(run: str, count: int) -> list[str]:
    """Return names of records that are unique in a test."""
    return [f"{run}-{number:06}" for number in range(count)]


def csv_pump(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the section of a pump that writes into a folder."""
    return {"type": "csv", "meta": {"csv_dir": str(folder)}, **more}


def two_pumps(healthy: Path, blocked: Path) -> dict[str, Any]:
    """Return a pump that works and one whose folder may be a file: it waits then."""
    return {
        "healthy": csv_pump(healthy),
        "blocked": csv_pump(blocked, retry={"max": 0.5}),
    }


def push(client: redis.Redis, names: list[str], key: str = LIST) -> None:
    """Push records as a gateway does: RPUSH in a pipeline."""
    for start in range(0, len(names), 500):
        client.rpush(key, *[record(name) for name in names[start : start + 500]])


class Daemon:
    """One configured instance, started and ended as often as a test wants."""

    def __init__(
        self,
        folder: Path,
        redis_port: int,
        pumps: dict[str, Any],
        *,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.health_port = free_port()
        self.conf = folder / "pump.conf"
        self.log = folder / "stderr.log"
        self.out = folder / "stdout.log"
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, Any] = {
            "analytics_storage_type": "redis",
            "analytics_storage_config": {"host": "127.0.0.1", "port": redis_port},
            "purge_delay": 0.05,
            "dont_purge_uptime_data": True,
            "health_check_endpoint_port": self.health_port,
            "lease_time": 2,
            "pumps": pumps,
            **settings,
        }
        self.write()

    def write(self, **settings: Any) -> None:
        """Write the configuration, with changes."""
        self.settings.update(settings)
        self.conf.write_text(json.dumps(self.settings))

    def start(self, *arguments: str) -> Daemon:
        """Start the command; returns at once."""
        environment = {**os.environ, "TZ": "UTC", **self.environment}
        command = [sys.executable, "-m", "tyk_pump", "start", "--conf", str(self.conf)]
        with self.out.open("ab") as out, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdout=out,
                stderr=log,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def wait_ready(self) -> Daemon:
        """Wait until /ready says 200."""
        wait_for(f"readiness; log:\n{self.tail()}", self.ready)
        return self

    def ready(self) -> bool:
        """Say whether /ready answers 200; a process that ended is a failure."""
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"it ended: {self.process.returncode}\n{self.tail()}")
        return self.get("/ready")[0] == 200

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of the health port; 0 when nobody answers."""
        url = f"http://127.0.0.1:{self.health_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except (OSError, urllib.error.URLError):
            return 0, ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command with the same configuration."""
        return subprocess.run(
            [sys.executable, "-m", "tyk_pump", *arguments, "--conf", str(self.conf)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self.folder,
            env={**os.environ, **self.environment},
        )

    def status(self) -> dict[str, Any]:
        """Return what `tyk-pump status --json` says."""
        done = self.command("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def pump(self, name: str) -> dict[str, Any]:
        """Return one pump's part of the status."""
        found: dict[str, Any] = next(
            p for p in self.status()["pumps"] if p["name"] == name
        )
        return found

    def audit(self, *arguments: str) -> dict[str, Any]:
        """Return what `tyk-pump audit --json` says; that it balances is asserted."""
        done = self.command("audit", "--json", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr + self.tail()
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["balanced"]
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """kill -9 the coordinator and wait until it is gone."""
        if self.process is not None and self.process.poll() is None:
            workers = self.children()
            self.process.kill()
            self.process.wait(PATIENCE)
            for pid in workers:
                # One that a test has stopped in its first moments sees no end of
                # its parent before it goes on.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def children(self) -> list[int]:
        """Return the process ids of the workers."""
        path = f"/proc/{self.pid}/task/{self.pid}/children"
        with contextlib.suppress(OSError):
            pids = [int(pid) for pid in Path(path).read_text().split()]
            return [pid for pid in pids if b"spawn_main" in _command_line(pid)]
        return []

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text()[-4000:] if self.log.exists() else ""

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def settled(client: redis.Redis) -> bool:
    """Say whether every pump has settled every record.

    A text in the place of a claim, that keeps a late command from making it, may stay.
    """
    claims = client.scan_iter("*claim*", count=1000, _type="list")
    return not client.exists(LIST) and not any(claims)


def csv_rows(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of all CSV files of a folder; a torn row is an error."""
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                if None in row or None in row.values():
                    raise AssertionError(f"torn row in {path.name}: {row}")
                yield row


def csv_names(folder: Path) -> Counter[str]:
    """Return how often each record stands in the files."""
    return Counter(row["Alias"] for row in csv_rows(folder))


def count_lines(folder: Path) -> int:
    """Return the number of line ends in all CSV files: cheap to ask often."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.csv"))


def in_claims(client: redis.Redis) -> int:
    """Return how many records wait in Redis."""
    return sum(int(client.llen(key)) for key in client.keys("*claim*"))


def wait_names(folder: Path, expected: list[str], daemon: Daemon) -> None:
    """Wait until as many lines as records (and headers) are in the files."""

    def there() -> bool:
        return count_lines(folder) - len(list(folder.glob("*.csv"))) >= len(expected)

    try:
        wait_for("all records in the files", there, SETTLE_SECONDS)
    except AssertionError:
        missing = len(set(expected) - set(csv_names(folder)))
        raise AssertionError(f"{missing} missing\n{daemon.tail()}") from None


def progress(folder: Path, before: int) -> None:
    """Wait a while until there are more lines; none is fine too."""
    with contextlib.suppress(AssertionError):
        wait_for("progress", lambda: count_lines(folder) > before, 5)


def assert_exactly_once(folder: Path, names: list[str]) -> None:
    """Assert that each pushed record is in the files once, and nothing else."""
    found = csv_names(folder)
    missing = [name for name in names if not found[name]]
    twice = [name for name, times in found.items() if times > 1]
    foreign = set(found) - set(names)
    assert not missing, f"{len(missing)} lost, first {missing[:3]}"
    assert not twice, f"{len(twice)} doubled, first {twice[:3]}"
    assert not foreign, f"{len(foreign)} unknown, first {sorted(foreign)[:3]}"
