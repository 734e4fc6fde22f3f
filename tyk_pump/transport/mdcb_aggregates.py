"""Aggregates as MDCB takes them: JSON by organisation or, of MCP calls, by API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tyk_pump.aggregate.aggregator import Aggregator
from tyk_pump.aggregate.buckets import Buckets
from tyk_pump.aggregate.counter import Counter, saturated
from tyk_pump.aggregate.dimensions import MCP, TWO_LEVELS, Family
from tyk_pump.aggregate.model import Aggregate, Key
from tyk_pump.errors import CodecError
from tyk_pump.record import json
from tyk_pump.record.analytics import BLANK_TIME, ZERO_TIME, AnalyticsRecord, Time
from tyk_pump.record.gotime import civil, rfc3339
from tyk_pump.record.text import clean


class _Counter(msgspec.Struct, gc=False):
    hits: int
    success: int
    error: int
    request_time: Any
    total_request_time: int
    identifier: str
    human_identifier: str
    last_time: str
    open_connections: int
    closed_connections: int
    bytes_in: int
    bytes_out: int
    max_upstream_latency: int
    min_upstream_latency: int
    total_upstream_latency: int
    # MDCB derives these two and the list, as the pumps that store aggregates do.
    upstream_latency: int
    max_latency: int
    min_latency: int
    total_latency: int
    latency: int
    error_map: dict[str, int]
    error_list: None


_Counters = dict[str, _Counter]


class _TimeId(msgspec.Struct, gc=False):
    Year: int
    Month: int
    Day: int
    Hour: int


class _Lists(msgspec.Struct, gc=False):
    """What MDCB makes of the counters: nothing is sent."""

    APIKeys: None = None
    APIID: None = None
    OauthIDs: None = None
    Geo: None = None
    Tags: None = None
    Errors: None = None
    Endpoints: None = None
    KeyEndpoint: None = None
    OauthEndpoint: None = None
    APIEndpoint: None = None


class _Aggregate(msgspec.Struct, gc=False):
    TimeStamp: str
    OrgID: str
    TimeID: _TimeId
    APIKeys: _Counters
    Errors: _Counters
    Versions: _Counters
    APIID: _Counters
    OauthIDs: _Counters
    Geo: _Counters
    Tags: _Counters
    Endpoints: _Counters
    Lists: _Lists
    KeyEndpoint: dict[str, _Counters]
    OauthEndpoint: dict[str, _Counters]
    ApiEndpoint: _Counters
    Total: _Counter
    expireAt: str
    LastTime: str


class _McpAggregate(_Aggregate, gc=False):
    OwnerAPIID: str
    Methods: _Counters
    Primitives: _Counters
    Names: _Counters


_NO_LISTS: Final = _Lists()
_FRONT: Final = (
    *("apikeys", "errors", "versions", "apiid", "oauthids", "geo", "tags", "endpoints"),
)
"""Dimensions in the order of the fields before the lists."""
MCP_CALL: Final = "MCP call, and enable_mcp_aggregation is off"
GRAPHQL_CALL: Final = "GraphQL call"
NO_ORGANISATION: Final = "no organisation"
_BACK: Final = ("keyendpoints", "oauthendpoints", "apiendpoints")


class Group(NamedTuple):
    """Records that go into one call."""

    family: Family
    indexes: list[int]


class Sorter:
    """Says which records go into which call, and what they are counted to there.

    A call has one aggregate by name. Records of another hour (or minute), and those of
    another organisation whose API has the same id, need another call.
    """

    def __init__(
        self,
        *,
        window: int,
        track_all_paths: bool,
        ignored_tag_prefixes: Sequence[str],
        mcp: bool,
    ) -> None:
        """Take minutes per bucket, and whether MCP calls are counted."""
        families: list[Family] = ["api", "mcp"] if mcp else ["api"]
        self._aggregators = {
            family: Aggregator(
                family,
                window=window,
                track_all_paths=track_all_paths,
                ignored_tag_prefixes=ignored_tag_prefixes,
            )
            for family in families
        }
        self._buckets = Buckets(window)
        self._mcp = mcp
        self.fields: tuple[str, ...] = tuple(
            dict.fromkeys(n for one in self._aggregators.values() for n in one.fields)
        )
        """The attributes of a record that are read."""

    def sort(
        self, records: Sequence[AnalyticsRecord], indexes: Iterable[int]
    ) -> tuple[list[Group], dict[str, list[int]]]:
        """Return the calls, and by reason the records that no aggregate counts."""
        found: dict[tuple[Family, int, int], list[int]] = {}
        left_out: dict[str, list[int]] = {}
        owners: dict[tuple[Family, int, str], list[tuple[str, str]]] = {}
        of = self._buckets.of
        for index in indexes:
            record = records[index]
            org = record.org_id
            family: Family = "api"
            name = org
            if record.mcp_stats.is_mcp:
                if not self._mcp:
                    left_out.setdefault(MCP_CALL, []).append(index)
                    continue
                family, name = "mcp", record.api_id
            elif record.graphql_stats.is_graphql or not org:
                why = GRAPHQL_CALL if org else NO_ORGANISATION
                left_out.setdefault(why, []).append(index)
                continue
            start = of(record.timestamp, record.zone)[0].start
            known = owners.get((family, start, name))
            if known is None:
                known = owners.setdefault((family, start, clean(name)), [])
                owners[family, start, name] = known
            owner = org, name
            if owner not in known:
                known.append(owner)
            found.setdefault((family, start, known.index(owner)), []).append(index)
        groups = [
            Group(family, those) for (family, _, _), those in sorted(found.items())
        ]
        return groups, left_out

    def payload(self, records: Iterable[AnalyticsRecord], family: Family) -> bytes:
        """Return the argument of a call; CodecError for a time without form in JSON."""
        found = self._aggregators[family].aggregate(records)
        return json.compact(
            {
                clean(key.org_id if family == "api" else key.api_id): _shown(
                    key, one, family
                )
                for key, one in found.items()
            }
        )


def odd_times(records: Sequence[AnalyticsRecord]) -> dict[int, str]:
    """Return offset -> reason of the records whose times have no form in JSON."""
    found: dict[int, str] = {}
    for offset, record in enumerate(records):
        try:
            rfc3339(record.timestamp, record.zone)
            rfc3339(record.expire_at, record.zone)
        except CodecError as exc:
            found[offset] = str(exc)
    return found


def _shown(key: Key, aggregate: Aggregate, family: Family) -> _Aggregate:
    zone = aggregate.zone
    begin = civil(key.start, zone)
    placed = _placed(aggregate)
    shown: dict[str, Any] = {
        dimension: {name: _counter(one, zone) for name, one in counters.items()}
        for dimension, counters in placed.items()
        if dimension not in TWO_LEVELS
    }
    for dimension in TWO_LEVELS:
        nested: dict[str, _Counters] = {}
        for (name, inner), one in placed.get(dimension, {}).items():
            nested.setdefault(name, {})[inner] = _counter(one, zone)
        shown[dimension] = nested
    values: list[Any] = [
        rfc3339((key.start, 0), zone),
        key.org_id,
        _TimeId(begin.year, begin.month, begin.day, begin.hour),
        *(shown.get(dimension, {}) for dimension in _FRONT),
        _NO_LISTS,
        *(shown.get(dimension, {}) for dimension in _BACK),
        _counter(aggregate.total, zone),
        _time(aggregate.expire_at, zone),
        _time(aggregate.last_time, zone),
    ]
    if family != "mcp":
        return _Aggregate(*values)
    own = [shown.get(dimension, {}) for dimension in MCP]
    return _McpAggregate(*values, key.api_id, *own)  # type: ignore[call-arg]


def _placed(aggregate: Aggregate) -> dict[str, dict[Any, Counter]]:
    """Return the counters by dimension and by key as JSON can hold it.

    Keys that only differ in bytes that are no UTF-8 are one key there: their counters
    are added up, for of two equal names a reader keeps one.
    """
    found: dict[str, dict[Any, Counter]] = {}
    for place, counter in aggregate.counters.items():
        key: Any = clean(place.key)
        if place.inner:
            key = key, clean(place.inner)
        counters = found.setdefault(place.dimension, {})
        known = counters.get(key)
        if known is None:
            counters[key] = counter
        else:
            counters[key] = _sum((known, counter))
    return found


def _sum(counters: Iterable[Counter]) -> Counter:
    made = Counter()
    for counter in counters:
        made.add(counter)
    return made


def _counter(counter: Counter, zone: str) -> _Counter:
    least, least_up = counter.min_latency, counter.min_upstream_latency
    if least is None or least_up is None:
        # MDCB looks at no minimum of errors alone where it writes to MongoDB. Where it
        # writes to SQL it does: a zero would stay the minimum for ever.
        least, least_up = counter.max_latency, counter.max_upstream_latency
    # Of one record no number has more than 64 bits: only sums may.
    return _Counter(
        counter.hits,
        counter.success,
        counter.errors,
        json.number(counter.request_time),
        saturated(counter.total_request_time),
        counter.identifier,
        counter.human_identifier,
        _time(counter.last_time, zone),
        saturated(counter.open_connections),
        saturated(counter.closed_connections),
        saturated(counter.bytes_in),
        saturated(counter.bytes_out),
        counter.max_upstream_latency,
        least_up,
        saturated(counter.total_upstream_latency),
        0,
        counter.max_latency,
        least,
        saturated(counter.total_latency),
        0,
        counter.error_map,
        None,
    )


def _time(time: Time, zone: str) -> str:
    return rfc3339(BLANK_TIME if time == ZERO_TIME else time, zone)
