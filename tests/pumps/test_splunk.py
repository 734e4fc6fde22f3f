"""The splunk pump before a collector: every option, every answer, exact positions."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.servers.hec import HecCollector
from tests.servers.http import Answer, HttpServer
from tests.servers.splunk import DISABLED, TOKEN, Collector
from tests.servers.tls import Authority
from tyk_pump.config.options import Secret, dec_hook
from tyk_pump.errors import ConfigError, RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch
from tyk_pump.pumps.splunk import RECORD_ID, SplunkOptions, SplunkPump, without_key
from tyk_pump.record.analytics import AnalyticsRecord

KEY = "5e9d9544a1dcd60001d0ed20a1b2c3d4"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector without TLS."""
    with Collector() as made:
        yield made


def options(url: str, **meta: Any) -> SplunkOptions:
    """Return options as the loader makes them."""
    given = {"collector_url": url, "collector_token": TOKEN, **meta}
    return msgspec.convert(given, SplunkOptions, dec_hook=dec_hook)


def open_pump(url: str, **meta: Any) -> SplunkPump:
    """Return an open pump that sends aliases and methods in batches."""
    usual = {"fields": ["alias", "method"], "enable_batch": True}
    pump = SplunkPump(options(url, **{**usual, **meta}))
    pump.open()
    return pump


def batch(*records: AnalyticsRecord) -> Batch:
    """Return a batch of these records."""
    return Batch("S", 0, "list", range(7, 7 + len(records)), records)


def named(*names: str) -> Batch:
    """Return a batch of records with these aliases; "bad" is one to refuse."""
    return batch(
        *(
            AnalyticsRecord(alias=n, method="BAD" if n.startswith("bad") else "GET")
            for n in names
        )
    )


def send(collector: Collector, records: Batch, **meta: Any) -> None:
    """Send records with a pump of these options."""
    pump = open_pump(collector.url, **meta)
    try:
        pump.write(records)
    finally:
        pump.close()


def refuse_bad(collector: Collector) -> None:
    """Let the collector refuse events with the method BAD."""
    collector.refuses = lambda event: event["event"]["method"] == "BAD"


# What is sent


def test_one_request_per_record_unless_batched(collector: Collector) -> None:
    """As the reference does; with `enable_batch` many events go in one."""
    send(collector, named("a", "b", "c"), enable_batch=False)
    assert len(collector.http.requests) == 3
    send(collector, named("d", "e", "f"))
    assert len(collector.http.requests) == 4
    assert collector.values("alias") == list("abcdef")


def test_metadata_and_the_records_id_on_request(collector: Collector) -> None:
    """Without the options an event has its time and its record, no more."""
    send(collector, named("a"))
    assert set(collector.events[0]) == {"time", "event"}
    about = {"index": "main", "source": "s<", "sourcetype": "_json", "host": "h"}
    send(collector, named("b"), record_id=True, **about)
    found = collector.events[1]
    assert {key: found[key] for key in about} == about
    assert found["fields"] == {RECORD_ID: "S:7"}


def test_gzip(collector: Collector) -> None:
    """The body is compressed and says so."""
    send(collector, named("a", "b"), gzip=True)
    (request,) = collector.http.requests
    assert request.headers["content-encoding"] == "gzip"
    assert request.raw != request.body
    assert collector.values("alias") == ["a", "b"]


def test_a_body_is_bounded_and_a_larger_event_goes_alone(collector: Collector) -> None:
    """Whatever its place; under both names of the option, and 0 is the default."""
    for place in (0, 1, 2):
        names = ["a", "b"]
        names.insert(place, "L" * 900)
        send(collector, named(*names), batch_max_content_length=500)
    assert all(request.body for request in collector.http.requests)
    assert [len(r.body) > 500 for r in collector.http.requests].count(True) == 3
    assert len(collector.events) == 9
    before = len(collector.http.requests)
    send(collector, named("x", "L" * 900, "y"), batch_max_content_length=0)
    assert len(collector.http.requests) == before + 1


def test_unknown_fields_are_left_out_with_a_warning(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are sent."""
    send(collector, named("a"), fields=["alias", "nope"])
    assert collector.events[0]["event"] == {"alias": "a"}
    assert "nope" in str([vars(entry) for entry in caplog.records])


def test_ignored_tags_stay_with_other_pumps(collector: Collector) -> None:
    """Neighbours go too, an empty prefix means none, the record is unchanged."""
    tags = ["key-1", "key-2", "org", "x"]
    record = AnalyticsRecord(tags=tags)
    prefixes = ["", "key-", "x"]
    send(collector, batch(record), fields=["tags"], ignore_tag_prefix_list=prefixes)
    assert collector.values("tags") == [["org"]]
    assert record.tags == ["key-1", "key-2", "org", "x"]


@pytest.mark.parametrize(
    ("key", "length", "shown"),
    [("", 4, ""), ("abc", 4, "****"), ("abcd", 4, "****"), ("abcde", 4, "****bcde")],
)
def test_a_key_is_never_sent_in_clear(
    collector: Collector, key: str, length: int, shown: str
) -> None:
    """Not the short ones either; an empty one stays empty."""
    meta = {"obfuscate_api_keys": True, "obfuscate_api_keys_length": length}
    send(collector, batch(AnalyticsRecord(api_key=key)), fields=["api_key"], **meta)
    assert collector.values("api_key") == [shown]


def test_a_masked_key_is_nowhere_else(collector: Collector) -> None:
    """Neither in tags nor in the raw request and response."""
    raw = base64.b64encode(f"GET / HTTP/1.1\r\nAuthorization: {KEY}\r\n".encode())
    record = AnalyticsRecord(
        api_key=KEY,
        tags=[f"key-{KEY}", "org"],
        raw_request=raw.decode(),
        raw_response=f"plain {KEY}",
    )
    fields = ["tags", "raw_request", "raw_response"]
    meta = {"obfuscate_api_keys": True, "obfuscate_api_keys_length": 4}
    send(collector, batch(record), fields=fields, **meta)
    (event,) = [event["event"] for event in collector.events]
    assert event["tags"] == ["key-****c3d4", "org"]
    assert b"Authorization: ****c3d4\r\n" in base64.b64decode(event["raw_request"])
    assert event["raw_response"] == "plain ****c3d4"
    assert record.tags == [f"key-{KEY}", "org"]


def test_a_cut_or_odd_raw_text_is_masked_or_left() -> None:
    """`max_record_size` may cut base64 anywhere."""
    whole = base64.b64encode(f"A: {KEY}\r\nmore and more".encode()).decode()
    for end in range(len(whole) - 8, len(whole)):
        found = base64.b64decode(without_key(whole[:end], KEY, "****"))
        assert KEY.encode() not in found and found.startswith(b"A: ****\r\nmore")
    assert without_key("no base64 \u00e9", KEY, "****") == "no base64 \u00e9"
    other = base64.b64encode(b"nothing").decode()
    assert without_key(other, KEY, "****") == other


# What the collector answers


def test_a_position_names_the_refused_event(collector: Collector) -> None:
    """Those before it are in, those behind it go at once, none goes twice."""
    refuse_bad(collector)
    with pytest.raises(RejectedRecords) as failed:
        send(collector, named("a", "bad1", "b", "bad2", "c"))
    words = "400 Bad Request: Invalid data format (code 6)"
    assert failed.value.rejected == {1: words, 3: words}
    assert collector.values("alias") == ["a", "b", "c"]
    assert len(collector.http.requests) == 3


def test_without_a_position_the_culprit_is_searched(collector: Collector) -> None:
    """By halves, until it stands alone."""
    refuse_bad(collector)
    collector.names_positions = False
    with pytest.raises(RejectedRecords) as failed:
        send(collector, named("a", "b", "c", "bad", "d"))
    assert list(failed.value.rejected) == [3]
    assert collector.values("alias") == ["a", "b", "c", "d"]


def test_too_large_is_halved_and_remembered(collector: Collector) -> None:
    """A record that is too large alone is refused with the collector's words."""
    collector.largest = 300
    with pytest.raises(RejectedRecords) as failed:
        send(collector, named("a", "b", "L" * 400, "c"))
    assert list(failed.value.rejected) == [2]
    assert failed.value.rejected[2].startswith("413 ")
    assert collector.values("alias") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"collector_token": "wrong"}, "403 Forbidden"),
        ({"collector_token": DISABLED}, "Token disabled"),
        ({"index": "other"}, "400 Bad Request: Incorrect index (code 7)"),
    ],
)
def test_the_operators_faults_blame_no_record(
    collector: Collector, meta: dict[str, Any], words: str
) -> None:
    """All stay pending, and the reason holds no token."""
    with pytest.raises(TransientError) as failed:
        send(collector, named("a", "b"), **meta)
    assert failed.value.pending == [0, 1] and not failed.value.rejected
    assert words in failed.value.reason
    assert str(meta.get("collector_token")) not in failed.value.reason
    with pytest.raises(TransientError):
        probe(collector.url, **({"indexer_acknowledgement": True} | meta))


def test_a_busy_collector_keeps_what_it_has_taken(collector: Collector) -> None:
    """A 503 with a position: only from there on, and one for certainty, go again."""
    says = {"text": "Server is busy", "code": 9, "invalid-event-number": 3}
    answer = Answer(503, json.dumps(says).encode(), {"Retry-After": "4"})
    with (
        collector.http.answering(lambda request: answer),
        pytest.raises(TransientError) as failed,
    ):
        send(collector, named("a", "b", "c", "d", "e"))
    assert failed.value.pending == [2, 3, 4]
    assert failed.value.retry_after == 4
    assert "Server is busy (code 9)" in failed.value.reason


# Acknowledgement


@pytest.fixture
def acknowledging() -> Iterator[Collector]:
    """A collector whose token has events confirmed."""
    with Collector(acknowledges=True) as made:
        yield made


def test_confirmed_events_have_arrived(acknowledging: Collector) -> None:
    """The channel goes with every request, and all numbers are asked for."""
    refuse_bad(acknowledging)
    pump = open_pump(
        acknowledging.url, indexer_acknowledgement=True, batch_max_content_length=200
    )
    pump.write(named("a", "b", "c", "d", "e", "f"))
    with pytest.raises(RejectedRecords) as failed:
        pump.write(named("bad", "g"))
    pump.close()
    assert list(failed.value.rejected) == [0]
    assert acknowledging.values("alias") == list("abcdefg")
    asked = acknowledging.http.requests
    assert len({r.headers["x-splunk-request-channel"] for r in asked}) == 1


def test_unconfirmed_events_go_again(acknowledging: Collector) -> None:
    """The wait is bounded."""
    acknowledging.indexing = False
    meta = {"indexer_acknowledgement": True, "acknowledgement_timeout": 0.2}
    with pytest.raises(TransientError) as failed:
        send(acknowledging, named("a", "b"), **meta)
    assert failed.value.pending == [0, 1]
    assert "did not confirm in 0.2 s" in failed.value.reason
    acknowledging.indexing = True
    send(acknowledging, named("a", "b"), **meta)


def test_a_token_that_confirms_nothing_is_told_before(collector: Collector) -> None:
    """No event is sent, again and again, to wait for what never comes."""
    with pytest.raises(TransientError, match="ACK is disabled"):
        send(collector, named("a"), indexer_acknowledgement=True)
    assert collector.events == []


# Options, probe, TLS


def probe(url: str, **meta: Any) -> str:
    """Return what a probe says."""
    pump = open_pump(url, **meta)
    try:
        return pump.probe()
    finally:
        pump.close()


def test_probe_tries_the_token(collector: Collector, acknowledging: Collector) -> None:
    """It says whom it has reached, and sends no event."""
    assert probe(collector.url) == f"{collector.url} takes the token"
    said = probe(acknowledging.url, indexer_acknowledgement=True)
    assert said.endswith("its indexers confirm")
    with pytest.raises(TransientError, match="Data channel is missing"):
        probe(acknowledging.url)
    with (
        HttpServer(lambda request: Answer(200, b"<html>")) as other,
        pytest.raises(TransientError, match="no answer of a collector"),
    ):
        probe(other.url)
    assert collector.events == acknowledging.events == []


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({"collector_url": ""}, ("collector_url", "missing")),
        ({"collector_token": ""}, ("collector_token", "missing")),
        ({"ssl_cert_file": "c"}, ("ssl_key_file", "missing beside ssl_cert_file")),
    ],
)
def test_faults(meta: dict[str, Any], fault: tuple[str, str]) -> None:
    """Each names its option."""
    assert list(options("http://h", **meta).faults()) == [fault]


def test_credentials_in_the_address_do_not_replace_the_token(
    collector: Collector,
) -> None:
    """They are not sent; path and query are as documented."""
    host = collector.url.removeprefix("http://")
    pump = open_pump(f"http://user:pw@{host}/any?channel=c")
    pump.write(named("a"))
    pump.close()
    (request,) = collector.http.requests
    assert request.target == "/services/collector/event/1.0?channel=c"
    assert request.headers["authorization"] == f"Splunk {TOKEN}"
    assert repr(Secret(TOKEN)) in repr(options(collector.url))


def test_two_pumps_with_their_own_tls(authority: Authority) -> None:
    """What one of them does not check, the other does."""
    cert, key = authority.client()
    own = {
        "ssl_ca_file": str(authority.ca_file),
        "ssl_cert_file": str(cert),
        "ssl_key_file": str(key),
    }
    with Collector(authority=authority, demand_certificate=True) as made:
        loose = open_pump(made.url, **own, ssl_insecure_skip_verify=True)
        for meta, words in (
            ({}, "certificate verify failed"),
            ({**own, "ssl_server_name": "elsewhere"}, "elsewhere"),
        ):
            strict = open_pump(made.url, **meta)
            loose.write(named("a"))
            with pytest.raises(TransientError, match=words):
                strict.write(named("b"))
            strict.close()
        good = open_pump(made.url, **own, ssl_server_name="localhost")
        good.write(named("c"))
        good.close()
        loose.close()
        assert made.values("alias") == ["a", "a", "c"]
    with pytest.raises(ConfigError, match="ssl_ca_file"):
        open_pump("https://h", ssl_ca_file="/nowhere")


# A real collector


@pytest.mark.parametrize(
    "meta", [{}, {"enable_batch": False}, {"gzip": True}], ids=["batch", "single", "gz"]
)
def test_open_telemetry_takes_the_events(
    hec_collector: HecCollector, meta: dict[str, Any]
) -> None:
    """Time, metadata, indexed fields and the token arrive with each event."""
    logging.getLogger("urllib3").setLevel(logging.INFO)
    about = {"index": "tyk", "source": "pump", "sourcetype": "json", "host": "h1"}
    pump = open_pump(hec_collector.url, record_id=True, **about, **meta)
    assert pump.probe().endswith("takes the token")
    records = named(*"abcde")
    for at, record in enumerate(records.records):
        record.timestamp = (1_700_000_000 + at, 5)
    pump.write(records)
    pump.close()
    found = hec_collector.events(5)
    assert [event["event"]["alias"] for event in found] == list("abcde")
    assert [event["time"] for event in found] == [1_700_000_000 + n for n in range(5)]
    assert found[4]["fields"] == {RECORD_ID: "S:11"}
    assert {key: found[0][key] for key in about} == about


def test_open_telemetry_over_tls(authority: Authority, tmp_path: Path) -> None:
    """With our own authority, and not without it."""
    with HecCollector(tmp_path, authority) as server:
        pump = open_pump(server.url, ssl_ca_file=str(authority.ca_file), gzip=True)
        pump.write(named("a", "b"))
        pump.close()
        assert [event["event"]["alias"] for event in server.events(2)] == ["a", "b"]
        with pytest.raises(TransientError, match="certificate verify failed"):
            probe(server.url)
