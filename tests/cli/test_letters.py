"""Dead letters: counted by reason, exported, edited, replayed."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tyk_pump.cli import main
from tyk_pump.record import edit, wire
from tyk_pump.record.analytics import AnalyticsRecord, GraphQLError, GraphQLStats
from tyk_pump.record.uptime import UptimeRecord
from tyk_pump.state.file import StateFile
from tyk_pump.worker.outcome import DeadRecord

NO_CALENDAR = 400_000_000_000
"""Seconds: a year that JSON has no form for."""
RECORD = AnalyticsRecord(
    api_id="api", path="/x\udc80", tags=["a"], timestamp=(NO_CALENDAR, 5)
)


@pytest.fixture
def conf(tmp_path: Path) -> str:
    """A configuration with a state folder of its own."""
    path = tmp_path / "pump.conf"
    path.write_text('{"pumps": {"csv": {"type": "csv"}}}')
    return str(path)


@pytest.fixture
def file(tmp_path: Path, conf: str) -> Iterator[StateFile]:
    """Letters 1 to 3 of CSV (odd date, no record, protobuf), 4 an uptime report."""
    (tmp_path / "pump.state").mkdir()
    plain = AnalyticsRecord(api_id="proto", timestamp=(1_700_000_000, 0))
    with contextlib.closing(StateFile(tmp_path / "pump.state/state.sqlite")) as made:
        for pump, codec, reason, raw in (
            ("CSV", "msgpack", "no such date", wire.pack(RECORD)),
            ("CSV", "msgpack", "not a record: x", b"\xc1"),
            ("CSV", "protobuf", "too large", wire.pack_protobuf(plain)),
            ("uptime", "uptime", "too large", wire.pack_uptime(UptimeRecord(url="u"))),
        ):
            number = len(made.letters()) + 1
            letter = DeadRecord(number, f"S:{number}", reason, raw)
            made.store_dead(pump, "list", codec, [letter], 1_700_000_000.0 + number)
        yield made


class Letters:
    """The command."""

    def __init__(self, conf: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._conf = conf
        self._capsys = capsys
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run it; return what it printed."""
        assert main(["dead-letters", *words, "--conf", self._conf]) == code
        out, self.err = self._capsys.readouterr()
        return out


@pytest.fixture
def letters(conf: str, capsys: pytest.CaptureFixture[str]) -> Letters:
    """The command."""
    return Letters(conf, capsys)


def decoded(file: StateFile, number: int) -> Any:
    """Return a letter's record as it is stored."""
    letter = file.letter(number)
    assert letter is not None and letter.record_id == f"S:{number}"
    return edit.decode(letter.codec, letter.raw)


def test_reasons_are_counted(file: StateFile, letters: Letters) -> None:
    """The most frequent first, with the number of one of them."""
    again = DeadRecord(5, "S:5", "too large", b"x")
    file.store_dead("CSV", "list", "msgpack", [again], 1_700_000_100.0)
    found = json.loads(letters("list", "--by-reason", "--json"))
    assert [(one["pump"], one["reason"], one["letters"]) for one in found] == [
        ("CSV", "too large", 2),
        ("CSV", "no such date", 1),
        ("CSV", "not a record: x", 1),
        ("uptime", "too large", 1),
    ]
    assert (found[0]["first"], found[0]["example"]) == ("2023-11-14T22:13:23Z", 5)
    out = letters("list", "--by-reason", "--pump", "csv", "--limit", "1")
    assert "too large" in out and "no such date" not in out
    assert "1 of 3 reasons" in letters.err
    assert "no dead letters" in letters("list", "--by-reason", "--reason", "nix")


def test_what_json_has_no_form_for_is_shown(file: StateFile, letters: Letters) -> None:
    """A date of no calendar is what a letter may be dead for."""
    assert '"timestamp": "14645-' in letters("show", "1")
    assert json.loads(letters("show", "--json", "4"))["record"]["URL"] == "u"


def test_letters_are_exported(
    file: StateFile, letters: Letters, tmp_path: Path
) -> None:
    """A line each, with all that is known; a file is for its owner only."""
    lines = [json.loads(line) for line in letters("export").splitlines()]
    assert [one["id"] for one in lines] == [1, 2, 3, 4]
    assert "4 dead letters written" in letters.err
    assert lines[1]["record"] is None
    assert base64.b64decode(lines[1]["raw"]) == b"\xc1"
    assert lines[2]["record"]["api_id"] == "proto" and lines[2]["codec"] == "protobuf"
    target = tmp_path / "letters.jsonl"
    assert letters("export", "--reason", "large", "-o", str(target)) == ""
    assert len(target.read_text().splitlines()) == 2
    assert target.stat().st_mode & 0o777 == 0o600
    letters("export", "-o", str(target), code=1)
    assert "File exists" in letters.err
    assert json.loads(letters("export", "3"))["id"] == 3
    letters("export", "99", code=1)
    assert "no dead letter 99" in letters.err


def test_all_letters_are_exported_however_many(
    file: StateFile, letters: Letters
) -> None:
    """They are read in pieces."""
    many = [DeadRecord(n, f"M:{n}", "many", b"x") for n in range(250)]
    file.store_dead("CSV", "list", "msgpack", many, 1.0)
    assert len(letters("export", "--reason", "many").splitlines()) == 250


def write(tmp_path: Path, value: Any) -> str:
    """Return the path of a file with this JSON."""
    path = tmp_path / "edited.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_a_letter_is_edited_from_a_file(
    file: StateFile, letters: Letters, tmp_path: Path
) -> None:
    """What is left out stays as it was, to the byte; the id is kept."""
    path = write(tmp_path, {"timestamp": "2025-03-05T14:07:09.5+01:00"})
    assert "replay 1" in letters("edit", "1", "--file", path)
    now = decoded(file, 1)
    assert now.timestamp == (1_741_180_029, 500_000_000)
    assert (now.path, now.tags, now.api_id) == (RECORD.path, ["a"], "api")
    assert "nothing changed" in letters("edit", "1", "--file", path)
    path = write(
        tmp_path, {"latency": {"total": 7}, "expireAt": "2025-03-05T00:00:00Z"}
    )
    letters("edit", "3", "--file", path)
    assert decoded(file, 3).latency.total == 7
    letters("edit", "4", "--file", write(tmp_path, {"url": "v", "tcp_error": True}))
    assert (decoded(file, 4).url, decoded(file, 4).tcp_error) == ("v", True)


def test_bytes_that_are_no_record_become_one(
    file: StateFile,
    letters: Letters,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From nothing, from standard input."""
    stdin = io.TextIOWrapper(io.BytesIO(b'{"api_id": "new"}'))
    monkeypatch.setattr(sys, "stdin", stdin)
    letters("edit", "2", "--file", "-")
    assert "a new one" in letters.err
    assert decoded(file, 2) == AnalyticsRecord(api_id="new")


@pytest.mark.parametrize(
    ("number", "written", "message"),
    [
        ("1", {"api_idd": "x"}, "api_idd: no such field, nearest is api_id"),
        ("1", {"api_id": 5}, "api_id: expected str, got int"),
        (
            "1",
            {"latency": {"totl": 5}},
            "latency.totl: no such field, nearest is total",
        ),
        ("1", {"latency": {"total": "5"}}, "latency.total: expected int"),
        ("1", {"response_code": 2**70}, "response_code: expected int"),
        ("1", {"timestamp": "soon"}, "timestamp: expected a time like"),
        ("1", {"timestamp": "2025-02-30T00:00:00Z"}, "timestamp: day is out of range"),
        ("1", {"timestamp": 5}, "timestamp: expected a time like"),
        ("1", [1], "expected one JSON object"),
        ("1", "{", "Expecting property name"),
        ("3", {"latency": {"gateway": 5}}, "latency: protobuf has no room"),
        ("3", {"path": "\udc80"}, "protobuf cannot hold it"),
        ("9", {}, "no dead letter 9"),
    ],
)
def test_what_is_no_record_is_refused(
    file: StateFile,
    letters: Letters,
    tmp_path: Path,
    number: str,
    written: Any,
    message: str,
) -> None:
    """With the place; the letter stays as it is."""
    before = [file.letter(one.id) for one in file.letters()]
    letters("edit", number, "--file", write(tmp_path, written), code=1)
    assert message in letters.err
    assert [file.letter(one.id) for one in file.letters()] == before


def test_a_letter_in_a_replay_is_not_edited(
    file: StateFile, letters: Letters, tmp_path: Path
) -> None:
    """The worker may have it already."""
    file.mark_replay("R", "CSV", ids=[1])
    letters("edit", "1", "--file", write(tmp_path, {"api_id": "x"}), code=1)
    assert "is in a replay" in letters.err
    assert not file.edit(1, b"x")


def test_a_letter_is_edited_in_an_editor(
    file: StateFile, letters: Letters, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it shows is the whole record; not saved is not changed."""
    script = tmp_path / "editor"
    script.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "whole = json.load(open(sys.argv[1]))\n"
        "assert whole['tags'] == ['a'] and whole['timestamp'].startswith('14645-')\n"
        "whole['tags'].append('b')\n"
        "json.dump(whole, open(sys.argv[1], 'w'))\n"
        "import os; os.utime(sys.argv[1], (1, 1))\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(script))
    letters("edit", "1")
    now = decoded(file, 1)
    assert now.tags == ["a", "b"] and now.path == RECORD.path
    assert now.timestamp == RECORD.timestamp
    monkeypatch.setenv("VISUAL", "true")
    assert "nothing changed" in letters("edit", "1")


def test_what_was_written_wrongly_is_edited_again(
    file: StateFile, letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what was written, not from the beginning."""
    texts = ['{"api_id": 5}', '{"api_id": "five"}']
    seen: list[str] = []

    def editor(text: str, **_: Any) -> str:
        seen.append(text)
        return texts[len(seen) - 1]

    monkeypatch.setattr(click, "edit", editor)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: True)
    letters("edit", "1")
    assert seen[1] == texts[0] and "expected str" in letters.err
    assert decoded(file, 1).api_id == "five"


@pytest.mark.parametrize("kind", ["msgpack", "protobuf"])
def test_every_field_comes_back_as_it_was(kind: str) -> None:
    """Shown and written without a change, a record is the same one."""
    record = AnalyticsRecord(
        api_id="a",
        tags=["x"],
        graphql_stats=GraphQLStats(
            is_graphql=True, types={"T": ["f"]}, errors=[GraphQLError("m")]
        ),
    )
    pack = wire.pack if kind == "msgpack" else wire.pack_protobuf
    whole = edit.decode(kind, pack(record))
    shown = json.loads(json.dumps(edit.shown(whole, kind)))
    assert edit.changed(whole, kind, shown) == whole
    shown["graphql_stats"]["errors"][0]["message"] = "n"
    now = edit.decode(kind, edit.encode(edit.changed(whole, kind, shown), kind))
    assert now.graphql_stats.errors[0].message == "n"
    assert now.graphql_stats.types == {"T": ["f"]}
