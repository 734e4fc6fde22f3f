"""JSON of records beyond what the captured ones show."""

from __future__ import annotations

import json
import math

import pytest

from tyk_pump.errors import CodecError
from tyk_pump.record import json as record_json
from tyk_pump.record.analytics import (
    BLANK_TIME,
    AnalyticsRecord,
    GraphQLError,
    GraphQLStats,
)
from tyk_pump.record.json import encode, encode_sorted, go_float


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (51.0, "51"),
        (-0.0931, "-0.0931"),
        (1e-5, "0.00001"),
        (1.5e-6, "0.0000015"),
        (1e-7, "1e-7"),
        (-2.25e-10, "-2.25e-10"),
        (1e15, "1000000000000000"),
        (1.2345e20, "123450000000000000000"),
        (1e21, "1e+21"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
    ],
)
def test_numbers_are_shown_as_go_does(number: float, shown: str) -> None:
    """The exponent begins at 1e21 and below 1e-6."""
    record = AnalyticsRecord()
    record.geo.location.latitude = number
    assert go_float(number) == shown
    assert f'"latitude":{shown},'.encode() in encode(record)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_without_a_form_are_refused(number: float) -> None:
    """NaN and infinity are a CodecError that says so."""
    record = AnalyticsRecord()
    record.geo.location.longitude = number
    with pytest.raises(CodecError, match="no form in JSON"):
        encode(record)


def test_years_without_a_form_are_refused() -> None:
    """A year of five digits is a CodecError that says so."""
    with pytest.raises(CodecError, match="year 10000"):
        encode(AnalyticsRecord(expire_at=(253402300800, 0)))


def test_texts_are_escaped_for_html() -> None:
    """Characters that HTML or JavaScript read are escaped, wherever they stand."""
    shown = encode(AnalyticsRecord(path="<a>&\u2028\u2029é", tags=["<"]))
    assert b'"path":"\\u003ca\\u003e\\u0026\\u2028\\u2029\xc3\xa9"' in shown
    assert b'"tags":["\\u003c"]' in shown


def test_each_invalid_byte_is_one_replacement_character() -> None:
    """Invalid bytes show as `\\ufffd`, a real U+FFFD as itself, keys included."""
    bad = b"a\xe2\x82z".decode("utf-8", "surrogateescape")
    record = AnalyticsRecord(path=bad, host="\ufffd", tags=[bad])
    record.geo.city.names = {bad: bad}
    shown = encode(record)
    mended = b'"a\\ufffd\\ufffdz"'
    assert b'"path":' + mended in shown
    assert b'"host":"\xef\xbf\xbd"' in shown
    assert b'"tags":[' + mended + b"]" in shown
    assert b'"names":{' + mended + b":" + mended + b"}" in shown
    assert json.loads(shown)["track_path"] is False


def test_nil_and_empty_stay_apart() -> None:
    """A nil list or map is null, an empty one is not."""
    empty = AnalyticsRecord(tags=[])
    empty.geo.city.names = {}
    assert b'"tags":null' in encode(AnalyticsRecord())
    assert b'"names":null' in encode(AnalyticsRecord())
    assert b'"tags":[]' in encode(empty)
    assert b'"names":{}' in encode(empty)


def test_maps_are_sorted() -> None:
    """Keys come in the order of their bytes."""
    record = AnalyticsRecord()
    record.geo.city.names = {"zh": "c", "é": "d", "de": "b", "A": "a"}
    assert '"names":{"A":"a","de":"b","zh":"c","é":"d"}'.encode() in encode(record)


def test_paths_of_errors_may_hold_anything() -> None:
    """Numbers, nil and nested values in a path are shown as Go does."""
    error = GraphQLError("m", ["a", 1, 2.0, None, True])
    record = AnalyticsRecord(graphql_stats=GraphQLStats(errors=[error]))
    shown = encode(record)
    assert b'"Errors":[{"message":"m","path":["a",1,2,null,true]}]' in shown


def test_an_ignored_time_is_zero_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blank time has no zone, whatever the zone of the record."""
    record = AnalyticsRecord(timestamp=BLANK_TIME, zone="Europe/Berlin")
    shown = json.loads(record_json.encode(record))
    assert shown["timestamp"] == "0001-01-01T00:00:00Z"
    assert shown["expireAt"] == "0001-01-01T00:53:28+00:53"


def test_sorted_keys_are_all_that_differs() -> None:
    """Every object has its keys in order, those within it, too; values are the same."""
    record = AnalyticsRecord(tags=["b", "a"], path="<\udcff>")
    record.geo.city.names = {"z": "1", "a": "2"}
    record.graphql_stats.is_graphql = True
    shown = encode_sorted(record)
    assert json.loads(shown) == json.loads(encode(record))
    pairs: list[list[str]] = []
    json.loads(shown, object_pairs_hook=lambda p: pairs.append([k for k, _ in p]))
    assert pairs == [sorted(keys) for keys in pairs]
