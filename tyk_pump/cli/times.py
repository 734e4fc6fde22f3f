"""Moments as a person writes them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

FORMS: Final = (
    "RFC 3339 (2025-03-05T14:07:09Z), a date or a local time (2025-03-05,"
    " '2025-03-05 14:07'), now, today, yesterday, or like '2h ago'"
)

_AGO: Final = re.compile(r"((?:\d+(?:\.\d+)?\s*[a-z]+\s*)+)ago")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86_400.0),
}


def moment(text: str, now: float) -> float:
    """Return seconds since the epoch; ValueError: nobody knows when that is.

    A date is its first moment here, a time without an offset is local.
    """
    words = text.strip().lower()
    if words == "now":
        return now
    if words in ("today", "yesterday"):
        day = datetime.fromtimestamp(now).date() - timedelta(words == "yesterday")
        return datetime(day.year, day.month, day.day).timestamp()
    ago = _AGO.fullmatch(words)
    if ago is not None:
        return now - sum(map(_seconds, _PART.findall(ago[1])))
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no time: write {FORMS}") from None


def _seconds(part: tuple[str, str]) -> float:
    number, unit = part
    if unit not in _UNITS:
        raise ValueError(f"{unit!r} is no unit of time: use s, m, h, d or w")
    return float(number) * _UNITS[unit]
