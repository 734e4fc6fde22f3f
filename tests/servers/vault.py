"""OpenBao, the free Vault, in memory and over TLS, with both key-value engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from tests.servers import free_port, go
from tests.servers.artefacts import found
from tests.servers.process import listening
from tests.servers.server import Server
from tests.servers.tls import Authority


class Vault(Server):
    """One that is unsealed; it forgets all when it is restarted."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.program = found(go.VAULT) / "vault"
        self.authority = authority
        self.port = free_port()
        self.token = self._share = ""
        self._new = 0
        super().__init__(folder)

    @property
    def url(self) -> str:
        """Return the address."""
        return f"https://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        self._new = self.log.stat().st_size if self.log.exists() else 0
        chain, key = self.authority.server()
        return [str(self.program), f"127.0.0.1:{self.port}", str(chain), str(key)]

    def answers(self) -> bool:
        """Tell whether it listens; learn how to come in."""
        if not listening(self.port):
            return False
        with self.log.open("rb") as file:
            file.seek(self._new)
            first = next(line for line in file if line.startswith(b"hvs."))
        self.token, self._share = first.decode().split()
        self.ask("POST", "sys/mounts/secret", type="kv", options={"version": "2"})
        self.ask("POST", "sys/mounts/old", type="kv", options={"version": "1"})
        self.ask("POST", "sys/mounts/team/kv", type="kv", options={"version": "2"})
        return True

    def ask(
        self, method: str, path: str, *, namespace: str = "", **content: Any
    ) -> Any:
        """Send a request with the root's token."""
        answer = requests.request(
            method,
            f"{self.url}/v1/{path}",
            json=content or None,
            headers={"X-Vault-Token": self.token, "X-Vault-Namespace": namespace},
            verify=str(self.authority.ca_file),
            timeout=10,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def put(self, path: str, fields: dict[str, Any], *, namespace: str = "") -> None:
        """Write a secret of the engine of version 2, by its path without `data`."""
        mount, _, rest = path.partition("/")
        if mount == "team":
            mount, rest = "team/kv", rest.removeprefix("kv/")
        self.ask("POST", f"{mount}/data/{rest}", namespace=namespace, data=fields)

    def seal(self) -> None:
        """Have it refuse everything."""
        self.ask("PUT", "sys/seal")

    def unseal(self) -> None:
        """Have it serve again."""
        self.ask("PUT", "sys/unseal", key=self._share)

    def clear(self) -> None:
        """Forget what is in it; the mounts stay."""
        self.unseal()
        for mount, below in (
            ("secret", "metadata/"),
            ("old", ""),
            ("team/kv", "metadata/"),
        ):
            try:
                keys = self.ask("LIST", f"{mount}/{below}")["data"]["keys"]
            except requests.HTTPError:
                continue
            for key in keys:
                if not key.endswith("/"):
                    self.ask("DELETE", f"{mount}/{below}{key}")
