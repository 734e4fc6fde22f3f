"""A record as Go prints a struct: the text format of the stdout pump."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Final

from tyk_pump.record.analytics import AnalyticsRecord, Geo, GraphQLStats
from tyk_pump.record.gotime import go_text

MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def month_name(month: int) -> str:
    """Return the English name of a month, or what Go prints for a number beyond."""
    if 1 <= month <= 12:
        return MONTHS[month - 1]
    return f"%!Month({month % 2**64})"


def encode(record: AnalyticsRecord) -> str:
    """Return the fields in wire order, in braces and without names."""
    network, latency, mcp = record.network, record.latency, record.mcp_stats
    parts = (
        "",  # The id of a stored document, never set here.
        record.method,
        record.host,
        record.path,
        record.raw_path,
        str(record.content_length),
        record.user_agent,
        str(record.day),
        month_name(record.month),
        str(record.year),
        str(record.hour),
        str(record.response_code),
        record.api_key,
        go_text(record.timestamp, record.zone),
        record.api_version,
        record.api_name,
        record.api_id,
        record.org_id,
        record.oauth_id,
        str(record.request_time),
        record.raw_request,
        record.raw_response,
        record.ip_address,
        _geo(record.geo),
        f"{{{network.open_connections} {network.closed_connection}"
        f" {network.bytes_in} {network.bytes_out}}}",
        f"{{{latency.total} {latency.upstream} {latency.gateway}}}",
        _list(record.tags),
        record.alias,
        _bool(record.track_path),
        go_text(record.expire_at, record.zone),
        record.api_schema,
        record.original_path,
        record.listen_path,
        _graphql(record.graphql_stats),
        f"{{{_bool(mcp.is_mcp)} {mcp.jsonrpc_method}"
        f" {mcp.primitive_type} {mcp.primitive_name}}}",
        record.collection_name,
    )
    return "{" + " ".join(parts) + "}"


def float_text(number: float) -> str:
    """Return a number with a fraction as Go prints it."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    if number == 0 or 1e-4 <= abs(number) < 1e6:
        return repr(number).removesuffix(".0")
    # The shortest digits that read back as the number, with an exponent.
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    exponent = int(exponent) + len(digits) - 1
    shown = "".join(map(str, digits)).rstrip("0")
    mantissa = f"{shown[0]}.{shown[1:]}".removesuffix(".")
    return f"{'-' * sign}{mantissa}e{exponent:+03d}"


def _geo(geo: Geo) -> str:
    location = geo.location
    return (
        f"{{{{{geo.country.iso_code}}} {{{geo.city.geoname_id} {_map(geo.city.names)}}}"
        f" {{{float_text(location.latitude)} {float_text(location.longitude)}"
        f" {location.time_zone}}}}}"
    )


def _graphql(stats: GraphQLStats) -> str:
    errors = (f"{{{e.message} {_list(e.path)}}}" for e in stats.errors or ())
    return (
        f"{{{stats.variables} {_list(stats.root_fields)} {_map(stats.types)}"
        f" [{' '.join(errors)}] {stats.operation_type}"
        f" {_bool(stats.has_errors)} {_bool(stats.is_graphql)}}}"
    )


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _list(items: Any) -> str:
    return f"[{' '.join(map(_value, items or ()))}]"


def _map(items: dict[str, Any] | None) -> str:
    ordered = sorted(
        (items or {}).items(), key=lambda kv: kv[0].encode("utf-8", "surrogateescape")
    )
    return f"map[{' '.join(f'{key}:{_value(value)}' for key, value in ordered)}]"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return _bool(value)
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, (list, bytes)):
        return _list(value)
    if isinstance(value, dict):
        return _map(value)
    return str(value)
