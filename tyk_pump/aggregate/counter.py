"""The counter: what is known of all the requests that share a key."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import field

from tyk_pump.record.analytics import MAX_INT, ZERO_TIME, Time

MIN_INT: Final = -MAX_INT - 1


def saturated(number: int) -> int:
    """Return the number, or the 64-bit one nearest to it: stores keep no more."""
    return max(MIN_INT, min(MAX_INT, number))


class Counter(msgspec.Struct, gc=False):
    """Hits of a key and their sums, exact: nothing is rounded or limited in memory.

    Adding counters up in any order and grouping gives the same counter. Where a value
    is written it goes through `saturated`, averages are taken from the exact sums.
    """

    hits: int = 0
    success: int = 0
    """Answers of 2xx; 1xx, 3xx and 0 are neither success nor error."""
    errors: int = 0
    """Answers of 400 and above; `errortotal` in Mongo, `counter_error` in SQL."""
    total_request_time: int = 0
    identifier: str = ""
    human_identifier: str = ""
    """As the latest hit has it."""
    last_time: Time = ZERO_TIME
    """Time of the latest hit; the zero time where there was none."""
    open_connections: int = 0
    closed_connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    max_upstream_latency: int = 0
    """Of all hits, errors too; 0 without hits."""
    min_upstream_latency: int | None = None
    """Of the hits that are no errors; None where there was none (never 0 for that)."""
    total_upstream_latency: int = 0
    max_latency: int = 0
    min_latency: int | None = None
    """None exactly where `min_upstream_latency` is."""
    total_latency: int = 0
    error_map: dict[str, int] = field(default_factory=dict)
    """Decimal response code -> hits; 400 and above, in the uptime family 2xx too."""

    @property
    def request_time(self) -> float:
        """Return the average request time, 0 without hits."""
        return self.total_request_time / self.hits if self.hits else 0.0

    @property
    def upstream_latency(self) -> float:
        """Return the average upstream latency, 0 without hits."""
        return self.total_upstream_latency / self.hits if self.hits else 0.0

    @property
    def latency(self) -> float:
        """Return the average latency, 0 without hits."""
        return self.total_latency / self.hits if self.hits else 0.0

    @property
    def error_list(self) -> list[tuple[str, int]]:
        """Return the codes of the error map with their hits, sorted as texts."""
        return sorted(self.error_map.items())

    def add(self, other: Counter) -> None:
        """Count what another counter of the same key has counted."""
        if other.hits:
            first = not self.hits  # a maximum of 0 is none, it may be negative yet
            for name in ("max_latency", "max_upstream_latency"):
                most = getattr(other, name)
                setattr(self, name, most if first else max(getattr(self, name), most))
        self.hits += other.hits
        self.success += other.success
        self.errors += other.errors
        self.total_request_time += other.total_request_time
        self.open_connections += other.open_connections
        self.closed_connections += other.closed_connections
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.total_upstream_latency += other.total_upstream_latency
        self.total_latency += other.total_latency
        self.min_upstream_latency = _least(
            self.min_upstream_latency, other.min_upstream_latency
        )
        self.min_latency = _least(self.min_latency, other.min_latency)
        # Of hits in the same nanosecond the greater name wins, whatever their order.
        self.last_time, self.human_identifier = max(
            (self.last_time, self.human_identifier),
            (other.last_time, other.human_identifier),
        )
        self.identifier = self.identifier or other.identifier
        for code, hits in other.error_map.items():
            self.error_map[code] = self.error_map.get(code, 0) + hits


def _least(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
