"""Real servers on free ports, started by fixtures and ended by their own pid."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

RESERVED_SECONDS = 120.0
"""How long a port is kept for the one who asked for it; it listens there by then."""


def free_port() -> int:
    """Return a port that was free a moment ago, and that no other process here gets.

    The system does not give it away to a client: those get theirs from 32768 on.
    """
    # The system's own source of chance: a seed is the same in each worker.
    choose = random.SystemRandom()
    while True:
        port = choose.randrange(12000, 32768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if _reserved(port):
                return port


def _reserved(port: int) -> bool:
    """Keep a port for the caller, unless somebody else was quicker."""
    folder = Path(tempfile.gettempdir()) / f"tyk-pump-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    mark = folder / str(port)
    with contextlib.suppress(FileNotFoundError):
        if time.time() - mark.stat().st_mtime > RESERVED_SECONDS:
            mark.unlink()
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


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
