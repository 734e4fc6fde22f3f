"""StatsD itself, on UDP; it tells what it has understood at each of its flushes."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from tests.servers import absent, free_port, npm
from tests.servers.artefacts import found
from tests.servers.process import listening
from tests.servers.server import Lines, Server

BAD_LINES = "statsd.bad_lines_seen"

_BACKEND = """\
const fs = require('fs');
exports.init = (began, config, events) => {
  events.on('flush', (time, found) => {
    const said = {counters: found.counters, timers: found.timers};
    fs.appendFileSync(config.out, JSON.stringify(said) + '\\n');
  });
  return true;
};
"""


class Statsd(Server):
    """One that flushes ten times a second."""

    def __init__(self, folder: Path) -> None:
        self.program = found(npm.STATSD) / "node_modules" / "statsd" / "stats.js"
        self.node = shutil.which("node") or absent("node", "is not installed")
        self.port, self._admin = free_port(), free_port()
        self._lines = Lines(folder / "out.jsonl")
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        backend = self.folder / "backend.js"
        backend.write_text(_BACKEND)
        config = {
            "address": "127.0.0.1",
            "port": self.port,
            "mgmt_address": "127.0.0.1",
            "mgmt_port": self._admin,
            "flushInterval": 100,
            "deleteCounters": True,
            "backends": [str(backend)],
            "out": str(self.folder / "out.jsonl"),
        }
        path = self.folder / "config.js"
        path.write_text(f"({json.dumps(config)})")
        return [self.node, str(self.program), str(path)]

    def answers(self) -> bool:
        """Tell whether it listens; its own port comes before this one."""
        return listening(self._admin)

    def timers(self, at_least: int = 0, seconds: float = 10) -> dict[str, list[float]]:
        """Return the values of all timers, when so many values are there."""
        until = time.monotonic() + seconds
        while True:
            timers: dict[str, list[float]] = {}
            for flush in self._lines.read():
                for name, values in flush["timers"].items():
                    timers.setdefault(name, []).extend(values)
            if (count := sum(map(len, timers.values()))) >= at_least:
                return timers
            assert time.monotonic() < until, f"{at_least} expected, there are {count}"
            time.sleep(0.01)

    def counters(self) -> dict[str, float]:
        """Return the sums of all counters that were flushed by now."""
        found: dict[str, Any] = {}
        for flush in self._lines.read():
            for name, value in flush["counters"].items():
                found[name] = found.get(name, 0) + value
        return found

    def clear(self) -> None:
        """Forget what it was sent."""
        self._lines.clear()
