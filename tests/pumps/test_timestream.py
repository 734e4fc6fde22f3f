"""Timestream: calls, refusals by position, points that are in each other's place."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pumps.config import loaded, opened
from tests.servers.aws import REGION, SECRET
from tests.servers.http import Answer, Request
from tests.servers.timestream import (
    DATABASE,
    OUTSIDE,
    TABLE,
    TAKEN,
    Timestream,
    error,
)
from tests.servers.tls import Authority
from tyk_pump.config.load import load
from tyk_pump.errors import RejectedRecords, TransientError
from tyk_pump.pumps.protocol import Batch, Pump
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.timestream import DIMENSIONS, MEASURES

SECOND = 1_741_183_629
STREAM = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
Open = Callable[..., Pump]


def record(name: str = "api", **fields: Any) -> AnalyticsRecord:
    """Return a record with one dimension and two measures."""
    made = AnalyticsRecord(
        api_name=name, timestamp=(SECOND, 7), response_code=200, request_time=37
    )
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def batch(*records: AnalyticsRecord, first: int = 0) -> Batch:
    """Return these records as a run."""
    return Batch(STREAM, 0, "list", range(first, first + len(records)), records)


def numbered(count: int) -> list[AnalyticsRecord]:
    """Return records of so many series."""
    return [record(f"n{number:03}") for number in range(count)]


def names(server: Timestream) -> list[str]:
    """Return the names of what has arrived."""
    return [point.dimensions["APIName"] for point in server.points]


@pytest.fixture
def server() -> Iterator[Timestream]:
    """A service that takes all of this century."""
    with Timestream() as made:
        yield made


@pytest.fixture
def pump(server: Timestream, tmp_path: Path) -> Iterator[Open]:
    """Opens pumps that write there, with other options."""
    made: list[Pump] = []

    def open_(**options: Any) -> Pump:
        made.append(opened(tmp_path, "timestream", server.meta(**options)))
        return made[-1]

    yield open_
    for one in made:
        one.close()


# Calls


def test_a_hundred_records_per_call(server: Timestream, pump: Open) -> None:
    """As the reference cuts them; what all share stands in a call once."""
    pump().write(batch(*numbered(250)))
    calls = server.calls()
    assert [len(call["Records"]) for call in calls] == [100, 100, 50]
    assert names(server) == [f"n{number:03}" for number in range(250)]
    for call in calls:
        del call["Records"]
        assert call == {
            "DatabaseName": DATABASE,
            "TableName": TABLE,
            "CommonAttributes": {
                "MeasureName": "request_metrics",
                "MeasureValueType": "MULTI",
                "TimeUnit": "NANOSECONDS",
            },
        }
    point = server.points[0]
    assert (point.name, point.time) == ("request_metrics", SECOND * 10**9 + 7)
    assert point.measures == {
        "ResponseCode": ("BIGINT", "200"),
        "RequestTime": ("BIGINT", "37"),
    }


def test_records_without_a_measure(
    server: Timestream, pump: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Are left out and counted; a call has none without records."""
    caplog.set_level(logging.INFO)
    bare: dict[str, Any] = {"response_code": 0, "request_time": 0}
    mixed = batch(record("a"), record("b", **bare), record("c"), record(**bare))
    pump().write(mixed)
    assert names(server) == ["a", "c"]
    assert mixed.left_out == 2
    (told,) = [e for e in caplog.records if "without any measure" in e.getMessage()]
    assert vars(told)["records"] == 2
    pump().write(batch(record(**bare)))
    pump().write(batch())
    assert len(server.calls()) == 1
    pump(write_zero_values=True).write(batch(record("d", **bare)))
    assert server.points[-1].values() == {"ResponseCode": "0", "RequestTime": "0"}


def test_options_of_measures(server: Timestream, pump: Open) -> None:
    """Each of them shows its effect."""
    made = pump(
        dimensions=["APIName", "Path"],
        measures=["RateLimit.Limit", "GeoData.Country.ISOCode", "RawResponse"],
        write_rate_limit=True,
        read_geo_from_request=True,
        field_name_mappings={
            "path": "where",
            "RawResponse": "body",
            "RawResponseSize": "parts",
        },
        record_id_name="_id",
    )
    response = "HTTP/1.1 200 OK\r\nX-Ratelimit-Limit: 9\r\n\r\n"
    request = "GET / HTTP/1.1\r\nCloudfront-Viewer-Country: DE\r\n\r\n"
    made.write(
        batch(record("a", path="/p", raw_response=response, raw_request=request))
    )
    (point,) = server.points
    assert point.dimensions == {"APIName": "a", "where": "/p"}
    assert point.values() == {
        "RateLimit.Limit": "9",
        "GeoData.Country.ISOCode": "DE",
        "parts": "1",
        "body0": response,
        "_id": f"{STREAM}:0",
    }


def test_ends_that_are_left_out_are_told(
    pump: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in the pump's life."""
    made = pump(measures=["RawResponse"])
    for _ in range(2):
        made.write(batch(record(raw_response="r" * 2048 * 300)))
    told = [e for e in caplog.records if "their ends are left out" in e.getMessage()]
    assert len(told) == 1


# Refusals


def test_each_refused_record_is_named(server: Timestream, pump: Open) -> None:
    """With its reason, wherever it stands; the others are in and stay so."""
    server.oldest = SECOND * 10**9
    server.refuses = lambda point: (
        "dimension is odd" if point.dimensions["APIName"] in ("n005", "n205") else ""
    )
    records = numbered(250)
    records[123] = record("old", timestamp=(SECOND - 1, 0))
    with pytest.raises(RejectedRecords) as caught:
        pump().write(batch(*records))
    assert caught.value.rejected == {
        5: "dimension is odd",
        123: OUTSIDE,
        205: "dimension is odd",
    }
    assert len(names(server)) == 247
    assert len(server.calls()) == 3


def test_a_call_that_is_refused_as_a_whole(server: Timestream, pump: Open) -> None:
    """Is halved until the record that is meant stands alone."""

    def judge(request: Request) -> Answer | None:
        if b'"n042"' in request.body:
            return error("ValidationException", "the record is invalid")
        return None

    server.before = judge
    with pytest.raises(RejectedRecords) as caught:
        pump().write(batch(*numbered(100)))
    (reason,) = caught.value.rejected.values()
    assert list(caught.value.rejected) == [42]
    assert "the record is invalid" in reason
    assert sorted(names(server)) == [f"n{n:03}" for n in range(100) if n != 42]


@pytest.mark.parametrize("rejections", [None, [], [{}], [7], [{"RecordIndex": 500}]])
def test_refusals_without_positions(
    server: Timestream, pump: Open, rejections: Any
) -> None:
    """Count as one of the whole call."""
    server.before = lambda request: error(
        "RejectedRecordsException", "some are rejected", 419, RejectedRecords=rejections
    )
    with pytest.raises(RejectedRecords) as caught:
        pump().write(batch(*numbered(3)))
    assert sorted(caught.value.rejected) == [0, 1, 2]
    assert "some are rejected" in caught.value.rejected[0]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (error("ThrottlingException", "slow down", 400), "ThrottlingException"),
        (error("InternalServerException", "oh", 500), "InternalServerException"),
        (error("AccessDeniedException", "not authorized", 403), "not authorized"),
        (error("UnrecognizedClientException", "token", 403), "Unrecognized"),
        (error("ResourceNotFoundException", "no table", 404), "no table"),
        (error("ServiceUnavailableException", "x", 503), "ServiceUnavailable"),
        (Answer(200, b"<html>Login</html>"), "JSON"),
        (Answer(200, b"{}"), "counts nothing"),
        (Answer(200, b""), "counts nothing"),
    ],
)
def test_what_is_not_the_records_fault(
    server: Timestream, pump: Open, answer: Answer, word: str
) -> None:
    """Is waited for, from the call that failed on; before it all is in."""
    made, taken = pump(), 1

    def judge(request: Request) -> Answer | None:
        return answer if len(server.calls()) > taken else None

    server.before = judge
    with pytest.raises(TransientError, match=word) as caught:
        made.write(batch(*numbered(250)))
    assert list(caught.value.pending or ()) == list(range(100, 250))
    assert caught.value.rejected == {}
    assert "127.0.0.1" in caught.value.reason
    taken = 1000
    assert caught.value.pending is not None
    made.write(batch(*numbered(250)).part(caught.value.pending))
    assert names(server) == [f"n{number:03}" for number in range(250)]


def test_what_was_refused_before_a_failure_stays_so(
    server: Timestream, pump: Open
) -> None:
    """Refused and pending ones are told apart."""
    server.refuses = lambda point: (
        "odd" if point.dimensions["APIName"] == "n001" else ""
    )
    server.before = lambda request: Answer(503) if len(server.calls()) > 1 else None
    with pytest.raises(TransientError) as caught:
        pump().write(batch(*numbered(150)))
    assert caught.value.rejected == {1: "odd"}
    assert list(caught.value.pending or ()) == list(range(100, 150))


# Points in each other's place


def test_calls_of_the_same_nanosecond(server: Timestream, pump: Open) -> None:
    """All are kept, some nanoseconds apart, and find their places when repeated."""
    records = [record(request_time=1 + number) for number in range(40)]
    made = pump()
    for _ in range(3):
        made.write(batch(*records, first=1000))
    assert sorted(int(p.values()["RequestTime"]) for p in server.points) == [
        *range(1, 41)
    ]
    exact = SECOND * 10**9 + 7
    assert exact in {point.time for point in server.points}
    assert all(exact <= point.time < exact + 10**6 for point in server.points)


def test_calls_that_are_alike(server: Timestream, pump: Open) -> None:
    """Are one point, unless their ids tell them apart."""
    records = [record() for _ in range(3)]
    pump().write(batch(*records))
    assert len(server.points) == 1
    made = pump(record_id_name="_id", dimensions=["APIName", "Method"])
    records = [record("with", method="GET") for _ in range(3)]
    for _ in range(2):
        made.write(batch(*records))
    kept = [p.values()["_id"] for p in server.points if "Method" in p.dimensions]
    assert sorted(kept) == [f"{STREAM}:{number}" for number in range(3)]


def test_a_point_with_a_newer_version(server: Timestream, pump: Open) -> None:
    """Someone has corrected it since: it counts as delivered, and stays as it is."""
    made = pump()
    made.write(batch(record()))
    server.correct(server.points[0], version=5)
    made.write(batch(record()))
    (point,) = server.points
    assert point.version == 5 and "Corrected" in point.measures


def test_no_free_nanosecond(server: Timestream, pump: Open) -> None:
    """After so many attempts the record is refused, and no other."""
    server.refuses = lambda point: (
        TAKEN.format(1, 1) if point.dimensions["APIName"] == "n001" else ""
    )
    with pytest.raises(RejectedRecords, match="already exists") as caught:
        pump().write(batch(*numbered(3)))
    assert list(caught.value.rejected) == [1]
    assert names(server) == ["n000", "n002"]
    assert len(server.calls()) == 20


def test_a_failure_while_looking_for_a_place(server: Timestream, pump: Open) -> None:
    """Only what has none yet is pending; what is refused by then stays refused."""
    server.refuses = lambda point: "odd" if point.dimensions["APIName"] == "x" else ""
    records = [record(request_time=1), record("x"), record(request_time=2), record("y")]
    made = pump()
    server.before = lambda request: Answer(503) if len(server.calls()) > 1 else None
    with pytest.raises(TransientError) as caught:
        made.write(batch(*records))
    assert caught.value.pending == [2]
    assert caught.value.rejected == {1: "odd"}
    server.before = lambda request: None
    made.write(batch(*records).part([2]))
    assert len(server.points) == 3


# Names


def test_names_that_nobody_knows_are_told_at_the_start(
    server: Timestream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And left out, as is what is listed twice; the pump works."""
    made = opened(
        tmp_path,
        "timestream",
        server.meta(
            dimensions=["APIName", "Paht", "APIName"],
            measures=["RequestTime", "Latency.Totl", "RateLimit.Remaining"],
            field_name_mappings={"Nothing": "nothing", "Path": "path"},
        ),
    )
    told = [vars(e)["reason"] for e in caplog.records if "left out" in e.getMessage()]
    assert told == [
        "dimensions: 'Paht' is unknown",
        "dimensions: 'APIName' is there twice",
        "measures: 'Latency.Totl' is unknown",
        "Ratelimit.Remaining is left out without write_rate_limit",
        "field_name_mappings: nothing to do with 'Nothing'",
    ]
    made.write(batch(record("a")))
    made.close()
    assert names(server) == ["a"]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"timestream_table_name": ""}, "timestream_table_name: missing"),
        ({"timestream_database_name": ""}, "timestream_database_name: missing"),
        ({"dimensions": []}, "dimensions: missing"),
        ({"measures": None}, "measures: missing"),
        ({"measures": ["X"]}, "measures: no name that is known"),
        ({"dimensions": ["X"]}, "dimensions: no name that is known"),
        ({"aws_endpoint": "ftp://x"}, "aws_endpoint: "),
        (
            {"field_name_mappings": {"APIName": "RequestTime"}},
            "field_name_mappings: 'RequestTime' stands for APIName and for RequestTime",
        ),
        (
            {"field_name_mappings": {"APIName": "ts_x"}},
            "field_name_mappings: 'ts_x' is a name of Timestream's own",
        ),
        (
            {"field_name_mappings": {"RequestTime": "time"}},
            "field_name_mappings: 'time' is a name of Timestream's own",
        ),
        (
            {"field_name_mappings": {"APIName": "n" * 61}},
            "has 61 bytes, the limit is 60",
        ),
        ({"record_id_name": "APIName"}, "record_id_name: 'APIName' stands for"),
    ],
)
def test_faults_of_the_configuration(
    server: Timestream, tmp_path: Path, options: dict[str, Any], fault: str
) -> None:
    """Each is named with the option's path."""
    config = loaded(tmp_path, "timestream", server.meta(**options))
    faults = config.every_fault()
    assert len(faults) == 1 and faults[0].startswith("pumps.x.meta.")
    assert fault in faults[0]


def test_variables(tmp_path: Path) -> None:
    """Those of the reference and those that its README names."""
    path = tmp_path / "pump.conf"
    path.write_text(json.dumps({"pumps": {}}))
    prefix = "TYK_PMP_PUMPS_TIMESTREAM_META"
    common = {
        "TYK_PMP_PUMPS_TIMESTREAM_TYPE": "timestream",
        f"{prefix}_AWSREGION": REGION,
        f"{prefix}_DIMENSIONS": "Path,APIKey",
        f"{prefix}_MEASURES": "RequestTime",
        f"{prefix}_WRITERATELIMIT": "true",
        f"{prefix}_READGEOFROMREQUEST": "true",
        f"{prefix}_WRITEZEROVALUES": "true",
    }
    ours = {
        f"{prefix}_TABLENAME": "t",
        f"{prefix}_DATABASENAME": "d",
        f"{prefix}_NAMEMAPPINGS": "Path:path,APIKey:api_key",
    }
    theirs = {
        f"{prefix}_TIMESTREAMTABLENAME": "t",
        f"{prefix}_TIMESTREAMDATABASENAME": "d",
        f"{prefix}_FIELDNAMEMAPPINGS_Path": "path",
        f"{prefix}_FIELDNAMEMAPPINGS_APIKEY": "api_key",
    }
    whole = {
        f"{prefix}_TABLENAME": "t",
        f"{prefix}_DATABASENAME": "d",
        f"{prefix}_FIELDNAMEMAPPINGS": "Path:path,APIKey:api_key",
    }
    for some in (ours, theirs, whole):
        config = load(str(path), {**common, **some})
        assert config.every_fault() == [] and config.warnings == []
        options: Any = config.pumps[0].options
        assert options.timestream_table_name == "t"
        assert options.timestream_database_name == "d"
        assert options.aws_region == REGION
        mappings = {k.lower(): v for k, v in options.field_name_mappings.items()}
        assert mappings == {"path": "path", "apikey": "api_key"}
        assert options.write_rate_limit and options.write_zero_values
        assert options.read_geo_from_request


def test_every_name_works(server: Timestream, pump: Open) -> None:
    """All at once, as the service takes them."""
    made = pump(
        dimensions=list(DIMENSIONS),
        measures=list(MEASURES),
        write_rate_limit=True,
        write_zero_values=True,
    )
    made.write(batch(record("a", raw_response="r" * 100_000, raw_request="q" * 9000)))
    (point,) = server.points
    assert point.values()["RawResponseSize"] == "49"
    assert "RawRequest4" in point.values()


# Where and who


def test_probe(server: Timestream, pump: Open) -> None:
    """Asks for the table, with the credentials, and writes nothing."""
    said = pump().probe()
    assert said == "tyk.analytics is ACTIVE, new records may be 6 hours old"
    assert server.calls("DescribeTable") == [
        {"DatabaseName": DATABASE, "TableName": TABLE}
    ]
    with pytest.raises(TransientError, match="The table other does not exist"):
        pump(timestream_table_name="other").probe()
    with pytest.raises(TransientError, match="UnrecognizedClientException") as caught:
        pump(aws_key="ANOTHER").probe()
    assert SECRET not in caught.value.reason
    assert server.calls() == []


def test_an_address_of_ones_own_is_the_one(server: Timestream, pump: Open) -> None:
    """Nobody is asked for another."""
    pump().write(batch(record("a")))
    assert server.calls("DescribeEndpoints") == [] and names(server) == ["a"]


@pytest.fixture
def region(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Timestream]:
    """The service under the region's own addresses, behind a proxy."""
    with Timestream(authority=authority, proxy=True) as made:
        monkeypatch.setenv("HTTPS_PROXY", made.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        made.address = f"ingest-cell1.timestream.{REGION}.amazonaws.com"
        yield made


def in_region(region: Timestream, authority: Authority) -> dict[str, Any]:
    """Return options without an address of one's own."""
    meta = region.meta(ssl_ca_file=str(authority.ca_file))
    del meta["aws_endpoint"]
    return meta


def test_the_service_names_the_address_to_write_to(
    region: Timestream, authority: Authority, tmp_path: Path
) -> None:
    """It is asked once, and anew when an address is past."""
    made = opened(tmp_path, "timestream", in_region(region, authority))
    made.write(batch(*numbered(250)))
    hosts = [request.authority for request in region.http.requests]
    assert hosts == [
        f"ingest.timestream.{REGION}.amazonaws.com:443",
        *[f"{region.address}:443"] * 3,
    ]
    assert region.calls("DescribeEndpoints") == [{}]
    region.address = f"ingest-cell2.timestream.{REGION}.amazonaws.com"

    def judge(request: Request) -> Answer | None:
        past = "cell1" in request.authority
        return error("InvalidEndpointException", "gone", 421) if past else None

    region.before = judge
    with pytest.raises(TransientError, match="InvalidEndpointException"):
        made.write(batch(record("a")))
    made.write(batch(record("a")))
    made.close()
    assert names(region)[-1] == "a"
    assert region.http.requests[-1].authority == f"{region.address}:443"


def test_a_service_that_names_no_address(
    region: Timestream, authority: Authority, tmp_path: Path
) -> None:
    """Is asked again with the next attempt."""
    made = opened(tmp_path, "timestream", in_region(region, authority))
    region.before = lambda request: Answer(200, b'{"Endpoints":[]}')
    with pytest.raises(TransientError, match="names no address"):
        made.write(batch(record("a")))
    region.before = lambda request: None
    made.write(batch(record("a")))
    made.close()
    assert names(region) == ["a"]


def test_two_pumps_with_other_certificates(
    authority: Authority, tmp_path: Path
) -> None:
    """In one process each believes its own authority and shows its own certificate."""
    cert, key = authority.client("pump")
    with Timestream(authority=authority, demand_certificate=True) as secure:
        sure = {
            "ssl_ca_file": str(authority.ca_file),
            "ssl_cert_file": str(cert),
            "ssl_key_file": str(key),
        }
        good = opened(tmp_path, "timestream", secure.meta(**sure))
        bad = opened(tmp_path, "timestream", secure.meta())
        blind = {"ssl_insecure_skip_verify": True}
        mute = opened(tmp_path, "timestream", secure.meta(**blind))
        good.write(batch(record("a")))
        for one in (bad, mute):
            with pytest.raises(TransientError) as caught:
                one.write(batch(record("b")))
            assert SECRET not in caught.value.reason
        good.write(batch(record("c")))
        for one in (good, bad, mute):
            one.close()
        assert names(secure) == ["a", "c"]
