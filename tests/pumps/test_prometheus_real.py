"""The prometheus pump in its worker, killed and scraped by a real Prometheus."""

from __future__ import annotations

import os
import random
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.daemon.harness import Daemon, push, settled, wait_for
from tests.servers import free_port
from tests.servers.prometheus import PrometheusServer

SUM = "tyk_http_status{"


def section(port: int, **meta: Any) -> dict[str, Any]:
    """Return the section of a pump that serves on this port."""
    address = f"127.0.0.1:{port}"
    return {"type": "prometheus", "meta": {"listen_address": address, **meta}}


def counted(port: int) -> float:
    """Return how many records are shown; -1 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
            lines = reply.read().decode().splitlines()
    except (urllib.error.URLError, OSError):
        return -1
    return sum(float(line.split()[1]) for line in lines if line.startswith(SUM))


def _beyond(port: int, number: float) -> bool:
    return counted(port) > number


def names(run: str, count: int) -> list[str]:
    """Return names of records."""
    return [f"{run}-{number}" for number in range(count)]


def test_scraped_by_prometheus(tmp_path: Path, make_redis: Callable[..., Any]) -> None:
    """Both formats have the same numbers there, and a restart is not seen in them."""
    server = make_redis()
    ports = {"text": free_port(), "openmetrics": free_port(), "never": free_port()}
    pumps = {
        "text": section(ports["text"], persist="batch"),
        "openmetrics": section(
            ports["openmetrics"], persist="scrape", preferred_format="openmetrics"
        ),
        "never": section(ports["never"]),
    }
    daemon = Daemon(tmp_path / "a", server.port, pumps)
    jobs = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    with daemon, PrometheusServer(tmp_path / "prometheus", jobs) as prometheus:

        def is_there(expression: str, value: float) -> None:
            wait_for(
                f"{expression} to be {value}, is {prometheus.query(expression)}",
                lambda: prometheus.value(expression) == value,
            )

        daemon.start().wait_ready()
        push(server.client(), names("a", 300))
        for job, name in (
            ("text", "tyk_http_status"),
            ("openmetrics", "tyk_http_status_total"),
            ("never", "tyk_http_status"),
        ):
            is_there(f'{name}{{job="{job}",api="api",code="200"}}', 300)
            is_there(f'tyk_latency_bucket{{job="{job}",type="total",le="+Inf"}}', 300)
            is_there(f'tyk_latency_count{{job="{job}",type="gateway"}}', 300)
        is_there('tyk_latency_bucket{job="text",type="total",le="1"}', 300)
        is_there('tyk_latency_bucket{job="openmetrics",type="total",le="1.0"}', 300)
        assert set(prometheus.targets().values()) == {""}
        daemon.stop()
        daemon.start().wait_ready()
        push(server.client(), names("b", 200))
        is_there('tyk_http_status{job="text"}', 500)
        is_there('tyk_http_status_total{job="openmetrics"}', 500)
        is_there('tyk_http_status{job="never"}', 200)
        assert prometheus.value('resets(tyk_http_status{job="text"}[5m])') == 0
        openmetrics = 'resets(tyk_http_status_total{job="openmetrics"}[5m])'
        assert prometheus.value(openmetrics) == 0
        assert prometheus.value('resets(tyk_http_status{job="never"}[5m])') == 1
        assert set(prometheus.targets().values()) == {""}


def test_killed_workers(tmp_path: Path, make_redis: Callable[..., Any]) -> None:
    """With `batch` each record is counted once, and no scrape falls."""
    server = make_redis()
    client, port, chance = server.client(), free_port(), random.Random(6)
    pumps = {"prometheus": section(port, persist="batch", fsync=False)}
    total, last = 0, 0.0
    daemon = Daemon(tmp_path / "a", server.port, pumps, window_records=50)
    with daemon:
        daemon.start().wait_ready()
        for kill in range(6):
            fresh = names(f"k{kill}", chance.randrange(500, 3000))
            push(client, fresh)
            total += len(fresh)
            wait_for("some progress", partial(_beyond, port, last))
            seen = counted(port)
            os.kill(daemon.children()[0], signal.SIGKILL)
            wait_for("a new worker", lambda: counted(port) >= 0)
            found = counted(port)
            assert found >= seen >= last
            last = found
        wait_for("all records", lambda: counted(port) == total)
        wait_for("all settled", lambda: settled(client))
        assert counted(port) == total
