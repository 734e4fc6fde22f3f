"""The statsd pump: what its options do, what servers understand, what is lost."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import loaded, opened
from tests.servers.receiver import UdpReceiver, UnixReceiver
from tests.servers.statsd import BAD_LINES, Statsd
from tests.servers.telegraf import Telegraf
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.pumps.statsd import StatsdOptions, StatsdPump
from tyk_pump.record.analytics import BLANK_TIME, AnalyticsRecord, Latency

TIME = (1_741_183_629, 120_456_789)


@pytest.fixture
def udp() -> Iterator[UdpReceiver]:
    """Takes datagrams."""
    with UdpReceiver() as receiver:
        yield receiver


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[UnixReceiver]:
    """Takes datagrams on a unix socket."""
    with UnixReceiver(tmp_path / "statsd.sock") as receiver:
        yield receiver


def record(**fields: Any) -> AnalyticsRecord:
    """Return a record of some call."""
    values = {
        "method": "GET",
        "path": "/pets/42/",
        "response_code": 200,
        "api_name": "Petstore API",
        "ip_address": "203.0.113.9",
        "request_time": 37,
        "latency": Latency(total=36, upstream=30, gateway=6),
        "timestamp": TIME,
        "zone": "UTC",
    }
    return AnalyticsRecord(**{**values, **fields})


def batch(*records: AnalyticsRecord) -> Batch:
    """Return a batch of these."""
    return Batch("S", 0, "list", range(7, 7 + len(records)), records)


def sent(
    receiver: UnixReceiver, folder: Path, *records: AnalyticsRecord, **meta: Any
) -> list[str]:
    """Write records with a pump of these options, return the lines."""
    meta = {"fields": ["request_time"], **meta, "address": f"unix://{receiver.path}"}
    pump = opened(folder, "statsd", meta)
    try:
        pump.write(batch(*records))
    finally:
        pump.close()
    return receiver.lines


# Options


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({}, "address: missing"),
        ({"address": ""}, "address: '' is not host:port"),
        ({"address": "localhost"}, "address: 'localhost' is not host:port"),
        ({"address": "a:70000"}, "address: 'a:70000': there is no port 70000"),
        ({"address": "unix://"}, "address: 'unix://' has no path"),
        ({"address": "a:1", "counters": ["host"]}, "counters: 'host' is none of path"),
        ({"address": "a:1", "packet_size": -1}, "packet_size: "),
        ({"address": "a:1", "packet_size": 65_508}, "packet_size: "),
        ({"address": "a:1", "fields": "request_time"}, "fields: "),
    ],
)
def test_a_fault_is_named_by_its_path(
    meta: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    """The reference waits for ever for a bad address, and all other pumps with it."""
    (found,) = loaded(tmp_path, "statsd", meta).every_fault()
    assert found.startswith(f"pumps.x.meta.{fault}")


def test_without_meta_the_address_is_missing(tmp_path: Path) -> None:
    """The reference ends with a nil dereference there."""
    (found,) = loaded(tmp_path, "statsd", None).every_fault()
    assert found.startswith("pumps.x.meta.address: missing")


def test_only_what_is_sent_is_decoded() -> None:
    """Nothing at all without fields, which send nothing."""
    chosen = StatsdOptions(
        address="a:1",
        fields=["latency_total", "request_time", "response_code"],
        tags=["path", "host", "api_id", "path"],
    )
    read = {"latency", "request_time", "path", "method", "api_id"}
    assert set(StatsdPump(chosen).fields) == read
    assert StatsdPump(StatsdOptions(address="a:1", tags=["path"])).fields == ()
    counted = StatsdOptions(address="a:1", counters=["method"], tags=["method"])
    assert StatsdPump(counted).fields == ("method",)


def test_what_has_no_effect_is_warned_about(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The reference says nothing of any of it."""
    meta = {"address": "a:1", "fields": ["response_code"]}
    tags = ["host", "method", "time_stamp"]
    opened(tmp_path, "statsd", {**meta, "tags": tags}).close()
    said = [
        (entry.getMessage(), getattr(entry, "reason", None))
        for entry in caplog.records
        if entry.levelno == logging.WARNING
    ]
    assert said == [
        (
            "fields has names that are no timings, nothing is sent for them",
            "'response_code'",
        ),
        ("tags has unknown names, null stands for them", "'host'"),
        ("without separated_method null stands for a tag", "'method'"),
        ("the tag time_stamp makes a series of every second", None),
        ("no fields are set, nothing is sent", None),
    ]


def test_no_fields_send_nothing(unix: UnixReceiver, tmp_path: Path) -> None:
    """The server need not even be there."""
    assert sent(unix, tmp_path, record(), fields=[], tags=["path"]) == []


def test_names(unix: UnixReceiver, tmp_path: Path) -> None:
    """The field, then each tag behind a dot; the example of the contract."""
    lines = sent(
        unix,
        tmp_path,
        record(),
        fields=["request_time", "latency_gateway", "response_code"],
        tags=["path", "response_code", "api_name", "time_stamp", "oauth_id", "method"],
    )
    name = "get/pets/42.200.petstoreapi.2025-03-0514-07-09+0000utc..null"
    assert lines == [f"request_time.{name}:37|ms", f"latency_gateway.{name}:6|ms"]


def test_separated_method(unix: UnixReceiver, tmp_path: Path) -> None:
    """Then the method is a tag, and the path alone."""
    tags = ["method", "path", "ip_address"]
    lines = sent(unix, tmp_path, record(), tags=tags, separated_method=True)
    assert lines == ["request_time.get./pets/42.203.0.113.9:37|ms"]


def test_replace_dots(unix: UnixReceiver, tmp_path: Path) -> None:
    """A value is one level of the name then."""
    lines = sent(
        unix,
        tmp_path,
        record(api_version="v1.2"),
        tags=["ip_address", "api_version"],
        replace_dots=True,
    )
    assert lines == ["request_time.203_0_113_9.v1_2:37|ms"]


def test_counters(unix: UnixReceiver, tmp_path: Path) -> None:
    """What is no timing can be counted, by its value."""
    meta = {"fields": [], "counters": ["response_code", "method", "path"]}
    lines = sent(unix, tmp_path, record(api_id="a1"), tags=["api_id"], **meta)
    assert lines == [
        "response_code.200.a1:1|c",
        "method.get.a1:1|c",
        "path./pets/42.a1:1|c",
    ]
    unix.datagrams.clear()
    lines = sent(unix, tmp_path, record(), **{**meta, "fields": ["request_time"]})
    assert lines[:2] == ["request_time.:37|ms", "response_code.200:1|c"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/a%20b/50%/%d%!s", "/a%20b/50%/%d%!s"),
        ("100%%", "100%%"),
        ("2001:db8::1", "2001_db8__1"),
        ("a|b@0.1#c", "a_b_0.1_c"),
        ("one\ntwo\rthree\tfour\0", "one_two_three_four_"),
        ('say "hi" & <go>', "sayhi&<go>"),
        ("back\\slash", "back\\slash"),
        ("ÄÖ ΟΔΟΣ İ", "äöοδοσi"),
        ("bad\udcff\udcfe", "bad\ufffd\ufffd"),
    ],
)
def test_no_value_breaks_a_metric(
    value: str, shown: str, unix: UnixReceiver, tmp_path: Path
) -> None:
    """Nor is anything of it taken for a format verb, or escaped as in JSON."""
    lines = sent(unix, tmp_path, record(api_name=value), tags=["api_name"])
    assert lines == [f"request_time.{shown}:37|ms"]


def test_a_blank_time(unix: UnixReceiver, tmp_path: Path) -> None:
    """One that `ignore_fields` has set is shown in UTC."""
    blank = record(timestamp=BLANK_TIME, zone="Asia/Kathmandu")
    lines = sent(unix, tmp_path, blank, tags=["time_stamp"])
    assert lines == ["request_time.0001-01-0100-00-00+0000utc:37|ms"]


def test_values_beyond_the_kept_ones(unix: UnixReceiver, tmp_path: Path) -> None:
    """More series than are remembered, and long ones, are as right as others."""
    records = [
        record(path=f"/{number}", request_time=number) for number in range(12_000)
    ]
    records += [record(path="/" + "x" * 5000)] * 2
    lines = sent(unix, tmp_path, *records, *records[:5], tags=["path"])
    wanted = [f"request_time.get/{n}:{n}|ms" for n in range(12_000)]
    wanted += ["request_time.get/" + "x" * 5000 + ":37|ms"] * 2 + wanted[:5]
    assert lines == wanted


# Datagrams


def test_lines_share_datagrams(unix: UnixReceiver, tmp_path: Path) -> None:
    """As many as fit, and no line feed at the end; the lines of a record together."""
    fields = ["request_time", "latency_total"]
    sent(unix, tmp_path, *[record()] * 5, fields=fields, packet_size=84)
    pair = b"request_time.:37|ms\nlatency_total.:36|ms"
    assert len(pair) == 40
    assert unix.datagrams == [pair + b"\n" + pair, pair + b"\n" + pair, pair]


def test_one_line_per_datagram(unix: UnixReceiver, tmp_path: Path) -> None:
    """As the reference does."""
    fields = ["request_time", "latency_total"]
    sent(unix, tmp_path, *[record()] * 2, fields=fields, packet_size=1)
    assert unix.datagrams == [b"request_time.:37|ms", b"latency_total.:36|ms"] * 2


def test_many_lines_of_a_record(unix: UnixReceiver, tmp_path: Path) -> None:
    """They are split where they do not fit into one."""
    fields = ["request_time", "latency_total", "latency_upstream"]
    sent(unix, tmp_path, record(), fields=fields, packet_size=40)
    assert unix.datagrams == [
        b"request_time.:37|ms\nlatency_total.:36|ms",
        b"latency_upstream.:30|ms",
    ]


def test_over_udp_a_datagram_fits_the_path(udp: UdpReceiver, tmp_path: Path) -> None:
    """1432 bytes at most; one long line goes alone."""
    meta = {"address": f"127.0.0.1:{udp.port}", "fields": ["request_time"]}
    pump = opened(tmp_path, "statsd", {**meta, "tags": ["path"]})
    records = [record(path="/" + "p" * 80)] * 40 + [record(path="/" + "q" * 3000)]
    pump.write(batch(*records))
    pump.close()
    *packed, long = udp.take(4)
    assert [data.count(b"\n") + 1 for data in packed] == [13, 13, 13, 1][: len(packed)]
    assert len(long) > 3000 and all(len(data) <= 1432 for data in packed)


def test_a_line_that_no_datagram_takes(unix: UnixReceiver, tmp_path: Path) -> None:
    """It is a dead letter with the reason; nothing else of its record is sent."""
    with pytest.raises(RejectedRecords, match="do not fit a datagram") as caught:
        sent(
            unix,
            tmp_path,
            record(),
            record(api_name="x" * 70_000),
            record(),
            fields=["request_time"],
            counters=["api_name"],
        )
    assert [*caught.value.rejected] == [1] and caught.value.pending == []
    assert unix.lines.count("request_time.:37|ms") == 2


# Failure


def test_a_unix_socket_that_vanishes_and_returns(
    unix: UnixReceiver, tmp_path: Path
) -> None:
    """What it has taken is not sent again, what it has not is pending."""
    meta = {"address": f"unix://{unix.path}", "fields": ["request_time"]}
    pump = opened(tmp_path, "statsd", {**meta, "packet_size": 1})
    records = [record(request_time=number) for number in range(100)]
    with unix.leaving(after=10):
        with pytest.raises(TransientError, match=str(unix.path)) as caught:
            pump.write(batch(*records))
        pending = caught.value.pending
        assert pending and pending[0] >= 10 and pending[-1] == 99
        unix.close()
        with pytest.raises(TransientError, match="refused"):
            pump.write(batch(*records).part(pending))
        unix.path.unlink()
        with pytest.raises(TransientError, match="No such file"):
            pump.write(batch(*records).part(pending))
    pump.write(batch(*records).part(pending))
    pump.close()
    assert unix.lines == [f"request_time.:{number}|ms" for number in range(100)]


def test_a_full_unix_socket_is_waited_for(tmp_path: Path) -> None:
    """Nobody reads: that is a failure that passes, with what is left."""
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(path))
        pump = opened(
            tmp_path,
            "statsd",
            {"address": f"unix://{path}", "fields": ["request_time"], "packet_size": 1},
        )
        records = [record(request_time=number) for number in range(30)]
        got = 0
        left = list(range(30))
        while left:
            try:
                pump.write(batch(*records).part(left))
                left = []
            except TransientError as exc:
                assert "queue is full" in exc.reason
                assert exc.pending is not None
                left = [left[at] for at in exc.pending]
            end.settimeout(0)
            while got < 30 - len(left):
                assert end.recv(100) == f"request_time.:{got}|ms".encode()
                got += 1
        pump.close()


def test_a_udp_server_that_is_away(udp: UdpReceiver, tmp_path: Path) -> None:
    """A refusal comes back with a later datagram, so the batch is sent again."""
    meta = {"address": f"127.0.0.1:{udp.port}", "fields": ["request_time"]}
    pump = opened(tmp_path, "statsd", meta)
    pump.write(batch(record()))
    udp.take(1)
    udp.close()
    records = [record(request_time=number) for number in range(500)]
    for some in (records, records[:1]):
        with pytest.raises(TransientError, match="Connection refused") as caught:
            pump.write(batch(*some))
        assert caught.value.pending is None
    udp.restart()
    pump.write(batch(record(request_time=1)))
    assert udp.take(2)[1] == b"request_time.:1|ms"
    pump.close()


def test_a_refusal_beside_a_dead_letter(udp: UdpReceiver, tmp_path: Path) -> None:
    """The one is sent again, the other is not."""
    meta = {"address": f"127.0.0.1:{udp.port}", "fields": ["request_time"]}
    pump = opened(tmp_path, "statsd", {**meta, "tags": ["path"]})
    udp.close()
    with pytest.raises(TransientError, match="Connection refused") as caught:
        pump.write(batch(record(path="x" * 70_000), record()))
    assert [*caught.value.rejected] == [0] and caught.value.pending is None
    pump.close()


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    """It is tried again; the other pumps go on meanwhile."""
    meta = {"address": "no.such.invalid:8125", "fields": ["request_time"]}
    pump = opened(tmp_path, "statsd", meta)
    with pytest.raises(TransientError, match=r"no\.such\.invalid:8125"):
        pump.write(batch(record()))
    with pytest.raises(TransientError, match=r"no\.such\.invalid:8125"):
        pump.probe()
    pump.close()


def test_probe(udp: UdpReceiver, unix: UnixReceiver, tmp_path: Path) -> None:
    """One line says what was found, or that nothing is there."""
    pump = opened(tmp_path, "statsd", {"address": f"127.0.0.1:{udp.port}"})
    assert pump.probe() == f"127.0.0.1:{udp.port} over udp, which nobody confirms"
    pump.close()
    pump = opened(tmp_path, "statsd", {"address": f"unix://{unix.path}"})
    assert pump.probe() == f"unix://{unix.path} takes datagrams"
    unix.close()
    with pytest.raises(TransientError, match="Connection refused"):
        pump.probe()
    pump.close()


# Servers


def test_statsd_understands_every_line(statsd: Statsd, tmp_path: Path) -> None:
    """Timings and counters of values that broke the reference's lines."""
    meta = {
        "address": f"127.0.0.1:{statsd.port}",
        "fields": ["request_time", "latency_upstream"],
        "tags": ["path", "api_name"],
        "counters": ["response_code"],
    }
    pump = opened(tmp_path, "statsd", meta)
    odd = record(path="/a:b|c@d#e/50%d", api_name="x\ny")
    pump.write(batch(*[record(request_time=n) for n in range(50)], odd))
    pump.close()
    timers = statsd.timers(at_least=102)
    assert {name: len(values) for name, values in timers.items()} == {
        "request_time.get-pets-42.petstoreapi": 50,
        "latency_upstream.get-pets-42.petstoreapi": 50,
        "request_time.get-a_b_c_d_e-50d.x_y": 1,
        "latency_upstream.get-a_b_c_d_e-50d.x_y": 1,
    }
    found = sorted(timers["request_time.get-pets-42.petstoreapi"])
    assert found == list(range(50))
    counters = statsd.counters()
    assert counters.get(BAD_LINES, 0) == 0
    assert counters["response_code.200.get-pets-42.petstoreapi"] == 50


def test_statsd_goes_and_returns(statsd: Statsd, tmp_path: Path) -> None:
    """What its machine refuses meanwhile arrives after its return."""
    meta = {"address": f"127.0.0.1:{statsd.port}", "fields": ["request_time"]}
    pump = opened(tmp_path, "statsd", meta)
    statsd.kill()
    records = [record(request_time=n) for n in range(200)]
    with pytest.raises(TransientError, match="refused"):
        pump.write(batch(*records))
    statsd.restart()
    pump.write(batch(*records))
    pump.close()
    (values,) = statsd.timers(at_least=200).values()
    assert sorted(values) == list(range(200))


def test_telegraf_understands_every_line(telegraf: Telegraf, tmp_path: Path) -> None:
    """Another server of the same protocol."""
    meta = {
        "address": f"127.0.0.1:{telegraf.statsd}",
        "fields": ["request_time"],
        "tags": ["api_name"],
    }
    pump = opened(tmp_path, "statsd", meta)
    pump.write(batch(*[record(api_name=f"api {n}:{n}") for n in range(40)]))
    pump.close()
    found = {metric["name"] for metric in telegraf.metrics(at_least=40)}
    assert found >= {f"request_time.api{n}_{n}" for n in range(40)}
