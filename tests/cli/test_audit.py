"""`audit` where nothing runs: what it says with little, and its table."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.servers.redis import RedisServer
from tyk_pump.cli import main
from tyk_pump.cursors import Counts
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import StateFolder
from tyk_pump.state.ledger import Row


def written(folder: Path, port: int) -> str:
    """Write a configuration; return its path."""
    path = folder / "pump.conf"
    redis = {"host": "127.0.0.1", "port": port}
    pumps = {"dummy": {"type": "dummy"}}
    path.write_text(json.dumps({"analytics_storage_config": redis, "pumps": pumps}))
    return str(path)


def row(pump: str, hours_ago: int, delivered: int, claimed: int = 10) -> Row:
    """Return a row of a claim that was made some hours ago."""
    return Row(
        stream="S",
        claim=f"C{hours_ago}",
        cursor=pump,
        at=time.time() - 3600 * hours_ago,
        base=0,
        end=claimed,
        claimed=claimed,
        counts=Counts(delivered=delivered),
    )


def booked(conf: str, rows: list[Row]) -> None:
    """Close rows in the state file, as an instance that has ended would have."""
    folder = StateFolder.open(Path(conf).with_suffix(".state"))
    with contextlib.closing(StateFile(folder.file)) as file:
        file.ledger.write((), (), rows, time.time())
    folder.close()


def test_nothing_was_ever_booked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a state file there is nothing to compare, and Redis is not asked."""
    assert main(["audit", "--conf", written(tmp_path, 1)]) == 0
    assert capsys.readouterr().out == "nothing is booked yet\nbalanced\n"
    assert not (tmp_path / "pump.state").exists()


def test_redis_must_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is pending stands there: half an audit would be none."""
    conf = written(tmp_path, 1)
    booked(conf, [row("DUMMY", 1, 10)])
    assert main(["audit", "--conf", conf]) == 1
    assert "127.0.0.1" in capsys.readouterr().err


def test_pumps_hours_and_a_difference(
    tmp_path: Path, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pump balances, one does not; only in the hours that are asked for."""
    conf = written(tmp_path, redis_server.port)
    booked(conf, [row("DUMMY", 1, 10), row("DUMMY", 5, 10), row("UPPER", 5, 9)])

    def asked(*words: str) -> tuple[int, Any]:
        code = main(["audit", "--json", *words, "--conf", conf])
        return code, json.loads(capsys.readouterr().out)

    code, found = asked()
    assert code == 1 and not found["balanced"]
    assert [(p["pump"], p["claimed"], p["difference"]) for p in found["pumps"]] == [
        ("DUMMY", 20, 0),
        ("UPPER", 10, 1),
    ]
    assert len(found["hours"]) == 3
    code, found = asked("--pump", "dummy")
    assert code == 0 and [p["pump"] for p in found["pumps"]] == ["DUMMY"]
    code, found = asked("--since", "3")
    assert code == 0 and found["pumps"][0]["claimed"] == 10
    assert main(["audit", "--hours", "--conf", conf]) == 1
    shown = capsys.readouterr().out
    assert shown.count("DUMMY") == 2 and "it does not balance" in shown
    assert "LOST" not in shown and "PENDING" in shown
