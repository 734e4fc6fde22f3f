"""The csv pump: once per folder through crashes, retries and company."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.writer import batch
from tyk_pump.errors import TransientError
from tyk_pump.pumps import csv as csv_pump
from tyk_pump.pumps.csv import CsvOptions, CsvPump, row
from tyk_pump.record.analytics import AnalyticsRecord, City, Geo, Location
from tyk_pump.transport import folder as once


def rows(path: Path) -> list[str]:
    """Return the aliases of all rows of a folder; a torn row is an error."""
    found: list[str] = []
    for file in sorted(path.glob("*.csv")):
        text = file.read_bytes()
        if not text:  # killed between making the file and its first row
            continue
        assert text.endswith(b"\n")
        with file.open(newline="") as lines:
            table = list(csv.reader(lines))
        head, *body = table
        assert ",".join(head) == csv_pump.COLUMNS
        assert all(len(one) == len(head) for one in body)
        column = head.index("Alias")
        found += [one[column] for one in body]
    return found


def aliases(stream: str, count: int) -> list[str]:
    """Return what `rows` finds when all have arrived once and in order."""
    return [f"{stream}/{position}" for position in range(count)]


def pump_on(path: Path, **options: Any) -> CsvPump:
    """Return an open pump of a folder."""
    pump = CsvPump(CsvOptions(csv_dir=str(path), **options))
    pump.open()
    return pump


@pytest.fixture(autouse=True)
def _one_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests in one file: an hour may end while they run."""
    monkeypatch.setattr(csv_pump, "file_name", lambda now: "2026-March-5-14.csv")


# Retries


def test_a_repeated_batch_adds_nothing(tmp_path: Path) -> None:
    """What is already in the folder is left out, by another pump object too."""
    pump_on(tmp_path).write(batch("S", range(10)))
    again = pump_on(tmp_path)
    again.write(batch("S", range(10)))
    again.write(batch("S", range(5, 20)))
    assert rows(tmp_path) == aliases("S", 20)


def test_streams_and_cursors_have_their_own_watermarks(tmp_path: Path) -> None:
    """Two pumps, lanes or streams on one folder do not hide each other's records."""
    pump = pump_on(tmp_path)
    pump.write(batch("S", range(3), cursor="A"))
    pump.write(batch("S", range(3), cursor="B"))
    pump.write(batch("T", range(3), cursor="A"))
    assert rows(tmp_path) == 2 * aliases("S", 3) + aliases("T", 3)


def test_an_empty_batch_makes_no_file(tmp_path: Path) -> None:
    """Nothing to write, nothing written."""
    pump_on(tmp_path).write(batch("S", range(0)))
    assert list(tmp_path.glob("*.csv")) == []


def test_watermarks_outlive_a_shortened_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal begins anew when it is long, and other writers notice."""
    monkeypatch.setattr(once, "LONGEST_JOURNAL", 2000)
    first, second = pump_on(tmp_path), pump_on(tmp_path)
    for position in range(0, 100, 2):
        first.write(batch("S", range(position, position + 2)))
        second.write(batch("S", range(position, position + 2)))
    assert rows(tmp_path) == aliases("S", 100)
    assert (tmp_path / "_tyk_pump" / "journal").stat().st_size < 4000


def test_old_watermarks_go_when_the_journal_is_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty days after a stream's last batch its watermark is removed."""
    pump = pump_on(tmp_path)
    pump.write(batch("S", range(2)))
    later = time.time() + once.KEEP_SECONDS + 60
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(once, "LONGEST_JOURNAL", 0)
    pump.write(batch("T", range(2)))
    text = (tmp_path / "_tyk_pump" / "journal").read_text()
    assert "T CSV" in text
    assert "S CSV" not in text


# Crashes


class _Killed(BaseException):
    """Ends the writer as kill -9 does: no handler of ours may run after it."""


def _kill_at(call: int, part: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the n-th system call that changes a file be the last, done in part."""
    calls = [0]

    def wrap(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def limited(fd: int, *arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] > call:
                raise _Killed
            if calls[0] == call:
                if name == "write":
                    data = bytes(arguments[0])
                    begin = os.fstat(fd).st_size
                    keep = int(len(data) * part)
                    if 0 < keep < len(data):  # kernels tear at a page's end
                        keep = max(0, (begin + keep) // 4096 * 4096 - begin)
                    real(fd, data[:keep])
                elif part == 1.0:
                    real(fd, *arguments)
                raise _Killed
            return real(fd, *arguments)

        monkeypatch.setattr(os, name, limited)

    for name in ("write", "fdatasync", "ftruncate"):
        wrap(name)
    return calls


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("file_exists", [False, True])
def test_a_crash_at_any_step_loses_and_repeats_nothing(
    tmp_path: Path, part: float, file_exists: bool
) -> None:
    """Whatever the last system call was, the retry completes each row once."""
    for call in range(1, 20):
        path = tmp_path / str(call)
        path.mkdir()
        count = 0
        if file_exists:
            pump_on(path).write(batch("S", range(count := 30)))
        writer = pump_on(path)
        with pytest.MonkeyPatch.context() as patch:
            calls = _kill_at(call, part, patch)
            try:
                writer.write(batch("S", range(count, 150)))
            except _Killed:
                killed = True
            else:
                killed = False
        writer.close()
        retry = pump_on(path)
        assert calls[0]
        # Another window than before, and another cursor in between.
        retry.write(batch("T", range(2)))
        retry.write(batch("S", range(count, 120)))
        retry.write(batch("S", range(100, 160)))
        found = rows(path)
        assert [name for name in found if name[0] == "S"] == aliases("S", 160)
        assert [name for name in found if name[0] == "T"] == aliases("T", 2)
        if not killed:
            break
    else:
        pytest.fail("the write never came to its end")


def test_rows_of_others_behind_a_torn_write_are_kept(tmp_path: Path) -> None:
    """Only the beginning of our own bytes is cut off; a foreign row stays."""
    writer = pump_on(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        _kill_at(3, 0.5, patch)
        with pytest.raises(_Killed):
            writer.write(batch("S", range(150)))
    writer.close()
    (path,) = tmp_path.glob("*.csv")
    torn = path.stat().st_size
    assert torn % 4096 == 0 and torn > 0
    with path.open("ab") as other:
        other.write(b"\nforeign,row\n")
    pump_on(tmp_path).write(batch("S", range(150)))
    data = path.read_bytes()
    assert b"\nforeign,row\n" in data
    assert all(f",{name},".encode() in data for name in aliases("S", 150))


def test_a_full_disk_takes_nothing_back_that_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused append is undone, reported, and made good by the retry."""
    pump = pump_on(tmp_path)
    pump.write(batch("S", range(5)))
    real = os.write
    full = [True]

    def write(fd: int, data: Any) -> int:
        if full[0] and os.readlink(f"/proc/self/fd/{fd}").endswith(".csv"):
            full[0] = False
            real(fd, bytes(data)[:100])
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(TransientError, match="No space left"):
        pump.write(batch("S", range(5, 10)))
    pump.write(batch("S", range(5, 10)))
    assert rows(tmp_path) == aliases("S", 10)


def _start(path: Path, stream: str, records: int, window: int) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.pumps.writer"]
    arguments = [str(path), stream, "CSV", str(records), str(window)]
    process = subprocess.Popen(
        command + arguments, cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    process.stdout.close()
    return process


def test_kill_9_in_the_middle_of_writes(tmp_path: Path) -> None:
    """Killed again and again, all rows are there once, in order, none torn."""
    random_ = random.Random(5)
    count = 30_000
    for _ in range(8):
        process = _start(tmp_path, "S", count, random_.choice([150, 700, 3000]))
        time.sleep(random_.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Whoever comes next finds whole rows only.
        pump_on(tmp_path).close()
        found = rows(tmp_path)
        assert found == aliases("S", len(found))
    assert _start(tmp_path, "S", count, 1000).wait() == 0
    assert rows(tmp_path) == aliases("S", count)


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    """Rows of two writers are whole, and a stream that both write stands there once."""
    started = [_start(tmp_path, name, 5000, 100) for name in ("S", "S", "T")]
    assert [process.wait() for process in started] == [0, 0, 0]
    found = rows(tmp_path)
    for stream in "ST":
        mine = [name for name in found if name[0] == stream]
        assert mine == aliases(stream, 5000)


def test_a_lock_that_is_never_free_is_trouble_not_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen process with the lock is named, and the worker tries again."""
    monkeypatch.setattr(once, "LOCK_SECONDS", 0.0)
    holder, other = pump_on(tmp_path), pump_on(tmp_path)
    with holder._folder.locked(), pytest.raises(TransientError, match="lock"):
        other.write(batch("S", range(1)))
    other.write(batch("S", range(1)))
    assert rows(tmp_path) == aliases("S", 1)


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    """Files that an operator has moved away do not stop the pump."""
    path = tmp_path / "csv"
    pump = pump_on(path)
    pump.write(batch("S", range(2)))
    path.rename(tmp_path / "away")
    pump.write(batch("S", range(2, 4)))
    assert rows(path) == aliases("S", 4)[2:]


# Files and rows


def test_a_file_with_columns_of_another_version_is_left_alone(tmp_path: Path) -> None:
    """Its rows would not fit; a second file of the hour takes the new ones."""
    old = tmp_path / "2026-March-5-14.csv"
    old.write_text("Method,Host,Path,Old\nGET,h,/,x\n")
    pump_on(tmp_path).write(batch("S", range(2)))
    assert old.read_text() == "Method,Host,Path,Old\nGET,h,/,x\n"
    second = tmp_path / "2026-March-5-14-2.csv"
    assert second.read_bytes().startswith(csv_pump.HEADER)


def test_a_folder_that_cannot_be_made_is_trouble(tmp_path: Path) -> None:
    """The reason names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TransientError, match="file"):
        pump_on(tmp_path / "file" / "csv")


def test_formulas_are_disarmed_on_request(tmp_path: Path) -> None:
    """A text that a spreadsheet would run gets a quote mark before it."""
    record = AnalyticsRecord(alias="=1+1", user_agent="@x", path="/a=b")
    plain, safe = row(record), csv_pump.formula_safe_row(record)
    assert ",=1+1," in plain
    assert ",'=1+1," in safe
    assert ",'@x," in safe
    assert ",/a=b," in safe


@pytest.mark.parametrize(
    ("number", "text"),
    [(float("nan"), "NaN"), (float("-inf"), "-Inf"), (-0.0, "-0"), (1e21, "1e+21")],
)
def test_odd_coordinates(number: float, text: str) -> None:
    """Numbers that JSON does not have are shown as the text form shows them."""
    geo = Geo(city=City(), location=Location(latitude=number))
    assert f",{text},0," in row(AnalyticsRecord(geo=geo))


def test_the_cheap_look_at_a_row_agrees_with_the_look_at_each_cell() -> None:
    """Quotes are never forgotten because a row looked plain as a whole."""
    random_ = random.Random(7)
    letters = 'ab ,"\n\r\t\v\\.=é\x85\u3000'
    for _ in range(3000):
        text = "".join(random_.choices(letters, k=random_.randint(0, 3)))
        for name in ("method", "alias", "listen_path"):
            record = AnalyticsRecord()
            setattr(record, name, text)
            assert row(record) == csv_pump._cells(record, csv_pump._quoted)
