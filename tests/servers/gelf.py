"""Graylog's own GELF reader, on UDP.

It takes one message after another, and the chunks of one in their order and without
another's between. Of a datagram longer than 1420 bytes it loses the end, for what its
makers send is never longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.servers import free_port, go
from tests.servers.artefacts import found
from tests.servers.server import Lines, Server, gather


class GelfReader(Server):
    """A reader; `messages` returns what it understood."""

    def __init__(self, folder: Path) -> None:
        self.program = found(go.GELF) / "gelf"
        self.port = free_port()
        self._lines = Lines(folder / "out.jsonl")
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        self._began = self.log.stat().st_size if self.log.exists() else 0
        address = f"127.0.0.1:{self.port}"
        return [str(self.program), address, str(self.folder / "out.jsonl")]

    def answers(self) -> bool:
        """Tell whether it says that it listens."""
        return b"listening" in self.log.read_bytes()[self._began :]

    def messages(self, at_least: int = 0, seconds: float = 10) -> list[dict[str, Any]]:
        """Return the messages, when so many are there; `_fields` keep their names."""
        return gather(self._lines.read, at_least, seconds)

    def clear(self) -> None:
        """Forget the messages."""
        self._lines.clear()
