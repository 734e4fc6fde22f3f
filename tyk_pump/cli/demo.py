"""`tyk-pump demo`: the whole way shown on one machine, with nothing installed.

A producer pushes made-up records into a private server as a gateway does; the real
command drains them into CSV files and lines on its standard output; at the end both
outputs are counted against what went in.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click
import redis

from tyk_pump.cli.embedded import EmbeddedServer, free_port

LISTS = ["analytics-tyk-system-analytics"] + [
    f"analytics-tyk-system-analytics_{shard}" for shard in range(10)
]
GATEWAY_TTL = 60
"""Seconds that the gateway lets an unread list live."""
POOL = 4096
"""Different records made beforehand; making them must not slow the producer."""
SLICE = 0.05
"""Seconds between two pushes of the producer; a gateway flushes about as often."""
FINISH_SECONDS = 60.0
WIDTH = 18
"""Characters of the bar; the whole line fits a terminal of 80 columns."""


@dataclass
class Totals:
    """What has arrived at each output so far."""

    csv: int = 0
    stdout: int = 0
    offsets: dict[Path, int] = field(default_factory=dict)
    headers: int = 0

    def look(self, folder: Path) -> None:
        """Count the lines that were written since the last look.

        No field of the made-up records holds a line break, so a line is a record.
        """
        for path in sorted((folder / "csv").glob("*.csv")):
            if path not in self.offsets:
                self.headers += 1
            self.csv += self._new_lines(path)
        self.stdout += self._new_lines(folder / "records.jsonl")

    def rows(self) -> int:
        """Return the records in the CSV files, their header lines left out."""
        return max(0, self.csv - self.headers)

    def _new_lines(self, path: Path) -> int:
        at = self.offsets.setdefault(path, 0)
        if not path.exists():
            return 0
        lines = 0
        with path.open("rb") as file:
            file.seek(at)
            while chunk := file.read(1 << 20):
                lines += chunk.count(b"\n")
                at += len(chunk)
        self.offsets[path] = at
        return lines


@dataclass
class Result:
    """The figures of the closing table."""

    pushed: int
    bytes: int
    push_seconds: float
    drain_seconds: float
    csv: int
    stdout: int
    left: int
    cpu_seconds: float
    exit_code: int

    def complete(self) -> bool:
        """Return whether everything that went in came out, once, and all ended well."""
        arrived = self.csv == self.stdout == self.pushed
        return arrived and self.left == 0 and self.exit_code == 0


@click.command("demo")
@click.option("--records", default=50_000, show_default=True, help="Records to push.")
@click.option("--rate", default=5_000, show_default=True, help="Records per second.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where files are written and kept; a new temporary folder unless given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def demo(records: int, rate: int, folder: Path | None, as_json: bool) -> None:
    """Show the pump at work on made-up traffic, with an embedded Valkey."""
    folder = folder or Path(tempfile.mkdtemp(prefix="tyk-pump-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "csv").exists():
        raise click.ClickException(f"{folder} holds the files of an earlier demo")
    result = show(records, rate, folder)
    if as_json:
        print(json.dumps(vars(result)))
    else:
        print_table(result, folder)
    if not result.complete():
        tail(folder / "pump.log")
        raise SystemExit(1)


def show(records: int, rate: int, folder: Path) -> Result:
    """Run server, pump and producer, and return what was measured."""
    with EmbeddedServer(folder) as server:
        config = write_config(folder, server.port)
        click.echo(opening(records, rate, server.port), err=True)
        before = os.times()
        with start_pump(config, folder) as pump, server.client() as client:
            try:
                result = drive(client, pump, records, rate, folder)
            finally:
                exit_code = stop_pump(pump)
        after = os.times()
        used = after.children_user + after.children_system
        result.cpu_seconds = used - before.children_user - before.children_system
        result.exit_code = exit_code
        return result


def opening(records: int, rate: int, port: int) -> str:
    """Return what the onlooker should know before anything moves."""
    seconds = max(1, round(records / rate))
    return (
        f"A made-up gateway pushes {records:,} records, {rate:,} per second, into a\n"
        f"private server on port {port}, which stands for Redis. The pump drains them\n"
        f"into CSV files and onto its standard output. About {seconds} seconds.\n"
    )


def write_config(folder: Path, port: int) -> Path:
    """Write the configuration that an operator would write for this."""
    config: dict[str, Any] = {
        "analytics_storage_config": {"host": "127.0.0.1", "port": port},
        "purge_delay": 0.5,
        "health_check_endpoint_port": free_port(),
        "state_dir": str(folder / "state"),
        "dont_purge_uptime_data": True,
        "pumps": {
            "csv": {"type": "csv", "meta": {"csv_dir": str(folder / "csv")}},
            "stdout": {"type": "stdout", "meta": {"format": "json"}},
        },
    }
    path = folder / "pump.conf"
    path.write_text(json.dumps(config, indent=2) + "\n")
    return path


def start_pump(config: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start the real command; its records and its log go to files of their own."""
    command = [sys.executable, "-m", "tyk_pump", "start", "--conf", str(config)]
    # The operator's own variables must not turn the demo's pump to their Redis.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TYK_")}
    with (
        (folder / "records.jsonl").open("wb") as records,
        (folder / "pump.log").open("wb") as log,
    ):
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=records,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def stop_pump(pump: subprocess.Popen[bytes]) -> int:
    """Ask the pump to finish, and return its exit code."""
    pump.send_signal(signal.SIGTERM)
    try:
        return pump.wait(timeout=30)
    except subprocess.TimeoutExpired:
        pump.kill()
        return pump.wait()


def drive(
    client: redis.Redis,
    pump: subprocess.Popen[bytes],
    records: int,
    rate: int,
    folder: Path,
) -> Result:
    """Push at the wished rate, then wait until both outputs hold everything."""
    pool = packed_pool(min(POOL, records))
    size = sum(map(len, pool)) / len(pool)
    totals, bar = Totals(), Progress(records, sys.stderr)
    began = time.monotonic()
    pushed = 0
    for pushed in produce(client, pool, records, rate):
        totals.look(folder)
        bar.show(pushed, totals)
        if pump.poll() is not None:
            break
    push_seconds = time.monotonic() - began
    deadline = time.monotonic() + FINISH_SECONDS
    while min(totals.rows(), totals.stdout) < pushed and pump.poll() is None:
        if time.monotonic() > deadline:
            break
        time.sleep(SLICE)
        totals.look(folder)
        bar.show(pushed, totals)
    drain_seconds = time.monotonic() - began
    bar.end(pushed, totals)
    return Result(
        pushed=pushed,
        bytes=round(size * pushed),
        push_seconds=push_seconds,
        drain_seconds=drain_seconds,
        csv=count_rows(folder / "csv"),
        stdout=count_json(folder / "records.jsonl"),
        left=sum(int(str(client.llen(name))) for name in LISTS),
        cpu_seconds=0.0,
        exit_code=-1,
    )


def packed_pool(size: int) -> list[bytes]:
    """Return made-up records as the gateway writes them."""
    from tyk_pump.record.demo import traffic
    from tyk_pump.record.wire import pack

    source = random.Random(2024)
    return [pack(traffic(source)) for _ in range(size)]


def produce(
    client: redis.Redis, pool: list[bytes], records: int, rate: int
) -> Iterator[int]:
    """Push as a gateway does, and yield after each push how many are in so far.

    A gateway appends its buffer to one of the lists in a pipeline, and gives the list a
    time to live where it has none.
    """
    began, pushed = time.monotonic(), 0
    while pushed < records:
        due = min(records, int((time.monotonic() - began + SLICE) * rate))
        if due > pushed:
            name = LISTS[random.randrange(len(LISTS))]
            values = [pool[i % len(pool)] for i in range(pushed, due)]
            pipe = client.pipeline(transaction=False)
            pipe.rpush(name, *values)
            pipe.expire(name, GATEWAY_TTL, nx=True)
            pipe.execute()
            pushed = due
        yield pushed
        if pushed < records:
            time.sleep(SLICE)


class Progress:
    """A line that is drawn over itself on a terminal, and seldom printed elsewhere."""

    def __init__(self, records: int, out: TextIO) -> None:
        self._records = records
        self._out = out
        self._terminal = out.isatty()
        self._next = 0.0
        self._began = time.monotonic()

    def show(self, pushed: int, totals: Totals) -> None:
        """Draw what is in and what is out, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.1 if self._terminal else 2.0)
        self._draw(pushed, totals)

    def end(self, pushed: int, totals: Totals) -> None:
        """Draw the last figures and leave them."""
        self._draw(pushed, totals)
        if self._terminal:
            self._out.write("\n")

    def _draw(self, pushed: int, totals: Totals) -> None:
        out = min(totals.rows(), totals.stdout)
        filled = WIDTH * out // self._records
        ahead = WIDTH * pushed // self._records - filled
        bar = "#" * filled + "-" * max(0, ahead)
        rate = out / max(0.001, time.monotonic() - self._began)
        line = (
            f"[{bar:<{WIDTH}}] in {pushed:>8,}  csv {totals.rows():>8,}"
            f"  stdout {totals.stdout:>8,}  {rate:>7,.0f}/s"
        )
        self._out.write(f"\r{line}" if self._terminal else f"{line}\n")
        self._out.flush()


def count_rows(folder: Path) -> int:
    """Return the rows of all CSV files, read as any reader of CSV reads them."""
    rows = 0
    for path in folder.glob("*.csv"):
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows += max(0, sum(1 for _ in csv.reader(file)) - 1)
    return rows


def count_json(path: Path) -> int:
    """Return how many lines of the file are JSON objects."""
    with path.open("rb") as file:
        return sum(1 for line in file if isinstance(json.loads(line), dict))


def print_table(result: Result, folder: Path) -> None:
    """Print what went in, what came out, and how fast."""
    rate = result.pushed / max(0.001, result.drain_seconds)
    offered = result.pushed / max(0.001, result.push_seconds)
    cost = 1e6 * result.cpu_seconds / max(1, result.pushed)
    rows = [
        ("pushed as a gateway does", f"{result.pushed:,} records"),
        ("", f"{result.bytes / 1e6:,.1f} MB of msgpack, {offered:,.0f} records/s"),
        ("rows in the CSV files", f"{result.csv:,}"),
        ("lines on standard output", f"{result.stdout:,}"),
        ("left in Redis", f"{result.left:,}"),
        ("first push to last row", f"{result.drain_seconds:.1f} s ({rate:,.0f}/s)"),
        (
            "processor time of the pump",
            f"{result.cpu_seconds:.1f} s, {cost:.0f} us per record for both outputs",
        ),
        ("exit code of the pump", str(result.exit_code)),
    ]
    print()
    for label, value in rows:
        print(f"  {label:<28}{value}")
    good = result.complete()
    verdict = "Everything arrived, once." if good else "NOT COMPLETE"
    print()
    # click leaves the colour out where nobody would see it.
    click.secho(f"  {verdict}", fg="green" if good else "red", bold=True)
    print(f"\n  Look around in {folder}:")
    for name, what in (
        ("csv/", "a file for each hour, with a header"),
        ("records.jsonl", "the pump's standard output, a record per line"),
        ("pump.log", "what the pump said of itself"),
        ("pump.conf", "the configuration that it ran with"),
    ):
        print(f"    {name:<16}{what}")


def tail(path: Path) -> None:
    """Print the end of the pump's log, where the reason stands."""
    for line in path.read_text(errors="replace").splitlines()[-20:]:
        click.echo(line, err=True)
