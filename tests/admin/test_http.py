"""HTTP: health as the reference answers it, the rest honest and complete."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from tyk_pump.admin.http import AdminServer
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator.snapshot import PumpSnapshot, Snapshot
from tyk_pump.errors import TykPumpError

NOT_FOUND = (404, b"404 page not found\n", "text/plain; charset=utf-8")


def snapshot(**changes: object) -> Snapshot:
    """Return a running instance with one pump."""
    pump = PumpSnapshot(
        name="CSV",
        type="csv",
        state="running",
        delivered=1234,
        pending=5,
        lag_seconds=1.5,
        history=[0, 5, 10],
        write_buckets=[1, 2] + [0] * 10 + [3],
        write_seconds=4.5,
    )
    made = Snapshot(
        version="1.2.3",
        instance="here",
        started=1_000_000.0,
        ready=True,
        pumps=[pump],
        lists={"analytics-tyk-system-analytics": 7},
        claims=2,
        lost_records=1,
    )
    return msgspec.structs.replace(made, **changes)


@contextlib.contextmanager
def served(now: Snapshot, root: RootOptions | None = None) -> Iterator[int]:
    """Serve a snapshot; gives the port."""
    server = AdminServer(lambda: now, root or RootOptions(), port=0)
    server.start()
    try:
        yield server.port
    finally:
        server.close()


def get(
    port: int, path: str, method: str = "GET"
) -> tuple[http.client.HTTPResponse, bytes]:
    """Return answer and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer, answer.read()


def seen(port: int, path: str, method: str = "GET") -> tuple[int, bytes, str]:
    """Return status, body and content type."""
    answer, body = get(port, path, method)
    return answer.status, body, answer.headers.get("Content-Type", "")


def test_health_is_the_reference_s() -> None:
    """Status, type, body and the odd paths: as load balancers know them."""
    with served(snapshot(ready=False)) as port:
        ok = (200, b'{"status": "ok"}', "application/json")
        assert seen(port, "/health") == ok
        assert seen(port, "/health?x=1") == ok
        assert seen(port, "/hello") == ok
        for method in ("HEAD", "POST", "OPTIONS", "PUT"):
            assert seen(port, "/health", method) == (405, b"", "")
        for path in ("/health/", "/HEALTH", "/nothing", "/debug/pprof/"):
            assert seen(port, path) == NOT_FOUND
        answer, body = get(port, "//health")
        assert (answer.status, body) == (301, b"")
        assert answer.headers["Location"] == "/health"
        answer, _ = get(port, "/nothing")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in answer.headers


def test_a_configured_name_with_a_slash() -> None:
    """Then neither `health` nor `hello` answers."""
    root = RootOptions(health_check_endpoint_name="live/check")
    with served(snapshot(), root) as port:
        assert seen(port, "/live/check")[0] == 200
        assert seen(port, "/health") == NOT_FOUND
        assert seen(port, "/hello") == NOT_FOUND


def test_ready_says_why_not() -> None:
    """503 with every reason, and no secret among them."""
    with served(snapshot()) as port:
        assert seen(port, "/ready")[:2] == (200, b'{"status": "ready"}')
    reasons = ["Redis: redis://u:p@h is away", "pump CSV is retrying"]
    with served(snapshot(ready=False, reasons=reasons)) as port:
        status, body, _ = seen(port, "/ready")
    assert status == 503
    assert json.loads(body)["reasons"] == [
        "Redis: redis://***@h is away",
        "pump CSV is retrying",
    ]


def test_metrics_are_prometheus_text() -> None:
    """Counts per pump, buckets added up, list lengths."""
    with served(snapshot()) as port:
        _, body, kind = seen(port, "/metrics")
    lines = body.decode().splitlines()
    assert kind.startswith("text/plain; version=0.0.4")
    for line in (
        'tyk_pump_records_delivered_total{pump="CSV"} 1234.0',
        'tyk_pump_pump_running{pump="CSV",type="csv"} 1.0',
        'tyk_pump_redis_list_records{list="analytics-tyk-system-analytics"} 7.0',
        "tyk_pump_redis_up 1.0",
        "tyk_pump_records_lost_total 1.0",
        'tyk_pump_write_duration_seconds_bucket{le="0.01",pump="CSV"} 3.0',
        'tyk_pump_write_duration_seconds_bucket{le="+Inf",pump="CSV"} 6.0',
        'tyk_pump_write_duration_seconds_sum{pump="CSV"} 4.5',
        'tyk_pump_build_info{instance="here",version="1.2.3"} 1.0',
    ):
        assert line in lines


def test_the_status_page_is_complete_in_itself() -> None:
    """It needs no other host, and shows nothing as markup or secret."""
    now = snapshot(ready=False, reasons=["<script>alert(1)</script>"])
    now.pumps[0].last_error = "mongodb://u:secret@h <b>"
    with served(now) as port:
        answer, raw = get(port, "/")
    page = raw.decode()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "1,234" in page and "polyline" in page and "here" in page
    assert "<script>alert" not in page and "secret" not in page
    assert "http://" not in page and "https://" not in page
    assert "{{" not in page


def test_a_pump_without_history_has_a_page() -> None:
    """The first second of a process shows a flat line."""
    now = snapshot()
    now.pumps[0].history = []
    with served(now) as port:
        assert seen(port, "/")[0] == 200
        assert seen(port, "/", "HEAD")[1] == b""
        assert seen(port, "/", "POST")[0] == 405


def test_the_profiler_shows_threads_only_when_enabled() -> None:
    """Stacks of every thread now, or sampled; unknown profiles are said to be so."""
    with served(snapshot(), RootOptions(enable_http_profiler=True)) as port:
        assert b"profile" in seen(port, "/debug/pprof/")[1]
        assert b"MainThread" in seen(port, "/debug/pprof/threads")[1]
        assert b"MainThread;" in seen(port, "/debug/pprof/profile?seconds=0.02")[1]
        assert seen(port, "/debug/pprof/profile?seconds=x")[0] == 400
        assert seen(port, "/debug/pprof/cmdline")[:2] == (404, b"Unknown profile\n")


def test_a_taken_port_ends_the_start() -> None:
    """Running without health would look like being down."""
    with socket.create_server(("", 0)) as taken:
        server = AdminServer(snapshot, RootOptions(), port=taken.getsockname()[1])
        with pytest.raises(TykPumpError, match="cannot listen on port"):
            server.start()
        server.close()


def test_closing_frees_the_port_and_the_threads() -> None:
    """A second instance can follow at once."""
    before = threading.active_count()
    with served(snapshot()) as port:
        assert seen(port, "/health")[0] == 200
    assert threading.active_count() == before
    with pytest.raises(OSError, match="refused"):
        get(port, "/health")
