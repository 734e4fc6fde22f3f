"""moto: AWS's services in memory, in a process of its own.

It believes every signature, and asks nobody for a permission.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import botocore.session
import requests
from botocore.config import Config

from tests.servers import absent, free_port
from tests.servers.server import Server

REGION = "eu-west-1"
ACCOUNT = "123456789012"


class Moto(Server):
    """One server for all services of all regions."""

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("moto") is None:
            absent("moto")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            sys.executable,
            "-m",
            "moto.server",
            "-H",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]

    def answers(self) -> bool:
        """Tell whether it serves by now."""
        return self._ask("GET", "").ok

    def clear(self) -> None:
        """Forget streams, queues and all else."""
        assert self._ask("POST", "reset").ok

    def client(self, service: str) -> Any:
        """Return AWS's own client of a service."""
        return client(service, self.url, REGION)

    def _ask(self, method: str, path: str) -> requests.Response:
        with requests.Session() as session:
            # No proxies out of the environment.
            session.trust_env = False
            return session.request(method, f"{self.url}/moto-api/{path}", timeout=5)


def client(service: str, url: str, region: str) -> Any:
    """Return AWS's own client of a service at an address; to be closed."""
    return botocore.session.Session().create_client(
        service,
        region_name=region,
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(proxies={}),
    )
