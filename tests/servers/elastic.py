"""Elasticsearch 6, 7, 8 and OpenSearch 2: one node, without security of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from tests.servers import free_port, java
from tests.servers.artefacts import found
from tests.servers.process import PATIENCE, Process
from tests.servers.shared import Facts

FLAVOURS = {
    artefact.name: artefact
    for artefact in (
        java.ELASTICSEARCH_6,
        java.ELASTICSEARCH_7,
        java.ELASTICSEARCH_8,
        java.OPENSEARCH,
    )
}


class Elastic:
    """A running node, as clients see it."""

    def __init__(self, flavour: str, port: int) -> None:
        self.flavour = flavour
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the parsed answer to a request that must succeed."""
        answer = requests.request(method, self.url + path, json=body, timeout=PATIENCE)
        answer.raise_for_status()
        return answer.json()

    def documents(self, index: str) -> list[dict[str, Any]]:
        """Return the hits of an index (up to 10 000), refreshed."""
        self.call("POST", f"/{index}/_refresh")
        found = self.call("GET", f"/{index}/_search?size=10000")
        hits: list[dict[str, Any]] = found["hits"]["hits"]
        return hits

    def indices(self) -> list[str]:
        """Return the names of all indices."""
        return sorted(self.call("GET", "/_all/_settings"))


class ElasticServer(Elastic):
    """A node of one's own; it can be killed and restarted with its data."""

    def __init__(
        self,
        folder: Path,
        flavour: str = "elasticsearch7",
        *,
        watched: int | None = None,
    ) -> None:
        super().__init__(flavour, free_port())
        self.folder = folder
        self.process: Process | None = None
        self._watched = watched
        self._transport = free_port()
        self._artefact = found(FLAVOURS[flavour])
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it (again) on the same port, with the data that it kept."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        lib, classes = self._artefact / "lib", self._artefact / "classes"
        if self.flavour == "elasticsearch8":
            modules = home / "modules"
            if not modules.exists():
                modules.symlink_to(self._artefact / "modules")
            names = "jdk.net,jdk.management.agent,ALL-MODULE-PATH"
            path: list[str | Path] = [
                "--module-path",
                lib,
                "--add-modules",
                names,
                "-cp",
                classes,
            ]
        else:
            path = ["-cp", f"{classes}:{lib}/*"]
        self.process = Process(
            [
                "java",
                "-Xms128m",
                "-Xmx512m",
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                # Clients of version 7 look for it.
                "-Des.distribution.flavor=default",
                *path,
                "Main",
                home,
                str(self.port),
                str(self._transport),
            ],
            self.folder / "elastic.log",
            watched=self._watched,
            cwd=self.folder,
        )
        self.process.wait(self._ready)

    def _ready(self) -> bool:
        answer = requests.get(
            f"{self.url}/_cluster/health?wait_for_status=yellow", timeout=PATIENCE
        )
        return answer.ok and not answer.json()["timed_out"]

    def kill(self) -> None:
        """kill -9; its data stays."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def stop(self) -> None:
        """End it; its data stays."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def restart(self) -> None:
        """End it, unless it is, and start it again."""
        self.stop()
        self.start()


def start(folder: Path, watched: int, flavour: str) -> Facts:
    """Start a node for all workers."""
    server = ElasticServer(folder, flavour, watched=watched)
    assert server.process is not None
    return {"pids": [server.process.pid], "port": server.port}
