"""kinesalite: streams with the limits of Kinesis, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.servers import free_port, npm
from tests.servers.artefacts import found
from tests.servers.moto import REGION, client
from tests.servers.process import listening
from tests.servers.server import Server

_START = "require('kinesalite')({{createStreamMs: 1}}).listen({port}, '127.0.0.1')"


class Kinesalite(Server):
    """One server; it looks at the form of a signature, not at its truth."""

    def __init__(self, folder: Path) -> None:
        self._artefact = found(npm.KINESALITE)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        return ["node", "-e", _START.format(port=self.port)]

    def environment(self) -> dict[str, str]:
        """Return where its modules are."""
        return {"NODE_PATH": str(self._artefact / "node_modules")}

    def answers(self) -> bool:
        """Tell whether it listens."""
        return listening(self.port)

    def client(self) -> Any:
        """Return AWS's own client."""
        return client("kinesis", self.url, REGION)

    def clear(self) -> None:
        """Forget all streams."""
        self.restart()
