"""What the light servers share: a process in a folder, and the file it answers in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.servers.process import Process

T = TypeVar("T")


class Server:
    """One process with a folder of its own; it can be killed and restarted.

    A subclass finds its program and its ports, and then calls `__init__` of this one,
    which starts it.
    """

    def __init__(self, folder: Path, *, watched: int | None = None) -> None:
        """It ends with the process `watched`, else with this one."""
        self.folder = folder
        self._watched = watched
        self.log = folder / "log"
        self.process: Process | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.restart()

    def command(self) -> list[str]:
        """Return the command line, with all files that it names written."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return what is added to the environment."""
        return {}

    def answers(self) -> bool:
        """Tell whether it serves by now; OSError means not yet."""
        raise NotImplementedError

    def restart(self) -> None:
        """Start it (again) on the same ports, with the data that it kept."""
        self.kill()
        self.process = Process(
            self.command(), self.log, watched=self._watched, env=self.environment()
        )
        try:
            self.process.wait(self.answers)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """kill -9; what it has written stays."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def clear(self) -> None:
        """Forget what it was sent."""
        raise NotImplementedError

    def renew(self) -> None:
        """Have it running and empty, whatever the last test did with it."""
        if self.process is None:
            self.restart()
        self.clear()

    def stop(self) -> None:
        """End it for good."""
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Lines:
    """The JSON lines that a server appends to a file, from the last `clear` on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._from = 0

    def read(self) -> list[dict[str, Any]]:
        """Return the lines that are complete by now."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._from)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in complete.split(b"\n") if line]

    def clear(self) -> None:
        """Forget what is there."""
        self._from = self.path.stat().st_size if self.path.exists() else 0


def gather(read: Callable[[], list[T]], at_least: int, seconds: float) -> list[T]:
    """Read again and again until so many are there."""
    until = time.monotonic() + seconds
    while len(found := read()) < at_least:
        message = f"{at_least} expected, there are {len(found)}: {found[-20:]}"
        assert time.monotonic() < until, message
        time.sleep(0.01)
    return found
