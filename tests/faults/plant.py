"""The faulty pump from the outside: its configuration, its switches, what arrived."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from tests.daemon.harness import Daemon, wait_for

PLUGINS = Path(__file__).parent / "plugins"


class Plant:
    """One faulty back end with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def section(self, *, common: dict[str, Any] | None = None, **meta: Any) -> Any:
        """Return the pump's section of a configuration."""
        options = {"folder": str(self.folder), **meta}
        return {"type": "faulty", **(common or {}), "meta": options}

    def turn_on(self, fault: str) -> None:
        """Begin to misbehave in this way."""
        (self.folder / fault).touch()

    def turn_off(self, fault: str) -> None:
        """Behave again."""
        (self.folder / fault).unlink()

    def lines(self, name: str) -> list[str]:
        """Return the lines of one of the pump's files."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def arrived(self) -> list[str]:
        """Return the names of the records that arrived, in order."""
        return [line.split()[0] for line in self.lines("arrived")]

    def ids(self) -> dict[str, str]:
        """Return name -> record id of what arrived."""
        return dict(line.split() for line in self.lines("arrived"))

    def calls(self) -> list[list[str]]:
        """Return the names of each write, also of those that failed."""
        return [line.split() for line in self.lines("calls")]

    def wait(self, names: list[str], daemon: Daemon) -> None:
        """Wait until all these have arrived, then see that each did so once."""
        try:
            wait_for("all records", lambda: set(self.arrived()) >= set(names))
        except AssertionError:
            missing = len(set(names) - set(self.arrived()))
            raise AssertionError(f"{missing} missing\n{daemon.tail()}") from None
        self.assert_once(names)

    def assert_once(self, names: list[str]) -> None:
        """See that these and no others have arrived, once each."""
        found = Counter(self.arrived())
        assert set(found) == set(names)
        assert [name for name, times in found.items() if times > 1] == []


def environment() -> dict[str, str]:
    """Return what makes the command know the faulty pump."""
    path = [str(PLUGINS), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def daemon_with(folder: Path, port: int, pumps: Any, **settings: Any) -> Daemon:
    """Return an instance that knows the faulty pump."""
    return Daemon(folder, port, pumps, environment=environment(), **settings)


def letters(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    """Return what `tyk-pump dead-letters list --json` prints."""
    words = ("dead-letters", "list", "--json", "--limit", "10000", *arguments)
    done = daemon.command(*words)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def wait_pump(daemon: Daemon, name: str, **expected: Any) -> dict[str, Any]:
    """Wait until the pump's status has these values; numbers are lower bounds."""

    def there() -> dict[str, Any] | None:
        done = daemon.command("status", "--json")
        if done.returncode:
            return None  # it has not begun to listen yet
        pumps = json.loads(done.stdout)["pumps"]
        found: dict[str, Any] = next(p for p in pumps if p["name"] == name)
        for key, value in expected.items():
            if isinstance(value, int):
                if found[key] < value:
                    return None
            elif found[key] != value:
                return None
        return found

    try:
        found: dict[str, Any] = wait_for(f"{name}: {expected}", there)
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{daemon.tail()}") from None
    return found
