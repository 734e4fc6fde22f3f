"""Times -> starts of the buckets that they are counted in.

A bucket begins on the record's own clock: at the full hour, or at the minutes of the
hour that are multiples of the window. Where the window does not divide 60, the last
bucket of each hour is the shorter one (7: minutes 0, 7, ..., 49, 56 to 59). Nothing
depends on what was seen before: the same record goes into the same bucket after a
restart and on every instance.
"""

from __future__ import annotations

from tyk_pump.record.gotime import civil


def start_of(seconds: int, zone: str, window: int) -> int:
    """Return the start of the bucket of `window` minutes, 60 for the full hour."""
    local = seconds + civil(seconds, zone).offset
    into = local % 3600
    return seconds - (into if window >= 60 else into % 60 + into // 60 % window * 60)
