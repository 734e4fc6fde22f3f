"""Prometheus of Debian: it scrapes what it is told to, and answers queries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from tests.servers import absent, free_port, program
from tests.servers.server import Server

INTERVAL = "200ms"


class PrometheusServer(Server):
    """One server, with a job for each name and its address.

    The first scrapes begin some seconds after its start.
    """

    def __init__(self, folder: Path, jobs: Mapping[str, str]) -> None:
        self.program = program("prometheus") or absent("prometheus")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._jobs = dict(jobs)
        self._session = requests.Session()
        self._session.trust_env = False
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [address]}]}
            for name, address in self._jobs.items()
        ]
        often = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL}
        config = self.folder / "prometheus.yml"
        # JSON is YAML.
        config.write_text(json.dumps({"global": often, "scrape_configs": jobs}))
        return [
            self.program,
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    def answers(self) -> bool:
        """Tell whether it is ready."""
        return self._session.get(f"{self.url}/-/ready", timeout=5).status_code == 200

    def stop(self) -> None:
        """End it for good."""
        super().stop()
        self._session.close()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series that is asked for."""
        data = self._get("query", {"query": expression})["result"]
        return [(one["metric"], float(one["value"][1])) for one in data]

    def value(self, expression: str) -> float:
        """Return the value of an expression that has one or no series."""
        return sum(value for _, value in self.query(expression))

    def targets(self) -> dict[str, str]:
        """Return job -> what the last scrape met with; nothing where it went well."""
        found = self._get("targets", {})["activeTargets"]
        return {one["labels"]["job"]: one["lastError"] for one in found}

    def _get(self, what: str, parameters: dict[str, str]) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{what}"
        answer = self._session.get(url, params=parameters, timeout=10)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()["data"]
        return found
