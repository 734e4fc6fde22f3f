"""One server for all workers of a test run, started by the first that needs it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.servers import locked
from tests.servers.process import end

Facts = dict[str, Any]
"""Plain data by which a worker finds the server, and its guards' pids as "pids"."""


@contextlib.contextmanager
def shared(
    name: str, run_folder: Path, start: Callable[[Path, int], Facts]
) -> Iterator[Facts]:
    """Yield the facts of a server; the last worker that leaves ends it.

    `start` gets a new folder and the pid that `Process` shall watch: the one of the
    whole run, for the worker that starts the server may leave before the others. A
    worker that comes after the last has left starts another one.
    """
    folder = run_folder / name
    state = folder / "shared.json"
    lock = folder / "shared.lock"
    with locked(lock):
        known = json.loads(state.read_text()) if state.exists() else None
        if known is None:
            place = folder / f"start-{len(list(folder.glob('start-*')))}"
            place.mkdir()
            known = {"users": 0, "facts": start(place, run_pid())}
        known["users"] += 1
        state.write_text(json.dumps(known))
    try:
        yield known["facts"]
    finally:
        with locked(lock):
            known = json.loads(state.read_text())
            known["users"] -= 1
            if known["users"]:
                state.write_text(json.dumps(known))
            else:
                for pid in known["facts"]["pids"]:
                    end(pid)
                state.unlink()


def run_pid() -> int:
    """Return the pid of the process that lives as long as the whole test run."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
