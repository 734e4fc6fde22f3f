"""A disk in trouble: the start waits for it, and who reads from it waits alone."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port
from tyk_pump.clock import Clock
from tyk_pump.config.load import Config
from tyk_pump.config.root import PumpConfig, RootOptions
from tyk_pump.coordinator.lanes import Span
from tyk_pump.coordinator.loop import Coordinator
from tyk_pump.coordinator.room import is_passing, wait_for_room
from tyk_pump.coordinator.windows import Frame
from tyk_pump.errors import StateError
from tyk_pump.state import folder as folders
from tyk_pump.state.file import StateFile
from tyk_pump.state.folder import StateFolder


class Pauses(Clock):
    """A clock that counts pauses instead of making them."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


def caused(by: BaseException) -> StateError:
    """Return a StateError as the state folder and file raise it."""
    try:
        raise StateError("state file x: trouble") from by
    except StateError as exc:
        return exc


def refused(code: int) -> sqlite3.OperationalError:
    """Return SQLite's error with a code."""
    exc = sqlite3.OperationalError("trouble")
    exc.sqlite_errorcode = code
    return exc


@pytest.mark.parametrize(
    "exc",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        caused(OSError(errno.EROFS, "Read-only file system")),
        caused(OSError(errno.EDQUOT, "Disk quota exceeded")),
        caused(OSError(errno.EIO, "Input/output error")),
        caused(refused(sqlite3.SQLITE_FULL)),
        caused(refused(sqlite3.SQLITE_READONLY)),
        caused(refused(sqlite3.SQLITE_IOERR | 19 << 8)),
    ],
    ids=str,
)
def test_trouble_of_the_disk_may_pass(exc: BaseException, tmp_path: Path) -> None:
    """These are waited for."""
    assert is_passing(exc, tmp_path)


@pytest.mark.parametrize(
    "exc",
    [
        StateError("state file x: written by a newer tyk-pump"),
        caused(OSError(errno.EACCES, "Permission denied")),
        caused(BlockingIOError(errno.EAGAIN, "in use")),
        caused(refused(sqlite3.SQLITE_CORRUPT)),
        caused(refused(sqlite3.SQLITE_CANTOPEN)),  # on a disk that has room
    ],
    ids=str,
)
def test_what_somebody_must_change_is_refused(exc: StateError, tmp_path: Path) -> None:
    """Waiting would not help."""
    assert not is_passing(exc, tmp_path)

    def action() -> None:
        raise exc

    with pytest.raises(StateError):
        wait_for_room(action, tmp_path, RootOptions(), Pauses())


def test_the_start_waits_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Signals are as before afterwards, and the port is free again."""
    caplog.set_level(logging.INFO)
    root = RootOptions(health_check_endpoint_port=free_port())
    clock, before = Pauses(), signal.getsignal(signal.SIGTERM)

    def action() -> int:
        if len(clock.pauses) < 12:
            raise caused(refused(sqlite3.SQLITE_FULL))
        return 7

    assert wait_for_room(action, tmp_path, root, clock) == 7
    assert len(clock.pauses) == 12 and 5.0 <= max(clock.pauses) <= 10.0
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.getMessage().partition(":")[0] for one in errors] == [
        "the state folder cannot be used yet"
    ]
    assert signal.getsignal(signal.SIGTERM) is before
    assert wait_for_room(lambda: 8, tmp_path, root, clock) == 8


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    """Also in a container, where the first process has no default for SIGTERM."""

    class Stopped(Pauses):
        def sleep(self, seconds: float) -> None:
            signal.raise_signal(signal.SIGTERM)

    def action() -> None:
        raise caused(refused(sqlite3.SQLITE_FULL))

    root = RootOptions(health_check_endpoint_port=free_port())
    with pytest.raises(SystemExit) as end:
        wait_for_room(action, tmp_path, root, Stopped())
    assert end.value.code == 0


def test_who_we_are_is_written_down_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start takes our streams back at once."""

    def full(*arguments: object, **values: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_write", full)
        held = StateFolder.open(tmp_path)
    held.record()
    held.close()
    again = StateFolder.open(tmp_path)
    again.close()
    assert (again.name, again.previous) == (held.name, held.incarnation)


def test_a_frame_that_cannot_be_read_holds_up_its_pump_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once and asked for again after a second; Redis is not blamed."""
    root = RootOptions()
    config = Config(root=root, pumps=[PumpConfig(name=n, type="csv") for n in "PQ"])
    held = StateFolder.open(tmp_path, "a")
    with contextlib.closing(StateFile(held.file)) as state:
        made = Coordinator(config, held, state, reload=lambda: config, environ={})
        made.make_workers(config.pumps)
        first, second = made.workers
        now = [100.0]
        monkeypatch.setattr(made.clock, "monotonic", lambda: now[0])
        asked: list[str] = []
        given: list[str] = []
        sick = True

        def frame(source: Any, span: Span) -> Frame:
            asked.append(span.stream)
            if span.stream == "P" and sick:
                raise StateError("state file x: disk I/O error")
            return Frame(span.first, span.end, b"data")

        def hand_over(worker: Any, span: Span, frame: Frame) -> bool:
            given.append(span.stream)
            return False

        monkeypatch.setattr(made._windows, "frame", frame)
        monkeypatch.setattr(made, "_hand_over", hand_over)
        monkeypatch.setattr(made._lifeline, "_started", True)
        made._lifeline.source = made._lifeline._new_source()
        made._lifeline.source.lease_end = made._lifeline.deadline
        for worker in made.workers:
            name = worker.config.name
            monkeypatch.setattr(worker, "has_room", lambda size: True)
            span = Span(name, 0, 1)
            monkeypatch.setattr(worker.lane, "next_span", lambda s, span=span: span)
        for _ in range(3):
            made._offer()
        assert asked == ["P", "Q", "Q", "Q"] and given == ["Q"] * 3
        assert made._lifeline.error == "" and made._lifeline.errors == 0
        assert first.last_error == "state file x: disk I/O error"
        assert second.last_error == "" and second.read_error == ""
        assert any("P waits for the disk" in one for one in made._reasons())
        now[0] += 1.0
        made._offer()
        assert asked[4:] == ["P", "Q"]
        said = [r for r in caplog.records if "cannot be read" in r.getMessage()]
        assert len(said) == 1
        sick, now[0] = False, now[0] + 1.0
        made._offer()
        assert given[-2:] == ["P", "Q"]
        assert not any("the disk" in one for one in made._reasons())
        made._lifeline.close()
    held.close()
