"""ElasticMQ: queues that keep to the limits of SQS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.servers import free_port, java
from tests.servers.artefacts import found
from tests.servers.moto import client
from tests.servers.process import listening
from tests.servers.server import Server

REGION = "elasticmq"
_CONFIG = """\
include classpath("application.conf")
node-address {{protocol = http, host = "127.0.0.1", port = {port}, context-path = ""}}
rest-sqs {{
  enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict
}}
rest-stats {{enabled = false}}
"""


class ElasticMq(Server):
    """Queues in memory; it takes any key."""

    def __init__(self, folder: Path) -> None:
        self._artefact = found(java.ELASTICMQ)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(folder)

    def command(self) -> list[str]:
        """Return the command line."""
        config = self.folder / "elasticmq.conf"
        config.write_text(_CONFIG.format(port=self.port))
        flags = ["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        path = f"{self._artefact}/lib/*"
        main = "org.elasticmq.server.Main"
        return ["java", *flags, f"-Dconfig.file={config}", "-cp", path, main]

    def answers(self) -> bool:
        """Tell whether it listens."""
        return listening(self.port)

    def client(self) -> Any:
        """Return AWS's own client."""
        return client("sqs", self.url, REGION)

    def clear(self) -> None:
        """Delete all queues."""
        asked = self.client()
        for url in asked.list_queues().get("QueueUrls", []):
            asked.delete_queue(QueueUrl=url)
        asked.close()
