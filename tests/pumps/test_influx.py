"""The InfluxDB pumps: what they send, and what they make of each answer."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.servers.http import Answer, HttpServer, Request, of
from tests.servers.influx import Influx, Influx1, Influx2, lines_of
from tests.servers.tls import Authority
from tyk_pump.config.load import load
from tyk_pump.config.options import Secret
from tyk_pump.errors import RejectedRecords, TransientError, WriteError
from tyk_pump.pumps.influx import InfluxOptions, InfluxPump
from tyk_pump.pumps.influx2 import Influx2Options, Influx2Pump
from tyk_pump.pumps.protocol import Batch
from tyk_pump.record import line_protocol
from tyk_pump.record.analytics import ALL, ZERO_TIME, AnalyticsRecord
from tyk_pump.record.line_protocol import FIRST, LAST, Lines
from tyk_pump.transport.influx import SLOTS

TIME = (1_741_183_629, 120_345_678)
Pump = InfluxPump | Influx2Pump


class Kind(msgspec.Struct, frozen=True):
    """One of the two versions."""

    server: type[Influx]
    pump: type[Any]
    options: type[Any]
    meta: dict[str, Any]


ONE = Kind(Influx1, InfluxPump, InfluxOptions, {"database_name": "tyk"})
TWO = Kind(
    Influx2, Influx2Pump, Influx2Options, {"organization": "acme", "bucket": "tyk"}
)


@pytest.fixture(params=[ONE, TWO], ids=["influx", "influx2"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Both versions in turn."""
    found: Kind = request.param
    return found


@pytest.fixture
def server(kind: Kind) -> Iterator[Influx]:
    """An empty server of the version."""
    made = kind.server()
    yield made
    made.close()


Opened = Callable[..., Pump]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Make pumps that are open; they are closed after the test."""
    made: list[Pump] = []

    def make(kind: Kind, url: str, **options: Any) -> Pump:
        given = {"address": url, **kind.meta, "fields": ["path"], **options}
        pump: Pump = kind.pump(kind.options(**given))
        made.append(pump)
        pump.open()
        return pump

    yield make
    for pump in made:
        pump.close()


def record(path: str = "/", **values: Any) -> AnalyticsRecord:
    """Return a record."""
    return AnalyticsRecord(**{"path": path, "timestamp": TIME, **values})


def batch(*records: AnalyticsRecord, first: int = 0, stream: str = "S") -> Batch:
    """Return a batch of records that follow each other."""
    positions = range(first, first + len(records))
    return Batch(stream, 0, "analytics", positions, records)


def numbered(count: int) -> Batch:
    """Return a batch of records with paths of their own."""
    return batch(*(record(f"/{number}") for number in range(count)))


def paths(server: Influx) -> list[str]:
    """Return the paths of the points that are there."""
    return [found.fields["path"] for found in server.points]


def failure(pump: Pump, sent: Batch) -> WriteError:
    """Return the error of a write."""
    with pytest.raises(WriteError) as raised:
        pump.write(sent)
    return raised.value


# Points


def test_default_fields(kind: Kind, server: Influx, opened: Opened) -> None:
    """Without `fields` all names are there, numbers as whole numbers."""
    pump = opened(kind, server.url, fields=[])
    pump.write(batch(record(response_code=200, request_time=12, api_name="A")))
    (found,) = server.points
    assert len(found.fields) == {ONE.pump: 14, TWO.pump: 16}[kind.pump]
    assert found.fields["response_code"] == 200
    assert found.fields["api_name"] == "A" and found.fields["api_key"] == ""
    assert found.tags == {} and set(pump.fields) <= set(ALL)


def test_only_what_is_stored_is_decoded(kind: Kind) -> None:
    """The time too only where a point has it."""
    fields, tags = ["request_time"], ["path", "path"]
    by_record = kind.pump(kind.options(fields=fields, tags=tags))
    assert set(by_record.fields) == {"request_time", "path", "timestamp"}
    by_clock = kind.pump(kind.options(fields=fields, tags=tags, point_time="write"))
    assert set(by_clock.fields) == {"request_time", "path"}


@pytest.mark.parametrize(
    "text",
    [
        '"',
        '"both"',
        "end\\",
        "\\",
        "a\\,b",
        "a\\ b",
        "=",
        ", ",
        " ",
        "tab\tlf\n",
        "ü€🚀",
    ],
)
def test_escapes(kind: Kind, server: Influx, opened: Opened, text: str) -> None:
    """Whatever a text has in it, tag and field are read as one value each."""
    pump = opened(kind, server.url, tags=["path", "method"], fields=["path", "method"])
    pump.write(batch(record(text, method="GET")))
    (found,) = server.points
    shown = json.dumps(text, ensure_ascii=False)[1:-1]
    if text.endswith("\\"):
        shown += " "  # else it would escape what follows
    assert found.tags == {"method": "GET", "path": shown}
    if kind is TWO:
        text = text.replace("\n", "\\n").replace("\t", "\\t")
    assert found.fields == {"method": "GET", "path": text}


def test_bytes_that_are_no_text(kind: Kind, server: Influx, opened: Opened) -> None:
    """They stay in a field; in a tag each is shown as JSON shows it."""
    pump = opened(kind, server.url, tags=["path"])
    pump.write(batch(record("/\udcff")))
    body = server.requests[0].body
    assert body.startswith(b'analytics,path=/\\ufffd path="/\xff" ')


def test_zero_time_and_ignored_time(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags with times are made for each record."""
    server = Influx2()
    pump = opened(TWO, server.url, tags=["time_stamp"], point_time="write")
    pump.write(batch(record(timestamp=ZERO_TIME), record(timestamp=(10**12, 0))))
    server.close()
    assert [found.tags for found in server.points] == [
        {"time_stamp": "0001-01-01T00:00:00Z"},
        {},
    ]


def test_what_is_kept_of_tags_is_bounded(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither many nor long ones fill the memory; each line is right all the same."""
    monkeypatch.setattr(line_protocol, "_KEPT", 3)
    pump = kind.pump(kind.options(fields=["method"], tags=["path"]))
    lines: Lines = pump._points._lines
    for number in range(10):
        path = f"/{number}" if number % 2 else "x" * 1000 + str(number)
        right = f'analytics,path={path} method="" 1\n'.encode()
        assert lines.encode(record(path), 1) == lines.encode(record(path), 1) == right
    assert 0 < len(lines._heads) <= 3
    assert max(len(head) for head in lines._heads.values()) < 1000


# Times


def test_points_do_not_replace_each_other(
    kind: Kind, server: Influx, opened: Opened
) -> None:
    """Records of one series and instant are points of their own, within their ms."""
    pump = opened(kind, server.url)
    pump.write(batch(*[record()] * 300))
    pump.write(batch(*[record()] * 300, first=300))
    pump.write(batch(*[record()] * 300, stream="T"))
    assert len(server.points) == 900
    millisecond = TIME[0] * 1000 + TIME[1] // 10**6
    assert {found.time // 10**6 for found in server.points} == {millisecond}
    assert server.requests[0].query["precision"] == "ns"


def test_a_repeated_write_changes_nothing(
    kind: Kind, server: Influx, opened: Opened
) -> None:
    """Whatever part of a batch is sent again, and by whichever incarnation."""
    sent = batch(*[record()] * 50, first=SLOTS - 20)
    opened(kind, server.url).write(sent)
    before = dict(server.stored)
    again = opened(kind, server.url)
    again.write(sent.part(range(25, 50)))
    again.write(sent)
    assert server.stored == before


def test_a_replay_is_the_same_point(kind: Kind, server: Influx, opened: Opened) -> None:
    """It knows its record by the id that it had."""
    pump = opened(kind, server.url)
    sent = batch(*[record()] * 5, first=7)
    pump.write(sent)
    before = dict(server.stored)
    ids = [sent.record_id(index) for index in range(5)]
    replay = Batch("another", 0, "analytics", range(5), sent.records, ids)
    pump.write(replay)
    assert server.stored == before
    pump.write(Batch("another", 0, "analytics", [0], [record()], ["odd"]))
    assert len(server.stored) == 6


@pytest.mark.parametrize("time", [FIRST - SLOTS, LAST + SLOTS, 10**20, -(10**20)])
def test_times_that_no_point_has(
    kind: Kind, server: Influx, opened: Opened, time: int
) -> None:
    """Such a record is refused with the reason; the others arrive."""
    pump = opened(kind, server.url)
    odd = record("/odd", timestamp=divmod(time, 10**9))
    error = failure(pump, batch(record("/a"), odd, record("/b")))
    assert isinstance(error, RejectedRecords)
    assert list(error.rejected) == [1] and "1677 to 2262" in error.rejected[1]
    assert paths(server) == ["/a", "/b"]


def test_time_of_the_write(kind: Kind, server: Influx, opened: Opened) -> None:
    """As the reference has it, with its unit; any record fits then."""
    before = time.time_ns()
    pump = opened(kind, server.url, point_time="write")
    pump.write(batch(record(timestamp=(10**12, 0))))
    (found,) = server.points
    assert before - 1000 <= found.time <= time.time_ns()
    unit = {ONE.pump: "ns", TWO.pump: "us"}[kind.pump]
    assert server.requests[0].query["precision"] == unit


# Requests


def test_batches(kind: Kind, server: Influx, opened: Opened) -> None:
    """No request has more points, or more bytes, than the options say."""
    opened(kind, server.url, batch_size=7).write(numbered(20))
    assert [len(lines_of(one.body)) for one in server.requests] == [7, 7, 6]
    server.requests.clear()
    opened(kind, server.url, batch_bytes=1024).write(numbered(100))
    assert max(len(one.raw) for one in server.requests) <= 1024
    assert len(server.requests) > 3 and len(server.points) == 100


def test_a_record_beyond_the_limit(kind: Kind, server: Influx, opened: Opened) -> None:
    """It is refused for its size."""
    pump = opened(kind, server.url, batch_bytes=1024)
    error = failure(pump, batch(record("/a"), record("x" * 2000), record("/b")))
    assert list(error.rejected) == [1] and "too large" in error.rejected[1]
    assert paths(server) == ["/a", "/b"]


def test_the_server_takes_less(kind: Kind, server: Influx, opened: Opened) -> None:
    """A request too large goes in halves; a record too large alone is refused."""
    server.max_bytes = 500
    pump = opened(kind, server.url)
    sent = numbered(40)
    records = [*sent.records, record("x" * 600)]
    error = failure(pump, batch(*records))
    assert isinstance(error, RejectedRecords) and list(error.rejected) == [40]
    assert "413" in error.rejected[40]
    assert len(server.points) == 40


def test_compress(kind: Kind, server: Influx, opened: Opened) -> None:
    """The same lines, compressed."""
    opened(kind, server.url, compress=True).write(numbered(20))
    opened(kind, server.url).write(numbered(20))
    packed, plain = server.requests
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.body == plain.raw and len(packed.raw) < len(plain.raw)


def test_empty_batch(kind: Kind, server: Influx, opened: Opened) -> None:
    """It sends nothing."""
    opened(kind, server.url).write(batch())
    assert server.requests == []


def test_query_of_influx1(opened: Opened) -> None:
    """Policy and consistency go along when they are set."""
    server = Influx1()
    opened(ONE, server.url).write(numbered(1))
    opened(ONE, server.url, retention_policy="a b", consistency="any").write(
        numbered(1)
    )
    server.close()
    bare = {"db": "tyk", "precision": "ns"}
    assert [one.query for one in server.requests] == [
        bare,
        {**bare, "rp": "a b", "consistency": "any"},
    ]


# Refusals


def scripted(server: Influx, *answers: Answer) -> Any:
    """Answer the next writes so, and then as ever."""
    left = list(answers)

    def respond(request: Request) -> Answer:
        if request.path.endswith("/write") and left:
            server.requests.append(request)
            return left.pop(0)
        return server.respond(request)

    return server.http.answering(respond)


def refusing(server: Influx, *odd: str, after: Callable[[list[str]], Answer]) -> Any:
    """Refuse requests that hold these paths; `after` says how."""

    def respond(request: Request) -> Answer:
        if not request.path.endswith("/write"):
            return server.respond(request)
        lines = lines_of(request.body)
        bad = [line for line in lines if any(f'"{path}"' in line for path in odd)]
        if not bad:
            return server.respond(request)
        good = "\n".join(line for line in lines if line not in bad)
        if isinstance(server, Influx1) and good:
            server.respond(msgspec.structs.replace(request, raw=good.encode()))
        return after(bad)

    return server.http.answering(respond)


def test_lines_that_are_quoted(kind: Kind, server: Influx, opened: Opened) -> None:
    """Each quoted line is refused with its reason, and all others are in."""

    def after(bad: list[str]) -> Answer:
        text = "\n".join(f"unable to parse '{line}': odd': number" for line in bad)
        if kind is ONE:
            return of({"error": f"partial write: {text} dropped=0"}, 400)
        return of({"code": "invalid", "message": text}, 400)

    pump = opened(kind, server.url)
    with refusing(server, "/3", "/7", after=after):
        error = failure(pump, numbered(10))
    assert isinstance(error, RejectedRecords)
    assert error.rejected == {3: "odd': number", 7: "odd': number"}
    assert sorted(paths(server)) == [f"/{n}" for n in range(10) if n not in (3, 7)]


def test_a_line_by_its_number(opened: Opened) -> None:
    """InfluxDB Cloud and 3 give the number of a line."""
    server = Influx2()
    pump = opened(TWO, server.url)
    cloud = of({"code": "invalid", "line": 3, "message": "no"}, 400)
    lines = [{"line_number": 1, "error_message": "none", "original_line": "x"}]
    three = of({"error": "partial write of line protocol", "data": lines}, 400)
    with scripted(server, cloud, three):
        error = failure(pump, numbered(5))
    server.close()
    assert error.rejected == {2: "no", 0: "none"}
    assert paths(server) == ["/1", "/3", "/4"]


@pytest.mark.parametrize("status", [400, 422])
def test_points_that_are_dropped(
    kind: Kind, server: Influx, opened: Opened, status: int
) -> None:
    """Only their number is said: they are found by halves, and stand alone."""

    def after(bad: list[str]) -> Answer:
        text = "partial write: points beyond retention policy"
        text = f"{text} dropped={len(bad)}"
        return of({"error": text} if kind is ONE else {"message": text}, status)

    pump = opened(kind, server.url)
    with refusing(server, "/0", "/9", after=after):
        error = failure(pump, numbered(10))
    assert isinstance(error, RejectedRecords)
    assert sorted(error.rejected) == [0, 9]
    assert "beyond retention policy" in error.rejected[0]
    assert sorted(paths(server)) == [f"/{n}" for n in range(1, 9)]


def test_all_points_are_dropped(kind: Kind, server: Influx, opened: Opened) -> None:
    """One answer is enough."""
    pump = opened(kind, server.url)
    text = "partial write: field type conflict: it is a float dropped=500"
    with scripted(server, of({"error": text}, 400)):
        error = failure(pump, numbered(500))
    assert len(error.rejected) == 500 and len(server.requests) == 1
    assert set(error.rejected.values()) == {text}


def test_quoted_lines_beside_dropped_ones(
    kind: Kind, server: Influx, opened: Opened
) -> None:
    """What is not named is not taken for arrived."""
    pump = opened(kind, server.url)

    def respond(request: Request) -> Answer:
        lines = lines_of(request.body)
        if len(lines) == 4:
            text = f"partial write: unable to parse '{lines[1]}': x dropped=1"
            return of({"error": text}, 400)
        return server.respond(request)

    with server.http.answering(respond):
        error = failure(pump, numbered(4))
    assert error.rejected == {1: "x"}
    assert paths(server) == ["/0", "/2", "/3"]


def test_a_refusal_without_a_word(kind: Kind, server: Influx, opened: Opened) -> None:
    """Not InfluxDB's own answer: each record is tried alone."""

    def after(bad: list[str]) -> Answer:
        return Answer(400, b"<html>unable to parse '</html>")

    pump = opened(kind, server.url)
    with refusing(server, "/2", after=after):
        error = failure(pump, numbered(4))
    assert error.rejected == {2: "400 Bad Request"}
    assert sorted(paths(server)) == ["/0", "/1", "/3"]


def test_no_record_in_a_reason(kind: Kind, server: Influx, opened: Opened) -> None:
    """What a message quotes stays out of it."""

    def after(bad: list[str]) -> Answer:
        return of({"error": "unable to parse 'path=s3cret': number: no"}, 400)

    pump = opened(kind, server.url)
    with refusing(server, "/s3cret", after=after):
        error = failure(pump, batch(record("/s3cret")))
    assert error.rejected == {0: "unable to parse: number: no"}


# Trouble


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401),
        Answer(403),
        Answer(404),
        Answer(408),
        Answer(429, headers={"Retry-After": "7"}),
        Answer(500, b'{"error":"timeout"}'),
        Answer(502),
        Answer(503),
        Answer(204, hang_up=True),
        Answer(204, garbage=b"garbage\r\n\r\n"),
        Answer(200, b"x" * 100, cut=10),
        Answer(204, delay=30),
    ],
    ids=lambda answer: f"{answer.status}{'h' * answer.hang_up}",
)
def test_trouble(kind: Kind, server: Influx, opened: Opened, answer: Answer) -> None:
    """What is no record's fault is raised; what had arrived is not named."""
    pump = opened(kind, server.url, batch_size=4, request_timeout=0.5)
    with scripted(server, Answer(204), answer):
        error = failure(pump, numbered(10))
    assert isinstance(error, TransientError)
    assert error.pending == list(range(4, 10)) and error.rejected == {}
    assert error.retry_after == (7 if answer.status == 429 else None)
    pump.write(numbered(10).part(error.pending))
    assert paths(server) == [f"/{n}" for n in range(4, 10)]


def test_credentials_of_influx1(opened: Opened) -> None:
    """Right ones are taken, wrong ones waited for; the password is never shown."""
    server = Influx1()
    server.demands_user = True
    right = {"username": "pump", "password": Secret("pw")}
    pump = opened(ONE, server.url, **right)
    pump.write(numbered(1))
    assert pump.probe().endswith("InfluxDB 1.8.10, database 'tyk' is there")
    for wrong in ({**right, "password": Secret("s3cret")}, {}):
        pump = opened(ONE, server.url, **wrong)
        error = failure(pump, numbered(1))
        assert "401" in error.reason and "s3cret" not in error.reason
        with pytest.raises(TransientError, match="401"):
            pump.probe()
    server.close()
    assert len(server.points) == 1


def test_database_is_missing(opened: Opened) -> None:
    """It is waited for, and said by the probe."""
    server = Influx1()
    pump = opened(ONE, server.url, database_name="none")
    error = failure(pump, numbered(1))
    assert isinstance(error, TransientError) and "database not found" in error.reason
    with pytest.raises(TransientError, match="no database 'none'"):
        pump.probe()
    server.close()


def test_query_is_refused(opened: Opened) -> None:
    """A user who may not ask for the databases is told so by the probe."""
    server = Influx1()
    refused = of({"results": [{"statement_id": 0, "error": "not authorized"}]})
    pump = opened(ONE, server.url)
    with (
        server.http.answering(
            lambda one: refused if one.path == "/query" else server.respond(one)
        ),
        pytest.raises(TransientError, match="not authorized"),
    ):
        pump.probe()
    server.close()


@pytest.mark.parametrize(
    "answer", [Answer(204), Answer(200, b"<html>"), of({"results": 1}), of([])]
)
def test_something_else_answers(kind: Kind, opened: Opened, answer: Answer) -> None:
    """A server that is no InfluxDB is no success."""
    with (
        HttpServer(lambda request: answer) as server,
        pytest.raises(TransientError, match=r"InfluxDB|no JSON|not ready|no organ"),
    ):
        opened(kind, server.url).probe()


# The start of InfluxDB 2


def test_start_of_influx2(opened: Opened) -> None:
    """Readiness, organisation, bucket of that organisation; the probe asks the same."""
    server = Influx2()
    server.token = "s3cret"
    pump = opened(TWO, server.url, token=Secret("s3cret"))
    asked = [(one.method, one.path) for one in server.http.requests]
    assert asked == [
        ("GET", "/ready"),
        ("GET", "/api/v2/orgs"),
        ("GET", "/api/v2/buckets"),
    ]
    assert pump.probe().endswith("ready, bucket 'tyk' of 'acme' is there")
    for wrong, reason in (
        ({"token": Secret("t0ken")}, "401"),
        ({"organization": "none"}, "organization name not found"),
        ({"bucket": "none"}, "no bucket 'none'"),
    ):
        with pytest.raises(TransientError, match=reason) as raised:
            opened(TWO, server.url, **{"token": Secret("s3cret"), **wrong})
        assert "s3cret" not in raised.value.reason
        assert "t0ken" not in raised.value.reason
    server.buckets = {("of another", "tyk")}
    with pytest.raises(TransientError, match="no bucket 'tyk'"):
        opened(TWO, server.url, token=Secret("s3cret"))
    server.close()


def test_missing_bucket_is_made(tmp_path: Path) -> None:
    """By the options of the file; one that is there is taken as it is."""
    server = Influx2()
    meta = {
        "address": server.url,
        "organization": "acme",
        "bucket": "new",
        "flush": True,
        "create_missing_bucket": True,
        "new_bucket_config": {
            "description": "d",
            "retention_rules": [{"every_seconds": 3600, "type": "expires"}, {}],
        },
    }
    path = tmp_path / "pump.conf"
    path.write_text(json.dumps({"pumps": {"x": {"type": "influx2", "meta": meta}}}))
    config = load(str(path), {})
    assert config.every_fault() == config.warnings == []
    for _ in range(2):
        pump = Influx2Pump(config.pumps[0].options)
        pump.open()
        pump.close()
    server.close()
    (made,) = server.created
    assert made["name"] == "new" and made["description"] == "d"
    assert [(r["type"], r["everySeconds"]) for r in made["retentionRules"]] == [
        ("expire", 3600),
        ("expire", 0),
    ]


def test_bucket_that_cannot_be_made(opened: Opened) -> None:
    """Both are said: that it is missing, and why it stays so."""
    server = Influx2()

    def respond(request: Request) -> Answer:
        if request.method == "POST":
            return of({"code": "forbidden", "message": "not with this token"}, 403)
        return server.respond(request)

    with (
        server.http.answering(respond),
        pytest.raises(TransientError, match=r"no bucket 'new'.*not with this token"),
    ):
        opened(TWO, server.url, bucket="new", create_missing_bucket=True)
    server.close()


# Options


def test_faults_are_named(kind: Kind) -> None:
    """Each with its key."""
    faulty = kind.options(fields=["path", "nope"], tags=["nix"])
    keys = [key for key, _ in faulty.faults()]
    missing = list(kind.meta)
    assert keys == ["address", *missing, "fields[1]", "tags[0]"]
    wrong = kind.options(**kind.meta, address="127.0.0.1:8086")
    assert [key for key, _ in wrong.faults()] == ["address"]
    assert not list(kind.options(**kind.meta, address="http://x:1/p/").faults())


def test_latencies_are_influx2_only() -> None:
    """As in the reference."""
    names = ["total_latency", "upstream_latency"]
    two = Influx2Options(address="http://x", **TWO.meta, fields=names)
    one = InfluxOptions(address="http://x", **ONE.meta, fields=names)
    assert not list(two.faults()) and len(list(one.faults())) == 2


def test_variables(tmp_path: Path) -> None:
    """The reference's names, and those of its README."""
    path = tmp_path / "pump.conf"
    path.write_text(json.dumps({"pumps": {"INFLUX2": {"type": "influx2"}}}))
    start = "TYK_PMP_PUMPS_INFLUX2_META"
    given = {
        f"{start}_ADDR": "http://x:1",
        f"{start}_TOKEN": "t",
        f"{start}_ORGANIZATION": "o",
        f"{start}_BUCKET": "b",
        f"{start}_FLUSH": "true",
        f"{start}_CREATEMISSINGBUCKET": "1",
        f"{start}_NEWBUCKETCONFIG_DESCRIPTION": "d",
        f"{start}_FIELDS": "path,method",
    }
    config = load(str(path), given)
    assert config.every_fault() == config.warnings == []
    options = config.pumps[0].options
    assert (options.organization, options.bucket) == ("o", "b")
    assert options.create_missing_bucket and options.flush
    assert options.new_bucket_config.description == "d"
    assert options.fields == ["path", "method"]
    given |= {f"{start}_ORGNAME": "of", f"{start}_BUCKETNAME": "bf"}
    options = load(str(path), given).pumps[0].options
    assert (options.organization, options.bucket) == ("of", "bf")


def test_secrets_are_not_shown(kind: Kind) -> None:
    """Neither by the options nor by the pump."""
    key = {ONE.pump: "password", TWO.pump: "token"}[kind.pump]
    options = kind.options(**{key: Secret("s3cret")})
    assert "s3cret" not in f"{options!r} {kind.pump(options)!r}"


# TLS and proxies


@pytest.mark.parametrize("skip", [False, True])
def test_tls(kind: Kind, opened: Opened, authority: Authority, skip: bool) -> None:
    """Each pump believes whom its own options name; set-up and writes alike."""
    server = kind.server(authority)
    right: dict[str, Any] = {"ssl_insecure_skip_verify": True}
    if not skip:
        right = {"ssl_ca_file": str(authority.ca_file)}
    pump = opened(kind, server.url, **right)
    assert pump.probe().startswith(server.url)
    with pytest.raises(WriteError, match=r"(?i)certificate"):
        opened(kind, server.url).write(numbered(1))
    pump.write(numbered(3))
    server.close()
    assert len(server.points) == 3


def test_server_name_and_client_certificate(
    kind: Kind, opened: Opened, authority: Authority
) -> None:
    """The name is looked for in the certificate; our own is shown when asked for."""
    server = kind.server(authority, demand_certificate=True)
    cert, key = authority.client("pump")
    right = {
        "ssl_ca_file": str(authority.ca_file),
        "ssl_cert_file": str(cert),
        "ssl_key_file": str(key),
    }
    pump = opened(kind, server.url, **right, ssl_server_name="localhost")
    assert pump.probe()
    pump.write(numbered(1))
    with pytest.raises(WriteError):
        opened(kind, server.url, **right, ssl_server_name="other").write(numbered(1))
    with pytest.raises(WriteError):
        bare = {"ssl_ca_file": right["ssl_ca_file"]}
        opened(kind, server.url, **bare).write(numbered(1))
    server.close()
    (seen,) = {str(one.peer) for one in server.http.requests}
    assert "pump" in seen and len(server.points) == 1


def test_proxy(
    kind: Kind,
    opened: Opened,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment's proxy is used for set-up and writes."""
    server = kind.server(authority)
    plain = HttpServer(server.respond, authority=authority, plain=True)
    monkeypatch.setenv("HTTPS_PROXY", plain.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    address = "https://influx.example:8086"
    pump = opened(kind, address, ssl_ca_file=str(authority.ca_file))
    assert pump.probe().startswith(address)
    pump.write(numbered(2))
    plain.close()
    server.close()
    assert set(plain.tunnels) == {"influx.example:8086"}
    assert len(server.points) == 2


def test_path_of_the_address(kind: Kind, opened: Opened) -> None:
    """It stands before every path, with or without a slash at its end."""
    server = kind.server()

    def respond(request: Request) -> Answer:
        assert request.target.startswith("/a/b/")
        bare = msgspec.structs.replace(request, target=request.target[4:])
        return server.respond(bare)

    with server.http.answering(respond):
        for end, first in itertools.product(("", "/"), (0, 1)):
            pump = opened(kind, f"{server.url}/a/b{end}")
            pump.probe()
            pump.write(batch(record(), first=first))
    server.close()
    assert len(server.points) == 2
