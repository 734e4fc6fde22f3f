"""The dogstatsd pump: what its options do, what an agent understands, what is lost."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import loaded, opened
from tests.servers.receiver import UdpReceiver, UnixReceiver
from tests.servers.telegraf import Telegraf
from tyk_pump.config.load import load
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps import dogstatsd
from tyk_pump.pumps.dogstatsd import TAGS, DogstatsdOptions, DogstatsdPump
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord

PREFIX = "TYK_PMP_PUMPS_DOGSTATSD_META"


@pytest.fixture
def udp() -> Iterator[UdpReceiver]:
    """Takes datagrams."""
    with UdpReceiver() as receiver:
        yield receiver


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[UnixReceiver]:
    """Takes datagrams on a unix socket."""
    with UnixReceiver(tmp_path / "dsd.sock") as receiver:
        yield receiver


def record(**fields: Any) -> AnalyticsRecord:
    """Return the record of the contract's example."""
    values = {
        "path": "/pets/42/",
        "method": "GET",
        "response_code": 200,
        "api_version": "Default",
        "api_name": "Petstore API",
        "api_id": "b605a6f0",
        "org_id": "5e9d9544",
        "track_path": True,
        "request_time": 37,
    }
    return AnalyticsRecord(**{**values, **fields})


def batch(*records: AnalyticsRecord) -> Batch:
    """Return a batch of these."""
    return Batch("S", 0, "list", range(7, 7 + len(records)), records)


def sent(
    receiver: UnixReceiver, folder: Path, *records: AnalyticsRecord, **meta: Any
) -> list[str]:
    """Write records with a pump of these options, return the messages."""
    pump = opened(folder, "dogstatsd", {**meta, "address": f"unix://{receiver.path}"})
    try:
        pump.write(batch(*records))
    finally:
        pump.close()
    return receiver.lines


def options(
    folder: Path, meta: dict[str, Any] | None, environ: dict[str, str]
) -> tuple[DogstatsdOptions, list[str]]:
    """Return the options that a file and an environment make, and the faults."""
    section = {"type": "dogstatsd", **({} if meta is None else {"meta": meta})}
    path = folder / "pump.conf"
    path.write_text(json.dumps({"pumps": {"dogstatsd": section}}))
    config = load(str(path), environ)
    return config.pumps[0].options, config.every_fault()


# Options


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({}, "address: missing; DD_AGENT_HOST is not set either"),
        ({"address": "a:b"}, "address: 'a:b' is not host:port"),
        ({"address": "unix://"}, "address: 'unix://' has no path"),
        ({"agent_host": "a", "agent_port": "x"}, "agent_host: 'a:x' is not host:port"),
        ({"address": "a", "tags": ["path", "host"]}, "tags: undefined tag 'host'"),
        ({"address": "a", "namespace": "a b"}, "namespace: has a space or one of"),
        ({"address": "a", "namespace": "a:b"}, "namespace: has a space or one of"),
        ({"address": "a", "sample_rate": -0.1}, "sample_rate: "),
        ({"address": "a", "sample_rate": "half"}, "sample_rate: "),
        ({"address": "a", "buffered_max_messages": -1}, "buffered_max_messages: "),
        ({"address": "a", "packet_size": 70_000}, "packet_size: "),
    ],
)
def test_a_fault_is_named_by_its_path(
    meta: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    """An unknown tag loses every batch of the reference, a negative rate all."""
    (found,) = loaded(tmp_path, "dogstatsd", meta).every_fault()
    assert found.startswith(f"pumps.x.meta.{fault}")


def test_without_meta_the_agent_is_where_the_environment_says(tmp_path: Path) -> None:
    """The reference ends with a nil dereference there."""
    environ = {"DD_AGENT_HOST": "10.0.0.1", "DD_DOGSTATSD_PORT": "9125"}
    found, faults = options(tmp_path, None, environ)
    assert faults == [] and found.place() == "10.0.0.1:9125"


@pytest.mark.parametrize(
    ("meta", "environ", "place"),
    [
        ({"address": "agent"}, {}, "agent:8125"),
        ({"address": "agent"}, {"DD_DOGSTATSD_PORT": "9125"}, "agent:8125"),
        ({"address": "agent:1"}, {"DD_AGENT_HOST": "other"}, "agent:1"),
        ({}, {"DD_AGENT_HOST": "agent"}, "agent:8125"),
        ({"agent_host": "a"}, {"DD_AGENT_HOST": "b", "DD_DOGSTATSD_PORT": "2"}, "a:2"),
        ({}, {"DD_AGENT_HOST": "unix:///d.sock"}, "unix:///d.sock"),
        ({"address": "unixgram:///d.sock"}, {}, "unixgram:///d.sock"),
        ({"address": "[::1]:8125"}, {}, "[::1]:8125"),
        ({}, {f"{PREFIX}_ADDRESS": "e:3"}, "e:3"),
    ],
)
def test_where_the_agent_is(
    meta: dict[str, Any], environ: dict[str, str], place: str, tmp_path: Path
) -> None:
    """The address, else what the agent's own variables say."""
    found, faults = options(tmp_path, meta, environ)
    assert faults == [] and found.place() == place


def test_the_environment_names_all_options(tmp_path: Path) -> None:
    """By the names of the reference."""
    environ = {
        f"{PREFIX}_ADDRESS": "a:1",
        f"{PREFIX}_NAMESPACE": "ns",
        f"{PREFIX}_SAMPLERATE": "0.5",
        f"{PREFIX}_ASYNCUDS": "true",
        f"{PREFIX}_ASYNCUDSWRITETIMEOUT": "3",
        f"{PREFIX}_BUFFERED": "false",
        f"{PREFIX}_BUFFEREDMAXMESSAGES": "9",
        f"{PREFIX}_TAGS": "path,method",
    }
    found, faults = options(tmp_path, {}, environ)
    assert faults == []
    assert found == DogstatsdOptions(
        address="a:1",
        namespace="ns",
        sample_rate=0.5,
        async_uds=True,
        async_uds_write_timeout_seconds=3.0,
        buffered=False,
        buffered_max_messages=9,
        tags=["path", "method"],
    )


def test_tags_of_the_environment(unix: UnixReceiver, tmp_path: Path) -> None:
    """Those of the agent's variables come first, and cannot end a tag either."""
    environ = {
        "DD_ENTITY_ID": "pod-1",
        "DD_ENV": "prod,eu|1",
        "DD_SERVICE": "50%d",
        "DD_VERSION": "1.2\n",
    }
    meta = {"address": f"unix://{unix.path}", "tags": ["method"]}
    found, faults = options(tmp_path, meta, environ)
    assert faults == []
    pump = DogstatsdPump(found)
    pump.open()
    pump.write(batch(record()))
    pump.close()
    assert unix.lines == [
        "default.request_time:37|h|#dd.internal.entity_id:pod-1,env:prod_eu_1,"
        "service:50%d,version:1.2,tyk-pump,method:GET"
    ]


def test_only_what_is_sent_is_decoded() -> None:
    """Nine fields and the time of the request, or fewer."""
    assert DogstatsdPump.fields == ("request_time", *TAGS.values())
    chosen = DogstatsdOptions(address="a", tags=["tracked", "path", "path"])
    assert set(DogstatsdPump(chosen).fields) == {"request_time", "track_path", "path"}


def test_it_says_how_it_is_set(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """In the lines that operators know from the reference."""
    caplog.set_level(logging.INFO, "tyk_pump")
    meta = {"address": "a:1", "namespace": "pump", "sample_rate": 0.999}
    more = {"async_uds": True, "async_uds_write_timeout_seconds": 2}
    opened(tmp_path, "dogstatsd", {**meta, **more, "buffered_max_messages": 32}).close()
    assert [entry.getMessage() for entry in caplog.records] == [
        "namespace: pump.",
        "sample_rate: 99%",
        "buffered: true, max_messages: 32",
        "async_uds: true, write_timeout: 2s",
    ]


# Messages


def test_the_default_tags(unix: UnixReceiver, tmp_path: Path) -> None:
    """The example of the contract; the OAuth id only where there is one."""
    first, second = sent(
        unix,
        tmp_path,
        record(),
        record(oauth_id="o1", track_path=False, api_name=""),
        namespace="pump",
    )
    assert first == (
        "pump.request_time:37|h|#tyk-pump,path:/pets/42/,method:GET,response_code:200,"
        "api_version:Default,api_name:Petstore API,api_id:b605a6f0,org_id:5e9d9544,"
        "tracked:true"
    )
    assert second.endswith(
        ",api_name:,api_id:b605a6f0,org_id:5e9d9544,tracked:false,oauth_id:o1"
    )


def test_chosen_tags(unix: UnixReceiver, tmp_path: Path) -> None:
    """In their order, repeated where they are; slashes at a path's end are cut."""
    tags = ["oauth_id", "path", "method", "path"]
    lines = sent(unix, tmp_path, record(path="/a//"), tags=tags)
    assert lines == ["default.request_time:37|h|#tyk-pump,path:/a,method:GET,path:/a"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a,b|c#d", "a_b_c#d"),
        ("one\ntwo", "onetwo"),
        ("50%d%s%%", "50%d%s%%"),
        ("\0NUL", "\0NUL"),
        ("Ü ✓", "Ü ✓"),
    ],
)
def test_no_value_ends_a_tag(
    value: str, shown: str, unix: UnixReceiver, tmp_path: Path
) -> None:
    """Nor the message, nor is anything in it a format verb."""
    lines = sent(unix, tmp_path, record(api_name=value), tags=["api_name", "method"])
    assert lines == [f"default.request_time:37|h|#tyk-pump,api_name:{shown},method:GET"]


def test_numbers(unix: UnixReceiver, tmp_path: Path) -> None:
    """Zero and less are sent, and the largest is exact."""
    values = [0, -5, 2**53 + 1, 2**63 - 1]
    records = [record(request_time=value) for value in values]
    lines = sent(unix, tmp_path, *records, tags=["method"])
    assert [line.split(":")[1].partition("|")[0] for line in lines] == [
        *map(str, values)
    ]


@pytest.mark.parametrize("rate", [0, 1, 1.5])
def test_all_are_sent(rate: float, unix: UnixReceiver, tmp_path: Path) -> None:
    """0 means 1, and no more than all can be sent."""
    lines = sent(unix, tmp_path, *[record()] * 100, tags=["method"], sample_rate=rate)
    assert lines == ["default.request_time:37|h|#tyk-pump,method:GET"] * 100


def test_a_sample(
    unix: UnixReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the records, each with the rate; the others count as delivered."""
    chances = iter([0.1, 0.3, 0.25, 0.2])
    monkeypatch.setattr(dogstatsd, "random", lambda: next(chances))
    records = [record(request_time=number) for number in range(4)]
    lines = sent(unix, tmp_path, *records, tags=["method"], sample_rate=0.25)
    assert lines == [
        "default.request_time:0|h|@0.25|#tyk-pump,method:GET",
        "default.request_time:3|h|@0.25|#tyk-pump,method:GET",
    ]


def test_positions_of_a_sample(
    unix: UnixReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused or pending is named by its place in the whole batch."""
    chances = iter([0.9, 0.1, 0.9, 0.1, 0.9, 0.1])
    monkeypatch.setattr(dogstatsd, "random", lambda: next(chances))
    meta = {"address": f"unix://{unix.path}", "sample_rate": 0.5, "buffered": False}
    pump = opened(tmp_path, "dogstatsd", meta)
    long = record(path="x" * 9000)
    with pytest.raises(RejectedRecords) as refused:
        pump.write(batch(record(), record(), long, long))
    assert [*refused.value.rejected] == [3] and refused.value.pending == []
    unix.close()
    with pytest.raises(TransientError) as away:
        pump.write(batch(record(), record()))
    assert away.value.pending == [1]
    pump.close()


def test_a_small_rate_has_no_exponent(unix: UnixReceiver, tmp_path: Path) -> None:
    """As the agent expects numbers."""
    rate = {"sample_rate": 0.00001, "tags": ["method"]}
    pump = opened(tmp_path, "dogstatsd", {**rate, "address": f"unix://{unix.path}"})
    assert isinstance(pump, DogstatsdPump)
    assert b"|h|@0.00001|#" in pump._series.encode([record()])[0]
    pump.close()


# Datagrams


def test_as_many_messages_as_are_asked_for(unix: UnixReceiver, tmp_path: Path) -> None:
    """16 unless the options say another number; one where not `buffered`."""
    counts = []
    for meta in (
        {},
        {"buffered_max_messages": 0},
        {"buffered_max_messages": 30},
        {"buffered": False, "buffered_max_messages": 30},
        {"packet_size": 120, "tags": ["method"]},
    ):
        sent(unix, tmp_path, *[record()] * 40, **meta)
        counts.append([data.count(b"\n") + 1 for data in unix.datagrams])
        unix.datagrams.clear()
    assert counts == [
        [16, 16, 8],
        [16, 16, 8],
        [30, 10],
        [1] * 40,
        [2] * 20,
    ]


def test_what_an_agent_reads_at_once(unix: UnixReceiver, tmp_path: Path) -> None:
    """8192 bytes of a unix socket; a message beyond them is a dead letter."""
    most = {"buffered_max_messages": 1000, "tags": ["method", "path"]}
    sent(unix, tmp_path, *[record()] * 300, **most)
    assert all(8000 < len(data) <= 8192 for data in unix.datagrams[:-1])
    unix.datagrams.clear()
    head = len("default.request_time:37|h|#tyk-pump,method:GET,path:")
    paths = ["x" * (8192 - head), "x" * (8193 - head), "/"]
    records = [record(path=path) for path in paths]
    with pytest.raises(RejectedRecords) as caught:
        sent(unix, tmp_path, *records, **most)
    assert caught.value.rejected == {1: "too large: 8193 bytes, the limit is 8192"}
    assert len(unix.lines) == 2
    assert [len(data) for data in unix.datagrams] == [8192, head]


def test_over_udp(udp: UdpReceiver, tmp_path: Path) -> None:
    """1432 bytes, as the reference; a longer message goes alone."""
    meta = {"address": f"127.0.0.1:{udp.port}", "namespace": "pump"}
    pump = opened(tmp_path, "dogstatsd", meta)
    pump.write(batch(*[record()] * 20, record(path="/" + "x" * 1500)))
    pump.close()
    *packed, long = udp.take(4)
    assert [data.count(b"\n") + 1 for data in packed] == [8, 8, 4]
    assert len(long) > 1500


# Failure


def test_nothing_waits_in_a_buffer(unix: UnixReceiver, tmp_path: Path) -> None:
    """The reference loses what it has not flushed when it ends."""
    assert len(sent(unix, tmp_path, record(), record(), buffered=False)) == 2


def test_a_unix_socket_that_vanishes_and_returns(
    unix: UnixReceiver, tmp_path: Path
) -> None:
    """Each message arrives once, whatever it takes."""
    meta = {"address": f"unix://{unix.path}", "buffered_max_messages": 3}
    pump = opened(tmp_path, "dogstatsd", {**meta, "tags": ["path"]})
    whole = batch(*[record(path=f"/{number}") for number in range(100)])
    with unix.leaving(after=5):
        with pytest.raises(TransientError) as caught:
            pump.write(whole)
        unix.close()
        unix.path.unlink()
        pending = caught.value.pending
        assert pending and pending[0] % 3 == 0 and pending[-1] == 99
        with pytest.raises(TransientError, match="No such file") as again:
            pump.write(whole.part(pending))
        assert again.value.pending == [*range(len(pending))]
    pump.write(whole.part(pending))
    pump.close()
    names = [line.rpartition(":")[2] for line in unix.lines]
    assert names == [f"/{number}" for number in range(100)]


def test_the_time_that_a_full_socket_is_waited_for(
    unix: UnixReceiver, tmp_path: Path
) -> None:
    """That of the option with `async_uds`; nothing is lost either way."""
    for meta, patience in (
        ({"async_uds_write_timeout_seconds": 5}, 0.1),
        ({"async_uds": True}, 1.0),
        ({"async_uds": True, "async_uds_write_timeout_seconds": 0}, 1.0),
        ({"async_uds": True, "async_uds_write_timeout_seconds": 5}, 5.0),
    ):
        address = {"address": f"unix://{unix.path}"}
        pump = opened(tmp_path, "dogstatsd", {**address, **meta})
        assert isinstance(pump, DogstatsdPump)
        assert pump._packets._datagrams._patience == patience  # type: ignore[attr-defined]
        pump.close()


def test_an_agent_that_is_away(udp: UdpReceiver, tmp_path: Path) -> None:
    """What its machine refuses is sent again."""
    meta = {"address": f"127.0.0.1:{udp.port}", "tags": ["method"]}
    pump = opened(tmp_path, "dogstatsd", meta)
    udp.close()
    with pytest.raises(TransientError, match="Connection refused") as caught:
        pump.write(batch(*[record()] * 100))
    assert caught.value.pending is None
    udp.restart()
    pump.write(batch(*[record()] * 3))
    assert udp.take(1)[0].count(b"\n") == 2
    assert pump.probe() == f"127.0.0.1:{udp.port} over udp, which nobody confirms"
    pump.close()


# Servers


def test_telegraf_understands_every_message(telegraf: Telegraf, tmp_path: Path) -> None:
    """A DogStatsD server: histogram, rate, and each tag with its value."""
    meta = {"address": f"127.0.0.1:{telegraf.statsd}", "namespace": "pump"}
    pump = opened(tmp_path, "dogstatsd", {**meta, "service": "gw"})
    odd = record(path="/a,b|c#d", api_name="x\ny", oauth_id="o")
    pump.write(batch(*[record(request_time=n) for n in range(40)], odd))
    pump.close()
    tags: dict[str, dict[str, str]] = {}
    seen, until = 0, time.monotonic() + 10
    while seen < 41:
        assert time.monotonic() < until, (seen, tags)
        time.sleep(0.01)
        found = [m for m in telegraf.metrics() if m["name"] == "pump.request_time"]
        tags = {metric["tags"]["path"]: metric["tags"] for metric in found}
        seen = sum(metric["fields"]["count"] for metric in found)
    assert tags["/pets/42/"] == {
        "tyk-pump": "true",
        "service": "gw",
        "path": "/pets/42/",
        "method": "GET",
        "response_code": "200",
        "api_version": "Default",
        "api_name": "Petstore API",
        "api_id": "b605a6f0",
        "org_id": "5e9d9544",
        "tracked": "true",
        "metric_type": "histogram",
    }
    assert tags["/a_b_c#d"]["api_name"] == "xy"
    assert tags["/a_b_c#d"]["oauth_id"] == "o"
