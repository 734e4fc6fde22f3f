"""Times as the reference shows them: Go's text form and RFC 3339, in any zone.

An instant may lie outside the years that `datetime` knows; the calendar repeats every
400 years, so it is moved by such cycles, looked up, and moved back.
"""

from __future__ import annotations

import functools
import os
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from tyk_pump.errors import CodecError
from tyk_pump.record.analytics import BLANK_TIME, Time

_CYCLE_YEARS: Final = 400
_CYCLE: Final = 146_097 * 86_400
_FIRST: Final = -49_453_545_600  # begin of the year 402, behind it all is plain
_LAST: Final = 247_000_000_000  # in the year 9797
_KEPT: Final = 8192
_TWO: Final = tuple(f"{number:02d}" for number in range(60))
_MIDDLE: Final = timedelta(0)
_UTC: Final = UTC


class Civil(NamedTuple):
    """A second on the clock of a zone."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    offset: int
    """Seconds east of UTC."""
    abbreviation: str


def days_in(year: int, month: int) -> int:
    """Return the number of days of a month."""
    if month == 2:
        return 28 + (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
    return 30 if month in {4, 6, 9, 11} else 31


def days_from_civil(year: int, month: int, day: int) -> int:
    """Return the days between 1970-01-01 and a date of any year."""
    cycles, rest = divmod(year - 2000, _CYCLE_YEARS)
    ordinal = datetime(2000 + rest, month, day).toordinal() - 719_163
    return cycles * 146_097 + ordinal


def civil(seconds: int, zone: str = "") -> Civil:
    """Return what the clock of a zone shows; "" is the local zone."""
    cycles = 0
    if not _FIRST <= seconds <= _LAST:
        # To the years 402-801 or 9398-9797: the same zone rules hold there as at
        # the begin and the end of all that zone files describe.
        edge = _FIRST if seconds < _FIRST else _LAST - _CYCLE
        cycles = (seconds - edge) // _CYCLE
        seconds -= cycles * _CYCLE
    shown = datetime.fromtimestamp(seconds, _zone(zone))
    offset = shown.utcoffset() or _MIDDLE
    return Civil(
        shown.year + cycles * _CYCLE_YEARS,
        shown.month,
        shown.day,
        shown.hour,
        shown.minute,
        shown.second,
        offset.days * 86_400 + offset.seconds,
        shown.tzname() or "",
    )


def go_text(time: Time, zone: str = "") -> str:
    """Return a time as Go prints it: `2025-03-05 14:07:09.12 +0000 UTC`."""
    if time is BLANK_TIME:
        zone = "UTC"
    seconds, nanoseconds = time
    known = _TEXTS.get((zone, seconds // 60))
    if known is not None:
        head, tail = known
        if not nanoseconds:
            return head + _TWO[seconds % 60] + tail
        # Half the time of an f-string with the same format.
        fraction = (".%09d" % nanoseconds).rstrip("0")  # noqa: UP031
        return f"{head}{_TWO[seconds % 60]}{fraction}{tail}"
    head, tail = _go_parts(seconds, zone)
    return head + _fraction(nanoseconds) + tail


def rfc3339(time: Time, zone: str = "") -> str:
    """Return a time as JSON shows it; CodecError outside the years 0 to 9999."""
    if time is BLANK_TIME:
        zone = "UTC"
    seconds, nanoseconds = time
    known = _STAMPS.get((zone, seconds // 60))
    if known is not None:
        head, tail = known
        if not nanoseconds:
            return head + _TWO[seconds % 60] + tail
        fraction = (".%09d" % nanoseconds).rstrip("0")  # noqa: UP031
        return f"{head}{_TWO[seconds % 60]}{fraction}{tail}"
    head, tail = _rfc_parts(seconds, zone)
    return head + _fraction(nanoseconds) + tail


def rfc3339_any_year(time: Time, zone: str = "") -> str:
    """Return a time as Go formats it outside of JSON, where each year has a form."""
    try:
        return rfc3339(time, zone)
    except CodecError:
        seconds, nanoseconds = time
        shown = civil(seconds, zone)
        year = f"{shown.year:04d}" if shown.year >= 0 else f"-{-shown.year:04d}"
        date = f"{year}-{_TWO[shown.month]}-{_TWO[shown.day]}"
        return f"{date}T{_clock(shown)}{_fraction(nanoseconds)}{_suffix(shown.offset)}"


def clock_text(seconds: int, zone: str = "") -> str:
    """Return `2025-03-05 14:07:09`, the way that databases write a time."""
    known = _CLOCKS.get((zone, seconds // 60))
    if known is not None:
        return known[0] + _TWO[seconds % 60]
    shown = civil(seconds, zone)
    year = f"{shown.year:04d}" if shown.year >= 0 else f"-{-shown.year:04d}"
    text = f"{year}-{_TWO[shown.month]}-{_TWO[shown.day]} {_clock(shown)}"
    _keep(_CLOCKS, seconds, zone, text, "")
    return text


# Traffic comes in the order of time: nearly every look-up finds its minute here. Only
# minutes that begin at second 0 of the zone's clock and have one offset are kept.
_TEXTS: Final[dict[tuple[str, int], tuple[str, str]]] = {}
_STAMPS: Final[dict[tuple[str, int], tuple[str, str]]] = {}
_CLOCKS: Final[dict[tuple[str, int], tuple[str, str]]] = {}


def _go_parts(seconds: int, zone: str) -> tuple[str, str]:
    shown = civil(seconds, zone)
    year = f"{shown.year:04d}" if shown.year >= 0 else f"-{-shown.year:04d}"
    head = f"{year}-{_TWO[shown.month]}-{_TWO[shown.day]} {_clock(shown)}"
    sign, hours, minutes = _offset(shown.offset)
    numeric = f"{sign}{hours}{minutes}"
    tail = f" {numeric} {shown.abbreviation or numeric}"
    _keep(_TEXTS, seconds, zone, head, tail)
    return head, tail


def _rfc_parts(seconds: int, zone: str) -> tuple[str, str]:
    shown = civil(seconds, zone)
    if not 0 <= shown.year <= 9999:
        raise CodecError(f"the year {shown.year} of a time has no form in JSON")
    date = f"{shown.year:04d}-{_TWO[shown.month]}-{_TWO[shown.day]}"
    head, tail = f"{date}T{_clock(shown)}", _suffix(shown.offset)
    _keep(_STAMPS, seconds, zone, head, tail)
    return head, tail


def _suffix(offset: int) -> str:
    if not offset:
        return "Z"
    sign, hours, minutes = _offset(offset)
    return f"{sign}{hours}:{minutes}"


def _clock(shown: Civil) -> str:
    return f"{_TWO[shown.hour]}:{_TWO[shown.minute]}:{_TWO[shown.second]}"


def _keep(
    kept: dict[tuple[str, int], tuple[str, str]],
    seconds: int,
    zone: str,
    head: str,
    tail: str,
) -> None:
    start = seconds - seconds % 60
    first, last = civil(start, zone), civil(start + 59, zone)
    if first.second or first.offset != last.offset:
        return
    if len(kept) >= _KEPT:
        kept.clear()
    kept[zone, start // 60] = head[:-2], tail


def _offset(offset: int) -> tuple[str, str, str]:
    # Cut towards zero, as Go does: 30 seconds west of UTC is shown as +00:00.
    minutes = abs(offset) // 60
    sign = "-" if offset < 0 and minutes else "+"
    return sign, f"{minutes // 60:02d}", _TWO[minutes % 60]


def _fraction(nanoseconds: int) -> str:
    return (".%09d" % nanoseconds).rstrip("0") if nanoseconds else ""  # noqa: UP031


def known_zone(name: str) -> str:
    """Return the zone for the name that a protobuf record carries.

    "Local" is the pump's own zone; a name that nobody knows is shown in UTC, so that
    the instant is kept.
    """
    if name == "Local":
        return ""
    if name in {"", "UTC"}:
        return "UTC"
    return "UTC" if _named(name) is None else name


def reset() -> None:
    """Look the local zone up again, after TZ has changed."""
    _zone.cache_clear()
    _TEXTS.clear()
    _STAMPS.clear()
    _CLOCKS.clear()


@functools.lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    if name == "":
        return _local()
    return _named(name) or _UTC


@functools.lru_cache(maxsize=1024)
def _named(name: str) -> tzinfo | None:
    if name == "UTC":
        return _UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return None


def _local() -> tzinfo:
    # TZ is the system's word for the whole process, no setting of ours.
    name = os.environ.get("TZ")
    if name is None:
        return _from_file("/etc/localtime") or _UTC
    name = name.removeprefix(":")
    if name.startswith("/"):
        return _from_file(name) or _UTC
    return (name and _named(name)) or _UTC


def _from_file(path: str) -> tzinfo | None:
    try:
        with open(path, "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return None
