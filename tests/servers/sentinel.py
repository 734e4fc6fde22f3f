"""A master, its replica, and a sentinel that watches them, all with passwords."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.servers import absent, free_port, program
from tests.servers.redis import PATIENCE, Factory, RedisServer

NAME = "mymaster"
PASSWORD = "pw"
SENTINEL_PASSWORD = "spw"


class Watched:
    """The three servers; `fail_over` kills the master and waits for the next."""

    def __init__(self, folder: Path) -> None:
        self.factory = Factory(folder)
        secret = {"requirepass": PASSWORD, "masterauth": PASSWORD}
        self.master = self.factory(**secret, repl_diskless_sync_delay="0")
        self.master.kwargs = {"password": PASSWORD}
        self.replica = self.factory(**secret, replicaof=f"127.0.0.1 {self.master.port}")
        self.replica.kwargs = {"password": PASSWORD}
        self._wait(lambda: self._replicates())
        self.sentinel = self._start_sentinel()

    def _start_sentinel(self) -> RedisServer:
        port = free_port()
        folder = self.factory.next_folder()
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"requirepass {SENTINEL_PASSWORD}",
            f"sentinel monitor {NAME} 127.0.0.1 {self.master.port} 1",
            f"sentinel auth-pass {NAME} {PASSWORD}",
            f"sentinel down-after-milliseconds {NAME} 500",
            f"sentinel failover-timeout {NAME} 2000",
        ]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        server = RedisServer(folder, {"port": str(port)}, sentinel=True)
        server.kwargs = {"password": SENTINEL_PASSWORD}
        self.factory.servers.append(server)
        self._wait(lambda: self._knows_replica(server))
        return server

    def fail_over(self) -> None:
        """Kill the master when the replica has all it has, wait for the promotion."""
        with contextlib.closing(self.master.client()) as client:
            client.wait(1, 2000)
        self.master.kill()
        self._wait(lambda: self._role(self.replica) == "master")

    def _replicates(self) -> bool:
        with contextlib.closing(self.replica.client()) as client:
            info: Any = client.info("replication")
        return bool(info.get("master_link_status") == "up")

    @staticmethod
    def _knows_replica(sentinel: RedisServer) -> bool:
        with contextlib.closing(sentinel.client()) as client:
            found: Any = client.sentinel_master(NAME)
        return int(found["num-slaves"]) >= 1

    @staticmethod
    def _role(server: RedisServer) -> str:
        with contextlib.closing(server.client()) as client:
            info: Any = client.info("replication")
        return str(info["role"])

    @staticmethod
    def _wait(condition: Any) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(redis.exceptions.RedisError):
                if condition():
                    return
            assert time.monotonic() < until, "the sentinel set did not form"
            time.sleep(0.05)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Start the set and end it."""
    if program("redis-sentinel", "redis-server") is None:
        absent("redis-sentinel")
    made = Watched(folder)
    try:
        yield made
    finally:
        made.factory.close()
