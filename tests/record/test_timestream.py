"""A record as Timestream's multi-measure record; what the reference wrote is a fact."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tyk_pump.errors import CodecError
from tyk_pump.record import analytics
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.timestream import (
    DIMENSIONS,
    MEASURES,
    Points,
    chunks,
    header,
    later,
)

ID = "01JZZZZZZZZZZZZZZZZZZZZZZZ:7"
RAW_REQUEST = "R0VUIC9wIEhUVFAvMS4xDQpIb3N0OiBoDQoNCg=="
RAW_RESPONSE = (
    "SFRUUC8xLjEgMjAwIE9LDQpYLVJhdGVsaW1pdC1MaW1pdDogMTAwDQoNCnsiaWQiOiA0Mn0="
)


def record(**fields: Any) -> AnalyticsRecord:
    """Return the record that the contract's examples are of, with other fields."""
    made = AnalyticsRecord(
        method="GET",
        host="api.example.com:8080",
        path="/pets/42/",
        raw_path="/petstore/pets/42/",
        content_length=12,
        user_agent='curl/8.5.0 (x86_64, "t")',
        response_code=200,
        api_key="5e9d9544a1dc1234",
        timestamp=(1_741_183_629, 123_456_789),
        api_version="Default",
        api_name="Petstore API",
        api_id="b605a6f0",
        org_id="5e9d9544",
        request_time=37,
        raw_request=RAW_REQUEST,
        raw_response=RAW_RESPONSE,
        ip_address="203.0.113.9",
        geo=analytics.Geo(
            analytics.Country("US"),
            analytics.City(5128581, {"en": "New York", "de": "New York City"}),
            analytics.Location(40.7128, -74.006, "America/New_York"),
        ),
        network=analytics.Network(1, 2, 345, 678),
        latency=analytics.Latency(36, 30, 6),
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def written(points: Points, made: AnalyticsRecord) -> Any:
    """Return what is written of a record."""
    item = points.encode(made, ID)
    return item and json.loads(item)


def measures(*names: str, of: AnalyticsRecord | None = None, **how: Any) -> Any:
    """Return name, type and value of each measure that is written."""
    found = written(Points(["Method"], names, **how), of or record())
    return found and [
        (m["Name"], m["Type"], m["Value"]) for m in found["MeasureValues"]
    ]


def message(*lines: str, body: str = "") -> str:
    """Return a raw request or response in base64."""
    text = "\r\n".join([*lines, "", body])
    return base64.b64encode(text.encode()).decode()


def test_the_example_of_the_reference() -> None:
    """Every value of it, in its order; and the gateway's latency beside it."""
    points = Points(
        ["Method", "Path", "OauthID"],
        [
            "ResponseCode",
            "RequestTime",
            "Latency.Total",
            "Latency.Gateway",
            "GeoData.City.Names",
            "GeoData.Location.Longitude",
            "RateLimit.Limit",
            "Ratelimit.Remaining",
            "UserAgent",
            "RawResponse",
        ],
        names={"Method": "method", "RawResponse": "resp"},
    )
    found = written(points, record())
    assert [(d["Name"], d["Value"]) for d in found["Dimensions"]] == [
        ("method", "GET"),
        ("Path", "/pets/42/"),
    ]
    assert {d["DimensionValueType"] for d in found["Dimensions"]} == {"VARCHAR"}
    assert found["Time"] == "1741183629123456789"
    assert [(m["Name"], m["Type"], m["Value"]) for m in found["MeasureValues"]] == [
        ("ResponseCode", "BIGINT", "200"),
        ("RequestTime", "BIGINT", "37"),
        ("Latency.Total", "BIGINT", "36"),
        ("Latency.Gateway", "BIGINT", "6"),
        ("GeoData.City.Names", "VARCHAR", "de:New York City;en:New York"),
        ("GeoData.Location.Longitude", "DOUBLE", "-74.006"),
        ("RateLimit.Limit", "BIGINT", "100"),
        ("UserAgent", "VARCHAR", 'curl/8.5.0 (x86_64, "t")'),
        ("RawResponseSize", "BIGINT", "1"),
        ("resp0", "VARCHAR", RAW_RESPONSE),
    ]
    assert set(found) == {"Dimensions", "MeasureValues", "Time"}


def test_all_dimensions_and_measures() -> None:
    """Each name has its own value."""
    found = written(Points(list(DIMENSIONS), list(MEASURES)), record(oauth_id="o"))
    assert {d["Name"]: d["Value"] for d in found["Dimensions"]} == {
        "Method": "GET",
        "Host": "api.example.com:8080",
        "Path": "/pets/42/",
        "RawPath": "/petstore/pets/42/",
        "APIKey": "5e9d9544a1dc1234",
        "APIVersion": "Default",
        "APIName": "Petstore API",
        "APIID": "b605a6f0",
        "OrgID": "5e9d9544",
        "OauthID": "o",
    }
    assert {m["Name"]: m["Value"] for m in found["MeasureValues"]} == {
        "ContentLength": "12",
        "ResponseCode": "200",
        "RequestTime": "37",
        "NetworkStats.OpenConnections": "1",
        "NetworkStats.ClosedConnection": "2",
        "NetworkStats.BytesIn": "345",
        "NetworkStats.BytesOut": "678",
        "Latency.Total": "36",
        "Latency.Upstream": "30",
        "Latency.Gateway": "6",
        "GeoData.City.GeoNameID": "5128581",
        "RateLimit.Limit": "100",
        "GeoData.Location.Latitude": "40.7128",
        "GeoData.Location.Longitude": "-74.006",
        "UserAgent": 'curl/8.5.0 (x86_64, "t")',
        "RawRequest": RAW_REQUEST,
        "IPAddress": "203.0.113.9",
        "GeoData.Country.ISOCode": "US",
        "GeoData.City.Names": "de:New York City;en:New York",
        "GeoData.Location.TimeZone": "America/New_York",
        "RawResponseSize": "1",
        "RawResponse0": RAW_RESPONSE,
    }


def test_only_what_is_asked_for_is_read() -> None:
    """Bodies stay undecoded unless a measure is in them."""
    assert set(Points(["Method"], ["Latency.Total"]).fields) == {
        "timestamp",
        "method",
        "latency",
    }
    points = Points(["Path"], ["GeoData.Country.ISOCode"])
    assert set(points.fields) == {"timestamp", "path", "geo"}
    points = Points(["Path"], ["GeoData.Country.ISOCode"], geo_headers=True)
    assert set(points.fields) == {"timestamp", "path", "geo", "raw_request"}
    points = Points(["Path"], ["RateLimit.Limit"])
    assert set(points.fields) == {"timestamp", "path", "raw_response"}
    points = Points(["Path"], ["RawResponse"])
    assert set(points.fields) == {"timestamp", "path", "raw_response"}


def test_empty_texts_and_zeros() -> None:
    """Empty texts are never written, zeros where asked for."""
    empty = AnalyticsRecord(
        timestamp=(5, 0), raw_response=message("", "X-Ratelimit-Limit: 0")
    )
    names = [name for name in MEASURES if name != "RawResponse"]
    assert measures(*names, of=empty) is None
    zeros = measures(*names, of=empty, zeros=True)
    kinds = {"BIGINT": 12, "DOUBLE": 2}
    assert {kind: [k for _, k, _ in zeros].count(kind) for kind in kinds} == kinds
    assert {value for _, _, value in zeros} == {"0"}
    bare = written(Points(["Path", "Host"], ["RawResponse"]), empty)
    assert bare["Dimensions"] == []


def test_the_number_of_chunks_is_always_there() -> None:
    """Even for a response that is empty, and under its other name."""
    empty = AnalyticsRecord(timestamp=(5, 0))
    assert measures("RawResponse", of=empty) == [("RawResponseSize", "BIGINT", "0")]
    names = {"RawResponseSize": "parts", "RawResponse": "part"}
    found = measures("RawResponse", "Latency.Total", names=names)
    assert found == [
        ("Latency.Total", "BIGINT", "36"),
        ("parts", "BIGINT", "1"),
        ("part0", "VARCHAR", RAW_RESPONSE),
    ]


def test_chunks_of_a_response() -> None:
    """As the reference cuts one; together they are the response again."""
    text = "ab" * 2500
    found = measures("RawResponse", of=record(raw_response=text))
    assert [(name, len(value)) for name, _, value in found[1:]] == [
        ("RawResponse0", 2048),
        ("RawResponse1", 2048),
        ("RawResponse2", 904),
    ]
    assert "".join(value for _, _, value in found[1:]) == text
    assert found[0] == ("RawResponseSize", "BIGINT", "3")


@pytest.mark.parametrize(
    "text", ["é" * 5000, "a" + "é" * 5000, "aa€" * 3000, "𝄞" * 2000]
)
def test_no_chunk_cuts_a_character(text: str) -> None:
    """A chunk ends before a character that does not fit."""
    found = list(chunks(text, 2048))
    assert "".join(found) == text
    assert all(2044 < len(one.encode()) <= 2048 for one in found[:-1])


def test_long_texts_go_into_chunks() -> None:
    """The first keeps the name; a short one looks as ever."""
    request = "R" * 3000
    found = measures("RawRequest", "UserAgent", of=record(raw_request=request))
    assert [(name, len(value)) for name, _, value in found] == [
        ("RawRequest", 2048),
        ("RawRequest1", 952),
        ("UserAgent", 24),
    ]
    found = measures(
        "UserAgent", of=record(user_agent="ü" * 1024), names={"UserAgent": "ua"}
    )
    assert found == [("ua", "VARCHAR", "ü" * 1024)]
    found = measures(
        "UserAgent", of=record(user_agent="ü" * 1025), names={"UserAgent": "ua"}
    )
    assert [(name, value) for name, _, value in found] == [
        ("ua", "ü" * 1024),
        ("ua1", "ü"),
    ]


def test_a_dimension_ends_where_the_service_has_no_room() -> None:
    """The name counts; no character is cut."""
    points = Points(["Path", "Method"], ["Latency.Total"])
    found = written(points, record(path="/" + "é" * 3000))
    path = found["Dimensions"][0]["Value"]
    assert len(path.encode()) in (2043, 2044) and path.endswith("é")
    assert found["Dimensions"][1]["Value"] == "GET"
    assert points.cut == 1


def test_no_more_measures_than_the_service_takes() -> None:
    """Numbers have their place; of the bodies the ends are left out, and counted."""
    big = record(raw_request="q" * 300_000, raw_response="s" * 2_000_000)
    names = ["RawRequest", "ResponseCode", "UserAgent", "RawResponse"]
    points = Points(["Method"], names, id_name="id")
    found = written(points, big)["MeasureValues"]
    assert len(found) == 256 == len({m["Name"] for m in found})
    kept = {m["Name"]: m["Value"] for m in found}
    assert kept["ResponseCode"] == "200" and kept["UserAgent"] and kept["id"] == ID
    chunks_kept = [m for m in found if m["Name"].startswith("RawResponse")][1:]
    assert kept["RawResponseSize"] == str(len(chunks_kept)) == "105"
    assert points.cut == 1
    points = Points(["Method"], names)
    found = written(points, record(raw_request="q" * 2_000_000))["MeasureValues"]
    assert len(found) == 256
    assert [m["Name"] for m in found[-2:]] == ["RawResponseSize", "RawResponse0"]
    assert points.cut == 1


def test_bytes_that_are_no_text() -> None:
    """They become U+FFFD, as the service reads UTF-8 only."""
    odd = b"a\xffb".decode("utf-8", "surrogateescape")
    found = written(
        Points(["Path"], ["UserAgent", "RawRequest", "RawResponse"]),
        record(path=odd, user_agent=odd, raw_request=odd * 1000, raw_response=odd),
    )
    assert found["Dimensions"][0]["Value"] == "a\ufffdb"
    values = [m["Value"] for m in found["MeasureValues"]]
    assert values[0] == values[-1] == "a\ufffdb"
    assert "".join(values[1:4]) == "a\ufffdb" * 1000


@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["x-ratelimit-limit: 100", "X-RATELIMIT-REMAINING:99"], ["100", "99"]),
        (["X-Ratelimit-Reset:  1741183700  "], ["1741183700"]),
        (["X-Ratelimit-Limit: many"], None),
        (["X-Ratelimit-Limit: 1.5"], None),
        (["X-Ratelimit-Limit: 99999999999999999999"], None),
        (["X-Ratelimit-Limit: +7", "X-Ratelimit-Limit: 8"], ["7"]),
        (["X-Other: 1", "", "X-Ratelimit-Limit: 100"], None),
        (["X-Ratelimit-Limit: 0"], None),
    ],
)
def test_rate_limits(lines: list[str], found: list[str] | None, decoded: bool) -> None:
    """Whole numbers of the response's headers, of bodies in base64 and decoded ones."""
    raw = message("HTTP/1.1 200 OK", *lines, body="x" * 100)
    if decoded:
        raw = base64.b64decode(raw).decode()
    names = ("RateLimit.Limit", "Ratelimit.Remaining", "Ratelimit.Reset")
    numbers = measures(*names, of=record(raw_response=raw))
    assert (numbers and [value for _, _, value in numbers]) == found


def test_rate_limits_of_what_is_no_message() -> None:
    """Nothing, and no error."""
    for raw in ("", "%%%", "!", "QUJD", "R", "abc def"):
        found = measures("RateLimit.Limit", of=record(raw_response=raw))
        assert found is None


def test_a_long_head() -> None:
    """Is read to its end, wherever the body begins; lines in base64 are joined."""
    filling = [f"X-Filling-{n}: {'f' * 100}" for n in range(200)]
    raw = message("HTTP/1.1 200 OK", *filling, "X-Ratelimit-Limit: 7", body="b" * 10**6)
    assert header(raw, "X-Ratelimit-Limit") == "7"
    broken = "\r\n".join(raw[at : at + 76] for at in range(0, len(raw), 76))
    assert header(broken, "X-Ratelimit-Limit") == "7"


@pytest.mark.parametrize("decoded", [False, True])
def test_places_of_the_request(decoded: bool) -> None:
    """Only where the record has none, and only where it is asked for."""
    raw = message(
        "GET / HTTP/1.1",
        "Cloudfront-Viewer-Country: DE",
        "CloudFront-Viewer-City: Köln",
    )
    if decoded:
        raw = base64.b64decode(raw).decode()
    names = ("GeoData.Country.ISOCode", "GeoData.City.Names")
    blank = record(geo=analytics.Geo(), raw_request=raw)
    assert measures(*names, of=blank) is None
    found = measures(*names, of=blank, geo_headers=True)
    assert [value for _, _, value in found] == ["DE", "Köln"]
    known = measures(*names, of=record(raw_request=raw), geo_headers=True)
    assert [value for _, _, value in known] == ["US", "de:New York City;en:New York"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-7, "0.0000001"),
        (-1.5e-9, "-0.0000000015"),
        (1e21, "1000000000000000000000"),
        (12.0, "12"),
        (0.1, "0.1"),
    ],
)
def test_coordinates_have_no_exponent(number: float, text: str) -> None:
    """The shortest digits that read back as the number."""
    geo = analytics.Geo(location=analytics.Location(latitude=number))
    found = measures("GeoData.Location.Latitude", of=record(geo=geo))
    assert found == [("GeoData.Location.Latitude", "DOUBLE", text)]


def test_coordinates_that_are_no_numbers() -> None:
    """Are left out: the service has no form for them."""
    for number in (float("nan"), float("inf"), float("-inf")):
        geo = analytics.Geo(location=analytics.Location(latitude=number))
        found = measures("GeoData.Location.Latitude", of=record(geo=geo), zeros=True)
        assert found is None


@pytest.mark.parametrize("seconds", [-62135596800, 9_300_000_000])
def test_times_that_no_point_can_have(seconds: int) -> None:
    """Are refused before the service is asked."""
    with pytest.raises(CodecError, match="1677"):
        Points(["Path"], ["Latency.Total"]).encode(record(timestamp=(seconds, 0)), ID)


def test_the_id_tells_records_apart() -> None:
    """Where it is asked for; but it alone is no measure."""
    found = measures("Latency.Total", id_name="_id")
    assert found == [("Latency.Total", "BIGINT", "36"), ("_id", "VARCHAR", ID)]
    empty = AnalyticsRecord(timestamp=(5, 0))
    assert measures("Latency.Total", of=empty, id_name="_id") is None


def test_later() -> None:
    """The same record, some nanoseconds later; even before 1970."""
    points = Points(["Path"], ["UserAgent"])
    for time, expected in (((5, 0), "5000000007"), ((-5, 0), "-4999999993")):
        item = points.encode(record(timestamp=time, user_agent='"Time":"1"}'), ID)
        assert item is not None
        moved = json.loads(later(item, 7))
        assert moved == {**json.loads(item), "Time": expected}


def test_many_series() -> None:
    """What is remembered of them has a bound, and no series is taken for another."""
    points = Points(["Path", "Host"], ["Latency.Total"])
    for _ in range(2):
        for number in range(10_050):
            item = points.encode(record(path=f"/{number}", host=""), ID)
            assert item is not None and b'"/%d"' % number in item
