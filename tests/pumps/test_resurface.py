"""What the Resurface pump tells, by option, and what it makes of every answer."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.http import Answer, HttpServer
from tests.servers.resurface import Capture
from tests.servers.tls import Authority
from tyk_pump.config.load import Config, load
from tyk_pump.errors import ConfigError, RejectedRecords, TransientError
from tyk_pump.pumps import resurface
from tyk_pump.pumps.protocol import Batch
from tyk_pump.pumps.resurface import ResurfacePump, drawn
from tyk_pump.record.analytics import AnalyticsRecord

TIME = (1_741_183_629, 123_999_999)
OPEN = "allow_http_url"


@pytest.fixture
def server() -> Iterator[Capture]:
    """A capture endpoint."""
    with Capture() as made:
        yield made


def configured(
    tmp_path: Path, meta: Any, environ: dict[str, str] | None = None
) -> Config:
    """Return a configuration as the command loads it."""
    path = tmp_path / "pump.conf"
    path.write_text(json.dumps({"pumps": {"r": {"type": "resurfaceio", "meta": meta}}}))
    return load(str(path), environ or {})


Make = Callable[..., ResurfacePump]


@pytest.fixture
def made(server: Capture, tmp_path: Path) -> Iterator[Make]:
    """Open pumps with these options for the endpoint; they are closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(environ: dict[str, str] | None = None, **meta: Any) -> ResurfacePump:
            options = {"capture_url": server.url, "rules": OPEN, **meta}
            config = configured(tmp_path, options, environ)
            assert config.every_fault() == [] and config.warnings == []
            pump = ResurfacePump(config.pumps[0].options)
            pump.open()
            stack.callback(pump.close)
            return pump

        yield make


def raw(*lines: str, body: str = "") -> str:
    """Return a raw request or response as the gateway writes it."""
    text = "\r\n".join([*lines, "", body])
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def record(name: str = "", **fields: Any) -> AnalyticsRecord:
    """Return a record with a request and a response."""
    made = AnalyticsRecord(
        method="GET",
        host="a.b",
        raw_path="/path",
        timestamp=TIME,
        response_code=200,
        api_name=name,
        raw_request=raw("GET /raw?q=1 HTTP/1.1", "Host: x.y"),
        raw_response=raw("HTTP/1.1 201 OK", "X-Own: 1", body="{}"),
    )
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def batch(*records: AnalyticsRecord, first: int = 0) -> Batch:
    """Return these records as one batch."""
    return Batch("S", 0, "analytics", range(first, first + len(records)), records)


def named(*names: str) -> Batch:
    """Return records with these names."""
    return batch(*(record(name) for name in names))


def names(server: Capture) -> list[str]:
    """Return the names of what has arrived, in order."""
    return server.values("custom_field:tyk-api-name")


def only(server: Capture) -> list[tuple[str, str]]:
    """Return the details of the one message that has arrived."""
    (message,) = server.messages
    return [(name, value) for name, value in message]


# Messages


def test_a_message_in_full(server: Capture, made: Make) -> None:
    """The details in the order that Resurface documents."""
    one = record(
        "Users",
        api_id="1A",
        api_key="KEY",
        api_version="v1",
        oauth_id="O",
        org_id="ORG",
        ip_address="10.0.0.7",
        request_time=12,
        raw_request=raw(
            "POST /raw?Q=1&q=%C3%A9+x&e=&r=%zz HTTP/1.1",
            "Host: x.y",
            'Cookie: SID=1; theme="dark"; bad name=2',
            body="<&\u2028>",
        ),
    )
    made(rules="include debug", host="pump-1").write(batch(one))
    assert only(server) == [
        ("request_method", "GET"),
        ("request_url", "http://a.b/path"),
        ("response_code", "200"),
        ("request_body", "<&\u2028>"),
        ("request_header:host", "x.y"),
        ("request_header:cookie", 'SID=1; theme="dark"; bad name=2'),
        ("request_header:x-forwarded-for", "10.0.0.7"),
        ("request_param:q", "1"),
        ("request_param:q", "é x"),
        ("request_param:r", "%zz"),
        ("response_header:x-own", "1"),
        ("response_body", "{}"),
        ("session_field:sid", "1"),
        ("session_field:theme", "dark"),
        ("now", "1741183629123"),
        ("interval", "12"),
        ("custom_field:tyk-api-id", "1a"),
        ("custom_field:tyk-api-key", "key"),
        ("custom_field:tyk-api-name", "users"),
        ("custom_field:tyk-api-version", "v1"),
        ("custom_field:tyk-oauth-id", "o"),
        ("custom_field:tyk-org-id", "org"),
        ("host", "pump-1"),
    ]


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "http://a.b/path"),
        ({"host": ""}, "http://x.y/path"),
        ({"raw_path": ""}, "http://a.b/raw"),
        ({"raw_path": "", "raw_request": "", "path": "/p"}, "http://a.b/p"),
        ({"raw_path": "no-slash"}, "http://a.b/no-slash"),
        ({"raw_path": "//two"}, "http://a.b//two"),
        ({"raw_path": "/%41%2"}, "http://a.b/A%2"),
        ({"raw_path": "/a?b=c"}, "http://a.b/a"),
        ({"raw_path": "/a#b?c"}, "http://a.b/a"),
        ({"raw_path": "http://c.d/%41"}, "http://c.d/%41?q=1"),
        (
            {"raw_request": raw("GET / HTTP/1.1", "X-Forwarded-Proto: HTTPS, http")},
            "https://a.b/path",
        ),
        (
            {"raw_request": raw("GET / HTTP/1.1", "X-Forwarded-Proto: spdy")},
            "http://a.b/path",
        ),
    ],
)
def test_urls(server: Capture, made: Make, fields: dict[str, str], url: str) -> None:
    """Path and host of the record, else those of the raw request."""
    made().write(batch(record(**fields)))
    assert dict(only(server))["request_url"] == url


def test_an_own_query_is_not_joined_with_the_raw_one(
    server: Capture, made: Make
) -> None:
    """The reference makes one odd value of the two."""
    made().write(batch(record(raw_path="/a?b=c")))
    found = [pair for pair in only(server) if pair[0].startswith("request_param")]
    assert found == [("request_param:b", "c")]


def test_what_the_record_does_not_know(server: Capture, made: Make) -> None:
    """Method and status of the raw texts stand in; a status nobody knows is 0."""
    unknown: dict[str, Any] = {"method": "", "response_code": 0}
    odd = raw("HTTP/1.1 OK")
    made().write(batch(record(**unknown), record(**unknown, raw_response=odd)))
    assert server.values("request_method") == ["GET", "GET"]
    assert server.values("response_code") == ["201", "0"]


def test_one_raw_text_is_enough(server: Capture, made: Make) -> None:
    """The reference's process ends of a missing request."""
    made().write(batch(record("a", raw_request=""), record("b", raw_response="")))
    assert names(server) == ["a", "b"]
    assert server.values("response_body") == ["{}", ""]


def test_texts_that_are_no_utf8(server: Capture, made: Make) -> None:
    """Each byte becomes a replacement character, wherever it stands."""
    odd = raw("GET / HTTP/1.1", "X-\udcff: \udcfe", body="\udcfd")
    made().write(batch(record("\udcff", raw_request=odd)))
    found = dict(only(server))
    assert found["request_header:x-\ufffd"] == "\ufffd"
    assert found["request_body"] == found["custom_field:tyk-api-name"] == "\ufffd"


def test_times(server: Capture, made: Make) -> None:
    """Milliseconds, also of 1970 and before; an interval of 1 where there is none."""
    times = [(0, 0), (-1, 999_000_000), (5, 999_999)]
    made().write(batch(*(record(timestamp=time) for time in times)))
    assert server.values("now") == ["0", "-1", "5000"]
    assert server.values("interval") == ["1", "1", "1"]


def test_records_without_raw_texts(
    server: Capture,
    made: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is sent of them, and a warning says now and then what to switch on."""
    now = [0.0]
    monkeypatch.setattr(resurface, "monotonic", lambda: now[0])
    nothing = {"raw_request": "", "raw_response": ""}
    pump = made()
    pump.write(batch(record("a"), record("b", **nothing), record("c", **nothing)))
    pump.write(batch(record("d", **nothing), record("e")))
    now[0] = 601.0
    pump.write(batch(record("f", **nothing)))
    assert names(server) == ["a", "e"]
    said = [r for r in caplog.records if "detailed recording" in r.getMessage()]
    assert [getattr(one, "records", None) for one in said] == [1, 3]


# Options


def test_options_about_the_text(server: Capture, made: Make) -> None:
    """Case, scheme and chunks."""
    chunked = raw(
        "HTTP/1.1 200 OK",
        "Transfer-Encoding: chunked",
        body="2\r\nab\r\n0\r\n\r\n",
    )
    one = record("Users", raw_response=chunked)
    made().write(batch(one))
    options: dict[str, Any] = {"url_scheme": "HTTPS", "remove_chunk_framing": True}
    made(keep_case=True, **options).write(batch(one))
    assert names(server) == ["users", "Users"]
    assert server.values("request_url") == ["http://a.b/path", "https://a.b/path"]
    assert server.values("response_body") == ["2\r\nab\r\n0\r\n\r\n", "ab"]


def test_the_name_of_the_machine(server: Capture, made: Make) -> None:
    """The option, else DYNO, else the system's."""
    made({"DYNO": "d"}, host="h").write(named("a"))
    made({"DYNO": "d"}).write(named("b"))
    made({"DYNO": ""}).write(named("c"))
    assert server.values("host") == ["h", "d", socket.gethostname()]


def test_sample_is_the_same_after_every_retry(server: Capture, made: Make) -> None:
    """It draws by the record's id, in about the wanted share."""
    pump = made(rules=f"{OPEN}\nsample 30")
    everything = named(*map(str, range(1000)))
    pump.write(everything)
    first = names(server)
    pump.write(everything)
    assert names(server) == first * 2
    assert 250 < len(first) < 350
    assert first == [str(n) for n in range(1000) if drawn(f"S:{n}") < 30]


def test_rules_of_a_file(server: Capture, made: Make, tmp_path: Path) -> None:
    """They are read anew at each opening; a file that has gone is the operator's."""
    rules = tmp_path / "rules"
    rules.write_text("allow_http_url\nskip_compression\n/response_body/ remove")
    pump = made(rules=f"file://{rules}")
    pump.write(named("a"))
    assert server.http.requests[0].headers.get("content-encoding") is None
    assert server.values("response_body") == [""]
    pump.close()
    rules.write_text("what")
    with pytest.raises(ConfigError, match=f"rules: {rules}: line 1: unknown rule"):
        pump.open()
    rules.unlink()
    with pytest.raises(ConfigError, match=r"rules: .*No such file"):
        pump.open()


@pytest.mark.parametrize(
    ("meta", "environ"),
    [
        ({"disable": True}, {}),
        ({}, {"USAGE_LOGGERS_DISABLE": "true"}),
        ({"rules": f"{OPEN}\nskip_submission"}, {}),
    ],
)
def test_nothing_is_sent(
    server: Capture,
    made: Make,
    caplog: pytest.LogCaptureFixture,
    meta: Any,
    environ: dict[str, str],
) -> None:
    """Records pass, and both the log and a probe say so."""
    pump = made(environ, **meta)
    pump.write(named("a"))
    assert pump.probe().startswith("nothing is sent: ")
    assert server.http.requests == []
    assert "nothing is sent" in caplog.text


def test_variables(server: Capture, made: Make) -> None:
    """Ours win over the file; Resurface's count where nothing else is said."""
    theirs = {
        "USAGE_LOGGERS_URL": "https://nowhere.invalid/",
        "USAGE_LOGGERS_BUNDLE_SIZE": "1",
        "USAGE_LOGGERS_DISABLE": "true",
    }
    pump = made(theirs, disable=False, bundle_size=10_000)
    pump.write(named("a", "b"))
    assert len(server.http.requests) == 1
    prefix = "TYK_PMP_PUMPS_R_META"
    ours = {f"{prefix}_URL": server.url, f"{prefix}_RULES": f"{OPEN}\n/.*r/ remove"}
    made({**theirs, **ours, "USAGE_LOGGERS_DISABLE": ""}).write(named("c", "d"))
    assert names(server) == ["a", "b", "c", "d"]
    assert len(server.http.requests) == 3
    pump = made({"USAGE_LOGGERS_URL": server.url}, capture_url="")
    pump.write(named("e"))
    assert names(server)[4:] == ["e"]


def test_no_file_of_variables_is_read(
    server: Capture, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference takes a .env file in its folder over the environment."""
    (tmp_path / ".env").write_text("USAGE_LOGGERS_DISABLE=true\n")
    monkeypatch.chdir(tmp_path)
    made().write(named("a"))
    assert names(server) == ["a"]


def test_a_queue_diverts_nothing(
    server: Capture, made: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """It is an aid of the reference's own tests."""
    made({"TYK_PMP_PUMPS_R_META_QUEUE": ""}).write(named("a"))
    assert caplog.text == ""
    made(queue=["x"]).write(named("b"))
    assert names(server) == ["a", "b"]
    assert "queue has no effect" in caplog.text


@pytest.mark.parametrize(
    ("meta", "environ", "fault"),
    [
        ({}, {}, "r.meta.capture_url: missing"),
        ({"capture_url": "x"}, {}, "r.meta.capture_url: 'x' must begin with"),
        (
            {"capture_url": "http://a/"},
            {},
            "r.meta.capture_url: must begin with https:// unless the rules say",
        ),
        (
            {"capture_url": "https://a/", "rules": "\nx"},
            {},
            "r.meta.rules: line 2: unknown rule: x",
        ),
        (
            {"capture_url": "https://a/", "rules": "file:///none/r.txt"},
            {},
            "r.meta.rules: /none/r.txt: No such file or directory",
        ),
        (
            {"capture_url": "https://a/"},
            {"USAGE_LOGGERS_BUNDLE_SIZE": "5M"},
            "USAGE_LOGGERS_BUNDLE_SIZE: expected a whole number",
        ),
        (
            {"capture_url": "https://a/"},
            {"USAGE_LOGGERS_BUNDLE_SIZE": "0"},
            "USAGE_LOGGERS_BUNDLE_SIZE: expected int >= 1",
        ),
        (
            {"capture_url": "https://a/"},
            {"USAGE_LOGGERS_DISABLE": "yes"},
            "USAGE_LOGGERS_DISABLE: expected true or false",
        ),
        ({"capture_url": "https://a/", "url_scheme": "ftp"}, {}, "r.meta.url_scheme"),
        ({"capture_url": "https://a/", "ssl_key_file": "k"}, {}, "ssl_cert_file"),
    ],
)
def test_faults(tmp_path: Path, meta: Any, environ: dict[str, str], fault: str) -> None:
    """Each is named with its place, before anything starts."""
    (found,) = configured(tmp_path, meta, environ).every_fault()
    assert fault in found


# Requests and answers


def test_bundles(server: Capture, made: Make) -> None:
    """Of so many bytes at most; a message that is larger goes alone."""
    large = record("large", raw_response=raw("HTTP/1.1 200 OK", body="b" * 3000))
    records = [record("a"), record("b"), large, record("c")]
    made(bundle_size=800, host="h").write(batch(*records))
    assert [len(bundle) for bundle in server.bundles] == [2, 1, 1]
    assert names(server) == ["a", "b", "large", "c"]


def test_a_message_that_is_refused(server: Capture, made: Make) -> None:
    """The others of its bundle arrive."""
    server.refuses = lambda message: ["custom_field:tyk-api-name", "c"] in message
    with pytest.raises(RejectedRecords) as caught:
        made().write(named(*"abcde"))
    assert caught.value.rejected == {2: "400 Bad Request: invalid message"}
    assert names(server) == ["a", "b", "d", "e"]


def test_a_bundle_that_is_too_large(server: Capture, made: Make) -> None:
    """It goes in halves, and the size is remembered; a message alone is dead."""
    server.largest = 1000
    large = record("large", raw_response=raw("HTTP/1.1 200 OK", body="b" * 2000))
    pump = made()
    with pytest.raises(RejectedRecords) as caught:
        pump.write(batch(record("a"), record("b"), large, record("c")))
    assert list(caught.value.rejected) == [2]
    assert "413" in caught.value.rejected[2]
    assert names(server) == ["a", "b", "c"]
    before = len(server.http.requests)
    pump.write(named("d", "e"))
    assert len(server.http.requests) - before <= 2


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Answer(200), "200 OK; 204 was expected: is capture_url"),
        (Answer(202), "202 Accepted"),
        (Answer(301, headers={"Location": "https://c.d/e"}), "moved to https://c.d"),
        (Answer(401), "401 Unauthorized"),
        (Answer(404), "404 Not Found"),
        (Answer(429, headers={"Retry-After": "7"}), "429"),
        (Answer(503, headers={"Retry-After": "7"}), "503"),
        (Answer(hang_up=True), "127.0.0.1"),
        (Answer(garbage=b"\x00\x01\r\n\r\n"), "127.0.0.1"),
        (Answer(500, body=b"word" * 100, cut=10), "127.0.0.1"),
    ],
)
def test_a_bundle_in_vain(
    server: Capture, made: Make, answer: Answer, word: str
) -> None:
    """What was not confirmed stays pending, and what was confirmed does not."""
    server.before = lambda request: answer if server.bundles else None
    pump = made(bundle_size=650, host="h")
    with pytest.raises(TransientError, match=word) as caught:
        pump.write(named(*"abcd"))
    assert caught.value.pending == [2, 3]
    assert caught.value.retry_after == (
        7.0 if answer.headers.get("Retry-After") else None
    )
    server.before = lambda request: None
    pump.write(named("c", "d"))
    assert names(server) == list("abcd")


def test_an_answer_that_does_not_come(server: Capture, made: Make) -> None:
    """The pump does not wait for ever."""
    server.before = lambda request: Answer(204, delay=60)
    with pytest.raises(TransientError, match="no answer in time"):
        made(request_timeout=0.1).write(named("a"))


def test_probe(server: Capture, made: Make) -> None:
    """A bundle of nothing says whether messages would be taken."""
    pump = made()
    assert pump.probe() == f"{server.http.url} takes bundles"
    assert server.messages == []
    server.before = lambda request: Answer(400, b"empty")
    assert pump.probe() == (
        f"{server.http.url} is there, and refuses an empty bundle (400 Bad Request)"
    )
    for status, word in ((200, "204 was expected"), (403, "403"), (503, "503")):
        answer = Answer(status)
        server.before = lambda request, answer=answer: answer  # type: ignore[misc]
        with pytest.raises(TransientError, match=word):
            pump.probe()


def test_no_password_in_a_reason(server: Capture, made: Make) -> None:
    """Credentials of the address are sent, and never said."""
    url = server.url.replace("http://", "http://me:hush@")
    pump = made(capture_url=url)
    pump.write(named("a"))
    sent = server.http.requests[0].headers["authorization"]
    assert sent == "Basic " + base64.b64encode(b"me:hush").decode()
    server.http.close()
    with pytest.raises(TransientError) as caught:
        pump.write(named("b"))
    assert "hush" not in caught.value.reason


def test_tls_of_each_pump_is_its_own(
    made: Make, authority: Authority, tmp_path: Path
) -> None:
    """One believes our authority, the other nobody knows it, a third does not look."""
    ca = str(authority.ca_file)
    with Capture(authority=authority) as server:
        url, other = server.url, server.url.replace("127.0.0.1", "localhost")
        trusting = made(capture_url=url, ssl_ca_file=ca, rules="")
        distrusting = made(capture_url=url)
        careless = made(capture_url=url, ssl_insecure_skip_verify=True)
        with pytest.raises(TransientError, match="certificate verify failed"):
            distrusting.write(named("x"))
        trusting.write(named("a"))
        careless.write(named("b"))
        with pytest.raises(TransientError, match="certificate verify failed"):
            distrusting.write(named("x"))
        elsewhere = made(capture_url=other, ssl_ca_file=ca, ssl_server_name="elsewhere")
        with pytest.raises(TransientError, match="elsewhere"):
            elsewhere.write(named("x"))
        assert names(server) == ["a", "b"]
    with pytest.raises(ConfigError, match="ssl_ca_file"):
        made(capture_url=url, ssl_ca_file=str(tmp_path / "none.pem"))


def test_a_client_certificate(made: Make, authority: Authority) -> None:
    """It is shown to a server that demands one."""
    chain, key = authority.client("tyk")
    with Capture(authority=authority, demand_certificate=True) as server:
        made(
            capture_url=server.url,
            ssl_ca_file=str(authority.ca_file),
            ssl_cert_file=str(chain),
            ssl_key_file=str(key),
        ).write(named("a"))
        assert names(server) == ["a"]
        assert server.http.requests[0].peer is not None


def test_a_proxy_of_the_environment(
    made: Make, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests go through its tunnel."""
    with HttpServer(lambda request: Answer(204)) as proxy:
        proxy.authority = authority
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        url = "https://capture.invalid:7701/message"
        made(capture_url=url, ssl_ca_file=str(authority.ca_file)).write(named("a"))
        assert proxy.tunnels == ["capture.invalid:7701"]
        assert [one.authority for one in proxy.requests] == ["capture.invalid:7701"]


def test_a_level_of_quiet(
    server: Capture, made: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A usual run says nothing."""
    caplog.set_level(logging.INFO, "tyk_pump")
    made().write(named("a"))
    assert caplog.text == ""
