"""Times in zones, as Go shows them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tyk_pump.errors import CodecError
from tyk_pump.record import gotime
from tyk_pump.record.analytics import BLANK_TIME, ZERO_TIME


@pytest.mark.parametrize(
    ("time", "zone", "shown"),
    [
        ((1741183629, 123456789), "", "2025-03-05 14:07:09.123456789 +0000 UTC"),
        ((1741183629, 120000000), "", "2025-03-05 14:07:09.12 +0000 UTC"),
        ((1741183629, 0), "Asia/Kathmandu", "2025-03-05 19:52:09 +0545 +0545"),
        ((1741183629, 0), "America/New_York", "2025-03-05 09:07:09 -0500 EST"),
        (ZERO_TIME, "Europe/Berlin", "0001-01-01 00:53:28 +0053 LMT"),
        (ZERO_TIME, "America/New_York", "0000-12-31 19:03:58 -0456 LMT"),
        ((253402300800, 0), "", "10000-01-01 00:00:00 +0000 UTC"),
        ((253402300800, 0), "Europe/Berlin", "10000-01-01 01:00:00 +0100 CET"),
        ((-62198755200, 0), "", "-0001-01-01 00:00:00 +0000 UTC"),
        ((10**12, 0), "", "33658-09-27 01:46:40 +0000 UTC"),
    ],
)
def test_text_is_gos(time: tuple[int, int], zone: str, shown: str) -> None:
    """Any instant in any zone prints as Go prints it, also from the cache."""
    assert gotime.go_text(time, zone) == shown
    assert gotime.go_text(time, zone) == shown


@pytest.mark.parametrize(
    ("time", "zone", "shown"),
    [
        ((1741183629, 123000000), "", "2025-03-05T14:07:09.123Z"),
        ((1741183629, 1), "Asia/Kathmandu", "2025-03-05T19:52:09.000000001+05:45"),
        ((1741183629, 0), "America/St_Johns", "2025-03-05T10:37:09-03:30"),
        ((0, 0), "Europe/London", "1970-01-01T01:00:00+01:00"),
        ((0, 0), "Africa/Monrovia", "1969-12-31T23:15:30-00:44"),
    ],
)
def test_rfc3339(time: tuple[int, int], zone: str, shown: str) -> None:
    """The offset is cut to minutes; UTC is Z."""
    assert gotime.rfc3339(time, zone) == shown
    assert gotime.rfc3339(time, zone) == shown


@pytest.mark.parametrize(
    ("seconds", "zone"),
    [
        (253402300800, ""),
        (253402300799, "Asia/Kathmandu"),
        (-62167219201, ""),
        (2**62, ""),
        (-(2**62), "Europe/Berlin"),
    ],
)
def test_years_outside_json_are_refused(seconds: int, zone: str) -> None:
    """A year outside 0 to 9999 in the zone shown is a CodecError."""
    with pytest.raises(CodecError, match="year"):
        gotime.rfc3339((seconds, 0), zone)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (253_402_300_800, "10000-01-01T00:00:00.5Z"),
        (-62_198_755_200, "-0001-01-01T00:00:00.5Z"),
        (0, "1970-01-01T00:00:00.5Z"),
    ],
)
def test_rfc3339_of_any_year(seconds: int, shown: str) -> None:
    """Outside JSON a year may have five digits, or a sign."""
    assert gotime.rfc3339_any_year((seconds, 500_000_000), "UTC") == shown


def test_every_second_around_a_change_of_clocks() -> None:
    """The kept minutes never show the offset of the other side."""
    change = 1743296400  # 2025-03-30 01:00 UTC, Berlin goes to summer time.
    for seconds in (change + 1, change - 1, change, change - 60, change + 59):
        shown = gotime.rfc3339((seconds, 0), "Europe/Berlin")
        assert shown.endswith("+02:00" if seconds >= change else "+01:00")


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("", "UTC"),
        ("UTC", "UTC"),
        ("Local", ""),
        ("Europe/Paris", "Europe/Paris"),
        ("Nowhere/Here", "UTC"),
        ("../../etc/passwd", "UTC"),
        ("/etc/localtime", "UTC"),
        ("a\0b", "UTC"),
        ("Europe", "UTC"),
    ],
)
def test_names_on_the_wire(name: str, zone: str) -> None:
    """Only names of the zone database are looked up; others are shown in UTC."""
    assert gotime.known_zone(name) == zone


@pytest.mark.parametrize(
    ("variable", "shown"),
    [
        ("Europe/Berlin", "+0100 CET"),
        (":Europe/Berlin", "+0100 CET"),
        ("", "+0000 UTC"),
        ("Nowhere/Here", "+0000 UTC"),
    ],
)
def test_the_local_zone_is_tz(
    variable: str, shown: str, set_zone: Callable[[str], None]
) -> None:
    """TZ names the local zone; what nobody knows is UTC."""
    set_zone(variable)
    assert gotime.go_text((0, 0)).endswith(shown)


def test_the_blank_time_is_in_utc() -> None:
    """An ignored time is no instant of the zone."""
    assert (
        gotime.go_text(BLANK_TIME, "Europe/Berlin") == "0001-01-01 00:00:00 +0000 UTC"
    )
    assert gotime.rfc3339(BLANK_TIME, "Europe/Berlin") == "0001-01-01T00:00:00Z"


def test_the_cache_does_not_grow_for_ever() -> None:
    """As many minutes as one likes fit in bounded memory."""
    for minute in range(10_000):
        gotime.rfc3339((minute * 60, 0))
    assert len(gotime._STAMPS) <= 8192
