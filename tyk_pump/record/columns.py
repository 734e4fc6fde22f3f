"""A record as the row of a SQL table: its columns, in the reference's order.

What a value is stands here, how a database writes it down in `transport/sql_rows.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.json import compact


class Kind(enum.Enum):
    """What a column holds; each database has its type for it."""

    TEXT = "text"
    BODY = "body"
    """A text without a bound: `mysql.default_string_size` does not narrow it."""
    KEY = "key"
    """A text of the primary key."""
    LIST = "list"
    """A list, as JSON in a text."""
    MAP = "map"
    """A map, as JSON in a text."""
    INT = "int"
    MAYBE = "maybe"
    """An integer, or nothing."""
    UINT = "uint"
    FLOAT = "float"
    BOOL = "bool"
    TIME = "time"


class Column(msgspec.Struct, frozen=True):
    """One column, and where in a record its value is."""

    name: str
    kind: Kind
    source: str = ""
    """Attribute of the record, with dots into its parts."""
    make: Callable[[Any], Any] | None = None
    """Changes the value before it is written."""


def _errors(errors: Any) -> Any:
    return errors and [{"message": e.message, "path": e.path or []} for e in errors]


_TEXT, _BODY, _INT = Kind.TEXT, Kind.BODY, Kind.INT
_LIST, _MAP, _BOOL = Kind.LIST, Kind.MAP, Kind.BOOL

ANALYTICS: Final = (
    Column("method", _TEXT, "method"),
    Column("host", _TEXT, "host"),
    Column("path", _TEXT, "path"),
    Column("rawpath", _TEXT, "raw_path"),
    Column("contentlength", _INT, "content_length"),
    Column("useragent", _TEXT, "user_agent"),
    Column("day", _INT, "day"),
    Column("month", _INT, "month"),
    Column("year", _INT, "year"),
    Column("hour", _INT, "hour"),
    Column("responsecode", _INT, "response_code"),
    Column("apikey", _TEXT, "api_key"),
    Column("timestamp", Kind.TIME, "timestamp"),
    Column("apiversion", _TEXT, "api_version"),
    Column("api_name", _TEXT, "api_name"),
    Column("apiid", _TEXT, "api_id"),
    Column("orgid", _TEXT, "org_id"),
    Column("oauthid", _TEXT, "oauth_id"),
    Column("requesttime", _INT, "request_time"),
    Column("rawrequest", _BODY, "raw_request"),
    Column("rawresponse", _BODY, "raw_response"),
    Column("ipaddress", _TEXT, "ip_address"),
    Column("geo_country_iso_code", _TEXT, "geo.country.iso_code"),
    Column("geo_city_geoname_id", Kind.UINT, "geo.city.geoname_id"),
    Column("geo_city_names", _MAP, "geo.city.names"),
    Column("geo_location_latitude", Kind.FLOAT, "geo.location.latitude"),
    Column("geo_location_longitude", Kind.FLOAT, "geo.location.longitude"),
    Column("geo_location_time_zone", _TEXT, "geo.location.time_zone"),
    Column("network_open_connections", _INT, "network.open_connections"),
    Column("network_closed_connections", _INT, "network.closed_connection"),
    Column("network_bytes_in", _INT, "network.bytes_in"),
    Column("network_bytes_out", _INT, "network.bytes_out"),
    Column("latency_total", _INT, "latency.total"),
    Column("latency_upstream", _INT, "latency.upstream"),
    Column("latency_gateway", _INT, "latency.gateway"),
    Column("tags", _LIST, "tags"),
    Column("alias", _TEXT, "alias"),
    Column("trackpath", _BOOL, "track_path"),
    Column("expireAt", Kind.TIME, "expire_at"),
    Column("originalpath", _TEXT, "original_path"),
    Column("listenpath", _TEXT, "listen_path"),
    # The reference's tables have these of the gateway's own statistics, too.
    Column("graphql_stats_variables", _BODY, "graphql_stats.variables"),
    Column("graphql_stats_root_fields", _LIST, "graphql_stats.root_fields"),
    Column("graphql_stats_types", _MAP, "graphql_stats.types"),
    Column("graphql_stats_errors", _LIST, "graphql_stats.errors", _errors),
    Column("graphql_stats_operation_type", _INT, "graphql_stats.operation_type"),
    Column("graphql_stats_has_errors", _BOOL, "graphql_stats.has_errors"),
    Column("graphql_stats_is_graph_ql", _BOOL, "graphql_stats.is_graphql"),
    Column("mcp_stats_is_mcp", _BOOL, "mcp_stats.is_mcp"),
    Column("mcp_stats_jsonrpc_method", _TEXT, "mcp_stats.jsonrpc_method"),
    Column("mcp_stats_primitive_type", _TEXT, "mcp_stats.primitive_type"),
    Column("mcp_stats_primitive_name", _TEXT, "mcp_stats.primitive_name"),
)
"""A plain record; neither its API's schema nor its collection's name is kept."""

INDEXED: Final = ("responsecode", "apikey", "timestamp", "apiid", "orgid", "oauthid")
"""The columns of a plain record's table that have an index each."""


class Derived(NamedTuple):
    """A record with what it says in another form: the row of such a table."""

    form: Any
    record: AnalyticsRecord


def derived(
    derive: Callable[[AnalyticsRecord], Any], records: Iterable[AnalyticsRecord]
) -> list[Derived | None]:
    """Return each record with its other form; None for those that have none."""
    forms = ((derive(record), record) for record in records)
    return [form and Derived(form, record) for form, record in forms]


_EMBEDDED: Final = tuple(
    Column(f"analytics_{c.name}", c.kind, f"record.{c.source}", c.make)
    for c in ANALYTICS
)

GRAPH: Final = (
    Column("types", _MAP, "form.types"),
    *_EMBEDDED,
    Column("operation_type", _TEXT, "form.operation_type"),
    Column("variables", _BODY, "form.variables"),
    Column("root_fields", _LIST, "form.root_fields"),
    Column("errors", _LIST, "form.errors"),
    Column("has_errors", _BOOL, "form.has_errors"),
)
"""A record as a GraphQL call."""

MCP: Final = (
    Column("jsonrpc_method", _TEXT, "form.jsonrpc_method"),
    Column("primitive_type", _TEXT, "form.primitive_type"),
    Column("primitive_name", _TEXT, "form.primitive_name"),
    *_EMBEDDED,
)
"""A record as a call by the Model Context Protocol."""

FIELDS: Final = tuple(dict.fromkeys(c.source.partition(".")[0] for c in ANALYTICS))
"""The attributes of a record that any of these columns read."""


def list_text(value: Any) -> str:
    """Return a list as the compact JSON of a text column; none is empty."""
    return compact(value).decode() if value else "[]"


def map_text(value: Any) -> str:
    """Return a map as the compact JSON of a text column; none is empty."""
    return compact(value).decode() if value else "{}"
