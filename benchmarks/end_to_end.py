"""The whole way: a real server, the real command, golden traffic.

The command is started first and left until it is idle, so that start-up is not
counted. Then the records appear at once in the gateway's list, by one RENAME, and
the time runs until Redis holds neither the list nor a claim: trimmed means settled
by every pump.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import redis

from benchmarks import processes, reference, targets
from benchmarks.yardstick import timed, unpack
from tyk_pump.admin.control import ask
from tyk_pump.cli.embedded import EmbeddedServer, free_port
from tyk_pump.coordinator.snapshot import Snapshot

LIST = "analytics-tyk-system-analytics"
STAGED = "benchmark-staged"
CHUNK = 2000
START_SECONDS = 30.0
DRAIN_SECONDS = 120.0
"""Beside half a millisecond for each record."""


@dataclass
class Run:
    """What one run took."""

    pumps: list[str]
    records: int
    seconds: float
    cpu_seconds: float
    yardstick: float
    """Microseconds of Y per record, measured around the run."""
    roles: dict[str, float] = field(default_factory=dict)
    """Microseconds of processor time per record by what a process is in the pump."""
    peaks: list[tuple[str, int]] = field(default_factory=list)
    """Name of each process of the pump, and its peak memory in KiB."""

    @property
    def rate(self) -> float:
        """Return records per second."""
        return self.records / self.seconds

    @property
    def micros(self) -> float:
        """Return microseconds of processor time per record, all processes together."""
        return 1e6 * self.cpu_seconds / self.records

    @property
    def ratio(self) -> float:
        """Return the processor time per record as a multiple of Y."""
        return self.micros / self.yardstick

    @property
    def share(self) -> float | None:
        """Return which part of the reference's effort it is, for one pump alone."""
        known = None
        if len(self.pumps) == 1:
            known = reference.REFERENCE.get(targets.kind(self.pumps[0]))
        return self.ratio / known.ratio if known else None

    @property
    def core_rate(self) -> float:
        """Return the records that one core could write in a second in a worker."""
        return 1e6 / self.roles["worker"]


class EndedError(Exception):
    """The pump did not come up, or went away while it was measured."""


def measure(
    raws: Sequence[bytes],
    names: Sequence[str],
    records: int,
    binary: str | None,
    journal: str = "redis",
) -> Run:
    """Drain that many records through these pumps, and return what it took."""
    with tempfile.TemporaryDirectory(prefix="tyk-pump-bench-") as name:
        folder = Path(name)
        with (
            EmbeddedServer(folder, binary) as server,
            server.client() as client,
            targets.sections(list(names), folder) as sections,
        ):
            config, port = configure(folder, server.port, sections, journal)
            return run(config, port, folder, client, raws, names, records)


def run(
    config: Path,
    port: int,
    folder: Path,
    client: redis.Redis,
    raws: Sequence[bytes],
    names: Sequence[str],
    records: int,
) -> Run:
    """Start the command, drain the records, end it."""
    with start(config, folder) as pump:
        try:
            wait_until_ready(pump, port)
            found = drain(client, pump, folder, raws, list(names), records)
            see_all_delivered(folder, records)
            return found
        except EndedError as exc:
            exc.add_note((folder / "pump.log").read_text(errors="replace"))
            raise
        finally:
            pump.send_signal(signal.SIGTERM)


def configure(
    folder: Path, port: int, sections: dict[str, Any], journal: str
) -> tuple[Path, int]:
    """Write the configuration; return its path and the HTTP port."""
    http = free_port()
    config = {
        "analytics_storage_config": {"host": "127.0.0.1", "port": port},
        "purge_delay": 0.2,
        "health_check_endpoint_port": http,
        "state_dir": str(folder / "state"),
        "dont_purge_uptime_data": True,
        "journal": {"type": journal},
        "pumps": sections,
    }
    path = folder / "pump.conf"
    path.write_text(json.dumps(config))
    return path, http


def start(config: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start the command; its records go nowhere, its log to a file."""
    command = [sys.executable, "-m", "tyk_pump", "start", "--conf", str(config)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TYK_")}
    with (folder / "pump.log").open("wb") as log:
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=log, env=environment
        )


def wait_until_ready(pump: subprocess.Popen[bytes], port: int) -> None:
    """Return when /ready says so and the start-up is over."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and pump.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    else:
        raise EndedError("the pump does not become ready")
    time.sleep(1.0)


def stage(client: redis.Redis, raws: Sequence[bytes], records: int) -> None:
    """Put the records under a name that the pump does not look at."""
    for first in range(0, records, CHUNK):
        count = min(CHUNK, records - first)
        client.rpush(STAGED, *(raws[(first + i) % len(raws)] for i in range(count)))


def drain(
    client: redis.Redis,
    pump: subprocess.Popen[bytes],
    folder: Path,
    raws: Sequence[bytes],
    names: list[str],
    records: int,
) -> Run:
    """Let the records appear, and wait until they are settled."""
    stage(client, raws, records)
    beside = [timed(lambda: unpack(raws), 5) for _ in range(5)]
    before = spent(processes.tree(pump.pid), pump.pid)
    began = time.monotonic()
    client.rename(STAGED, LIST)
    while pending(client) or waiting(folder):
        if pump.poll() is not None:
            raise EndedError("the pump has ended")
        if time.monotonic() > began + DRAIN_SECONDS + records / 2000:
            raise EndedError("the records do not go out")
        time.sleep(0.02)
    seconds = time.monotonic() - began
    after = processes.tree(pump.pid)
    spent_now = spent(after, pump.pid)
    used = {name: cpu - before.get(name, 0.0) for name, cpu in spent_now.items()}
    beside += [timed(lambda: unpack(raws), 5) for _ in range(5)]
    return Run(
        pumps=names,
        records=records,
        seconds=seconds,
        cpu_seconds=sum(used.values()),
        yardstick=1e6 * median(beside) / len(raws),
        roles={name: 1e6 * cpu / records for name, cpu in used.items()},
        peaks=[(role(each, pump.pid), each.peak_kib) for each in after],
    )


def see_all_delivered(folder: Path, records: int) -> None:
    """See that no pump was quick because it refused what it got."""
    now = msgspec.convert(ask(folder / "state", "status"), Snapshot)
    for pump in now.pumps:
        if pump.delivered != records:
            raise EndedError(f"{pump.name}: {pump.delivered:,} of {records:,} arrived")


def spent(found: Sequence[processes.Usage], coordinator: int) -> dict[str, float]:
    """Return the processor seconds so far by role; workers are added up."""
    seconds: dict[str, float] = {}
    for each in found:
        name = role(each, coordinator)
        seconds[name] = seconds.get(name, 0.0) + each.cpu_seconds
    return seconds


def pending(client: redis.Redis) -> bool:
    """Say whether the list or a claim is still there."""
    return bool(client.exists(LIST)) or any(client.scan_iter("*claim*", count=1000))


def waiting(folder: Path) -> bool:
    """Say whether records wait on the disk."""
    now = msgspec.convert(ask(folder / "state", "status"), Snapshot)
    return bool(now.journal_records) or any(pump.pending for pump in now.pumps)


def role(used: processes.Usage, coordinator: int) -> str:
    """Return what a process is in the pump."""
    if used.pid == coordinator:
        return "coordinator"
    return "helper" if "resource_tracker" in used.command else "worker"
