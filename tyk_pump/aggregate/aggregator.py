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
from tyk_pump.aggregate.plan import Plan, Planner, Target, Wide
from tyk_pump.record.analytics import AnalyticsRecord, Network, Time

_KEPT: Final = 8192
_LONG: Final = 512
_MANY: Final = 32

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
Group = tuple[Bucket, str]
"""A bucket, and the zone of the records in it."""


class Aggregator:
    """Counts the records of one family; others are passed over.

    What comes out depends on the records alone: between two calls only plans are kept.
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
        self.passed_over = 0
        """Records of the last `aggregate` that are of no or of another family."""

    def aggregate(self, records: Iterable[AnalyticsRecord]) -> dict[Key, Aggregate]:
        """Return the counters of the records by key."""
        self.passed_over = 0
        groups: dict[Group, Kinds] = {}
        reports: list[AnalyticsRecord] = []
        self._gather(records, groups, reports)
        found: dict[Key, Aggregate] = {}
        for (bucket, zone), kinds in groups.items():
            self._spread(found, bucket, zone, kinds)
        for record in reports:
            self._report(found, record)
        for aggregate in found.values():
            # Up to here it was one place among the others.
            aggregate.total = aggregate.counters.pop(TOTAL)
        return found

    def counts(self, record: AnalyticsRecord) -> bool:
        """Say whether a record is of this family."""
        return self._planner.plan(record) is not None

    def _gather(
        self,
        records: Iterable[AnalyticsRecord],
        groups: dict[Group, Kinds],
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
                kinds = groups.setdefault((bucket, record.zone), {})
                if whole:
                    near[record.zone, time[0] // slot] = kinds
            latency = record.latency
            total, upstream = latency.total, latency.upstream
            sums = kinds.get(kind)
            if sums is None:
                kinds[kind] = [
                    record,
                    1,
                    record.request_time,
                    total,
                    upstream,
                    total,
                    upstream,
                    total,
                    upstream,
                    time,
                    record.expire_at,
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
        plan = self._planner.plan(record)
        # Kept for the next batch, unless a client could fill the memory with them.
        if len(record.path) <= _LONG and len(record.tags or ()) <= _MANY:
            if len(self._plans) >= _KEPT:
                self._plans.clear()
            self._plans[kind] = plan
        return plan

    def _spread(
        self, found: dict[Key, Aggregate], bucket: Bucket, zone: str, kinds: Kinds
    ) -> None:
        """Book the sums of each kind in all the counters it touches."""
        drafts: dict[tuple[str, str], tuple[Aggregate, dict[Wide, Sums]]] = {}
        for kind, sums in kinds.items():
            plan = self._plans.get(kind, ...)
            if plan is ...:
                plan = self._plan(kind, sums[0])
            if plan is None:
                self.passed_over += sums[1]
                continue
            draft = drafts.get(plan.owner)
            if draft is None:
                aggregate = _aggregate(found, plan.owner, bucket)
                draft = drafts[plan.owner] = aggregate, {}
            aggregate, wides = draft
            _book(aggregate.counters, plan.narrow, sums)
            # What kinds have in common is summed up once more, and booked at the end.
            known = wides.setdefault(plan.wide, sums)
            if known is not sums:
                _join(known, sums)
        for aggregate, wides in drafts.values():
            for wide, sums in wides.items():
                _note(aggregate, sums[9], sums[10], zone)
                _book(aggregate.counters, wide.shared, sums)
                if wide.own:
                    _book(aggregate.counters, wide.own, sums, failed=wide.own_failed)

    def _report(self, found: dict[Key, Aggregate], record: AnalyticsRecord) -> None:
        """Book a report of the network (response code -1), which is no hit."""
        plan = self._planner.plan(record)
        if plan is None:
            self.passed_over += 1
            return
        time = record.timestamp
        bucket, _ = self._buckets.of(time, record.zone)
        aggregate = _aggregate(found, plan.owner, bucket)
        _note(aggregate, time, record.expire_at, record.zone)
        everything = _traffic(record.network, time)
        # The API's counter is told of the bytes alone, and not when.
        bytes_only = Counter(
            bytes_in=record.network.bytes_in, bytes_out=record.network.bytes_out
        )
        total, *shared = plan.wide.shared
        for target in (total, *plan.wide.own):
            _add(aggregate.counters, target, everything)
        for target in shared:
            _add(aggregate.counters, target, bytes_only)


def _aggregate(
    found: dict[Key, Aggregate], owner: tuple[str, str], bucket: Bucket
) -> Aggregate:
    key = Key(*owner, *bucket)
    aggregate = found.get(key)
    if aggregate is None:
        aggregate = found[key] = Aggregate()
    return aggregate


def _note(aggregate: Aggregate, time: Time, expire_at: Time, zone: str) -> None:
    if time > aggregate.last_time:
        aggregate.last_time = time
    if expire_at > aggregate.expire_at:
        aggregate.expire_at = expire_at
    if zone > aggregate.zone:
        aggregate.zone = zone


def _join(known: Sums, sums: Sums) -> None:
    """Add sums to known ones."""
    _, hits, time, total, upstream, most, most_up, least, least_up, last, end = sums
    known[1] += hits
    known[2] += time
    known[3] += total
    known[4] += upstream
    if most > known[5]:
        known[5] = most
    if most_up > known[6]:
        known[6] = most_up
    if least < known[7]:
        known[7] = least
    if least_up < known[8]:
        known[8] = least_up
    if last > known[9]:
        known[9] = last
    if end > known[10]:
        known[10] = end


def _book(
    counters: dict[Place, Counter],
    targets: Sequence[Target],
    sums: Sums,
    *,
    failed: bool = False,
) -> None:
    """Add the sums of records that are alike to each of their counters."""
    record, hits, time, total, upstream, most, most_up, least, least_up, latest, _ = (
        sums
    )
    code = record.response_code
    failed = failed or code >= 400
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
                most_up,
                None if failed else least_up,
                upstream,
                most,
                None if failed else least,
                total,
                {text: hits} if text else {},
            )
            continue
        counter.hits += hits
        counter.total_request_time += time
        counter.total_latency += total
        counter.total_upstream_latency += upstream
        if most > counter.max_latency:
            counter.max_latency = most
        if most_up > counter.max_upstream_latency:
            counter.max_upstream_latency = most_up
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
        known = counter.min_latency
        if known is None or least < known:
            counter.min_latency = least
        known = counter.min_upstream_latency
        if known is None or least_up < known:
            counter.min_upstream_latency = least_up


def _add(counters: dict[Place, Counter], target: Target, part: Counter) -> None:
    place, identifier, part.human_identifier = target
    counters.setdefault(place, Counter(identifier=identifier)).add(part)


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
