"""A Consul agent of its own, with an ACL that lets nobody in without the token."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from tests.servers import free_port, go
from tests.servers.artefacts import found
from tests.servers.server import Server
from tests.servers.tls import Authority

TOKEN = "c0n5u1-r00t"


class Consul(Server):
    """One that keeps all in memory; with an authority it speaks TLS, too."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        self.program = found(go.CONSUL) / "consul"
        self.authority = authority
        self.port, self.tls_port = free_port(), free_port()
        self._others = [free_port() for _ in range(3)]
        super().__init__(folder)

    @property
    def address(self) -> str:
        """Host and port, without TLS."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        rpc, lan, wan = self._others
        config = {
            "acl": {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"initial_management": TOKEN},
            },
            "disable_update_check": True,
        }
        if self.authority is not None:
            chain, key = self.authority.server()
            config["tls"] = {
                "defaults": {
                    "ca_file": str(self.authority.ca_file),
                    "cert_file": str(chain),
                    "key_file": str(key),
                    "verify_incoming": False,
                },
                "https": {"verify_incoming": True},
            }
            config["ports"] = {"https": self.tls_port}
        (self.folder / "consul.json").write_text(json.dumps(config))
        ports = {
            "http": self.port,
            "server": rpc,
            "serf-lan": lan,
            "serf-wan": wan,
            "dns": -1,
            "grpc": -1,
            "grpc-tls": -1,
        }
        return [
            str(self.program),
            *("-dev", "-bind=127.0.0.1", "-client=127.0.0.1"),
            *(f"-{name}-port={port}" for name, port in ports.items()),
            *("-disable-host-node-id", f"-config-file={self.folder / 'consul.json'}"),
        ]

    def answers(self) -> bool:
        """Tell whether keys can be written by now."""
        try:
            self.put("ready", "yes")
        except requests.HTTPError:
            return False
        return True

    def put(self, key: str, value: str | bytes) -> None:
        """Set a key."""
        requests.put(
            f"http://{self.address}/v1/kv/{key}",
            data=value,
            headers={"X-Consul-Token": TOKEN},
            timeout=10,
        ).raise_for_status()

    def clear(self) -> None:
        """Remove all keys."""
        requests.delete(
            f"http://{self.address}/v1/kv/?recurse=true",
            headers={"X-Consul-Token": TOKEN},
            timeout=10,
        ).raise_for_status()
