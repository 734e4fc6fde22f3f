"""Aggregators: one pass over a batch, each record booked in its own bucket.

Most records of a batch are like others: the same API, key, path and answer. Those that
are alike are summed up first, in one small list for each kind. Only these lists, not
the records, are then spread over the ten counters or so that each kind touches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

from tyk_pump.aggregate.buckets import Bucket, Buckets
from tyk_pump.aggregate.counter import Counter
from tyk_pump.aggregate.dimensions import Family
from tyk_pump.aggregate.model import TOTAL, Aggregate, Key, Place
from tyk_pump.aggregate.plan import Plan, Planner, Target
from tyk_pump.record.analytics import AnalyticsRecord, Network, Time

_KEPT: Final = 8192

# What decides on the counters that a record touches, with its path and without it. Its
# tags, which are a list, come in beside.
_ALIKE: Final = (
    *("org_id", "api_id", "api_name", "api_version", "api_key", "alias", "oauth_id"),
    *("response_code", "geo.country.iso_code"),
)
_ALIKE_IN: Final[dict[Family, tuple[str, ...]]] = {
    "api": ("graphql_stats.is_graphql", "mcp_stats.is_mcp"),
    "graphql": ("graphql_stats.is_graphql",),
    "mcp": (
        *("mcp_stats.is_mcp", "mcp_stats.jsonrpc_method"),
        *("mcp_stats.primitive_type", "mcp_stats.primitive_name"),
    ),
}
_READ: Final = (
    *("path", "response_code", "api_key", "timestamp", "api_version", "api_name"),
    *("api_id", "org_id", "oauth_id", "request_time", "geo", "network", "latency"),
    *("tags", "alias", "track_path", "expire_at"),
)
_READ_IN: Final[dict[Family, tuple[str, ...]]] = {
    "api": ("graphql_stats", "mcp_stats"),
    "graphql": ("graphql_stats",),
    "mcp": ("mcp_stats",),
}

Sums = list[Any]
"""Of records that are alike: one of them, hits, request time, latency and upstream
latency, the greatest of both, the least of both, latest time, latest expiry."""
Kinds = dict[Hashable, Sums]


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
        self._track_all_paths = track_all_paths
        self._buckets = Buckets(window, by_day=by_day)
        self._planner = Planner(
            family,
            track_all_paths=track_all_paths,
            ignored_tag_prefixes=ignored_tag_prefixes,
            ignored=ignored,
        )
        self._plans: dict[Hashable, Plan | None] = {}
        alike = _ALIKE + _ALIKE_IN[family]
        self._kind: Callable[[Any], Hashable] = attrgetter(*alike)
        self._kind_on_path: Callable[[Any], Hashable] = attrgetter(*alike, "path")
        self.fields: Final[tuple[str, ...]] = _READ + _READ_IN[family]
        """The attributes of a record that are read; a pump's `fields`."""

    def aggregate(self, records: Iterable[AnalyticsRecord]) -> dict[Key, Aggregate]:
        """Return the counters of the records by key."""
        groups: dict[Bucket, Kinds] = {}
        reports: list[AnalyticsRecord] = []
        self._gather(records, groups, reports)
        found: dict[Key, Aggregate] = {}
        for bucket, kinds in groups.items():
            for kind, sums in kinds.items():
                self._spread(found, bucket, kind, sums)
        for record in reports:
            self._report(found, record)
        for aggregate in found.values():
            del aggregate.counters[TOTAL]
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

    def _gather(
        self,
        records: Iterable[AnalyticsRecord],
        groups: dict[Bucket, Kinds],
        reports: list[AnalyticsRecord],
    ) -> None:
        """Sum up what is alike, by bucket; set the reports of the network aside."""
        # All that is done for each record is in this loop: it is worth its length.
        kind_of, kind_on_path = self._kind, self._kind_on_path
        all_paths, graphql = self._track_all_paths, self._family == "graphql"
        slot = self._buckets.slot
        near: dict[tuple[str, int], Kinds] = {}
        for record in records:
            if record.response_code == -1:
                reports.append(record)
                continue
            if all_paths or record.track_path:
                kind = kind_on_path(record)
            else:
                kind = kind_of(record)
            if record.tags:
                kind = kind, tuple(record.tags)
            if graphql:
                kind = kind, _asked(record)
            time = record.timestamp
            kinds = near.get((record.zone, time[0] // slot))
            if kinds is None:
                bucket, whole = self._buckets.of(time, record.zone)
                kinds = groups.setdefault(bucket, {})
                if whole:
                    near[record.zone, time[0] // slot] = kinds
            latency = record.latency
            total, upstream = latency.total, latency.upstream
            sums = kinds.get(kind)
            if sums is None:
                kinds[kind] = [
                    *(record, 1, record.request_time),
                    *(total, upstream, total, upstream, total, upstream),
                    *(time, record.expire_at),
                ]
                continue
            sums[1] += 1
            sums[2] += record.request_time
            sums[3] += total
            sums[4] += upstream
            if total > sums[5]:
                sums[5] = total
            elif total < sums[7]:
                sums[7] = total
            if upstream > sums[6]:
                sums[6] = upstream
            elif upstream < sums[8]:
                sums[8] = upstream
            if time > sums[9]:
                sums[9] = time
            if record.expire_at > sums[10]:
                sums[10] = record.expire_at

    def _plan(self, kind: Hashable, record: AnalyticsRecord) -> Plan | None:
        if len(self._plans) >= _KEPT:
            self._plans.clear()
        plan = self._plans[kind] = self._planner.plan(record)
        return plan

    def _spread(
        self, found: dict[Key, Aggregate], bucket: Bucket, kind: Hashable, sums: Sums
    ) -> None:
        """Book the sums of one kind of records in all the counters it touches."""
        record = sums[0]
        plan = self._plans.get(kind, ...)
        if plan is ...:
            plan = self._plan(kind, record)
        if plan is None:
            return
        aggregate = _aggregate(found, plan, bucket)
        _note(aggregate, sums[9], sums[10], record.zone)
        failed = record.response_code >= 400
        _book(aggregate.counters, plan.shared, sums, failed=failed)
        if plan.own:
            failed = failed or plan.own_failed
            _book(aggregate.counters, plan.own, sums, failed=failed)

    def _report(self, found: dict[Key, Aggregate], record: AnalyticsRecord) -> None:
        """Book a report of the network (response code -1), which is no hit."""
        plan = self._planner.plan(record)
        if plan is None:
            return
        time = record.timestamp
        bucket, _ = self._buckets.of(time, record.zone)
        aggregate = _aggregate(found, plan, bucket)
        _note(aggregate, time, record.expire_at, record.zone)
        aggregate.counters[TOTAL].add(_traffic(record.network, time))
        # The API's counter is told of the bytes alone, and not when.
        bytes_only = Counter(
            bytes_in=record.network.bytes_in, bytes_out=record.network.bytes_out
        )
        for targets, part in (
            (plan.shared[1:], bytes_only),
            (plan.own, _traffic(record.network, time)),
        ):
            for place, identifier, human in targets:
                counter = aggregate.counters.setdefault(
                    place, Counter(identifier=identifier)
                )
                part.human_identifier = human
                counter.add(part)


def _aggregate(found: dict[Key, Aggregate], plan: Plan, bucket: Bucket) -> Aggregate:
    key = Key(plan.org_id, plan.api_id, *bucket)
    aggregate = found.get(key)
    if aggregate is None:
        # While a batch is booked the total is one place among the others.
        aggregate = found[key] = Aggregate()
        aggregate.counters[TOTAL] = aggregate.total
    return aggregate


def _note(aggregate: Aggregate, time: Time, expire_at: Time, zone: str) -> None:
    if time > aggregate.last_time:
        aggregate.last_time = time
    if expire_at > aggregate.expire_at:
        aggregate.expire_at = expire_at
    if zone > aggregate.zone:
        aggregate.zone = zone


def _book(
    counters: dict[Place, Counter],
    targets: Sequence[Target],
    sums: Sums,
    *,
    failed: bool,
) -> None:
    """Add the sums of records that are alike to each of their counters."""
    record, hits, time, total, upstream, *extremes, latest, _ = sums
    max_total, max_upstream, min_total, min_upstream = extremes
    code = record.response_code
    success = hits if 200 <= code < 300 and not failed else 0
    errors = hits if failed else 0
    text = str(code) if code >= 400 else ""
    for place, identifier, human in targets:
        counter = counters.get(place)
        if counter is None:
            # By position, which takes half the time of names.
            counters[place] = Counter(
                hits,
                success,
                errors,
                time,
                identifier,
                human,
                latest,
                0,
                0,
                0,
                0,
                max_upstream,
                None if failed else min_upstream,
                upstream,
                max_total,
                None if failed else min_total,
                total,
                {text: hits} if text else {},
            )
            continue
        counter.hits += hits
        counter.total_request_time += time
        counter.total_latency += total
        counter.total_upstream_latency += upstream
        if max_total > counter.max_latency:
            counter.max_latency = max_total
        if max_upstream > counter.max_upstream_latency:
            counter.max_upstream_latency = max_upstream
        if latest >= counter.last_time:
            if latest > counter.last_time or human > counter.human_identifier:
                counter.human_identifier = human
            counter.last_time = latest
        if failed:
            counter.errors += errors
            if text:
                counter.error_map[text] = counter.error_map.get(text, 0) + hits
            continue
        counter.success += success
        least = counter.min_latency
        if least is None or min_total < least:
            counter.min_latency = min_total
        least = counter.min_upstream_latency
        if least is None or min_upstream < least:
            counter.min_upstream_latency = min_upstream


def _traffic(network: Network, time: Time) -> Counter:
    return Counter(
        open_connections=network.open_connections,
        closed_connections=network.closed_connection,
        bytes_in=network.bytes_in,
        bytes_out=network.bytes_out,
        last_time=time,
    )


def _asked(record: AnalyticsRecord) -> Hashable:
    """Return what of a GraphQL request decides on the counters it touches."""
    stats = record.graphql_stats
    types = stats.types or {}
    return (
        stats.operation_type,
        stats.has_errors,
        tuple([(name, tuple(fields or ())) for name, fields in types.items()]),
        tuple(stats.root_fields or ()),
    )
