"""The prometheus pump: its options, what it counts, what it keeps, how it is read."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import os
import socket
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as classic

from tests.contract.cases import _small_files
from tests.pumps.config import loaded
from tyk_pump.cli import main
from tyk_pump.config.load import load
from tyk_pump.errors import ConfigError, TransientError
from tyk_pump.pumps.prometheus import (
    COUNTERS,
    LATENCY,
    CustomMetric,
    PrometheusOptions,
    PrometheusPump,
)
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord, Latency, MCPStats
from tyk_pump.state.folder import StateFolder
from tyk_pump.transport.exposition import takes_gzip, wants_openmetrics
from tyk_pump.transport.series_file import NAME

OWN = [name for name, _, _ in COUNTERS] + [LATENCY]
BOTH = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def options(*metrics: CustomMetric, **others: Any) -> PrometheusOptions:
    """Return options with custom metrics only."""
    given = {"listen_address": "127.0.0.1:0", "disabled_metrics": OWN, **others}
    return PrometheusOptions(custom_metrics=list(metrics), **given)


def counter(*labels: str, **others: Any) -> CustomMetric:
    """Return a counter with these labels."""
    return CustomMetric(
        name="calls", metric_type="counter", labels=list(labels), **others
    )


def histogram(*labels: str, **others: Any) -> CustomMetric:
    """Return a histogram with these labels."""
    return CustomMetric(
        name="times", metric_type="histogram", labels=list(labels), **others
    )


@contextmanager
def opened(
    chosen: PrometheusOptions, folder: Path | None = None
) -> Iterator[PrometheusPump]:
    """Open a pump, and close it in the end."""
    pump = PrometheusPump(chosen)
    if folder is not None:
        pump.keep_in(folder)
    pump.open()
    try:
        yield pump
    finally:
        pump.close()


def batch(*records: AnalyticsRecord, first: int = 0, stream: str = "S") -> Batch:
    """Return a batch of records at the positions from `first` on."""
    positions = range(first, first + len(records))
    return Batch(stream, 0, "analytics", positions, records, cursor="P")


def calls(number: int, **fields: Any) -> list[AnalyticsRecord]:
    """Return so many records."""
    return [AnalyticsRecord(**fields) for _ in range(number)]


def scraped(pump: PrometheusPump, path: str = "/metrics", **headers: str) -> str:
    """Return what a scraper reads."""
    assert pump._server is not None
    url = f"http://127.0.0.1:{pump._server.port}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
        body: bytes = reply.read()
        if reply.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
    return body.decode()


def shown(pump: PrometheusPump) -> dict[str, float]:
    """Return series -> value, without what is said of the process."""
    lines = [x for x in scraped(pump).splitlines() if not x.startswith("#")]
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("process_"))
    return {name: float(value) for name, _, value in pairs}


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what we have logged."""
    return [entry for entry in caplog.records if entry.name.startswith("tyk_pump")]


# Options


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        (None, "listen_address: missing"),
        ({}, "listen_address: missing"),
        ({"listen_address": "localhost"}, "listen_address: 'localhost' is no host"),
        ({"listen_address": ":http"}, "listen_address: ':http' is no host:port"),
        ({"listen_address": ":99999"}, "listen_address: ':99999' is no host:port"),
        ({"listen_address": "::1:90"}, "listen_address: '::1:90' is no host:port"),
        ({"max_series": 9}, "max_series: "),
        ({"persist": "often"}, "persist: 'often' is not one of never, scrape, batch"),
    ],
)
def test_faults(tmp_path: Path, meta: dict[str, Any] | None, fault: str) -> None:
    """Each is told with the path of its option, and the process lives."""
    section = meta if not meta or "listen_address" in meta else {**_AT, **meta}
    found = loaded(tmp_path, "prometheus", section).every_fault()
    assert any(f".meta.{fault}" in one for one in found), found


_AT = {"listen_address": ":9090"}


@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        ({"name": "a", "labels": ["nonsense"]}, ".labels[0]: 'nonsense' is not one"),
        ({"name": "a", "labels": ["api", "api"]}, ".labels: api twice"),
        ({"name": "a", "labels": ["type"]}, ".labels[0]: 'type' is not one of"),
        ({"labels": ["api"]}, ".name: missing"),
        ({"name": "a-b"}, ".name: 'a-b' is no name of a metric"),
        ({"name": "tyk_http_status"}, ".name: tyk_http_status is the name of another"),
        ({"name": "tyk_latency_sum"}, ".name: tyk_latency_sum is the name of another"),
        ({"name": "process_open_fds"}, ".name: process_open_fds is the name of an"),
        ({"name": "a", "metric_type": "histogram", "buckets": [2, 1]}, ".buckets: not"),
        ({"name": "a", "metric_type": "histogram", "buckets": [1, 1]}, ".buckets: not"),
    ],
)
def test_faults_of_custom_metrics(
    tmp_path: Path, metric: dict[str, Any], fault: str
) -> None:
    """What ended the reference's process at its start or at the first write."""
    meta = {**_AT, "custom_metrics": [{"metric_type": "counter", **metric}]}
    (found,) = loaded(tmp_path, "prometheus", meta).every_fault()
    assert f".meta.custom_metrics[0]{fault}" in found


def test_two_custom_metrics_of_one_name(tmp_path: Path) -> None:
    """The second is at fault; nor may one have the name of a histogram's line."""
    one = {"name": "a", "metric_type": "histogram"}
    for name in ("a", "a_count"):
        meta = {**_AT, "custom_metrics": [one, {**one, "name": name}]}
        meta["custom_metrics"][1]["metric_type"] = "counter"  # type: ignore[index]
        (found,) = loaded(tmp_path, "prometheus", meta).every_fault()
        assert f"custom_metrics[1].name: {name} is the name of another" in found


def test_one_worker_only(tmp_path: Path) -> None:
    """Several could not answer a scraper as one."""
    path = tmp_path / "pump.conf"
    path.write_text(
        '{"pumps": {"prometheus": {"workers": 2, "meta": {"listen_address": ":1"}}}}'
    )
    (fault,) = load(str(path), {}).every_fault()
    assert fault == "pumps.prometheus.workers: prometheus has one worker only"


def test_custom_metrics_by_a_variable(tmp_path: Path) -> None:
    """JSON in a variable takes the place of the file's list, faults included."""
    path = tmp_path / "pump.conf"
    path.write_text(
        '{"pumps": {"prometheus": {"meta": {"listen_address": ":1",'
        '"custom_metrics": [{"name": "old"}]}}}}'
    )
    name = "TYK_PMP_PUMPS_PROMETHEUS_META_CUSTOMMETRICS"
    text = '[{"Name": "n", "description": "d", "metric_type": "counter"}]'
    config = load(str(path), {name: text})
    assert config.every_fault() == [] and config.warnings == []
    (metric,) = config.pumps[0].options.custom_metrics
    assert (metric.name, metric.help) == ("n", "d")
    config = load(str(path), {name: '[{"nam": "n"}]'})
    assert config.warnings == [f"{name}[0].nam: unknown option, nearest is name"]
    for wrong, fault in (("[{", "is no JSON"), ("{}", "expected list")):
        assert fault in load(str(path), {name: wrong}).every_fault()[0]


def test_a_metric_of_another_type(caplog: pytest.LogCaptureFixture) -> None:
    """It is left out with an error; the others work."""
    gauge = CustomMetric(name="g", metric_type="gauge", labels=["nonsense"])
    with opened(options(gauge, counter())) as pump:
        pump.write(batch(*calls(2)))
        assert shown(pump) == {"calls": 2}
    assert [entry.levelname for entry in said(caplog)] == ["ERROR"]


def test_only_what_is_shown_is_decoded() -> None:
    """Fields are those that the metrics read."""
    everything = PrometheusPump(PrometheusOptions())
    assert set(everything.fields) == {
        *("response_code", "api_id", "path", "track_path", "method", "api_key"),
        *("oauth_id", "request_time", "latency"),
    }
    assert PrometheusPump(options()).fields == ()
    assert PrometheusPump(options(counter("api", "time_stamp"))).fields == (
        *("timestamp", "api_id"),
    )
    some = PrometheusPump(options(counter("path", mcp_only=True), track_all_paths=True))
    assert some.fields == ("path", "mcp_stats")


# Counting


def test_all_metrics_disabled() -> None:
    """Records pass, and only the process is shown."""
    with opened(options()) as pump:
        pump.write(batch(*calls(3)))
        assert shown(pump) == {}


def test_label_values_do_not_collide() -> None:
    """Values of any text stay apart."""
    with opened(options(counter("alias", "oauth_id"))) as pump:
        pairs = [("a--b", "c"), ("a", "b--c"), ("a-", "-b--c"), ("", "a--b--c")]
        made = [AnalyticsRecord(alias=a, oauth_id=o) for a, o in pairs]
        pump.write(batch(*made))
        found = shown(pump)
        assert len(found) == 4 and set(found.values()) == {1}


def test_a_type_that_is_an_api() -> None:
    """An API named as a type of time ended the reference's process."""
    names = ("total", "upstream", "gateway")
    with opened(options(histogram("api_name"))) as pump:
        pump.write(batch(*[AnalyticsRecord(api_name=name) for name in names]))
        found = shown(pump)
        for name in names:
            assert found[f'times_count{{api_name="{name}",type="total"}}'] == 1


def test_bytes_that_are_no_text() -> None:
    """They are shown as U+FFFD; values that look the same then are one series."""
    paths = ["/a\udcff", "/a\udcfe", "/a\udcff", "/b"]
    made = [AnalyticsRecord(path=path, track_path=True) for path in paths]
    with opened(options(counter("path"))) as pump:
        pump.write(batch(*made))
        assert shown(pump) == {'calls{path="/a\ufffd"}': 3, 'calls{path="/b"}': 1}


def test_odd_times() -> None:
    """Sums never fall, and a record of nonsense does not end their growth."""
    times = [-5, 2**63 - 1, 37]
    with opened(options(histogram())) as pump:
        for number, time in enumerate(times):
            pump.write(batch(AnalyticsRecord(request_time=time), first=number))
        found = shown(pump)
        assert found['times_sum{type="total"}'] == 30 * 86_400_000 + 37
        assert found['times_bucket{type="total",le="1"}'] == 1
        assert found['times_bucket{type="total",le="60000"}'] == 2
        assert found['times_count{type="total"}'] == 3


@given(st.lists(st.integers(-10, 70_000), min_size=1, max_size=40), st.booleans())
@settings(max_examples=50, deadline=None)
def test_buckets(times: list[int], in_one: bool) -> None:
    """Each time is in the buckets that are not below it, however they come."""
    pump = PrometheusPump(options(histogram("api", buckets=[1, 10, 100.5, 1000])))
    made = [AnalyticsRecord(request_time=time) for time in times]
    for number, record in enumerate(made if not in_one else []):
        pump.write(batch(record, first=number))
    pump.write(batch(*made))
    (series,) = pump._families[0].all()
    real = [max(time, 0) for time in times]
    ups = [sum(one <= bound for one in real) for bound in (1, 10, 100.5, 1000, 1e9)]
    assert series.counts == [b - a for a, b in zip([0, *ups], ups, strict=False)]
    assert series.total == sum(real)


def test_aggregated_observations_are_weighted() -> None:
    """The average counts as often as there are records, and is not cut."""
    made = [AnalyticsRecord(request_time=time) for time in (1, 2, 2, -9)]
    metric = histogram(buckets=[1, 1.25, 2])
    with opened(options(metric, aggregate_observations=True)) as pump:
        pump.write(batch(*made))
        found = shown(pump)
        assert found['times_count{type="total"}'] == 4
        assert found['times_sum{type="total"}'] == 5
        assert found['times_bucket{type="total",le="1"}'] == 0
        assert found['times_bucket{type="total",le="1.25"}'] == 4


def test_keys_are_hidden_everywhere() -> None:
    """By an option of the pump, in its own metrics too; a metric may show less."""
    own = counter("api_key", obfuscate_api_keys_length=2)
    with opened(
        PrometheusOptions(
            listen_address="127.0.0.1:0",
            custom_metrics=[own],
            obfuscate_api_keys=True,
            obfuscate_api_keys_length=3,
        )
    ) as pump:
        keys = ["secret-abc", "public-abc", "abc", "abcd", "", "ä\udcffyz"]
        pump.write(batch(*[AnalyticsRecord(api_key=key) for key in keys]))
        text = scraped(pump)
        found = shown(pump)
    assert "secret" not in text and "public" not in text
    assert found['tyk_http_status_per_key{code="0",key="****abc"}'] == 2
    assert found['tyk_http_status_per_key{code="0",key="--"}'] == 2
    assert found['tyk_http_status_per_key{code="0",key="****bcd"}'] == 1
    assert found['tyk_http_status_per_key{code="0",key="****\ufffdyz"}'] == 1
    assert found['calls{api_key="****bc"}'] == 3


def test_a_part_of_a_batch_again() -> None:
    """What is counted is not counted again."""
    with opened(options(counter())) as pump:
        pump.write(batch(*calls(10)))
        pump.write(batch(*calls(10), first=5))
        pump.write(batch(*calls(2), stream="T"))
        assert shown(pump) == {"calls": 17}


def test_mcp_only() -> None:
    """A metric of the Model Context Protocol does not see other calls."""
    mcp = MCPStats(is_mcp=True, jsonrpc_method="tools/call")
    with opened(options(counter("mcp_method", mcp_only=True))) as pump:
        pump.write(batch(*calls(3)))
        assert shown(pump) == {}
        pump.write(batch(AnalyticsRecord(mcp_stats=mcp), *calls(2), first=3))
        assert shown(pump) == {'calls{mcp_method="tools/call"}': 1}


# The budget


def test_the_budget_of_series(caplog: pytest.LogCaptureFixture) -> None:
    """New values are `other`, codes stay apart; it is counted, and said once."""
    metric = counter("path", "response_code")
    with opened(options(metric, track_all_paths=True, max_series=50)) as pump:
        for number in range(100):
            code = 500 if number % 2 else 200
            made = calls(2, path=f"/{number}", response_code=code)
            pump.write(batch(*made, first=2 * number))
        pump.write(batch(*calls(1, path="/0", response_code=200), first=200))
        found = shown(pump)
    overflow = found.pop('tyk_pump_series_overflow_total{metric="calls"}')
    assert len(found) == 47 and sum(found.values()) == 201
    assert overflow == 110
    assert found['calls{path="other",response_code="200"}'] == 54
    assert found['calls{path="other",response_code="500"}'] == 56
    assert found['calls{path="/0",response_code="200"}'] == 3
    (entry,) = said(caplog)
    assert vars(entry)["reason"] == "calls"


def test_the_budget_is_never_exceeded() -> None:
    """Where even codes are too many, all values are `other` at the end."""
    chosen = options(counter("code"), histogram("code"), max_series=10)
    with opened(chosen) as pump:
        made = [AnalyticsRecord(response_code=number) for number in range(50)]
        pump.write(batch(*made))
        found = shown(pump)
        counts = {k: v for k, v in found.items() if k.startswith("calls{")}
        times = {k: v for k, v in found.items() if k.startswith("times_count")}
        assert len(counts) == len(times) == 10
        assert counts['calls{code="other"}'] == 41
        assert times['times_count{code="other",type="total"}'] == 41
        full = 'tyk_pump_series_overflow_total{metric="times"}'
        assert found[full] == 41
        # What is remembered of values does not grow either.
        more = [AnalyticsRecord(response_code=number) for number in range(900)]
        pump.write(batch(*more, first=50))
        tables = [table for family in pump._families for table in family.tables]
        assert all(len(table.index) <= 20 for table in tables)


def test_the_budget_of_hidden_keys() -> None:
    """Many keys that look the same are one series, and take no more room."""
    metric = counter("key", obfuscate_api_keys=True)
    with opened(options(metric, max_series=10)) as pump:
        made = [AnalyticsRecord(api_key=f"{number}-last") for number in range(99)]
        pump.write(batch(*made))
        assert shown(pump) == {'calls{key="****last"}': 99}


# Reading


def test_openmetrics() -> None:
    """The strict parser of the library takes it; each series has its birthday."""
    metrics = [
        counter("path"),
        CustomMetric(name="a_total", help='a "b"\\\n', metric_type="counter"),
        CustomMetric(name="a", help="h", metric_type="counter"),
        histogram("api", buckets=[1, 2.5]),
    ]
    with opened(options(*metrics, track_all_paths=True, max_series=10)) as pump:
        made = [AnalyticsRecord(path=f'/"\\\n{n}', request_time=2) for n in range(20)]
        pump.write(batch(*made))
        text = scraped(pump, Accept="application/openmetrics-text")
    parse: Any = openmetrics_parser.text_string_to_metric_families
    families = {family.name: family for family in parse(text)}
    assert families["calls"].type == "counter"
    samples = families["calls"].samples
    assert {one.name for one in samples} == {"calls_total", "calls_created"}
    assert {one.labels["path"] for one in samples} >= {"other", '/"\\\n1'}
    # Both would be `a_total`: they keep their names, and are of no kind.
    assert families["a"].type == families["a_total"].type == "unknown"
    times = families["times"]
    bounds = [one.labels.get("le") for one in times.samples]
    assert bounds[:3] == ["1.0", "2.5", "+Inf"]
    assert {one.name for one in times.samples} == {
        *("times_bucket", "times_sum", "times_count", "times_created"),
    }
    assert "process_cpu_seconds" in families
    assert families["tyk_pump_series_overflow"].samples[0].value == 11


def test_the_classic_parser_takes_it() -> None:
    """The text is what the library's own parser understands."""
    with opened(PrometheusOptions(listen_address="127.0.0.1:0")) as pump:
        pump.write(batch(*calls(3, latency=Latency(3, 2, 1), request_time=3)))
        found = {family.name: family for family in classic(scraped(pump))}
    assert {*OWN} <= set(found)
    assert found["tyk_latency"].type == "histogram"
    assert found["tyk_http_status"].type == "counter"


@pytest.mark.parametrize(
    ("accept", "preferred", "openmetrics"),
    [
        ("", True, False),
        ("*/*", True, False),
        ("text/plain;version=0.0.4", True, False),
        ("application/openmetrics-text", False, True),
        ("Application/OpenMetrics-Text; version=0.0.1; charset=utf-8", False, True),
        ("application/openmetrics-text;version=2.0.0", True, False),
        ("application/openmetrics-text, */*;q=0.1", False, True),
        ("application/openmetrics-text;q=0", False, False),
        ("application/openmetrics-text;q=x", False, False),
        (BOTH, False, False),
        (BOTH, True, True),
        ("application/openmetrics-text;q=0.1,text/plain", True, False),
        ("application/vnd.google.protobuf;proto=x", True, False),
    ],
)
def test_negotiation(accept: str, preferred: bool, openmetrics: bool) -> None:
    """Who takes both gets what the operator prefers, else what he takes."""
    assert wants_openmetrics(accept, preferred=preferred) is openmetrics


def test_the_preferred_format() -> None:
    """Names are the reference's unless OpenMetrics is preferred."""
    for preferred, name in (("text", "calls 1"), ("openmetrics", "calls_total 1")):
        with opened(options(counter(), preferred_format=preferred)) as pump:
            pump.write(batch(*calls(1)))
            assert name in scraped(pump, Accept=BOTH).splitlines()


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("br", False),
        ("", False),
    ],
)
def test_compression(accept: str, taken: bool) -> None:
    """It is done for who takes it."""
    assert takes_gzip(accept) is taken
    with opened(options(counter("alias"))) as pump:
        pump.write(batch(*[AnalyticsRecord(alias=f"{n}") for n in range(2000)]))
        text = scraped(pump, **{"Accept-Encoding": accept})
        assert text.count("calls{") == 2000


def test_only_the_path_is_answered() -> None:
    """No profiler, no other method; a path without a slash gets one."""
    with opened(options(counter(), path="own")) as pump:
        pump.write(batch(*calls(1)))
        assert "calls 1" in scraped(pump, "/own")
        assert "calls 1" in scraped(pump, "/own?x=y")
        assert pump.probe().endswith("/own")
        for path in ("/", "/metrics", "/own/", "/debug/pprof/"):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                scraped(pump, path)
            refused.value.close()
        assert pump._server is not None
        link = http.client.HTTPConnection("127.0.0.1", pump._server.port)
        for method, status in (("HEAD", 200), ("POST", 405), ("DELETE", 405)):
            link.request(method, "/own")
            answer = link.getresponse()
            assert answer.status == status and answer.read() == b""
        link.close()


def test_a_taken_port() -> None:
    """It is said which, and tried again; two pumps have nothing in common."""
    with opened(options(counter())) as one, opened(options(counter())) as two:
        assert one._server is not None
        address = f"127.0.0.1:{one._server.port}"
        third = PrometheusPump(options(listen_address=address))
        with pytest.raises(TransientError) as failed:
            third.open()
        reason = f"cannot listen on {address}: Address already in use"
        assert failed.value.reason == reason
        one.write(batch(*calls(1)))
        assert (shown(one), shown(two)) == ({"calls": 1}, {})
    with pytest.raises(TransientError, match=r"cannot listen on 192\.0\.2\.1:1: "):
        PrometheusPump(options(listen_address="192.0.2.1:1")).open()
    with pytest.raises(TransientError, match=r"cannot listen on nowhere\.invalid:1: "):
        PrometheusPump(options(listen_address="nowhere.invalid:1")).open()


@pytest.mark.parametrize("address", [":0", "localhost:0", "[::1]:0"])
def test_addresses(address: str) -> None:
    """All addresses, a name, IPv6."""
    if "::" in address and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with opened(options(counter(), listen_address=address)) as pump:
        assert pump._server is not None
        host = "::1" if "::" in address else "127.0.0.1"
        link = http.client.HTTPConnection(host, pump._server.port)
        link.request("GET", "/metrics")
        assert link.getresponse().status == 200
        link.close()


def test_scrapes_while_records_come() -> None:
    """Each histogram is shown whole, and counters never fall."""
    with opened(options(counter(), histogram("api"))) as pump:
        done = threading.Event()

        def write() -> None:
            for number in range(300):
                made = [
                    AnalyticsRecord(api_id=f"{api}", request_time=10)
                    for api in range(100)
                ]
                pump.write(batch(*made, first=100 * number))
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        last = 0.0
        while not done.is_set():
            found = shown(pump)
            for line, number in found.items():
                if line.startswith("times_count"):
                    assert found[line.replace("_count", "_sum")] == 10 * number
            assert found.get("calls", 0) >= last
            last = found.get("calls", 0)
        thread.join()
        assert shown(pump)["calls"] == 30_000


def test_check_beside_a_running_pump(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The port that the running pump has is no fault; another's is."""
    conf, state = tmp_path / "pump.conf", tmp_path / "state"
    with opened(options(counter())) as pump:
        assert pump._server is not None
        meta = {"listen_address": f"127.0.0.1:{pump._server.port}"}
        section = {"type": "prometheus", "meta": meta}
        about = {"state_dir": str(state), "pumps": {"p": section}}
        conf.write_text(json.dumps(about))
        main(["check", "--conf", str(conf)])
        assert "Address already in use" in capsys.readouterr().out
        held = StateFolder.open(state)
        main(["check", "--conf", str(conf)])
        held.close()
        out = capsys.readouterr().out
        assert "already in use" not in out
        assert f"prometheus, left to the running pump (pid {os.getpid()})" in out


# Keeping


def kept(persist: str, *metrics: CustomMetric, **others: Any) -> PrometheusOptions:
    """Return options of a pump that keeps."""
    return options(
        *(metrics or (counter("api"), histogram())), persist=persist, **others
    )


def abandon(pump: PrometheusPump) -> None:
    """End a pump as a kill does: nothing more is stored."""
    assert pump._server is not None and pump._file is not None
    pump._server.close()
    pump._file.close()


@pytest.mark.parametrize("persist", ["batch", "scrape"])
def test_counters_outlive_the_worker(tmp_path: Path, persist: str) -> None:
    """After an orderly end all is there, birthdays included."""
    times = [1, 99, 70_000]
    made = [AnalyticsRecord(api_id='\u00e4"', request_time=time) for time in times]
    with opened(kept(persist), tmp_path / "a" / "b") as pump:
        pump.write(batch(*made))
        before = shown(pump)
        born = scraped(pump, Accept="application/openmetrics-text")
    with opened(kept(persist), tmp_path / "a" / "b") as pump:
        assert shown(pump) == before
        again = scraped(pump, Accept="application/openmetrics-text")
        assert _births(again) == _births(born)
        pump.write(batch(*made))
        assert shown(pump) == before
        pump.write(batch(*made, first=3))
        assert shown(pump)['calls{api="\u00e4\\""}'] == 6


def _births(text: str) -> list[str]:
    return [line for line in text.splitlines() if "_created" in line]


def test_a_kill_after_a_batch(tmp_path: Path) -> None:
    """With `batch` what `write` has returned is there; a repeat adds nothing."""
    pump = PrometheusPump(kept("batch"))
    pump.keep_in(tmp_path)
    pump.open()
    pump.write(batch(*calls(5, api_id="a")))
    abandon(pump)
    with opened(kept("batch"), tmp_path) as again:
        assert shown(again)['calls{api="a"}'] == 5
        again.write(batch(*calls(7, api_id="a")))
        assert shown(again)['calls{api="a"}'] == 7


def test_a_kill_after_a_scrape(tmp_path: Path) -> None:
    """With `scrape` what was seen is there, and what was not is not."""
    pump = PrometheusPump(kept("scrape"))
    pump.keep_in(tmp_path)
    pump.open()
    pump.write(batch(*calls(5, api_id="a")))
    assert shown(pump)['calls{api="a"}'] == 5
    pump.write(batch(*calls(5, api_id="a"), first=5))
    abandon(pump)
    with opened(kept("scrape"), tmp_path) as again:
        assert shown(again)['calls{api="a"}'] == 5
        # Not settled, it comes once more; settled, it would be lost.
        again.write(batch(*calls(10, api_id="a")))
        assert shown(again)['calls{api="a"}'] == 10


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    """`never` makes no file; without a folder nothing is kept either."""
    with opened(options(counter()), tmp_path / "x") as pump:
        pump.write(batch(*calls(1)))
    with opened(kept("batch")) as pump:
        pump.write(batch(*calls(1)))
    assert not (tmp_path / "x").exists()


def _no_room(folder: Path) -> AbstractContextManager[None]:
    return _small_files((folder / NAME).stat().st_size // 2)


def test_no_room_for_a_batch(tmp_path: Path) -> None:
    """The batch is tried again; when there is room it counts once."""
    with opened(kept("batch"), tmp_path) as pump:
        pump.write(batch(*calls(1, api_id="a")))
        many = [AnalyticsRecord(api_id=f"{number}" * 50) for number in range(500)]
        with _no_room(tmp_path):
            for _ in range(2):
                with pytest.raises(TransientError, match="counts cannot be stored: "):
                    pump.write(batch(*many, first=1))
        pump.write(batch(*many, first=1))
    with opened(kept("batch"), tmp_path) as pump:
        assert sum(v for k, v in shown(pump).items() if k.startswith("calls")) == 501


def test_no_room_at_a_scrape(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is answered, and said when that begins and ends."""
    caplog.set_level(logging.INFO, "tyk_pump")
    with opened(kept("scrape"), tmp_path) as pump:
        many = [AnalyticsRecord(api_id=f"{number}" * 50) for number in range(500)]
        pump.write(batch(*many))
        with _no_room(tmp_path):
            for _ in range(3):
                assert len(shown(pump)) > 500
        shown(pump)
        shown(pump)
        messages = [entry.getMessage() for entry in said(caplog)]
    assert messages == ["counts cannot be stored", "counts are stored again"]


def test_a_metric_that_is_configured_otherwise(tmp_path: Path) -> None:
    """It begins anew, the others go on."""
    with opened(kept("batch", counter("api"), histogram()), tmp_path) as pump:
        pump.write(batch(*calls(2)))
    others = [
        counter("host"),
        counter("api", obfuscate_api_keys=True),
        CustomMetric(name="other", metric_type="counter", labels=["api"]),
    ]
    for metric in others:
        with opened(kept("batch", metric, histogram()), tmp_path) as pump:
            found = shown(pump)
            assert found["times_count" + '{type="total"}'] == 2
            assert not any(line.startswith("calls") for line in found)
    with opened(
        kept("batch", counter("api"), histogram(buckets=[1])), tmp_path
    ) as pump:
        assert shown(pump) == {}


def test_a_damaged_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Counting begins anew; the file is kept to look at."""
    (tmp_path / NAME).write_bytes(b"no database" * 1000)
    with opened(kept("batch"), tmp_path) as pump:
        pump.write(batch(*calls(1)))
        assert shown(pump)['calls{api=""}'] == 1
    assert (tmp_path / "series.damaged").exists()
    assert [entry.levelname for entry in said(caplog)] == ["ERROR"]


def test_a_file_of_a_newer_version(tmp_path: Path) -> None:
    """It is left alone."""
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigError, match="newer version"):
        keeping(tmp_path).open()


def keeping(folder: Path) -> PrometheusPump:
    """Return a pump that keeps in a folder."""
    pump = PrometheusPump(kept("batch"))
    pump.keep_in(folder)
    return pump


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """It is tried again."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TransientError, match="stored counts cannot be read"):
        keeping(tmp_path / "file" / "x").open()


def test_fsync(tmp_path: Path) -> None:
    """It is the operator's choice."""
    for fsync, level in ((True, 2), (False, 0)):
        with opened(kept("batch", fsync=fsync), tmp_path) as pump:
            assert pump._file is not None
            found = pump._file._db.execute("PRAGMA synchronous").fetchone()
            assert found == (level,)
