"""`replay`: what is taken from the journal, for whom; what is said when nothing is."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tyk_pump import channel
from tyk_pump.admin.control import ControlServer
from tyk_pump.cli import main
from tyk_pump.cli.replay import size
from tyk_pump.cli.times import moment
from tyk_pump.cursors import Counts
from tyk_pump.record import wire
from tyk_pump.record.analytics import AnalyticsRecord, Latency
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.source.claims import Progress, pack
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import StateFolder
from tyk_pump.state.journal import GAP, Damaged, Frame, FrameStore

DAY = 1_741_132_800.0
"""2025-03-05T00:00:00Z"""
PUMPS = {
    "csv": {"type": "csv"},
    "other": {"type": "dummy"},
    "fresh": {"type": "dummy"},
}


@pytest.fixture(autouse=True)
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dates begin when they do in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def conf(tmp_path: Path) -> str:
    """A configuration with a disk journal."""
    path = tmp_path / "pump.conf"
    whole = {
        "pumps": PUMPS,
        "uptime_pump_config": {"mongo_url": "mongodb://h/d", "collection_name": "c"},
        "journal": {"type": "disk"},
    }
    path.write_text(json.dumps(whole))
    return str(path)


def record(number: int, **fields: Any) -> bytes:
    """Return a record of a second of the day."""
    return wire.pack(
        AnalyticsRecord(
            timestamp=(int(DAY) + number, 0),
            api_id=f"api{number % 2}",
            response_code=500 if number % 10 == 0 else 200,
            latency=Latency(total=number),
            tags=["red"] if number % 5 == 0 else None,
            **fields,
        )
    )


def frame(
    first: int,
    records: Sequence[bytes],
    *,
    stream: str = "S",
    codec: str = "msgpack",
    pumps: Sequence[str] = ("CSV", "OTHER"),
    at: float = DAY + 60,
) -> Frame:
    """Return a frame as the journal keeps it."""
    end = first + len(records)
    return Frame(
        stream=stream,
        first=first,
        end=end,
        claim="C",
        list="analytics",
        codec=codec,
        at=at,
        data=channel.encode_frame(stream, "analytics", codec, first, None, records),
        pumps=pumps,
    )


@pytest.fixture
def file(tmp_path: Path, conf: str) -> Iterator[StateFile]:
    """A state file with a hundred records, one a second, claimed in two frames.

    CSV has settled all, OTHER the first seventy.
    """
    folder = tmp_path / "pump.state"
    folder.mkdir()
    with contextlib.closing(StateFile(folder / "state.sqlite")) as made:
        frames = [
            frame(0, [record(n) for n in range(50)]),
            frame(50, [record(n) for n in range(50, 100)], at=DAY + 110),
        ]
        cursors = {"S": {"CSV": pack(Progress(100)), "OTHER": pack(Progress(70))}}
        FrameStore(made).append(frames, cursors)
        yield made


class Asked:
    """What the command said, and what is in the state file then."""

    def __init__(self, conf: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._conf = conf
        self._capsys = capsys
        self.err = ""

    def __call__(self, *words: str) -> Any:
        """Run it with `--json`."""
        code = main(["replay", *words, "--json", "--conf", self._conf])
        out, self.err = self._capsys.readouterr()
        assert code == 0, self.err
        return json.loads(out)

    def refused(self, *words: str) -> str:
        """Run what is to fail; return its message."""
        assert main(["replay", *words, "--conf", self._conf]) in (1, 2)
        return self._capsys.readouterr().err

    def text(self, *words: str) -> str:
        """Run it for a person."""
        assert main(["replay", *words, "--conf", self._conf]) == 0
        return "".join(self._capsys.readouterr())


@pytest.fixture
def asked(conf: str, capsys: pytest.CaptureFixture[str]) -> Asked:
    """The command."""
    return Asked(conf, capsys)


def ids(file: StateFile, replay: str) -> list[str]:
    """Return the ids of a replay's records, and check that it has them once."""
    store, found = file.replay_store, list[str]()
    (kept,) = [one for one in store.replays() if one.stream == replay]
    with file.transaction(write=False) as db:
        rows = db.execute(
            "SELECT first, data FROM replay_frames WHERE stream = ? ORDER BY first",
            (replay,),
        ).fetchall()
    for first, data in rows:
        stream, _, _, position, names, records = channel.decode_frame(data)
        assert (stream, position, first) == (replay, len(found), len(found))
        assert names is not None and len(names) == len(records)
        found += names
    assert len(found) == kept.end
    return found


def chosen(file: StateFile, said: Any) -> dict[str, list[str]]:
    """Return what each pump is to get."""
    return {one["pump"]: ids(file, one["replay"]) for one in said["replays"]}


def test_every_pump_gets_again_what_it_was_owed(file: StateFile, asked: Asked) -> None:
    """Not what it has not settled: that comes by itself; nor what it never was owed."""
    said = asked("--from", "2025-03-05", "--to", "2025-03-06")
    found = chosen(file, said)
    assert found == {
        "CSV": [f"S:{n}" for n in range(100)],
        "OTHER": [f"S:{n}" for n in range(70)],
    }
    assert said["pumps"]["OTHER"]["on_their_way"] == 30
    assert said["pumps"]["FRESH"] == {"records": 0, "bytes": 0, "on_their_way": 0}
    assert not said["running"]
    sums = file.ledger.replays()
    assert (sums["CSV"].asked, sums["CSV"].pending) == (100, 100)


def test_a_new_pump_is_back_filled(file: StateFile, asked: Asked) -> None:
    """With what anybody was owed, or one pump; each record has its first id."""
    words = ("--from", "2025-03-05", "--to", "2025-03-06", "--to-pump", "fresh")
    assert len(chosen(file, asked(*words))["FRESH"]) == 100
    FrameStore(file).append([frame(100, [record(100)], pumps=["GONE"])], {})
    assert chosen(file, asked(*words, "--pump", "gone")) == {"FRESH": ["S:100"]}


def test_the_bounds_are_those_of_the_records(file: StateFile, asked: Asked) -> None:
    """From is included and to is not, to the second, whenever they were claimed."""
    words = ("--pump", "csv", "--from", "2025-03-05T00:00:10Z", "--to")
    said = asked(*words, "2025-03-05 00:00:12")
    assert chosen(file, said) == {"CSV": ["S:10", "S:11"]}
    late = frame(100, [record(11)], at=DAY + 80_000)
    FrameStore(file).append([late], {"S": {"CSV": pack(Progress(101))}})
    said = asked(*words, "2025-03-05T01:00:12+01:00")
    assert chosen(file, said) == {"CSV": ["S:10", "S:11", "S:100"]}


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["response_code=500"], range(0, 100, 10)),
        (["response_code=500", "api_id=api1"], []),
        (["api_id=api1", "latency.total=7"], [7]),
        (["tags=red"], range(0, 100, 5)),
        (["track_path=true"], []),
        (["geo.country.iso_code="], range(100)),
        (["network.closed_connections=0", "latency.Total=3"], [3]),
    ],
)
def test_conditions_are_about_fields(
    file: StateFile, asked: Asked, conditions: list[str], expected: Sequence[int]
) -> None:
    """By their JSON names, as what they are; several must all fit."""
    words = [word for one in conditions for word in ("--where", one)]
    said = asked("--from", "2025-03-05", "--pump", "csv", *words)
    found = chosen(file, said).get("CSV", [])
    assert found == [f"S:{number}" for number in expected]


def test_reports_go_to_the_uptime_pump_only(file: StateFile, asked: Asked) -> None:
    """And records to all others; a condition that reports do not have fits none."""
    report = wire.pack_uptime(UptimeRecord(url="http://x", timestamp=(int(DAY), 0)))
    made = frame(0, [report], stream="U", codec="uptime", pumps=["uptime"])
    FrameStore(file).append([made], {})
    words = ("--from", "2025-03-05", "--to", "2025-03-06")
    assert chosen(file, asked(*words))["uptime"] == ["U:0"]
    assert chosen(file, asked(*words, "--where", "url=http://x")) == {"uptime": ["U:0"]}
    assert "uptime" not in chosen(file, asked(*words, "--where", "tags=red"))


def test_lanes_are_owed_their_own_blocks(file: StateFile, asked: Asked) -> None:
    """With two workers one may be behind the other."""
    records = [record(n % 80_000) for n in range(3000)]
    cursors = {"CSV/0:2": pack(Progress(500)), "CSV/1:2": pack(Progress(3000))}
    FrameStore(file).append([frame(0, records, stream="L")], {"L": cursors})
    said = asked("--from", "2025-03-05", "--pump", "csv")
    numbers = [int(one[2:]) for one in chosen(file, said)["CSV"] if one[0] == "L"]
    assert numbers == [*range(500), *range(1000, 2000)]


def test_a_dry_run_leaves_nothing(file: StateFile, asked: Asked) -> None:
    """It says how many records and bytes each pump would get."""
    words = ("--from", "2025-03-05", "--dry-run")
    said = asked(*words)
    assert said["replays"] == [] and file.replay_store.replays() == []
    assert said["pumps"]["CSV"]["records"] == 100
    assert said["pumps"]["CSV"]["bytes"] == sum(len(record(n)) for n in range(100))
    out = asked.text(*words)
    assert "WOULD GET" in out and "100" in out and "ON THEIR WAY" in out
    assert "nothing that is kept fits" in asked.text(*words, "--where", "api_id=x")


def test_what_is_damaged_is_told_and_passed(file: StateFile, asked: Asked) -> None:
    """A flipped byte costs its frame; what is no record is counted."""
    with file.transaction() as db:
        db.execute("UPDATE frames SET data = zeroblob(10) WHERE first = 0")
    FrameStore(file).append(
        [frame(100, [b"\xc1", record(1)])], {"S": {"CSV": pack(Progress(102))}}
    )
    words = ("--from", "2025-03-05", "--pump", "csv")
    said = asked(*words)
    assert said["damaged_records"] == 50 and "check sum" in said["damaged"][0]
    assert said["unreadable"] == 1
    wanted = [f"S:{n}" for n in (*range(50, 100), 101)]
    assert sorted(chosen(file, said)["CSV"]) == sorted(wanted)
    out = asked.text(*words, "--dry-run")
    assert "50 records in 1 damaged frames" in out and "1 are no records" in out


def test_a_gap_in_a_part_is_no_frame(file: StateFile, asked: Asked) -> None:
    """What another instance had meanwhile is nobody's loss, and has no time."""
    gap = frame(100, [], codec=GAP, at=0.0)
    gap.end, gap.data = 200, b""
    FrameStore(file).append([gap], {})
    said = asked("--from", "1960-01-01", "--pump", "csv")
    assert said["damaged"] == [] and len(chosen(file, said)["CSV"]) == 100
    assert file.replay_store.kept_since() == DAY + 60


def test_a_frame_whose_time_has_passed_meanwhile(
    file: StateFile, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running pump may remove frames while the command reads."""
    frames = file.replay_store.frames()
    monkeypatch.setattr("tyk_pump.state.replay.ReplayStore.frames", lambda *_: frames)
    with file.transaction() as db:
        db.execute("DELETE FROM frames WHERE first = 0")
    said = asked("--from", "2025-03-05", "--pump", "csv")
    assert len(chosen(file, said)["CSV"]) == 50 and said["damaged"] == []


def test_a_command_that_breaks_leaves_nothing(
    file: StateFile, conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what it had copied nor a replay that would deliver a part."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tyk_pump.state.replay.ReplayStore.complete", interrupted)
    assert main(["replay", "--from", "2025-03-05", "--conf", conf]) == 130
    assert file.replay_store.replays() == []
    with file.transaction(write=False) as db:
        assert db.execute("SELECT count(*) FROM replay_frames").fetchone() == (0,)


def test_bad_input_gets_a_clear_word(file: StateFile, asked: Asked) -> None:
    """With the nearest known name where there is one."""
    begin = ("--from", "2025-03-05")
    for words, message in (
        ((), "Missing option '--from'"),
        ((*begin, "--to", "2025-03-04"), "nothing lies between"),
        (("--from", "soon"), "is no time"),
        (("--from", "3 fortnights ago"), "no unit of time"),
        ((*begin, "--where", "response_cod=1"), "nearest is response_code"),
        ((*begin, "--where", "response_code"), "expected FIELD=VALUE"),
        ((*begin, "--where", "response_code=x"), "expected a whole number"),
        ((*begin, "--where", "track_path=x"), "expected true or false"),
        ((*begin, "--where", "geo.location.latitude=x"), "expected a number"),
        ((*begin, "--where", "timestamp=x"), "chosen with --from and --to"),
        ((*begin, "--where", "latency=5"), "such as latency.total"),
        ((*begin, "--pump", "cvs"), "no pump CVS is configured, nearest is CSV"),
        ((*begin, "--to-pump", "frsh"), "nearest is FRESH"),
        ((*begin, "--pump", "othr", "--to-pump", "csv"), "nearest is OTHER"),
    ):
        assert message in asked.refused(*words), words


def test_nothing_is_kept(tmp_path: Path, conf: str, asked: Asked) -> None:
    """It says why, and what to set."""
    (tmp_path / "pump.conf").write_text(json.dumps({"pumps": PUMPS}))
    words = ("--from", "2h ago")
    assert "With journal.type disk" in asked.refused(*words)
    StateFolder.open(tmp_path / "pump.state").close()
    StateFile(tmp_path / "pump.state/state.sqlite").close()
    assert "With journal.type disk" in asked.refused(*words)
    journal = {"type": "disk", "retention": 0}
    (tmp_path / "pump.conf").write_text(
        json.dumps({"pumps": PUMPS, "journal": journal})
    )
    assert "journal.retention is 0" in asked.refused(*words)


def test_replays_are_listed_and_cancelled(file: StateFile, asked: Asked) -> None:
    """With what became of them; what is cancelled stays in the books."""
    assert "no replay" in asked.text("--list")
    out = asked.text("--from", "2025-03-05", "--pump", "csv", "--where", "tags=red")
    assert "the next start delivers them" in out
    asked("--from", "2025-03-05", "--pump", "other")
    assert "tags=red" in asked.text("--list")
    assert "20 records in 1 replays" in asked.text("--cancel", "--pump", "csv")
    states = {one["pump"]: one["state"] for one in asked("--list")}
    assert states == {"CSV": "cancelled", "OTHER": "waiting"}
    sums = file.ledger.replays()["CSV"]
    assert (sums.asked, sums.cancelled, sums.pending) == (20, 20, 0)


class Running:
    """A process that answers commands; it settles a replay bit by bit."""

    def __init__(self, folder: Path, file: StateFile) -> None:
        self.folder = StateFolder.open(folder)
        self.file = file
        self.pumps = ["CSV", "OTHER", "FRESH", "uptime"]
        self.dies = False
        self.server = ControlServer(self.folder, self.call)
        self.server.start()

    def call(self, command: str, arguments: dict[str, Any]) -> Any:
        """Answer; a look at the status moves the replays on."""
        if command == "replay":
            return {"pumps": self.pumps}
        if self.dies:
            self.server.close()
        with contextlib.closing(StateFile(self.file.path)) as file:
            self.settle(file)
        return {"pumps": [{"name": "CSV", "state": "retrying", "last_error": "no"}]}

    def settle(self, file: StateFile) -> None:
        """Deliver the next frame of each replay."""
        for one in file.replay_store.replays():
            part = file.replay_store.read(one.stream, 30)
            if part is not None:
                counts = Counts(delivered=len(part.records))
                file.replay_store.settle(one.stream, part.first, part.end, counts, 1.0)


@pytest.fixture
def running(
    tmp_path: Path, file: StateFile, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    """A process that runs with the configuration, looked at without pauses."""
    monkeypatch.setattr("tyk_pump.cli.replay.POLL_SECONDS", 0.0)
    monkeypatch.setattr("tyk_pump.cli.replay.LOOK_SECONDS", 0.0)
    made = Running(tmp_path / "pump.state", file)
    yield made
    made.server.close()
    made.folder.close()


def test_a_running_pump_is_followed(running: Running, asked: Asked) -> None:
    """Until all is delivered, when asked to wait; else it is left to its work."""
    words = ("--from", "2025-03-05", "--pump", "csv")
    assert "the running pump delivers them" in asked.text(*words)
    out = asked.text(*words, "--wait")
    assert "DELIVERED" in out and "100" in out
    (*_, last) = asked("--list")
    assert (last["state"], last["delivered"], last["waiting"]) == ("done", 100, 0)
    assert asked(*words, "--wait")["replays"][0]["state"] == "done"


def test_a_pump_that_stops_is_told(running: Running, asked: Asked) -> None:
    """Its next start goes on; one that does not know the pump yet is to be told."""
    running.dies = True
    out = asked.text("--from", "2025-03-05", "--pump", "csv", "--wait")
    assert "its next start goes on" in out and "WAITING" in out


def test_a_pump_that_is_not_loaded_yet(running: Running, asked: Asked) -> None:
    """It would wait for ever."""
    running.pumps = ["CSV"]
    words = ("--from", "2025-03-05", "--to-pump", "fresh")
    assert "`tyk-pump reload` first" in asked.refused(*words)


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """As people write them."""
    now = DAY + 3600 * 5.5
    for text, expected in (
        ("now", now),
        ("2h ago", now - 7200),
        ("1d 2 hours ago", now - 86_400 - 7200),
        ("1.5 hours ago", now - 5400),
        ("90min ago", now - 5400),
        ("2025-03-05T01:00:00Z", DAY + 3600),
        ("2025-03-05T01:00:00+01:00", DAY),
        ("2025-03-05 01:00:00.5Z", DAY + 3600.5),
    ):
        assert moment(text, now) == expected, text
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    assert moment("2025-03-05", now) == DAY - 3600
    assert moment("2025-03-05 02:00", now) == DAY + 3600
    assert moment("today", now) == DAY - 3600
    assert moment("yesterday", now) == DAY - 3600 - 86_400


def test_sizes() -> None:
    """In the units that people know."""
    shown = [size(n) for n in (0, 1023, 2048, 5 << 20, 3 << 30, 9 << 40)]
    expected = ["0 B", "1023 B", "2.0 KiB", "5.0 MiB", "3.0 GiB", "9,216.0 GiB"]
    assert shown == expected


def test_a_replay_that_is_never_completed_is_removed(file: StateFile) -> None:
    """The command was killed: nothing of it is delivered, its room is given back."""
    store = file.replay_store
    store.begin("R", "CSV", {}, 1000.0)
    assert store.next("CSV") is None
    store.tidy(1500.0)
    assert len(store.replays()) == 1
    store.tidy(1700.0)
    assert store.replays() == []


def test_a_damaged_page_is_damage(file: StateFile) -> None:
    """SQLite's own word for it is passed on, not a crash."""
    (first, *_) = file.replay_store.frames()
    with file.transaction() as db:
        db.execute("UPDATE frames SET data = 'text' WHERE rowid = ?", (first.row,))
    with pytest.raises(Damaged):
        file.replay_store.records(first)
