"""A record as JSON, byte for byte what the reference writes for it.

Pumps that send JSON take their bodies from here. The fast encoder writes nearly all;
what it shows in another way (numbers with a fraction, HTML characters, bytes that are
no UTF-8) is put right before or after.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tyk_pump.errors import CodecError
from tyk_pump.record.analytics import (
    AnalyticsRecord,
    Geo,
    GraphQLStats,
    Latency,
    MCPStats,
    Network,
)
from tyk_pump.record.gotime import rfc3339
from tyk_pump.record.text import SURROGATES

# Only maps are sorted; a struct keeps the order of its fields.
_plain: Final = msgspec.json.Encoder(order="deterministic").encode
_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_Raw: Final = msgspec.Raw

_NO_GRAPHQL: Final = GraphQLStats()
_NO_MCP: Final = MCPStats()


class _Country(msgspec.Struct, gc=False):
    iso_code: Any


class _City(msgspec.Struct, gc=False):
    geoname_id: int
    names: Any


class _Location(msgspec.Struct, gc=False):
    latitude: Any
    longitude: Any
    time_zone: Any


class _Geo(msgspec.Struct, gc=False):
    country: _Country
    city: _City
    location: _Location


class _Network(msgspec.Struct, gc=False):
    open_connections: int
    closed_connections: int
    bytes_in: int
    bytes_out: int


class _Error(msgspec.Struct, gc=False):
    message: Any
    path: Any


class _GraphQL(msgspec.Struct, gc=False):
    Variables: Any
    RootFields: Any
    Types: Any
    Errors: Any
    OperationType: int
    HasErrors: bool
    IsGraphQL: bool


class _Record(msgspec.Struct, gc=False):
    method: Any
    host: Any
    path: Any
    raw_path: Any
    content_length: int
    user_agent: Any
    day: int
    month: int
    year: int
    hour: int
    response_code: int
    api_key: Any
    timestamp: str
    api_version: Any
    api_name: Any
    api_id: Any
    org_id: Any
    oauth_id: Any
    request_time: int
    raw_request: Any
    raw_response: Any
    ip_address: Any
    geo: _Geo
    network: _Network
    latency: Any
    tags: Any
    alias: Any
    track_path: bool
    expireAt: str
    api_schema: Any
    original_path: Any
    listen_path: Any
    graphql_stats: Any
    mcp_stats: Any


class _Latency(msgspec.Struct, gc=False):
    total: int
    upstream: int
    gateway: int


class _Mcp(msgspec.Struct, gc=False):
    is_mcp: bool
    jsonrpc_method: Any
    primitive_type: Any
    primitive_name: Any


def encode(record: AnalyticsRecord) -> bytes:
    """Return the record as JSON; CodecError says what of it JSON cannot express."""
    return compact(_shown(record, _ZEROS))


def encode_sorted(record: AnalyticsRecord) -> bytes:
    """Return the same with every key in the order of its bytes, as Go has maps."""
    return compact(_shown(record, _SORTED_ZEROS), _sorted)


def compact(value: Any, write: Callable[[Any], bytes] = _plain) -> bytes:
    """Return texts, numbers, lists, maps and structs as the reference's JSON."""
    try:
        written = write(value)
    except UnicodeEncodeError:
        written = write(_mended(value))
    return _escaped(written)


def _escaped(written: bytes) -> bytes:
    # These stand in texts only, so the whole body can be searched; for one byte that
    # takes a few nanoseconds, for two a thousand.
    if 0x3C in written:
        written = written.replace(b"<", b"\\u003c")
    if 0x3E in written:
        written = written.replace(b">", b"\\u003e")
    if 0x26 in written:
        written = written.replace(b"&", b"\\u0026")
    if 0xE2 in written:
        written = written.replace(b"\xe2\x80\xa8", b"\\u2028")
        written = written.replace(b"\xe2\x80\xa9", b"\\u2029")
    return written


def _shown(record: AnalyticsRecord, zeros: tuple[Any, Any]) -> _Record:
    graphql, mcp = record.graphql_stats, record.mcp_stats
    return _Record(
        record.method,
        record.host,
        record.path,
        record.raw_path,
        record.content_length,
        record.user_agent,
        record.day,
        record.month,
        record.year,
        record.hour,
        record.response_code,
        record.api_key,
        rfc3339(record.timestamp, record.zone),
        record.api_version,
        record.api_name,
        record.api_id,
        record.org_id,
        record.oauth_id,
        record.request_time,
        record.raw_request,
        record.raw_response,
        record.ip_address,
        geo(record.geo),
        network(record.network),
        latency(record.latency),
        record.tags,
        record.alias,
        record.track_path,
        rfc3339(record.expire_at, record.zone),
        record.api_schema,
        record.original_path,
        record.listen_path,
        zeros[0] if graphql == _NO_GRAPHQL else _graphql(graphql),
        zeros[1] if mcp == _NO_MCP else _mcp(mcp),
    )


def geo(found: Geo) -> _Geo:
    """Return where a call came from, in its JSON form."""
    city, location = found.city, found.location
    return _Geo(
        _Country(found.country.iso_code),
        _City(city.geoname_id, city.names),
        _Location(
            number(location.latitude),
            number(location.longitude),
            location.time_zone,
        ),
    )


def network(found: Network) -> _Network:
    """Return the gateway's connections and bytes, in their JSON form."""
    return _Network(
        found.open_connections,
        found.closed_connection,
        found.bytes_in,
        found.bytes_out,
    )


def latency(found: Latency) -> _Latency:
    """Return the milliseconds of a call, in their JSON form."""
    return _Latency(found.total, found.upstream, found.gateway)


def _graphql(stats: GraphQLStats) -> _GraphQL:
    errors = stats.errors
    return _GraphQL(
        stats.variables,
        stats.root_fields,
        stats.types,
        None
        if errors is None
        else [_Error(error.message, _scalars(error.path)) for error in errors],
        stats.operation_type,
        stats.has_errors,
        stats.is_graphql,
    )


def _mcp(stats: MCPStats) -> _Mcp:
    return _Mcp(
        stats.is_mcp,
        stats.jsonrpc_method,
        stats.primitive_type,
        stats.primitive_name,
    )


def number(value: float) -> Any:
    """Return what the encoder shows as Go does: whole numbers have no fraction."""
    if 1e-4 <= value < 1e15 or -1e15 < value <= -1e-4:
        return int(value) if value.is_integer() else value
    return _Raw(go_float(value).encode())


def go_float(number: float) -> str:
    """Return a number with a fraction as Go's JSON shows it; CodecError for NaN."""
    if not math.isfinite(number):
        raise CodecError(f"the number {number} has no form in JSON")
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        sign = "-" if math.copysign(1, number) < 0 else ""
        return sign + positional(abs(number))
    mantissa, _, exponent = repr(number).partition("e")
    # Exponents of two digits keep their sign but lose a leading zero: 1e-7.
    return f"{mantissa.removesuffix('.0')}e{int(exponent):+d}"


def positional(number: float) -> str:
    """Return the shortest digits that read back as the number, without exponent."""
    mantissa, _, exponent = repr(number).partition("e")
    if not exponent:
        return mantissa.removesuffix(".0")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    shift = int(exponent)
    if shift < 0:
        return "0." + "0" * (-shift - 1) + whole + fraction
    return whole + fraction.ljust(shift, "0")


def _scalars(value: Any) -> Any:
    """Return what stands in the path of an error, numbers as Go shows them."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_scalars(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _scalars(item) for key, item in value.items()}
    return value


def _mended(value: Any) -> Any:
    """Return the value with each byte that is no UTF-8 shown as `\\ufffd`."""
    if isinstance(value, msgspec.Struct):
        # Only what is left as it is may be shared with other records.
        names = value.__struct_fields__
        return type(value)(*(_mended(getattr(value, name)) for name in names))
    if isinstance(value, str):
        return value if SURROGATES.search(value) is None else _Raw(_text(value))
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return _Raw(_map(value))
    return value


def _text(text: str) -> bytes:
    parts = (_plain(part)[1:-1] for part in SURROGATES.split(text))
    return b'"' + b"\\ufffd".join(parts) + b'"'


def _map(value: dict[str, Any]) -> bytes:
    # Go sorts by the bytes before they are mended.
    ordered = sorted(value, key=lambda key: key.encode("utf-8", "surrogateescape"))
    items = (_text(key) + b":" + _plain(_mended(value[key])) for key in ordered)
    return b"{" + b",".join(items) + b"}"


def _zeros(write: Callable[[Any], bytes]) -> tuple[Any, Any]:
    """Return what nearly every record has, written once."""
    return _Raw(write(_graphql(_NO_GRAPHQL))), _Raw(write(_mcp(_NO_MCP)))


_ZEROS: Final = _zeros(_plain)
_SORTED_ZEROS: Final = _zeros(_sorted)
