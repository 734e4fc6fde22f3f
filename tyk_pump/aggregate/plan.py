"""Which counters a record touches, by what of it decides that."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from tyk_pump.aggregate import keys
from tyk_pump.aggregate.dimensions import Family
from tyk_pump.aggregate.model import TOTAL, Place
from tyk_pump.record import graph, mcp
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.graph import GraphRecord
from tyk_pump.record.mcp import MCPRecord

Target = tuple[Place, str, str]
"""A counter's place, its identifier and its human identifier."""

_KEPT: Final = 8192
_MANY: Final = 64
"""Targets of a wide that is kept at most: tags and fields are as a client likes."""


class Wide(msgspec.Struct, eq=False, gc=False):
    """What records have in common whatever their API key and path are.

    Compared by identity: equal ones of a planner are the same one as a rule.
    """

    shared: tuple[Target, ...]
    """The total first, then targets in the dimensions that all families have."""
    own: tuple[Target, ...]
    """In those of GraphQL or MCP."""
    own_failed: bool
    """An answer with GraphQL errors: an error in `own` whatever its status is."""


class Plan(msgspec.Struct, gc=False):
    """What to do with all records that are alike; see `Planner.plan`."""

    owner: tuple[str, str]
    """Organisation and, where the family groups by it, API."""
    wide: Wide
    narrow: tuple[Target, ...]
    """Targets that depend on the API key or the path."""


class Planner:
    """Makes the plans of one family."""

    def __init__(
        self,
        family: Family,
        *,
        track_all_paths: bool,
        ignored_tag_prefixes: Sequence[str],
        ignored: Collection[str],
    ) -> None:
        self._family: Family = family
        self._track_all_paths = track_all_paths
        self._prefixes = tuple(ignored_tag_prefixes)
        self._ignored = frozenset(ignored)
        self._wides: dict[Hashable, Wide] = {}

    def plan(self, r: AnalyticsRecord) -> Plan | None:
        """Return the plan of a record, None where the family does not count it."""
        # A record of the worker has the attributes alone that this family reads.
        own: Iterable[Target] = ()
        failed = False
        if self._family == "graphql":
            asked = graph.derive(r)
            if asked is None:
                return None
            own, failed = graph_targets(asked), asked.has_errors
        elif self._family == "mcp":
            call = mcp.derive(r)
            if call is None:
                return None
            own = mcp_targets(call)
        elif not r.org_id or r.graphql_stats.is_graphql or r.mcp_stats.is_mcp:
            return None
        owner = r.org_id, "" if self._family == "api" else r.api_id
        wide = self._wide(r.response_code, self._shared(r), own, failed)
        return Plan(owner, wide, self._kept(self._narrow(r)))

    def _wide(
        self, code: int, shared: Iterable[Target], own: Iterable[Target], failed: bool
    ) -> Wide:
        wide = Wide(self._kept(shared), self._kept(own), failed)
        if len(wide.shared) + len(wide.own) > _MANY:
            return wide
        if len(self._wides) >= _KEPT:
            self._wides.clear()
        # The status is not among the targets if it is below 400.
        return self._wides.setdefault((code, wide.shared, wide.own, failed), wide)

    def _kept(self, targets: Iterable[Target]) -> tuple[Target, ...]:
        if not self._ignored:
            return tuple(targets)
        return tuple(t for t in targets if t[0].dimension not in self._ignored)

    def _shared(self, r: AnalyticsRecord) -> Iterator[Target]:
        api, version = r.api_id, r.api_version
        yield TOTAL, "", ""
        if api:
            yield Place("apiid", api), api, r.api_name
        if r.response_code == -1:
            return  # a report of the network, which is counted in no other dimension
        if r.response_code >= 400:
            code = str(r.response_code)
            yield Place("errors", code), code, ""
        if version:
            key = keys.versions_key(api, version)
            yield Place("versions", key), version, version
        if r.oauth_id:
            yield Place("oauthids", r.oauth_id), r.oauth_id, ""
        country = r.geo.country.iso_code
        if country:
            yield Place("geo", country), country, country
        for tag in keys.kept_tags(r.tags or (), self._prefixes):
            yield Place("tags", tag), tag, tag

    def _narrow(self, r: AnalyticsRecord) -> Iterator[Target]:
        api, path = r.api_id, r.path
        if r.response_code == -1:
            return
        if r.api_key:
            yield Place("apikeys", r.api_key), r.api_key, r.alias
        if r.track_path or self._track_all_paths:
            yield Place("endpoints", keys.endpoint_key(path)), path, path
            key = keys.api_endpoint_key(api, r.api_version, path)
            yield Place("apiendpoints", key), key, path
            key = keys.path_key(api, path)
            if r.api_key:
                yield Place("keyendpoints", r.api_key, key), key, key
            if r.oauth_id:
                yield Place("oauthendpoints", r.oauth_id, key), key, key


def graph_targets(asked: GraphRecord) -> Iterator[Target]:
    """Return what a GraphQL request touches beside the shared dimensions."""
    yield _named("operation", asked.operation_type)
    for name, fields in asked.types.items():
        yield _named("types", name)
        for field in fields:
            yield _named("fields", f"{name}_{field}")
    for field in asked.root_fields:
        yield _named("rootfields", field)


def mcp_targets(call: MCPRecord) -> Iterator[Target]:
    """Return what an MCP call touches beside the shared dimensions."""
    method, kind, name = call
    if method:
        yield _named("methods", method)
    if kind:
        yield _named("primitives", kind)
    if name:
        key = f"{kind}_{name}" if kind else name
        yield Place("names", key), key, name


def _named(dimension: str, key: str) -> Target:
    return Place(dimension, key), key, key
