"""A real small disk under the state folder: full, read-only, and well again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import (
    DISK,
    Daemon,
    assert_exactly_once,
    in_claims,
    names,
    push,
    settled,
    two_pumps,
    wait_for,
    wait_names,
)

SIZE = 24 << 20


class Disk:
    """A file system of a few megabytes in memory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def mount(self, options: str) -> str:
        """Mount it (or again, with other options); return why not."""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.place)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr.strip() if done.returncode else ""

    def unmount(self) -> None:
        """Take it away, also from under somebody who uses it."""
        subprocess.run(["umount", "--lazy", str(self.place)], check=True)

    def fill(self) -> None:
        """Leave not a block."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def make_room(self) -> None:
        """Remove what fills it."""
        self._filler.unlink()

    def protect(self, *, on: bool) -> None:
        """Make it read-only or writable, once nobody has a file open for writing.

        The workers of a killed coordinator need a moment to notice.
        """
        options = f"remount,{'ro' if on else 'rw'},size={SIZE}"
        wait_for("the end of all writers", lambda: not self.mount(options))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Yield a mounted disk, and unmount it whatever happens."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    place = tmp_path / "disk"
    place.mkdir()
    made = Disk(place)
    if fault := made.mount(f"size={SIZE},mode=0700"):
        pytest.skip(f"mounting is not allowed here: {fault}")
    try:
        yield made
    finally:
        made.unmount()


def make(folder: Path, port: int, disk: Disk, **more: Any) -> Daemon:
    """Return an instance with its state on the disk; its second pump is dead."""
    (folder / "blocked").write_text("not a folder")
    return Daemon(
        folder / "a",
        port,
        two_pumps(folder / "healthy", folder / "blocked"),
        state_dir=str(disk.place),
        window_records=50,
        journal=DISK,
        **more,
    )


@pytest.mark.timeout(300)
def test_a_full_disk_costs_nothing_but_room_in_redis(
    tmp_path: Path, make_redis: Callable[..., Any], disk: Disk
) -> None:
    """Claiming and the healthy pump go on; what is not stored is not trimmed."""
    server = make_redis()
    client = server.client()
    pushed: list[str] = []
    daemon = make(tmp_path, server.port, disk)

    def more(run: str, count: int) -> None:
        fresh = names(run, count)
        push(client, fresh)
        pushed.extend(fresh)
        wait_names(tmp_path / "healthy", pushed, daemon)

    with daemon:
        daemon.start()
        more("stored", 300)
        wait_for("the disk", lambda: in_claims(client) == 0)
        disk.fill()
        more("full", 3000)
        wait_for("the reason", lambda: "cannot be written" in daemon.get("/ready")[1])
        more("still", 200)
        status = daemon.status()
        assert status["redis"] == "" and daemon.pump("BLOCKED")["pending"] == len(
            pushed
        )
        assert status["journal_records"] + in_claims(client) >= len(pushed)
        assert in_claims(client) >= 200
        assert not client.exists("analytics-tyk-system-analytics")
        disk.make_room()
        wait_for("the disk", lambda: in_claims(client) == 0)
        wait_for("no reason", lambda: "written" not in daemon.get("/ready")[1])
        (tmp_path / "blocked").unlink()
        wait_names(tmp_path / "blocked", pushed, daemon)
        daemon.wait_ready()
        assert daemon.stop() == 0
    assert_exactly_once(tmp_path / "healthy", pushed)
    assert_exactly_once(tmp_path / "blocked", pushed)
    assert settled(client)
    daemon.audit()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_start_on_a_sick_disk_waits_for_it(
    tmp_path: Path, make_redis: Callable[..., Any], disk: Disk, trouble: str
) -> None:
    """It says why on its port, leaves when told to, and begins when there is room."""
    server = make_redis()
    client = server.client()
    pushed = names("a", 200)
    push(client, pushed)
    daemon = make(tmp_path, server.port, disk)
    (tmp_path / "blocked").unlink()
    if trouble == "full":
        disk.fill()
    else:
        disk.protect(on=True)
    with daemon:
        daemon.start()
        wait_for("an answer", lambda: daemon.get("/health")[0] == 200)
        code, text = daemon.get("/ready")
        assert code == 503 and "state folder cannot be used" in text
        assert daemon.stop() == 0
        daemon.start()
        wait_for("an answer", lambda: daemon.get("/health")[0] == 200)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        if trouble == "full":
            disk.make_room()
        else:
            disk.protect(on=False)
        daemon.wait_ready()
        for place in ("healthy", "blocked"):
            wait_names(tmp_path / place, pushed, daemon)
        assert daemon.stop() == 0
    assert daemon.tail().count("cannot be used yet") == 2  # once in each life
    assert settled(client)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_killed_one_comes_back_on_a_sick_disk(
    tmp_path: Path, make_redis: Callable[..., Any], disk: Disk, trouble: str
) -> None:
    """What the disk holds waits there; on a full one claiming goes on meanwhile.

    A disk becomes read-only by `mount` between two lives only: the kernel refuses that
    while a file is open for writing (and an error of the device is one of the disk).
    """
    server = make_redis()
    client = server.client()
    daemon = make(tmp_path, server.port, disk)
    pushed = names("a", 300)
    with daemon:
        daemon.start()
        push(client, pushed)
        wait_names(tmp_path / "healthy", pushed, daemon)
        wait_for("the disk", lambda: in_claims(client) == 0)
        daemon.kill()
        late = names("b", 300)
        push(client, late)
        pushed += late
        if trouble == "full":
            disk.fill()
            daemon.start()
            wait_names(tmp_path / "healthy", pushed, daemon)
            disk.make_room()
        else:
            disk.protect(on=True)
            daemon.start()
            wait_for("the reason", lambda: "Read-only" in daemon.get("/ready")[1])
            disk.protect(on=False)
        (tmp_path / "blocked").unlink()
        daemon.wait_ready()
        for place in ("healthy", "blocked"):
            wait_names(tmp_path / place, pushed, daemon)
        assert daemon.stop() == 0
    for place in ("healthy", "blocked"):
        assert_exactly_once(tmp_path / place, pushed)
    assert settled(client)
    daemon.audit()
