"""What we say of ourselves over StatsD: names, numbers, datagrams, and no harm done."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.daemon.harness import Daemon, push, settled, wait_for
from tests.servers import free_port
from tests.servers.receiver import UdpReceiver
from tests.servers.redis import RedisServer
from tyk_pump.config.load import Config, load
from tyk_pump.config.root import RootOptions
from tyk_pump.coordinator import instrumentation, statsd_sink
from tyk_pump.coordinator.instrumentation import Instrumentation
from tyk_pump.coordinator.statsd_sink import Sink, milliseconds, packed, shortened
from tyk_pump.errors import ConfigError
from tyk_pump.source.claims import Stream
from tyk_pump.worker.outcome import DeadRecord, Outcome

LOG = "tyk_pump.coordinator.statsd_sink"


@pytest.fixture
def server() -> Iterator[UdpReceiver]:
    """A StatsD server."""
    with UdpReceiver() as found:
        yield found


def sink(server: UdpReceiver, prefix: str = "") -> Sink:
    """Return a sink that has no gauges."""
    return Sink("127.0.0.1", server.port, prefix, lambda sink: None)


def lines(server: UdpReceiver) -> list[str]:
    """Return every line that has come; the server ends with that."""
    server.close()
    return b"".join(server.datagrams).decode().splitlines()


# Lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00"),
        (0.00058, "0.58"),
        (0.009994, "9.99"),
        (0.009999, "10.00"),
        (0.01, "10"),
        (0.0199, "19"),
        (61.5, "61500"),
    ],
)
def test_a_timing_is_in_milliseconds(seconds: float, text: str) -> None:
    """With two places below ten of them, whole from there on."""
    assert milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (557722.0, "557722.00"),
        (0.1, "0.10"),
        (0.05, "0.05"),
        (0.0625, "0.0625"),
        (0.0, "0"),
        (-0.5, "-0.50"),
        (1e-7, "0.0000001"),
    ],
)
def test_a_gauge_has_two_places(value: float, text: str) -> None:
    """Small ones have as many as they need."""
    assert shortened(value) == text


def test_every_metric_is_sent_twice(server: UdpReceiver) -> None:
    """Under its event, and under its job and event; odd characters become `$`."""
    made = sink(server, "a b/c:d")
    made.timing("Job", "purge_time_Dummy Pump", 0.02)
    made.gauge("Job", "päuses", 1)
    made.close()
    assert lines(server) == [
        "a$b$c$d.purge_time_Dummy$Pump:20|ms",
        "a$b$c$d.Job.purge_time_Dummy$Pump:20|ms",
        "a$b$c$d.p$uses:1.00|g",
        "a$b$c$d.Job.p$uses:1.00|g",
    ]


def test_what_a_moment_counts_is_one_line(
    server: UdpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server adds up whatever comes; a hundred thousand lines would be the same."""
    monkeypatch.setattr(statsd_sink, "FLUSH_SECONDS", 60.0)
    made = sink(server)
    for _ in range(5):
        made.count("Job", "record", 2)
    made.close()
    assert lines(server) == ["record:10|c", "Job.record:10|c"]


def test_lines_share_datagrams() -> None:
    """Up to 1440 bytes; a line that is longer is dropped."""
    line = f"{'x' * 99}\n"
    found = list(packed([*[line] * 14, "y" * 39 + "\n", line, "z" * 1440 + "\n"]))
    assert [len(data) for data in found] == [1440, 100]
    assert b"".join(found).count(b"\n") == 16


# Trouble


def test_a_server_that_is_away_is_counted_and_logged_once(
    server: UdpReceiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And what is sent when it is back arrives, although an error came first."""
    monkeypatch.setattr(statsd_sink, "FLUSH_SECONDS", 0.0)
    caplog.set_level(logging.INFO, LOG)
    made = sink(server)
    server.close()
    number = 0
    while made.errors < 3:
        made.count("Job", "lost", 1)
        number += 1
        assert number < 1_000_000
    wait_for("an end of what is lost", lambda: not made._lines and not made._counts)
    server.restart()
    made.count("Job", "found", 1)
    made.close()
    assert "found:1|c" in lines(server)
    (record,) = [r for r in caplog.records if r.name == LOG]
    assert record.getMessage() == "StatsD does not take our own metrics"


def test_a_name_server_that_hangs_holds_up_nobody(
    server: UdpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines wait, up to a limit; the loop never does, and neither does the end."""
    monkeypatch.setattr(statsd_sink, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(statsd_sink, "MOST_LINES", 10)
    monkeypatch.setattr(statsd_sink, "_CLOSE_SECONDS", 0.01)
    hanging, go_on = threading.Event(), threading.Event()

    def hang(data: bytes) -> None:
        hanging.set()
        go_on.wait(30)

    made = sink(server)
    monkeypatch.setattr(made._datagrams, "send", hang)
    made.timing("Job", "first", 1)
    assert hanging.wait(30)
    for _ in range(20):
        made.timing("Job", "more", 1)
    assert (len(made._lines), made.errors) == (10, 15)
    made.close()
    go_on.set()
    made._thread.join(30)


def test_a_name_without_an_address_is_the_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The start is refused, as the reference does."""

    def unknown(*args: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=r"statsd_connection_string: .*not known"):
        Sink("nowhere", 8125, "", lambda sink: None)


@pytest.mark.parametrize(
    ("place", "faults", "warnings"),
    [
        ("localhost:8125", [], []),
        ("[::1]:8125", [], []),
        ("", [], ["TYK_INSTRUMENTATION: no metrics are sent without statsd_"]),
        ("localhost", ["statsd_connection_string: 'localhost' is no host:port"], []),
        ("localhost:x", ["statsd_connection_string: 'localhost:x' is no "], []),
    ],
)
def test_the_address_counts_when_it_is_wanted(
    place: str, faults: list[str], warnings: list[str]
) -> None:
    """Without TYK_INSTRUMENTATION=1 nobody looks at it."""
    wanted = {"TYK_INSTRUMENTATION": "1", "TYK_PMP_STATSDCONNECTIONSTRING": place}
    pump = {"TYK_PMP_PUMPS_DUMMY_TYPE": "dummy"}
    found = load(None, {**wanted, **pump})
    for line, expected in zip(found.faults, faults, strict=True):
        assert line.startswith(expected)
    for line, expected in zip(found.warnings, warnings, strict=True):
        assert line.startswith(expected)
    calm = load(None, {**wanted, **pump, "TYK_INSTRUMENTATION": "true"})
    assert (calm.faults, calm.warnings, calm.instrumentation) == ([], [], False)
    assert instrumentation.start(calm) is None


# What is said


class Told:
    """A sink in memory."""

    def __init__(self) -> None:
        self.errors = 0
        self.records = 0
        self.timings: list[tuple[str, float]] = []

    def count(self, job: str, event: str, number: int) -> None:
        assert (job, event) == ("PumpRecordsPurge", "record")
        self.records += number

    def timing(self, job: str, event: str, seconds: float) -> None:
        assert job == "PumpRecordsPurge"
        self.timings.append((event, seconds))


def reporting() -> tuple[Instrumentation, Told]:
    """Return what reports, and where to."""
    told: Any = Told()
    return Instrumentation(told), told


def worker(kind: str, name: str = "P", **how: Any) -> Any:
    """Return a worker as far as it matters here."""
    config = SimpleNamespace(type=kind, name=name)
    position = how.pop("position", 0)
    lane = SimpleNamespace(settled=lambda stream: position)
    return SimpleNamespace(config=config, lane=lane, state="running", **how)


def done(first: int, end: int, stream: str = "S", **how: Any) -> Outcome:
    """Return a settled frame."""
    values: dict[str, Any] = {
        "delivered": end - first,
        "filtered": 0,
        "dead": (),
        "seconds": 0.5,
        "attempts": 1,
        "list": "analytics",
        "codec": "msgpack",
        **how,
    }
    return Outcome(stream=stream, first=first, end=end, **values)


def test_a_record_is_counted_with_the_first_pump_that_settles_it() -> None:
    """Whatever the frames, the lanes and the order of the pumps."""
    said, told = reporting()
    fast, slow = worker("csv"), worker("mongo")
    said.settled(fast, done(0, 2500))
    said.settled(slow, done(0, 100))
    said.settled(slow, done(100, 2600))
    assert told.records == 2600
    said.settled(fast, done(3000, 4000))  # lane 1 of 2 is ahead of lane 0
    said.settled(fast, done(2500, 3000))
    assert told.records == 4000
    said.settled(fast, done(0, 10, stream="T"))
    assert told.records == 4010


def test_bytes_that_are_no_record_do_not_count() -> None:
    """The pump's own refusals were records."""
    said, told = reporting()
    dead = [
        DeadRecord(1, "S:1", "not a record: nonsense", b""),
        DeadRecord(2, "S:2", "mapping fault", b""),
    ]
    said.settled(worker("csv"), done(0, 5, dead=dead))
    said.settled(worker("mongo"), done(0, 5, dead=dead))
    assert told.records == 4


def test_marks_do_not_pile_up() -> None:
    """What all pumps have passed is forgotten, and so are streams that are gone."""
    said, told = reporting()
    said.settled(worker("csv"), done(0, 5000))
    said.settled(worker("csv"), done(0, 10, stream="T"))
    said.purged(0.0, [Stream(id="S", own=True, end=5000, trimmed=4100)])
    assert said._counted._marks == {"S": {4: 5000}}
    assert told.records == 5010


def test_a_write_is_timed_under_the_reference_name() -> None:
    """The write's own time; where everything is filtered there was none."""
    said, told = reporting()
    said.settled(worker("sql-graph"), done(0, 5))
    said.settled(worker("sql-graph"), done(5, 9, attempts=0))
    assert told.timings == [("purge_time_Graph SQL Pump", 0.5)]


def test_uptime_reports_are_left_out() -> None:
    """As the reference leaves them out."""
    said, told = reporting()
    said.settled(worker("uptime-sql", "uptime"), done(0, 5))
    assert (told.records, told.timings) == (0, [])


def test_a_purge_lasts_until_every_pump_has_settled_it() -> None:
    """What comes meanwhile is of the next; a pump that cannot start is no part."""
    said, told = reporting()
    stream = Stream(id="S", own=True, end=10)
    uptime = Stream(id="U", own=True, uptime=True, end=99)
    said.look(1.0, [stream], [])
    said.purged(1.0, [stream, uptime])
    stream.end = 20
    broken = worker("csv", position=0)
    broken.state = "failed"
    said.look(2.0, [stream, uptime], [worker("csv", position=9), broken])
    said.purged(3.0, [stream, uptime])
    assert told.timings == []
    said.look(4.0, [stream, uptime], [worker("csv", position=10), broken])
    assert told.timings == [("purge_time_all", 3.0)]
    said.look(5.0, [stream, uptime], [])
    said.purged(6.0, [uptime])
    said.look(6.5, [uptime], [worker("csv", position=20)])
    assert told.timings[1:] == [("purge_time_all", 0.5)]


def test_collections_of_garbage_are_gauges(server: UdpReceiver) -> None:
    """Five quantiles at once and every few seconds; nobody listens afterwards."""
    root = RootOptions(
        statsd_connection_string=f"127.0.0.1:{server.port}", statsd_prefix="tyk"
    )
    said = instrumentation.start(Config(root=root, pumps=[], instrumentation=True))
    assert said is not None
    gc.collect()
    instrumentation._pauses.look(said._sink)
    said.close()
    found = dict(line.split(":") for line in lines(server))
    names = [f"pauses_quantile_{name}" for name in ("min", "25", "50", "75", "max")]
    assert list(found) == [
        f"tyk.{job}{name}" for name in names for job in ("", "GCActivity.")
    ]
    values = [float(found[f"tyk.{name}"].partition("|")[0]) for name in names]
    assert values == sorted(values) and values[-1] > 0
    assert instrumentation._pauses._heard not in gc.callbacks


# The command


def test_a_running_pump_reports(
    tmp_path: Path, redis_server: RedisServer, server: UdpReceiver
) -> None:
    """Records, writes and purges; an error of the server stands in /metrics."""
    client = redis_server.client()
    pumps = {"a": {"type": "dummy"}, "b": {"type": "csv"}}
    pumps["b"]["meta"] = {"csv_dir": str(tmp_path / "csv")}  # type: ignore[assignment]
    with Daemon(
        tmp_path / "pump",
        redis_server.port,
        pumps,
        environment={"TYK_INSTRUMENTATION": "1"},
        statsd_connection_string=f"127.0.0.1:{server.port}",
    ) as daemon:
        daemon.start().wait_ready()
        push(client, [f"n{number}" for number in range(50)])
        wait_for("all settled", lambda: settled(client))
        checked = daemon.command("check").stdout
        assert f"statsd: 127.0.0.1:{server.port} over udp, which nobody" in checked
        _, text = daemon.get("/metrics")
        assert "tyk_pump_statsd_errors_total 0.0" in text
        assert daemon.stop() == 0
    client.close()
    found = lines(server)
    records = [line for line in found if line.startswith("record:")]
    assert sum(int(line.split(":")[1].split("|")[0]) for line in records) == 50
    names = {line.split(":")[0] for line in found}
    assert {"purge_time_all", "purge_time_Dummy$Pump", "purge_time_CSV$Pump"} <= names


def test_demo_mode_has_gauges_only(
    tmp_path: Path, redis_server: RedisServer, server: UdpReceiver
) -> None:
    """As the reference's."""
    with Daemon(
        tmp_path,
        redis_server.port,
        {"dummy": {"type": "dummy"}},
        environment={"TYK_INSTRUMENTATION": "1", "TYK_PMP_BUILDDEMODATA": "org"},
        statsd_connection_string=f"127.0.0.1:{server.port}",
    ) as daemon:
        daemon.start()
        assert daemon.process is not None and daemon.process.wait(60) == 0
    names = {line.split(":")[0].rpartition(".")[2] for line in lines(server)}
    assert {name.rpartition("_")[0] for name in names} == {"pauses_quantile"}


def test_no_address_refuses_the_start(tmp_path: Path) -> None:
    """Exit code 2, with the option's name."""
    with Daemon(
        tmp_path,
        free_port(),
        {"dummy": {"type": "dummy"}},
        environment={"TYK_INSTRUMENTATION": "1"},
        statsd_connection_string="no-such-host.invalid:8125",
    ) as daemon:
        daemon.start()
        assert daemon.process is not None and daemon.process.wait(60) == 2
        assert "statsd_connection_string: no-such-host.invalid" in daemon.tail()
