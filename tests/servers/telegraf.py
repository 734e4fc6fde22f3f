"""Telegraf: takes InfluxDB 1 and 2 writes, StatsD and syslog, and keeps the metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.servers import free_port, go
from tests.servers.artefacts import found
from tests.servers.process import listening
from tests.servers.server import Lines, Server, gather
from tests.servers.tls import Authority

TOKEN = "sekret"
USER, PASSWORD = "pump", "pw"

_CONFIG = """\
[agent]
interval = "100ms"
flush_interval = "100ms"
flush_jitter = "0s"
omit_hostname = true
quiet = true
[[inputs.influxdb_listener]]
service_address = "127.0.0.1:{influx1}"
basic_username = "{user}"
basic_password = "{password}"
database_tag = "database"
retention_policy_tag = "policy"
{tls}
[[inputs.influxdb_v2_listener]]
service_address = "127.0.0.1:{influx2}"
token = "{token}"
bucket_tag = "bucket"
{tls}
[[inputs.statsd]]
protocol = "udp"
service_address = "127.0.0.1:{statsd}"
datadog_extensions = true
datadog_distributions = true
metric_separator = "."
[[inputs.syslog]]
server = "tcp://127.0.0.1:{syslog}"
{tls}
[[outputs.file]]
files = ["{out}"]
data_format = "json"
json_timestamp_units = "1ns"
"""


class Telegraf(Server):
    """One with all its listeners; those on TCP speak TLS when there is an authority."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        self.program = found(go.TELEGRAF) / "telegraf"
        self.authority = authority
        scheme = "https" if authority else "http"
        self.influx1, self.influx2 = free_port(), free_port()
        self.influx1_url = f"{scheme}://127.0.0.1:{self.influx1}"
        self.influx2_url = f"{scheme}://127.0.0.1:{self.influx2}"
        self.statsd, self.syslog = free_port(), free_port()
        self._lines = Lines(folder / "out.jsonl")
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        tls = ""
        if self.authority:
            chain, key = self.authority.server()
            tls = f'tls_cert = "{chain}"\ntls_key = "{key}"'
        text = _CONFIG.format(
            influx1=self.influx1,
            influx2=self.influx2,
            statsd=self.statsd,
            syslog=self.syslog,
            user=USER,
            password=PASSWORD,
            token=TOKEN,
            tls=tls,
            out=self.folder / "out.jsonl",
        )
        config = self.folder / "telegraf.conf"
        config.write_text(text)
        return [str(self.program), "--config", str(config)]

    def answers(self) -> bool:
        """Tell whether all listeners are there."""
        return all(map(listening, (self.influx1, self.influx2, self.syslog)))

    def metrics(self, at_least: int = 0, seconds: float = 10) -> list[dict[str, Any]]:
        """Return the metrics, when so many are there.

        Each has name, tags, fields and timestamp (in nanoseconds). A tag says which
        database and policy, or which bucket it was written to.
        """
        return gather(self._lines.read, at_least, seconds)

    def clear(self) -> None:
        """Forget the metrics."""
        self._lines.clear()
