"""What the reference takes for the same work, to show ours beside it.

Both are taken as multiples of Y, the yardstick of the machine and the moment: ours of
the Y in the same run, the reference's of the middle of the range that Y had while it
was measured (its seconds of processor time are a range as well: its middle counts).
Y moved by half its size within those runs, so a share is no finer than that.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Known(msgspec.Struct, frozen=True):
    """Seconds of processor time of all its threads, for 100,000 records."""

    low: float
    high: float
    asked: float | None = None
    """The share of it that ours may take at most."""
    yardstick: tuple[float, float] = (0.75, 1.4)
    """Seconds of Y for the same records, meanwhile."""

    @property
    def ratio(self) -> float:
        """Return how many times Y it takes."""
        return (self.low + self.high) / sum(self.yardstick)


_BEFORE: Final = (0.75, 1.1)
_DECODING: Final = Known(2.0, 3.0, 0.5, _BEFORE)
"""Of stores only what decoding takes was measured: the reference needs more than that,
so our share of it is less than what is shown."""

REFERENCE: Final[dict[str, Known]] = {
    "dummy": Known(2.0, 3.0, yardstick=_BEFORE),
    "csv": Known(2.3, 3.6, yardstick=_BEFORE),
    "stdout": Known(3.4, 3.7, yardstick=_BEFORE),
    "elasticsearch": Known(3.6, 4.8, 0.5),
    "splunk": Known(3.1, 4.1, 0.5),
    "syslog": Known(3.8, 3.8, 0.5),
    "influx": Known(2.8, 2.8, 0.5),
    "statsd": Known(3.2, 3.2, 1 / 3),
    "dogstatsd": Known(1.8, 2.3, 1 / 3),
    "prometheus": Known(2.9, 2.9, 1 / 3),
    "graylog": Known(50.0, 50.0, 0.1),
    "mongo": _DECODING,
    "mongo-pump-aggregate": _DECODING,
    "sql": _DECODING,
    "sql_aggregate": _DECODING,
}
"""By the type of the pump; the others were not measured."""
