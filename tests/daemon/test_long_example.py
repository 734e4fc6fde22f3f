"""The longest example of the reference's own pages, started as an operator would."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.harness import (
    LIST,
    Daemon,
    assert_exactly_once,
    record,
    wait_for,
)
from tests.servers import free_port
from tests.servers.receiver import UdpReceiver
from tests.servers.redis import RedisServer
from tests.servers.tls import Authority

EXAMPLE = Path(__file__).parent.parent / "config" / "every-type.conf"
NOW = (1_790_000_000, 0)
UPTIME = "host-checker:tyk-uptime-analytics"

REACHED = {"csv", "dogstatsd", "dummy", "graylog", "prometheus", "statsd", "syslog"}
"""What needs no server, or speaks to one that answers nothing."""


class World:
    """The places that the example's pumps write to: most of them closed ports."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.csv = folder / "csv"
        self.closed = free_port()
        self.listening = free_port()
        self.udp = UdpReceiver()
        self._certificate, self._key = map(str, authority.client())

    def put_into(self, example: dict[str, Any]) -> None:
        """Write the addresses in; nothing else of the example is changed."""
        gone, taken = f"127.0.0.1:{self.closed}", f"127.0.0.1:{self.udp.port}"
        mongo = f"mongodb://username:password@{gone}/tyk"
        mongo += "?serverSelectionTimeoutMS=500"
        changes: dict[str, dict[str, Any]] = {
            "mongo": {"mongo_url": mongo},
            "mongo-pump-aggregate": {"mongo_url": mongo},
            "csv": {"csv_dir": str(self.csv)},
            "elasticsearch": {"elasticsearch_url": f"http://{gone}"},
            "influx": {"address": f"http://{gone}"},
            "moesif": {
                "enable_bulk": True,
                "bulk_config": {"api_endpoint": f"http://{gone}"},
            },
            "splunk": {
                "collector_url": f"https://{gone}/services/collector/event",
                "ssl_cert_file": self._certificate,
                "ssl_key_file": self._key,
            },
            "statsd": {"address": taken},
            "dogstatsd": {"address": taken},
            "prometheus": {"listen_address": f"127.0.0.1:{self.listening}"},
            "graylog": {"host": "127.0.0.1", "port": self.udp.port},
            "hybrid": {"connection_string": gone},
            "logzio": {"url": f"http://{gone}"},
            "kafka": {"broker": [gone]},
            "syslog": {"network_addr": taken},
        }
        for name, change in changes.items():
            example["pumps"][name]["meta"] |= change
        assert set(changes) | {"dummy"} == set(example["pumps"])
        example["uptime_pump_config"]["mongo_url"] = mongo


@pytest.fixture
def world(tmp_path: Path, authority: Authority) -> Iterator[World]:
    """The places of one test."""
    made = World(tmp_path, authority)
    with made.udp:
        yield made


def test_it_runs_whatever_can_be_reached(
    tmp_path: Path, redis_server: RedisServer, world: World
) -> None:
    """It passes the check. Pumps with a back end have everything; the others say what
    they lack, keep theirs, and hold up neither them nor the stop."""
    example = json.loads(EXAMPLE.read_text())
    world.put_into(example)
    example["analytics_storage_config"] |= {"host": "127.0.0.1"}
    storage = example.pop("analytics_storage_config") | {"port": redis_server.port}
    pumps = example.pop("pumps")
    example.pop("health_check_endpoint_port")
    names = [f"n{number}" for number in range(100)]
    with (
        contextlib.closing(redis_server.client()) as client,
        Daemon(
            tmp_path / "pump",
            redis_server.port,
            pumps,
            analytics_storage_config=storage,
            shutdown_timeout=5,
            **example,
        ) as daemon,
    ):
        checked = daemon.command("check", "--offline")
        assert checked.returncode == 0, checked.stdout
        daemon.start()
        wait_for("its start", lambda: daemon.get("/hello")[0] == 200)
        client.rpush(LIST, *[record(name, timestamp=NOW) for name in names])
        client.rpush(UPTIME, record("uptime"))
        wait_for("all that can be delivered", lambda: _settled(daemon, 100))
        wait_for("words of the others", lambda: _unreached(daemon, world.closed))
        reasons = json.loads(daemon.get("/ready")[1])["reasons"]
        assert len(reasons) == 17 - len(REACHED), reasons
        assert daemon.stop() == 0
    assert_exactly_once(world.csv, names)
    assert len(world.udp.datagrams) >= 4


def _settled(daemon: Daemon, count: int) -> bool:
    """Say whether every pump that has a back end has delivered so many records."""
    pumps = {pump["type"]: pump for pump in _pumps(daemon)}
    return all(pumps[name]["delivered"] == count for name in REACHED & set(pumps))


def _unreached(daemon: Daemon, port: int) -> bool:
    """Say whether every other pump has said which address does not answer."""
    others = [pump for pump in _pumps(daemon) if pump["type"] not in REACHED]
    assert not [pump for pump in others if pump["delivered"]]
    return all(str(port) in pump["last_error"] for pump in others)


def _pumps(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.status()["pumps"]
    return found
