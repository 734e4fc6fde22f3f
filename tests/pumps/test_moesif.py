"""What the moesif pump sends, by option, and what it makes of every answer."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.http import Answer, Request, of
from tests.servers.moesif import Moesif
from tests.servers.tls import Authority
from tyk_pump.config.load import Config, load
from tyk_pump.errors import ConfigError, RejectedRecords, TransientError
from tyk_pump.pumps import moesif
from tyk_pump.pumps.moesif import MoesifPump, masked_body, user_of
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record.analytics import AnalyticsRecord

TIME = (1_741_183_629, 120_000_000)


@pytest.fixture
def server() -> Iterator[Moesif]:
    """A collector of the application app-1."""
    with Moesif() as made:
        yield made


def configured(tmp_path: Path, meta: Any, environ: dict[str, str]) -> Config:
    """Return a configuration as the command loads it."""
    path = tmp_path / "pump.conf"
    path.write_text(json.dumps({"pumps": {"m": {"type": "moesif", "meta": meta}}}))
    return load(str(path), environ)


Make = Callable[..., MoesifPump]


@pytest.fixture
def made(server: Moesif, tmp_path: Path) -> Iterator[Make]:
    """Open pumps with these options for the collector; they are closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(
            bulk: dict[str, Any] | None = None,
            environ: dict[str, str] | None = None,
            url: str = "",
            **meta: Any,
        ) -> MoesifPump:
            options = {
                "application_id": "app-1",
                "enable_bulk": True,
                "bulk_config": {"api_endpoint": url or server.url, **(bulk or {})},
                **meta,
            }
            config = configured(tmp_path, options, environ or {})
            assert config.every_fault() == [] and config.warnings == []
            pump = MoesifPump(config.pumps[0].options)
            pump.open()
            stack.callback(pump.close)
            return pump

        yield make


def encoded(*parts: str) -> str:
    """Return a raw request or response as the gateway writes it."""
    return base64.b64encode("".join(parts).encode()).decode()


def record(name: str = "", **fields: Any) -> AnalyticsRecord:
    """Return a record with a request and a response."""
    made = AnalyticsRecord(
        method="POST",
        path="/path",
        alias=name,
        timestamp=TIME,
        response_code=200,
        raw_request=encoded("POST /p?q=1 HTTP/1.1\r\nHost: a.b\r\n\r\n", "{}"),
        raw_response=encoded("HTTP/1.1 200 OK\r\nX-Own: 1\r\n\r\n", "{}"),
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


def users(server: Moesif) -> list[str]:
    """Return the users of what has arrived, in order."""
    return [event["user_id"] for event in server.events]


def only(server: Moesif) -> Any:
    """Return the one event that has arrived."""
    (event,) = server.events
    return event


def body(part: Any) -> bytes:
    """Return the body of a request or response."""
    return base64.b64decode(part["body"])


# Events


def test_an_event_in_full(server: Moesif, made: Make) -> None:
    """Members, their order and the identity of a record."""
    one = record("al", request_time=12, tags=["t"], api_name="N", api_key="k")
    made().write(batch(one, first=7))
    event = only(server)
    request, response = event["request"], event["response"]
    assert list(event) == [
        "request",
        "response",
        "session_token",
        "user_id",
        "company_id",
        "metadata",
        "direction",
        "weight",
        "transaction_id",
    ]
    assert request["time"] == "2025-03-05T14:07:09.12Z"
    assert response["time"] == "2025-03-05T14:07:09.132Z"
    assert request["uri"] == "/p?q=1" and request["verb"] == "POST"
    assert request["headers"] == {"host": "a.b"} and body(request) == b"{}"
    assert response["headers"] == {"x-own": "1"} and response["status"] == 200
    assert event["metadata"] == {"tyk": {"api_name": "N", "tags": ["t"]}}
    assert event["session_token"] == "k" and event["weight"] == 1
    space = uuid.uuid5(uuid.NAMESPACE_URL, "tyk-pump:record")
    assert event["transaction_id"] == str(uuid.uuid5(space, "S:7"))


def test_a_repeat_has_the_same_identity(server: Moesif, made: Make) -> None:
    """So that Moesif leaves it out."""
    pump = made()
    pump.write(named("a", "b"))
    pump.write(named("a", "b"))
    assert users(server) == ["a", "b"]
    assert len(server.asked("POST")) == 2


def test_a_body_is_sent_as_it_is(server: Moesif, made: Make) -> None:
    """Large numbers, order and blanks stay, where nothing is masked."""
    text = '{ "b": 12345678901234567890, "a": 1.0 }\n'
    raw = encoded("POST / HTTP/1.1\r\n\r\n", text)
    made(request_body_masks=["other"]).write(batch(record(raw_request=raw)))
    assert body(only(server)["request"]) == text.encode()


def test_headers_have_no_limit(server: Moesif, made: Make) -> None:
    """A line of a megabyte stops nothing."""
    long = "x" * 1_000_000
    raw = encoded(f"GET / HTTP/1.1\r\nCookie: {long}\r\nHost: z\r\n\r\n")
    made().write(batch(record(raw_request=raw)))
    assert only(server)["request"]["headers"] == {"cookie": long, "host": "z"}


def test_headers_end_at_an_empty_line(server: Moesif, made: Make) -> None:
    """A body behind two bare line feeds is no header, and not shown by mistake."""
    raw = encoded('GET / HTTP/1.1\nHost: a\n\n{"password": "p"}')
    made().write(batch(record(raw_request=raw)))
    request = only(server)["request"]
    assert request["headers"] == {"host": "a"} and request["body"] is None


@pytest.mark.parametrize(
    ("host", "target", "uri"),
    [
        ("api.x", "/p?q=1", "https://api.x/p?q=1"),
        ("", "/p", "https://a.b/p"),
        ("api.x", "http://other/p", "http://other/p"),
        ("api.x", "*", "*"),
    ],
)
def test_a_whole_address(
    server: Moesif, made: Make, host: str, target: str, uri: str
) -> None:
    """`uri_scheme` puts scheme and host before a path, and nowhere else."""
    raw = encoded(f"GET {target} HTTP/1.1\r\nHost: a.b\r\n\r\n")
    pump = made(uri_scheme="https")
    pump.write(batch(record(host=host, raw_request=raw)))
    assert only(server)["request"]["uri"] == uri
    assert "host" in pump.fields and "host" not in made().fields


def test_a_whole_address_needs_a_host(server: Moesif, made: Make) -> None:
    """Without one, or where it is masked, the path stands alone."""
    none = record(raw_request=encoded("GET /p HTTP/1.1\r\n\r\n"))
    made(uri_scheme="http", request_header_masks=["HOST"]).write(batch(none, record()))
    assert [event["request"]["uri"] for event in server.events] == ["/p", "/p?q=1"]


def test_bodies_that_are_not_wanted(server: Moesif, made: Make) -> None:
    """Each side by its own option."""
    pump = made(disable_capture_request_body=True)
    pump.write(batch(record()))
    pump = made(disable_capture_response_body=True)
    pump.write(batch(record(), first=1))
    first, second = server.events
    assert first["request"]["body"] is None and body(first["response"]) == b"{}"
    assert second["response"]["body"] is None and body(second["request"]) == b"{}"


# Masks


def test_header_masks_in_any_case(server: Moesif, made: Make) -> None:
    """All spellings of a header are masked, each side by its own list."""
    raw = encoded("GET / HTTP/1.1\r\nX-Secret: a\r\nx-SECRET: b\r\nOther: c\r\n\r\n")
    back = encoded("HTTP/1.1 200 OK\r\nSet-Cookie: s\r\nOther: c\r\n\r\n")
    pump = made(
        request_header_masks=["x-Secret"], response_header_masks=["SET-COOKIE", "no"]
    )
    pump.write(batch(record(raw_request=raw, raw_response=back)))
    event = only(server)
    assert event["request"]["headers"] == {"x-secret": "*****", "other": "c"}
    assert event["response"]["headers"] == {"set-cookie": "*****", "other": "c"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (b'{"s": 1, "a": 1.0}', b'{"a":1.0,"s":"*****"}'),
        (b'{"l": [[{"s": {"x": 1}}], 2]}', b'{"l":[[{"s":"*****"}],2]}'),
        (b'[{"s": null}]', b'[{"s":"*****"}]'),
        (
            b'{"s":1,"n":12345678901234567890}',
            b'{"n":12345678901234567890,"s":"*****"}',
        ),
        (b'{"s":1,"e":1E400}', b'{"e":1E400,"s":"*****"}'),
        (b'{"s":1,"t":"<\xff\\ud800"}', b'{"s":"*****","t":"\\u003c\\ufffd\\ufffd"}'),
        (b'{"S": 1,  "n": 2}', b'{"S": 1,  "n": 2}'),
        (b'{"\\u0073": 1,  "n": 2}', b'{"n":2,"s":"*****"}'),
        (b'{"x": "a s", "n": 2}', b'{"x": "a s", "n": 2}'),
        (b"s=1&t=2", b"s=1&t=2"),
        (b'{"s": NaN}', b'{"s": NaN}'),
        (b'{"s": 1', b'{"s": 1'),
        (b"", b""),
        (b'[{"s":1},' + b"[" * 200_000 + b"]" * 200_000 + b"]", b'"*****"'),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_masked_bodies(text: bytes, masked: bytes) -> None:
    """Keys at any depth; numbers stay as written; what is no JSON stays as it is."""
    assert masked_body(text, frozenset({"s"})) == masked


def test_body_masks_by_side(server: Moesif, made: Make) -> None:
    """Each side by its own list."""
    text = '{"a":1,"b":2}'
    raw = encoded("POST / HTTP/1.1\r\n\r\n", text)
    back = encoded("HTTP/1.1 200 OK\r\n\r\n", text)
    pump = made(request_body_masks=["a"], response_body_masks=["b"])
    pump.write(batch(record(raw_request=raw, raw_response=back)))
    event = only(server)
    assert body(event["request"]) == b'{"a":"*****","b":2}'
    assert body(event["response"]) == b'{"a":1,"b":"*****"}'


# Users and companies


def jwt(**claims: Any) -> str:
    """Return a token with these claims."""
    payload = json.dumps(claims).encode()
    return f"h.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.s"


@pytest.mark.parametrize(
    ("value", "user"),
    [
        (f"Bearer {jwt(sub='u')}", "u"),
        (jwt(sub="u"), "u"),
        (f"Bearer {jwt(sub=12345678901234567890)}", "12345678901234567890"),
        (f"Bearer {jwt(sub=1.5)}", "1.5"),
        (f"Bearer {jwt(sub=True)}", ""),
        (f"Bearer {jwt(sub=None)}", ""),
        (f"Bearer {jwt(sub=['u'])}", ""),
        (f"Bearer {jwt(sub={'u': 1})}", ""),
        (f"Bearer {jwt(sub='ü?>')}", "ü?>"),
        (f"Bearer {jwt(other='u')}", ""),
        ("Bearer opaque", ""),
        ("Bearer a.!.c", ""),
        ("Bearer a.W10.c", ""),
        ("Basic dTpw", "u"),
        ("Basic dQ", "u"),
        ("Basic !!!", ""),
        ("*****", ""),
        ("", ""),
    ],
)
def test_users_of_an_authorization_header(value: str, user: str) -> None:
    """Whatever stands there, it is a user or nothing, never a failure."""
    assert user_of(value, "sub") == user


def test_a_claim_as_it_is_written() -> None:
    """First as written, then in small letters, as the reference had it."""
    assert user_of(jwt(userId="U", userid="u"), "userId") == "U"
    assert user_of(jwt(userid="u"), "userId") == "u"


def test_who_wins(server: Moesif, made: Make) -> None:
    """Header of the response, of the request, alias, OAuth client, authorization."""
    head = f"GET / HTTP/1.1\r\nX-User: q\r\nX-Co: qc\r\nX-Auth: {jwt(id='j')}\r\n\r\n"
    back = "HTTP/1.1 200 OK\r\nX-USER: r\r\nX-CO: rc\r\n\r\n"
    bare = f"GET / HTTP/1.1\r\nX-Auth: {jwt(id='j')}\r\n\r\n"
    pump = made(
        user_id_header="x-User",
        company_id_header="X-cO",
        authorization_header_name="x-AUTH",
        authorization_user_id_field="id",
    )
    pump.write(
        batch(
            record("al", raw_request=encoded(head), raw_response=encoded(back)),
            record("al", raw_request=encoded(head)),
            record("al", raw_request=encoded(bare), oauth_id="oa"),
            record(raw_request=encoded(bare), oauth_id="oa"),
            record(raw_request=encoded(bare)),
        )
    )
    assert users(server) == ["r", "q", "al", "oa", "j"]
    companies = [event["company_id"] for event in server.events]
    assert companies == ["rc", "qc", "", "", ""]


# Sampling


def test_draws_are_the_same_after_every_retry(server: Moesif, made: Make) -> None:
    """What is left out is settled; what was sent in vain is sent again."""
    server.config = {"sample_rate": 40}
    pump = made(bulk={"batch_size": 50})
    names = [f"n{number}" for number in range(400)]
    kept = []

    def fail_later(request: Request) -> Answer | None:
        return Answer(503) if len(server.asked("POST")) > 1 else None

    server.before = fail_later
    with pytest.raises(TransientError) as caught:
        pump.write(named(*names))
    first = users(server)
    server.before = lambda request: None
    pending = caught.value.pending or []
    whole = named(*names)
    pump.write(whole.part(pending))
    kept = users(server)
    assert kept[:50] == first and kept == sorted(set(kept), key=names.index)
    assert 120 < len(kept) < 200
    assert {event["weight"] for event in server.events} == {2}
    made().write(named(*names))
    assert users(server) == kept


def test_rates_of_users_and_companies(server: Moesif, made: Make) -> None:
    """The user's own rate, else the company's, else the application's."""
    server.config = {
        "sample_rate": 0,
        "user_sample_rate": {"vip": 100, "odd": "text"},
        "company_sample_rate": {"acme": 100},
    }
    acme = encoded("GET / HTTP/1.1\r\nX-Co: acme\r\n\r\n")
    made(company_id_header="x-co").write(
        batch(
            record("vip"),
            record("odd"),
            record("a", raw_request=acme),
            record("b"),
            *(record("c") for _ in range(50)),
        )
    )
    assert users(server) == ["vip", "a"]


@pytest.mark.parametrize(("rate", "weight"), [(33, 3), (60, 1), (250, 1), (0.5, 200)])
def test_weights(server: Moesif, made: Make, rate: float, weight: int) -> None:
    """One over the rate, and at least one."""
    server.config = {"sample_rate": rate}
    made().write(named(*(str(number) for number in range(2000))))
    assert {event["weight"] for event in server.events} == {weight}
    share = len(server.events) / 2000
    assert abs(share - min(rate, 100) / 100) < 0.05


@pytest.mark.parametrize("said", [[], "text", {"sample_rate": None}, {}])
def test_odd_configurations(server: Moesif, made: Make, said: Any) -> None:
    """Without a rate every event is sent."""
    server.config = said
    made().write(named("a"))
    assert users(server) == ["a"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pump's clock: the one number in it is the time."""
    now = [1000.0]
    monkeypatch.setattr(moesif, "monotonic", lambda: now[0])
    return now


def test_rates_follow_the_tag(server: Moesif, made: Make, clock: list[float]) -> None:
    """Asked for again when a batch's tag differs, a minute later at the earliest."""
    server.config_etag = server.batch_etag = "one"
    pump = made()
    pump.write(named("a"))
    clock[0] += 100
    pump.write(batch(record("b"), first=1))
    assert len(server.asked("GET")) == 1
    server.batch_etag = "two"
    pump.write(batch(record("c"), first=2))
    server.config_etag, server.config = "two", {"sample_rate": 0}
    pump.write(batch(record("d"), first=3))
    assert len(server.asked("GET")) == 2
    clock[0] += 100
    pump.write(batch(record("e"), first=4))
    assert len(server.asked("GET")) == 2
    assert users(server) == ["a", "b", "c"]


def test_a_new_tag_waits_for_its_minute(
    server: Moesif, made: Make, clock: list[float]
) -> None:
    """However often batches hint at other rates."""
    server.config_etag, server.batch_etag = "one", "two"
    pump = made()
    for number in range(5):
        clock[0] += 10
        pump.write(batch(record(str(number)), first=number))
    assert len(server.asked("GET")) == 1


def test_rates_that_were_not_there(
    server: Moesif, made: Make, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Events are sent meanwhile; a minute later the rates are asked for again."""
    server.before = lambda request: Answer(500) if request.method == "GET" else None
    with caplog.at_level(logging.WARNING, "tyk_pump"):
        pump = made()
    assert "no sampling rates" in caplog.text
    pump.write(named("a"))
    server.before = lambda request: None
    server.config = {"sample_rate": 0}
    clock[0] += 61
    pump.write(batch(record("b"), first=1))
    assert users(server) == ["a"] and len(server.asked("GET")) == 2


def test_rates_that_cannot_be_asked_for_again(
    server: Moesif, made: Make, clock: list[float]
) -> None:
    """The old ones hold, and the events are sent."""
    server.config_etag, server.batch_etag = "one", "two"
    pump = made()
    pump.write(named("a"))
    clock[0] += 61
    server.before = lambda request: (
        Answer(hang_up=True) if request.method == "GET" else None
    )
    pump.write(batch(record("b"), first=1))
    assert users(server) == ["a", "b"]


# Batches and answers


def test_batches(server: Moesif, made: Make) -> None:
    """`batch_size` bounds a request; texts are numbers, 0 is the default."""
    names = [f"n{number}" for number in range(450)]
    for size, sizes in ((100, [100, 100, 100, 100, 50]), ("0", [200, 200, 50])):
        before = len(server.asked("POST"))
        made(bulk={"batch_size": size}).write(named(*names))
        assert [len(one.json) for one in server.asked("POST")[before:]] == sizes
    assert users(server) == names


def test_variables_reach_the_bulk_configuration(server: Moesif, made: Make) -> None:
    """Each option has one; the reference panicked."""
    prefix = "TYK_PMP_PUMPS_M_META_BULKCONFIG"
    environ = {
        f"{prefix}_BATCHSIZE": "2",
        f"{prefix}_EVENTQUEUESIZE": "1",
        f"{prefix}_TIMERWAKEUPSECONDS": "60",
    }
    made(environ=environ).write(named("a", "b", "c"))
    assert [len(one.json) for one in server.asked("POST")] == [2, 1]


def test_a_bulk_configuration_that_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `enable_bulk` Moesif itself is asked, and that is said."""
    with Moesif() as server:
        monkeypatch.setattr(moesif, "ENDPOINT", server.url)
        meta = {"application_id": "app-1", "bulk_config": {"batch_size": 5}}
        config = configured(tmp_path, meta, {})
        pump = MoesifPump(config.pumps[0].options)
        with caplog.at_level(logging.WARNING, "tyk_pump"):
            pump.open()
        pump.write(named(*(str(number) for number in range(7))))
        pump.close()
        assert "enable_bulk" in caplog.text
        assert len(server.asked("POST")) == 1


def test_requests(server: Moesif, made: Make) -> None:
    """Compressed, with the application id."""
    made().write(named("a"))
    (post,) = server.asked("POST")
    assert post.headers["content-encoding"] == "gzip"
    assert post.headers["content-type"] == "application/json; charset=utf-8"
    assert post.headers["x-moesif-application-id"] == "app-1"
    assert post.headers["user-agent"].startswith("tyk-pump/")


def test_a_record_that_is_refused(server: Moesif, made: Make) -> None:
    """A batch is refused as a whole: it is halved until the culprit stands alone."""
    server.refuses = lambda event: event["user_id"] in ("n3", "n17")
    names = [f"n{number}" for number in range(20)]
    with pytest.raises(RejectedRecords) as caught:
        made().write(named(*names))
    assert set(caught.value.rejected) == {3, 17}
    assert "an event is wrong" in caught.value.rejected[3]
    assert users(server) == [name for name in names if name not in ("n3", "n17")]


def test_a_batch_that_is_too_large(server: Moesif, made: Make) -> None:
    """Smaller requests from then on; a record that alone is too large is refused."""
    server.largest = 5000
    big = record("big", api_name="x" * 6000)
    small = [record(f"n{number}") for number in range(20)]
    with pytest.raises(RejectedRecords) as caught:
        made().write(batch(*small, big))
    assert set(caught.value.rejected) == {20}
    assert "413" in caught.value.rejected[20]
    assert len(server.events) == 20


def test_a_record_beyond_the_limit(
    server: Moesif, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before it is sent, with the limit."""
    monkeypatch.setattr(moesif, "LARGEST_BATCH", 3000)
    with pytest.raises(RejectedRecords) as caught:
        made().write(batch(record("a"), record("b", api_name="x" * 4000), record("c")))
    assert "the limit is 3000" in caught.value.rejected[1]
    assert users(server) == ["a", "c"]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Answer(401), "401"),
        (Answer(402), "402"),
        (Answer(404), "404"),
        (Answer(406), "406"),
        (Answer(429, headers={"Retry-After": "17"}), "429"),
        (Answer(500), "500"),
        (Answer(503), "503"),
        (Answer(302, headers={"Location": "https://x/"}), "moved"),
        (Answer(hang_up=True), ""),
        (Answer(garbage=b"garbage"), ""),
        (Answer(201, b"0123456789", cut=3), ""),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_a_batch_in_vain(server: Moesif, made: Make, answer: Answer, word: str) -> None:
    """It stays, all of it, and what had arrived before does not."""
    pump = made(bulk={"batch_size": 2})
    server.before = lambda request: answer if len(server.asked("POST")) > 1 else None
    with pytest.raises(TransientError) as caught:
        pump.write(named("a", "b", "c", "d", "e"))
    assert caught.value.pending == [2, 3, 4] and caught.value.rejected == {}
    assert word in caught.value.reason and server.url in caught.value.reason
    wanted = 17.0 if answer.status == 429 else None
    assert caught.value.retry_after == wanted
    assert users(server) == ["a", "b"]


def test_an_answer_that_does_not_come(server: Moesif, made: Make) -> None:
    """`request_timeout` ends the wait."""
    pump = made(request_timeout=0.1)
    server.before = lambda request: Answer(201, delay=60)
    with pytest.raises(TransientError, match="no answer in time"):
        pump.write(named("a"))


# Credentials and TLS


def test_a_wrong_application_id(server: Moesif, made: Make) -> None:
    """`open` says so, and does not say the id."""
    with pytest.raises(TransientError) as caught:
        made(application_id="wr0ng")
    assert "401" in caught.value.reason and "wr0ng" not in caught.value.reason


def test_probe(server: Moesif, made: Make) -> None:
    """It has the application id accepted and says the rate, in a line."""
    pump = made()
    server.config = {"sample_rate": 12.5}
    assert "12.5 %" in pump.probe()
    server.before = lambda request: of("broken", 500)
    with pytest.raises(TransientError, match="500"):
        pump.probe()
    assert server.events == []


@pytest.mark.parametrize(
    ("meta", "fault"),
    [
        ({}, "meta.application_id: missing"),
        ({"application_id": 5}, "meta.application_id: expected str"),
        (
            {"application_id": "a", "bulk_config": {"api_endpoint": "x:1"}},
            "meta.bulk_config.api_endpoint: ",
        ),
        (
            {"application_id": "a", "bulk_config": {"batch_size": "ten"}},
            "meta.bulk_config.batch_size: expected a whole number",
        ),
        (
            {"application_id": "a", "bulk_config": {"batch_size": -1}},
            "meta.bulk_config.batch_size: ",
        ),
        ({"application_id": "a", "uri_scheme": "ftp"}, "meta.uri_scheme: "),
        ({"application_id": "a", "ssl_cert_file": "x"}, "meta.ssl_key_file: "),
    ],
)
def test_faults(tmp_path: Path, meta: Any, fault: str) -> None:
    """Each names its option."""
    assert fault in configured(tmp_path, meta, {}).every_fault()[0]


def test_an_empty_application_id_beside_an_endpoint(tmp_path: Path, made: Make) -> None:
    """Something on the way may add it."""
    with Moesif("") as server:
        made(url=server.url, application_id="").write(named("a"))
        assert users(server) == ["a"]


def test_tls_of_each_pump_is_its_own(
    made: Make, authority: Authority, tmp_path: Path
) -> None:
    """One believes our authority, the other nobody knows it, a third does not look."""
    with Moesif(authority=authority) as server:
        trusting = made(url=server.url, ssl_ca_file=str(authority.ca_file))
        with pytest.raises(TransientError, match="certificate verify failed"):
            made(url=server.url)
        careless = made(url=server.url, ssl_insecure_skip_verify=True)
        trusting.write(named("a"))
        careless.write(batch(record("b"), first=1))
        assert users(server) == ["a", "b"]
        named_url = server.url.replace("127.0.0.1", "localhost")
        other = {"url": named_url, "ssl_ca_file": str(authority.ca_file)}
        made(**other).write(batch(record("c"), first=2))
        with pytest.raises(TransientError, match="elsewhere"):
            made(**other, ssl_server_name="elsewhere")
        with pytest.raises(ConfigError, match="ssl_ca_file"):
            made(url=server.url, ssl_ca_file=str(tmp_path / "none.pem"))


def test_a_client_certificate(made: Make, authority: Authority) -> None:
    """It is shown to a server that demands one."""
    chain, key = authority.client("tyk")
    with Moesif(authority=authority, demand_certificate=True) as server:
        made(
            url=server.url,
            ssl_ca_file=str(authority.ca_file),
            ssl_cert_file=str(chain),
            ssl_key_file=str(key),
        ).write(named("a"))
        assert users(server) == ["a"]
        with pytest.raises(TransientError):
            made(url=server.url, ssl_ca_file=str(authority.ca_file))


def test_two_pumps_keep_their_application_ids(server: Moesif, made: Make) -> None:
    """And their addresses: the reference's pumps shared the last ones."""
    with Moesif("app-2") as other:
        first, second = made(), made(url=other.url, application_id="app-2")
        first.write(named("a"))
        second.write(named("b"))
        assert users(server) == ["a"] and users(other) == ["b"]
