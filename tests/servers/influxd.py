"""InfluxDB 1 as Debian has it, with its queries and users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from tests.servers import absent, free_port, program
from tests.servers.server import Server
from tests.servers.tls import Authority

USER, PASSWORD = "root", "pw"

# The TLS 1.3 of Debian's build fails with most ciphers.
_CONFIG = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
query-log-enabled = false
[http]
bind-address = "127.0.0.1:{port}"
auth-enabled = {auth}
log-enabled = false
https-enabled = {tls}
https-certificate = "{chain}"
https-private-key = "{key}"
[monitor]
store-enabled = false
[tls]
max-version = "tls1.2"
"""


class InfluxServer(Server):
    """One server; with `auth`, all but the first user needs USER and PASSWORD."""

    def __init__(
        self, folder: Path, authority: Authority | None = None, *, auth: bool = False
    ) -> None:
        self.program = program("influxd") or absent("influxd")
        self.port, self._rpc = free_port(), free_port()
        self.authority = authority
        self.auth = auth
        self.url = f"{'https' if authority else 'http'}://127.0.0.1:{self.port}"
        self._session = requests.Session()
        # Neither proxies nor certificates out of the environment.
        self._session.trust_env = False
        self._session.verify = str(authority.ca_file) if authority else True
        self._session.auth = (USER, PASSWORD) if auth else None
        super().__init__(folder)
        if auth:
            self.query(
                f"CREATE USER {USER} WITH PASSWORD '{PASSWORD}' WITH ALL PRIVILEGES"
            )

    def command(self) -> list[str]:
        """Return the command line."""
        chain, key = self.authority.server() if self.authority else ("", "")
        text = _CONFIG.format(
            rpc=self._rpc,
            port=self.port,
            folder=self.folder,
            auth=str(self.auth).lower(),
            tls=str(self.authority is not None).lower(),
            chain=chain,
            key=key,
        )
        config = self.folder / "influxdb.conf"
        config.write_text(text)
        return [self.program, "run", "-config", str(config)]

    def answers(self) -> bool:
        """Tell whether it answers a ping."""
        return self._session.get(f"{self.url}/ping", timeout=5).status_code == 204

    def query(self, text: str, database: str = "") -> list[dict[str, Any]]:
        """Run a query; return its points, each with its `name` and its tags."""
        reply = self._session.post(
            f"{self.url}/query", params={"db": database}, data={"q": text}, timeout=30
        )
        body = reply.json()
        assert reply.ok, body
        points = []
        for result in body["results"]:
            assert "error" not in result, result
            for series in result.get("series", []):
                about = {"name": series.get("name"), **series.get("tags", {})}
                for row in series.get("values", []):
                    values = dict(zip(series["columns"], row, strict=True))
                    points.append({**about, **values})
        return points

    def create_database(self, name: str) -> None:
        """Create a database, empty also when it was there."""
        self.query(f'DROP DATABASE "{name}"')
        self.query(f'CREATE DATABASE "{name}"')

    def databases(self) -> list[str]:
        """Return the names of all databases."""
        return [point["name"] for point in self.query("SHOW DATABASES")]

    def clear(self) -> None:
        """Drop all databases."""
        for name in self.databases():
            self.query(f'DROP DATABASE "{name}"')

    def stop(self) -> None:
        """End it for good."""
        super().stop()
        self._session.close()
