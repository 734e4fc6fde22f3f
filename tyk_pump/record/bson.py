"""Records as MongoDB holds them: BSON with the reference's names and types."""

from __future__ import annotations

import struct
from typing import Any, Final

import bson
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from bson.int64 import Int64

from tyk_pump.errors import CodecError
from tyk_pump.record.analytics import AnalyticsRecord, Geo, Time
from tyk_pump.record.text import clean

MAX_DOCUMENT: Final = 16 * 1024 * 1024
"""Bytes that no document in MongoDB may exceed."""
RAW_FIELDS: Final = (
    "method",
    "host",
    "path",
    "raw_path",
    "content_length",
    "user_agent",
    "day",
    "month",
    "year",
    "hour",
    "response_code",
    "api_key",
    "timestamp",
    "api_version",
    "api_name",
    "api_id",
    "org_id",
    "oauth_id",
    "request_time",
    "raw_request",
    "raw_response",
    "ip_address",
    "geo",
    "network",
    "latency",
    "tags",
    "alias",
    "track_path",
    "expire_at",
    "original_path",
    "listen_path",
)
"""Attributes of a record that its document holds, in the document's order."""

FIELDS: Final = (*RAW_FIELDS, "mcp_stats")
"""Attributes of a record that `unless_mcp` reads."""

_INT64: Final = 2**63
_MAX_INT: Final = _INT64 - 1
_LENGTH: Final = struct.Struct("<i").pack


def raw(r: AnalyticsRecord) -> dict[str, Any]:
    """Return the document of a record, without `_id`."""
    net, latency = r.network, r.latency
    return {
        "method": r.method,
        "host": r.host,
        "path": r.path,
        "rawpath": r.raw_path,
        "contentlength": Int64(r.content_length),
        "useragent": r.user_agent,
        "day": r.day,
        "month": r.month,
        "year": r.year,
        "hour": r.hour,
        "responsecode": r.response_code,
        "apikey": r.api_key,
        "timestamp": date(r.timestamp),
        "apiversion": r.api_version,
        "apiname": r.api_name,
        "apiid": r.api_id,
        "orgid": r.org_id,
        "oauthid": r.oauth_id,
        "requesttime": Int64(r.request_time),
        "rawrequest": r.raw_request,
        "rawresponse": r.raw_response,
        "ipaddress": r.ip_address,
        "geo": _geo(r.geo),
        "network": {
            "openconnections": Int64(net.open_connections),
            "closedconnection": Int64(net.closed_connection),
            "bytesin": Int64(net.bytes_in),
            "bytesout": Int64(net.bytes_out),
        },
        "latency": {
            "total": Int64(latency.total),
            "upstream": Int64(latency.upstream),
            "gateway": Int64(latency.gateway),
        },
        "tags": r.tags or [],
        "alias": r.alias,
        "trackpath": r.track_path,
        "expireAt": date(r.expire_at),
        "originalpath": r.original_path,
        "listenpath": r.listen_path,
    }


def is_left_out(r: AnalyticsRecord) -> bool:
    """Say whether the stores of plain records leave this one out.

    It was a call of MCP, or one that the gateway gave the code -1.
    """
    return r.response_code == -1 or r.mcp_stats.is_mcp


def unless_mcp(r: AnalyticsRecord) -> dict[str, Any] | None:
    """Return the document of a record, unless it is left out."""
    return None if is_left_out(r) else raw(r)


def _geo(geo: Geo) -> dict[str, Any]:
    city, place = geo.city, geo.location
    return {
        "country": {"isocode": geo.country.iso_code},
        "city": {
            # BSON's whole numbers have a sign, this one has none.
            "geonameid": min(city.geoname_id, _MAX_INT),
            "names": city.names or {},
        },
        "location": {
            "latitude": place.latitude,
            "longitude": place.longitude,
            "timezone": place.time_zone,
        },
    }


def date(time: Time) -> DatetimeMS:
    """Return a time as BSON holds it, cut to milliseconds."""
    total = time[0] * 1000 + time[1] // 1_000_000
    if not -_INT64 <= total < _INT64:
        # Beyond 292 million years the number goes round, as in the reference.
        total = (total + _INT64) % (2 * _INT64) - _INT64
    return DatetimeMS(total)


def encode(document: dict[str, Any], identity: bytes) -> bytes:
    """Return a document in bytes, led by its ObjectId; CodecError where it has none.

    What no text in BSON can hold is replaced by U+FFFD: bytes that are no UTF-8, and
    NUL in a name.
    """
    try:
        body = bson.encode(document)
    except (BSONError, UnicodeError, OverflowError):
        # Odd bytes in a text, as a rule: once more without them.
        try:
            body = bson.encode(_clean(document))
        except (BSONError, UnicodeError, OverflowError) as exc:
            raise CodecError(f"has no form in BSON: {exc}") from exc
    return b"%b\x07_id\0%b%b" % (_LENGTH(len(body) + 17), identity, body[4:])


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {
            _clean(name).replace("\0", "\ufffd"): _clean(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def size(text: str) -> int:
    """Return how many bytes a text has."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
