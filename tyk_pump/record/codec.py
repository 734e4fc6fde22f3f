"""Bytes of the Redis lists -> records, of both codecs.

The workers decode here, and only the fields that their pump reads. Well-formed msgpack
takes the fast way, all else the gateway accepts goes through `tolerant`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection
from typing import Any, Final, Literal, TypeVar

import msgspec

from tyk_pump.errors import CodecError
from tyk_pump.record import analytics, gotime, tolerant
from tyk_pump.record.analytics import (
    AnalyticsRecord,
    City,
    Country,
    Geo,
    GraphQLError,
    GraphQLStats,
    Latency,
    Location,
    MCPStats,
    Network,
    Time,
)

Codec = Literal["msgpack", "protobuf"]
Decode = Callable[[bytes], AnalyticsRecord]
T = TypeVar("T")


def decoder(codec: Codec, fields: Collection[str]) -> Decode:
    """Return the decoder of some fields; it raises CodecError with the reason.

    Where not all fields are asked for, what comes back has just those attributes and
    the zone.
    """
    wanted = frozenset(fields)
    unknown = wanted.difference(analytics.ALL)
    if unknown:
        raise ValueError(f"no fields of a record: {', '.join(sorted(unknown))}")
    if codec == "protobuf":
        return _protobuf_decoder(wanted)
    return _msgpack_decoder(wanted)


def reader(codec: str, fields: Collection[str]) -> Callable[[bytes], Any]:
    """Return what decodes the records of a list: these fields, or an uptime report."""
    if codec == "uptime":
        from tyk_pump.record import uptime

        decode: Callable[[bytes], Any] = uptime.decode
        return decode
    return decoder("protobuf" if codec == "protobuf" else "msgpack", fields)


@functools.lru_cache(maxsize=64)
def _shape(wanted: frozenset[str]) -> type[AnalyticsRecord]:
    """Return the record type, or one with only the wanted fields."""
    if len(wanted) == len(analytics.ALL):
        return AnalyticsRecord
    chosen: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(AnalyticsRecord):
        if field.name not in wanted and field.name != "zone":
            continue
        if field.default_factory is not msgspec.NODEFAULT:
            default = msgspec.field(
                default_factory=field.default_factory, name=field.encode_name
            )
        else:
            default = msgspec.field(default=field.default, name=field.encode_name)
        chosen.append((field.name, field.type, default))
    return msgspec.defstruct("PartialRecord", chosen, gc=False)  # type: ignore[return-value]


@functools.lru_cache(maxsize=64)
def _msgpack_decoder(wanted: frozenset[str]) -> Decode:
    record_type = _shape(wanted)
    has_time = not wanted.isdisjoint({"timestamp", "expire_at"})
    return msgpack_reader(record_type, tolerant.shape(record_type), has_time=has_time)


def msgpack_reader(
    record_type: type[T], shape: tolerant.Shape, *, has_time: bool
) -> Callable[[bytes], T]:
    """Return how a struct is read: fast where it is well formed, else by its shape."""
    fast = msgspec.msgpack.Decoder(record_type).decode

    def decode(payload: bytes) -> T:
        # To look for one byte costs next to nothing, for two a third of the decoding.
        if has_time and (0xDC in payload or 0xDD in payload) and _long_pair(payload):
            return tolerant.read(payload, shape)  # type: ignore[no-any-return]
        try:
            return fast(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return tolerant.read(payload, shape)  # type: ignore[no-any-return]

    return decode


def _long_pair(payload: bytes) -> bool:
    """Whether the payload may hold an array of two whose header is long.

    The reference takes a time as an array with a short header only; the fast decoder
    does not see the difference.
    """
    return b"\xdc\x00\x02" in payload or b"\xdd\x00\x00\x00\x02" in payload


@functools.lru_cache(maxsize=64)
def _protobuf_decoder(wanted: frozenset[str]) -> Decode:
    from google.protobuf.message import DecodeError

    from tyk_pump.record.normalproto import AnalyticsMessage

    build: Callable[..., AnalyticsRecord] = _shape(wanted)
    # In wire order, as the record's own fields; no message has the collection's name.
    names = [name for name in analytics.ALL if name in wanted]
    rest = [""] if "collection_name" in wanted else []
    names = names[: len(names) - len(rest)]
    makers = [(i, _MAKERS[name]) for i, name in enumerate(names) if name in _MAKERS]
    graph = names.index("graphql_stats") if "graphql_stats" in wanted else None
    # The zone is asked for twice, as an attrgetter of one name returns no tuple.
    get = operator.attrgetter(*names, "time_zone", "time_zone")
    parse = AnalyticsMessage.FromString

    def decode(payload: bytes) -> AnalyticsRecord:
        try:
            message = parse(payload)
        except DecodeError as exc:
            raise CodecError(f"no protobuf record: {exc}") from exc
        *values, zone, _ = get(message)
        for index, make in makers:
            values[index] = make(values[index])
        if graph is not None and not message.HasField("graphql_stats"):
            values[graph] = GraphQLStats()
        return build(*values, *rest, gotime.known_zone(zone))

    return decode


def _time(message: Any) -> Time:
    return tolerant.normalised(message.seconds, message.nanos)


def _geo(message: Any) -> Geo:
    city, location = message.city, message.location
    return Geo(
        Country(message.country.iso_code),
        # The reference forgets the names; we keep them. No names means nil there.
        City(city.geoname_id, dict(city.names) or None),
        Location(location.latitude, location.longitude, location.time_zone),
    )


def _network(message: Any) -> Network:
    return Network(
        message.open_connections,
        message.closed_connection,
        message.bytes_in,
        message.bytes_out,
    )


def _graphql(message: Any) -> GraphQLStats:
    operation = message.operation_type
    return GraphQLStats(
        variables=message.variables,
        root_fields=list(message.root_fields) or None,
        types={name: list(value.fields) for name, value in message.types.items()},
        errors=[GraphQLError(text) for text in message.errors],
        operation_type=operation if 0 <= operation <= 3 else 0,
        has_errors=message.has_errors,
        is_graphql=message.is_graphql,
    )


def _mcp(message: Any) -> MCPStats:
    return MCPStats(
        message.is_mcp,
        message.jsonrpc_method,
        message.primitive_type,
        message.primitive_name,
    )


# A message that is absent reads as one of zeros.
_MAKERS: Final[dict[str, Callable[[Any], Any]]] = {
    "timestamp": _time,
    "expire_at": _time,
    "geo": _geo,
    "network": _network,
    "latency": lambda message: Latency(message.total, message.upstream),
    "tags": lambda tags: list(tags) or None,
    "graphql_stats": _graphql,
    "mcp_stats": _mcp,
}
