"""Uptime reports -> counters per organisation and hour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tyk_pump.aggregate.buckets import Buckets
from tyk_pump.aggregate.counter import Counter
from tyk_pump.aggregate.model import TOTAL, Aggregate, Key, Place
from tyk_pump.record.uptime import UptimeRecord


class UptimeAggregator:
    """Counts what the host checker reports, always by the hour.

    Reports without an organisation are passed over. One of code -1 is no hit: it only
    makes its URL known.
    """

    def __init__(self, *, by_day: bool = False) -> None:
        """With `by_day` a key names its day too, for tables that are split by day."""
        self._buckets = Buckets(60, by_day=by_day)
        self.passed_over = 0
        """Reports of the last `aggregate` without an organisation."""

    def aggregate(self, reports: Iterable[UptimeRecord]) -> dict[Key, Aggregate]:
        """Return the counters of the reports by key."""
        self.passed_over = 0
        found: dict[Key, Aggregate] = {}
        for report in reports:
            if not report.org_id:
                self.passed_over += 1
                continue
            bucket, _ = self._buckets.of(report.timestamp, report.zone)
            key = Key(report.org_id, "", *bucket)
            _book(found.setdefault(key, Aggregate()), report)
        return found


def _book(aggregate: Aggregate, report: UptimeRecord) -> None:
    aggregate.expire_at = max(aggregate.expire_at, report.expire_at)
    aggregate.last_time = max(aggregate.last_time, report.timestamp)
    for place, identifier in _places(report):
        counter = aggregate.total
        if place is not TOTAL:
            counter = aggregate.counters.setdefault(
                place, Counter(identifier=identifier)
            )
        if report.response_code != -1:
            counter.add(_hit(report))


def _places(report: UptimeRecord) -> Iterator[tuple[Place, str]]:
    yield TOTAL, ""
    if report.url:
        yield Place("url", report.url), report.url
    if report.response_code >= 400:
        code = str(report.response_code)
        yield Place("errors", code), code


def _hit(report: UptimeRecord) -> Counter:
    code = report.response_code
    success, failed = 200 <= code < 300, code >= 400
    return Counter(
        hits=1,
        success=int(success),
        errors=int(failed),
        total_request_time=report.request_time,
        last_time=report.timestamp,
        # Successes by code, too: the code_* columns of the uptime table have them.
        error_map={str(code): 1} if success or failed else {},
    )
