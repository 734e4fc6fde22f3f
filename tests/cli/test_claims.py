"""`claims`: the ways to see and to let go of what is claimed, on a real Redis."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.redis import RedisServer
from tests.source.world import NoDisk
from tyk_pump.channel import encode_frame
from tyk_pump.cli import main
from tyk_pump.clock import Clock
from tyk_pump.config.load import load
from tyk_pump.source import upkeep
from tyk_pump.source.claims import Progress, Source, pack
from tyk_pump.source.redis import Link
from tyk_pump.source.upkeep import Leftover
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import StateFolder
from tyk_pump.state.journal import Frame, FrameStore
from tyk_pump.state.replay import ReplayFrame

LIST = "analytics-tyk-system-analytics"


@pytest.fixture
def conf(tmp_path: Path, redis_server: RedisServer) -> str:
    """A configuration that points at the server."""
    path = tmp_path / "pump.conf"
    redis = {"host": "127.0.0.1", "port": redis_server.port}
    pumps = {"dummy": {"type": "dummy"}}
    path.write_text(json.dumps({"analytics_storage_config": redis, "pumps": pumps}))
    return str(path)


@contextlib.contextmanager
def claimed(conf: str, tmp_path: Path, records: list[bytes]) -> Iterator[Source]:
    """An instance that has claimed records and then was killed."""
    options = load(conf, {}).root.analytics_storage_config
    with (
        contextlib.closing(StateFile(tmp_path / "other.sqlite")) as book,
        contextlib.closing(Link(options)) as link,
    ):
        link.execute([("RPUSH", LIST, *records)])
        source = Source(
            link,
            prefix=options.prefix(),
            name="other",
            incarnation="1",
            lease_time=30.0,
            fields=["DUMMY", "GONE"],
            book=book,
            shelf=NoDisk(),
            clock=Clock(),
        )
        source.start()
        source.round()
        yield source


def forget_lease(redis_server: RedisServer) -> None:
    """Let time pass: the dead instance's lease ends."""
    client = redis_server.client()
    client.delete(*client.keys("*:lease:*"))
    client.close()


def out_json(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what was printed as JSON."""
    return json.loads(capsys.readouterr().out)


def test_claims_are_listed(
    conf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose they are, how many records, how far each pump is."""
    assert main(["claims", "list", "--conf", conf]) == 0
    assert "nothing is claimed" in capsys.readouterr().out
    with claimed(conf, tmp_path, [b"a", b"b"]):
        assert main(["claims", "list", "--conf", conf]) == 0
        assert LIST in capsys.readouterr().out
        assert main(["claims", "list", "--json", "--conf", conf]) == 0
    (claim,) = out_json(capsys)
    assert (claim["length"], claim["left"], claim["alive"]) == (2, 2, True)
    assert set(claim["cursors"]) == {"DUMMY", "GONE"}


def test_records_go_back_in_order(
    conf: str,
    tmp_path: Path,
    redis_server: RedisServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They stand before what came later; while an owner lives nothing is touched."""
    records = [b"%d" % n for n in range(1200)]
    with claimed(conf, tmp_path, records):
        client = redis_server.client()
        client.rpush(LIST, b"later")
        assert main(["claims", "return", "--conf", conf]) == 1
        assert "stop it first" in capsys.readouterr().err
        assert client.lrange(LIST, 0, -1) == [b"later"]
        forget_lease(redis_server)
        assert main(["claims", "return", "--json", "--conf", conf]) == 0
    assert out_json(capsys)["returned"] == {LIST: 1200}
    assert client.lrange(LIST, 0, -1) == [*records, b"later"]
    assert client.keys("*claim*") == []
    client.close()


def on_disk(tmp_path: Path, stream: str, frames: dict[int, list[bytes]]) -> StateFile:
    """Keep frames of a stream in the state file; DUMMY has settled three records."""
    StateFolder.open(tmp_path / "pump.state").close()
    file = StateFile(tmp_path / "pump.state/state.sqlite")
    kept = [
        Frame(
            stream=stream,
            first=first,
            end=first + len(records),
            claim="C",
            list=LIST,
            codec="msgpack",
            at=1.0,
            data=encode_frame(stream, LIST, "msgpack", first, None, records),
        )
        for first, records in frames.items()
    ]
    cursors = {"DUMMY": pack(Progress(3)), "GONE": pack(Progress(100))}
    FrameStore(file).append(kept, {stream: cursors})
    return file


def test_what_is_on_the_disk_goes_back_too(
    conf: str,
    tmp_path: Path,
    redis_server: RedisServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a pump is owed, in front of the rest, once; broken off, it is repeated.

    What Redis has as well, since there was no time to trim it, is not doubled.
    """
    claimed_records = [b"%d" % n for n in range(10)]
    client = redis_server.client()
    with claimed(conf, tmp_path, claimed_records) as source:
        (stream,) = source.streams
        forget_lease(redis_server)
        frames = {0: claimed_records[:4], 4: claimed_records[4:6]}
        file = on_disk(tmp_path, stream, frames)
        calls: list[str] = []

        def dies(link: Link, one: Leftover, mark: str) -> int:
            if calls:
                raise KeyboardInterrupt
            calls.append(mark)
            return push_back(link, one, mark)

        push_back = upkeep._push_back
        monkeypatch.setattr(upkeep, "_push_back", dies)
        assert main(["claims", "return", "--conf", conf]) == 130
        assert client.lrange(LIST, 0, -1) == claimed_records[4:]
        monkeypatch.setattr(upkeep, "_push_back", push_back)
        capsys.readouterr()
        assert main(["claims", "return", "--json", "--conf", conf]) == 0
    assert out_json(capsys) == {
        "returned": {LIST: 1},
        "damaged": [],
        "damaged_records": 0,
    }
    assert client.lrange(LIST, 0, -1) == claimed_records[3:]
    assert client.keys("*claim*") == [] and FrameStore(file).parts() == []
    assert main(["claims", "return", "--conf", conf]) == 0
    assert "nothing was claimed" in capsys.readouterr().out
    file.close()
    client.close()


def test_a_damaged_frame_cannot_be_returned(
    conf: str,
    tmp_path: Path,
    redis_server: RedisServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is named, with the records that it costs; the others go back.

    Replays that wait stay, and that is said.
    """
    file = on_disk(tmp_path, "S", {0: [b"0"] * 4, 4: [b"4", b"5"]})
    with file.transaction() as db:
        db.execute("UPDATE frames SET data = x'00' WHERE first = 0")
    file.replay_store.begin("R", "P", {}, 1.0)
    part = ReplayFrame(
        stream="R", list=LIST, codec="msgpack", first=0, ids=["S:0"], records=[b"0"]
    )
    file.replay_store.append([part], 1.0)
    file.replay_store.complete(["R"], 1.0)
    assert main(["claims", "return", "--conf", conf]) == 0
    out, err = capsys.readouterr()
    assert "2 records to" in out
    assert "lost, damaged: S:0" in err and "1 records cannot be returned" in err
    assert "1 records of replays stay" in err
    client = redis_server.client()
    assert client.lrange(LIST, 0, -1) == [b"4", b"5"]
    client.close()
    file.close()


def test_nothing_is_returned_while_the_pump_runs_or_remembers(
    conf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Claims that only the state file knows of would be left behind."""
    folder = StateFolder.open(tmp_path / "pump.state")
    assert main(["claims", "return", "--conf", conf]) == 1
    assert "stop it first" in capsys.readouterr().err
    with contextlib.closing(StateFile(folder.file)) as file:
        file.put("S", {"claim:1": b"x"})
    folder.close()
    assert main(["claims", "return", "--conf", conf]) == 1
    assert "start the pump once" in capsys.readouterr().err


def test_a_stream_without_a_living_owner_is_freed(
    conf: str,
    tmp_path: Path,
    redis_server: RedisServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The next round of a living instance adopts it."""
    with claimed(conf, tmp_path, [b"a"]) as source:
        (stream,) = source.streams
        assert main(["claims", "adopt", "--conf", conf, stream]) == 1
        assert "living" in capsys.readouterr().err
        forget_lease(redis_server)
        assert main(["claims", "adopt", "--conf", conf, stream]) == 0
    assert main(["claims", "adopt", "--conf", conf, "NONE"]) == 1
    client = redis_server.client()
    assert client.hgetall("analytics-tyk-pump:streams") == {stream.encode(): b""}
    client.close()


def test_a_removed_pump_is_forgotten(
    conf: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cursors no longer hold claims back; the others' stay."""
    with claimed(conf, tmp_path, [b"a"]) as source:
        (stream,) = source.streams
        assert main(["claims", "forget", "--json", "--conf", conf, "gone"]) == 0
        assert out_json(capsys) == {"forgotten": "GONE", "streams": [stream]}
        assert main(["claims", "list", "--json", "--conf", conf]) == 0
        assert set(out_json(capsys)[0]["cursors"]) == {"DUMMY"}
