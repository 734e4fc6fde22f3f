"""Decoding, held against what the reference reads from the same bytes."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any, Literal

import pytest
from msgspec.msgpack import Ext
from msgspec.msgpack import encode as packed

from tests.golden import loader
from tyk_pump.errors import CodecError
from tyk_pump.record import analytics, codec, gotext, gotime, wire
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.json import encode

Codec = Literal["msgpack", "protobuf"]

# The reference refuses these or dies of them; they are good records all the same.
ACCEPTED_HERE = {
    "unknown key with ext, first in the map",
    "time nil",
    "time RFC 3339 text",
    "time ext 4",
    "time ext 8",
    "time ext 12",
    "empty payload",
    "without Geo",
    "without Network",
    "without Latency",
    "Geo empty message",
    "Geo without City",
}
# A zone that nobody knows costs the reference both times; here the instant stays.
UNKNOWN_ZONE = {
    "TimeZone 'Nowhere/Here'",
    "TimeZone '+02:00'",
    "time-zone-east",
    "time-zone-west",
}


def rows(path: str) -> list[Any]:
    """Return the rows of a file in the codec archive."""
    return loader.json_lines(loader.archive("codec")[path])


def acceptance() -> list[Any]:
    """Return every hand-made payload as a parameter."""
    return [
        pytest.param(row, id=f"{row['codec']}-{row['name']}")
        for kind in ("msgpack", "protobuf")
        for row in rows(f"acceptance-{kind}.jsonl")
    ]


def edges() -> list[Any]:
    """Return every edge record of both codecs as a parameter."""
    return [
        pytest.param(kind, row, id=f"{kind}-{row['name']}")
        for kind in ("msgpack", "protobuf")
        for row in rows(f"edge-{kind}.jsonl")
    ]


def decode(kind: Codec, payload: bytes) -> AnalyticsRecord:
    """Decode all fields."""
    return codec.decoder(kind, analytics.ALL)(payload)


def forgotten(shown: str) -> str:
    """Return a protobuf record as the reference shows it: without city names."""
    return re.sub(r'"names":\{[^}]*\}', '"names":null', shown)


def comparable(kind: str, name: str, shown: str) -> str:
    """Return what of a record must be the same here and there."""
    if kind == "protobuf":
        shown = forgotten(shown)
        if name in UNKNOWN_ZONE:
            shown = re.sub(r'("timestamp"|"expireAt"):"[^"]*"', r"\1", shown)
    return shown


@pytest.mark.parametrize("row", acceptance())
def test_payloads_are_taken_or_refused_as_by_the_reference(row: Any) -> None:
    """Each payload is decoded to the same record, or refused."""
    kind, name = row["codec"], row["name"]
    payload = base64.b64decode(row["payload_b64"])
    if "record" in row:
        shown = encode(decode(kind, payload)).decode()
        assert comparable(kind, name, shown) == comparable(kind, name, row["record"])
    elif "note" in row:
        with pytest.raises(CodecError, match="no form in JSON"):
            encode(decode(kind, payload))
    elif name in ACCEPTED_HERE and (kind == "protobuf" or name != "empty payload"):
        encode(decode(kind, payload))
    else:
        with pytest.raises(CodecError):
            decode(kind, payload)


@pytest.mark.parametrize(("kind", "row"), edges())
def test_edge_records_read_as_by_the_reference(kind: Codec, row: Any) -> None:
    """Each edge record shows the reference's JSON, byte for byte."""
    payload = loader.corpus("edge")[row["name"]].bytes_in(kind)
    assert payload is not None
    shown = encode(decode(kind, payload)).decode()
    want = row["record"]
    assert comparable(kind, row["name"], shown) == comparable(kind, row["name"], want)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu"])
def test_times_are_shown_in_the_pumps_zone(
    zone: str, set_zone: Callable[[str], None]
) -> None:
    """Times of msgpack records have the local zone, of protobuf records their own."""
    set_zone(zone)
    for row in rows(f"times-{zone.replace('/', '-')}.jsonl"):
        payload = loader.corpus("edge")[row["name"]].bytes_in(row["codec"])
        assert payload is not None
        record = decode(row["codec"], payload)
        assert (record.day, record.hour) == (row["day"], row["hour"])
        if row["codec"] == "protobuf" and row["name"] in UNKNOWN_ZONE:
            continue
        assert gotime.rfc3339(record.timestamp, record.zone) == row["timestamp"]
        assert gotime.rfc3339(record.expire_at, record.zone) == row["expireAt"]


@pytest.mark.parametrize("name", ["time-zone-east", "time-zone-west"])
def test_unknown_zone_keeps_the_instant_in_utc(name: str) -> None:
    """A zone nobody knows costs neither time; the reference shows the zero time."""
    both = loader.corpus("edge")[name]
    assert both.protobuf is not None
    assert both.msgpack is not None
    record = decode("protobuf", both.protobuf)
    assert record.zone == "UTC"
    assert record.timestamp == decode("msgpack", both.msgpack).timestamp
    assert record.timestamp != analytics.ZERO_TIME


def test_city_names_of_protobuf_records_are_kept() -> None:
    """The names that the reference forgets are there."""
    payload = loader.corpus("edge")["plain"].protobuf
    assert payload is not None
    names = decode("protobuf", payload).geo.city.names
    assert names == {"en": "London", "fr": "Londres"}


def test_missing_protobuf_messages_are_zeros() -> None:
    """A record without any message decodes; a missing time is the epoch."""
    record = decode("protobuf", b"")
    zero = AnalyticsRecord(timestamp=(0, 0), expire_at=(0, 0), zone="UTC")
    assert record == zero


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (None, analytics.ZERO_TIME),
        ("2023-11-14T22:13:20.5Z", (1700000000, 500_000_000)),
        ("2023-11-15T00:13:20+02:00", (1700000000, 0)),
        (Ext(-1, struct.pack(">I", 1700000000)), (1700000000, 0)),
        (
            Ext(-1, struct.pack(">Q", 7 << 34 | 1700000000)),
            (1700000000, 7),
        ),
        (Ext(-1, struct.pack(">Iq", 9, -62135596800)), (-62135596800, 9)),
        ([1700000000, 2_500_000_000], (1700000002, 500_000_000)),
        ([1700000000, -5], (1699999999, 999_999_995)),
        ([2**64 - 1, 0], (-1, 0)),
    ],
)
def test_times_come_in_many_forms(value: Any, want: tuple[int, int]) -> None:
    """Every form of a time gives its instant, nanoseconds within one second."""
    assert decode("msgpack", packed({"TimeStamp": value})).timestamp == want


@pytest.mark.parametrize(
    "value", ["yesterday", "2023-02-30T00:00:00Z", Ext(5, b"1234"), 7, [1]]
)
def test_other_times_are_refused(value: Any) -> None:
    """What is no time is a CodecError, not a zero."""
    with pytest.raises(CodecError):
        decode("msgpack", packed({"TimeStamp": value}))


def test_bytes_that_are_no_utf8_survive() -> None:
    """Invalid bytes neither refuse the record nor get lost."""
    payload = b"\x82\xa4Path\xa4/\xff\xe2a\xa4Host\xa1h"
    record = decode("msgpack", payload)
    assert record.path.encode("utf-8", "surrogateescape") == b"/\xff\xe2a"
    assert decode("msgpack", wire.pack(record)) == record


@pytest.mark.parametrize("kind", ["msgpack", "protobuf"])
def test_a_part_of_the_fields_reads_the_same(kind: Codec) -> None:
    """A decoder of some fields returns just these, with the same values."""
    fields = ("org_id", "timestamp", "tags", "geo", "response_code")
    part = codec.decoder(kind, fields)
    for line in loader.corpus("edge").values():
        payload = line.bytes_in(kind)
        if payload is None:
            continue
        whole, some = decode(kind, payload), part(payload)
        assert some.zone == whole.zone
        for name in fields:
            assert getattr(some, name) == getattr(whole, name)
        assert not hasattr(some, "path")


@pytest.mark.parametrize("kind", ["msgpack", "protobuf"])
def test_no_fields_at_all_still_refuses_what_is_no_record(kind: Codec) -> None:
    """A pump that reads nothing still learns of bytes that are no record."""
    nothing = codec.decoder(kind, ())
    nothing(wire.pack(AnalyticsRecord()) if kind == "msgpack" else b"")
    with pytest.raises(CodecError):
        nothing(b"\xff\xff\xff")


def test_an_unknown_field_is_a_mistake_of_the_pump() -> None:
    """A name that no record has is refused when the decoder is made."""
    with pytest.raises(ValueError, match="colour"):
        codec.decoder("msgpack", ("method", "colour"))


def test_deep_nesting_is_refused_not_a_crash() -> None:
    """A payload of brackets ends in a CodecError, or is skipped where unknown."""
    deep = b"\x91" * 100_000 + b"\xc0"
    assert decode("msgpack", b"\x81\xa1x" + deep) == AnalyticsRecord()
    errors = b"\x81\xa6Errors\x91\x81\xa4Path\x91" + deep
    with pytest.raises(CodecError, match="deep"):
        decode("msgpack", b"\x81\xacGraphQLStats" + errors)


def test_lengths_beyond_the_payload_are_refused() -> None:
    """A huge announced length costs no memory, only the record."""
    for header in (b"\xdb\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(CodecError, match="too early"):
            decode("msgpack", b"\x81\xa1x" + header)


def test_readings_of_traffic_agree_between_the_codecs() -> None:
    """A record has the same values from either codec, but what protobuf has not."""
    for line in loader.corpus("traffic").values():
        if line.msgpack is None or line.protobuf is None:
            continue
        left, right = decode("msgpack", line.msgpack), decode("protobuf", line.protobuf)
        left.latency.gateway, right.zone = 0, ""
        left.tags = left.tags or None
        left.graphql_stats = right.graphql_stats = analytics.GraphQLStats()
        assert json.loads(encode(left)) == json.loads(encode(right))


@pytest.mark.parametrize("kind", ["msgpack", "protobuf"])
def test_damaged_bytes_are_a_record_or_a_codec_error(kind: Codec) -> None:
    """Whatever is wrong with a payload, nothing but a CodecError comes of it."""
    random = Random(20_250_305)
    whole = codec.decoder(kind, analytics.ALL)
    for line in loader.corpus("edge").values():
        payload = line.bytes_in(kind)
        if payload is None or len(payload) > 4096:
            continue
        for _ in range(15):
            damaged = bytearray(payload)
            for _ in range(random.randint(1, 4)):
                damaged[random.randrange(len(damaged))] = random.randrange(256)
            try:
                record = whole(bytes(damaged))
            except CodecError:
                continue
            gotext.encode(record)
            with contextlib.suppress(CodecError):
                json.loads(encode(record))
