"""The stdout pump when its output or a record is at fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pumps.writer import batch
from tyk_pump import pumps
from tyk_pump.errors import ConfigError, RejectedRecords, TransientError
from tyk_pump.pumps import stdout
from tyk_pump.pumps.stdout import StdoutOptions, StdoutPump, cleaned_payload


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Stand in for standard output; gives the end to read from."""
    reader, writer = os.pipe()
    monkeypatch.setattr(stdout, "STDOUT", writer)
    yield reader
    os.close(writer)


def test_a_closed_pipe_is_trouble(pipe: int) -> None:
    """Nothing is lost when nobody reads: every record is still to be printed."""
    os.close(pipe)
    with pytest.raises(TransientError, match="Broken pipe") as caught:
        StdoutPump(StdoutOptions(format="json")).write(batch("S", range(3)))
    assert caught.value.pending == [0, 1, 2]


def test_a_record_without_json_form_is_refused_and_the_others_print(pipe: int) -> None:
    """The reason says what JSON cannot express."""
    records = batch("S", range(3))
    records.records[1].geo.location.latitude = float("nan")
    with pytest.raises(RejectedRecords) as caught:
        StdoutPump(StdoutOptions(format="json")).write(records)
    assert list(caught.value.rejected) == [1]
    assert os.read(pipe, 1 << 16).count(b"\n") == 2
    os.close(pipe)


def test_half_a_line_that_a_crash_left_in_a_file_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next incarnation begins on a line of its own, whole lines stay alone."""
    path = tmp_path / "out"
    path.write_bytes(b'{"whole":1}\n{"tor')
    with path.open("ab") as file:
        monkeypatch.setattr(stdout, "STDOUT", file.fileno())
        for first in (0, 2):
            pump = StdoutPump(StdoutOptions(format="json"))
            pump.open()
            pump.write(batch("S", range(first, first + 2)))
    lines = path.read_bytes().split(b"\n")
    assert lines[1] == b'{"tor'
    assert len(lines) == 7 and lines[-1] == b""
    assert all(json.loads(line) for line in lines[2:-1])


def test_half_a_line_that_a_kill_left_in_a_pipe_is_ended(
    pipe: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever prints next, be it another pump, begins on a line of its own."""

    class Killed(BaseException):
        """Nothing runs any more."""

    write = os.write

    def kill(file: int, data: bytes) -> int:
        write(file, data[:-100])
        raise Killed

    first, second = (StdoutPump(StdoutOptions(format="json")) for _ in range(2))
    for number, pump in enumerate((first, second)):
        pump.keep_in(tmp_path / f"pump-{number}")
        pump.open()
    first.write(batch("S", range(1)))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "write", kill)
        first.write(batch("S", range(1, 3)))
    second.write(batch("S", range(3, 5)))
    second.write(batch("S", range(5, 6)))
    for pump in (first, second):
        pump.close()
    lines = os.read(pipe, 1 << 16).split(b"\n")
    os.close(pipe)
    assert lines.pop() == b"" and len(lines) == 6
    torn = lines.pop(2)
    assert not torn.endswith(b"}")
    assert all("tyk-analytics-record" in json.loads(line) for line in lines)


def test_several_pumps_take_turns_at_a_pipe(
    pipe: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one prints, no other begins, although a pipe has no locks."""
    pump = StdoutPump(StdoutOptions(format="json"))
    pump.keep_in(tmp_path / "pump-0")
    pump.open()
    look = (
        "import fcntl, sys\n"
        "try: fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(3)\n"
    )
    write, codes = os.write, []

    def write_and_look(file: int, data: bytes) -> int:
        command = [sys.executable, "-c", look, str(tmp_path / "stdout.turn")]
        codes.append(subprocess.run(command).returncode)
        return write(file, data)

    monkeypatch.setattr(os, "write", write_and_look)
    pump.write(batch("S", range(1)))
    pump.close()
    os.close(pipe)
    assert codes == [3]


def test_a_second_cleaning_changes_nothing() -> None:
    """A retry gets records that the first attempt has cleaned."""
    once = cleaned_payload('GET / HTTP/1.1\r\nA: b\r\n\r\n{"a": "\\ud800", "b": 1}')
    assert once == 'GET / HTTP/1.1 A: b {"a":"\\ud800","b":1}'
    assert cleaned_payload(once) == once


def test_every_registered_type_loads() -> None:
    """The table and the folder agree; what is not there is named."""
    for name in pumps.REGISTRY:
        assert pumps.load(name).options_type
    with pytest.raises(ConfigError, match="no pump type 'nosuch'"):
        pumps.load("nosuch")
