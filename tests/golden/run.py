"""Runs a golden case and keeps what came out."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import msgspec
import pytest
import redis

from tests.golden.loader import Case, fill
from tests.servers import free_port
from tests.servers.redis import RedisServer
from tyk_pump import log, pumps
from tyk_pump.config.load import Config, load
from tyk_pump.errors import CodecError, RejectedRecords
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record import codec, gotime
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.state.file import StateFile
from tyk_pump.worker import select

ROOT = Path(__file__).resolve().parents[2]


class Output(msgspec.Struct):
    """What the pumps of a case wrote."""

    folder: Path
    """What `{path}` of the configuration stood for."""
    stdout: bytes = b""
    messages: list[str] = msgspec.field(default_factory=list)
    """Log messages."""
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    """Name of the record -> why it became a dead letter."""


def configuration(
    case: Case, folder: Path, live: Mapping[str, str] | None = None
) -> Config:
    """Return the case's configuration as the command loads it.

    `live` has what `{url}` and the like stand for.
    """
    live = {"path": str(folder), **(live or {})}
    about = {"pumps": fill(case.pumps, live), **case.settings}
    if case.uptime:
        about["uptime_pump_config"] = fill(case.uptime, live)
    path = folder.parent / "pump.conf"
    path.write_text(json.dumps(about))
    return load(str(path), fill(case.env, live))


def hour_file(folder: Path) -> Path:
    """Return the file that the csv pump writes to now."""
    month = time.strftime("%B")
    now = time.localtime()
    return folder / f"{now.tm_year}-{month}-{now.tm_mday}-{now.tm_hour}.csv"


def run(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Output:
    """Decode, select and write every record of a case, pump by pump."""
    folder = tmp_path / "out"
    folder.mkdir()
    output = Output(folder)
    with zone(case.env["TZ"], monkeypatch):
        for content in case.about.get("before", {}).values():
            hour_file(folder).write_text(content)
        config = configuration(case, folder)
        assert config.faults == []
        monkeypatch.setattr(log, "current_format", config.root.log_format or "text")
        with messages(output.messages), _stdout(tmp_path / "stdout", output):
            for number, pump in enumerate(config.pumps):
                assert not pump.fault, pump.fault
                opened = pumps.load(pump.type)(pump.options)
                opened.open()
                selector = select.compile(pump, config.root, opened.fields)
                _write_all(case, opened, selector, number, output)
                opened.close()
    return output


def run_command(
    case: Case,
    tmp_path: Path,
    server: RedisServer,
    live: Mapping[str, str] | None = None,
) -> Output:
    """Push a case into Redis, start the command, stop it when all is settled.

    `live` has what `{port}` and the like stand for.
    """
    folder = tmp_path / "out"
    folder.mkdir()
    live = {"path": str(folder), **(live or {})}
    client = server.client()
    for key, raws in case.stray().items():
        client.rpush(key, *raws)
    for key, form, wire in case.pushed():
        client.rpush(key, wire.bytes_in(form) or b"")
    conf = tmp_path / "pump.conf"
    conf.write_text(
        json.dumps(
            {
                "pumps": fill(case.pumps, live),
                "analytics_storage_type": "redis",
                "analytics_storage_config": {"host": "127.0.0.1", "port": server.port},
                "purge_delay": 0.02,
                "dont_purge_uptime_data": True,
                "health_check_endpoint_port": free_port(),
                "state_dir": str(tmp_path / "state"),
                **fill(case.settings, live),
            }
        )
    )
    if "before" in case.about:
        path = subprocess.check_output(
            [sys.executable, "-c", "import time; print(time.strftime('%Y %B %d %H'))"],
            env={**os.environ, **case.env},
            text=True,
        )
        year, month, day, hour = path.split()
        name = f"{year}-{month}-{int(day)}-{int(hour)}.csv"
        for content in case.about["before"].values():
            (folder / name).write_text(content)
    command = [sys.executable, "-m", "tyk_pump", "start", "--conf", str(conf)]
    out, log_path = tmp_path / "stdout", tmp_path / "stderr"
    with out.open("wb") as stdout, log_path.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdout=stdout,
            stderr=stderr,
            cwd=ROOT,
            env={**os.environ, **fill(case.env, live)},
        )
    try:
        _wait_until_settled(client, process, set(case.stray()), log_path)
        process.terminate()
        code = process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        client.close()
    text = log_path.read_text(errors="surrogateescape")
    assert code == 0, text[-3000:]
    messages = re.findall(
        r'message="([^"]*)" prefix=(?:dummy-pump|select|worker)', text
    )
    return Output(folder, out.read_bytes(), messages, _letters(case, tmp_path))


def _wait_until_settled(
    client: redis.Redis, process: subprocess.Popen[bytes], stray: set[str], log: Path
) -> None:
    """Wait until Redis holds no record any more: every pump has settled it."""
    until = time.monotonic() + 60
    while True:
        names = {key.decode() for key in client.scan_iter(count=1000, _type="list")}
        if not names - stray:
            return
        if process.poll() is not None or time.monotonic() > until:
            raise AssertionError(f"records stay: {names}\n{log.read_text()[-3000:]}")
        time.sleep(0.02)


def _letters(case: Case, tmp_path: Path) -> dict[str, str]:
    """Return the dead letters by the name of their record."""
    state = StateFile(tmp_path / "state" / "state.sqlite")
    try:
        found = [state.letter(letter.id) for letter in state.letters()]
        names = {wire.bytes_in(form): wire.name for _, form, wire in case.pushed()}
        return {names[one.raw]: one.reason for one in found if one is not None}
    finally:
        state.close()


@contextmanager
def zone(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a zone the local one."""
    monkeypatch.setenv("TZ", name)
    time.tzset()
    gotime.reset()
    try:
        yield
    finally:
        monkeypatch.undo()
        time.tzset()
        gotime.reset()


def _write_all(
    case: Case,
    pump: Pump,
    selector: select.Selector,
    number: int,
    output: Output,
) -> None:
    position = 0
    for (key, form), group in groupby(case.pushed(), key=lambda one: one[:2]):
        decode = codec.decoder(form, selector.needs)
        records: list[AnalyticsRecord] = []
        positions: list[int] = []
        names: list[str] = []
        for _, _, wire in group:
            position += 1
            try:
                record = decode(wire.bytes_in(form) or b"")
            except CodecError as exc:
                output.refused[wire.name] = str(exc)
                continue
            if selector.select is None or selector.select(record):
                records.append(record)
                positions.append(position)
                names.append(wire.name)
        if not records:
            continue
        stream = f"stream-{number}"
        try:
            pump.write(Batch(stream, 0, key, positions, records))
        except RejectedRecords as exc:
            output.refused.update({names[i]: why for i, why in exc.rejected.items()})


@contextmanager
def _stdout(path: Path, output: Output) -> Iterator[None]:
    kept = os.dup(1)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.dup2(fd, 1)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        output.stdout = path.read_bytes()


@contextmanager
def messages(found: list[str]) -> Iterator[None]:
    """Keep what is logged meanwhile."""

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    keeper = Keeper()
    logger = logging.getLogger("tyk_pump")
    level = logger.level
    logger.addHandler(keeper)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(keeper)
        logger.setLevel(level)
