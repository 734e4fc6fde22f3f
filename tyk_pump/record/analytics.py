"""The analytics record: the fields that the gateway writes, in wire order.

What travels from the source to the pumps, one per API call. Attribute names are the
JSON names of the fields; the msgpack wire uses the names in `WIRE_NAMES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, field

MAX_INT: Final = 2**63 - 1

# The limits make the fast decoder hand odd numbers to the tolerant one, which wraps
# and normalises them as the reference does.
Int = Annotated[int, Meta(le=MAX_INT)]
Uint = Annotated[int, Meta(ge=0)]
Nanoseconds = Annotated[int, Meta(ge=0, le=999_999_999)]
Time = tuple[Int, Nanoseconds]
"""Unix seconds and nanoseconds: no Python type keeps the instant in full."""

Scalar = str | int | float | bool | None
"""An item of a GraphQL error's path; nested ones take the tolerant way."""

ZERO_TIME: Final[Time] = (-62135596800, 0)
"""0001-01-01T00:00:00Z, the value of a time that was never set."""


class _Blank(tuple[int, int]):
    __slots__ = ()

    def __reduce__(self) -> str:
        # By name, so that the identity check holds in the other process too.
        return "BLANK_TIME"


BLANK_TIME: Final[Time] = _Blank(ZERO_TIME)
"""The zero time set by `ignore_fields`: compared by identity, shown in UTC always."""


class Country(msgspec.Struct, gc=False):
    """Where the caller's address is, by country."""

    iso_code: str = field(default="", name="ISOCode")


class City(msgspec.Struct, gc=False):
    """Where the caller's address is, by city; names by language."""

    geoname_id: Uint = field(default=0, name="GeoNameID")
    names: dict[str, str] | None = field(default=None, name="Names")


class Location(msgspec.Struct, gc=False):
    """Coordinates of the caller's address."""

    latitude: float = field(default=0.0, name="Latitude")
    longitude: float = field(default=0.0, name="Longitude")
    time_zone: str = field(default="", name="TimeZone")


class Geo(msgspec.Struct, gc=False):
    """Where the call came from; filled by the gateway only."""

    country: Country = field(default_factory=Country, name="Country")
    city: City = field(default_factory=City, name="City")
    location: Location = field(default_factory=Location, name="Location")


class Network(msgspec.Struct, gc=False):
    """Connections and bytes of the gateway at the time of the call."""

    open_connections: Int = field(default=0, name="OpenConnections")
    closed_connection: Int = field(default=0, name="ClosedConnection")
    bytes_in: Int = field(default=0, name="BytesIn")
    bytes_out: Int = field(default=0, name="BytesOut")


class Latency(msgspec.Struct, gc=False):
    """Milliseconds of the call, in total and by part."""

    total: Int = field(default=0, name="Total")
    upstream: Int = field(default=0, name="Upstream")
    gateway: Int = field(default=0, name="Gateway")


class GraphQLError(msgspec.Struct, gc=False):
    """An error in a GraphQL answer."""

    message: str = field(default="", name="Message")
    path: list[Scalar] | None = field(default=None, name="Path")


class GraphQLStats(msgspec.Struct, gc=False):
    """What a GraphQL request asked for; all zero for other calls."""

    variables: str = field(default="", name="Variables")
    root_fields: list[str] | None = field(default=None, name="RootFields")
    types: dict[str, list[str] | None] | None = field(default=None, name="Types")
    errors: list[GraphQLError] | None = field(default=None, name="Errors")
    operation_type: Int = field(default=0, name="OperationType")
    has_errors: bool = field(default=False, name="HasErrors")
    is_graphql: bool = field(default=False, name="IsGraphQL")


class MCPStats(msgspec.Struct, gc=False):
    """What a Model Context Protocol call addressed; all zero for other calls."""

    is_mcp: bool = field(default=False, name="IsMCP")
    jsonrpc_method: str = field(default="", name="JSONRPCMethod")
    primitive_type: str = field(default="", name="PrimitiveType")
    primitive_name: str = field(default="", name="PrimitiveName")


class AnalyticsRecord(msgspec.Struct, gc=False):
    """One API call as the gateway reports it; every default is the zero value."""

    method: str = field(default="", name="Method")
    host: str = field(default="", name="Host")
    path: str = field(default="", name="Path")
    raw_path: str = field(default="", name="RawPath")
    content_length: Int = field(default=0, name="ContentLength")
    user_agent: str = field(default="", name="UserAgent")
    day: Int = field(default=0, name="Day")
    month: Int = field(default=0, name="Month")
    year: Int = field(default=0, name="Year")
    hour: Int = field(default=0, name="Hour")
    response_code: Int = field(default=0, name="ResponseCode")
    api_key: str = field(default="", name="APIKey")
    timestamp: Time = field(default=ZERO_TIME, name="TimeStamp")
    api_version: str = field(default="", name="APIVersion")
    api_name: str = field(default="", name="APIName")
    api_id: str = field(default="", name="APIID")
    org_id: str = field(default="", name="OrgID")
    oauth_id: str = field(default="", name="OauthID")
    request_time: Int = field(default=0, name="RequestTime")
    raw_request: str = field(default="", name="RawRequest")
    raw_response: str = field(default="", name="RawResponse")
    ip_address: str = field(default="", name="IPAddress")
    geo: Geo = field(default_factory=Geo, name="Geo")
    network: Network = field(default_factory=Network, name="Network")
    latency: Latency = field(default_factory=Latency, name="Latency")
    tags: list[str] | None = field(default=None, name="Tags")
    alias: str = field(default="", name="Alias")
    track_path: bool = field(default=False, name="TrackPath")
    expire_at: Time = field(default=ZERO_TIME, name="ExpireAt")
    api_schema: str = field(default="", name="ApiSchema")
    original_path: str = field(default="", name="OriginalPath")
    listen_path: str = field(default="", name="ListenPath")
    graphql_stats: GraphQLStats = field(
        default_factory=GraphQLStats, name="GraphQLStats"
    )
    mcp_stats: MCPStats = field(default_factory=MCPStats, name="MCPStats")
    collection_name: str = field(default="", name="CollectionName")
    # Not on the msgpack wire (no gateway writes such a key): "" is the pump's local
    # zone, else the zone that a protobuf record names, "UTC" when nobody knows it.
    zone: str = field(default="", name="<zone>")


_FIELDS: Final = msgspec.structs.fields(AnalyticsRecord)

ALL: Final[tuple[str, ...]] = tuple(f.name for f in _FIELDS if f.name != "zone")
"""The attribute names of all wire fields, in wire order."""

WIRE_NAMES: Final[dict[str, str]] = {
    f.name: f.encode_name for f in _FIELDS if f.name != "zone"
}
"""Attribute name -> key on the msgpack wire."""

JSON_NAMES: Final[dict[str, str]] = {
    ("expireAt" if name == "expire_at" else name): name
    for name in ALL
    if name != "collection_name"
}
"""JSON name -> attribute name; the collection's name is never shown."""


def _zero(default: Any, factory: Any) -> Callable[[], Any]:
    if factory is not msgspec.NODEFAULT:
        return factory  # type: ignore[no-any-return]
    return lambda: default


ZERO: Final[dict[str, Callable[[], Any]]] = {
    f.name: _zero(f.default, f.default_factory) for f in _FIELDS if f.name != "zone"
}
"""Attribute name -> maker of its zero value."""
