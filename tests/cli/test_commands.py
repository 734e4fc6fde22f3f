"""The commands: what they print, what they return, with and without a running pump."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from tyk_pump.admin.control import ControlServer
from tyk_pump.cli import COMMANDS, commands, daemon, main
from tyk_pump.cli.common import table
from tyk_pump.config.load import Config
from tyk_pump.coordinator.demo_options import DemoOptions
from tyk_pump.coordinator.snapshot import PumpSnapshot, Snapshot
from tyk_pump.errors import StateError
from tyk_pump.pumps.dummy import DummyPump
from tyk_pump.pumps.stdout import StdoutPump
from tyk_pump.record import analytics, wire
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.source.lists import UPTIME_LIST
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import StateFolder
from tyk_pump.worker.outcome import DeadRecord


@pytest.fixture
def conf(tmp_path: Path) -> str:
    """A configuration with a dummy and a state folder of its own."""
    path = tmp_path / "pump.conf"
    path.write_text('{"pumps": {"dummy": {"type": "dummy", "meta": {}}}}')
    return str(path)


class Running:
    """A process that answers commands, without a coordinator behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = StateFolder.open(folder)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}
        self.server = ControlServer(self.folder, self.call)
        self.server.start()

    def call(self, command: str, arguments: dict[str, Any]) -> Any:
        """Note the call and give the prepared answer."""
        self.calls.append((command, arguments))
        return self.answers[command]


@pytest.fixture
def running(tmp_path: Path, conf: str) -> Iterator[Running]:
    """A process that runs with the configuration."""
    made = Running(tmp_path / "pump.state")
    yield made
    made.server.close()
    made.folder.close()


def fill(folder: Path) -> None:
    """Store one letter that is a record, and one that is none."""
    record = analytics.AnalyticsRecord(api_id="api", path="/x")
    letters = [
        DeadRecord(1, "S:1", "mapping conflict", wire.pack(record)),
        DeadRecord(2, "S:2", "no record", b"garbage"),
    ]
    folder.mkdir(exist_ok=True)
    with contextlib.closing(StateFile(folder / "state.sqlite")) as file:
        file.store_dead("CSV", "analytics", "msgpack", letters, 1_700_000_000.0)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command and each option says what it is for, in one sentence."""
    for name in COMMANDS:
        command = commands.get_command(click.Context(commands), name)
        assert command is not None and command.help, name
        parts = (
            command.commands.values() if isinstance(command, click.Group) else [command]
        )
        for part in parts:
            assert part.help, part.name
            for option in part.params:
                if isinstance(option, click.Option):
                    assert option.help, (name, option.name)
        assert main([name, "--help"]) == 0
    assert "Usage: tyk-pump" in capsys.readouterr().out


def test_nothing_runs(conf: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands for a running pump say so; to stop what is stopped is no failure."""
    assert main(["status", "--conf", conf]) == 1
    assert main(["reload", "--conf", conf]) == 1
    assert capsys.readouterr().err.count("no pump runs") == 2
    assert main(["stop", "--conf", conf]) == 0
    assert main(["dead-letters", "list", "--conf", conf]) == 0
    assert "no dead letters" in capsys.readouterr().out


def test_status_is_a_table_or_json(
    conf: str, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person sees state, lag and the last error; a program the whole snapshot."""
    pump = PumpSnapshot(
        name="MONGO",
        type="mongo",
        state="retrying",
        delivered=12345,
        dead=3,
        pending=5,
        lag_seconds=300,
        last_error="mongodb://u:secret@h refused",
    )
    now = Snapshot(
        version="1.2.3",
        instance="here",
        started=time.time(),
        ready=False,
        reasons=["pump MONGO is retrying"],
        pumps=[pump],
        lost_records=2,
    )
    running.answers["status"] = msgspec.to_builtins(now)
    assert main(["status", "--conf", conf]) == 0
    out = capsys.readouterr().out
    for words in ("not ready", "12,345", "5 min", "retrying", "2 claimed records were"):
        assert words in out
    assert "secret" not in out
    assert main(["status", "--json", "--conf", conf]) == 0
    assert json.loads(capsys.readouterr().out)["pumps"][0]["pending"] == 5


def test_reload_tells_what_changed(
    conf: str, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused configuration is an exit code, and the old one stays."""
    running.answers["reload"] = {"faults": [], "warnings": ["w"], "changed": ["CSV"]}
    assert main(["reload", "--conf", conf]) == 0
    assert capsys.readouterr().out == "w\nchanged: CSV\n"
    running.answers["reload"] = {"faults": ["bad"], "warnings": [], "changed": []}
    assert main(["reload", "--json", "--conf", conf]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["faults"] == ["bad"] and "stays in force" in err


def test_stop_asks_and_waits(
    conf: str, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """It returns when the folder is free; it says so when that takes too long."""
    running.answers["stop"] = {"stopping": True}
    assert main(["stop", "--timeout", "0.1", "--conf", conf]) == 1
    assert "still runs" in capsys.readouterr().err
    assert running.calls == [("stop", {})]


def test_stop_signals_a_process_that_does_not_listen(
    conf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too early or too busy to answer, it still gets SIGTERM."""
    code = (
        "import sys, signal; from tyk_pump.state.folder import StateFolder;"
        "held = StateFolder.open(sys.argv[1]); print('held', flush=True);"
        "signal.pause()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "pump.state")],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert main(["stop", "--conf", conf]) == 0
        assert process.wait(5) == -signal.SIGTERM
    assert "stopped" in capsys.readouterr().err


def test_letters_are_listed_and_shown(
    conf: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Decoded where that can be, byte for byte on request."""
    fill(tmp_path / "pump.state")
    assert main(["dead-letters", "list", "--conf", conf]) == 0
    out = capsysbinary.readouterr().out
    assert b"mapping conflict" in out and b"S:2" in out
    assert (
        main(["dead-letters", "list", "--json", "--pump", "csv", "--conf", conf]) == 0
    )
    first, second = json.loads(capsysbinary.readouterr().out)
    assert first["at"].startswith("2023-11-1") and "raw" not in first
    assert (
        main(["dead-letters", "show", "--json", "--conf", conf, str(first["id"])]) == 0
    )
    assert json.loads(capsysbinary.readouterr().out)["record"]["path"] == "/x"
    assert main(["dead-letters", "show", "--conf", conf, str(second["id"])]) == 0
    assert b"garbage" in capsysbinary.readouterr().out
    assert (
        main(["dead-letters", "show", "--raw", "--conf", conf, str(second["id"])]) == 0
    )
    assert capsysbinary.readouterr().out == b"garbage"
    assert main(["dead-letters", "show", "--conf", conf, "99"]) == 1
    assert main(["dead-letters", "list", "--reason", "nix", "--conf", conf]) == 0
    assert b"none of 2 fits" in capsysbinary.readouterr().out


def test_a_replay_is_marked_for_the_next_start(
    conf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nobody running the file itself is marked."""
    fill(tmp_path / "pump.state")
    assert main(["dead-letters", "replay", "--all", "--conf", conf]) == 0
    assert "2 marked for replay; the next start" in capsys.readouterr().out
    with contextlib.closing(StateFile(tmp_path / "pump.state/state.sqlite")) as file:
        assert [(r.pump, r.end) for r in file.replays()] == [("CSV", 2)]


def test_a_replay_is_left_to_the_running_pump(
    conf: str, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """It picks them up at once."""
    running.answers["dead-letters.replay"] = {"marked": 2}
    words = [
        "dead-letters",
        "replay",
        "--pump",
        "csv",
        "--json",
        "--conf",
        conf,
        "1",
        "2",
    ]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"marked": 2}
    assert running.calls == [("dead-letters.replay", {"pump": "CSV", "ids": [1, 2]})]


def test_dropping_needs_to_be_meant(
    conf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing named is an error, everything asks, `--yes` does it."""
    fill(tmp_path / "pump.state")
    assert main(["dead-letters", "drop", "--conf", conf]) == 2
    assert main(["dead-letters", "drop", "--yes", "--pump", "csv", "--conf", conf]) == 0
    assert "2 dropped" in capsys.readouterr().out


def test_check_lists_every_finding(
    conf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A good file passes; an unknown key is refused here though `start` warns."""
    assert main(["check", "--offline", "--json", "--conf", conf]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and {f["about"] for f in found["findings"]} >= {
        "configuration",
        "state folder",
        "redis",
        "pumps.DUMMY",
    }
    (tmp_path / "pump.conf").write_text(
        '{"purge_dela": 1, "pumps": {"dummy": {"type": "dummy"}}}'
    )
    assert main(["check", "--offline", "--conf", conf]) == 1
    assert "purge_dela" in capsys.readouterr().out


def test_check_reaches_redis_and_pumps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A closed port is a fault; what the pump's probe said is shown."""
    path = tmp_path / "pump.conf"
    redis = {"host": "127.0.0.1", "port": 1}
    csv = {"type": "csv", "meta": {"csv_dir": str(tmp_path / "out")}}
    whole = {"analytics_storage_config": redis, "pumps": {"csv": csv}}
    path.write_text(json.dumps(whole))
    assert main(["check", "--json", "--conf", str(path)]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    kinds = {(one["kind"], one["about"]) for one in found}
    assert ("fault", "redis") in kinds
    assert ("ok", "pumps.CSV") in kinds
    assert any("+renamenx" in one["text"] for one in found)


def test_check_asks_all_back_ends_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they say stands in their order; one that is silent does not hold it up."""
    path = tmp_path / "pump.conf"
    redis = {"host": "127.0.0.1", "port": 1}
    found = {name: {"type": "dummy"} for name in "dcab"}
    found["b"] = {"type": "stdout"}
    path.write_text(json.dumps({"analytics_storage_config": redis, "pumps": found}))
    together, ever = threading.Barrier(3), threading.Event()

    def after_the_others(_: DummyPump) -> str:
        together.wait(30)
        return "there"

    def never(_: StdoutPump) -> str:
        ever.wait(30)
        return "late"

    monkeypatch.setattr(DummyPump, "probe", after_the_others)
    monkeypatch.setattr(StdoutPump, "probe", never)
    # It is not left to a driver whether the process ends.
    monkeypatch.setattr(os, "_exit", sys.exit)
    try:
        assert main(["check", "--json", "--timeout", "0.5", "--conf", str(path)]) == 1
    finally:
        ever.set()
    said = json.loads(capsys.readouterr().out)["findings"]
    rows = [(one["about"], one["text"]) for one in said if "pumps." in one["about"]]
    assert rows == [
        ("pumps.D", "dummy: there"),
        ("pumps.C", "dummy: there"),
        ("pumps.A", "dummy: there"),
        ("pumps.B", "stdout: no answer within 0.5 s (--timeout)"),
    ]


def test_a_refused_configuration_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fault is logged; exit code 2 tells a service manager not to try again."""
    path = tmp_path / "pump.conf"
    path.write_text('{"purge_delay": "x", "lease_time": 1, "pumps": {}}')
    assert main(["start", "--conf", str(path)]) == 2
    err = capsys.readouterr().err
    assert "purge_delay" in err and "lease_time" in err and "No pumps configured" in err
    assert "level=fatal" in err


def test_strict_refuses_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the same file starts; trouble of the start is exit code 1."""
    path = tmp_path / "pump.conf"
    path.write_text('{"unknown": 1, "pumps": {"dummy": {"type": "dummy"}}}')
    seen: list[tuple[Config, Any]] = []
    from tyk_pump.coordinator import loop

    def run(
        config: Config, *, conf_path: str, environ: dict[str, str], demo: Any
    ) -> int:
        seen.append((config, demo))
        raise StateError("in use")

    monkeypatch.setattr(loop, "run", run)
    assert daemon.run(str(path), strict=True, environ={}) == 2
    assert daemon.run(str(path), environ={}) == 1
    (config, demo) = seen[0]
    assert config.pumps[0].name == "DUMMY" and demo is None


def test_demo_data_can_be_asked_for_by_variable(
    conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable wins over the flag, as in the reference."""
    seen: list[Any] = []
    from tyk_pump.coordinator import loop

    def run(config: Config, **rest: Any) -> int:
        seen.append(rest["demo"])
        return 0

    monkeypatch.setattr(loop, "run", run)
    variable = {"TYK_PMP_BUILDDEMODATA": "theirs"}
    assert daemon.run(conf, environ=variable) == 0
    assert daemon.run(conf, environ=variable, demo=DemoOptions(org="", days=2)) == 0
    assert daemon.run(conf, environ=variable, demo=DemoOptions(org="ours")) == 0
    assert [(demo.org, demo.days) for demo in seen] == [
        ("theirs", 30),
        ("theirs", 2),
        ("theirs", 30),
    ]


def test_options_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """What the configuration may say, for people and for editors."""
    assert main(["options"]) == 0
    assert "purge_delay" in capsys.readouterr().out
    assert main(["options", "csv"]) == 0
    assert "csv_dir" in capsys.readouterr().out
    assert main(["options", "nothing"]) == 1
    assert main(["schema"]) == 0
    assert "purge_delay" in capsys.readouterr().out.split('"properties"', 1)[1]


def test_a_table_is_aligned_whatever_its_colours() -> None:
    """What a terminal does not show takes no width."""
    rows = [["a", click.style("1", fg="red")], ["long", "100"]]
    lines = click.unstyle(table(("NAME", "N"), rows, " r")).splitlines()
    assert lines == ["NAME    N", "a       1", "long  100"]
    assert os.linesep == "\n"


def test_letters_of_the_uptime_pump(
    conf: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are named by its name in small letters, and shown as what they are."""
    report = UptimeRecord(url="http://up", timestamp=(1_773_478_800, 0))
    folder = Path(conf).parent / "pump.state"
    folder.mkdir(exist_ok=True)
    letters = [DeadRecord(1, "S:1", "refused", wire.pack_uptime(report))]
    with contextlib.closing(StateFile(folder / "state.sqlite")) as file:
        file.store_dead("uptime", UPTIME_LIST, "uptime", letters, 1_700_000_000.0)
        file.store_dead("UPTIME", "analytics", "msgpack", letters, 1_700_000_000.0)
    command = ["dead-letters", "list", "--conf", conf, "--json", "--pump"]
    assert main([*command, "uptime"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["pump"] == "uptime"
    number = str(found["id"])
    assert main(["dead-letters", "show", "--json", number, "--conf", conf]) == 0
    record = json.loads(capsys.readouterr().out)["record"]
    assert (record["URL"], record["TimeStamp"]) == ("http://up", "2026-03-14T09:00:00Z")
