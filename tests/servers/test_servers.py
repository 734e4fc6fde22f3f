"""Each server of the tests does what the tests rely on."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.servers.artefacts import Artefact
from tests.servers.prepare import prepare
from tests.servers.process import Process, alive
from tests.servers.shared import Facts, shared
from tests.servers.tls import Authority, authority


def test_authority(tmp_path: Path) -> None:
    """Server and client certificates of one authority verify each other."""
    mine = authority(tmp_path)
    chain, key = mine.server()
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepting.load_cert_chain(chain, key)
    accepting.load_verify_locations(mine.ca_file)
    accepting.verify_mode = ssl.CERT_REQUIRED
    # A second worker with the same folder has the same authority.
    connecting = ssl.create_default_context(cafile=str(authority(tmp_path).ca_file))
    connecting.load_cert_chain(*Authority(tmp_path).client())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with accepting.wrap_socket(theirs, server_side=True) as end:
            end.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with connecting.wrap_socket(ours, server_hostname="127.0.0.1") as end:
        assert end.recv(5) == b"hello"
    thread.join()


def test_prepare(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build that fails leaves nothing; the next one starts anew, once."""
    monkeypatch.setenv("TYK_PUMP_TEST_CACHE", str(tmp_path))
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        assert not list(folder.iterdir())
        (folder / "file").write_text("half")
        if len(builds) == 1:
            raise OSError("no network")

    artefact = Artefact("toy", "1", ("sh",), build, recipe="text")
    with pytest.raises(OSError, match="no network"):
        prepare(artefact)
    assert not artefact.folder.exists()
    prepare(artefact)
    prepare(artefact)
    assert len(builds) == 2
    assert (artefact.folder / "file").read_text() == "half"


def sleeper(folder: Path, watched: int) -> tuple[Process, int]:
    """Start a server that does nothing; return its guard and its own pid."""
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    log = folder / "log"
    process = Process([sys.executable, "-IS", "-c", script], log, watched=watched)
    process.wait(lambda: log.read_text().endswith("\n"))
    return process, int(log.read_text().split()[-1])


@pytest.mark.parametrize("how", ["stop", "kill", "guard killed", "run killed"])
def test_no_server_outlives_the_run(tmp_path: Path, how: str) -> None:
    """A server ends when told, and with its guard or the watched process."""
    with subprocess.Popen(["sleep", "1000"]) as run:
        process, pid = sleeper(tmp_path, run.pid)
        assert alive(process.pid) and alive(pid)
        if how == "stop":
            process.stop()
        elif how == "kill":
            process.kill()
        elif how == "guard killed":
            os.kill(process.pid, signal.SIGKILL)
        run.kill()
    wait_gone(process.pid)
    wait_gone(pid)


def test_a_server_that_dies_says_why(tmp_path: Path) -> None:
    """What it wrote last is in the message."""
    process = Process(["sh", "-c", "echo port taken; exit 1"], tmp_path / "log")
    with pytest.raises(AssertionError, match="port taken"):
        process.wait(lambda: False)


def test_shared(tmp_path: Path) -> None:
    """The first user starts the server, the last one ends it."""
    starts: list[int] = []

    def start(folder: Path, watched: int) -> Facts:
        process, pid = sleeper(folder, watched)
        starts.append(pid)
        return {"pids": [process.pid], "port": 1}

    with shared("toy", tmp_path, start) as first:
        with shared("toy", tmp_path, start) as second:
            assert first == second
        assert alive(starts[0])
    assert len(starts) == 1
    wait_gone(starts[0])


def wait_gone(pid: int) -> None:
    """Wait until a process has ended."""
    until = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < until
        time.sleep(0.01)
