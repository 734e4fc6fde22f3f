"""The unix socket in the state folder through which commands reach a running pump.

    command --{"command": ..., "arguments": {...}}\\n--> coordinator
    command <------{"result": ...} or {"error": ...}\\n-- coordinator

Who may open the folder may command: it belongs to the pump's user alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tyk_pump.errors import StateError, TykPumpError
from tyk_pump.state.folder import SOCKET_NAME, StateFolder

log = logging.getLogger(__name__)

Handler = Callable[[str, dict[str, Any]], Any]

_LONGEST_LINE: Final = 4_194_304
_LONGEST_PATH: Final = 100
"""A socket's address has room for 107 bytes."""
_ASK_SECONDS: Final = 10.0


class NotRunning(StateError):
    """No process listens in the state folder."""


class Refused(TykPumpError):
    """The running process could not do what it was asked for."""


class _Request(msgspec.Struct):
    command: str
    arguments: dict[str, Any] = {}


class ControlServer:
    """Answers commands in threads of its own, by calling `handler`."""

    def __init__(self, folder: StateFolder, handler: Handler) -> None:
        self._folder = folder
        self._handler = handler
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin to listen; the pump runs on where no socket can be had."""
        path = self._folder.socket
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Whoever left it there is gone: we hold the folder's lock.
            path.unlink(missing_ok=True)
            with _short(path) as address:
                server.bind(address)
            path.chmod(0o600)
            server.listen(8)
        except (OSError, StateError) as exc:
            server.close()
            log.warning("commands cannot reach this process", extra={"reason": exc})
            return
        self._socket = server
        threading.Thread(
            target=self._accept, args=(server,), name="control", daemon=True
        ).start()

    def close(self) -> None:
        """Listen no more; what is being answered is not waited for."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            # Wakes the thread in accept, which close alone would not.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._socket = None
        with contextlib.suppress(OSError):
            self._folder.socket.unlink()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed
            threading.Thread(
                target=self._serve, args=(connection,), name="command", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        # A client that went away hears nothing; nobody else is harmed.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_ASK_SECONDS)
            connection.sendall(self._answer(_read_line(connection)) + b"\n")

    def _answer(self, line: bytes) -> bytes:
        try:
            request = msgspec.json.decode(line, type=_Request)
            result = self._handler(request.command, request.arguments)
            return msgspec.json.encode({"result": result})
        except msgspec.DecodeError as exc:
            return msgspec.json.encode({"error": f"no request: {exc}"})
        except TykPumpError as exc:
            return msgspec.json.encode({"error": str(exc)})
        except TimeoutError:
            return msgspec.json.encode({"error": "the process is busy, try again"})
        except Exception as exc:
            # The outermost loop of this thread: the answer must not stay away.
            log.exception("command failed")
            return msgspec.json.encode({"error": f"{type(exc).__name__}: {exc}"})


def ask(
    folder: Path,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    timeout: float = 35.0,
) -> Any:
    """Send one command to the process that holds the folder; return its result."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            with _short(folder / SOCKET_NAME) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            raise NotRunning(f"no pump runs with state folder {folder}") from exc
        except OSError as exc:
            raise StateError(f"{folder / SOCKET_NAME}: {exc.strerror}") from exc
        request = {"command": command, "arguments": dict(arguments or {})}
        try:
            connection.sendall(msgspec.json.encode(request) + b"\n")
            line = _read_line(connection)
        except OSError as exc:
            raise StateError(f"the running process does not answer: {exc}") from exc
    if not line:
        raise StateError("the running process closed the connection without an answer")
    answer = msgspec.json.decode(line)
    if "error" in answer:
        raise Refused(answer["error"])
    return answer["result"]


def _read_line(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := connection.recv(65536):
        parts.append(part)
        size += len(part)
        if part.endswith(b"\n") or size > _LONGEST_LINE:
            break
    return b"".join(parts)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield an address for the socket that fits, however deep its folder lies."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise StateError(f"{path}: too long for a socket; set a shorter state_dir")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
