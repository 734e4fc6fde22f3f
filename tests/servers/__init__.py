"""Real servers on free ports, started by fixtures and ended by their own pid."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


def free_port() -> int:
    """Return a port that was free a moment ago, for TCP and UDP.

    It lies below those the kernel gives to clients: one of them might take it while a
    server is away.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with (
            contextlib.suppress(OSError),
            socket.socket() as stream,
            socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        ):
            stream.bind(("127.0.0.1", port))
            datagrams.bind(("127.0.0.1", port))
            return port


def absent(what: str, hint: str = "is not installed") -> NoReturn:
    """Skip the test on a laptop, fail it in CI: there each server must be had."""
    # Here, for `tests.servers.prepare` runs before anything is installed.
    import pytest

    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} {hint}", pytrace=False)
    pytest.skip(f"{what} {hint}")


def program(*names: str) -> str | None:
    """Return the path of the first program that is installed."""
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that all processes know by this path; it ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
