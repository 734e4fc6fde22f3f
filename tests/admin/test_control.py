"""The control socket: one line each way, errors told, nobody left hanging."""

from __future__ import annotations

import contextlib
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tyk_pump.admin.control import ControlServer, NotRunning, Refused, ask
from tyk_pump.errors import ConfigError, StateError
from tyk_pump.state.folder import StateFolder


def handler(command: str, arguments: dict[str, Any]) -> Any:
    """Answer as the coordinator would."""
    if command == "refuse":
        raise ConfigError("pumps.x: missing")
    if command == "busy":
        raise TimeoutError
    if command == "break":
        raise ZeroDivisionError("by zero")
    return {"command": command, **arguments}


@contextlib.contextmanager
def served(path: Path) -> Iterator[StateFolder]:
    """A server in a state folder of its own."""
    folder = StateFolder.open(path)
    server = ControlServer(folder, handler)
    server.start()
    try:
        yield folder
    finally:
        server.close()
        folder.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    """A folder that is listened in."""
    with served(tmp_path / "state") as made:
        yield made


def test_a_command_is_answered(folder: StateFolder) -> None:
    """Arguments go there, the result comes back."""
    ids = list(range(50_000))
    answer = ask(folder.path, "replay", {"ids": ids})
    assert answer == {"command": "replay", "ids": ids}


def test_only_the_owner_may_command(folder: StateFolder) -> None:
    """The socket is as private as the folder."""
    assert stat.S_IMODE(folder.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("refuse", "pumps.x: missing"),
        ("busy", "busy"),
        ("break", "ZeroDivisionError: by zero"),
    ],
)
def test_errors_come_back_as_words(
    folder: StateFolder, command: str, words: str
) -> None:
    """Whatever goes wrong over there is told here, and the next command works."""
    with pytest.raises(Refused, match=words):
        ask(folder.path, command)
    assert ask(folder.path, "status")["command"] == "status"


def test_garbage_is_answered_too(folder: StateFolder) -> None:
    """A client that speaks another language learns so."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder.socket))
        client.sendall(b"hello\n")
        assert b"no request" in client.recv(1000)


def test_a_silent_client_holds_nobody_up(folder: StateFolder) -> None:
    """One that says nothing has a thread of its own."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(folder.socket))
        assert ask(folder.path, "status", timeout=5)["command"] == "status"


def test_nobody_listens(tmp_path: Path) -> None:
    """No folder, no socket, or one whose process is gone: the pump does not run."""
    with pytest.raises(NotRunning, match="no pump runs"):
        ask(tmp_path / "absent", "status")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NotRunning):
        ask(tmp_path, "status")


def test_a_stale_socket_is_replaced_and_ours_is_removed(tmp_path: Path) -> None:
    """What a killed process left does not keep the next one from listening."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "control.sock"))
    with served(tmp_path) as folder:
        assert ask(folder.path, "status")["command"] == "status"
    assert not (tmp_path / "control.sock").exists()


def test_a_deep_folder_is_reached(tmp_path: Path) -> None:
    """A socket's address is short, a path need not be."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    with served(deep) as folder:
        assert ask(folder.path, "status")["command"] == "status"


def test_closing_ends_the_thread(tmp_path: Path) -> None:
    """Nothing listens on after `close`."""
    with served(tmp_path):
        thread = next(t for t in threading.enumerate() if t.name == "control")
    thread.join(5)
    assert not thread.is_alive()


def test_a_server_that_hangs_up_is_reported(tmp_path: Path) -> None:
    """No answer is not an empty answer."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "control.sock"))
        server.listen()

        def hang_up() -> None:
            client, _ = server.accept()
            client.recv(1000)
            client.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(StateError, match="without an answer"):
            ask(tmp_path, "status")
        thread.join()


def test_the_request_is_one_json_line(tmp_path: Path) -> None:
    """Anything that can write a line can command: socat will do."""
    with served(tmp_path) as folder, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder.socket))
        client.sendall(b'{"command":"status"}\n')
        answer = msgspec.json.decode(client.recv(1000))
    assert answer == {"result": {"command": "status"}}
