"""One server process; it can be killed, and never outlives the test run."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

GUARD = Path(__file__).with_name("guard.py")
PATIENCE = 60.0
"""Seconds a server has to start; several may start at once on few cores."""


class Process:
    """A running server; `pid` is its guard's, and ends with the server."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        watched: int | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Start it; it ends with the process `watched`, else with this one.

        `env` is added to the environment, `options` (cwd, user, ...) go to Popen.
        """
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            started = subprocess.run(
                [
                    sys.executable,
                    "-IS",
                    str(GUARD),
                    str(watched or os.getpid()),
                    *map(str, command),
                ],
                check=True,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                **options,
            )
        self.pid = int(started.stdout)

    def wait(self, ready: Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait until `ready` is true; OSError (nobody listens) means not yet."""
        until = time.monotonic() + patience
        while True:
            with contextlib.suppress(OSError):
                if ready():
                    return
            if not alive(self.pid) or time.monotonic() > until:
                log = self.log.read_text(errors="replace")[-2000:]
                raise AssertionError(f"{self.name} did not start: {log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in an orderly way."""
        end(self.pid)

    def kill(self) -> None:
        """kill -9."""
        end(self.pid, signal.SIGUSR1)


def listening(port: int) -> bool:
    """Say whether somebody accepts connections; for `wait`."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 0.5).close()
        return True
    return False


def alive(pid: int) -> bool:
    """Say whether a process runs."""
    return not _ended(pid, 0)


def end(pid: int, how: int = signal.SIGTERM, patience: float = 20.0) -> None:
    """End a server by its guard's pid, at last by force."""
    for each in (how, signal.SIGUSR1):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, each)
        if _ended(pid, patience):
            return
    raise AssertionError(f"process {pid} does not end")


def _ended(pid: int, seconds: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
