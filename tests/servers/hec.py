"""Splunk's HTTP Event Collector, as the OpenTelemetry collector receives it.

It takes any token and none, and says whose event it is: refused tokens must be tried
elsewhere. Numbers inside an event come back as floats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from tests.servers import free_port, go
from tests.servers.artefacts import found
from tests.servers.server import Lines, Server, gather
from tests.servers.tls import Authority

_CONFIG = """\
receivers:
  splunk_hec:
    endpoint: 127.0.0.1:{port}
    access_token_passthrough: true
{tls}
exporters:
  file:
    path: {out}
    append: true
    flush_interval: 50ms
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
  pipelines:
    logs: {{receivers: [splunk_hec], exporters: [file]}}
    metrics: {{receivers: [splunk_hec], exporters: [file]}}
"""
_NAMES = {
    "host.name": "host",
    "com.splunk.source": "source",
    "com.splunk.sourcetype": "sourcetype",
    "com.splunk.index": "index",
    "com.splunk.hec.access_token": "token",
}


class HecCollector(Server):
    """A collector; over TLS when it is given an authority."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        self.program = found(go.HEC) / "hec"
        self.port = free_port()
        self.authority = authority
        scheme = "https" if authority else "http"
        self.base = f"{scheme}://127.0.0.1:{self.port}"
        self.url = f"{self.base}/services/collector/event"
        self._lines = Lines(folder / "out.jsonl")
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        tls = ""
        if self.authority:
            chain, key = self.authority.server()
            tls = f"    tls: {{cert_file: {chain}, key_file: {key}}}"
        config = self.folder / "collector.yaml"
        out = self.folder / "out.jsonl"
        config.write_text(_CONFIG.format(port=self.port, tls=tls, out=out))
        return [str(self.program), str(config)]

    def answers(self) -> bool:
        """Tell whether it says that it is well."""
        with requests.Session() as session:
            # Neither proxies nor certificates out of the environment.
            session.trust_env = False
            session.verify = str(self.authority.ca_file) if self.authority else True
            return session.get(f"{self.base}/services/collector/health", timeout=5).ok

    def events(self, at_least: int = 0, seconds: float = 10) -> list[dict[str, Any]]:
        """Return the events, when so many are there.

        Each has event, time (in seconds, None when it came without), fields, and of
        host, source, sourcetype, index and token what it came with.
        """
        return gather(self._read, at_least, seconds)

    def clear(self) -> None:
        """Forget the events."""
        self._lines.clear()

    def _read(self) -> list[dict[str, Any]]:
        return [
            _event(resource.get("resource", {}), record)
            for line in self._lines.read()
            for resource in line.get("resourceLogs", [])
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]


def _event(resource: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    nanoseconds = int(record.get("timeUnixNano", 0))
    about = _pairs(resource.get("attributes", []))
    return {
        "event": _value(record["body"]),
        "time": nanoseconds / 1e9 if nanoseconds else None,
        "fields": _pairs(record.get("attributes", [])),
        **{_NAMES.get(name, name): value for name, value in about.items()},
    }


def _pairs(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in pairs}


def _value(value: dict[str, Any]) -> Any:
    """Return the plain value of a typed one of OTLP."""
    for kind, inner in value.items():
        if kind == "kvlistValue":
            return _pairs(inner.get("values", []))
        if kind == "arrayValue":
            return [_value(item) for item in inner.get("values", [])]
        # JSON of protobuf has 64-bit integers as strings.
        return int(inner) if kind == "intValue" else inner
    return None
