"""The names of the dimensions: fields of a Mongo document, values in SQL rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

Family = Literal["api", "graphql", "mcp"]
"""The kinds of records with aggregates of their own; for uptime see `uptime`."""

SHARED: Final = (
    *("apiid", "errors", "versions", "apikeys", "oauthids", "geo", "tags"),
    *("endpoints", "keyendpoints", "oauthendpoints", "apiendpoints"),
)
"""The dimensions of the API family; GraphQL and MCP have them too."""
GRAPHQL: Final = ("operation", "types", "fields", "rootfields")
MCP: Final = ("methods", "primitives", "names")
UPTIME: Final = ("url", "errors")
TWO_LEVELS: Final = frozenset({"keyendpoints", "oauthendpoints"})
"""The dimensions whose keys have an inner key."""
SPELLINGS: Final = {name: name for name in SHARED} | {
    "APIID": "apiid",
    "Errors": "errors",
    "Versions": "versions",
    "APIKeys": "apikeys",
    "OauthIDs": "oauthids",
    "Geo": "geo",
    "Tags": "tags",
    "Endpoints": "endpoints",
    "KeyEndpoint": "keyendpoints",
    "OauthEndpoint": "oauthendpoints",
    "ApiEndpoint": "apiendpoints",
}
"""What `ignore_aggregations` may name -> the dimension; by exact case."""


def known(names: Iterable[str]) -> frozenset[str]:
    """Return the dimensions among what `ignore_aggregations` names."""
    return frozenset(SPELLINGS[name] for name in names if name in SPELLINGS)
