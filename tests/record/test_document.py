"""Documents of chosen fields: keys, order, odd characters, what cannot be said."""

from __future__ import annotations

import json

import pytest

from tyk_pump.errors import CodecError
from tyk_pump.record.analytics import AnalyticsRecord, Geo, Location
from tyk_pump.record.document import Computed, Document

RECORD = AnalyticsRecord(
    method="GET", response_code=200, timestamp=(0, 5_000_000), zone="UTC"
)


def constant(value: object) -> Computed:
    """Return what has the same value in every document."""
    return Computed(lambda record: value, ())


def test_keys_go_in_the_order_of_their_bytes() -> None:
    """Whatever the order in which they are named."""
    made = Document({"é": "method", "a": "response_code", "Z": "path", "_": "tags"})
    assert made.encode(RECORD) == '{"Z":"","_":null,"a":200,"é":"GET"}'.encode()


def test_fields_are_what_is_read() -> None:
    """Each once; constants read nothing."""
    both = Computed(lambda record: record.method + record.path, ("method", "path"))
    made = Document({"a": both, "b": "method", "c": constant(1), "d": "timestamp"})
    assert made.fields == ("method", "path", "timestamp")
    assert made.encode(RECORD) == (
        b'{"a":"GET","b":"GET","c":1,"d":"1970-01-01T00:00:00.005Z"}'
    )


def test_an_empty_document() -> None:
    """No key is no trouble."""
    assert Document({}).encode(RECORD) == b"{}"
    assert Document({}).fields == ()


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "a\nb", "\x00", "<&>", "", "\u2028"])
def test_odd_keys(odd: str) -> None:
    """An operator may choose any: it is escaped, and the order stays."""
    written = Document({"z": "method", odd: constant("v"), "A": "path"}).encode(RECORD)
    assert json.loads(written) == {"z": "GET", odd: "v", "A": ""}
    keys = list(json.loads(written))
    assert keys == sorted(keys, key=str.encode)
    assert b"<" not in written and b"&" not in written


def test_bytes_that_are_no_utf8() -> None:
    """Each becomes a replacement character, in values and in keys."""
    odd = AnalyticsRecord(method="a\udcffb", tags=["\udcfe"])
    made = Document({"m": "method", "t": "tags"})
    assert made.encode(odd) == b'{"m":"a\\ufffdb","t":["\\ufffd"]}'
    made = Document({"k\udcff": "method", "a": "path"})
    assert made.encode(odd) == b'{"a":"","k\\ufffd":"a\\ufffdb"}'


def test_what_json_cannot_say() -> None:
    """A time beyond the year 9999, and numbers that are none."""
    with pytest.raises(CodecError):
        Document({"t": "timestamp"}).encode(AnalyticsRecord(timestamp=(10**12, 0)))
    nowhere = AnalyticsRecord(geo=Geo(location=Location(latitude=float("nan"))))
    with pytest.raises(CodecError):
        Document({"g": "geo"}).encode(nowhere)
