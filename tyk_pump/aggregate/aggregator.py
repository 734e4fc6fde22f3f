"""Aggregators: one pass over a batch, each record booked in its own bucket."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tyk_pump.aggregate import keys
from tyk_pump.aggregate.buckets import start_of
from tyk_pump.aggregate.counter import Counter
from tyk_pump.aggregate.dimensions import Family
from tyk_pump.aggregate.model import Aggregate, Key, Place
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.gotime import civil


class Aggregator:
    """Counts the records of one family; others are passed over.

    Stateless but for caches: what comes out depends on the records alone.
    """

    def __init__(
        self,
        family: Family,
        *,
        window: int = 60,
        track_all_paths: bool = False,
        ignored_tag_prefixes: Sequence[str] = (),
        ignored: Collection[str] = (),
        by_day: bool = False,
    ) -> None:
        """Take minutes per bucket (1 to 60) and the names of ignored dimensions.

        With `by_day` a key names its day too, for tables that are split by day.
        """
        self._family: Family = family
        self._window = window
        self._track_all_paths = track_all_paths
        self._prefixes = tuple(ignored_tag_prefixes)
        self._ignored = frozenset(ignored)
        self._by_day = by_day
        self.fields: tuple[str, ...] = (
            *("org_id", "api_id", "api_name", "api_version", "api_key", "alias"),
            *("oauth_id", "path", "track_path", "tags", "geo", "response_code"),
            *("request_time", "latency", "network", "timestamp", "expire_at"),
            *("graphql_stats", "mcp_stats"),
        )
        """The attributes of a record that are read; a pump's `fields`."""

    def aggregate(self, records: Iterable[AnalyticsRecord]) -> dict[Key, Aggregate]:
        """Return the counters of the records by key, in the order of first sight."""
        found: dict[Key, Aggregate] = {}
        for record in records:
            if (
                record.org_id
                and not record.graphql_stats.is_graphql
                and not record.mcp_stats.is_mcp
            ):
                key = self._key(record)
                self._book(found.setdefault(key, Aggregate()), record)
        return found

    def beyond(
        self,
        records: Sequence[AnalyticsRecord],
        positions: Sequence[int],
        key: Key,
        mark: int,
    ) -> Aggregate | None:
        """Return the aggregate of one key from records at or beyond a position.

        For a retry that a document or a table has partly seen. None: nothing is left.
        """
        rest = (r for r, at in zip(records, positions, strict=True) if at >= mark)
        return self.aggregate(rest).get(key)

    def _key(self, record: AnalyticsRecord) -> Key:
        seconds, zone = record.timestamp[0], record.zone
        day = ""
        if self._by_day:
            shown = civil(seconds, zone)
            day = f"{shown.year:04d}{shown.month:02d}{shown.day:02d}"
        return Key(record.org_id, "", start_of(seconds, zone, self._window), day)

    def _book(self, aggregate: Aggregate, r: AnalyticsRecord) -> None:
        aggregate.expire_at = max(aggregate.expire_at, r.expire_at)
        aggregate.last_time = max(aggregate.last_time, r.timestamp)
        aggregate.zone = max(aggregate.zone, r.zone)
        if r.response_code == -1:
            net = r.network
            aggregate.total.add(
                Counter(
                    open_connections=net.open_connections,
                    closed_connections=net.closed_connection,
                    bytes_in=net.bytes_in,
                    bytes_out=net.bytes_out,
                    last_time=r.timestamp,
                )
            )
            if r.api_id and "apiid" not in self._ignored:
                counter = aggregate.counters.setdefault(
                    Place("apiid", r.api_id), Counter()
                )
                counter.add(
                    Counter(
                        bytes_in=net.bytes_in,
                        bytes_out=net.bytes_out,
                        identifier=r.api_id,
                        human_identifier=r.api_name,
                    )
                )
            return
        hit = _hit(r)
        aggregate.total.add(hit)
        for place, identifier, human in self._places(r):
            if place.dimension not in self._ignored:
                hit.identifier, hit.human_identifier = identifier, human
                aggregate.counters.setdefault(place, Counter()).add(hit)

    def _places(self, r: AnalyticsRecord) -> Iterable[tuple[Place, str, str]]:
        api, version, path = r.api_id, r.api_version, r.path
        if api:
            yield Place("apiid", api), api, r.api_name
        if r.response_code >= 400:
            yield Place("errors", str(r.response_code)), str(r.response_code), ""
        if version:
            place = Place("versions", keys.versions_key(api, version))
            yield place, version, version
        if r.api_key:
            yield Place("apikeys", r.api_key), r.api_key, r.alias
        if r.oauth_id:
            yield Place("oauthids", r.oauth_id), r.oauth_id, ""
        country = r.geo.country.iso_code
        if country:
            yield Place("geo", country), country, country
        for tag in keys.kept_tags(r.tags or (), self._prefixes):
            yield Place("tags", tag), tag, tag
        if r.track_path or self._track_all_paths:
            inner = keys.path_key(api, path)
            if r.api_key:
                yield Place("keyendpoints", r.api_key, inner), inner, inner
            if r.oauth_id:
                yield Place("oauthendpoints", r.oauth_id, inner), inner, inner
            yield Place("endpoints", keys.endpoint_key(path)), path, path
            whole = keys.api_endpoint_key(api, version, path)
            yield Place("apiendpoints", whole), whole, path


def _hit(r: AnalyticsRecord) -> Counter:
    code, time = r.response_code, r.request_time
    total, upstream = r.latency.total, r.latency.upstream
    hit = Counter(
        hits=1,
        success=int(200 <= code < 300),
        errors=int(code >= 400),
        total_request_time=time,
        last_time=r.timestamp,
        max_upstream_latency=max(0, upstream),
        total_upstream_latency=upstream,
        max_latency=max(0, total),
        total_latency=total,
    )
    if code >= 400:
        hit.error_map[str(code)] = 1
    else:
        hit.min_latency, hit.min_upstream_latency = total, upstream
    return hit
