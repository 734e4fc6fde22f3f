"""What aggregation results in: one aggregate per organisation and time bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
from msgspec import field

from tyk_pump.aggregate.counter import Counter
from tyk_pump.record.analytics import ZERO_TIME, Time


class Key(NamedTuple):
    """Which stored document, or group of rows, an aggregate belongs to."""

    org_id: str
    api_id: str
    """Empty in the API and uptime families, which do not group by API."""
    start: int
    """Start of the time bucket in Unix seconds."""
    day: str = ""
    """`YYYYMMDD` on the records' own clock; empty unless asked for (`by_day`)."""


class Place(NamedTuple):
    """Where in an aggregate a counter stands."""

    dimension: str
    """Field of a Mongo document and `dimension` of an SQL row."""
    key: str
    inner: str = ""
    """The second level of `keyendpoints` and `oauthendpoints`; never empty there."""

    @property
    def dimension_value(self) -> str:
        """Return the key as one text: `dimension_value` of an SQL row."""
        return f"{self.key}.{self.inner}" if self.inner else self.key


TOTAL: Final = Place("", "total")
"""The place of an aggregate's total, as an SQL row names it."""


class Aggregate(msgspec.Struct):
    """The counters of one key. Merging in any order and grouping gives the same."""

    total: Counter = field(default_factory=Counter)
    counters: dict[Place, Counter] = field(default_factory=dict)
    """Without the total; in no order that means anything."""
    expire_at: Time = ZERO_TIME
    """The latest of its records; the zero time where none is set."""
    last_time: Time = ZERO_TIME
    """Time of its latest record."""
    zone: str = ""
    """On whose clock the bucket begins: a name as `gotime.civil` takes it. Of several
    zones whose hours begin in the same second, the last by name."""

    def all(self) -> Iterator[tuple[Place, Counter]]:
        """Return each counter with its place, the total first."""
        yield TOTAL, self.total
        yield from self.counters.items()

    def merge(self, other: Aggregate) -> None:
        """Count what another aggregate of the same key has counted."""
        self.total.add(other.total)
        for place, counter in other.counters.items():
            known = self.counters.get(place)
            if known is None:
                # A copy: two aggregates share no counter.
                known = self.counters[place] = Counter()
            known.add(counter)
        self.expire_at = max(self.expire_at, other.expire_at)
        self.last_time = max(self.last_time, other.last_time)
        self.zone = max(self.zone, other.zone)
