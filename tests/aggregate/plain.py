"""The plain way from records to counters, to compare the quick one with."""

from __future__ import annotations

from collections.abc import Iterable

from tyk_pump.aggregate import keys
from tyk_pump.aggregate.counter import Counter
from tyk_pump.aggregate.model import TOTAL, Aggregate, Key, Place
from tyk_pump.record.analytics import AnalyticsRecord
from tyk_pump.record.gotime import civil


def api_aggregates(
    records: Iterable[AnalyticsRecord],
    *,
    window: int = 60,
    all_paths: bool = False,
    prefixes: Iterable[str] = (),
) -> dict[Key, Aggregate]:
    """Return the aggregates of the API family, record by record."""
    found: dict[Key, Aggregate] = {}
    for r in records:
        if not r.org_id or r.graphql_stats.is_graphql or r.mcp_stats.is_mcp:
            continue
        shown = civil(r.timestamp[0], r.zone)
        start = r.timestamp[0] - shown.second - shown.minute % window * 60
        aggregate = found.setdefault(Key(r.org_id, "", start), Aggregate())
        aggregate.expire_at = max(aggregate.expire_at, r.expire_at)
        aggregate.last_time = max(aggregate.last_time, r.timestamp)
        aggregate.zone = max(aggregate.zone, r.zone)
        if r.response_code == -1:
            _report(aggregate, r)
            continue
        for place, identifier, human in _places(r, all_paths, prefixes):
            counter = aggregate.total
            if place != TOTAL:
                counter = aggregate.counters.setdefault(place, Counter())
            counter.add(_hit(r, identifier, human))
    return found


def _report(aggregate: Aggregate, r: AnalyticsRecord) -> None:
    n = r.network
    aggregate.total.add(
        Counter(
            last_time=r.timestamp,
            open_connections=n.open_connections,
            closed_connections=n.closed_connection,
            bytes_in=n.bytes_in,
            bytes_out=n.bytes_out,
        )
    )
    if r.api_id:
        counter = aggregate.counters.setdefault(Place("apiid", r.api_id), Counter())
        counter.add(
            Counter(
                bytes_in=n.bytes_in,
                bytes_out=n.bytes_out,
                identifier=r.api_id,
                human_identifier=r.api_name,
            )
        )


def _places(
    r: AnalyticsRecord, all_paths: bool, prefixes: Iterable[str]
) -> Iterable[tuple[Place, str, str]]:
    code, tracked = str(r.response_code), r.track_path or all_paths
    endpoint = keys.path_key(r.api_id, r.path)
    whole = keys.api_endpoint_key(r.api_id, r.api_version, r.path)
    version = keys.versions_key(r.api_id, r.api_version)
    country = r.geo.country.iso_code
    wanted: list[tuple[object, Place, str, str]] = [
        (True, TOTAL, "", ""),
        (r.api_id, Place("apiid", r.api_id), r.api_id, r.api_name),
        (r.response_code >= 400, Place("errors", code), code, ""),
        (
            r.api_version,
            Place("versions", version),
            r.api_version,
            r.api_version,
        ),
        (r.api_key, Place("apikeys", r.api_key), r.api_key, r.alias),
        (r.oauth_id, Place("oauthids", r.oauth_id), r.oauth_id, ""),
        (country, Place("geo", country), country, country),
        (tracked, Place("endpoints", keys.endpoint_key(r.path)), r.path, r.path),
        (tracked, Place("apiendpoints", whole), whole, r.path),
        (
            tracked and r.api_key,
            Place("keyendpoints", r.api_key, endpoint),
            endpoint,
            endpoint,
        ),
        (
            tracked and r.oauth_id,
            Place("oauthendpoints", r.oauth_id, endpoint),
            endpoint,
            endpoint,
        ),
    ]
    for tag in r.tags or ():
        if tag.startswith(("key-", *prefixes)):
            continue
        clean = tag.strip(" \t\n").replace(".", "")
        wanted.append((clean, Place("tags", clean), clean, clean))
    return [(place, one, two) for asked, place, one, two in wanted if asked]


def _hit(r: AnalyticsRecord, identifier: str, human: str) -> Counter:
    code, latency, failed = r.response_code, r.latency, r.response_code >= 400
    return Counter(
        hits=1,
        success=int(200 <= code < 300),
        errors=int(failed),
        total_request_time=r.request_time,
        identifier=identifier,
        human_identifier=human,
        last_time=r.timestamp,
        max_latency=latency.total,
        min_latency=None if failed else latency.total,
        total_latency=latency.total,
        max_upstream_latency=latency.upstream,
        min_upstream_latency=None if failed else latency.upstream,
        total_upstream_latency=latency.upstream,
        error_map={str(code): 1} if failed else {},
    )
