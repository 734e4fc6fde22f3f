"""The elasticsearch pump: its options, and every kind of fault."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.cluster import ClusterServer, refused
from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.tls import Authority
from tyk_pump.config.load import load
from tyk_pump.config.options import Secret
from tyk_pump.errors import ConfigError, RejectedRecords, TransientError
from tyk_pump.pumps.elasticsearch import (
    BulkConfig,
    ElasticsearchOptions,
    ElasticsearchPump,
)
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.body import decoded_part
from tyk_pump.transport import elastic

NOON = 1_741_176_000  # 2025-03-05, 12:00 UTC
Open = Callable[..., ElasticsearchPump]


@pytest.fixture
def cluster() -> Iterator[ClusterServer]:
    """An imitation of Elasticsearch 7."""
    with ClusterServer() as server:
        yield server


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open pumps; they are closed after the test."""
    with contextlib.ExitStack() as stack:

        def give(url: str, **options: Any) -> ElasticsearchPump:
            meta = {"version": "7", "elasticsearch_url": url, **options}
            pump = ElasticsearchPump(ElasticsearchOptions(**meta))
            pump.open()
            stack.callback(pump.close)
            return pump

        yield give


def record(number: int, **fields: Any) -> AnalyticsRecord:
    """Return a record that is known by its alias."""
    made = AnalyticsRecord(alias=f"n{number}", timestamp=(NOON + number, 0))
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def batch(count: int, **fields: Any) -> Batch:
    """Return a batch of a stream's beginning."""
    records = [record(number, **fields) for number in range(count)]
    return Batch("S", 0, "list", range(count), records, cursor="ES")


def aliases(cluster: ClusterServer) -> list[str]:
    """Return who has arrived, in order."""
    return [document.source["alias"] for document in cluster.documents]


def numbered(*numbers: int) -> list[str]:
    """Return aliases."""
    return [f"n{number}" for number in numbers]


def faults(tmp_path: Path, **meta: Any) -> list[str]:
    """Return what the configuration says of these options."""
    path = tmp_path / "pump.conf"
    section = {"type": "elasticsearch", "meta": meta}
    path.write_text(json.dumps({"pumps": {"x": section}}))
    return load(str(path), {}).every_fault()


# Versions


@pytest.mark.parametrize(
    ("number", "distribution", "version"),
    [
        ("1.7.6", "", "3"),
        ("2.4.6", "", "3"),
        ("5.6.16", "", "5"),
        ("6.8.23", "", "6"),
        ("7.17.28", "", "7"),
        ("8.15.5", "", "8"),
        ("9.1.0", "", "9"),
        ("10.0.0", "", "9"),
        ("2.19.1", "opensearch", "opensearch"),
        ("7.10.2", "opensearch", "opensearch"),
        ("", "", "3"),
    ],
)
def test_auto_asks_the_server(
    opened: Open, number: str, distribution: str, version: str
) -> None:
    """A server that does not say what it is has the reference's default."""
    with ClusterServer(number, distribution=distribution) as cluster:
        pump = opened(cluster.url, version="auto")
        pump.write(batch(2))
        assert pump._cluster.version == version
        typed = version in ("3", "5", "6")
        kinds = {document.type for document in cluster.documents}
        assert kinds == ({"tyk_analytics"} if typed else {""})
        (request,) = cluster.bulks
        expected = None if version == "3" else "application/x-ndjson"
        assert request.headers.get("content-type") == expected


@pytest.mark.parametrize("status", [403, 404])
def test_who_keeps_his_version_to_himself_is_modern(
    cluster: ClusterServer, opened: Open, status: int
) -> None:
    """A restricted key may not see `/`; that is no reason not to write."""
    usual = cluster.http.respond
    cluster.http.respond = lambda r: Answer(status) if r.path == "/" else usual(r)
    pump = opened(cluster.url, version="auto")
    assert f"{status}" in pump.probe() and pump._cluster.version == "7"
    pump.write(batch(2))
    assert aliases(cluster) == numbered(0, 1)


def test_auto_asks_again_after_an_upgrade(opened: Open) -> None:
    """The server was replaced by a newer one, which takes no types."""
    with ClusterServer("6.8.23") as cluster:
        pump = opened(cluster.url, version="auto")
        pump.write(batch(1))
        cluster.number = "8.15.5"
        with pytest.raises(TransientError, match="see `version`") as caught:
            pump.write(batch(3))
        assert caught.value.pending == [0, 1, 2]
        pump.write(batch(3))
        assert [document.type for document in cluster.documents][1:] == ["", ""]


def test_auto_waits_for_a_server_that_is_away(opened: Open) -> None:
    """`open` fails at once, to be tried again; nothing waits within."""
    server = HttpServer()
    server.close()
    with pytest.raises(TransientError, match="refused"):
        opened(server.url, version="auto")


def test_a_given_version_asks_nothing(cluster: ClusterServer, opened: Open) -> None:
    """Nothing has to be known before the first batch."""
    opened(cluster.url)
    assert cluster.http.requests == []


def test_media_types_of_elastic(cluster: ClusterServer, opened: Open) -> None:
    """On request only."""
    opened(cluster.url, version="9", compatible_with=8).write(batch(1))
    headers = cluster.bulks[0].headers
    vendor = "application/vnd.elasticsearch+"
    assert headers["content-type"] == f"{vendor}x-ndjson; compatible-with=8"
    assert headers["accept"] == f"{vendor}json; compatible-with=8"


# Where documents go


@pytest.mark.parametrize("single", [False, True])
def test_op_type(cluster: ClusterServer, opened: Open, single: bool) -> None:
    """`create` keeps what is there, `index` replaces it."""
    for op_type, path in (("create", "/changed"), ("index", "/new")):
        pump = opened(cluster.url, op_type=op_type, disable_bulk=single)
        pump.write(batch(2, path=path))
        again = batch(2, path="/again")
        pump.write(again)
        last = path if op_type == "create" else "/again"
        uris = [document.source["request_uri"] for document in cluster.documents]
        assert uris == [last, last]


@pytest.mark.parametrize("version", ["3", "6", "7"])
def test_single_documents(opened: Open, version: str) -> None:
    """One request for each, to a place of its own."""
    numbers = {"3": "2.4.6", "6": "6.8.23", "7": "7.17.28"}
    with ClusterServer(numbers[version]) as cluster:
        options = {"index_name": "é x", "document_type": "t/1", "disable_bulk": True}
        opened(cluster.url, version=version, **options).write(batch(1))
        (request,) = cluster.http.requests
        place = "t%2F1/S%3A0/_create" if version != "7" else "_create/S%3A0"
        assert (request.method, request.path) == ("PUT", f"/%C3%A9%20x/{place}")
        assert request.headers["content-type"] == "application/json"
        assert cluster.documents[0].index == "é x"


def test_rolling_by_the_pumps_day(
    cluster: ClusterServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zone of the pump counts, not the record."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        options = {"rolling_index": True, "rolling_index_by": "pump"}
        before = time.strftime("tyk_analytics-%Y.%m.%d")
        opened(cluster.url, **options).write(batch(1))
        after = time.strftime("tyk_analytics-%Y.%m.%d")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert before <= cluster.documents[0].index <= after


def test_rolling_by_the_records_day(cluster: ClusterServer, opened: Open) -> None:
    """UTC, also for times that nobody expects."""
    times = [0, -1, NOON, 253_402_300_799, -62_135_596_800]
    records = [record(at, timestamp=(at, 0)) for at in times]
    run = Batch("S", 0, "list", range(5), records, cursor="ES")
    opened(cluster.url, rolling_index=True, index_name="i").write(run)
    assert [document.index for document in cluster.documents] == [
        "i-1970.01.01",
        "i-1969.12.31",
        "i-2025.03.05",
        "i-9999.12.31",
        "i-0001.01.01",
    ]


def test_ids(cluster: ClusterServer, opened: Open) -> None:
    """A replay keeps the ids of its records, whatever is in them."""
    run = batch(2)
    run.ids = ["OLD:7", 'a"b\\é']
    opened(cluster.url).write(run)
    assert [document.id for document in cluster.documents] == run.ids


def test_generated_ids_tell_parts_apart(cluster: ClusterServer, opened: Open) -> None:
    """Parts have borders, and bytes that are no UTF-8 count."""
    records = [
        record(0, method="GET", path="/a"),
        record(0, method="GET/", path="a"),
        record(0, method="GET", path="/\udcff"),
        record(0, method="GET", path="/\udcfe"),
        record(0, method="GET", path="/a", response_code=500),
    ]
    run = Batch("S", 0, "list", range(5), records, cursor="ES")
    opened(cluster.url, generate_id=True).write(run)
    # The last one says the same as the first, as far as the id goes.
    assert len(cluster.documents) == 4
    assert all(len(document.id) == 22 for document in cluster.documents)


def test_template(opened: Open) -> None:
    """Each version has its form; a data stream is asked for in it."""
    forms = {}
    for number in ("2.4.6", "5.6.16", "6.8.23", "8.15.5"):
        with ClusterServer(number) as cluster:
            options = {"version": "auto", "index_template": True, "index_name": "i"}
            stream = {"data_stream": True} if number[0] == "8" else {}
            pump = opened(cluster.url, mcp_index_name="m", **options, **stream)
            assert cluster.templates == {}
            for _ in range(2):
                pump.write(batch(1))
            ((path, forms[number[0]]),) = cluster.templates.items()
            expected = "_index_template" if number[0] == "8" else "_template"
            assert path == f"/{expected}/i"
    assert forms["2"]["template"] == forms["5"]["template"] == "i"
    assert forms["6"]["index_patterns"] == forms["8"]["index_patterns"] == ["i", "m"]
    old = forms["2"]["mappings"]["tyk_analytics"]["properties"]
    assert old["api_id"]["type"] == "string"
    assert forms["8"]["data_stream"] == {}
    kinds = forms["8"]["template"]["mappings"]["properties"]
    assert kinds["response_code"] == {"type": "long"} and "mcp_method" in kinds


def test_a_template_that_is_refused_keeps_the_records(
    cluster: ClusterServer, opened: Open
) -> None:
    """Without it the index would get another shape, for good."""
    usual = cluster.http.respond
    cluster.http.respond = lambda r: (
        of({"error": {"type": "x", "reason": "no"}}, 400)
        if "template" in r.path
        else usual(r)
    )
    pump = opened(cluster.url, index_template=True)
    with pytest.raises(TransientError, match="index template tyk_analytics: x: no"):
        pump.write(batch(2))
    cluster.http.respond = usual
    pump.write(batch(2))
    assert aliases(cluster) == numbered(0, 1)


def test_extended_stats(cluster: ClusterServer, opened: Open) -> None:
    """The raw bodies are decoded by the worker only where they are sent."""
    assert "raw_request" not in opened(cluster.url, decode_base64=True).fields
    pump = opened(cluster.url, extended_stats=True, decode_base64=True)
    assert {"raw_request", "raw_response", "user_agent"} <= set(pump.fields)
    raw = base64.b64encode(b"GET /\xff").decode()
    pump.write(batch(1, raw_request=raw, raw_response="aGk=!", user_agent="ua"))
    line = cluster.documents[0].line
    assert '"raw_request":"GET /\\ufffd"' in line
    assert '"raw_response":"hi"' in line and '"user_agent":"ua"' in line


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", ""),
        ("aGVsbG8=", "hello"),
        ("aGVs\r\nbG8=", "hello"),
        ("aGVsb", "hel"),
        ("aGVsbG8", "hel"),
        ("aGVs bG8=", "hel"),
        ("aGk=aGk=", "hi"),
        ("=", ""),
        ("éGVs", ""),
        ("/+8=", "\udcff\udcef"),
    ],
)
def test_decoded_part(text: str, meant: str) -> None:
    """What stands before the first fault counts."""
    assert decoded_part(text) == meant


# Requests


def test_bulk_bounds(cluster: ClusterServer, opened: Open) -> None:
    """By count, by bytes, or by neither; a record that is larger goes alone."""
    sizes = {}
    for name, bounds in {
        "actions": {"bulk_actions": 4},
        "bytes": {"bulk_size": 1500},
        "tiny": {"bulk_size": 1},
        "none": {"bulk_actions": -1, "bulk_size": -1},
        "default": {"bulk_actions": 0, "bulk_size": 0},
    }.items():
        cluster.http.requests.clear()
        pump = opened(cluster.url, index_name=name, bulk_config=BulkConfig(**bounds))
        pump.write(batch(10))
        sizes[name] = [one.body.count(b"\n") // 2 for one in cluster.bulks]
    assert sizes == {
        "actions": [4, 4, 2],
        "bytes": [4, 4, 2],
        "tiny": [1] * 10,
        "none": [10],
        "default": [10],
    }


def test_workers_send_side_by_side(cluster: ClusterServer, opened: Open) -> None:
    """Four requests are under way at once; everything arrives once."""
    gate = threading.Barrier(4, timeout=20)
    usual = cluster.http.respond

    def respond(request: Request) -> Answer:
        gate.wait()
        return usual(request)

    cluster.http.respond = respond
    bounds = BulkConfig(workers=4, bulk_actions=5, flush_interval=60)
    opened(cluster.url, bulk_config=bounds).write(batch(20))
    assert sorted(aliases(cluster)) == sorted(numbered(*range(20)))


def test_nodes_in_turn(opened: Open) -> None:
    """Around a dead one; names of the list may have blanks around them."""
    with ClusterServer() as one, ClusterServer() as two, ClusterServer() as three:
        pump = opened(
            f" {one.url}, {two.url}/ ,{three.url}",
            bulk_config=BulkConfig(bulk_actions=1),
        )
        pump.write(batch(6))
        assert [len(each.bulks) for each in (one, two, three)] == [2, 2, 2]
        two.http.close()
        pump.write(batch(9))
        counts = [len(each.bulks) for each in (one, two, three)]
        assert counts[1] == 2 and sum(counts) == 15


def test_sniffing(opened: Open) -> None:
    """The nodes that are named are used, not the one that was asked."""
    with ClusterServer() as asked, ClusterServer() as one, ClusterServer() as two:
        asked.nodes = {
            "a": {"http": {"publish_address": f"127.0.0.1:{one.http.port}"}},
            "b": {"http": {"publish_address": f"localhost/127.0.0.1:{two.http.port}"}},
            "m": {"roles": ["master"], "http": {"publish_address": "10.0.0.1:9200"}},
            "c": {},
        }
        pump = opened(
            asked.url, use_sniffing=True, bulk_config=BulkConfig(bulk_actions=1)
        )
        pump.write(batch(4))
        assert len(one.documents) == len(two.documents) == 2
        assert [request.path for request in asked.http.requests] == ["/_nodes/http"]
        one.http.close()
        two.http.close()
        asked.nodes = {}
        with pytest.raises(TransientError, match="refused"):
            pump.write(batch(4))
        # Back to where it began, and there it asks anew.
        pump.write(batch(4))
        assert aliases(asked) == numbered(0, 1, 2, 3)


def test_sniffing_that_is_not_allowed(
    cluster: ClusterServer, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Then the known nodes do."""
    usual = cluster.http.respond
    cluster.http.respond = lambda r: Answer(403) if "_nodes" in r.path else usual(r)
    caplog.set_level(logging.WARNING)
    opened(cluster.url, use_sniffing=True).write(batch(1))
    assert aliases(cluster) == numbered(0)
    assert "the known ones are used" in caplog.text


@pytest.mark.parametrize(
    ("published", "address"),
    [
        ("127.0.0.1:9200", "127.0.0.1:9200"),
        ("es1.example/10.0.0.7:9200", "es1.example:9200"),
        ("inet[/10.0.0.7:9200]", "10.0.0.7:9200"),
        ("inet[es1/10.0.0.7:9200]", "es1:9200"),
        ("[::1]:9200", "[::1]:9200"),
        ("es1/[::1]:9201", "es1:9201"),
        ("", ""),
    ],
)
def test_published_addresses(published: str, address: str) -> None:
    """All the forms that versions have."""
    assert elastic._address(published) == address


# Credentials, TLS, proxies


def test_credentials(cluster: ClusterServer, opened: Open) -> None:
    """The strongest that is complete: encoded key, key, basic, the address's own."""
    inside = cluster.url.replace("//", "//in:side@")
    basic = {"auth_basic_username": "u", "auth_basic_password": Secret("p:w")}
    half = {**basic, "auth_api_key": Secret("key")}
    key = {**half, "auth_api_key_id": "id"}
    encoded = {**key, "auth_api_key_encoded": Secret("RU5D")}
    for options in ({}, basic, half, key, encoded):
        opened(inside, **options).write(batch(1))
    given = [one.headers["authorization"] for one in cluster.http.requests]
    assert given == [
        "Basic aW46c2lkZQ==",
        "Basic dTpwOnc=",
        "Basic dTpwOnc=",
        "ApiKey aWQ6a2V5",
        "ApiKey RU5D",
    ]
    opened(cluster.url).write(batch(1))
    assert "authorization" not in cluster.http.requests[-1].headers


def test_tls_of_its_own(opened: Open, authority: Authority) -> None:
    """Two pumps in one process: only one believes the server, only one is known."""
    cert, key = authority.client()
    ca = {"use_ssl": True, "ssl_ca_file": str(authority.ca_file)}
    own = {"ssl_cert_file": str(cert), "ssl_key_file": str(key)}
    with ClusterServer(authority=authority, demand_certificate=True) as cluster:
        whole = opened(cluster.url, **ca, **own)
        nobody = opened(cluster.url, **ca)
        distrustful = opened(cluster.url, use_ssl=True)
        for pump in (nobody, distrustful):
            with pytest.raises(TransientError):
                pump.write(batch(1))
        whole.write(batch(1))
        assert cluster.http.requests[0].peer is not None
        assert len(cluster.http.requests) == 1


def test_tls_names_and_no_verification(opened: Open, authority: Authority) -> None:
    """The expected name can be another; or nothing is looked at."""
    ca = {"ssl_ca_file": str(authority.ca_file)}
    with ClusterServer(authority=authority) as cluster:
        for works, options in (
            (True, {"use_ssl": True, **ca}),
            (True, {"use_ssl": True, **ca, "ssl_server_name": "localhost"}),
            (False, {"use_ssl": True, **ca, "ssl_server_name": "example.org"}),
            (True, {"use_ssl": True, "ssl_insecure_skip_verify": True}),
            (False, {"use_ssl": True}),
            # Without use_ssl the options have no effect.
            (False, ca),
        ):
            pump = opened(cluster.url, **options)
            if works:
                pump.write(batch(1))
            else:
                with pytest.raises(TransientError, match="certificate"):
                    pump.write(batch(1))


def test_proxies(
    opened: Open, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the environment; beside use_ssl only on request."""
    ca = {"use_ssl": True, "ssl_ca_file": str(authority.ca_file)}
    with ClusterServer() as plain, ClusterServer(authority=authority) as behind:
        # The imitation serves tunnels itself; the proxy is spoken to in the clear.
        proxy = HttpServer(behind.respond)
        proxy.authority = authority
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        try:
            opened("http://elastic.invalid:9200").write(batch(1))
            assert proxy.requests[-1].target.startswith("http://elastic.invalid:9200/")
            behind.documents.clear()
            opened("https://elastic.invalid", use_ssl_through_proxy=True, **ca).write(
                batch(1)
            )
            assert proxy.tunnels == ["elastic.invalid:443"]
            opened(behind.url, **ca).write(batch(1))
            assert len(behind.http.requests) == 1
        finally:
            proxy.close()
        assert plain.http.requests == []


# Faults


def test_option_faults(tmp_path: Path) -> None:
    """Each has its place; a password in an address is not shown."""
    place = "pumps.x.meta."

    def of_(**meta: Any) -> str:
        (fault,) = faults(tmp_path, **meta)
        assert fault.startswith(place) and "s3cret" not in fault
        return fault.removeprefix(place)

    assert "elasticsearch_url" in of_(elasticsearch_url="u:s3cret@host:9200")
    assert "no address" in of_(elasticsearch_url="http://u:s3cret@h:x")
    assert of_(elasticsearch_url=" , ") == "elasticsearch_url: names no node"
    assert "version" in of_(version="4")
    assert "rolling_index_by" in of_(rolling_index_by="gateway")
    assert "data stream" in of_(data_stream=True, rolling_index=True)
    assert "create" in of_(data_stream=True, op_type="index")
    assert of_(data_stream=True, version="6") == "data_stream: version 6 has none"
    assert "ssl_key_file" in of_(use_ssl=True, ssl_cert_file="x")
    assert faults(tmp_path, ssl_cert_file="x") == []
    assert faults(tmp_path, enable_sniffing=True, version="") == []


def test_secrets_are_not_shown() -> None:
    """Not even those in an address."""
    options = ElasticsearchOptions(
        elasticsearch_url="http://u:s3cret@a:1,https://v:s3cret@b",
        auth_basic_password=Secret("s3cret"),
    )
    assert "s3cret" not in repr(options) + str(options)
    assert "http://a:1,https://b" in repr(options)


def test_a_bad_address_without_the_loader() -> None:
    """`open` names it too."""
    with pytest.raises(ConfigError, match="elasticsearch_url"):
        ElasticsearchPump(ElasticsearchOptions(elasticsearch_url="x")).open()


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("status", [401, 403, 404, 406, 408, 429, 500, 502, 503, 504])
def test_statuses_that_pass(
    cluster: ClusterServer, opened: Open, status: int, single: bool
) -> None:
    """The third request fails: what it had and all behind it stays pending."""
    usual, count = cluster.http.respond, 0

    def respond(request: Request) -> Answer:
        nonlocal count
        count += 1
        if count == 3:
            return Answer(status, b"why", {"Retry-After": "7"})
        return usual(request)

    cluster.http.respond = respond
    bounds = BulkConfig(bulk_actions=2)
    pump = opened(cluster.url, disable_bulk=single, bulk_config=bounds)
    with pytest.raises(TransientError, match=str(status)) as caught:
        pump.write(batch(8))
    first = 2 if single else 4
    assert caught.value.pending == list(range(first, 8))
    if status != 406:
        assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    "answer",
    [
        Answer(hang_up=True),
        Answer(200, b'{"errors":false,"items":[]}', cut=10),
        Answer(garbage=b"\x00\x01\r\n\r\n"),
        Answer(200, b"<html>welcome</html>"),
        Answer(200, b"{}"),
        Answer(200, b"[]"),
        Answer(200, b'{"errors":true}'),
        Answer(200, b'{"errors":false,"items":[{"create":{"status":201}}]}'),
        Answer(202, b'{"errors":false,"items":[]}'),
        Answer(302, b"", {"Location": "http://elsewhere/"}),
        Answer(200, delay=30),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_half_answers_confirm_nothing(
    cluster: ClusterServer, opened: Open, answer: Answer, single: bool
) -> None:
    """All of them are sent again, and then they are there once."""
    pump = opened(cluster.url, disable_bulk=single, request_timeout=0.5)
    usual = cluster.http.respond

    def respond(request: Request) -> Answer:
        usual(request)  # the server has taken it, and says so badly
        return answer

    with cluster.http.answering(respond), pytest.raises(TransientError) as caught:
        pump.write(batch(3))
    assert caught.value.pending == [0, 1, 2]
    pump.write(batch(3))
    assert aliases(cluster) == numbered(0, 1, 2)


@pytest.mark.parametrize(
    ("status", "kind", "refused_for_good"),
    [
        (400, "mapper_parsing_exception", True),
        (400, "document_parsing_exception", True),
        (400, "strict_dynamic_mapping_exception", True),
        (400, "illegal_argument_exception", True),
        (413, "too_large", True),
        (400, "invalid_index_name_exception", False),
        (400, "index_closed_exception", False),
        (400, "validation_exception", False),
        (401, "security_exception", False),
        (403, "cluster_block_exception", False),
        (404, "index_not_found_exception", False),
        (408, "timeout_exception", False),
        (429, "es_rejected_execution_exception", False),
        (500, "node_closed_exception", False),
        (503, "unavailable_shards_exception", False),
        (507, "insufficient", False),
    ],
)
def test_items(
    cluster: ClusterServer,
    opened: Open,
    status: int,
    kind: str,
    refused_for_good: bool,
) -> None:
    """Refused, or pending; the others are in, and requests behind are not sent."""
    cluster.judge = lambda document: (
        refused(status, kind) if document.source["alias"] in ("n1", "n3") else None
    )
    pump = opened(cluster.url, bulk_config=BulkConfig(bulk_actions=5))
    if refused_for_good:
        with pytest.raises(RejectedRecords) as rejected:
            pump.write(batch(8))
        words = f"{kind}: failed with {status}"
        assert rejected.value.rejected == {1: words, 3: words}
        assert aliases(cluster) == numbered(0, 2, 4, 5, 6, 7)
    else:
        with pytest.raises(TransientError, match=f"{status}: {kind}") as pending:
            pump.write(batch(8))
        assert pending.value.pending == [1, 3, 5, 6, 7]
        assert pending.value.rejected == {}
        assert aliases(cluster) == numbered(0, 2, 4)


def test_both_at_once(cluster: ClusterServer, opened: Open) -> None:
    """One refused, one not taken now, one there already."""
    verdicts = {"n1": refused(400), "n2": refused(429)}
    cluster.judge = lambda document: verdicts.get(document.source["alias"])
    pump = opened(cluster.url)
    with pytest.raises(TransientError, match="429") as caught:
        pump.write(batch(4))
    assert caught.value.pending == [2] and list(caught.value.rejected) == [1]
    cluster.judge = lambda document: None
    pump.write(batch(4))
    assert sorted(aliases(cluster)) == numbered(0, 1, 2, 3)


def test_a_clients_words_do_not_decide(cluster: ClusterServer, opened: Open) -> None:
    """What stands in a record may not make its refusal the operator's fault."""
    words = "field [x] does not match [no write index is defined for alias]"
    error = {"type": "illegal_argument_exception", "reason": words}
    cluster.judge = lambda document: {"status": 400, "error": error}
    for single in (False, True):
        with pytest.raises(RejectedRecords):
            opened(cluster.url, disable_bulk=single).write(batch(1))


def test_errors_of_old_servers(cluster: ClusterServer, opened: Open) -> None:
    """Version 1 says them as a text; causes are told."""
    reasons = {
        "n0": "MapperParsingException[failed]",
        "n1": {
            "type": "mapper_parsing_exception",
            "reason": "failed to parse",
            "caused_by": {"type": "number_format_exception", "reason": 'input "x"'},
        },
        "n2": None,
    }
    cluster.judge = lambda document: {
        "status": 400,
        "error": reasons[document.source["alias"]],
    }
    with pytest.raises(RejectedRecords) as caught:
        opened(cluster.url).write(batch(3))
    assert caught.value.rejected == {
        0: "MapperParsingException[failed]",
        1: "mapper_parsing_exception: failed to parse, caused by "
        'number_format_exception: input "x"',
        2: "refused with status 400",
    }


def test_too_large(opened: Open) -> None:
    """Halved until it fits, and remembered; what alone does not fit is refused."""
    with ClusterServer(largest=2000) as cluster:
        run = batch(12)
        run.records[5].path = "x" * 3000
        pump = opened(cluster.url)
        with pytest.raises(RejectedRecords, match="413") as caught:
            pump.write(run)
        assert list(caught.value.rejected) == [5]
        assert sorted(aliases(cluster)) == sorted(numbered(*{*range(12)} - {5}))
        cluster.http.requests.clear()
        again = batch(12)
        again.positions = range(100, 112)
        pump.write(again)
        assert all(len(one.raw) <= 2000 for one in cluster.bulks)
        single = opened(cluster.url, disable_bulk=True, index_name="s")
        with pytest.raises(RejectedRecords, match="413") as caught:
            single.write(run)
        assert list(caught.value.rejected) == [5]


def test_a_whole_request_that_is_refused(cluster: ClusterServer, opened: Open) -> None:
    """It is halved until the culprit stands alone, without being named."""
    usual = cluster.http.respond

    def respond(request: Request) -> Answer:
        if b'"alias":"n5"' in request.body:
            error = {"type": "x_content_parse_exception", "reason": "depth"}
            return of({"error": error}, 400)
        return usual(request)

    cluster.http.respond = respond
    with pytest.raises(RejectedRecords) as caught:
        opened(cluster.url).write(batch(9))
    reason = "400 Bad Request: x_content_parse_exception: depth"
    assert caught.value.rejected == {5: reason}
    assert sorted(aliases(cluster)) == numbered(0, 1, 2, 3, 4, 6, 7, 8)


def test_wrong_credentials(opened: Open) -> None:
    """They are said, nothing is refused for them, and no secret is shown."""
    with ClusterServer(authorization="Basic dTpw") as cluster:
        options = {
            "auth_basic_username": "u",
            "auth_basic_password": Secret("s3cret-word"),
        }
        with pytest.raises(TransientError, match="401 Unauthorized") as caught:
            opened(cluster.url, **options).write(batch(3))
        assert caught.value.pending == [0, 1, 2]
        assert "s3cret" not in caught.value.reason
        with pytest.raises(TransientError, match="401 Unauthorized"):
            opened(cluster.url, version="auto", **options)


def test_probe(opened: Open) -> None:
    """One line with product, version and nodes."""
    with ClusterServer("2.19.1", distribution="opensearch") as cluster:
        assert opened(cluster.url, version="auto").probe() == (
            "OpenSearch 2.19.1 answers, spoken to as version opensearch, 1 node(s)"
        )
    with ClusterServer("") as cluster:
        assert opened(cluster.url).probe() == (
            "a server answers 200 OK, spoken to as version 7, 1 node(s)"
        )
