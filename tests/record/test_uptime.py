"""Uptime records, held against what the reference stored of the same bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.msgpack import encode as packed

from tests.golden import loader
from tests.golden.loader import Case
from tyk_pump.errors import CodecError
from tyk_pump.record import wire
from tyk_pump.record.analytics import ZERO_TIME
from tyk_pump.record.uptime import WIRE_NAMES, UptimeRecord, decode

FULL = UptimeRecord(
    url="http://a/é",
    request_time=12,
    response_code=521,
    tcp_error=True,
    server_error=True,
    day=14,
    month=3,
    year=2026,
    hour=9,
    minute=30,
    timestamp=(1773480600, 999_999_999),
    expire_at=(1774085400, 0),
    api_id="api",
    org_id="org",
)
BSON_NAMES = {"expire_at": "expireAt"}


def plain(value: Any) -> Any:
    """Return the value of a number or a date of extended JSON."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    return plain(inner) if kind == "$date" else int(inner)


def document(record: UptimeRecord) -> dict[str, Any]:
    """Return what a Mongo document of the record shows."""
    shown = {}
    for name, value in msgspec.structs.asdict(record).items():
        if isinstance(value, tuple):
            value = value[0] * 1000 + value[1] // 1_000_000
        shown[BSON_NAMES.get(name, name.replace("_", ""))] = value
    return shown


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name) for c in loader.cases("uptime-mongo")]
)
def test_golden(case: Case) -> None:
    """Every field of every document is the reference's."""
    expected = [
        {name: plain(value) for name, value in one.items() if name != "_id"}
        for line in loader.json_lines(case.files["expected.jsonl"])
        if line["command"] == "insert"
        for one in line["body"]["documents"]
    ]
    pushed = [each.msgpack for _, _, each in case.pushed()]
    assert [document(decode(raw)) for raw in pushed if raw] == expected


def test_round_trip() -> None:
    """What is packed is decoded to the same; the keys are the gateway's."""
    raw = wire.pack_uptime(FULL)
    assert decode(raw) == FULL
    assert list(msgspec.msgpack.decode(raw)) == list(WIRE_NAMES.values())
    odd = msgspec.structs.replace(FULL, url="http://\udcff/")
    assert decode(wire.pack_uptime(odd)) == odd


def test_positional() -> None:
    """A list is read in the order of the fields; what is missing is zero."""
    found = decode(packed(["http://a/", 1, 200]))
    assert found == UptimeRecord("http://a/", 1, 200)
    assert found.timestamp == ZERO_TIME


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, UptimeRecord()),
        ({"URL": None, "Day": None, "TimeStamp": None}, UptimeRecord()),
        ({"URL": b"http://a/"}, UptimeRecord(url="http://a/")),
        ({"RequestTime": 2**64 - 1}, UptimeRecord(request_time=-1)),
        ({"ID": b"123456789012", "Later": {"a": [1]}}, UptimeRecord()),
        ({"TimeStamp": [1, 2_000_000_001]}, UptimeRecord(timestamp=(3, 1))),
        (
            {"TimeStamp": "2026-03-14T09:30:00Z"},
            UptimeRecord(timestamp=(1773480600, 0)),
        ),
    ],
)
def test_tolerant(fields: dict[str, Any], expected: UptimeRecord) -> None:
    """Whatever a gateway's library writes is read."""
    assert decode(packed(fields)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"no record",
        packed(1),
        packed("text"),
        packed({"URL": 1}),
        packed({"TCPError": 1}),
        packed({"TimeStamp": [1]}),
        packed({"Hour": 1.5}),
        wire.pack_uptime(FULL)[:-1],
        b"\x81" + packed("TimeStamp") + b"\xdc\x00\x02\x01\x02",
    ],
)
def test_no_record(payload: bytes) -> None:
    """Bytes that are no record are refused with a reason."""
    with pytest.raises(CodecError, match=r"\w"):
        decode(payload)


def test_zone() -> None:
    """Its times are in the local zone, as those of any msgpack record."""
    assert FULL.zone == ""
