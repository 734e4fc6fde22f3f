"""Records -> bytes as the gateway writes them into the Redis lists.

Only the demonstration, the benchmarks, the tests, and a person who edits a dead letter
write records.
"""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec

from tyk_pump.record import analytics, uptime
from tyk_pump.record.analytics import WIRE_NAMES, AnalyticsRecord, Time
from tyk_pump.record.uptime import UptimeRecord


def pack(record: AnalyticsRecord) -> bytes:
    """Return the msgpack form: a map of all fields in wire order."""
    return _packed(record, WIRE_NAMES)


def pack_uptime(record: UptimeRecord) -> bytes:
    """Return the form of an uptime record: a map of all fields in wire order."""
    return _packed(record, uptime.WIRE_NAMES)


def _packed(record: msgspec.Struct, names: dict[str, str]) -> bytes:
    fields = {name: getattr(record, attr) for attr, name in names.items()}
    try:
        return msgspec.msgpack.encode(fields)
    except UnicodeEncodeError:
        # Texts that are no UTF-8 go out as the bytes they came from.
        plain = msgspec.to_builtins(fields)
        packed: bytes = msgpack.packb(plain, unicode_errors="surrogateescape")
        return packed


def pack_protobuf(record: AnalyticsRecord) -> bytes:
    """Return the protobuf form, without what the gateway leaves out of it."""
    from tyk_pump.record.normalproto import AnalyticsMessage

    message = AnalyticsMessage(time_zone=record.zone or "Local")
    for name in analytics.ALL:
        value = getattr(record, name)
        if isinstance(value, (str, int)) and name != "collection_name":
            setattr(message, name, value)
    message.tags.extend(record.tags or ())
    _time(message.timestamp, record.timestamp)
    _time(message.expire_at, record.expire_at)
    for name in ("total", "upstream"):
        setattr(message.latency, name, getattr(record.latency, name))
    message.latency.SetInParent()
    _copy(message.network, record.network)
    _geo(message.geo, record.geo)
    if record.graphql_stats.is_graphql:
        _graphql(message.graphql_stats, record.graphql_stats)
    if record.mcp_stats.is_mcp:
        _copy(message.mcp_stats, record.mcp_stats)
    written: bytes = message.SerializeToString()
    return written


def _time(message: Any, time: Time) -> None:
    message.seconds, message.nanos = time
    message.SetInParent()


def _copy(message: Any, value: msgspec.Struct) -> None:
    for name in value.__struct_fields__:
        setattr(message, name, getattr(value, name))
    message.SetInParent()


def _geo(message: Any, geo: analytics.Geo) -> None:
    _copy(message.country, geo.country)
    message.city.geoname_id = geo.city.geoname_id
    message.city.names.update(geo.city.names or {})
    message.city.SetInParent()
    _copy(message.location, geo.location)


def _graphql(message: Any, stats: analytics.GraphQLStats) -> None:
    message.variables = stats.variables
    message.root_fields.extend(stats.root_fields or ())
    for name, fields in (stats.types or {}).items():
        message.types[name].fields.extend(fields or ())
    message.operation_type = stats.operation_type
    message.has_errors = stats.has_errors
    message.is_graphql = stats.is_graphql
    message.errors.extend(error.message for error in stats.errors or ())
