"""Times -> the buckets that they are counted in.

A bucket begins on the record's own clock: at the full hour, or at the minutes of the
hour that are multiples of the window. Where the window does not divide 60, the last
bucket of each hour is the shorter one (7: minutes 0, 7, ..., 49, 56 to 59). Nothing
depends on what was seen before: the same record goes into the same bucket after a
restart and on every instance.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tyk_pump.record.analytics import BLANK_TIME, Time
from tyk_pump.record.gotime import civil

_KEPT: Final = 8192
_QUARTER: Final = 900


class Bucket(NamedTuple):
    """A run of minutes; with a day where tables are split by day."""

    start: int
    """Unix seconds."""
    day: str
    """`YYYYMMDD` on the clock of the zone, or empty."""


class Buckets:
    """The buckets of one length."""

    def __init__(self, window: int, *, by_day: bool = False) -> None:
        """Take the minutes of a bucket, 1 to 60."""
        if not 1 <= window <= 60:
            raise ValueError(f"a bucket has 1 to 60 minutes, not {window}")
        self._window = window
        self._by_day = by_day
        self.slot: Final = _QUARTER if window == 60 else 60
        """Seconds of a slot: times of one (see `of`) are asked for once a batch."""
        self._known: dict[tuple[str, int], Bucket] = {}

    def of(self, time: Time, zone: str) -> tuple[Bucket, bool]:
        """Return the bucket, and whether it is that of the whole slot.

        Slots are counted from 1970. All of one are in the same bucket if the zone's
        clock does not change within it, and its minutes begin as they do in UTC.
        """
        if time is BLANK_TIME:
            zone = "UTC"
        seconds = time[0]
        at = zone, seconds // self.slot
        known = self._known.get(at)
        if known is not None:
            return known, True
        first, last = at[1] * self.slot, at[1] * self.slot + self.slot - 1
        offset = civil(first, zone).offset
        bucket = self._bucket(seconds, zone)
        if offset % self.slot or offset != civil(last, zone).offset:
            return bucket, False
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[at] = bucket
        return bucket, True

    def _bucket(self, seconds: int, zone: str) -> Bucket:
        shown = civil(seconds, zone)
        minute = shown.minute % self._window
        day = ""
        if self._by_day:
            day = f"{shown.year:04d}{shown.month:02d}{shown.day:02d}"
        return Bucket(seconds - minute * 60 - shown.second, day)
